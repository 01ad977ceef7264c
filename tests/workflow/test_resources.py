"""What jobs ask a scheduler for."""

import pytest

from lantk.workflow.resources import (
    after_kernels_mb,
    count_threads,
    evaluation_mb,
    gram_blocks_mb,
    gram_mb,
    growing,
    heat_map_mb,
    label_term_mb,
)


def test_both_blocks_are_counted_in_float64():
    """A square of train images and a block of test images, eight bytes an entry."""
    assert gram_blocks_mb(1024, 1024) == 2 * 1024 * 1024 * 8 // 2**20 + 1


def test_a_case_cut_from_a_larger_matrix_holds_that_too():
    """What is put together in float32 before its first rows are taken is asked for."""
    alone, cut = (label_term_mb(1000, 500, largest) for largest in (1000, 8000))
    assert cut - alone == gram_blocks_mb(8000, 500) // 2


def test_more_of_a_family_asks_for_more():
    """Features of pairs and each permutation of the labels take memory of their own."""
    size = (4000, 1000, 4000)
    kr = evaluation_mb(["lantk-kr-v1"], 3, *size)
    assert kr < evaluation_mb(["lantk-kr-v1", "lantk-kr-v1-shuffled"], 1, *size)
    assert kr < evaluation_mb(["lantk-fjlt-v1"], 3, *size)
    assert heat_map_mb(*size) < label_term_mb(*size) < kr < after_kernels_mb(8, *size)


def test_bands_share_a_matrix():
    """A band asks for its part of the matrices, and for what it works in."""
    whole, half = (
        gram_mb(8000, 2000, n_architectures=1, n_bands=bands, scratch_mb=512) for bands in (1, 2)
    )
    assert whole - half == pytest.approx(gram_blocks_mb(8000, 2000) / 2, abs=1)
    flips = gram_mb(8000, 2000, n_architectures=1, n_bands=2, scratch_mb=512, flips=True)
    assert flips - half == pytest.approx(gram_blocks_mb(8000, 2000) / 2, abs=1)


def test_a_second_attempt_asks_for_more():
    """An amount, or what a function of wildcards returns, is multiplied by the attempt."""
    assert growing(10)(None, 2) == 20
    assert growing(lambda wildcards: wildcards["n"])({"n": 7}, 3) == 21


@pytest.mark.parametrize(("n_train", "threads"), [(500, 1), (501, 8)])
def test_small_jobs_take_one_thread(n_train, threads):
    """Small jobs are mostly start-up and run side by side."""
    assert count_threads(n_train) == threads
