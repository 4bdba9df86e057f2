"""What the tools of PyTorch and MONAI expect of a network: one checklist; a new one without a recipe fails."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable

import pytest
import torch
from monai.networks.utils import copy_model_state, freeze_layers
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from monai_infoaug import networks as N
from tests.versions import needs_export, of_any_size

pytest.importorskip("einops", reason="MONAI's transformers need einops")


def embedding(**settings) -> N.PixelEmbeddingNet:
    return N.PixelEmbeddingNet(**{"features": (4, 6), "strides": (2, 4), "embedding_dim": 3, **settings})


def both() -> N.GlobalLocalEmbeddingNet:
    return N.GlobalLocalEmbeddingNet([embedding(), embedding(self_similarity=True)], scales=(1, 2))


def conv(inputs: int, outputs: int) -> nn.Module:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def heads(backbone: nn.Module, **settings) -> N.EmbeddingHeads:
    return N.EmbeddingHeads(nn.Sequential(backbone), "0", embedding_dim=3, spatial_size=(8, 8), **settings)


VIT = {"img_size": 16, "patch_size": 4, "hidden_size": 12, "num_layers": 1, "num_heads": 3}
RECIPES: dict[
    str, tuple[Callable[[], nn.Module], tuple[int, ...], tuple[str, ...]]
] = {  # a network, its input, its repr
    "AttentionEmbedding": (
        lambda: N.AttentionEmbedding(conv(1, 3), heads(conv(2, 4), in_channels=2, pooled=True), background=True),
        (2, 1, 16, 24),
        ("background=True",),
    ),
    "AttentionSegmenter": (
        lambda: N.AttentionSegmenter(conv(1, 3), conv(2, 1), background=False),
        (2, 1, 16, 24),
        ("background=False",),
    ),
    "DenseDescriptor": (
        lambda: N.DenseDescriptor(both(), stride=2, level_weights=(1, 0, 2, 1)),
        (2, 1, 16, 24),
        ("stride=2", "level_weights=(0.25, 0.0, 0.5, 0.25)", "scales=(1, 2)"),
    ),
    "EmbeddingHeads": (
        lambda: heads(conv(1, 4), hidden=(5,), normalized=True),
        (2, 1, 16, 24),
        ("layers=('0',)", "strides=(1,)", "pooled=False", "with_output=False", "normalized=True"),
    ),
    "GlobalLocalEmbeddingNet": (both, (2, 1, 16, 24), ("scales=(1, 2)", "roi_size=None", "strides=(2, 4, 4, 8)")),
    "LandmarkHeatmapNet": (lambda: N.LandmarkHeatmapNet(both(), num_landmarks=3), (2, 1, 16, 24), ("stride=2",)),
    "MaskTransformer": (lambda: N.MaskTransformer(12, 3), (2, 7, 12), ("LayerNorm((3,)",)),
    "PixelEmbeddingNet": (
        lambda: embedding(spatial_dims=3),
        (2, 1, 8, 16, 8),
        ("spatial_dims=3", "in_channels=1", "strides=(2, 4)"),
    ),
    "PixelProjectionHead": (lambda: N.PixelProjectionHead(2, 4, (6, 5)), (2, 4, 8, 8), ("Conv2d(6, 5",)),
    "Segmenter": (
        lambda: N.Segmenter(2, 1, 3, overlapping=True, **VIT),
        (2, 1, 15, 22),
        ("overlapping=True", "img_size=(16, 16)", "patch_size=(4, 4)", "num_heads=3", "num_prefix=1"),
    ),
    "SelfSimilarity": (lambda: N.SelfSimilarity(2, 1), (2, 1, 8, 8), ("distance=2, radius=1",)),
    "TokenClassifier": (lambda: N.TokenClassifier(12, 3), (2, 7, 12), ("out_features=3",)),
    "VisionTransformer": (lambda: N.VisionTransformer(2, 1, **VIT), (2, 1, 16, 20), ("img_size=(16, 16)",)),
}
NETWORKS = [name for name in N.__all__ if issubclass(getattr(N, name), nn.Module)]
every = pytest.mark.parametrize("name", NETWORKS)


def make(name: str, seed: int = 0) -> tuple[nn.Module, torch.Tensor]:
    network, size, _ = RECIPES[name]
    torch.manual_seed(seed)
    return network().eval(), torch.rand(size, generator=torch.Generator().manual_seed(1))


def listed(output) -> list[torch.Tensor]:
    return list(output) if isinstance(output, list | tuple) else [output]


@torch.no_grad()
@every
def test_double_precision(name):
    network, image = make(name)
    single = listed(network(image))
    double = listed(network.double()(image.double()))
    assert {each.dtype for each in double} == {torch.float64}
    for a, b in zip(single, double, strict=True):
        torch.testing.assert_close(a.double(), b, atol=1e-3, rtol=1e-3)


@every
def test_gradients_in_double_precision(name):
    network, image = make(name)
    network, image = network.double(), image.double().requires_grad_()
    sum(out.square().sum() for out in listed(network(image))).backward()
    assert image.grad.dtype == torch.float64
    assert image.grad.isfinite().all()


@every
def test_repr_shows_the_settings(name):
    text = repr(make(name)[0])
    assert all(part in text for part in RECIPES[name][2]), text


@torch.no_grad()
@every
def test_copies(name):
    network, image = make(name)
    expected = listed(network(image))
    for copied in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        torch.testing.assert_close(listed(copied(image)), expected, atol=0, rtol=0)


WRAPPERS = {
    "Sequential": nn.Sequential,
    "DataParallel": nn.DataParallel,
    "AveragedModel": AveragedModel,
    "EMA": lambda net: AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True),
    "ModuleDict": lambda net: nn.ModuleDict({"a": nn.ModuleList([net])}),
}


@torch.no_grad()
@every
@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_wrappers_load_what_they_save(name, wrap):
    first, second = wrap(make(name, seed=0)[0]), wrap(make(name, seed=1)[0])
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    torch.testing.assert_close(dict(second.state_dict()), dict(first.state_dict()), atol=0, rtol=0)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


@torch.no_grad()
@every
def test_names_of_the_state_are_those_of_parameters_and_buffers(name):
    network, image = make(name)
    names = {each for each, _ in [*network.named_parameters(), *network.named_buffers()]}
    assert set(network.state_dict()) == names
    other = make(name, seed=1)[0]
    out = torch.func.functional_call(other, dict(network.state_dict()), image)
    torch.testing.assert_close(listed(out), listed(network(image)), atol=1e-6, rtol=0)


@every
def test_layers_can_be_frozen_and_states_copied(name):
    network = make(name)[0]
    freeze_layers(network, freeze_vars=".*")
    assert not any(parameter.requires_grad for parameter in network.parameters())
    other = make(name, seed=1)[0]
    _, changed, unchanged = copy_model_state(other, network)
    assert len(changed) == len(network.state_dict())
    assert not unchanged


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in ("AttentionEmbedding", "EmbeddingHeads")])
def test_scripts_can_be_called(name):
    """As MONAI exports networks; heads on layers of any network hang on hooks, which a script does not have."""
    network, image = make(name)
    expected, file = listed(network(image)), io.BytesIO()
    torch.jit.save(torch.jit.script(network), file)
    file.seek(0)
    torch.testing.assert_close(listed(torch.jit.load(file)(image)), expected, atol=1e-5, rtol=0)


@torch.no_grad()
@needs_export
@pytest.mark.slow
@pytest.mark.parametrize("name", ["EmbeddingHeads", "PixelEmbeddingNet", "Segmenter"])
def test_exported_programs_take_other_sizes(name):
    network, image = make(name)
    channels, dims = image.shape[1], image.ndim - 2
    image = torch.rand(2, channels, *(16, 24, 8)[:dims])  # a Segmenter's program takes whole patches
    program = torch.export.export(network, (image,), dynamic_shapes=(of_any_size(image),), strict=False).module()
    for size in ((32, 8, 16), (16, 24, 8)):
        image = torch.rand(3, channels, *size[:dims])
        torch.testing.assert_close(listed(program(image)), listed(network(image)), atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["PixelEmbeddingNet", "Segmenter"])
def test_compiled_networks_give_what_they_give(name):
    """The graphs and their gradients are ours, the code that is made of them is PyTorch's, and takes minutes."""
    results = []
    for compiled in (False, True):
        network, image = make(name)
        image.requires_grad_()
        out = listed((torch.compile(network, backend="aot_eager") if compiled else network)(image))
        sum((level * torch.linspace(-1, 1, level.shape[-1])).sum() for level in out).backward()
        results.append([*out, image.grad, *(parameter.grad for parameter in network.parameters())])
    torch.testing.assert_close(*results, atol=1e-4, rtol=1e-3)


