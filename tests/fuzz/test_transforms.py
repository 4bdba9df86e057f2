"""Each array transform on odd images, against what NumPy makes of its docstring."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("hypothesis", reason="fuzz tests need hypothesis")

import torch
from hypothesis import strategies as st
from monai import transforms as mt
from monai.data import MetaTensor

from monai_infoaug import transforms as T
from monai_infoaug.information import local_entropy
from monai_infoaug.information.tiers import NOTHING
from tests.fuzz.fuzzing import REFUSED, as_numpy, finite, fuzz, odd_images, odd_values, outcome, seeds

IMAGE_AND_MASK = (T.ModalityPreset,)
SETTINGS = st.one_of(
    st.builds(T.AssignPixdim, st.sampled_from([0.5, (0.5, 2.0), (1, 2, 3), None])),
    st.builds(T.BodyMask, st.sampled_from(["otsu", 0, -500.0, 1e30])),
    st.builds(T.CoordinateMap, st.booleans()),
    st.builds(T.InformationMap, st.sampled_from([1, 3, (1, 3), (3, 1, 3)]), num_bins=st.sampled_from([2, 32])),
    st.builds(T.InformationMap, window_mm=st.sampled_from([1.0, 2.5, (2, 4)]), pixdim=st.sampled_from([None, 1, 1e30])),
    st.builds(T.InformationTiers, quantiles=st.sampled_from([None, (0, 1), (0.5, 0.5)])),
    st.builds(T.InformationTiers, thresholds=st.sampled_from([(0, 0), (-5.0, 5.0)])),
    st.builds(T.LabelChannels, st.sampled_from([2, 3, 9])),
    st.builds(T.LabelChannels, bits=st.sampled_from([(1,), (1, 2, 4), (8, 1)])),
    st.builds(T.ModalityPreset, st.sampled_from(["ct", "mr", "xray", "rgb"])),
    st.builds(T.RandIntensityCurve, st.sampled_from([2, 3, 6]), prob=st.sampled_from([0.0, 1.0])),
)


def expected_of(transform, values, image):
    """What a transform gives, or None where the docstring leaves that open."""
    shape, dims = values.shape[1:], values.ndim - 1
    if isinstance(transform, T.CoordinateMap):
        grid = np.indices(shape).astype(float)
        affine = as_numpy(image.affine) if transform.world and isinstance(image, MetaTensor) else np.eye(4)
        return np.tensordot(affine[:dims, :dims], grid, 1) + affine[:dims, -1].reshape(-1, *[1] * dims)
    if isinstance(transform, T.InformationMap) and transform.window_mm is None:
        return local_entropy(values, transform.window, transform.num_bins).mean(0, keepdims=True)
    if isinstance(transform, T.InformationTiers) and transform.thresholds is not None:
        return (values > NOTHING) * sum((values >= threshold).astype(int) for threshold in transform.thresholds)
    if isinstance(transform, T.LabelChannels) and transform.num_classes:
        return np.concatenate([values == label for label in range(transform.num_classes)])
    if isinstance(transform, T.LabelChannels):
        return np.concatenate([values.astype(int) & bit > 0 for bit in transform.bits])
    if isinstance(transform, T.RandIntensityCurve) and (transform.prob == 0 or transform.knots == 2):
        return values if transform.prob == 0 else values.clip(0, 1)
    return values if isinstance(transform, T.AssignPixdim) else None


@fuzz(data=st.data(), transform=SETTINGS, seed=st.integers(0, 99))
def test_a_transform_gives_what_it_says(data, transform, seed):
    image, values = data.draw(odd_images())
    before = None if values.dtype.kind not in "buif" else as_numpy(image).copy()
    if hasattr(transform, "set_random_state"):
        transform.set_random_state(seed)
    found = outcome(lambda: transform(image))
    if values.dtype.kind not in "buif" or values.size == 0:
        assert found is REFUSED
    takes_odd = isinstance(transform, T.AssignPixdim | T.CoordinateMap)
    if found is REFUSED or not (finite(values) or takes_odd):
        assert found is REFUSED or takes_odd
        return
    assert np.array_equal(as_numpy(image), before, equal_nan=True)
    outs = found if isinstance(transform, IMAGE_AND_MASK) else (found,)
    for out in outs:
        assert tuple(out.shape[1:]) == values.shape[1:]
        kind = MetaTensor if isinstance(transform, T.AssignPixdim) else type(image)
        assert isinstance(out, kind)
        assert np.isfinite(as_numpy(out)).all() or isinstance(transform, T.AssignPixdim)
    expected = expected_of(transform, values, image)
    if expected is not None:
        size = max(1.0, np.abs(expected[np.isfinite(expected)]).max(initial=0))
        np.testing.assert_allclose(as_numpy(found), expected, atol=1e-5 * size, rtol=1e-3)
    if isinstance(transform, T.ModalityPreset):
        assert 0 <= as_numpy(outs[0]).min() <= as_numpy(outs[0]).max() <= 1
        assert set(np.unique(as_numpy(outs[1]))) <= {0, 1}
    if isinstance(transform, T.AssignPixdim) and transform.pixdim is not None:
        dims = values.ndim - 1
        assert np.allclose(as_numpy(found.pixdim)[:dims], np.broadcast_to(transform.pixdim, dims))


@fuzz(data=st.data(), mode=st.sampled_from(["blend", "anchor", "continuous"]), seed=st.integers(0, 99))
def test_intensity_by_tier_changes_the_tiers_that_it_says(data, mode, seed):
    image, values = data.draw(odd_images())
    random, shape = np.random.default_rng(seed), (1, *values.shape[1:])
    tiers, information = random.integers(0, 3, shape), random.random(shape) * 5
    noise = mt.RandShiftIntensity(data.draw(st.sampled_from([0.0, 7.0])), prob=1.0)
    transforms = noise if mode == "continuous" else {"high": noise}
    change = T.RandTierIntensity(transforms, mode=mode, sigma=0.0).set_random_state(seed)
    found = outcome(lambda: change(image, information=information, tiers=tiers, tier=data.draw(st.integers(0, 2))))
    assert (found is not REFUSED) == (finite(values) and values.size > 0)
    if found is REFUSED:
        return
    assert type(found) is type(image)
    assert tuple(found.shape) == values.shape
    moved = as_numpy(found) - values
    slack = 1e-2 * np.abs(values).max() + 1e-2
    if mode == "blend":
        assert (np.abs(moved) * (tiers < 2) <= slack).all()
        assert (np.abs(moved) <= 7 + slack).all()
    elif mode == "anchor":
        assert np.ptp(moved) <= 2 * slack  # a shift of all, or none


@fuzz(data=st.data(), dims=st.sampled_from([2, 3]), sigma=st.sampled_from([0.5, 2.0, 1e-6]), stride=st.integers(1, 4))
def test_heat_maps_are_gaussians_around_the_landmarks(data, dims, sigma, stride):
    shape = data.draw(st.tuples(*[st.integers(1, 9)] * dims))
    random = np.random.default_rng(data.draw(seeds))
    points = random.uniform(-2, 10, (data.draw(st.integers(1, 3)), dims))
    points[random.random(len(points)) < 0.3] = np.nan
    coords = np.indices(shape).astype(data.draw(st.sampled_from(["f4", "f8", "i8"])))
    weights = data.draw(st.sampled_from([None, None, random.random(len(points)), [1.0]]))
    found = outcome(lambda: T.LandmarkHeatmap(sigma, stride)(points, coords, weights))
    assert (found is not REFUSED) == (weights is None or len(weights) == len(points))
    if found is REFUSED:
        return
    cells = np.stack(
        np.meshgrid(*[[np.arange(n)[i : i + stride].mean() for i in range(0, n, stride)] for n in shape], indexing="ij")
    )
    assert found.shape == (len(points), *cells.shape[1:])
    for heat, point, weight in zip(found, points, np.ones(len(points)) if weights is None else weights, strict=True):
        squares = ((cells - point.reshape(-1, *[1] * dims)) ** 2).sum(0)
        if not heat.any():
            assert not np.sqrt(squares.min()) < 0.4 * stride or weight < 1e-6 or np.isnan(point).any()
            continue
        expected = np.exp(-(squares - squares.min()) / (2 * sigma**2))
        np.testing.assert_allclose(heat, weight * expected / expected.sum(), atol=1e-3)


@fuzz(data=st.data(), dims=st.sampled_from([2, 3]), radius=st.sampled_from([0.0, 1.5, 3]))
def test_clicks_label_what_is_near_them(data, dims, radius):
    shape = data.draw(st.tuples(*[st.integers(1, 7)] * dims))
    random = np.random.default_rng(data.draw(seeds))
    count = data.draw(st.integers(0, 4))
    points = random.uniform(-1, 7, (count, dims))
    points[random.random(count) < 0.2] = np.nan
    classes = random.integers(0, 3, count).astype(data.draw(st.sampled_from(["i8", "u1", "f4"])))
    found = outcome(lambda: T.PointLabels(radius)(points, classes, np.zeros((1, *shape))))
    assert found is not REFUSED
    grid = np.indices(shape)
    distances = np.array([((grid - p.reshape(-1, *[1] * dims)) ** 2).sum(0) ** 0.5 for p in points]).reshape(-1, *shape)
    distances = np.where(np.isnan(distances), np.inf, distances)
    near = distances.min(0, initial=np.inf)
    assert (found[0][near < radius - 1e-4] > 0).all()
    assert set(found[0][near > max(radius, dims**0.5 / 2) + 1e-3]) <= {0}
    for place in zip(*((near < radius - 1e-4) & (near > dims**0.5)).nonzero(), strict=True):
        column = distances[(slice(None), *place)]
        if (column < near[place] + 1e-3).sum() == 1:
            assert found[(0, *place)] in (
                classes[column.argmin()] + 1,
                *(classes + 1)[distances.reshape(count, -1).min(1) < 1],
            )


CALLS = {
    T.LandmarkHeatmap(1.0): lambda: [np.ones((2, 2)), np.indices((4, 4)).astype("f4"), np.ones(2)],
    T.PointLabels(1.0): lambda: [np.ones((2, 2)), np.array([1, 2]), np.ones((1, 4, 4))],
    T.RandTierIntensity(): lambda: [np.ones((1, 4, 4)), np.ones((1, 4, 4)), np.ones((1, 4, 4), "u1")],
    T.InformationMap(3): lambda: [np.ones((1, 4, 4)), np.ones((1, 4, 4))],
    T.InformationTiers(): lambda: [np.ones((1, 4, 4)), np.ones((1, 4, 4))],
    T.BodyMask(): lambda: [np.ones((1, 4, 4))],
    T.AssignPixdim(1.0): lambda: [np.ones((1, 4, 4))],
    T.LabelChannels(2): lambda: [np.ones((1, 4, 4))],
    T.ModalityPreset("mr"): lambda: [np.ones((1, 4, 4))],
    T.RandIntensityCurve(): lambda: [np.ones((1, 4, 4))],
    T.CoordinateMap(): lambda: [np.ones((1, 4, 4))],
    T.guess_modality: lambda: [np.ones((1, 4, 4))],
}


@fuzz(data=st.data(), transform=st.sampled_from(list(CALLS)), which=st.integers(0, 2))
def test_odd_arguments_of_a_call(data, transform, which):
    arguments = CALLS[transform]()
    arguments[which % len(arguments)] = data.draw(odd_values)
    outcome(lambda: transform(*arguments))


DICTIONARIES = [
    T.AssignPixdimd("image", 0.5),
    T.BodyMaskd("image"),
    T.CoordinateMapd("image"),
    T.InformationMapd("image", window=3, mask_key="mask"),
    T.InformationTiersd("information"),
    T.LabelChannelsd("label", 3),
    T.LandmarkHeatmapd("points", 1.0),
    T.ModalityPresetd("image", "mr"),
    T.PointLabelsd("points"),
    T.RandIntensityCurved("image", prob=1.0),
    T.RandTierIntensityd("image"),
    T.RandPairedViewsd("image", num_points=2),
]


@fuzz(data=st.data(), transform=st.sampled_from(DICTIONARIES), missing=st.booleans())
def test_odd_entries_of_a_dictionary(data, transform, missing):
    item = {name: torch.ones(1, 4, 4) for name in ("image", "mask", "information", "tiers", "label")}
    item |= {"coords": torch.rand(2, 4, 4), "points": torch.ones(2, 2), "point_classes": torch.ones(2)}
    name = data.draw(st.sampled_from([*item, "foreground", "sampling_view1"]))
    if missing:
        item.pop(name, None)
    else:
        item[name] = data.draw(odd_values)
    before = dict(item)
    outcome(lambda: transform(item))
    assert item.keys() == before.keys()
    assert all(item[key] is before[key] for key in item)
