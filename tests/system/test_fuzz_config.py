"""Configurations drawn from the schema: refused in one line before any job, or planned."""

import contextlib
import copy
import datetime
import os
import time
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import (
    HealthCheck,
    assume,
    currently_in_test_context,
    event,
    example,
    given,
    settings,
)
from hypothesis import strategies as st
from planner import Planner

from lantk.errors import LantkError
from lantk.experiment.config import ConfigError, resolve_experiment
from lantk.experiment.schema import check_schema

pytestmark = pytest.mark.rest
ROOT = Path(__file__).parents[2]
SCHEMA = yaml.safe_load((ROOT / "rules" / "config.schema.yaml").read_text())
CONFIG = yaml.safe_load((ROOT / "config.yaml").read_text())
# More of them, at random: LANTK_FUZZ_EXAMPLES=500 LANTK_FUZZ_PLANS=100 pytest ...
EXAMPLES = int(os.environ.get("LANTK_FUZZ_EXAMPLES", "0"))
PLANS = int(os.environ.get("LANTK_FUZZ_PLANS", "0"))
# A refusal that takes longer has tried to do what it should refuse.
PATIENCE_SECONDS = 20
LONGEST_MESSAGE = 2000


def fuzz(default, more):
    """Return settings for so many examples, always the same ones unless more are asked for."""
    return settings(
        max_examples=more or default,
        derandomize=not more,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


# What a schema may say, beside what the strategies below read; any other word fails the tests.
_SILENT = {"description", "default", "examples", "title", "$schema", "$defs", "uniqueItems"}


def generate(schema):
    """Return a strategy for the values that a schema accepts, its examples among them."""
    rest = dict(schema)
    known = [copy.deepcopy(value) for value in rest.get("examples", [])]
    known += [rest["default"]] if rest.get("default") not in (None, {}) else []
    for word in _SILENT:
        rest.pop(word, None)
    drawn = _generate(rest)
    assert not rest, f"the schema has words that no strategy reads: {rest}"
    return st.sampled_from(known).map(copy.deepcopy) | drawn if known else drawn


def _generate(rest):
    """Return a strategy for what is left of a schema, and take out the words it reads."""
    if "$ref" in rest:
        return generate(SCHEMA["$defs"][rest.pop("$ref").removeprefix("#/$defs/")])
    if "const" in rest:
        return st.just(rest.pop("const"))
    if "enum" in rest:
        return st.sampled_from(rest.pop("enum"))
    if "oneOf" in rest:
        return st.one_of([generate(option) for option in rest.pop("oneOf")])
    kinds = rest.pop("type")
    return st.one_of(
        [_of_type(kind, rest) for kind in ([kinds] if isinstance(kinds, str) else kinds)]
    )


def _of_type(kind, rest):
    low, high = rest.pop("minimum", None), rest.pop("maximum", None)
    above = rest.pop("exclusiveMinimum", None)
    n_low, n_high = rest.pop("minItems", 0), rest.pop("maxItems", None)
    t_low, t_high = rest.pop("minLength", 0), rest.pop("maxLength", None)
    if kind == "null":
        rest.update(
            {} if low is None else {"minimum": low}, **({} if high is None else {"maximum": high})
        )
        rest.update({"minLength": t_low} if t_low else {})
        return st.none()
    if kind == "integer":
        # Near its bounds, where planning is quick, and at both ends.
        near = st.integers(
            low if low is not None else -3, (low or 0) + 60 if high is None else high
        )
        return near | st.integers(low or 0, min((low or 0) + 60, high or 10**9))
    if kind == "number":
        low = low if above is None else above
        return st.floats(low, high, exclude_min=above is not None) | st.sampled_from([0.1, 1])
    if kind == "string":
        pattern = rest.pop("pattern", None)
        if pattern:
            return st.from_regex(pattern)
        return st.text(min_size=t_low, max_size=t_high or 30)
    if kind == "array":
        return st.lists(generate(rest.pop("items")), min_size=n_low, max_size=min(n_high or 4, 4))
    rest.pop("additionalProperties", None)
    properties = rest.pop("properties", {})
    return st.fixed_dictionaries({}, optional={k: generate(v) for k, v in properties.items()})


def leaves(schema, path=()):
    """Return path -> schema of every key that holds a value."""
    if "properties" not in schema:
        return {path: schema}
    found = {}
    for key, inner in schema["properties"].items():
        found |= leaves(inner, (*path, key))
    return found


LEAVES = leaves(SCHEMA)
DRAWN = {path: generate(schema) for path, schema in LEAVES.items()}
NESTED = [None, True, -1, 0, 10**30, 10**400, 10**5000, 1.5, float("nan"), float("inf"), 5e-324]
NESTED += ["", " ", "1e-4", "0o17", "null", "\ud800", "\0", "x" * 10**5, "é", "{x}", "%s", "-x"]
NESTED += [datetime.date(2024, 1, 1), b"bytes", {1: 2}, {None: None}, {"a": {"b": 3}}, (), [[]]]
NESTED += [[1, 1], [1, "1", None], ["x"] * 5000, list(range(3000)), float("-inf"), -(10**12)]
NESTED += ["chen2020", "all", 10**9, "CON", "~", "/", "..", "sqlite://", "http://a b:c", "ftp://x"]
LAYERS = [["flatten", "dense"], [{"conv": {"size": 10**30 + 1}}, "flatten", "dense"]]
LAYERS += [[{"conv": {"size": 3, "stride": 10**30}}, "relu", "flatten", "dense"], [{"conv": None}]]
LAYERS += [[{"conv": {"size": 99}}, "flatten", "dense"], [{"conv": {"size": float("nan")}}]]
LAYERS += ["arora2019-gap-0", "arora2019-vanilla-99999", [{1: 2}], [{}], [{"conv": {1: 2}}]]


def itself():
    """Return a list that holds itself, as a reference in YAML can make one."""
    value = []
    value.append(value)
    return value


def deep():
    """Return a list in a list, and so on, beyond what recursion reaches."""
    value = []
    for _ in range(5000):
        value = [value]
    return value


def laughs():
    """Return a few references to references, which are a billion values."""
    value = ["ha"]
    for _ in range(15):
        value = [value] * 10
    return value


def wide():
    """Return references to long lists, of which the first two levels are four million values."""
    value = [1]
    for _ in range(3):
        value = value * 2000 if value == [1] else [value] * 2000
    return value


# By number: Hypothesis writes its strategies down, and not all of these can be written.
odd = st.integers(0, len(NESTED + LAYERS) - 1).map(lambda i: (NESTED + LAYERS)[i])
simple = odd | st.integers() | st.floats() | st.text(max_size=20)


def hashable(value):
    """Return whether a value can be a key."""
    try:
        hash(value)
    except TypeError:
        return False
    return True


anything = st.one_of(
    simple,
    st.builds(itself),
    st.builds(deep),
    st.builds(laughs),
    st.recursive(
        simple,
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(simple.filter(hashable), inner, max_size=3)
            | st.dictionaries(st.sampled_from(["conv", "size", "stride", "bands"]), inner)
        ),
        max_leaves=6,
    ),
)


