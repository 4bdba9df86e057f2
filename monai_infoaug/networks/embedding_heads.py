"""Embedding heads on the inner feature maps of any network."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from monai_infoaug._grid import at_places, directions
from monai_infoaug._require import are_counts, listed, refusal, require_counts, require_truth
from monai_infoaug.networks.pixel_embedding import require_network
from monai_infoaug.networks.pixel_projection_head import PixelProjectionHead

__all__ = ["EmbeddingHeads"]


class EmbeddingHeads(nn.Module):
    """Embeds every pixel with a network of your own, which stays as it is.

    Heads of 1x1 convolutions turn the outputs of named modules of the network into embeddings. After training,
    ``heads.backbone.state_dict()`` loads with ``strict=True`` into the network without heads.

    The outputs are caught by forward hooks that live as long as one ``forward``: nothing stays on the network, and
    copies, pickles and saved weights know no hooks. ``nn.DataParallel``, whose replicas share their hooks, and calls
    from several threads at once are therefore not supported; use ``DistributedDataParallel``, with
    ``find_unused_parameters=True`` if the network goes on after the last layer that is embedded.

    Args:
        backbone: network to embed with, which takes (B, in_channels, *S).
        layers: names in ``backbone.named_modules()`` of modules that give (B, C, *S_l), or tokens (B, N, C) of a
            transformer, one a patch in the order of rows, perhaps after one of the class. A module that is called
            more than once counts with its last output; what the network then changes in place is seen changed.
        embedding_dim: channels F of each embedding.
        in_channels: channels of the image.
        spatial_size: size of an image that every layer's stride divides, for the one forward pass in which channels
            and strides are found out (in eval mode, without gradients; training modes are put back).
        hidden: channels of the hidden convolutions of each head, see :py:class:`PixelProjectionHead`; (256, 256) with
            256 for ``embedding_dim`` are those of [1].
        pooled: whether to give one embedding an image: that of the mean over the cells.
        with_output: whether to give the backbone's output, too, to train both at once.
        normalized: whether to scale each embedding to unit norm. False leaves that to a loss that does it for the
            pixels that it takes alone, such as ``PixelSupConLoss``.

    Attributes:
        strides: voxels of the image a cell of each embedding, from fine to coarse.
        layers: the layers in that order.
        takes_places: whether ``forward`` takes ``places``: unless ``pooled``.

    Shape:
        (B, in_channels, *S) to a list of (B, embedding_dim, *S_l), in the order of ``strides``, of unit norm over
        dimension 1 and at least float32 unless ``normalized`` is False. ``S_l`` is all ones if ``pooled``. A pair of
        the backbone's output and that list if ``with_output``.

        With ``places``, (B, sets, N) for each layer, these pixels of its flattened map are embedded alone: (B,
        embedding_dim, sets, N). Where a loss compares few pixels, the heads then cost next to nothing, however wide.

    Raises:
        ValueError: for a layer that the backbone does not have or that gives no feature map, a ``spatial_size`` that
            the backbone does not take, or a stride that is no whole number or differs between the dimensions.

    References:
        1. Zhao et al., "Contrastive learning for label efficient semantic segmentation", ICCV 2021, arXiv:2012.06985.

    Example:
        >>> from monai.networks.nets import BasicUNet
        >>> unet = BasicUNet(spatial_dims=2, features=(8, 8, 16, 16, 32, 8))
        >>> heads = EmbeddingHeads(unet, layers=("upcat_3", "upcat_1"), spatial_size=(64, 64))
        >>> heads.strides, [tuple(level.shape) for level in heads(torch.rand(2, 1, 32, 48))]
        ((1, 4), [(2, 32, 32, 48), (2, 32, 8, 12)])
    """

    def __init__(
        self,
        backbone: nn.Module,
        layers: str | Sequence[str],
        embedding_dim: int = 32,
        in_channels: int = 1,
        *,
        spatial_size: Sequence[int],
        hidden: Sequence[int] = (),
        pooled: bool = False,
        with_output: bool = False,
        normalized: bool = True,
    ) -> None:
        super().__init__()
        require_truth(pooled=pooled, with_output=with_output, normalized=normalized)
        self.pooled, self.with_output, self.normalized = pooled, with_output, normalized
        self.takes_places = not pooled
        require_network(backbone=backbone)
        require_counts(embedding_dim=embedding_dim, in_channels=in_channels)
        if not are_counts(spatial_size, 1):
            raise refusal("spatial_size", spatial_size, "whole numbers of at least 1, one a dimension")
        if not are_counts(hidden, 1) and not (isinstance(hidden, Sequence) and len(hidden) == 0):
            raise refusal("hidden", hidden, "whole numbers of at least 1, or none")
        names = [name for name, _ in backbone.named_modules()]
        self.layers = (layers,) if isinstance(layers, str) else tuple(listed(layers))
        if len(self.layers) == 0:
            raise refusal("layers", layers, "at least one module name of the backbone")
        for layer in self.layers:
            if layer not in names:
                accepted = get_close_matches(str(layer), names, n=5, cutoff=0.4) or names[1:]
                raise refusal("layers", repr(layer), f"module names of the backbone, such as {accepted}")
        self.backbone = backbone

        _, maps = self._probe(in_channels, tuple(spatial_size))
        strides = {layer: self._stride(layer, maps.get(layer), tuple(spatial_size)) for layer in self.layers}
        self.layers = tuple(sorted(self.layers, key=strides.__getitem__))
        self.strides = tuple(strides[layer] for layer in self.layers)

        widths = (*hidden, embedding_dim)
        self.heads = nn.ModuleList(
            PixelProjectionHead(len(spatial_size), maps[layer].shape[1], widths) for layer in self.layers
        )

    def extra_repr(self) -> str:
        """Settings that the parts do not show."""
        settings = ("layers", "strides", "pooled", "with_output", "normalized")
        return ", ".join(f"{name}={getattr(self, name)}" for name in settings)

    def forward(self, image: Tensor, places: Sequence[Tensor] | None = None) -> list[Tensor] | tuple[Any, list[Tensor]]:
        """Embed an image, see Shape.

        Args:
            image: (B, in_channels, *S).
            places: pixels to embed of each layer; None: all.

        Returns:
            Embeddings of each layer, or a pair of the backbone's output and them.
        """
        output, maps = self._feature_maps(image)
        if self.pooled:
            axes = tuple(range(2, image.ndim))
            maps = {layer: features.mean(axes, keepdim=True) for layer, features in maps.items()}
        chosen: Sequence[Tensor | None] = [None] * len(self.layers) if places is None else places
        embeddings = [
            head(maps[layer]) if at is None else _embedded_at(head, maps[layer], at)
            for head, layer, at in zip(self.heads, self.layers, chosen, strict=True)
        ]
        if self.normalized:  # half precision would lose the guard against a division by zero
            embeddings = [directions(e, 1) for e in embeddings]
        return (output, embeddings) if self.with_output else embeddings

    def _feature_maps(self, image: Tensor) -> tuple[Any, dict[str, Tensor]]:
        maps: dict[str, Tensor] = {}
        handles, size = [], image.shape[2:]
        try:
            for layer in self.layers:
                handles.append(
                    self.backbone.get_submodule(layer).register_forward_hook(
                        lambda _module, _inputs, output, layer=layer: maps.__setitem__(layer, _as_map(output, size))
                    )
                )
            output = self.backbone(image)
        finally:
            for handle in handles:
                handle.remove()
        return output, maps

    @torch.no_grad()
    def _probe(self, in_channels: int, spatial_size: tuple[int, ...]) -> tuple[Any, dict[str, Tensor]]:
        # not `monai.networks.utils.eval_mode`, which would also unfreeze the layers that the user had in eval mode
        training = {module: module.training for module in self.backbone.modules()}
        like = next(self.backbone.parameters(), torch.empty(0))
        try:
            self.backbone.eval()
            return self._feature_maps(like.new_zeros(1, in_channels, *spatial_size))
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            accepted = f"a size that the backbone takes with {in_channels} channels ({error})"
            raise ValueError(f"`spatial_size` must be {accepted}, got {spatial_size}.") from error
        finally:
            for module, mode in training.items():
                module.training = mode

    @staticmethod
    def _stride(layer: str, output: object, spatial_size: tuple[int, ...]) -> int:
        shape = tuple(output.shape) if isinstance(output, Tensor) else ()
        got = f"{layer!r} giving {shape or type(output).__name__} for a {spatial_size} image"
        if len(shape) != len(spatial_size) + 2:
            raise refusal("layers", got, "modules that give one map (B, C, *S)")
        strides = {size / cells for size, cells in zip(spatial_size, shape[2:], strict=True)}
        stride = strides.pop()
        if strides or stride != int(stride):
            raise refusal("layers", got, "modules of one whole-number stride, and `spatial_size` divisible by it")
        return int(stride)


def _as_map(output: Any, size: Sequence[int]) -> Any:
    """Tokens (B, N, C) of the patches of an image of some size as a map (B, C, *S_l); anything else as it is."""
    if not isinstance(output, Tensor) or output.ndim != 3 or len(size) == 1:
        return output
    tokens = output.shape[1]
    for patches in (tokens, tokens - 1):  # without the token of the class
        side = round((prod(size) / max(patches, 1)) ** (1 / len(size)))
        if side > 0 and patches * side ** len(size) == prod(size) and not any(length % side for length in size):
            return output[:, tokens - patches :].mT.unflatten(2, [length // side for length in size])
    return output


def _embedded_at(head: nn.Module, features: Tensor, places: Tensor) -> Tensor:
    """Embeddings (B, F, *P) of the pixels of features (B, C, *S) at places (B, *P)."""
    line = at_places(features, places.flatten(1)).reshape(*features.shape[:2], -1, *[1] * (features.ndim - 3))
    return head(line).flatten(2).unflatten(2, places.shape[1:])
