from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch.nn.functional import avg_pool2d, avg_pool3d

from monai_infoaug._grid import level_features
from monai_infoaug.commands.anchor_loss import ANCHORS, _contrasts, anchor_losses, loss_cuts
from monai_infoaug.losses import PixelInfoNCELoss


class Pooling(torch.nn.Module):
    """Two levels of fixed features: the pooled image and its squares."""

    strides = (1, 4)

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        pool = avg_pool2d if image.ndim == 4 else avg_pool3d
        features = torch.cat([image - 0.5, (image - 0.5) ** 2, image.roll(3, -1) - 0.5], 1)
        return [features, pool(features, 4)]


@pytest.mark.parametrize("shape", [(32, 40), (16, 20, 24)])
def test_losses_are_those_that_the_bundles_train_with(shape):
    views, dims = torch.rand(2, 1, 1, *shape), len(shape)
    points = [torch.rand(1, 30, dims) * torch.tensor(shape) for _ in range(2)]
    levels = [Pooling()(view) for view in views]
    loss, expected, alike = PixelInfoNCELoss(temperature=0.1, symmetric=False), 0, 0
    for stride, *pair in zip(Pooling.strides, *levels, strict=True):
        features = [level_features(level, at, stride) for level, at in zip(pair, points, strict=True)]
        expected = expected + loss(*features, points[0], radius=2.0 * stride) / 2
        first, second = (feature[0] / feature[0].norm(dim=1, keepdim=True) for feature in features)
        alike = alike + (first * second).sum(1) / 2
    losses, cosines = _contrasts(levels, points, Pooling.strides)
    torch.testing.assert_close(cosines, alike)
    assert losses.shape == (30,)
    assert float(losses.mean()) == pytest.approx(float(expected), rel=1e-5)
    assert (losses >= 0).all()


@pytest.mark.parametrize("shape", [(60, 50), (24, 26, 28)])
def test_anchors_lie_in_the_foreground_and_carry_its_information(shape):
    image = MetaTensor(torch.rand(1, *shape), affine=torch.eye(4))
    ramp = torch.linspace(1, 5, shape[0]).reshape(1, -1, *[1] * (len(shape) - 1)).expand(1, *shape)
    foreground = ramp > 3
    bits, losses, cosines = anchor_losses(Pooling(), image, ramp.contiguous(), foreground, torch.nn.Identity())
    assert bits.shape == losses.shape == cosines.shape
    assert ANCHORS / 2 < len(bits) <= ANCHORS
    assert bits.min() > 2.8
    assert bits.max() <= 5
    assert bits.max() > 4.5
    assert losses.isfinite().all()
    assert (cosines.abs() <= 1 + 1e-5).all()
    again = anchor_losses(Pooling(), image, ramp.contiguous(), foreground, torch.nn.Identity())
    assert torch.equal(again[0], bits)
    assert torch.equal(again[1], losses)
    other = anchor_losses(Pooling(), image, ramp.contiguous(), foreground, torch.nn.Identity(), seed=1)
    assert not np.array_equal(other[0][:50], bits[:50])


def test_a_change_that_destroys_costs():
    image = MetaTensor(torch.rand(1, 60, 50), affine=torch.eye(3))
    given = image, torch.rand(1, 60, 50), torch.ones(1, 60, 50)
    plain, destroyed = (
        [float(each.mean()) for each in anchor_losses(Pooling(), *given, change)[1:]]
        for change in (lambda x: x, torch.rand_like)
    )
    assert destroyed[0] > plain[0] + 0.5
    assert destroyed[1] < plain[1] - 0.1


@pytest.mark.parametrize("noise", [0, 0.3])
def test_cuts_are_where_the_loss_crosses_its_mean(noise):
    bits = np.random.default_rng(0).uniform(0, 5, 4000)
    losses = (bits - 2) ** 2 + noise * np.random.default_rng(1).normal(size=4000)
    low, high = loss_cuts(bits, losses)
    for cut in (low, high):
        assert (cut - 2) ** 2 == pytest.approx(np.mean((bits - 2) ** 2), abs=0.05)
    assert low < 2 < high


@pytest.mark.parametrize("curve", [lambda x: x, lambda x: 0 * x + 1, lambda x: (x - 1) * (x - 2.5) * (x - 4)])
def test_no_cuts_without_two_crossings(curve):
    bits = np.linspace(0, 5, 500)
    assert loss_cuts(bits, curve(bits)) is None
