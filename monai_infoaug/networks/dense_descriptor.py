"""One descriptor a cell, for tools that want a network to give one tensor: export, MONAI's bundle checks, viewers."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from monai_infoaug._grid import level_shares
from monai_infoaug._require import is_count, refusal
from monai_infoaug.networks.pixel_embedding import attribute_of, pad_to_multiple, require_network

__all__ = ["DenseDescriptor"]


class DenseDescriptor(nn.Module):
    """All levels of an embedding network as one tensor, which can be exported to TorchScript and ONNX.

    Every level is interpolated linearly to cells of one stride and multiplied by the root of its weight; the levels
    follow each other along the channels. Cell ``j`` is centred on voxel ``stride * j + (stride - 1) / 2``.

    To find a point of a template: take the template's descriptor there, scale each level's part of it to the norm in
    ``roots`` (interpolation has shortened it), and take the dot product with every cell of the query. This is the score
    of :py:class:`monai_infoaug.inferers.LandmarkMatcher`, which is largest at the cell that matches best.

    The network's own state dictionaries load, too.

    Args:
        network: embedding network with ``strides``, whose embeddings are of unit norm.
        stride: voxels a cell, which divides every stride of the network or is divided by it; default the finest of
            them. 1 gives every voxel its descriptor.
        level_weights: weight of each level's similarity, default all equal; levels of weight 0 are left out.

    Attributes:
        roots: root of each level's weight, the weights scaled to sum to one.

    Shape:
        (B, C, *S) to (B, levels * F, *ceil(S / stride)).

    Raises:
        ValueError: for a network without strides, a stride that does not fit them, or weights that do not fit its
            levels.

    Example:
        >>> from monai_infoaug.networks import PixelEmbeddingNet
        >>> descriptor = DenseDescriptor(PixelEmbeddingNet(embedding_dim=16)).eval()
        >>> template, query = descriptor(torch.rand(2, 1, 96, 64)).detach()
        >>> template.shape  # three levels of 16 channels
        torch.Size([48, 48, 32])
        >>> parts = template[:, 10, 20].reshape(3, 16)  # cell (10, 20), at voxel (20.5, 40.5)
        >>> vector = (parts / parts.norm(dim=1, keepdim=True) / 3**0.5).flatten()
        >>> similarity = torch.einsum("f,fhw->hw", vector, query)
        >>> similarity.shape, bool(similarity.abs().max() <= 1)
        (torch.Size([48, 32]), True)
    """

    def __init__(
        self, network: nn.Module, stride: int | None = None, level_weights: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        require_network(network=network)
        self.network, self.strides = network, tuple(attribute_of(network, "strides"))
        self.stride = min(self.strides) if stride is None else stride
        if not is_count(self.stride, 1) or not all(0 in (s % self.stride, self.stride % s) for s in self.strides):
            raise refusal("stride", stride, f"a divisor or a multiple of each of the network's strides {self.strides}")
        self.roots = tuple(sqrt(share) for share in level_shares(level_weights, len(self.strides)))

    def forward(self, image: Tensor) -> Tensor:
        """Descriptors of an image, see Shape."""
        levels = self.network.embed(image) if hasattr(self.network, "embed") else self.network(image)  # type: ignore[operator]
        mode = "bilinear" if image.ndim == 4 else "trilinear"
        parts: list[Tensor] = []
        for i, (stride, root) in enumerate(zip(self.strides, self.roots, strict=True)):
            if root > 0:
                level = pad_to_multiple(levels[i], max(self.stride // stride, 1))
                part = root * interpolate(level, scale_factor=stride / self.stride, mode=mode, align_corners=False)
                for axis, size in enumerate(image.shape[2:], start=2):
                    part = part.narrow(axis, 0, (size + self.stride - 1) // self.stride)
                parts.append(part)
        return torch.cat(parts, dim=1)

    def extra_repr(self) -> str:
        """Settings that the parts do not show."""
        return f"stride={self.stride}, level_weights={tuple(round(root**2, 6) for root in self.roots)}"

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name in self.network.state_dict():  # names of the network's own state come without its place in here
            own, whole = prefix + name, f"{prefix}network.{name}"
            if own in state_dict and whole not in state_dict:
                state_dict[whole] = state_dict.pop(own)
        super()._load_from_state_dict(state_dict, prefix, *args)