NUMBERS = ("3", 2.5, float("nan"), -1, True, [1, "a"], (), object)
COUNTS = {
    "EmbeddingHeads": ("embedding_dim", "in_channels", "spatial_size", "layers", "hidden"),
    "GlobalLocalEmbeddingNet": ("scales", "roi_size", "networks"),
    "LandmarkHeatmapNet": ("num_landmarks", "trunk"),
    "MaskTransformer": ("hidden_size", "out_channels", "num_layers", "num_heads", "dropout"),
    "PixelEmbeddingNet": ("spatial_dims", "in_channels", "features", "embedding_dim", "strides", "norm", "act"),
    "PixelProjectionHead": ("spatial_dims", "in_channels", "widths"),
    "Segmenter": ("spatial_dims", "in_channels", "out_channels", "img_size", "decoder", "decoder_layers",
                  "decoder_dropout", "patch_size", "hidden_size", "num_layers", "num_heads", "num_prefix", "dropout",
                  "drop_path"),
    "SelfSimilarity": ("distance", "radius"),
    "TokenClassifier": ("hidden_size", "out_channels"),
    "DenseDescriptor": ("network", "stride", "level_weights"),
}  # fmt: skip
GOOD = {
    "DenseDescriptor": lambda: {"network": embedding()},
    "EmbeddingHeads": lambda: {"backbone": conv(1, 2), "layers": "", "spatial_size": (8, 8)},
    "GlobalLocalEmbeddingNet": lambda: {"networks": [embedding()], "scales": [1]},
    "LandmarkHeatmapNet": lambda: {"trunk": embedding(), "num_landmarks": 2},
    "MaskTransformer": lambda: {"hidden_size": 12, "out_channels": 2},
    "PixelEmbeddingNet": lambda: {"features": (4, 6), "strides": (2, 4)},
    "PixelProjectionHead": lambda: {"spatial_dims": 2, "in_channels": 3},
    "Segmenter": lambda: {"spatial_dims": 2, "in_channels": 1, "out_channels": 2, **VIT},
    "SelfSimilarity": dict,
    "TokenClassifier": lambda: {"hidden_size": 12, "out_channels": 2},
}


