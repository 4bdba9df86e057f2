"""Information and tiers of odd images, against histograms that are counted window by window."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

pytest.importorskip("hypothesis", reason="fuzz tests need hypothesis")

from hypothesis import strategies as st

from monai_infoaug.information import (
    assign_tiers,
    load_thresholds,
    local_entropy,
    mutual_information,
    save_thresholds,
    tier_thresholds,
)
from monai_infoaug.information.tiers import NOTHING
from tests.fuzz.fuzzing import REFUSED, as_numpy, finite, fuzz, odd_images, odd_values, outcome, seeds

RANGES = st.sampled_from([None, None, (0.0, 1.0), (-100.0, 100.0), (0, 255)])


def quantile(values, share):
    values = np.sort(values, axis=None)
    rank = share * (len(values) - 1)
    low, high = values[int(np.floor(rank))], values[int(np.ceil(rank))]
    return low + (rank - np.floor(rank)) * (high - low)


def bins_of(channel, inside, count, value_range):
    """Number of the histogram's bin of each pixel."""
    low, high = value_range or [quantile(channel[inside], share) for share in (0.005, 0.995)]
    if low == high:
        return np.where(channel > low, count - 1, 0)
    with np.errstate(over="ignore"):
        return np.clip(np.trunc((channel - low) * count / (high - low)), 0, count - 1).astype(int)


def bits(numbers):
    shares = np.unique(numbers, return_counts=True)[1] / len(numbers)
    return -(shares * np.log2(shares)).sum()


def masks(draw, shape):
    """None, or a mask of an odd type, perhaps of a shape or content that cannot be."""
    kind = draw(st.sampled_from([None, None, "one", "each", "empty", "shape", "text"]))
    random = np.random.default_rng(draw(seeds))
    if kind is None:
        return None, np.ones(shape, bool), True
    if kind == "text":
        return "mask", None, False
    mask = random.random((shape[0] if kind == "each" else 1, *shape[1:])) < 0.7
    if kind == "empty":
        mask[:] = False
    if kind == "shape":
        mask = np.concatenate([mask, mask], -1)
    given = mask.astype(draw(st.sampled_from(["?", "u1", ">i2", "f4", ">f8"])))
    good = kind != "shape" and bool(mask.reshape(len(mask), -1).any(1).all())
    return given, np.broadcast_to(mask, shape) if kind != "shape" else None, good


