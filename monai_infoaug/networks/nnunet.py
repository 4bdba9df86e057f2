"""The network of an nnU-Net plan, for images as MONAI reads them, and its weights as nnU-Net takes them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from itertools import accumulate
from operator import mul
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from monai_infoaug._require import are_counts, is_count, is_number, listed, refusal, to_path
from monai_infoaug.networks.embedding_heads import EmbeddingHeads

__all__ = ["NnunetPlan"]

T = TypeVar("T")
NETWORKS = ("PlainConvUNet", "ResidualEncoderUNet")
BY_AXIS = ("kernel_sizes", "strides")  # arguments of the networks with a number for each axis and stage
COARSEST = 8  # stride of the coarsest level that is embedded
WITHOUT = ".seg_layers."  # what nnU-Net trains from scratch, whatever the weights


class NnunetPlan:
    """What an nnU-Net plan says of one configuration [1]: its network, and the images that it sees.

    nnU-Net has the axes of an array in another order than MONAI: reversed, and then as the plan's ``transpose_forward``
    says. A network of convolutions on permuted axes is the same network with permuted kernels. So
    :py:meth:`embedding_network` is for images in MONAI's order, and :py:meth:`weights` permutes the kernels.

    Args:
        plans: ``nnUNetPlans.json``, as ``nnUNetv2_plan_and_preprocess`` writes it, or what such a file says.
        configuration: name of a configuration of it that does not need the result of another one.

    Attributes:
        spacing: millimetres a voxel, in MONAI's order of the axes, as all below.
        patch_size: voxels of a patch.
        batch_size: patches a batch.
        schemes: how nnU-Net normalises each channel.
        axes: MONAI's axis for each axis of nnU-Net.

    Raises:
        ValueError: for a file that is no plan of nnU-Net 2 with a network, a configuration that it does not have or
            that is the second of a cascade, and a network other than ``PlainConvUNet`` and ``ResidualEncoderUNet``.

    References:
        1. Isensee et al., "nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation",
           Nature Methods 18, 2021.
    """

    def __init__(self, plans: str | os.PathLike | Mapping[str, Any], configuration: str = "3d_fullres") -> None:
        content = plans if isinstance(plans, Mapping) else _read(to_path("plans", plans))
        self.configuration = configuration
        found = _resolved(content, configuration)
        order = listed(content.get("transpose_forward"))
        if sorted(order, key=str) != [0, 1, 2]:
            raise refusal("plans", f"`transpose_forward` {order}", "a plan with an order of three axes")
        sizes = listed(found.get("patch_size"))
        if not are_counts(sizes, 1) or len(sizes) not in (2, 3):
            raise refusal("plans", f"`patch_size` {sizes}", "a plan for two or three axes")
        spacing = listed(found.get("spacing"))
        if len(spacing) != len(sizes) or not all(is_number(side) and side > 0 for side in spacing):
            raise refusal("plans", f"`spacing` {spacing}", f"a plan with millimetres for each of {len(sizes)} axes")
        self.schemes = tuple(map(str, listed(found.get("normalization_schemes"))))
        self.batch_size = found.get("batch_size", 2)
        if not self.schemes or not is_count(self.batch_size, 1):
            raise refusal("plans", "none", "a plan with `normalization_schemes` and a `batch_size`")
        # a plane is what is left without the first axis
        self.axes = tuple(2 - axis for axis in order) if len(sizes) == 3 else (1, 0)
        self.spacing, self.patch_size = self._turned(spacing), self._turned(sizes)
        self.architecture = _architecture(found, len(sizes))
        self._found, self._order = found, order

    def as_text(self) -> str:
        """The plan with this configuration alone, as JSON: small enough for a checkpoint's settings."""
        names = ("patch_size", "spacing", "normalization_schemes", "batch_size", "architecture")
        own = {name: self._found[name] for name in names if name in self._found}
        return json.dumps({"transpose_forward": self._order, "configurations": {self.configuration: own}})

    def network(self) -> nn.Module:
        """The plan's network for images (B, channels, *S) in MONAI's order, with nnU-Net's initial weights.

        Raises:
            ImportError: without the package that has nnU-Net's networks, naming the extra.
            ValueError: for arguments that the network does not take.
        """
        try:
            from dynamic_network_architectures.architectures import unet
        except ImportError as error:
            needed = "needs dynamic_network_architectures: pip install monai_infoaug[nnunet]"
            raise ImportError(f"The network of an nnU-Net plan {needed}") from error
        arguments = dict(self.architecture["arch_kwargs"])
        for name in listed(self.architecture.get("_kw_requires_import")):
            arguments[name] = _layer(arguments.get(name))
        arguments |= {name: [list(self._turned(one)) for one in arguments[name]] for name in BY_AXIS}
        arguments |= {"input_channels": len(self.schemes), "num_classes": 2, "deep_supervision": False}
        name = self.architecture["network_class_name"].rpartition(".")[2]
        try:
            network: nn.Module = getattr(unet, name)(**arguments)
        except (AssertionError, RuntimeError, TypeError, ValueError) as error:
            raise refusal("plans", f"arguments of another one: {error}", f"a plan of a {name}") from error
        return network.apply(network.initialize)  # type: ignore[arg-type]

    def embedding_network(self, embedding_dim: int = 32) -> EmbeddingHeads:
        """The plan's network with heads on its decoder: the finest stage, and the coarsest of one stride up to 8.

        Contrast then trains all of the network but the layers that segment.

        Args:
            embedding_dim: channels of each embedding.
        """
        strides = [self._turned(one) for one in self.architecture["arch_kwargs"]["strides"]]
        totals = list(accumulate(strides, lambda total, own: tuple(map(mul, total, own))))
        stages = len(totals) - 1  # of the decoder, from coarse to fine
        fits = [level for level in range(stages) if len({*totals[level]}) == 1 and totals[level][0] <= COARSEST]
        layers = [f"decoder.stages.{stages - 1 - level}" for level in sorted({0, max(fits, default=0)})]
        size = [2 * total for total in totals[-1]]
        return EmbeddingHeads(self.network(), layers, embedding_dim, len(self.schemes), spatial_size=size)

    def weights(self, network: nn.Module) -> dict[str, Tensor]:
        """Weights of a network of :py:meth:`network` as nnU-Net has them, without those of the layers that segment.

        They share the network's memory, and so do, as in nnU-Net, the several names of one weight.
        """
        order = (0, 1, *(2 + axis for axis in self.axes))
        return {
            name: weight.permute(order) if weight.ndim == len(order) else weight
            for name, weight in network.state_dict().items()
            if WITHOUT not in name
        }

    def _turned(self, values: Sequence[T]) -> tuple[T, ...]:
        """Values, one an axis of nnU-Net, in MONAI's order."""
        return tuple(values[self.axes.index(axis)] for axis in range(len(self.axes)))


