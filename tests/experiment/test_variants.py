"""Names of variants: controls, families, files."""

import numpy as np
import pytest

from lantk.experiment.records import Listing
from lantk.experiment.variants import (
    BEST,
    DERIVED,
    LAP,
    PLAIN_VARIANTS,
    PUBLISHED_TERMS,
    TERMS,
    at_taps,
    candidates,
    families,
    family_of,
    own_file,
    window_of,
)
from lantk.kernel.grammar import parse_architecture
from lantk.variant import CONTROLS, PLAIN_KERNELS, Variant, VariantError

OWN = "my.terms:NearestMean2"


@pytest.mark.parametrize("term", [*TERMS, OWN])
def test_controls_belong_to_the_family_of_their_term(term):
    """A control is taken apart into its term and its ending, and evaluated with the term."""
    for control in CONTROLS:
        name = f"{term}-{control}"
        assert (Variant.of(name).parent, Variant.of(name).control) == (term, control)
        if "offdiagonal" not in control or "fjlt" in term:
            assert family_of(name) == family_of(term) == term


def test_plain_variants_are_no_controls():
    """What adds no Z of pairs shares the kernel's factor with cntk; cntk-rbf and cnn do not."""
    assert all(
        (Variant.of(name).parent, Variant.of(name).control) == (name, None)
        for name in PLAIN_VARIANTS
    )
    found = families(["cnn", *PLAIN_VARIANTS[:-2], "cnn-flips", "lantk-kr-v1"])
    others = ["cntk-flips", "cntk-rbf", "cntk-laplacian", "cnn-flips", "lantk-kr-v1"]
    assert list(found) == ["cnn", "cntk", *others]
    assert found["cntk"] == ["cntk", "cntk-ridge", "cntk-intercept", "oracle-label"]


@pytest.mark.parametrize("kernel", [name for name in PLAIN_KERNELS if name != "cntk"])
@pytest.mark.parametrize("term", ["lantk-kr-v1", "lantk-fjlt-v2-text", OWN])
def test_a_label_term_on_another_kernel_is_a_family_with_its_controls(kernel, term):
    """KERNEL+TERM and its controls are one job, beside that of the term on the plain kernel."""
    name = f"{kernel}+{term}"
    for variant, control in ((name, None), (f"{name}-diagonal", "diagonal")):
        v = Variant.of(variant)
        assert (v.addition, v.control, v.parent) == (term, control, name)
        assert v.has_intercept == kernel.endswith("-intercept")
        assert not v.is_own_term
        assert family_of(variant) == name
    own = Variant.of(f"{kernel}+{OWN}-shuffled")
    assert own.name == f"{kernel}+lantk-nearest-mean2-shuffled"
    assert own_file(own.text) == []
    assert own.module == "my.terms"


@pytest.mark.parametrize(
    "name", ["cntk-ridge+lantk-kr-v1", "cntk-laplacian+lantk-fjlt-v1-shuffled"]
)
def test_two_weights_are_refused(name):
    """What has a weight of its own carries no label term; the message names what does."""
    with pytest.raises(VariantError, match=r"has a weight.*Wanted cntk-intercept"):
        family_of(name)


def test_the_twin_of_a_fit_off_the_diagonal_is_a_variant():
    """NAME-shuffled is the twin, seeded, of the fit without the diagonal too."""
    twin = Variant.of("lantk-fjlt-v1-offdiagonal-shuffled")
    assert (twin.parent, twin.control) == ("lantk-fjlt-v1", "offdiagonal-shuffled")
    assert twin.is_shuffled
    assert twin.is_seeded
    assert twin.is_off_diagonal
    assert not Variant.of("lantk-fjlt-v1-shuffled").is_off_diagonal


@pytest.mark.parametrize(
    "name",
    [
        "lantk-kr-v9",
        "lantk-best",
        "cnn-shuffled",
        "cntk-ridge-diagonal",
        "lantk-kr-v1-",
        "lantk-kr-v1-shuffled-diagonal",
        "lantk-fjlt-v1-shuffled-offdiagonal",
        "cntk+lantk-kr-v1",
        "cntk-intercept-shuffled",
        "cntk-intercept+cnn",
        "cntk-intercept-ridge",
        "lantk-kr-v1+lantk-kr-v2",
        "my terms:X",
        "my.terms:",
        "",
    ],
)
def test_unknown_names_are_refused(name):
    """A name that is no variant ends with those that are."""
    with pytest.raises(VariantError, match=r"unknown variant .*: .*There are cntk, .*lantk-plugin"):
        family_of(name)


@pytest.mark.parametrize("term", ["lantk-kr-v1", "lantk-plugin", OWN])
def test_only_least_squares_can_leave_out_the_diagonal(term):
    """-offdiagonal is refused where no entry can be left out of the fit."""
    with pytest.raises(VariantError, match="only lantk-fjlt"):
        family_of(f"{term}-offdiagonal")


@pytest.mark.parametrize(
    ("variant", "name"),
    [
        (OWN, "lantk-nearest-mean2"),
        (f"{OWN}-diagonal", "lantk-nearest-mean2-diagonal"),
        ("a:KRTerm", "lantk-kr-term"),
        ("a:snake_case", "lantk-snake-case"),
        ("lantk-fjlt-v2-text-shuffled", "lantk-fjlt-v2-text-shuffled"),
        ("cnn", "cnn"),
    ],
)
def test_names_are_safe_in_paths(variant, name):
    """The user's own class gives a name in lower case; every other variant is its own name."""
    assert Variant.of(variant).name == name