@pytest.mark.parametrize(("name", "argument"), [(name, each) for name, some in COUNTS.items() for each in some])
@pytest.mark.parametrize("value", NUMBERS, ids=str)
def test_settings_of_a_wrong_type_are_refused_by_name(name, argument, value):
    settings = GOOD[name]()
    getattr(N, name)(**settings)
    if argument == "hidden" and value == ():
        return
    with pytest.raises((ValueError, TypeError), match=f"^`{argument}` must be "):
        getattr(N, name)(**{**settings, argument: value})


@pytest.mark.parametrize("value", [None, "net", 3, torch.zeros(2)], ids=str)
def test_what_is_no_network_is_refused_by_name(value):
    for make_one, argument in (
        (lambda: N.AttentionSegmenter(value, conv(2, 1)), "coarse"),
        (lambda: N.AttentionSegmenter(conv(1, 2), value), "network"),
        (lambda: N.AttentionEmbedding(value, heads(conv(2, 4), in_channels=2)), "coarse"),
        (lambda: N.DenseDescriptor(value), "network"),
        (lambda: N.EmbeddingHeads(value, "0", spatial_size=(8, 8)), "backbone"),
        (lambda: N.GlobalLocalEmbeddingNet([value], scales=[1]), "networks"),
    ):
        with pytest.raises(TypeError, match=f"^`{argument}` must be a torch.nn.Module, got "):
            make_one()
