"""Labels of classes, targets, and what scores decide."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lantk.labels import (
    Classes,
    LabelError,
    are_targets,
    as_labels,
    as_targets,
    class_counts,
    class_labels,
    count_outputs,
    decide,
)


@pytest.mark.parametrize(
    ("y", "wanted"),
    [
        ([0, 1, 1], [-1, 1, 1]),
        ([False, True], [-1, 1]),
        ([-1.0, 1.0], [-1, 1]),
        (["dog", "cat"], [1, -1]),
        ([7, 3, 9, 3], [1, 0, 2, 0]),
    ],
)
def test_labels_of_named_classes(y, wanted):
    """Two classes, whatever they are called, are -1 and +1 in order; more are numbered."""
    assert Classes(y).labels(y).tolist() == wanted


def test_an_unknown_class_is_named():
    """A label that was not among those learned is refused, with its place."""
    with pytest.raises(LabelError, match=r"labels\[1\] is 'fox', none of the 2 classes"):
        Classes(["cat", "dog"]).numbers(["dog", "fox"])


@given(st.integers(2, 12), st.data())
def test_targets_give_their_labels_back(n_classes, data):
    """Labels made to targets and back are the same, and every class is counted."""
    known = class_labels(count_outputs(n_classes))
    places = data.draw(st.lists(st.integers(0, n_classes - 1), min_size=1, max_size=20))
    labels = known[places]
    targets = as_targets(labels, count_outputs(n_classes))
    assert are_targets(targets, len(places))
    assert as_labels(targets).tolist() == labels.tolist()
    assert class_counts(targets).tolist() == np.bincount(places, minlength=n_classes).tolist()


@pytest.mark.parametrize(
    "y", [np.zeros(3), np.ones(2), np.ones((3, 2)), np.full((3, 2), 0.5), np.ones((3, 1, 1))]
)
def test_what_is_no_target_is_seen(y):
    """Zeros, another length, several classes at once and fractions are no targets of 3 images."""
    assert not are_targets(y, 3)


def test_scores_decide():
    """A score of 0 is +1, the first of equal outputs wins, and class numbers stay."""
    assert decide(np.array([[-1e-9, -0.0, 2.0]])).tolist() == [[-1, 1, 1]]
    assert decide(np.array([[[1.0, 3.0, 3.0], [2.0, 0.0, 1.0]]])).tolist() == [[1, 0]]
    assert decide(np.array([[4, 0]])).tolist() == [[4, 0]]