def test_files_are_one_a_seed_where_there_are_seeds():
    """Networks have the configured seeds, shuffled controls as many as there are permutations."""
    assert Variant.of("cnn").is_seeded
    assert [*Listing((), ("cnn-flips",), 2, (5,)).stems] == ["cnn-flips-seed5"]
    assert Variant.of(f"{OWN}-shuffled").is_seeded
    assert not Variant.of("lantk-kr-v1-diagonal").is_seeded
    names = ["cnn", "cntk", f"{OWN}-shuffled"]
    shuffled = ["lantk-nearest-mean2-shuffled-seed0", "lantk-nearest-mean2-shuffled-seed1"]
    assert [*Listing((), tuple(names), 2, (5, 3)).stems] == [
        "cnn-seed5",
        "cnn-seed3",
        "cntk",
        *shuffled,
    ]
    assert Listing((), ("cnn",), 2, ()).stems == {}


def test_the_file_of_an_own_term_is_found_where_jobs_run(tmp_path, monkeypatch):
    """A module that lies in the working folder is a file that jobs depend on; others are not."""
    monkeypatch.chdir(tmp_path)
    assert own_file(OWN) == []
    (tmp_path / "my").mkdir()
    (tmp_path / "my" / "terms.py").write_text("")
    assert own_file(OWN) == ["my/terms.py"]
    assert own_file(f"{OWN}-shuffled") == ["my/terms.py"]
    assert own_file("lantk-kr-v1") == []


def test_kernels_of_networks_are_one_family_and_seeded():
    names = ["after-kernel-3", "conjugate-kernel-0-shuffled", "after-kernel-conv2-3+lantk-kr-v1"]
    assert families(names) == {"after-kernel": names}
    assert all(v.is_seeded and v.is_network_kernel and v.is_tap for v in map(Variant.of, names))
    assert [*Listing((), ("after-kernel-3-shuffled",), 5, (7,)).stems] == [
        "after-kernel-3-shuffled-seed7"
    ]


@pytest.mark.parametrize(
    "name",
    [
        "after-kernel-3-diagonal",
        "after-kernel-conv0-3",
        "after-kernel-layer3-3",
        "conjugate-kernel-conv1-3",
        "after-kernel-3+lantk-fjlt-v1",  # reads pixels
        "after-kernel--3",
        "after-kernel-3-shuffled-shuffled",
    ],
)
def test_kernels_of_networks_that_do_not_exist_are_refused(name):
    with pytest.raises(VariantError, match="variant"):
        family_of(name)


def test_taps_are_spelled_out_once():
    """Bare names stand for all taps; one that names its own epoch is kept, duplicates are not."""
    names = ["after-kernel+lantk-plugin-shuffled", "after-kernel-1", "after-kernel"]
    assert at_taps(names, [0, 1]) == [
        "after-kernel-0+lantk-plugin-shuffled",
        "after-kernel-1+lantk-plugin-shuffled",
        "after-kernel-1",
        "after-kernel-0",
    ]


def test_a_chosen_epoch_wants_two_to_choose_from():
    taps = [
        "after-kernel-0",
        "after-kernel-9",
        "after-kernel-9+lantk-kr-v1",
        "after-kernel-conv1-9",
    ]
    assert candidates("after-kernel", taps) == taps[:2]
    assert candidates("after-kernel", taps[1:]) == []
    assert candidates("after-kernel-shuffled", taps) == []


@pytest.mark.parametrize("derived", [name for name in DERIVED if name != LAP])
def test_candidates_come_in_one_order_whatever_that_of_the_variants(derived):
    """Published terms as they are listed, epochs by their numbers and not by their letters."""
    v = Variant.of(derived)
    ending = "-shuffled" if v.is_shuffled else ""
    parts = [f"{v.parent}-{epoch}" for epoch in (0, 1, 3, 10, 30, 100)]
    wanted = [f"{p}{ending}" for p in (PUBLISHED_TERMS if v.parent == BEST else parts)]
    assert candidates(derived, sorted(wanted)) == wanted
    for seed in range(5):
        assert (
            candidates(derived, np.random.default_rng(seed).permutation(wanted).tolist()) == wanted
        )


@pytest.mark.parametrize("name", ["chen2020", "arora2019-vanilla-3", "chen2020-nngp"])
def test_a_window_is_told_from_the_rest_of_an_architecture(name):
    """It is the pool of stride 1 before flatten alone; pools elsewhere are of the rest."""
    plain = parse_architecture(name).to_list()
    rest, window = window_of(plain)
    assert window == 1
    place = plain.index("flatten")
    pool = {"average_pool": {"size": 3, "stride": 1}}
    assert window_of([*plain[:place], pool, *plain[place:]]) == (rest, 3)
    for other in ({"average_pool": {"size": 3, "stride": 2}}, {"conv": {"size": 3, "stride": 1}}):
        found, window = window_of([*plain[:place], other, *plain[place:]])
        assert found != rest
        assert window == 1
    gap = parse_architecture("arora2019-gap-3").to_list()
    pooled = [*gap[:-2], pool, *gap[-2:]]
    assert window_of(pooled)[1] == 1
    assert window_of(pooled)[0] != window_of(gap)[0]


@pytest.mark.parametrize("name", ["cntk-lap", "lantk-best"])
def test_what_is_derived_is_not_listed(name):
    """A message says where it comes from; nothing like it is suggested."""
    assert candidates("cntk-lap", ["cntk", "cntk-ridge"]) == []
    with pytest.raises(VariantError, match="the table has it by itself"):
        family_of(name)
