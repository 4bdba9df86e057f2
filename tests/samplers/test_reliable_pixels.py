"""The choice of reliable pixels against sorting all pixels of a class by hand."""

import pytest
import torch

from monai_infoaug.samplers import ReliablePixels


@pytest.fixture
def images():
    """Probabilities (3, 4, 12, 11) in which class 3 is never found, and tiers."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(3, 4, 12, 11, generator=generator) * torch.tensor([1.0, 2, 3, 1]).view(1, 4, 1, 1)
    logits[:, 3] = -9
    return logits.softmax(1), torch.randint(3, (3, 1, 12, 11), generator=generator)


def by_sorting(probabilities, tiers, share, at_least):
    """Pixels one by one, in lists of their class and tier."""
    confidence, found = probabilities.max(1)
    labels = torch.full_like(found, -1)
    for tier in range(3):
        for kind in range(probabilities.shape[1]):
            places = ((found == kind) & (tiers[:, 0] == tier)).nonzero().tolist()
            places.sort(key=lambda place: -confidence[tuple(place)])
            for place in places[: max(1, round(share * len(places)))]:
                if confidence[tuple(place)] >= at_least:
                    labels[tuple(place)] = kind
    return labels[:, None]


@pytest.mark.parametrize("with_tiers", [True, False])
@pytest.mark.parametrize(("share", "at_least"), [(0.1, 0.5), (0.35, 0.9), (1.0, 0.0), (1e-6, 0.0)])
def test_equals_sorting(images, share, at_least, with_tiers):
    probabilities, tiers = images
    given = (tiers,) if with_tiers else ()
    reliable = ReliablePixels(share, at_least)
    for each in zip(probabilities.split(1), *[part.split(1) for part in given], strict=True):
        reliable.update(*each)
    by_hand = by_sorting(probabilities, tiers if with_tiers else torch.zeros_like(tiers), share, at_least)
    assert torch.equal(reliable(probabilities, *given), by_hand)


def test_every_class_and_tier_has_its_share(images):
    reliable = ReliablePixels(0.2, 0.0)
    reliable.update(*images)
    labels, found = reliable(*images), images[0].argmax(1, keepdim=True)
    for tier in range(3):
        for kind in range(3):
            own = (found == kind) & (images[1] == tier)
            assert (labels[own] == kind).float().mean().item() == pytest.approx(0.2, abs=0.5 / own.sum().item() + 1e-6)


def test_some_pixels_stand_for_all(images):
    large = torch.nn.functional.interpolate(images[0], scale_factor=16, mode="bilinear")
    few, many = ReliablePixels(0.3, 0.0, pixels_per_image=4000), ReliablePixels(0.3, 0.0, pixels_per_image=10**9)
    few.update(large), many.update(large)
    torch.testing.assert_close(few.thresholds()[:, :3], many.thresholds()[:, :3], atol=0.02, rtol=0)


def test_reset_forgets(images):
    reliable = ReliablePixels()
    reliable.update(images[0])
    reliable.reset()
    with pytest.raises(ValueError, match="`images` must be given to `update` first, got none"):
        reliable.thresholds()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"share": 0}, "`share` must be above 0 and at most 1, got 0"),
        ({"at_least": 2}, "`at_least` must be from 0 to 1, got 2"),
        ({"share": "0.1"}, "`share` must be above 0 and at most 1, got 0.1"),
        ({"at_least": float("nan")}, "`at_least` must be from 0 to 1, got nan"),
        ({"pixels_per_image": 0}, "`pixels_per_image` must be a whole number of at least 1, got 0"),
        ({"seed": -1}, "`seed` must be a non-negative integer, got -1"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        ReliablePixels(**settings)


def test_bad_input(images):
    probabilities, tiers = images
    reliable = ReliablePixels()
    with pytest.raises(ValueError, match=r"`probabilities` must be of shape \(B, C, \*S\), C > 1"):
        reliable.update(probabilities[:, :1])
    with pytest.raises(ValueError, match=r"`tiers` must be of shape \(3, 1, 12, 11\), got shape \(3, 12, 11\)"):
        reliable.update(probabilities, tiers[:, 0])
    reliable.update(probabilities)
    with pytest.raises(ValueError, match="`tiers` must be as given to `update`: False, got Tensor"):
        reliable(probabilities, tiers)
    reliable.update(probabilities, tiers)
    with pytest.raises(ValueError, match="`images` must be all with tiers or all without"):
        reliable.thresholds()
