"""MONAI's smooth random deformations in closed form: their values at the voxels that are wanted, and at no others."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from monai.networks.layers import gaussian_1d
from monai.transforms import Rand2DElastic, Rand3DElastic, RandomizableTransform
from monai.utils import MAX_SEED, ensure_tuple, fall_back_tuple
from torch import Tensor
from torch.nn.functional import interpolate

from monai_infoaug._grid import plain
from monai_infoaug.transforms._smoothing import filtered

ELASTIC_TRANSFORMS = (Rand2DElastic, Rand3DElastic)


class Deformation(NamedTuple):
    """A smooth map from the voxels of an output to those of an input: an affine one, and a weighted sum of nodes."""

    matrix: Tensor  # (D+1, D+1)
    nodes: Tensor  # (D, *N)
    weights: list[Tensor]  # of each axis, (voxels of the output, nodes)
    mixing: Tensor  # (D, D), what the sums of nodes are multiplied by

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the output."""
        return tuple(map(len, self.weights))

    def __call__(self, window: Sequence[slice]) -> Tensor:
        """Input coordinates (D, *R) of a window of the output."""
        rows = [weights[part] for weights, part in zip(self.weights, window, strict=True)]
        near = [_used(each) for each in rows]
        sums = self.nodes[(slice(None), *near)]
        sums = sums @ rows[-1][:, near[-1]].T
        for axis in range(len(rows) - 1, 0, -1):  # the rest without a copy in another order
            sums = (rows[axis - 1][:, near[axis - 1]] @ sums.flatten(axis + 1)).unflatten(-1, sums.shape[axis + 1 :])
        coords = torch.tensordot(self.mixing, sums, 1)
        coords += self.matrix[:-1, -1].view(-1, *[1] * len(rows))
        for axis, part in enumerate(window):
            voxels = torch.arange(self.shape[axis], dtype=coords.dtype, device=coords.device)[part]
            line = self.matrix[:-1, axis, None] * voxels
            coords += line.view(len(rows), *[-1 if other == axis else 1 for other in range(len(rows))])
        return coords


def _used(rows: Tensor) -> slice:
    """From the first to the last column that is not zero."""
    columns = rows.abs().sum(0).nonzero()
    return slice(int(columns[0]), int(columns[-1]) + 1)


def draw_elastic(
    stage: Any, shape: Sequence[int], device: torch.device
) -> Deformation | tuple[Tensor, tuple[int, ...]]:
    """What a seeded transform draws for an image of a shape: a deformation, or a shift and the output's shape.

    What MONAI draws and throws away is left out, and the many offsets of 3D come from a faster generator.
    """
    size, dims = fall_back_tuple(stage.spatial_size, shape), len(shape)
    matrix = torch.eye(dims + 1)
    matrix[:-1, -1] = (torch.tensor(shape) - torch.tensor(size)) / 2
    RandomizableTransform.randomize(stage, None)
    if not stage._do_transform:
        return matrix, size
    drawn = (_draw_2d if isinstance(stage, Rand2DElastic) else _draw_3d)(stage, size)
    drawn.matrix[:-1, -1] += (torch.tensor(shape) - 1) / 2  # MONAI counts from the centre
    weights = [each.to(device) for each in drawn.weights]
    return Deformation(drawn.matrix.to(device), drawn.nodes.to(device), weights, drawn.mixing.to(device))


def _draw_affine(stage: Rand2DElastic | Rand3DElastic, size: Sequence[int]) -> Tensor:
    """The affine map (D+1, D+1) that comes after the deformation, about the centre."""
    stage.rand_affine_grid(size, lazy=True)  # without a grid
    return plain(cast(Tensor, stage.rand_affine_grid.affine)).to(torch.float32, copy=True)


def _draw_2d(stage: Rand2DElastic, size: Sequence[int]) -> Deformation:
    """Places of control points, between which bicubic interpolation goes."""
    nodes = plain(stage.deform_grid(size))[:-1].float()
    affine = _draw_affine(stage, size)
    axes = zip(nodes.shape[1:], ensure_tuple(stage.deform_grid.spacing), size, strict=True)
    shift = torch.zeros_like(affine)
    shift[:, -1] = affine[:, -1]
    return Deformation(shift, nodes, [_upsampling(*axis) for axis in axes], affine[:-1, :-1])


@functools.lru_cache(maxsize=64)
def _upsampling(count: int, spacing: float, size: int) -> Tensor:
    """Weight (size, count) of each of ``count`` control points at each voxel, as PyTorch's upsampling gives it."""
    weights = interpolate(
        torch.eye(count)[None, None],
        scale_factor=[spacing, 1.0],
        mode="bicubic",
        align_corners=False,
        recompute_scale_factor=True,
    )[0, 0]
    return weights.narrow(0, len(weights) // 2 - size // 2, size)  # the middle


def _draw_3d(stage: Rand3DElastic, size: Sequence[int]) -> Deformation:
    """An offset of each voxel, smoothed."""
    generator = np.random.Generator(np.random.SFC64(stage.R.randint(MAX_SEED, dtype="uint32")))
    stage.rand_offset = 2 * generator.random((3, *size), np.float32) - 1
    stage.magnitude, stage.sigma = stage.R.uniform(*stage.magnitude_range), stage.R.uniform(*stage.sigma_range)
    matrix = _draw_affine(stage, size)
    mixing = stage.magnitude * matrix[:-1, :-1]
    matrix[:-1, -1] -= matrix[:-1, :-1] @ (torch.tensor(size) - 1.0) / 2
    kernel, one = gaussian_1d(torch.tensor(stage.sigma), truncated=3.0), torch.ones(1)
    weights = [filtered(torch.eye(n)[None], [kernel, one])[0] for n in size]
    return Deformation(matrix, torch.from_numpy(stage.rand_offset), weights, mixing)
