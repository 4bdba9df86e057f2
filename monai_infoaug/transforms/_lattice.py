"""Voxels, the cells between them, and their linear indices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def flat_nonzero(mask: Tensor) -> Tensor:
    """Linear index (n,) of what is true in a mask, on the CPU by NumPy, which is several times faster."""
    if mask.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.flatten().nonzero()[:, 0]


def ravel_index(voxels: Tensor, shape: Sequence[int]) -> Tensor:
    """Linear indices (n,) of whole voxel coordinates (D, n)."""
    index, *rows = voxels.long()
    for row, size in zip(rows, shape[1:], strict=True):
        index = index * size + row
    return index


def ends(tensor: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """All but the last and all but the first entry along an axis."""
    n = tensor.shape[axis] - 1
    return tensor.narrow(axis, 0, n), tensor.narrow(axis, 1, n)


def cells_between(voxels: Tensor) -> Tensor:
    """Cells (*R less one an axis) all of whose corners are true in a mask (*R)."""
    for axis in range(voxels.ndim):
        voxels = torch.logical_and(*ends(voxels, axis))
    return voxels


def dilate(tensor: Tensor, axis: int) -> Tensor:
    """Largest of each entry and its neighbours along an axis; faster than PyTorch's pooling in 3D, and for any type."""
    low, high = ends(tensor, axis)
    larger = low.maximum(high)
    first, last = tensor.narrow(axis, 0, 1), tensor.narrow(axis, -1, 1)
    return torch.cat([first, larger], axis).maximum(torch.cat([larger, last], axis))
