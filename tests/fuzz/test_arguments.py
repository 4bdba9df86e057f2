"""Every class and function of the library, with one or two of its arguments replaced by odd values."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pytest

pytest.importorskip("hypothesis", reason="fuzz tests need hypothesis")

import torch
from hypothesis import strategies as st
from monai.networks.nets import BasicUNet
from torch import nn

from monai_infoaug.networks import PixelEmbeddingNet
from tests.fuzz.fuzzing import REFUSED, fuzz, odd_values, outcome

ROOMS = ("data", "transforms", "losses", "samplers", "metrics", "networks", "inferers", "engines", "handlers")
SMALL = {"spatial_dims": 2, "in_channels": 1, "img_size": 32, "hidden_size": 12, "num_layers": 1, "num_heads": 3}
# what a class needs to be built at all; those not here need nothing, or other objects of a training
NEEDS: dict[str, Callable[[], dict[str, Any]]] = {
    "AssignPixdim": lambda: {"pixdim": 0.5},
    "AssignPixdimd": lambda: {"keys": "image", "pixdim": 0.5},
    **dict.fromkeys(
        ("BodyMaskd", "CoordinateMapd", "InformationMapd", "RandTierIntensityd"), lambda: {"keys": "image"}
    ),
    "LabelChannels": lambda: {"num_classes": 3},
    "LabelChannelsd": lambda: {"keys": "label", "num_classes": 3},
    "LandmarkHeatmap": lambda: {"sigma": 2.0},
    "LandmarkHeatmapd": lambda: {"keys": "coords", "sigma": 2.0},
    "ModalityPreset": lambda: {"modality": "mr"},
    "ModalityPresetd": lambda: {"keys": "image", "modality": "ct"},
    "RandIntensityCurved": lambda: {"keys": "image"},
    "LabelPropagator": lambda: {"templates": torch.rand(1, 16, 16), "labels": torch.ones(1, 16, 16)},
    "DomainAdaptationLoss": lambda: dict.fromkeys(("supervised", "own", "contrast"), nn.Identity()),
    "PatchContrastLoss": lambda: {"num_classes": 3},
    "DrawnPixels": lambda: {"pixels_per_image": 5},
    "StridePixels": lambda: {"stride": 2},
    "AttentionEmbedding": lambda: {"coarse": nn.Identity(), "heads": PixelEmbeddingNet(2, 2, (4,) * 3, strides=(2,))},
    "AttentionSegmenter": lambda: {"coarse": nn.Identity(), "network": nn.Identity()},
    "DenseDescriptor": lambda: {"network": PixelEmbeddingNet(2, 1, (4,) * 3, strides=(2, 4))},
    "EmbeddingHeads": lambda: {
        "backbone": BasicUNet(2, 1, 2, (4,) * 6),
        "layers": ["upcat_1"],
        "spatial_size": (32, 32),
    },
    "GlobalLocalEmbeddingNet": lambda: {"scales": [1], "networks": [PixelEmbeddingNet(2, 1, (4,) * 3, strides=(2, 4))]},
    "LandmarkHeatmapNet": lambda: {"trunk": PixelEmbeddingNet(2, 1, (4,) * 3, strides=(2, 4)), "num_landmarks": 2},
    "MaskTransformer": lambda: {"hidden_size": 12, "out_channels": 2},
    "PixelProjectionHead": lambda: {"spatial_dims": 2, "in_channels": 3},
    "Segmenter": lambda: SMALL | {"out_channels": 2, "decoder_layers": 1},
    "TokenClassifier": lambda: {"hidden_size": 8, "out_channels": 2},
    "VisionTransformer": lambda: dict(SMALL),
    "LandmarkMatcher": lambda: {"templates": torch.rand(1, 32, 32), "landmarks": torch.full((2, 2), 5.0)},
    "OneCycle": lambda: {"optimizer": torch.optim.SGD([torch.zeros(1)], 0.1), "max_lr": 0.1, "total_steps": 20},
    "LandmarkTable": lambda: {"labels": ["a"], "points": {"1": [[1.0, 2.0]]}},
    "ResumableCheckpoint": lambda: {"path": "checkpoint.pt", "save_dict": {"network": nn.Linear(2, 2)}},
}
OF_OTHERS = ("keys must be non empty", "keys must be one of")  # errors of MONAI's own arguments


def classes() -> dict[str, type]:
    """Every class that a room exports, once."""
    if find_spec("ignite") is None:
        return {}
    modules = [import_module(f"monai_infoaug.{room}") for room in ROOMS]
    things = {name: getattr(module, name) for module in modules for name in module.__all__}
    return {name: thing for name, thing in things.items() if inspect.isclass(thing) and thing.__name__ == name}


def open_arguments(cls: type) -> list[str]:
    """Names of a class's arguments."""
    variadic = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return [p.name for p in inspect.signature(cls).parameters.values() if p.kind not in variadic]


def buildable() -> list[str]:
    """Classes with arguments that all have defaults, or are in ``NEEDS``."""
    needed = {
        name: [p for p in inspect.signature(cls).parameters.values() if p.default is p.empty and p.name != "kwargs"]
        for name, cls in classes().items()
    }
    return [name for name, cls in classes().items() if open_arguments(cls) and (name in NEEDS or not needed[name])]


@pytest.mark.parametrize("name", buildable())
def test_a_class_is_built_with_what_it_needs(name):
    assert outcome(lambda: classes()[name](**NEEDS.get(name, dict)())) is not REFUSED


@pytest.mark.parametrize("name", buildable())
@fuzz(data=st.data())
def test_a_class_is_built_or_refuses_by_name(name, data):
    cls, needed = classes()[name], NEEDS.get(name, dict)()
    arguments = st.lists(st.sampled_from(open_arguments(cls)), min_size=1, max_size=2, unique=True)
    odd = {argument: data.draw(odd_values, label=argument) for argument in data.draw(arguments)}
    outcome(lambda: cls(**(needed | odd)), OF_OTHERS)


TRUTHS = [
    (name, parameter.name)
    for name in buildable()
    for parameter in inspect.signature(classes()[name]).parameters.values()
    if isinstance(parameter.default, bool) and parameter.name != "allow_missing_keys"  # which is MONAI's
]


@pytest.mark.parametrize(("name", "argument"), TRUTHS)
def test_text_is_neither_true_nor_false(name, argument):
    needed = NEEDS.get(name, dict)()
    assert outcome(lambda: classes()[name](**needed, **{argument: "false"})) is REFUSED
    assert outcome(lambda: classes()[name](**needed, **{argument: 0})) is not REFUSED
