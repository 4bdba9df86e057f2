from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_infoaug.information import local_entropy, mutual_information

R = np.random.RandomState(0)
IMAGE = R.randint(0, 8, (1, 30, 20))
LEVELS = {"num_bins": 8, "value_range": (0, 8)}  # each level of `IMAGE` has its bin


def brute_force(first, second, num_bins, value_range=None, mask=None):
    """The definition: for each pair of bins, p(a, b) log2(p(a, b) / p(a) p(b)), a channel at a time."""
    mask = np.broadcast_to(np.ones(first.shape, bool) if mask is None else mask, first.shape)
    bits = []
    for channel in range(len(first)):
        inside, bins = mask[channel], []
        for image in (first[channel][inside], second[channel][inside]):
            low, high = np.percentile(image, [0.5, 99.5]) if value_range is None else value_range
            bins.append([min(max(int((x - low) * num_bins / (high - low)), 0), num_bins - 1) for x in image])
        total = 0.0
        for a in range(num_bins):
            for b in range(num_bins):
                both = sum(x == a and y == b for x, y in zip(*bins, strict=True))
                if both:
                    total += both * np.log2(both * len(bins[0]) / (bins[0].count(a) * bins[1].count(b)))
        bits.append(total / len(bins[0]))
    return np.mean(bits)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("value_range", [None, (-0.5, 1.25)])
@pytest.mark.parametrize("num_bins", [2, 7, 32])
@pytest.mark.parametrize("shape", [(1, 13, 10), (3, 9, 6), (2, 5, 6, 4)])
def test_is_that_of_the_joint_histogram(shape, num_bins, value_range, masked):
    first = R.randn(*shape)
    second = first + 0.5 * R.randn(*shape)
    mask = R.rand(*shape) < 0.5 if masked else None
    result = mutual_information(first, second, num_bins, value_range, mask)
    assert isinstance(result, float)
    assert result == pytest.approx(brute_force(first, second, num_bins, value_range, mask), abs=1e-12)


def test_is_symmetric():
    other = R.permutation(IMAGE.ravel()).reshape(IMAGE.shape)
    assert mutual_information(IMAGE, other) == pytest.approx(mutual_information(other, IMAGE), abs=1e-12)


def test_independent_images_share_nothing():
    rows, columns = np.meshgrid(np.arange(8) ** 2, np.arange(5) % 3, indexing="ij")
    assert mutual_information(rows[None], columns[None]) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("num_bins", [2, 5, 32, 256])
def test_an_image_tells_all_about_itself(num_bins):
    image = R.rand(1, 9, 11)
    entropy = local_entropy(image, (9, 11), num_bins, (0, 1))[0, 4, 5]  # of the window that holds all
    assert mutual_information(image, image, num_bins, (0, 1)) == pytest.approx(entropy, abs=1e-5)


def test_one_to_one_changes_of_grey_levels_lose_nothing():
    other = (IMAGE + R.randint(0, 3, IMAGE.shape)) % 8
    bits = mutual_information(IMAGE, other, **LEVELS)
    assert 0.5 < bits < 3
    for relabelled in ((other + 3) % 8, 7 - other, R.permutation(8)[other]):
        assert mutual_information(IMAGE, relabelled, **LEVELS) == pytest.approx(bits, abs=1e-12)
    assert mutual_information(IMAGE, 0.25 * other - 100, num_bins=8) == pytest.approx(bits, abs=1e-12)


def test_merged_grey_levels_lose():
    assert mutual_information(IMAGE, IMAGE // 2, **LEVELS) < mutual_information(IMAGE, IMAGE, **LEVELS) - 0.9


def test_falls_as_pixels_are_shuffled():
    bits = []
    for share in (0, 0.2, 0.5, 1):
        other, moved = IMAGE.ravel().copy(), R.rand(IMAGE.size) < share
        other[moved] = R.permutation(other[moved])
        bits.append(mutual_information(IMAGE, other.reshape(IMAGE.shape), **LEVELS))
    assert bits == sorted(bits, reverse=True)
    assert bits[0] > 2.9
    assert bits[-1] < 0.15


def test_bias_of_finite_samples_is_as_documented():
    images = R.randint(0, 8, (2, 2000, 25, 40))
    expected = 7 * 7 / (2 * 1000 * np.log(2))
    assert mutual_information(*images, **LEVELS) == pytest.approx(expected, rel=0.05)


def test_channels_are_averaged_each_with_its_own_range():
    first, second = R.rand(2, 12, 12), R.rand(2, 12, 12)
    scaled = first * np.array([1, 1000])[:, None, None]
    parts = [mutual_information(first[c : c + 1], second[c : c + 1]) for c in range(2)]
    assert mutual_information(scaled, second) == pytest.approx(np.mean(parts), abs=1e-12)


@pytest.mark.parametrize("value", [0, 3.7, -1e6])
@pytest.mark.parametrize("value_range", [None, (0, 8)])
def test_a_constant_image_tells_nothing(value, value_range):
    constant = np.full(IMAGE.shape, value)
    assert mutual_information(IMAGE, constant, value_range=value_range) == pytest.approx(0, abs=1e-12)
    assert mutual_information(constant, constant, value_range=value_range) == 0


@pytest.mark.parametrize("kind", [torch.from_numpy, lambda x: MetaTensor(torch.from_numpy(x)), np.asfortranarray])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_kinds_and_types_do_not_matter(kind, dtype):
    other = (IMAGE**2) % 8
    expected = mutual_information(IMAGE, other, **LEVELS)
    assert mutual_information(kind(IMAGE.astype(dtype)), other, **LEVELS) == expected


def test_pixels_outside_the_mask_do_not_matter():
    mask = R.rand(1, 30, 20) < 0.5
    changed = np.where(mask, IMAGE, 77)
    assert mutual_information(IMAGE, changed, mask=mask) == mutual_information(IMAGE, IMAGE, mask=mask) > 2


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"second": IMAGE[:, 1:]}, r"`second` must be of the shape \(1, 30, 20\) of `first`, got shape \(1, 29, 20\)"),
        ({"second": IMAGE.repeat(2, 0)}, "`second` must be of the shape"),
        ({"first": IMAGE[0]}, "`first` must be channel first"),
        ({"first": IMAGE[:, :0]}, "`first` must be not empty"),
        ({"second": IMAGE * np.nan}, "`second` must be finite"),
        ({"first": IMAGE + np.inf}, "`first` must be finite"),
        ({"num_bins": 1}, "`num_bins` must be a whole number of at least 2, got 1"),
        ({"num_bins": 2.5}, "`num_bins`"),
        ({"value_range": (1, 1)}, "`value_range`"),
        ({"value_range": (0, np.nan)}, "`value_range`"),
        ({"mask": np.zeros((1, 30, 20))}, "`mask` must be true somewhere"),
        ({"mask": np.ones((1, 3, 20))}, "`mask` must be of shape"),
    ],
)
def test_bad_input_is_named(changes, named):
    with pytest.raises(ValueError, match=named):
        mutual_information(**{"first": IMAGE, "second": IMAGE} | changes)


@pytest.mark.parametrize("bad", [None, [[1]], IMAGE.astype(complex), IMAGE.astype(str)])
def test_bad_types_are_named(bad):
    with pytest.raises(TypeError, match="`second`"):
        mutual_information(IMAGE, bad)
