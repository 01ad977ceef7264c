"""ZCA whitening: what it does to train images, what it is learned from, what it refuses."""

from dataclasses import replace

import numpy as np
import pytest

from lantk import scaling, whitening
from lantk.scaling import Scaling, channel_statistics
from lantk.whitening import WhiteningError, read_whitening

SHAPE = (2, 3, 4)


def pixels(n, seed=0):
    """Return bytes whose neighbours are correlated, and whose channels differ in range."""
    x = np.random.default_rng(seed).normal(size=(n, *SHAPE)).cumsum(axis=3)
    return np.clip(128 + np.array([12, 30])[:, None, None] * x, 0, 255).astype(np.uint8)


def as_rows(x):
    return x.reshape(len(x), -1).astype(np.float64)


def with_mirrored(x):
    return as_rows(np.concatenate([x, x[..., ::-1]]))


def inverse_root(covariance, zca):
    """Return (C + e)^(-1/2), e a share of the mean eigenvalue, slowly."""
    values, vectors = np.linalg.eigh(covariance)
    regulariser = zca * np.trace(covariance) / len(covariance)
    return vectors @ np.diag((values + regulariser) ** -0.5) @ vectors.T


@pytest.mark.parametrize("is_standard", [False, True])
@pytest.mark.parametrize("n", [5, 11, 12, 90])
def test_whitened_images_follow_the_formula(n, is_standard):
    """Train and new images become (C + e)^(-1/2) (x - m), with few train images or many."""
    train, new = pixels(n), pixels(7, seed=1)
    plain = Scaling(255, channel_statistics(train) if is_standard else None)
    scaler = plain.whitened(train, 0.1)
    x = with_mirrored(plain.apply(train, "float64"))
    root = inverse_root(np.cov(x.T, bias=True), 0.1)
    for images in (train, new):
        wanted = (as_rows(plain.apply(images, "float64")) - x.mean(axis=0)) @ root
        found = scaler.apply(images)
        assert found.shape == images.shape
        assert found.dtype == np.float32
        np.testing.assert_allclose(as_rows(found), wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
    assert scaler.name == ("standard" if is_standard else "range")


def test_without_a_regulariser_the_train_pixels_are_uncorrelated():
    """Mean and covariance are 0 and 1 with zca 0; else S / (S + e) along each vector.

    Both are of train images and their mirror images.
    """
    train = pixels(90)
    white = with_mirrored(Scaling(255).whitened(train, 0).apply(train, "float64"))
    np.testing.assert_allclose(white.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(np.cov(white.T, bias=True), np.eye(24), atol=1e-4)
    of_share = Scaling(255).whitened(train, 0.5)
    covariance = np.cov(with_mirrored(of_share.apply(train, "float64")).T, bias=True)
    s = of_share.whitening.eigenvalues
    found = np.linalg.eigvalsh(covariance)[::-1]
    np.testing.assert_allclose(found, s / (s + 0.5 * s.mean()), atol=1e-5)


@pytest.mark.parametrize("n", [5, 90])
def test_mirror_images_are_whitened_to_mirror_images(n):
    """So it does not matter whether flips come before or after; of train alone it would."""
    train, new = pixels(n) // 2, pixels(7, seed=1)
    train[..., 0] *= 2  # not as often one way round as the other
    plain = Scaling(255)
    scaler = plain.whitened(train, 0.1)
    found, mirrored = (scaler.apply(z, "float64") for z in (new, new[..., ::-1]))
    np.testing.assert_allclose(mirrored[..., ::-1], found, rtol=0, atol=1e-5 * abs(found).max())
    x = as_rows(plain.apply(train, "float64"))
    root = inverse_root(np.cov(x.T, bias=True), 0.1)
    alone, turned = (
        ((as_rows(plain.apply(z, "float64")) - x.mean(axis=0)) @ root).reshape(new.shape)
        for z in (new, new[..., ::-1])
    )
    assert np.abs(turned[..., ::-1] - alone).max() > 0.1 * np.abs(alone).max()


def test_the_unit_of_pixels_does_not_matter():
    """The regulariser is a share, so images whiten alike whatever their range and offset."""
    train = pixels(30)
    found = [
        Scaling(largest).whitened(train, 0.1).apply(train, "float64") for largest in (255, 16, None)
    ]
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], atol=1e-6)


def test_images_are_read_in_pieces(monkeypatch):
    """The same is learned and applied however many images are held at once."""
    train = pixels(30)
    wanted = Scaling(255).whitened(train, 0.1).apply(train)
    for module in (scaling, whitening):
        monkeypatch.setattr(module, "_IMAGES_AT_ONCE", 7)
    for n in (10, 30):  # few, and more
        found = Scaling(255).whitened(train[:n], 0.1)
        assert len(found.apply(train)) == 30
    np.testing.assert_allclose(found.apply(train), wanted, rtol=0, atol=1e-5)


def test_vectors_are_no_more_than_the_rank():
    """Of n images there are n - 1 even directions around their mean and n odd ones: no more."""
    found = Scaling(255).whitened(pixels(9), 0.1).whitening
    assert found.vectors.shape == (24, 17)
    assert found.vectors.dtype == np.float32
    full = Scaling(255).whitened(pixels(90), 0.1).whitening
    assert full.vectors.shape == (24, 24)


@pytest.mark.parametrize("n", [6, 12])
def test_a_covariance_without_an_inverse_needs_a_regulariser(n):
    """With zca 0 the message says rank and pixels; one above 0 takes the same images."""
    train = pixels(n)
    message = rf"{n} train images of 24 pixels, .* rank {2 * n - 1}, .* above 0, such as 0.1"
    with pytest.raises(WhiteningError, match=message):
        Scaling(255).whitened(train, 0)
    train[:, 0, 0] = 7
    assert np.isfinite(Scaling(255).whitened(train, 1e-3).apply(pixels(5, seed=1))).all()


@pytest.mark.parametrize("n", [1, 30])
def test_equal_images_are_refused(n):
    """There is nothing to learn from images that are all the same, whatever the rounding."""
    one = pixels(1) // 2
    train = np.repeat(one + one[..., ::-1], n, axis=0)
    with pytest.raises(WhiteningError, match=rf"all {n} train images .* are equal"):
        Scaling(255).whitened(train, 0.1)


@pytest.mark.parametrize("zca", [-0.1, float("nan"), float("inf"), "0.1", True, None])
def test_what_is_no_regulariser_is_refused(zca):
    """The message has what was found and what is wanted."""
    with pytest.raises(WhiteningError, match=r"zca is .*: wanted a number of 0 or more, such as"):
        Scaling(255).whitened(pixels(9), zca)


def test_arrays_make_the_same_whitening_again():
    """What files hold whitens to the same bytes; a part of it, or what does not fit, is refused."""
    train = pixels(9)
    scaler = Scaling(255).whitened(train, 0.1)
    arrays = scaler.whitening.to_arrays()
    again = replace(scaler, whitening=read_whitening(arrays.get))
    np.testing.assert_array_equal(again.apply(train), scaler.apply(train))
    assert read_whitening({}.get) is None
    with pytest.raises(WhiteningError, match="not whole"):
        read_whitening({"zca": arrays["zca"]}.get)
    with pytest.raises(WhiteningError, match="do not fit each other"):
        read_whitening((arrays | {"whitening_eigenvalues": np.ones(3)}).get)
