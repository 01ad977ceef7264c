"""Configurations drawn from the settings: refused in one line before any job, or planned."""

import contextlib
import copy
import datetime
import os
import time
from pathlib import Path

import pydantic
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
from lantk.experiment.checks import ConfigError, check_settings
from lantk.experiment.config import resolve_experiment
from lantk.experiment.settings import Settings, expand_paths

pytestmark = pytest.mark.rest
ROOT = Path(__file__).parents[2]
SCHEMA = pydantic.TypeAdapter(Settings).json_schema()
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
_SILENT = {"description", "examples", "title"}


def generate(schema):
    """Return a strategy for the values that a schema accepts, its examples among them."""
    rest = dict(schema)
    known = [copy.deepcopy(value) for value in rest.get("examples", [])]
    for word in _SILENT:
        rest.pop(word, None)
    drawn = _generate(rest)
    assert not rest, f"the schema has words that no strategy reads: {rest}"
    return st.sampled_from(known).map(copy.deepcopy) | drawn if known else drawn


def _generate(rest):
    """Return a strategy for what is left of a schema, and take out the words it reads."""
    if {"const", "enum"} & set(rest):
        del rest["type"]
    if "const" in rest:
        return st.just(rest.pop("const"))
    if "enum" in rest:
        return st.sampled_from(rest.pop("enum"))
    if "anyOf" in rest:
        return st.one_of([generate(option) for option in rest.pop("anyOf")])
    return _of_type(rest.pop("type"), rest)


def _of_type(kind, rest):
    low, high = rest.pop("minimum", None), rest.pop("maximum", None)
    above = rest.pop("exclusiveMinimum", None)
    n_low, n_high = rest.pop("minItems", 0), rest.pop("maxItems", None)
    t_low, t_high = rest.pop("minLength", 0), rest.pop("maxLength", None)
    if kind == "null":
        return st.none()
    if kind == "boolean":
        return st.booleans()
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
        return st.text(min_size=t_low, max_size=t_high or 30)
    if kind == "array":
        return st.lists(generate(rest.pop("items")), min_size=n_low, max_size=min(n_high or 4, 4))
    rest.pop("additionalProperties")
    return st.just({})


def leaves(schema, path=()):
    """Return path -> schema of every key that holds a value."""
    if "$ref" in schema:
        schema = SCHEMA["$defs"][schema["$ref"].removeprefix("#/$defs/")]
    if "properties" not in schema:
        return {path: schema}
    found = {}
    for key, inner in schema["properties"].items():
        found |= leaves(inner, (*path, key))
    return found


LEAVES = leaves(SCHEMA)
DRAWN = {path: generate(schema) for path, schema in LEAVES.items()}
NESTED = [None, True, -1, 0, 10**30, 10**400, 1.5, float("nan"), float("inf"), 5e-324]
NESTED += ["", " ", "1e-4", "0o17", "null", "é", "{x}", "%s", "-x"]
NESTED += [datetime.date(2024, 1, 1), b"bytes", {1: 2}, {None: None}, {"a": {"b": 3}}, (), [[]]]
NESTED += [[1, 1], [1, "1", None], float("-inf"), -(10**12)]
NESTED += ["chen2020", "all", 10**9, "CON", "~", "/", "..", "sqlite://", "http://a b:c", "ftp://x"]
LAYERS = [["flatten", "dense"], [{"conv": {"size": 10**30 + 1}}, "flatten", "dense"]]
LAYERS += [[{"conv": {"size": 3, "stride": 10**30}}, "relu", "flatten", "dense"], [{"conv": None}]]
LAYERS += [[{"conv": {"size": 99}}, "flatten", "dense"], [{"conv": {"size": float("nan")}}]]
LAYERS += [[{"conv": {"size": 3, "bias": 10**400}}, "flatten", "dense"], "chen2020-lap-9999"]
LAYERS += [[{"average_pool": {"size": 10**30}}, "flatten", "dense"], [{"residual": {"a": 1}}]]
LAYERS += [[{"conv": {"size": 3}}, {"leaky_relu": {"slope": float("inf")}}, "flatten", "dense"]]
LAYERS += [[{"conv": {"size": 3}}, {"residual": [{"residual": []}]}, "flatten", "dense"]]
LAYERS += ["arora2019-gap-0", "arora2019-vanilla-99999", [{1: 2}], [{}], [{"conv": {1: 2}}]]


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
    st.recursive(
        simple,
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(simple.filter(hashable), inner, max_size=3)
            | st.dictionaries(st.sampled_from(["conv", "size", "residual", "bands"]), inner)
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
        check_settings(config)
        expand_paths(config := copy.deepcopy(config))
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
    with contextlib.suppress(ConfigError):
        # Where it is not the setting that refuses, keys that depend on this one may be named.
        check_settings(config)
        return
    assert found.startswith(".".join(path))


@pytest.mark.parametrize("path", LEAVES, ids=".".join)
def test_each_odd_value_is_refused_or_valid(path):
    """Every value of a long list of oddities, at every key, is refused in one line or is valid."""
    for value in [*NESTED, *LAYERS]:
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
    assume(key not in {p[len(path)] for p in LEAVES if p[: len(path)] == path})
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
        check_settings(value)


TOO_MUCH = {
    "more bands than a command names": (
        {("kernel", "bands"): 5001, ("data", "source"): "cifar10", ("task", "pairs"): [[3, 8]]}
        | {("task", "n_train"): 10000, ("results",): "results/" + "x" * 100},
        "kernel.bands is 5001: wanted auto or a whole number from 1 to 5000",
    ),
    "a filter wider than the image": (
        {("architecture",): [{"conv": {"size": 17}}, "flatten", "dense"]},
        "a convolution of size 17, and images are 8 x 8: wanted at most 15",
    ),
    "a stride over the image": (
        {("architecture",): [{"conv": {"size": 3, "stride": 9}}, "flatten", "dense"]},
        "a convolution of stride 9, and images are 8 x 8: wanted at most 8",
    ),
    "a window wider than the image": (
        {("architecture",): "chen2020-lap-16"},
        "an average pool of size 16, and images are 8 x 8: wanted at most 15",
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
    """Return a small configuration of which up to four keys were drawn from the settings."""
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


def test_what_stands_on_flips_reads_gram_matrices_of_its_own(planner):
    """Kernels over flips are computed where a variant stands on them, and read by it alone."""
    term = "cntk-flips-intercept+lantk-fjlt-v1"
    variants = ["cntk", "cntk-intercept", term, f"{term}-diagonal", "cnn-flips"]
    answer = planner.plan(changed(SMALL | {("variants",): variants}))
    commands = {job["rule"]: job["command"] for job in answer["jobs"] if job["command"]}
    assert "--flips" in commands["gram_flips"]
    assert "--flips" not in commands["gram"]
    readers = {rule for rule, command in commands.items() if "/grams-flips/" in command}
    assert readers == {"gram_flips", "evaluate_cntk_flips_intercept_lantk_fjlt_v1"}
    assert "--variant cnn-flips" in commands["cnn_flips"]
    assert not {"cnn", "label_term"} & set(commands)
    rules = {job["rule"] for job in planner.plan(changed(SMALL))["jobs"]}
    assert {"gram", "cnn"} <= rules
    assert not {"gram_flips", "cnn_flips"} & rules
