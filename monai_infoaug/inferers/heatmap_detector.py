"""Landmarks from heat maps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.inferers import Inferer
from monai.utils import convert_to_tensor
from torch import Tensor

from monai_infoaug._require import all_finite, is_number, refusal
from monai_infoaug.inferers._peaks import clip_to, peak_of
from monai_infoaug.inferers.coordinates import to_world

__all__ = ["HeatmapDetector"]


class HeatmapDetector(Inferer):
    """Inferer that finds landmarks by a network that gives heat-map logits.

    A landmark lies at the largest logit of its map, refined to a fraction of a cell by a parabola along each axis,
    which is exact where the softmax is a Gaussian. Its score is the probability that the softmax puts nearby: little
    where the network wavers between two places, or does not know to within the radius.

    Args:
        radius: voxels around the landmark whose probability is the score.

    Raises:
        ValueError: for a radius that is no number above 0, an image that is no (B, C, *S) or not finite, or a network
            without ``stride`` or whose output is of another shape.

    Example:
        >>> from monai_infoaug.networks import LandmarkHeatmapNet, PixelEmbeddingNet
        >>> found = HeatmapDetector()(torch.rand(2, 1, 96, 64), LandmarkHeatmapNet(PixelEmbeddingNet(), 19))
        >>> found["landmarks"].shape, found["scores"].shape
        (torch.Size([2, 19, 2]), torch.Size([2, 19]))
    """

    def __init__(self, radius: float = 5.0) -> None:
        if not (is_number(radius) and radius > 0):
            raise refusal("radius", radius, "a number of voxels above 0")
        self.radius = radius

    @torch.no_grad()
    def __call__(
        self,
        inputs: Tensor,
        network: Callable[..., Any],
        *args: Any,  # noqa: ARG002
        **kwargs: Any,  # noqa: ARG002
    ) -> dict[str, Tensor]:
        """Find the landmarks in images.

        Args:
            inputs: (B, C, *S); a MetaTensor's affine gives millimetres, otherwise a voxel is taken as one.
            network: network that gives logits (B, L, *ceil(S / stride)) and has ``stride``, in evaluation mode.
            args: not used; MONAI's inferers take them.
            kwargs: not used, either.

        Returns:
            ``landmarks`` (B, L, D) in voxels, ``world`` (B, L, D) in millimetres, ``scores`` (B, L) in [0, 1].
        """
        if inputs.ndim not in (4, 5):
            raise refusal("inputs", f"shape {tuple(inputs.shape)}", "(B, C, *S), 2D or 3D")
        if not all_finite(inputs):
            raise refusal("inputs", "NaN or infinite values", "finite")
        stride = getattr(getattr(network, "module", network), "stride", None)
        if stride is None:
            raise refusal("network", type(network).__name__, "a network with `stride`")
        images = convert_to_tensor(inputs)  # a MetaTensor would carry its metadata through every layer
        logits, size = network(images), images.shape[2:]
        cells = tuple(-(-length // stride) for length in size)
        if logits.ndim != images.ndim or logits.shape[2:] != cells:
            accepted = f"a network that gives (B, L, {', '.join(map(str, cells))}) for these inputs"
            raise refusal("network", tuple(logits.shape), accepted)
        maps = logits.flatten(0, 1).float()
        peaks, _ = peak_of(maps)
        found = clip_to(stride * peaks + (stride - 1) / 2, size)
        squares = maps.new_zeros(len(maps), 1)  # of the distances to the cells, summed axis by axis
        for axis, count in enumerate(cells):
            offsets = stride * torch.arange(count).to(maps) + (stride - 1) / 2 - found[:, axis, None]
            squares = (squares[..., None] + offsets.square()[:, None]).flatten(1)
        scores = (maps.flatten(1).softmax(1) * (squares <= self.radius**2)).sum(1).clamp_max(1)
        found, scores = found.reshape(*logits.shape[:2], len(size)), scores.reshape(logits.shape[:2])
        return {"landmarks": found, "world": to_world(found, inputs), "scores": scores}
