"""Slices of images as parts of a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from monai.data import MetaTensor
from torch import Tensor
from torch.nn.functional import avg_pool2d

from monai_infoaug._grid import sample_at
from monai_infoaug.handlers._planes import PLANES

__all__ = ["PLANES", "Slice", "painted"]  # the planes' axes are those of a volume in LPI, too


@dataclass(frozen=True, eq=False)
class Slice:
    """A slice of an image.

    Args:
        centre: voxel (D,) in its middle.
        axes: those of the image to the right and down.
        steps: voxels a pixel along each axis of the image.
        size: width and height in pixels.
        corner: its first pixel in the picture.
    """

    centre: Tensor
    axes: tuple[int, int]
    steps: Tensor
    size: tuple[int, int]
    corner: tuple[int, int] = (0, 0)

    @property
    def within(self) -> tuple[slice, slice]:
        """Its pixels of the picture."""
        (left, top), (width, height) = self.corner, self.size
        return slice(left, left + width), slice(top, top + height)

    def places(self, fine: int = 1) -> Tensor:
        """Voxels (D, fine * width, fine * height) of each pixel, or of ``fine`` x ``fine`` parts of it."""
        found = self.centre[:, None, None].repeat(1, fine * self.size[0], fine * self.size[1])
        for place, (axis, length) in enumerate(zip(self.axes, self.size, strict=True)):
            along = (torch.arange(fine * length).to(self.centre) + 0.5) / fine - length / 2
            found[axis] += (along * self.steps[axis]).unsqueeze(1 - place)
        return found

    def mark(self, point: Tensor) -> tuple[float, float]:
        """Where in the picture a voxel (D,) is."""
        x, y = (
            float((point[axis] - self.centre[axis]) / self.steps[axis]) + length / 2 - 0.5 + first
            for axis, length, first in zip(self.axes, self.size, self.corner, strict=True)
        )
        return x, y


def painted(image: MetaTensor, slices: Sequence[Slice], size: tuple[int, int]) -> Tensor:
    """Slices of an image (C, *S) in [0, 1] as one picture (1 or 3, X, Y), black between them.

    Of three channels they are RGB, else the first one is shown. Where the picture is coarse, its pixels are means.
    """
    values = image.as_tensor() if len(image) == 3 else image.as_tensor()[:1]
    some = values.flatten()[:: math.ceil(values.numel() / 10**6)]
    low, high = torch.quantile(some[some.isfinite()], torch.tensor([0.002, 0.998])).tolist()
    values = ((values - low) / max(high - low, 1e-12)).nan_to_num(0).clamp(0, 1)
    pixels = torch.zeros(len(values), *size)
    for each in slices:
        fine = max(1, math.ceil(max(float(each.steps[axis]) for axis in each.axes) - 0.01))
        pixels[(slice(None), *each.within)] = avg_pool2d(sample_at(values[None], each.places(fine)[None])[0], fine)
    return pixels
