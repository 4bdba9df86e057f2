"""Shares of classes that are brought to expected ones, against plain scaling step by step."""

import numpy as np
import pytest
import torch

from monai_infoaug.samplers import DistributionAlignment


@pytest.fixture
def probabilities():
    """(3, 4, 12, 11), confident, with much of the background and little of the last class."""
    logits = 2 * torch.randn(3, 4, 12, 11, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return (logits + torch.tensor([2.0, 1, 0, -1]).view(1, 4, 1, 1)).softmax(1)


def scaled_in_steps(probabilities, wanted):
    """Scale each class of the foreground by what it lacks, and each pixel back to its foreground, many times."""
    pixels = probabilities.movedim(1, -1).reshape(-1, 4)[:, 1:].numpy()
    foreground = pixels.sum(1, keepdims=True)
    for _ in range(3000):
        pixels = pixels * wanted / pixels.sum(0)
        pixels = pixels / pixels.sum(1, keepdims=True) * foreground
    return torch.tensor(pixels.reshape(3, 12, 11, 3)).movedim(-1, 1)


@pytest.mark.parametrize("shares", [None, [1, 2, 6]])
@pytest.mark.parametrize("strength", [0.0, 0.4, 1.0])
def test_equals_scaling_in_steps(probabilities, strength, shares):
    alignment = DistributionAlignment(strength, shares)
    for image in probabilities.split([1, 2]):
        alignment.update(image)
    aligned = alignment(probabilities)
    found = probabilities[:, 1:].mean((0, 2, 3)).numpy()
    wanted = found ** (1 - strength) * np.array(shares or [1, 1, 1]) ** strength
    torch.testing.assert_close(aligned[:, 1:].double(), scaled_in_steps(probabilities, wanted), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(aligned[:, 0].double(), probabilities[:, 0], atol=1e-6, rtol=0)
    torch.testing.assert_close(aligned.sum(1), torch.ones(3, 12, 11))
    assert alignment.factors().log().mean().item() == pytest.approx(0, abs=1e-9)
    assert torch.allclose(aligned.double(), probabilities, atol=1e-5) == (strength == 0)


def test_each_pixel_gets_the_same_factors(probabilities):
    """Odds of two classes change alike in all pixels, and in those of images that were not counted in."""
    alignment = DistributionAlignment()
    alignment.update(probabilities[:2])
    first, second, third = alignment.factors()
    odds = (alignment(probabilities)[:, 1] / alignment(probabilities)[:, 3]).double()
    torch.testing.assert_close(odds, first / third * probabilities[:, 1] / probabilities[:, 3], atol=0, rtol=1e-4)
    assert first < second < third


def test_a_class_that_is_ruled_out_stays_out_and_no_foreground_stays_none(probabilities):
    ruled_out = probabilities.clone()
    ruled_out[0, 2] = 0
    ruled_out[1, 1:], ruled_out[1, 0] = 0, 1
    alignment = DistributionAlignment()
    alignment.update(ruled_out)
    aligned = alignment(ruled_out)
    assert aligned.isfinite().all()
    assert (aligned[0, 2] == 0).all()
    assert (aligned[1, 1:] == 0).all()


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_images_of_background_alone_align_nothing(strength, probabilities):
    background = torch.zeros(2, 4, 5, 6)
    background[:, 0] = 1
    alignment = DistributionAlignment(strength, shares=[1, 2, 6])
    alignment.update(background)
    assert torch.equal(alignment.factors(), torch.ones(3, dtype=torch.float64))
    assert torch.equal(alignment(background), background)
    torch.testing.assert_close(alignment(probabilities), probabilities.float())
    alone = DistributionAlignment(strength, shares=[1, 2, 6])
    alone.update(probabilities)
    alignment.update(probabilities)
    torch.testing.assert_close(alignment.factors(), alone.factors())


def test_very_little_foreground_is_aligned_like_much(probabilities):
    """To shares in it alone, however much background there is."""
    little = torch.cat([1 - probabilities[:, 1:].sum(1, keepdim=True) * 1e-6, probabilities[:, 1:] * 1e-6], 1)
    factors = []
    for images in (probabilities, little):
        alignment = DistributionAlignment()
        alignment.update(images)
        factors.append(alignment.factors())
    torch.testing.assert_close(*factors, atol=0, rtol=1e-3)


def test_some_pixels_are_near_to_all():
    probabilities = torch.randn(2, 3, 60, 50, generator=torch.Generator().manual_seed(0)).mul(3).softmax(1)
    probabilities[:, 2] *= 0.1
    found = []
    for number in (3000, 1000):
        alignment = DistributionAlignment(pixels_per_image=number)
        alignment.update(probabilities)
        found.append(alignment.factors())
        assert len(alignment._sample.pixels()) == 2 * number
    torch.testing.assert_close(*found, atol=0, rtol=0.1)


def test_images_are_forgotten(probabilities):
    alignment, fresh = DistributionAlignment(), DistributionAlignment()
    alignment.update(probabilities[:1])
    before = alignment.factors()
    alignment.reset()
    for each in (alignment, fresh):
        each.update(probabilities[1:])
    assert torch.equal(alignment.factors(), fresh.factors())
    assert not torch.equal(alignment.factors(), before)


def test_bad_input(probabilities):
    for name, value in {"strength": 1.5, "shares": [1.0, 0.0], "pixels_per_image": 0, "seed": -1}.items():
        with pytest.raises(ValueError, match=f"`{name}` must be "):
            DistributionAlignment(**{name: value})
    for shares in ([], 2, ["1", "2"], [1, float("nan")]):
        with pytest.raises(ValueError, match="`shares` must be above 0, got"):
            DistributionAlignment(shares=shares)
    with pytest.raises(ValueError, match="`images` must be given to `update` first, got none"):
        DistributionAlignment()(probabilities)
    for shape in ((2, 1, 4, 4), (3, 4)):
        with pytest.raises(ValueError, match=r"`probabilities` must be of shape \(B, C, \*S\), C = at least 2"):
            DistributionAlignment().update(torch.ones(shape))
    alignment = DistributionAlignment()
    alignment.update(probabilities.where(probabilities < 0.9, torch.nan))
    with pytest.raises(ValueError, match="`probabilities` must be finite, got NaN"):
        alignment.factors()
    alignment = DistributionAlignment(shares=[1, 2])
    with pytest.raises(ValueError, match="C = 3, got shape"):
        alignment.update(probabilities)
    alignment = DistributionAlignment()
    alignment.update(probabilities)
    with pytest.raises(ValueError, match="C = 4, got shape"):
        alignment(probabilities[:, :3])
