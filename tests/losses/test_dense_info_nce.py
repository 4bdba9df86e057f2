"""The dense loss against loops over points and cells, its gradients, and what must not count."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import cosine_similarity

from monai_infoaug._grid import level_features
from monai_infoaug.losses import DenseInfoNCELoss


def pair(dims=2, batch=2, count=7, stride=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    cells = (5, 4, 3)[:dims]
    levels = [torch.randn(batch, 6, *cells, generator=generator, dtype=torch.float64) for _ in range(2)]
    size = stride * torch.tensor(cells) - 1
    points = [torch.rand(batch, count, dims, generator=generator, dtype=torch.float64) * size for _ in range(2)]
    return *levels, *points


def by_loops(level1, level2, points1, points2, used, stride, radius, temperature):
    losses = []
    for here, there, points, partners in ((level1, level2, points1, points2), (level2, level1, points2, points1)):
        for b, n in used.nonzero().tolist():
            anchor = level_features(here[b : b + 1], points[b : b + 1, n : n + 1], stride)[0, 0]
            partner = level_features(there[b : b + 1], partners[b : b + 1, n : n + 1], stride)[0, 0]
            positive = math.exp(float(cosine_similarity(anchor, partner, dim=0)) / temperature)
            total = positive
            for cell in torch.ones(there.shape[2:]).nonzero():
                if (stride * cell + (stride - 1) / 2 - partners[b, n]).norm() >= radius:
                    feature = there[(b, slice(None), *cell.tolist())]
                    total += math.exp(float(cosine_similarity(anchor, feature, dim=0)) / temperature)
            losses.append(-math.log(positive / total))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(("stride", "radius"), [(2, 0.0), (2, 3.0), (4, 4.0)])
def test_equals_loops(dims, stride, radius):
    level1, level2, points1, points2 = pair(dims, stride=stride)
    used = torch.rand(points1.shape[:2], generator=torch.Generator().manual_seed(1)) < 0.7
    loss = DenseInfoNCELoss(temperature=0.3)(level1, level2, points1, points2, used, stride=stride, radius=radius)
    wanted = by_loops(level1, level2, points1, points2, used, stride, radius, 0.3)
    assert float(loss) == pytest.approx(wanted, rel=1e-9)


def test_gradients():
    level1, level2, points1, points2 = pair(count=3)
    inputs = [level.requires_grad_() for level in (level1, level2)]
    assert torch.autograd.gradcheck(lambda a, b: DenseInfoNCELoss(0.5)(a, b, points1, points2, None, 2, 3.0), inputs)


def test_one_direction_has_its_anchors_in_view_1():
    level1, level2, points1, points2 = pair()
    both = DenseInfoNCELoss()(level1, level2, points1, points2, stride=2)
    one = DenseInfoNCELoss(symmetric=False)
    there, back = one(level1, level2, points1, points2, stride=2), one(level2, level1, points2, points1, stride=2)
    assert float(both) == pytest.approx(float(there + back) / 2, rel=1e-12)


def test_unused_points_reach_nothing():
    level1, level2, points1, points2 = pair()
    used = torch.ones(points1.shape[:2], dtype=torch.bool)
    used[:, 3:] = False
    wanted = DenseInfoNCELoss()(level1, level2, points1[:, :3], points2[:, :3], stride=2)
    points1[:, 3:], points2[:, 5] = torch.nan, torch.inf
    assert torch.allclose(DenseInfoNCELoss()(level1, level2, points1, points2, used, stride=2), wanted)
    assert torch.allclose(DenseInfoNCELoss()(level1, level2, points1, points2, stride=2), wanted)
    level1.requires_grad_()
    nothing = DenseInfoNCELoss()(level1, level2, points1, points2, torch.zeros_like(used), stride=2)
    nothing.backward()
    assert nothing == 0
    assert bool((level1.grad == 0).all())


def test_half_precision_at_low_temperature_is_finite():
    level1, level2, points1, points2 = pair()
    with torch.autocast("cpu", torch.bfloat16):
        loss = DenseInfoNCELoss(0.01)(level1.bfloat16(), level2.bfloat16(), points1, points2, stride=2)
    assert loss.dtype == torch.float32
    assert bool(loss.isfinite())


@pytest.mark.parametrize(
    ("settings", "change", "message"),
    [
        ({"temperature": 0}, {}, "`temperature` must be"),
        ({"radius": -1}, {}, "`radius` must be"),
        ({}, {"level2": torch.zeros(2, 5, 4, 4)}, "`level2` must be"),
        ({}, {"level2": torch.zeros(2, 4, 4, 4, 4)}, "`level2` must be"),
        ({}, {"points1": torch.zeros(2, 7, 3)}, "`points1` must be"),
        ({}, {"points2": torch.zeros(2, 6, 2)}, "`points2` must be"),
        ({}, {"valid": torch.ones(2, 7)}, "`valid` must be"),
        ({}, {"radius": -1.0}, "`radius` must be"),
    ],
)
def test_bad_input(settings, change, message):
    arguments = dict(zip(("level1", "level2", "points1", "points2"), pair(), strict=True)) | change
    with pytest.raises(ValueError, match=message):
        DenseInfoNCELoss(**settings)(**arguments, stride=2)
