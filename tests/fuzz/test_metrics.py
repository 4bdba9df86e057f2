"""The metrics on odd predictions, against NumPy."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

pytest.importorskip("hypothesis", reason="fuzz tests need hypothesis")

import torch
from hypothesis import strategies as st
from monai.data import MetaTensor

from monai_infoaug.metrics import (
    HausdorffDistanceMm,
    MeanRadialError,
    PixelEmbeddingCollapseMetric,
    SuccessDetectionRate,
    success_detection_rate,
)
from tests.fuzz.fuzzing import REFUSED, as_numpy, fuzz, odd_values, outcome, seeds

TYPES = st.sampled_from([torch.float32, torch.float64, torch.float16, torch.int64])
AXES = {"none": (), "mean": (0, 1), "mean_batch": 0, "mean_channel": 1}


@fuzz(
    data=st.data(),
    reduction=st.sampled_from([*AXES, "sum"]),
    spacing=st.sampled_from([None, 0.5, (1, 2), (1, 2, 3), 0]),
)
def test_radial_errors(data, reduction, spacing):
    b, n, d = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 4)), data.draw(st.sampled_from([2, 3]))
    random = np.random.default_rng(data.draw(seeds))
    pair = [torch.from_numpy(random.normal(size=(b, n, d)) * 5).to(data.draw(TYPES)) for _ in range(2)]
    for points, value in zip(pair, (torch.inf, torch.nan), strict=True):
        if points.is_floating_point():
            points[torch.from_numpy(random.random((b, n)) < 0.2)] = value
    radii = data.draw(st.sampled_from([2.0, (1, 4), [3]]))

    def measured(metric):
        for one, other in zip(*pair, strict=True):
            metric(one[None], other[None])
        return metric.aggregate()

    errors = outcome(lambda: measured(MeanRadialError(spacing, reduction)))
    rates = outcome(lambda: measured(SuccessDetectionRate(radii, spacing, reduction)))
    good = reduction in AXES and spacing != 0 and (not isinstance(spacing, tuple) or len(spacing) == d)
    assert (errors is not REFUSED) == (rates is not REFUSED) == good
    if not good:
        return
    found, truth = map(as_numpy, pair)
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):
        warnings.simplefilter("ignore")  # of means of nothing
        own = np.linalg.norm((found - truth) * (1 if spacing is None else spacing), axis=-1)
        own = np.where(np.isnan(truth).any(-1), np.nan, np.where(np.isfinite(own), own, np.inf))
        expected = own if reduction == "none" else np.nanmean(own, AXES[reduction])
        np.testing.assert_allclose(as_numpy(errors), expected, rtol=1e-3)
        hits = np.stack([np.where(np.isnan(own), np.nan, own < radius) for radius in np.atleast_1d(radii)], -1)
        sharp = np.abs(np.nan_to_num(own, posinf=0)[..., None] - np.atleast_1d(radii)).min() > 1e-2
        if sharp:
            rate = hits if reduction == "none" else np.nanmean(hits, AXES[reduction])
            np.testing.assert_allclose(as_numpy(rates), rate, rtol=1e-5)


@fuzz(data=st.data(), last=st.booleans())
def test_collapse_is_that_of_the_effective_rank(data, last):
    b, n, f = (data.draw(st.integers(1, most)) for most in (3, 6, 5))
    random = np.random.default_rng(data.draw(seeds))
    rows = random.normal(size=(b, n, f)) * data.draw(st.sampled_from([1.0, 1e-6, 1e6]))
    if data.draw(st.booleans()):
        rows = rows[:, :1] * np.arange(1, n + 1)[:, None]  # on a line
    maps = torch.from_numpy(rows if last else rows.swapaxes(1, 2)).float()
    metric = PixelEmbeddingCollapseMetric(-1 if last else 1)
    found = outcome(lambda: (metric(maps), metric.aggregate())[1])
    assert (found is not REFUSED) == (n > 1)
    if n > 1:
        assert 0 <= float(found) <= 1


@fuzz(data=st.data(), dims=st.sampled_from([2, 3]), percentile=st.sampled_from([None, 95, 50.0, 101, "x"]))
def test_surface_distances_are_in_millimetres(data, dims, percentile):
    pytest.importorskip("scipy")
    size, moved = [12] * dims, data.draw(st.integers(0, 4))
    spacing = data.draw(st.tuples(*[st.sampled_from([0.3, 1.0, 2.5])] * dims))
    box = torch.zeros(1, *size)
    box[(0, *[slice(3, 6)] * dims)] = 1
    truth = MetaTensor(box, affine=torch.diag(torch.tensor([*spacing, *[1.0] * (4 - dims)])))
    found = outcome(
        lambda: HausdorffDistanceMm(include_background=True, percentile=percentile)([box.roll(moved, 1)], [truth])
    )
    assert (found is not REFUSED) == (percentile in (None, 95, 50.0))
    if found is not REFUSED and percentile is None:
        assert float(found) == pytest.approx(moved * spacing[0], rel=1e-4)


@fuzz(data=st.data(), which=st.integers(0, 3), argument=st.integers(0, 1))
def test_odd_arguments_of_a_call(data, which, argument):
    points = torch.rand(2, 3, 2)
    metric = [MeanRadialError(), SuccessDetectionRate(), PixelEmbeddingCollapseMetric(-1), success_detection_rate][
        which
    ]
    given = [points, (1.0, 2.0)] if which == 3 else [points, points]
    odd = [points[0], points[:1], points[..., :1], points.int(), points * torch.nan, points * torch.inf, points[:, :0]]
    given[argument] = data.draw(odd_values if which == 3 and argument else st.sampled_from(odd))
    outcome(lambda: metric(*given))
