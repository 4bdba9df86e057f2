"""Points between voxels and millimetres."""

from __future__ import annotations

import torch
from monai.data import MetaTensor
from monai.utils import convert_to_tensor
from torch import Tensor

from monai_infoaug._require import refusal

__all__ = ["to_voxels", "to_world"]


def _affine(image: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Linear part (D, D) or (B, D, D) and origin (1, D) or (B, 1, D) of the map from voxels to millimetres."""
    dims = points.shape[-1]
    affine = torch.as_tensor(image.affine if isinstance(image, MetaTensor) else torch.eye(dims + 1)).to(points)
    return affine[..., :dims, :dims], affine[..., None, :dims, -1]


def to_world(points: Tensor, image: Tensor) -> Tensor:
    """Map voxels (B, L, D) of images to millimetres by the MetaTensor's affine; plain tensors have voxels of 1 mm."""
    linear, origin = _affine(image, points)
    return points @ linear.mT + origin


def to_voxels(points: Tensor, image: Tensor) -> Tensor:
    """The way back from :py:func:`to_world`."""
    linear, origin = _affine(image, points)
    voxels: Tensor = torch.linalg.solve(linear, (points - origin).mT)
    return voxels.mT


def to_tensor(argument: str, values: object) -> Tensor:
    """An array or nested sequences as a tensor, a MetaTensor as it is.

    Raises:
        ValueError: naming the argument, for anything else.
    """
    try:
        tensor = convert_to_tensor(values, wrap_sequence=True, track_meta=isinstance(values, MetaTensor))
    except (TypeError, ValueError, RuntimeError) as error:
        raise refusal(argument, repr(values), "a tensor") from error
    if not isinstance(tensor, Tensor):
        raise refusal(argument, repr(values), "a tensor")
    return tensor