def _read(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # those of nnU-Net 1 are pickled
        raise refusal("plans", f"'{path}'", "a readable JSON file, nnUNetPlans.json of nnU-Net 2") from error
    return content if isinstance(content, Mapping) else {}


def _resolved(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A configuration with what it inherits.

    Raises:
        ValueError: if there is none, or it needs the result of another one.
    """
    known = content.get("configurations")
    if not isinstance(known, Mapping) or not all(isinstance(each, Mapping) for each in known.values()):
        raise refusal("plans", f"one with {[*content][:5]}", "a plan of nnU-Net 2, with `configurations`")
    chain: list[str] = [name]
    while chain[-1] in known and "inherits_from" in known[chain[-1]] and len(chain) <= len(known):
        chain.append(known[chain[-1]]["inherits_from"])
    if chain[-1] not in known or len(chain) > len(known):
        raise refusal("configuration", repr(chain[-1]), f"one of {', '.join(known)}")
    found = {key: value for each in reversed(chain) for key, value in known[each].items()}
    if found.get("previous_stage"):
        raise refusal("configuration", repr(name), "one that does not need the result of another one")
    return found


def _architecture(found: Mapping[str, Any], dims: int) -> Mapping[str, Any]:
    """What a configuration says of its network.

    Raises:
        ValueError: for none, or another than nnU-Net's own.
    """
    architecture = found.get("architecture")
    if not isinstance(architecture, Mapping) or not isinstance(architecture.get("arch_kwargs"), Mapping):
        accepted = "a plan with an `architecture`: plan again with a current nnU-Net"
        raise refusal("plans", "a configuration without", accepted)
    name = str(architecture.get("network_class_name"))
    if name.rpartition(".")[2] not in NETWORKS:
        raise refusal("plans", f"one of {name}", f"a plan of {' or '.join(NETWORKS)}")
    for key in BY_AXIS:
        stages = listed(architecture["arch_kwargs"].get(key))
        if not stages or not all(are_counts(stage, 1) and len(stage) == dims for stage in stages):
            raise refusal("plans", f"`{key}` {stages}", f"a plan with one number for each of {dims} axes")
    return architecture


def _layer(name: object) -> type[nn.Module] | None:
    """A class of PyTorch's layers by its name; nothing else that a file says is looked up."""
    if name is None:
        return None
    text = str(name)
    found = getattr(nn, text.rpartition(".")[2], None) if text.startswith("torch.nn.") else None
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise refusal("plans", f"a layer {text}", "a plan with layers of torch.nn")
    return found
