"""Reading images through coordinate maps, and affine maps in closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from monai_infoaug.transforms._coordinates import OUTSIDE, fit_affine, resample, split_coordinates
from tests.transforms.coordinate_maps import everywhere, linear, needs_numba, with_and_without_numba


@pytest.mark.parametrize("dtype", [torch.int64, torch.int16, torch.uint8, torch.bool])
def test_nearest_moves_integers_untouched(dtype: torch.dtype) -> None:
    big = torch.iinfo(dtype).max if dtype != torch.bool else 1
    image = (torch.arange(12).view(1, 3, 4) % 2 * big).to(dtype)
    coords = torch.tensor([[0.4, 1.6, 2.0, OUTSIDE], [0.6, 2.9, 3.0, OUTSIDE]])
    result = resample(image, coords, "nearest")
    assert result.dtype == dtype
    assert result[0].tolist() == [*[image[0, i, j].item() for i, j in ((0, 1), (2, 3), (2, 3))], 0]
    assert resample(image, coords, "nearest", "border")[0, 3] == image[0, 0, 0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, torch.int16])
def test_bilinear_keeps_dtype(dtype: torch.dtype) -> None:
    result = resample(torch.tensor([[[0, 10], [20, 30]]]).to(dtype), torch.tensor([[0.5], [0.25]]), "bilinear")
    assert result.dtype == dtype
    assert result.item() == pytest.approx(12.5, abs=0.51 if dtype == torch.int16 else 1e-3)


def test_split_coordinates_snaps_interpolation_noise_and_marks_padding() -> None:
    output = torch.tensor([[[-5e-4, 4.0005, 2.0, 4.01]], [[0.0, 0.0, 1.0, 1.0]], [[1.0, 1.0, 0.9, 1.0]]])
    coords, inside = split_coordinates(output, (5, 6))
    assert inside.tolist() == [[True, True, False, False]]
    assert coords[:, 0].tolist() == [[0.0, 4.0, OUTSIDE, OUTSIDE], [0.0, 0.0, OUTSIDE, OUTSIDE]]


def test_fit_affine() -> None:
    matrix = [[0.9, -0.3], [0.4, 1.1]]
    coords = linear(matrix, (20, 16)) + 2
    valid = everywhere(coords)
    fit = fit_affine(coords, valid)
    expected = np.eye(3)
    expected[:2, :2], expected[:2, 2] = matrix, 2
    np.testing.assert_allclose(fit.numpy(), expected, atol=1e-5)
    coords[:, 3, 4] += 0.05
    assert fit_affine(coords, valid) is None
    valid[3, 4] = False  # only valid voxels count
    assert fit_affine(coords, valid) is not None
    assert fit_affine(coords, valid & (torch.arange(16) == 2)) is None  # a line fixes no map


@needs_numba
@pytest.mark.parametrize("padding_mode", ["zeros", "border"])
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize("size", [(7, 9), (6, 4, 5)])
def test_compiled_resampling_is_that_of_torch(monkeypatch, size, mode, padding_mode) -> None:
    generator = torch.Generator().manual_seed(0)
    coords = 16 * torch.rand(len(size), 30, 40, generator=generator) - 4
    coords[:, :10] = (2 * coords[:, :10]).round() / 2  # voxels and halfway between them
    coords[:, 0] = OUTSIDE
    for dtype in (torch.float32, torch.float64, torch.float16, torch.uint8, torch.int16, torch.int64, torch.bool):
        image = (100 * torch.rand(2, *size, generator=generator)).to(dtype)
        for each in (image, image.mT):  # rows and columns in memory
            one, other = with_and_without_numba(monkeypatch, resample, each, coords, mode, padding_mode)
            assert one.dtype == other.dtype == dtype
            assert one.shape == (2, 30, 40)
            if mode == "nearest":
                assert one.equal(other)
            else:  # integers on the edge between two may be either
                apart = (one.double() - other.double()).abs()
                assert apart.max() <= (1e-3 if dtype.is_floating_point else 1) + 0.1 * (dtype == torch.float16)
                assert (apart > 1e-3).float().mean() < 0.03


@needs_numba
def test_images_with_a_gradient_keep_it() -> None:
    image = torch.rand(1, 5, 5, requires_grad=True)
    resample(image, torch.tensor([[1.5], [2.0]]), "bilinear").sum().backward()
    assert image.grad.sum() == 1
