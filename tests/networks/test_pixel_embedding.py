from __future__ import annotations

import copy

import pytest
import torch
from monai.networks import utils
from torch.nn.functional import avg_pool2d, avg_pool3d

from monai_infoaug.networks import GlobalLocalEmbeddingNet, PixelEmbeddingNet
from monai_infoaug.networks.pixel_embedding import Unshuffle

SMALL = {"features": (4, 6, 8), "embedding_dim": 5, "strides": (2, 8)}


def small(seed: int = 0, **kwargs) -> PixelEmbeddingNet:
    torch.manual_seed(seed)
    return PixelEmbeddingNet(**{**SMALL, **kwargs}).eval()


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def assert_same_levels(got, expected):
    torch.testing.assert_close(list(got), list(expected), atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(16, 24), (17, 9), (1, 30), (8, 8, 16), (9, 15, 7)])
@pytest.mark.parametrize("strides", [(2,), (8,), (2, 8), (4, 8), (2, 4, 8)])
def test_shapes_and_unit_norm(size, strides):
    levels = small(spatial_dims=len(size), in_channels=2, strides=strides)(random(3, 2, *size))
    assert [tuple(level.shape) for level in levels] == [(3, 5, *(-(-s // k) for s in size)) for k in strides]
    for level in levels:
        torch.testing.assert_close(level.norm(dim=1), torch.ones(3, *level.shape[2:]))


@pytest.mark.parametrize("size", [(64, 24), (64, 8, 12)])
def test_shift_by_cells_shifts_the_embeddings(size):
    net, shift = small(spatial_dims=len(size), features=(3, 3), strides=(2, 4), norm="batch"), 4
    image = random(1, 1, *size)
    moved = net(torch.roll(image, shift, dims=2))
    margin = 5  # in cells of the coarsest level: beyond the reach of the borders
    for level, level_moved, stride in zip(net(image), moved, net.strides, strict=True):
        inner, cells = margin * 4 // stride, shift // stride
        expected = level[:, :, inner - cells : -inner - cells]
        assert expected.numel()
        assert expected.std() > 0.01
        torch.testing.assert_close(level_moved[:, :, inner:-inner], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_cell_looks_around_its_own_centre(dims):
    """The centroid of a cell's receptive field, all weights alike, is where ``level_features`` places the cell."""
    net = small(spatial_dims=dims, features=(2, 2, 2), strides=(2, 8), norm=None)
    for parameter in net.parameters():
        torch.nn.init.constant_(parameter, 0.1 if parameter.ndim > 1 else 0.0)
    raw = {}
    for name, head in net.heads.items():
        head.register_forward_hook(lambda _, __, out, name=name: raw.update({name: out}))
    image = torch.ones(1, 1, *[64] * dims, requires_grad=True)
    net(image)
    for name, stride in zip(net.heads, net.strides, strict=True):
        cell = [32 // stride] * dims
        (weights,) = torch.autograd.grad(raw[name][(0, 0, *cell)], image, retain_graph=True)
        along = weights[0, 0].flatten(1).sum(1)
        centroid = (along * torch.arange(64)).sum() / along.sum()
        assert centroid == pytest.approx(stride * cell[0] + (stride - 1) / 2, abs=0.5)


@pytest.mark.skipif(not hasattr(utils, "pixelunshuffle"), reason="new in MONAI 1.5")
@pytest.mark.parametrize("size", [(6, 10), (4, 6, 8)])
def test_stem_is_that_of_monai(size):
    image = random(2, 3, *size)
    assert torch.equal(Unshuffle()(image), utils.pixelunshuffle(image, len(size), 2))


def test_instance_norm_needs_more_than_one_cell():
    with pytest.raises(ValueError, match=r"`image` must be larger than 8 along an axis"):
        small(norm="instance")(random(1, 1, 8, 8))
    assert small(norm="instance")(random(1, 1, 9, 8))[0].isfinite().all()


def test_odd_size_is_padded_by_repetition():
    net, image = small(), random(1, 1, 13, 22)
    padded = torch.cat([image, image[:, :, -1:].expand(-1, -1, 3, -1)], dim=2)
    padded = torch.cat([padded, padded[..., -1:].expand(-1, -1, -1, 2)], dim=3)
    assert padded.shape[2:] == (16, 24)
    fine, coarse = net(padded)
    assert_same_levels(net(image), [fine[..., :7, :11], coarse[..., :2, :3]])


@pytest.mark.parametrize("strides", [(2,), (4,), (8,), (4, 8), (2, 8)])
@pytest.mark.parametrize("norm", ["batch", "instance", ("group", {"num_groups": 2}), None])
def test_gradient_reaches_every_parameter(norm, strides):
    net = small(norm=norm, strides=strides, act="elu").train()
    # squares of single channels, because the norm of an embedding is always 1
    sum(level[:, 0].square().sum() for level in net(random(2, 1, 32, 32))).backward()
    unreached = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert unreached == []


def test_batch_normalisation_is_still_in_evaluation():
    net, one, other = small(), random(1, 1, 16, 16), random(1, 1, 16, 16, seed=1)
    assert_same_levels(net(torch.cat([one, other])), map(torch.cat, zip(net(one), net(other), strict=True)))


@pytest.mark.parametrize("strides", [(), (1,), (3,), (16,), (8, 2), (2, 2)])
def test_strides_that_no_stage_has(strides):
    with pytest.raises(ValueError, match=r"`strides` must be in increasing order .*\(2, 4, 8\), got \("):
        small(strides=strides)


@pytest.mark.parametrize("shape", [(1, 2, 16, 16), (1, 1, 16), (1, 16, 16), (1, 1, 16, 16, 16)])
def test_image_of_another_rank_or_channel_number(shape):
    with pytest.raises(ValueError, match=r"`image` must be \(B, 1, \*S\) with 2 spatial dimensions, got shape"):
        small()(torch.zeros(shape))


def test_spatial_dims_other_than_2_and_3():
    with pytest.raises(ValueError, match="`spatial_dims` must be 2 or 3, got 1"):
        small(spatial_dims=1)


@pytest.mark.parametrize("size", [(26, 17), (17, 8, 12)])
def test_each_network_sees_the_image_at_its_scale(size):
    fine, coarse = (small(i, spatial_dims=len(size), norm="batch") for i in range(2))
    both = GlobalLocalEmbeddingNet([fine, coarse], scales=[1, 3]).eval()
    assert both.strides == (2, 8, 6, 24)
    assert both.view_levels == ((0, 2), (0, 8), (1, 2), (1, 8))
    image = random(2, 1, *size)
    padded = image
    for axis, s in enumerate(size, start=2):  # up to the next multiple of 3
        padded = torch.cat([padded, *[padded.narrow(axis, s - 1, 1)] * (-s % 3)], dim=axis)
    pool = avg_pool2d if len(size) == 2 else avg_pool3d
    levels = both(image)
    assert_same_levels(levels, [*fine(image), *coarse(pool(padded, 3))])
    assert [level.shape[2:] for level in levels] == [tuple(-(-s // k) for s in size) for k in both.strides]


def test_each_network_gets_its_own_image():
    fine, coarse = small(0), small(1)
    image, crop = random(1, 1, 16, 16), random(1, 1, 24, 8, seed=1)
    both = GlobalLocalEmbeddingNet([fine, coarse], scales=[1, 2])
    assert_same_levels(both(crop, image), [*fine(crop), *coarse(image)])
    with pytest.raises(ValueError, match="`images` must be 1 or 2 tensors, got 3"):
        both(crop, image, image)


@pytest.mark.parametrize("size", [(100, 61), (70, 41, 16)])
@torch.no_grad()
def test_windows_blend_into_the_whole(size):
    nets = [small(i, spatial_dims=len(size), norm="batch").eval() for i in range(2)]
    image, roi = random(1, 1, *size), (64, 64, 32)[: len(size)]
    whole, windows = (GlobalLocalEmbeddingNet(nets, roi_size=roi).eval() for roi in (None, roi))
    expected, found = whole(image), windows(image)
    assert_same_levels(found[2:], expected[2:])  # shrunk by 2 it is no larger than a window
    for level, other in zip(found[:2], expected[:2], strict=True):
        assert level.shape == other.shape
        assert not torch.equal(level, other)
        torch.testing.assert_close(level.norm(dim=1), torch.ones_like(level[:, 0]))
        cosines = (level * other).sum(1)
        assert cosines.min() > 0.8
        assert cosines.mean() > 0.99
        torch.testing.assert_close(level[:, :, :1], other[:, :, :1], atol=0.02, rtol=0)  # far from the other window
    part = image[:, :, :64]
    assert_same_levels(windows(part), whole(part))  # no larger than a window


@pytest.mark.parametrize("roi_size", [(20, 32), (8, 32), ("16", 32)])
def test_windows_that_do_not_fit_the_networks(roi_size):
    with pytest.raises(ValueError, match=r"`roi_size` must be multiples, at least the double, of \[8, 8\]"):
        GlobalLocalEmbeddingNet([small(), small()], roi_size=roi_size)


@pytest.mark.parametrize("scales", [(), (1,), (1, 2, 4), (1, 0), (1, 1.5), (1, "2")])
def test_scales_that_do_not_fit_the_networks(scales):
    with pytest.raises(ValueError, match="`scales` must be one factor of at least 1 for each of the 2 networks"):
        GlobalLocalEmbeddingNet([small(), small()], scales=scales)


@pytest.mark.parametrize("both", [False, True])
def test_copy_and_saved_weights(both):
    def make(seed: int):
        return GlobalLocalEmbeddingNet([small(seed), small(seed + 1)]).eval() if both else small(seed)

    net, other, image = make(0), make(5), random(1, 1, 32, 16)
    expected = net(image)
    assert not torch.allclose(other(image)[0], expected[0])
    other.load_state_dict(net.state_dict())
    for twin in (other, copy.deepcopy(net)):
        assert_same_levels(twin(image), expected)
