from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor
from monai.metrics import HausdorffDistanceMetric

from monai_infoaug.metrics import HausdorffDistanceMm

pytest.importorskip("scipy", reason="MONAI's distances need scipy")


def ball(centre, size=(24, 20, 16)):
    axes = torch.meshgrid(*map(torch.arange, size), indexing="ij")
    inside = sum((axis - c) ** 2 for axis, c in zip(axes, centre, strict=True)) < 25
    return torch.stack([~inside, inside]).float()


def by_brute_force(first, second, spacing, percentile=100.0):
    """Distances between all voxels of both surfaces: those with a neighbour outside."""
    surfaces = []
    for mask in (first, second):
        eroded = mask.clone()
        for axis in range(mask.ndim):
            for step in (-1, 1):
                eroded = eroded & mask.roll(step, axis)
        surfaces.append((mask & ~eroded).nonzero() * torch.tensor(spacing))
    distances = torch.cdist(*surfaces)
    return max(torch.quantile(distances.amin(axis), percentile / 100) for axis in (0, 1))


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.5, 2.0, 3.0)])
@pytest.mark.parametrize("percentile", [None, 95])
def test_every_image_has_its_own_spacing(spacing, percentile):
    metric = HausdorffDistanceMm(percentile=percentile)
    found, true = ball((10, 9, 8)), ball((12, 9, 7))
    affines = [torch.diag(torch.tensor([*s, 1.0])) for s in (spacing, (2.0, 2.0, 2.0))]
    got = metric([found, found], [MetaTensor(true, affine=affine) for affine in affines])
    for value, size in zip(got, (spacing, (2.0, 2.0, 2.0)), strict=True):
        expected = by_brute_force(found[1].bool(), true[1].bool(), size, percentile or 100.0)
        assert value.item() == pytest.approx(expected.item(), rel=1e-4)
    assert metric.aggregate().item() == pytest.approx(got.mean().item())
    plain = HausdorffDistanceMetric(percentile=percentile)([found], [true])
    assert (plain.item() == pytest.approx(got[0].item())) == (spacing == (1.0, 1.0, 1.0))


def test_what_has_no_affine_is_refused():
    metric, volume = HausdorffDistanceMm(), ball((10, 9, 8))
    with pytest.raises(TypeError, match="`y` must be MetaTensors, which know their spacing, got Tensor"):
        metric([volume], [volume])
    with pytest.raises(ValueError, match="`y` must be a list of images, got 2 images in one tensor"):
        metric(torch.stack([volume] * 2), MetaTensor(torch.stack([volume] * 2)))


@pytest.mark.parametrize("percentile", ["95", 101, -1, True, float("nan"), [95]])
def test_percentiles_are_numbers_from_0_to_100(percentile):
    with pytest.raises(ValueError, match="`percentile` must be a number from 0 to 100, or None"):
        HausdorffDistanceMm(percentile=percentile)


def test_2d_image_with_a_3d_affine():
    square = torch.zeros(1, 16, 16)
    square[:, 4:8, 4:8] = 1
    metric = HausdorffDistanceMm(include_background=True)
    truth = MetaTensor(square, affine=torch.diag(torch.tensor([0.5, 2.0, 9.0, 1.0])))
    assert metric([square.roll(3, 1)], [truth]).item() == 1.5
    assert metric([square.roll(3, 2)], [truth]).item() == 6.0