def changed(values, base=CONFIG):
    """Return a copy of a configuration with the values at some paths replaced."""
    config = copy.deepcopy(base)
    for path, value in values.items():
        inner = config
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value
    return config


def outcome(config):
    """Return the experiment, or the message it is refused with: quickly, and in one short line."""
    start = time.process_time()
    try:
        check_schema(config, SCHEMA)
        found = resolve_experiment(config)
    except LantkError as error:
        found = str(error)
        assert found.isprintable(), found
        assert len(found) < LONGEST_MESSAGE
        found.encode()
    assert time.process_time() - start < PATIENCE_SECONDS
    if currently_in_test_context():
        event("refused" if isinstance(found, str) else "accepted")
    return found


@pytest.mark.parametrize("path", LEAVES, ids=".".join)
def test_every_key_takes_its_default_and_examples(path):
    """The values that the schema shows for a key are values that the schema accepts."""
    schema = LEAVES[path]
    assert schema["examples"], "an example shows how a key is written"
    for value in [schema["default"], *schema["examples"]]:
        check_schema(changed({path: value}), SCHEMA)


@pytest.mark.parametrize("path", LEAVES, ids=".".join)
@fuzz(5, EXAMPLES)
@given(st.data())
def test_a_value_that_the_schema_accepts_is_planned_or_refused(path, data):
    """A value drawn from the schema of a key is accepted, or refused for what it means."""
    value = data.draw(DRAWN[path])
    if isinstance(value, list):
        try:
            assume(len({str(member) for member in value}) == len(value))
        except ValueError:
            assume(False)
    outcome(changed({path: value}))


@pytest.mark.parametrize("path", LEAVES, ids=".".join)
@fuzz(5, EXAMPLES)
@given(data=st.data())
def test_any_value_is_refused_by_its_key_or_is_valid(path, data):
    """Of whatever kind the value of a key is, the message names the key; no other error comes."""
    value = data.draw(anything)
    config = changed({path: value})
    found = outcome(config)
    stock = jsonschema.Draft202012Validator(SCHEMA)
    if not isinstance(found, str):
        assert stock.is_valid(config)
        return
    with contextlib.suppress(ConfigError):
        # Where it is not the schema that refuses, keys that depend on this one may be named.
        check_schema(config, SCHEMA)
        return
    assert path[0] in found


@pytest.mark.parametrize("path", LEAVES, ids=".".join)
def test_each_hostile_value_is_refused_or_valid(path):
    """Every value of a long list of oddities, at every key, is refused in one line or is valid."""
    for value in [*NESTED, *LAYERS, itself(), deep(), laughs(), wide()]:
        outcome(changed({path: value}))


