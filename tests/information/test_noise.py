"""The noise of an image, against loops over its voxels, and bins that are no finer."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from monai_infoaug.information import local_entropy, noise_sd
from tests.information.test_entropy import brute_force

R = np.random.RandomState(0)


def slow_sd(image, mask=None):
    """The definition: the median over voxels of the product of second differences, one voxel after another."""
    mask = np.broadcast_to(np.ones_like(image, bool) if mask is None else mask, image.shape)
    result = []
    for channel, inside in zip(image.astype(float), mask, strict=True):
        axes = [axis for axis, size in enumerate(channel.shape) if size >= 3]
        offsets = list(product(*[(-1, 0, 1) if axis in axes else (0,) for axis in range(channel.ndim)]))
        found = []
        for index in np.ndindex(channel.shape):
            if any(not 0 < index[axis] < channel.shape[axis] - 1 for axis in axes):
                continue
            places = [tuple(np.add(index, offset)) for offset in offsets]
            if not all(inside[place] for place in places) or len({channel[place] for place in places}) == 1:
                continue
            weights = [np.prod([1.0 if offset[axis] else -2.0 for axis in axes]) for offset in offsets]
            found.append(abs(sum(w * channel[place] for w, place in zip(weights, places, strict=True))))
        result.append(np.median(found) / 0.6745 / 6 ** (len(axes) / 2) if found else 0)
    return result


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shape", [(1, 12, 9), (2, 3, 11), (1, 2, 12), (1, 1, 2), (1, 8, 7, 6), (2, 9, 8, 2)])
def test_is_the_median_of_the_second_differences(shape, masked):
    image = R.randn(*shape)
    image[0, : shape[1] // 2] = 7  # where nothing differs there is nothing to measure
    mask = R.rand(*shape) < 0.97 if masked else None
    found = noise_sd(image, mask)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found, slow_sd(image, mask), rtol=1e-12)


@pytest.mark.parametrize("shape", [(200, 180), (40, 30, 30)])
@pytest.mark.parametrize("sd", [0.5, 3.0, 20.0])
def test_finds_the_noise_of_an_image_of_blocks_within_a_tenth(shape, sd):
    """Edges and ramps in a quarter of the voxels, black around."""
    blocks = np.kron(R.uniform(0, 200, [n // 10 for n in shape]), np.ones([10] * len(shape)))
    image = blocks + np.indices(shape)[0] + sd * R.randn(*shape)
    inside = np.indices(shape)[0] < 0.6 * shape[0]
    assert float(noise_sd(np.where(inside, image, 0)[None])) == pytest.approx(sd, rel=0.1)
    assert float(noise_sd(image[None], inside[None])) == pytest.approx(sd, rel=0.1)


@pytest.mark.parametrize("image", [np.zeros((1, 9, 9)), np.ones((2, 5, 5, 5)), np.indices((8, 9))[:1] * 5.0])
def test_an_image_without_noise_has_none(image):
    assert not noise_sd(image).any()


def test_tensors_stay_on_their_device_and_follow_scale():
    image = torch.from_numpy(R.randn(1, 30, 30))
    torch.testing.assert_close(noise_sd(7 * image + 3), 7 * noise_sd(image))
    torch.testing.assert_close(noise_sd(image.float()).float(), noise_sd(image).float())


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("value_range", [None, (-1.0, 2.5)])
@pytest.mark.parametrize(("shape", "window"), [((1, 14, 12), 5), ((1, 8, 9, 7), 3)])
@pytest.mark.parametrize("factor", [0.05, 1.0, 4.0, 100.0])
def test_bins_are_no_finer_than_the_noise(shape, window, value_range, masked, factor):
    image = R.rand(*shape) + np.indices(shape)[1] / 4
    mask = R.rand(*shape) < 0.95 if masked else None
    low, high = value_range or np.percentile(image if mask is None else image[mask], [0.5, 99.5])
    bins = min(max(int((high - low) / (factor * slow_sd(image, mask)[0])), 2), 32)
    expected = brute_force(image, window, bins, value_range, mask)
    found = local_entropy(image, window, 32, value_range, mask, noise_factor=factor)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_each_channel_has_the_bins_of_its_own_noise():
    image = np.stack([R.rand(20, 20), np.indices((20, 20))[0] / 20 + 0.02 * R.rand(20, 20)])
    found = local_entropy(image, 5, noise_factor=2)
    for channel, each in zip(image, found, strict=True):
        np.testing.assert_array_equal(local_entropy(channel[None], 5, noise_factor=2)[0], each)
    assert not np.array_equal(found[0], local_entropy(image, 5)[0])


def test_without_noise_bins_are_as_fine_as_they_may_be():
    image = np.kron(R.uniform(0, 200, (4, 4)), np.ones((5, 5)))[None] * 0 + np.indices((20, 20))[:1]
    np.testing.assert_array_equal(local_entropy(image, 5, noise_factor=3), local_entropy(image, 5))
    assert not local_entropy(np.full((1, 9, 9), 3.0), 3, noise_factor=1).any()


def test_flat_and_noisy_tells_less_than_structure():
    """Noise of a bin's width makes flat parts look as busy as structure."""
    image = np.full((60, 60), 0.5)
    image[:, 30:] = np.kron(R.rand(10, 5), np.ones((6, 6)))
    image += 0.05 * R.randn(60, 60)
    plain, aware = (local_entropy(image[None], 9, 32, (0, 1), noise_factor=f)[0] for f in (None, 2))
    ratios = [bits[5:-5, 35:-5].mean() / bits[5:-5, 5:25].mean() for bits in (plain, aware)]
    assert ratios[1] > 1.25 * ratios[0]


@pytest.mark.parametrize("factor", [0, -1, "2", True, np.nan, np.inf, (1,)])
def test_bad_factors(factor):
    with pytest.raises(ValueError, match="`noise_factor` must be None or a positive number, got"):
        local_entropy(np.zeros((1, 9, 9)), noise_factor=factor)


def test_bad_images():
    with pytest.raises(ValueError, match="`image` must be channel first"):
        noise_sd(np.zeros((9, 9)))
    with pytest.raises(ValueError, match="`mask` must be true somewhere"):
        noise_sd(np.zeros((1, 9, 9)), np.zeros((1, 9, 9)))
    with pytest.raises(TypeError, match="`image` must be a NumPy array or a tensor"):
        noise_sd([[[1.0]]])
