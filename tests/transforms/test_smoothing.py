"""Separable smoothing, against sums over all pairs of voxels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monai_infoaug.transforms import _twins
from monai_infoaug.transforms._smoothing import filtered, smoothed
from tests.transforms.coordinate_maps import needs_numba


@pytest.fixture(params=["torch", *(pytest.param(way, marks=needs_numba) for way in ("compiled", "threads"))])
def way(request, monkeypatch):
    if request.param == "torch":
        monkeypatch.setattr(_twins, "_twin", lambda name: None)
    if request.param == "threads":
        from monai_infoaug.transforms import _smoothing_numba

        monkeypatch.setattr(_smoothing_numba, "LINES_PER_THREAD", 1)
        monkeypatch.setattr(torch, "get_num_threads", lambda: 3)


def along(image: np.ndarray, axis: int, matrix: np.ndarray) -> np.ndarray:
    return np.moveaxis(np.tensordot(image, matrix, ([axis], [1])), -1, axis)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("shape", [(2, 13, 40), (1, 5, 4, 6), (3, 90, 70)])
@pytest.mark.parametrize("radius", [0, 1, 4, 7])
def test_filtered_is_the_sum_of_weighted_neighbours(shape, radius):
    image = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    kernels = [torch.linspace(1, 2 + axis, radius + 1) for axis in range(len(shape) - 1)]
    kernels = [torch.cat([kernel[:-1], kernel.flip(0)]) for kernel in kernels]  # symmetric
    expected = image.double().numpy()
    for axis, kernel in enumerate(kernels, 1):
        steps = np.subtract.outer(*[np.arange(shape[axis])] * 2)
        weights = np.where(abs(steps) <= radius, kernel.double().numpy()[np.clip(steps + radius, 0, 2 * radius)], 0)
        expected = along(expected, axis, weights)
    np.testing.assert_allclose(filtered(image, kernels), expected, rtol=1e-5, atol=1e-4 * (1 + radius) ** 3)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("shape", [(2, 60, 41), (1, 9, 4, 12)])
@pytest.mark.parametrize("sigma", [0.4, 4.0, 30.0])
def test_smoothed_is_the_normalised_gaussian(shape, sigma):
    image = (torch.rand(shape, generator=torch.Generator().manual_seed(0)) > 0.5).float()
    expected = image.double().numpy()
    for axis in range(1, len(shape)):
        weights = np.exp(-(np.subtract.outer(*[np.arange(shape[axis])] * 2) ** 2) / (2 * sigma**2))
        expected = along(expected, axis, weights / weights.sum(1, keepdims=True))
    np.testing.assert_allclose(smoothed(image, sigma), expected, atol=1e-5)
