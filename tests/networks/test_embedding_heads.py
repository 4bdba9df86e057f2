from __future__ import annotations

import copy
import itertools

import pytest
import torch
from monai.networks.nets import BasicUNet, SegResNet, UNet, ViT
from torch import nn

from monai_infoaug.losses import PixelSupConLoss
from monai_infoaug.networks import EmbeddingHeads
from monai_infoaug.samplers import DrawnPixels
from tests.versions import TORCH

NETS = {
    "UNet": (
        lambda dims: UNet(dims, 1, 2, channels=(4, 8, 16), strides=(2, 2), norm="batch"),
        ("model.1.submodule.1.submodule", "model.0", "model.2"),
        {"model.2": (1, 2), "model.0": (2, 4), "model.1.submodule.1.submodule": (4, 16)},
    ),
    "BasicUNet": (
        lambda dims: BasicUNet(dims, 1, 2, features=(4, 4, 8, 8, 16, 6), norm="batch"),
        ("upcat_1", "down_4", "upcat_3"),
        {"upcat_1": (1, 6), "upcat_3": (4, 8), "down_4": (16, 16)},
    ),
    "SegResNet": (
        lambda dims: SegResNet(dims, 8, 1, 2, norm="batch", dropout_prob=0.5, blocks_down=(1, 1, 1), blocks_up=(1, 1)),
        ("down_layers.2", "up_layers.0", "up_layers.1"),
        {"up_layers.1": (1, 8), "up_layers.0": (2, 16), "down_layers.2": (4, 32)},
    ),
}


class Small(nn.Module):
    def __init__(self, stride=2):
        super().__init__()
        self.first = nn.Conv2d(1, 3, 3, padding=1)
        self.second = nn.Conv2d(3, 5, 3, padding=1, stride=stride)
        self.pair = nn.Identity()
        self.idle = nn.Conv2d(1, 1, 1)

    def forward(self, x):
        return self.pair((x, self.second(self.first(x).relu())))[1]


def small(**arguments):
    return EmbeddingHeads(**{"backbone": Small(), "layers": ("first", "second"), "spatial_size": (8, 8)} | arguments)


def hooks(net):
    return sum(len(m._forward_hooks) for m in net.modules())


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kind", NETS)
def test_a_users_network(kind, dims):
    make, layers, expected = NETS[kind]
    net = make(dims)
    before = copy.deepcopy(net.state_dict())
    heads = EmbeddingHeads(net, layers, embedding_dim=6, spatial_size=(32,) * dims)
    assert dict(zip(heads.layers, heads.strides, strict=True)) == {n: s for n, (s, _) in expected.items()}
    assert list(heads.strides) == sorted(heads.strides)
    assert [head[0].conv.in_channels for head in heads.heads] == [c for _, c in expected.values()]
    assert heads.training
    assert net.training
    assert heads.backbone is net
    assert hooks(net) == 0
    for key, value in net.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)  # running statistics too

    size = (32, 48, 32)[:dims]
    levels = heads(torch.rand(2, 1, *size))
    assert [tuple(e.shape) for e in levels] == [(2, 6, *(s // stride for s in size)) for stride in heads.strides]
    for level in levels:
        torch.testing.assert_close(level.norm(dim=1), torch.ones_like(level[:, 0]))
    sum(level[:, 0].sum() for level in levels).backward()
    assert next(net.parameters()).grad.abs().sum() > 0
    plain = make(dims)
    plain.load_state_dict(heads.backbone.state_dict(), strict=True)
    x = torch.rand(1, 1, *size)
    torch.testing.assert_close(plain.eval()(x), net.eval()(x))


@pytest.mark.parametrize("is_classified", [True, False])
@pytest.mark.parametrize("size", [(24, 32), (16, 24, 32)])
def test_tokens_of_a_transformer_are_a_map(size, is_classified):
    vit = ViT(
        1,
        size,
        [8] * len(size),
        hidden_size=6 * len(size),
        mlp_dim=8,
        num_layers=1,
        num_heads=2,
        classification=is_classified,
        spatial_dims=len(size),
    )
    heads = EmbeddingHeads(vit, "norm", 5, spatial_size=size, normalized=False)
    assert heads.strides == (8,)
    image, seen = torch.rand(2, 1, *size), []
    handle = vit.norm.register_forward_hook(lambda _, __, output: seen.append(output))
    (level,) = heads(image)
    handle.remove()
    cells = [length // 8 for length in size]
    assert level.shape == (2, 5, *cells)
    for number, place in enumerate(itertools.product(*map(range, cells))):  # rows of patches, one after the other
        token = seen[0][:, number + is_classified]
        expected = heads.heads[0](token[(..., *[None] * len(size))]).flatten(1)
        torch.testing.assert_close(level[(slice(None), slice(None), *place)], expected)


def test_embeddings_are_the_heads_of_the_layers():
    net = Small()
    heads = small(backbone=net, layers=("second", "first"), embedding_dim=4)
    x = torch.rand(2, 1, 8, 8)
    first = net.first(x)
    for got, features, head in zip(heads(x), (first, net.second(first.relu())), heads.heads, strict=True):
        (conv,) = head
        expected = conv(features)
        torch.testing.assert_close(got, expected / expected.norm(dim=1, keepdim=True))
    torch.testing.assert_close(small(backbone=net, layers="").backbone(x), net(x))  # "" is the network's own output


def test_with_the_networks_own_output():
    net, x = Small(), torch.rand(2, 1, 8, 8)
    heads = small(backbone=net, with_output=True)
    output, embeddings = heads(x)
    torch.testing.assert_close(output, net(x))
    assert len(embeddings) == len(heads.layers)
    output.sum().backward()
    assert net.first.weight.grad is not None


def test_hidden_layers():
    heads = small(hidden=(7, 9))
    assert [[type(m).__name__ for m in head] for head in heads.heads] == [
        ["Convolution", "ReLU"] * 2 + ["Convolution"]
    ] * 2
    assert [level.shape[1] for level in heads(torch.rand(1, 1, 8, 8))] == [32, 32]


def test_frozen_modules_stay_frozen():
    net = nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4).eval(), nn.BatchNorm2d(4))
    small(backbone=net, layers="0")
    assert [m.training for m in net] == [True, False, True]


def test_random_state_is_untouched_by_the_probe():
    net = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Dropout(0.5))
    torch.manual_seed(0)
    nn.Conv2d(4, 32, 1)  # what the head draws
    expected = torch.rand(3)
    torch.manual_seed(0)
    EmbeddingHeads(net, "0", spatial_size=(8, 8))
    assert torch.equal(torch.rand(3), expected)


def test_copies_are_independent():
    heads = small()
    x = torch.rand(1, 1, 8, 8)
    expected = heads(x)
    twin = copy.deepcopy(heads)
    with torch.no_grad():
        heads.backbone.first.weight.zero_()
    assert all(torch.equal(a, b) for a, b in zip(twin(x), expected, strict=True))
    assert not torch.equal(heads(x)[0], expected[0])


def test_no_hook_is_left_even_after_an_error():
    heads = small()
    with pytest.raises(RuntimeError):
        heads(torch.rand(1, 2, 8, 8))
    assert hooks(heads) == 0


def test_half_precision_is_safe():
    heads = small()
    for parameter in heads.heads.parameters():
        nn.init.zeros_(parameter)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        levels = heads(torch.rand(1, 1, 8, 8))
    assert all(level.dtype == torch.float32 and level.isfinite().all() for level in levels)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"layers": ("first", "secnd")}, r"`layers` must be module names .*'second'.*got 'secnd'"),
        ({"layers": "q"}, r"`layers` must be module names .*'first', 'second', 'pair', 'idle'"),
        ({"layers": ()}, "`layers` must be at least one"),
        ({"layers": "idle"}, r"`layers` must be .* one map .* got 'idle' giving NoneType"),
        ({"layers": "pair"}, r"`layers` must be .* one map .* got 'pair' giving tuple"),
        (
            {"backbone": Small((2, 1))},
            r"`layers` must be modules of one .* stride.* got 'second' giving \(1, 5, 4, 8\)",
        ),
        ({"spatial_size": (9, 9)}, r"`layers` must be .* `spatial_size` divisible"),
        (
            {"backbone": nn.Upsample(scale_factor=2), "layers": ""},
            "`layers` must be modules of one whole-number stride",
        ),
        ({"embedding_dim": 0}, "`embedding_dim` must be a whole number of at least 1"),
        ({"embedding_dim": 8.0}, r"`embedding_dim` must be a whole number of at least 1, got 8\.0"),
        ({"in_channels": 2}, "`spatial_size` must be a size that the backbone takes with 2 channels"),
        ({"spatial_size": (8, 8, 8)}, "`spatial_size` must be a size that the backbone takes"),
    ],
)
def test_bad_input(arguments, error):
    with pytest.raises(ValueError, match=error):
        small(**arguments)


