"""One results folder as one HTML file that asks for nothing from outside."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from lantk.experiment.overviews import CASE_FIGURES, OVERVIEWS
from lantk.experiment.variants import case_key
from lantk.regression.statistics import PROTOCOLS
from lantk.report.blocks import (
    Block,
    below_honest_text,
    blocks,
    images_text,
    imbalance_text,
    order_variants,
    row_name,
    sizes_text,
)
from lantk.report.claims import NOTHING, judge, legend, main_claims, network_claims
from lantk.report.comparisons import TITLES, choices_text, exponent_tables, exponent_text
from lantk.report.html_tables import (
    accuracy_tables,
    choice_table,
    claims_part,
    confusion_tables,
    drawn_label_table,
    timing_tables,
)
from lantk.report.leaderboard import error_exponents
from lantk.report.tables import ELASTICITY, Table, elasticity_table
from lantk.report.term_tables import TERMS, WEIGHTS, terms_table, weights_table
from lantk.workflow.failures import FailedJob

_TEMPLATES = Path(__file__).parent / "templates"
_NEGATIVE = re.compile(r"(?<![\w.])-(?=\d)")


@dataclass(frozen=True)
class Results:
    """What a results folder holds, finished or not."""

    folder: Path
    table: pd.DataFrame
    """The leaderboard of the records that are there."""
    records: Sequence[Mapping[str, Any]]
    timings: pd.DataFrame
    figures: Mapping[str, bytes] = field(default_factory=dict)
    """PNG files by name: ``gap``, ``CASE``, ``CASE/TERM``."""
    tracking: Mapping[str, Any] = field(default_factory=dict)
    """What tracking.json holds; empty without it."""
    missing: Sequence[tuple[str, str]] = ()
    """(case, stem) of the results that are not there."""
    failed: Sequence[FailedJob] = ()

    @property
    def name(self) -> str:
        """Name of the folder, which is the experiment's."""
        return self.folder.resolve().name


@dataclass(frozen=True)
class Picture:
    """A figure with what is said of it."""

    title: str
    text: str
    alternative: str
    source: str
    width: int
    height: int


