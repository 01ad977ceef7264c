"""Pages and figures of the checks beside the presets, of made-up rows."""

import numpy as np
import pandas as pd
import pytest
from side_pages import (
    derivation_figure,
    derivation_lines,
    derivation_rows,
    exponent_column,
    exponent_page,
    limits_figure,
    limits_lines,
)

SLOPES = {"moving": (0.5, 1.5), "frozen": (0.98, 1.02)}
NETWORKS = [
    {"n": 200, "width": width, "gates": gates, "seed": seed, "slope": slope, "even": 3.0}
    | {"flipped": 0.001, "cosine": 0.5, "predicted": 1.5}
    for width in (512, 1024)
    for gates, slopes in SLOPES.items()
    for seed, slope in enumerate((*slopes, np.mean(slopes)))
]
DERIVATION = pd.DataFrame(NETWORKS)
DERIVATION.loc[DERIVATION["seed"] == 2, ["seed", "flipped"]] = np.nan
HEAD = {"task": "deer-dog", "n_train": 2000, "n_test": 2000}
LIMITS = pd.DataFrame(
    HEAD | {"method": method, "accuracy": accuracy, "out_of_fold": 0.8, "rate": rate}
    for method, accuracy, rate in [
        ("cntk", 0.8, None),
        ("features", 0.81, None),
        ("plug-in-flipped", 1.0, 0.0),
        ("plug-in-flipped", 0.9, 0.1),
        ("plug-in-flipped", 0.92, 0.1),
    ]
).assign(squared_alignment=0.01, won=100, lost=60)
EXPONENTS = pd.DataFrame(
    {"task": task, "n_train": n, "draw": draw, "variant": variant, "label_weight": weight}
    | {"n_test": 400, "accuracy": 1 - 10 * wrong / 400, "wrong": " ".join([str(wrong)] * 10)}
    for task in ("deer-dog", "cat-deer")
    for n, wrong, draws in ((500, 16, 4), (1000, 8, 2), (2000, 4, 1))
    for draw in range(draws)
    for variant, weight in (("cntk", None), ("lantk-kr-v1", 0.1))
)


def test_slopes_are_means_over_networks_with_students_interval():
    """The row of the mean over networks is none of them."""
    found = {(row["width"], row["gates"]): row for row in derivation_rows(DERIVATION)}
    assert len(found) == 4
    row = found[512, "moving"]
    assert row["slope"].mean == 1
    # Two networks: 12.706 standard errors of 0.5.
    assert row["slope"].half == pytest.approx(12.706 * 0.5, rel=1e-4)
    assert (row["size"], row["n_networks"], row["flipped"]) == (2, 2, pytest.approx(0.1))


def test_pages_hold_the_rows():
    """Every width and every method has its row, flipped labels one a rate."""
    text = "\n".join(derivation_lines(DERIVATION))
    assert "| 1,024 | a ReLU network            | +1.00 ± 6.35 |" in text
    text = "\n".join(limits_lines(LIMITS))
    assert "| 91.00 (+2.00) " in text
    assert text.count("at a rate") == 4
    # 40 more of 2,000 right, 160 of them differ.
    assert "| 81.00 (+2.00 ± 1.24) " in text
    text = "\n".join(exponent_page(EXPONENTS))
    assert text.count("| -1.000 ± 0.000 | -1.000 ± 0.000 | -1.000 ± 0.000 ") == 2
    assert "| lantk-kr-v1 minus cntk" in text
    assert "| 500   | 4     | 60.00 ± 0.00 |" in text
    ((title, cells),) = exponent_column(EXPONENTS).items()
    assert title.endswith("n = 500 to 2,000, 2 pairs")
    assert cells == {"cntk": "-1.000 ± 0.000", "lantk-kr-v1": "-1.000 ± 0.000"}


@pytest.mark.parametrize("lines", [derivation_lines, limits_lines, exponent_page])
def test_what_was_not_run_is_said(lines):
    """Without rows a page says so."""
    assert "Not run." in "\n".join(lines(None))


@pytest.mark.parametrize(
    ("draw", "table"), [(derivation_figure, DERIVATION), (limits_figure, LIMITS)]
)
def test_figures_are_the_same_bytes_every_time(draw, table, tmp_path):
    """Equal rows make equal files."""
    one, two = tmp_path / "1.png", tmp_path / "2.png"
    for path in (one, two):
        draw(table, path)
    assert one.read_bytes() == two.read_bytes()