@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize("dims", [2, 3])
def test_chosen_pixels_are_embedded_as_among_all(dims, normalized):
    torch.manual_seed(0)
    unet = BasicUNet(dims, features=(4, 4, 4, 4, 8, 4))
    options = {"spatial_size": (32,) * dims, "hidden": (6,), "normalized": normalized}
    heads = EmbeddingHeads(unet, ("upcat_1", "upcat_2"), 5, **options)
    image, seen = torch.rand(2, 1, *(32,) * dims), []
    every = heads(image)
    places = [torch.randint(level[0, 0].numel(), (2, 3, 7)) for level in every]
    for head in heads.heads:
        head.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0][0, 0].numel()))
    for chosen, level, at in zip(heads(image, places=places), every, places, strict=True):
        assert chosen.shape == (2, 5, 3, 7)
        for b in range(2):
            torch.testing.assert_close(chosen[b], level[b].flatten(1)[:, at[b]])
    assert heads.takes_places
    assert seen == [21, 21]


def test_the_loss_may_normalise_the_pixels_that_it_draws():
    image, labels = torch.rand(2, 1, 16, 16), torch.randint(3, (2, 1, 8, 8))
    losses, gradients = [], []
    for normalized in (True, False):
        torch.manual_seed(0)
        heads = small(layers="second", normalized=normalized, embedding_dim=4)
        [level] = heads(image)
        assert torch.allclose(level.norm(dim=1), torch.ones(()), atol=1e-4) == normalized
        losses.append(PixelSupConLoss(sampler=DrawnPixels(20))(level, labels))
        losses[-1].backward()
        gradients.append(heads.heads[0][0].conv.weight.grad)
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*gradients)
    with torch.autocast("cpu", torch.bfloat16):
        assert heads(image)[0].dtype == torch.bfloat16  # one precision less to convert


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_embeddings_without_direction_get_no_gradient(dtype):
    """In half precision it would be infinite, and end the training."""
    if dtype == torch.float16 and TORCH < (2, 3):
        pytest.skip("an old PyTorch has no convolution in float16 on the CPU")
    backbone = nn.Sequential(nn.Conv2d(1, 4, 1, bias=False))
    network = EmbeddingHeads(backbone, layers=("0",), embedding_dim=4, spatial_size=(8, 8)).to(dtype)
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
    image = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    image[..., :2, :] = 0
    (level,) = network(image)
    assert not level[..., :2, :].any()
    level[:, 0].sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters() if parameter.grad is not None)