def html_report(results: Results) -> str:
    """Return the report of a results folder as an HTML document.

    Equal results give equal text. Scripts, styles and images are inside, and a policy in the head
    lets a browser load nothing else. Of several n and architectures the claims are of the largest n
    that all tasks have and of the first architecture; the tables hold all.
    """
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["minus"] = _with_minus_signs
    style, script = ((_TEMPLATES / f"report.{ending}").read_text() for ending in ("css", "js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    table, records, missing = results.table, results.records, results.missing
    config = results.tracking.get("config")
    exponents, protocols = error_exponents(table), set(table["protocol"])
    command = f"python -m lantk table --results {results.folder}"
    claims, network = judge(main_claims(table, command), network_claims(table, command))
    return environment.get_template("report.html.j2").render(
        results=results,
        style=style,
        script=script,
        script_digest=f"sha256-{digest}",
        facts=_facts(results),
        claims=claims_part(claims, "Claims"),
        network=claims_part(network, "Claims on the network's kernels"),
        legends=legend([*claims, *network]) if claims else [NOTHING],
        sections=[_protocol_section(table, name) for name in PROTOCOLS if name in protocols],
        exponents=[*exponent_tables(exponents)],
        exponent_text=exponent_text(exponents) if not exponents.empty else "",
        elasticity=ELASTICITY,
        overviews=[
            _picture(results.figures[name], overview.title, overview.text)
            for name, overview in OVERVIEWS.items()
            if name in results.figures
        ],
        cases=_case_pictures(results),
        choices=choice_table(records),
        classes=confusion_tables(records),
        imbalance=imbalance_text(table),
        provenance=_provenance(records),
        config=json.dumps(config, indent=2, ensure_ascii=False) if config else "",
        timings=timing_tables(results.timings),
        total_hours=_duration(float(results.timings["seconds"].sum())),
        links=_links(results.tracking),
        missing={case: [stem for c, stem in missing if c == case] for case, _ in missing},
    )


def _with_minus_signs(text: str) -> str:
    """Return a text in which the sign of a negative number is a minus and no hyphen."""
    return _NEGATIVE.sub("\N{MINUS SIGN}", str(text))


def _facts(results: Results) -> list[tuple[str, str]]:
    """Return what was run, as names and values."""
    table, records = results.table, results.records
    tasks = {r["task"]: " / ".join(map(str, r["classes"])) for r in records}
    told = [t if t == names.replace(" / ", "-") else f"{t} ({names})" for t, names in tasks.items()]
    variants = [row_name(v) for v in order_variants(r["variant"] for r in records)]
    facts = [
        ("Images", ", ".join(dict.fromkeys(str(r["data"]["source"]) for r in records))),
        ("Tasks" if len(tasks) > 1 else "Task", ", ".join(told)),
        ("Sizes", sizes_text(table).rstrip(".")),
        ("Architecture", ", ".join(dict.fromkeys(table["architecture"]))),
        ("Variants", ", ".join(variants)),
    ]
    return [(name, value) for name, value in facts if value]


def _protocol_section(table: pd.DataFrame, protocol: str) -> dict[str, Any]:
    """Return the tables of one protocol."""
    chosen = table[table["protocol"] == protocol]
    found = []
    for title, block in blocks(chosen):
        end = f", {protocol}" + (f", {title}" if title else "")
        main, controls = accuracy_tables(block, f"Test accuracy in percent{end}")
        elasticity = elasticity_table(block)
        found.append(
            {
                "title": title,
                "of": block,
                "sizes": sizes_text(block.frame),
                "main": main,
                "controls": controls,
                "worth": drawn_label_table(block, f"Worth of labels{end}"),
                "terms": _term_tables(block, end, protocol == table["protocol"].iloc[0]),
                "elasticity": elasticity
                and replace(elasticity, name=f"Elasticity in percent{end}"),
            }
        )
    choices = choices_text(protocol, set(table["variant"]), below_honest_text(table))
    return {"protocol": protocol, "title": TITLES[protocol], "choices": choices, "blocks": found}


def _term_tables(block: Block, end: str, has_weights: bool) -> list[tuple[str, Table]]:
    """Return the tables of label terms alone, each with what is said of it."""
    found = [("Label terms", TERMS, terms_table(block))]
    found += [("Label gain by label weight", WEIGHTS, weights_table(block))] * has_weights
    return [(text, replace(table, name=f"{name}{end}")) for name, text, table in found if table]


def _case_pictures(results: Results) -> list[tuple[str, list[Picture]]]:
    """Return the figures of each case that has any."""
    found: dict[str, list[Picture]] = {}
    for case in dict.fromkeys(str(r["case"]) for r in results.records):
        title, text = CASE_FIGURES["weight"]
        if case in results.figures:
            found[case] = [_picture(results.figures[case], f"{title}: {case}", text)]
        title, text = CASE_FIGURES["heat_map"]
        for name, png in results.figures.items():
            if name.startswith(f"{case}/"):
                term = row_name(name.removeprefix(f"{case}/"))
                found.setdefault(case, []).append(_picture(png, f"{title}: {case}, {term}", text))
    return list(found.items())


def _picture(png: bytes, title: str, text: str) -> Picture:
    # The size, so that the page does not jump while it loads; what is told was drawn.
    with Image.open(BytesIO(png)) as image:
        told, (width, height) = image.info.get("Description"), image.size
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return Picture(title, text, f"{title}. {told}." if told else f"{title}.", source, width, height)


def _provenance(records: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """Return where the results come from: each value once, in the order in which it occurs."""
    origins = [record["provenance"] for record in records]
    hardware = [origin["hardware"] for origin in origins]
    rows = {
        "Images": (images_text(r["data"]) for r in records),
        "Digest of the images": (f"{r['task']}: {r['data']['digest']}" for r in records),
        "Architecture": (f"{case_key(r)[1]}: {r['architecture']['digest']}" for r in records),
        "Commit": (str(o.get("commit") or "unknown") for o in origins),
        "Digest of the code": (str(o.get("code")) for o in origins),
        "Digest of the lock": (str(o["lock"]) for o in origins if o.get("lock")),
        "Versions": (", ".join(f"{k} {v}" for k, v in o["versions"].items()) for o in origins),
        "Hardware": (
            f"{h['processor']}, {h['cores']} cores, {h['memory_gib']} GiB" for h in hardware
        ),
        "GPU": (str(h["gpu"]["name"]) for h in hardware if h.get("gpu")),
        "Linear algebra": (text for o in origins for text in o.get("linear_algebra") or []),
    }
    found = {name: list(dict.fromkeys(values)) for name, values in rows.items()}
    return [(name, values) for name, values in found.items() if values]


def _links(tracking: Mapping[str, Any]) -> dict[str, str]:
    """Return label -> address of the dashboard's pages; nothing that is not one."""
    links = tracking.get("links") or {}
    return {name: url for name, url in links.items() if url.startswith(("http://", "https://"))}


def _duration(seconds: float) -> str:
    """Return a time in the unit in which it is a handy number."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
