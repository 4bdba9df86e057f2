from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from monai.data import MetaTensor
from torch import nn

from monai_infoaug.inferers import HeatmapDetector


class Given(nn.Module):
    """Gives these logits, whatever the image."""

    def __init__(self, logits: torch.Tensor, stride: int = 2) -> None:
        super().__init__()
        self.logits, self.stride = logits, stride

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        assert type(image) is torch.Tensor
        return self.logits


def gaussian(points: torch.Tensor, size: tuple[int, ...], stride: int, sigma: float) -> torch.Tensor:
    """Logits (B, L, *cells) of Gaussians around points (B, L, D) in voxels."""
    cells = [stride * torch.arange(-(-n // stride)) + (stride - 1) / 2 for n in size]
    grid = torch.stack(torch.meshgrid(*cells, indexing="ij"), -1)
    offsets = grid - points.reshape(*points.shape[:2], *[1] * len(size), -1)
    return -offsets.square().sum(-1) / (2 * sigma**2)


@pytest.mark.parametrize("size", [(24, 31), (12, 17, 14)])
@pytest.mark.parametrize("stride", [1, 2, 4])
def test_finds_the_centre_of_a_gaussian(size, stride):
    generator = torch.Generator().manual_seed(0)
    points = stride + torch.rand(2, 5, len(size), generator=generator) * (torch.tensor(size) - 3 * stride)
    network = Given(gaussian(points, size, stride, sigma=1.5 * stride), stride)
    found = HeatmapDetector()(torch.rand(2, 1, *size), network)
    torch.testing.assert_close(found["landmarks"], points, atol=1e-3, rtol=0)
    torch.testing.assert_close(found["world"], found["landmarks"])


@pytest.mark.parametrize("size", [(9, 12), (6, 7, 8)])
@pytest.mark.parametrize("radius", [0.5, 3.0, 100.0])
def test_score_is_the_probability_nearby(size, radius):
    logits = 3 * torch.randn(2, 3, *(-(-n // 2) for n in size), generator=torch.Generator().manual_seed(0))
    found = HeatmapDetector(radius)(torch.rand(2, 1, *size), Given(logits))
    for b, n in product(range(2), range(3)):
        inside = total = 0.0
        for cell in product(*map(range, logits.shape[2:])):
            weight = math.exp(logits[(b, n, *cell)].item())
            total += weight
            if math.dist([2 * j + 0.5 for j in cell], found["landmarks"][b, n].tolist()) <= radius:
                inside += weight
        assert found["scores"][b, n].item() == pytest.approx(inside / total, abs=1e-5)
    assert (found["scores"] >= 0).all()
    assert (found["scores"] <= 1).all()


def test_score_tells_a_sure_landmark_from_a_doubtful_one():
    points, size = torch.tensor([[[10.0, 10.0]]]), (64, 64)
    sure, wide = (gaussian(points, size, 2, sigma) for sigma in (1.5, 12.0))
    twice = torch.logaddexp(sure, gaussian(points + 40, size, 2, 1.5))
    scores = HeatmapDetector()(torch.rand(1, 1, *size), Given(torch.cat([sure, wide, twice], 1)))["scores"][0]
    assert scores[0] > 0.95
    assert scores[1] < 0.3
    assert 0.45 < scores[2] < 0.55


def test_world_follows_each_image():
    affine = torch.diag(torch.tensor([0.5, 2.0, 1.0])).repeat(2, 1, 1)
    affine[1, :2, -1] = torch.tensor([7.0, -3.0])
    points = torch.tensor([[[4.0, 6.0]], [[8.0, 10.0]]])
    images = MetaTensor(torch.rand(2, 1, 16, 20), affine=affine)
    images.is_batch = True
    found = HeatmapDetector()(images, Given(gaussian(points, (16, 20), 2, 3.0)))
    torch.testing.assert_close(found["world"], torch.tensor([[[2.0, 12.0]], [[11.0, 17.0]]]), atol=1e-3, rtol=0)
    assert all(type(value) is torch.Tensor for value in found.values())


def test_stays_in_the_image():
    logits = torch.zeros(1, 2, 4, 5)
    logits[0, 0, -1, -1] = logits[0, 1, 0, 0] = 5
    found = HeatmapDetector()(torch.rand(1, 1, 7, 9), Given(logits))["landmarks"]
    torch.testing.assert_close(found, torch.tensor([[[6.0, 8.0], [0.5, 0.5]]]))


def test_half_precision():
    points = torch.tensor([[[20.0, 33.0]]])
    logits = gaussian(points, (64, 64), 2, 4.0).to(torch.bfloat16)
    found = HeatmapDetector()(torch.rand(1, 1, 64, 64), Given(logits))
    assert found["scores"].dtype == torch.float32
    torch.testing.assert_close(found["landmarks"], points, atol=1.0, rtol=0)


@pytest.mark.parametrize("radius", [0, -1, None, "wide", True])
def test_radius(radius):
    with pytest.raises(ValueError, match="`radius` must be a number of voxels above 0"):
        HeatmapDetector(radius)


@pytest.mark.parametrize(
    ("inputs", "network", "message"),
    [
        (torch.rand(1, 8, 8), Given(torch.zeros(1, 2, 4, 4)), r"`inputs` must be \(B, C, \*S\), 2D or 3D, got shape"),
        (torch.full((1, 1, 8, 8), torch.nan), Given(torch.zeros(1, 2, 4, 4)), "`inputs` must be finite"),
        (torch.rand(1, 1, 8, 8), nn.Identity(), "`network` must be a network with `stride`, got Identity"),
        (torch.rand(1, 1, 8, 8), Given(torch.zeros(1, 2, 4, 5)), r"that gives \(B, L, 4, 4\) .* got \(1, 2, 4, 5\)"),
    ],
)
def test_bad_input(inputs, network, message):
    with pytest.raises(ValueError, match=message):
        HeatmapDetector()(inputs, network)
