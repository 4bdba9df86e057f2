from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from monai_infoaug.handlers import load_weights
from monai_infoaug.networks import DenseDescriptor, GlobalLocalEmbeddingNet, LandmarkHeatmapNet, PixelEmbeddingNet

SMALL = {"features": (4, 6, 8), "embedding_dim": 5, "strides": (2, 8)}


def trunk(dims: int = 2, both: bool = True, **kwargs):
    nets = [PixelEmbeddingNet(spatial_dims=dims, **{**SMALL, **kwargs}) for _ in range(1 + both)]
    return GlobalLocalEmbeddingNet(nets) if both else nets[0]


def heatmaps(dims: int = 2, both: bool = True, landmarks: int = 3, seed: int = 0, **kwargs) -> LandmarkHeatmapNet:
    torch.manual_seed(seed)
    return LandmarkHeatmapNet(trunk(dims, both, **kwargs), landmarks).eval()


def random(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [(48, 32), (29, 37), (24, 16, 32), (25, 18, 31)])
@pytest.mark.parametrize("both", [False, True])
def test_sums_the_logits_of_every_level(size, both):
    """One voxel of the finest cells after the other: the levels, linear between their cells."""
    net, image = heatmaps(len(size), both), random(2, 1, *size)
    logits = net(image)
    assert net.stride == 2
    assert logits.shape == (2, 3, *(-(-s // 2) for s in size))
    expected = torch.zeros_like(logits)
    for features, head, stride in zip(net.trunk.feature_maps(image), net.heads, net.trunk.strides, strict=True):
        weight, bias = head.conv.weight.flatten(1), head.conv.bias
        level = torch.einsum("lc,bc...->bl...", weight, features) + bias.view(-1, *[1] * len(size))
        for axis, length in enumerate(logits.shape[2:], start=2):  # axis by axis
            place = ((torch.arange(length) + 0.5) * 2 / stride - 0.5).clamp(0, level.shape[axis] - 1)
            low, high = place.floor().long(), place.ceil().long()
            part = (place - low).view([-1 if a == axis else 1 for a in range(level.ndim)])
            level = level.index_select(axis, low) * (1 - part) + level.index_select(axis, high) * part
        expected += level
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("both", [False, True])
def test_features_are_what_the_embedding_heads_see(both):
    net, image = trunk(both=both).eval(), random(1, 1, 29, 37)
    heads = [head for each in (net.networks if both else [net]) for head in each.heads.values()]
    maps = net.feature_maps(image)
    for level, features, head in zip(net(image), maps, heads, strict=True):
        torch.testing.assert_close(level, torch.nn.functional.normalize(head(features), dim=1))


@pytest.mark.parametrize("both", [False, True])
def test_warm_start(both, tmp_path):
    pretrained, net = trunk(both=both), heatmaps(both=both, seed=1)
    torch.save({"network": pretrained.state_dict()}, tmp_path / "checkpoint.pt")
    assert load_weights(net.trunk, tmp_path / "checkpoint.pt") is net.trunk
    got, expected = (each.eval().feature_maps(random(1, 1, 48, 32)) for each in (net.trunk, pretrained))
    torch.testing.assert_close(got, expected)
    with pytest.raises(
        ValueError, match=r"checkpoint.pt` must be a checkpoint of this .*EmbeddingNet, got a checkpoint"
    ):
        load_weights(heatmaps(both=both, features=(4, 6, 10)).trunk, tmp_path / "checkpoint.pt")


def test_gradient_reaches_all_but_the_embedding_heads():
    net = heatmaps().train()
    net(random(2, 1, 32, 48)).log_softmax(2)[..., 3, 4].sum().backward()
    unreached = {name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()}
    assert unreached == {name for name, _ in net.named_parameters() if ".heads." in name}


def test_cells_lie_where_the_matcher_looks_for_them():
    """A network whose logits are the means of its cells: the voxel that is bright is in the cell that is largest."""
    net = heatmaps(both=False, landmarks=1)
    image = torch.zeros(1, 1, 32, 48)
    image[..., 12:14, 30:32] = 1
    pooled = interpolate(image, scale_factor=0.5, mode="area")
    net.trunk.feature_maps = lambda image: [pooled.expand(-1, 6, -1, -1), torch.zeros(1, 6, 4, 6)]
    for head in net.heads:
        torch.nn.init.ones_(head.conv.weight)
    assert np.unravel_index(int(net(image).argmax()), (16, 24)) == (6, 15)


def test_half_precision_sums_in_single():
    net, image = heatmaps(), random(1, 1, 48, 32)
    with torch.autocast("cpu", torch.bfloat16):
        logits = net(image)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, net(image), atol=0.1, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("both", [False, True])
def test_script(dims, both):
    net, file = heatmaps(dims, both), io.BytesIO()
    torch.jit.save(torch.jit.script(net), file)
    file.seek(0)
    loaded = torch.jit.load(file)
    for size in ((32, 48, 16), (29, 51, 18)):
        image = random(1, 1, *size[:dims])
        torch.testing.assert_close(loaded(image), net(image), atol=1e-5, rtol=0)


@pytest.mark.parametrize("both", [False, True])
def test_another_trunk(both):
    other = DenseDescriptor(PixelEmbeddingNet())
    given = GlobalLocalEmbeddingNet([PixelEmbeddingNet(), other]) if both else other
    message = r"`trunk` must be a PixelEmbeddingNet, or a GlobalLocalEmbeddingNet of such, got \['DenseDescriptor'\]"
    with pytest.raises(ValueError, match=message):
        LandmarkHeatmapNet(given, 3)


@pytest.mark.parametrize("number", [0, -1, None, "3"])
def test_number_of_landmarks(number):
    with pytest.raises(ValueError, match=f"`num_landmarks` must be a whole number of at least 1, got {number}"):
        LandmarkHeatmapNet(trunk(), number)