@pytest.mark.parametrize(
    "path", sorted({p[:-1] for p in LEAVES}), ids=lambda p: ".".join(p) or "top"
)
@fuzz(10, EXAMPLES)
@given(key=simple.filter(hashable), value=simple)
@example(key="Folds", value=5)
@example(key=1, value=5)
def test_an_unknown_key_is_refused(path, key, value):
    """A key that the schema does not have is refused at every level, whatever it is."""
    level = SCHEMA
    for name in path:
        level = level["properties"][name]
    assume(key not in level["properties"])
    found = outcome(changed({(*path, key): value}))
    assert isinstance(found, str)
    assert not path or path[0] in found


@fuzz(10, EXAMPLES)
@given(anything)
@example([])
@example("text")
@example(None)
def test_what_is_no_mapping_is_refused(value):
    """A configuration that is no mapping of keys is refused."""
    assume(not isinstance(value, dict))
    with pytest.raises(ConfigError):
        check_schema(value, SCHEMA)


TOO_MUCH = {
    "more bands than a command names": (
        {("kernel", "bands"): 5001, ("data", "source"): "cifar10", ("task", "pairs"): [[3, 8]]}
        | {("task", "n_train"): 10000, ("results",): "results/" + "x" * 100},
        "kernel.bands is 5001, and a command names all of them",
    ),
    "names of more cases than a command takes": (
        {("architecture",): [f"arora2019-vanilla-{d}" for d in range(3, 43)]}
        | {("task", "n_train"): list(range(20, 320, 2)), ("folds",): 2},
        "make a command of",
    ),
    "text beyond a command": ({("task", "pairs"): [["x" * 3990, 8]] * 40}, "unknown class"),
    "a label term with an endless name": ({("variants",): ["m:" + "C" * 300]}, "120 characters"),
    "a filter wider than the image": (
        {("architecture",): [{"conv": {"size": 17}}, "flatten", "dense"]},
        "a convolution of size 17, and images are 8 x 8: wanted at most 15",
    ),
    "a folder like an option": ({("results",): "-rf"}, "Write './-rf'"),
    "a folder of two lines": ({("results",): "a\nb"}, "without line breaks"),
    "all of the disk": ({("results",): "//"}, "wanted a folder of its own"),
    "a store in a folder": ({("tracking", "uri"): "./mlruns"}, "no address of a store"),
    "a port that is none": ({("tracking", "uri"): "http://host:x"}, "no address of a store"),
    "a store in memory": ({("tracking", "uri"): "sqlite:///:memory:"}, "no address of a store"),
}


@pytest.mark.parametrize("case", TOO_MUCH)
def test_what_would_fail_in_a_late_job_is_refused_at_once(case):
    """What only a command, a file system or MLflow would refuse is refused before any job."""
    values, words = TOO_MUCH[case]
    found = outcome(changed({("data", "path"): "no such folder"} | values))
    assert isinstance(found, str)
    assert words in found


# Plans


@pytest.fixture(scope="module")
def planner(tmp_path_factory):
    """Return a planner; most experiments here are small, for plans of few jobs."""
    running = Planner(tmp_path_factory.mktemp("plans") / "tree")
    yield running
    running.close()


SMALL = {("task", "pairs"): [[3, 8]], ("variants",): ["cntk", "lantk-kr-v1", "cnn"]}


@st.composite
def experiments(draw):
    """Return a small configuration of which up to four keys were drawn from the schema."""
    paths = draw(st.lists(st.sampled_from(sorted(LEAVES)), unique=True, max_size=4))
    values = SMALL | {path: draw(DRAWN[path]) for path in paths}
    if ("task", "classes") in paths:
        values[("task", "pairs")] = None
    return changed(values)


@fuzz(15, PLANS)
@given(experiments())
def test_what_is_accepted_is_planned(planner, config):
    """Of what the check accepts the workflow makes a plan; what it refuses is no traceback."""
    found = outcome(config)
    answer = planner.plan(config)
    if isinstance(found, str):
        assert answer.get("kind") == "WorkflowError", answer
        # Snakemake's own mappings are shown in another way.
        assert found.partition(" is ")[0] in answer["error"]
        event("plan: refused")
    elif any(":" in variant for variant in config["variants"]):
        # A module of a drawn name is not there.
        assert answer.get("kind") == "WorkflowError", answer
    else:
        assert "jobs" in answer, answer
        rules = {job["rule"] for job in answer["jobs"]}
        assert {"fetch", "split", "gram", "table", "track", "html_report"} <= rules
        n_grams = sum(job["rule"] == "gram" for job in answer["jobs"])
        assert n_grams == sum(map(len, found.bands.values()))
        event("plan: built")