@fuzz(data=st.data(), window=st.sampled_from([1, 3, 5, (3, 1), (1, 3, 3), np.int64(3), 2, 0, "3", 3.0, (3,), ()]))
def test_entropy_is_that_of_the_histogram_of_each_window(data, window):
    image, values = data.draw(odd_images())
    num_bins, value_range = data.draw(st.sampled_from([2, 5, 32, 256])), data.draw(RANGES)
    mask, inside, good_mask = masks(data.draw, values.shape)
    before = as_numpy(image).copy() if finite(values) else None
    found = outcome(lambda: local_entropy(image, window, num_bins, value_range, mask))
    sides = list(window) if isinstance(window, tuple) else [window]
    counts = len(sides) > 0 and all(isinstance(side, int | np.integer) for side in sides)
    sides = sides * (values.ndim - 1 if len(sides) == 1 else 1)
    fits = counts and len(sides) == values.ndim - 1
    fits = fits and all(0 < side <= n and side % 2 for side, n in zip(sides, values.shape[1:], strict=True))
    good = fits and finite(values) and values.size > 0 and good_mask
    assert (found is not REFUSED) == good
    if not good:
        return
    assert found.shape == image.shape
    assert type(found) is type(image)
    assert np.array_equal(as_numpy(image), before)
    expected = np.zeros(values.shape)
    for c, channel in enumerate(values):
        numbers = bins_of(channel, inside[c], num_bins, value_range)
        for place in zip(*inside[c].nonzero(), strict=True):
            box = tuple(
                slice(max(0, at - side // 2), at + side // 2 + 1) for at, side in zip(place, sides, strict=True)
            )
            expected[(c, *place)] = bits(numbers[box][inside[c][box]])
    np.testing.assert_allclose(as_numpy(found), expected, atol=1e-5)


@fuzz(data=st.data(), quantiles=st.sampled_from([(1 / 3, 2 / 3), (0, 1), (0.5, 0.5), (0.1, 0.95), (0.0, 0.3)]))
def test_tiers_are_split_at_the_quantiles(data, quantiles):
    image, values = data.draw(odd_images(channels=1))
    mask, inside, good_mask = masks(data.draw, values.shape)
    thresholds = outcome(lambda: tier_thresholds(image, quantiles, mask))
    good = finite(values) and values.size > 0 and good_mask
    assert (thresholds is not REFUSED) == good
    if not good:
        return
    shown = values[inside].astype(float)
    telling = shown[shown > NOTHING]
    levels = np.unique(telling)
    tiers = as_numpy(outcome(lambda: assign_tiers(image, thresholds, mask)))
    wanted = (values >= thresholds[0]).astype(int) + (values >= thresholds[1])
    assert np.array_equal(tiers, np.where(inside & (values > NOTHING), wanted, 0))
    if len(levels) == 0:
        return
    assert set(thresholds) <= set(levels)
    wanted = {tier for tier, share in enumerate(np.diff([0, *quantiles, 1])) if share > 0} | {2}
    wanted |= {0} if len(telling) < len(shown) else set()
    # as many tiers as there are levels for, and where no levels tie, with their shares
    assert len(set(tiers[inside].tolist())) == min(len(wanted), len(levels) + (len(telling) < len(shown)))
    if len(levels) == len(telling) > 3:
        assert all(
            abs((telling < cut).mean() - q) <= 1.5 / len(levels) for cut, q in zip(thresholds, quantiles, strict=True)
        )


@fuzz(data=st.data(), num_bins=st.sampled_from([2, 8, 32]), value_range=RANGES)
def test_mutual_information_is_that_of_the_joint_histogram(data, num_bins, value_range):
    first, values = data.draw(odd_images())
    second, others = data.draw(odd_images())
    if data.draw(st.booleans()):
        second, others = first, values
    mask, inside, good_mask = masks(data.draw, values.shape)
    found = outcome(lambda: mutual_information(first, second, num_bins, value_range, mask))
    good = finite(values) and finite(others) and values.shape == others.shape and values.size > 0 and good_mask
    assert (found is not REFUSED) == good
    if not good:
        return
    expected = []
    for one, two, within in zip(values, others, inside, strict=True):
        a, b = (bins_of(x, within, num_bins, value_range)[within] for x in (one, two))
        expected.append(bits(a) + bits(b) - bits(a * num_bins + b))
    assert found == pytest.approx(np.mean(expected), abs=1e-6)


@fuzz(data=st.data(), which=st.integers(0, 3), argument=st.integers(0, 4))
def test_odd_arguments_are_refused_by_name(data, which, argument):
    image = np.arange(30.0).reshape(1, 5, 6)
    function, good = [
        (local_entropy, [image, 3, 4, (0, 30), None]),
        (mutual_information, [image, image, 4, None, None]),
        (tier_thresholds, [image, (0.2, 0.8), None]),
        (assign_tiers, [image, (2.0, 8.0), None]),
    ][which]
    good[argument % len(good)] = data.draw(odd_values)
    found = outcome(lambda: function(*good))
    if found is not REFUSED:
        assert np.isfinite(as_numpy(found)).all()


@fuzz(data=st.data())
def test_thresholds_come_back_from_their_file_or_it_is_refused(data, tmp_path):
    path = tmp_path / "thresholds.json"
    thresholds = tuple(sorted(data.draw(st.tuples(*[st.floats(-1e6, 1e6)] * 2))))
    save_thresholds(path, thresholds)
    assert outcome(lambda: load_thresholds(path)) == thresholds
    text = path.read_text()
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text)))
        piece = data.draw(st.sampled_from(["", "[", "}", '"', "NaN", "1e999", "-", "9" * 400, "\x00", "null", ","]))
        text = text[:at] + piece + text[at + data.draw(st.integers(0, 4)) :]
    path.write_bytes(text.encode(data.draw(st.sampled_from(["utf-8", "utf-16", "utf-8-sig"]))))
    found = outcome(lambda: load_thresholds(path))
    if found is not REFUSED:
        assert list(found) == [float(number) for number in json.loads(path.read_text("utf-8-sig"))["thresholds"]]


@fuzz(data=st.data(), windows=st.lists(st.sampled_from([1, 3, 5]), min_size=2, max_size=2))
def test_what_is_turned_tells_the_same(data, windows):
    image = np.random.default_rng(data.draw(seeds)).random((1, 7, 9))
    for axes in itertools.permutations((1, 2)):
        turned = image.transpose(0, *axes)
        found = outcome(lambda turned=turned, axes=axes: local_entropy(turned, [windows[axis - 1] for axis in axes]))
        assert np.allclose(found.transpose(0, *axes), local_entropy(image, windows))
