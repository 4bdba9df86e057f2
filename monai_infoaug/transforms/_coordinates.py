"""Coordinate maps: how they are made, and how images are read through them.

A map is ``coords`` (D, *R) float32, the source voxel coordinate of each voxel of a view, with a mask (*R) of the voxels
that show the source.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from monai_infoaug._grid import sample_at, unravel_index
from monai_infoaug.transforms._lattice import flat_nonzero
from monai_infoaug.transforms._twins import compiled

OUTSIDE = -2.0  # beyond the reach of every interpolation kernel
SNAP = 1e-3  # source voxels: interpolation noise at the border
ROUNDING = 1e-5  # the same in closed form


def coordinate_grid(shape: Sequence[int], device: torch.device | None = None) -> Tensor:
    """Identity coordinates (D, *shape) float32."""
    return torch.stack(torch.meshgrid([torch.arange(n, device=device).float() for n in shape], indexing="ij"))


def resample(image: Tensor, coords: Tensor, mode: str, padding_mode: str = "zeros") -> Tensor:
    """Read ``image`` (C, *S) at ``coords`` (D, *R); the result (C, *R) has the image's type.

    ``"nearest"`` moves values and never computes with them, so that large integer labels survive.
    """
    fast = None if mode == "bicubic" or image.requires_grad else compiled("_views_numba", image.device)
    if mode == "nearest":
        if fast:
            return fast.resample(image, coords, True, padding_mode == "border")
        return _nearest(image, coords, padding_mode)
    values = image if image.dtype == torch.float64 else image.float()
    if fast:
        values = fast.resample(values, coords, False, padding_mode == "border")
    else:
        values = sample_at(values[None], coords[None].to(values), mode, padding_mode)[0]
    return values.to(image.dtype) if image.is_floating_point() else values.round().to(image.dtype)


def _nearest(image: Tensor, coords: Tensor, padding_mode: str) -> Tensor:
    integer = torch.int32 if image[0].numel() < 2**31 else torch.int64
    index = torch.zeros(coords.shape[1:], dtype=integer, device=image.device)
    inside = torch.ones_like(index, dtype=torch.bool)
    for axis, n in zip(coords, image.shape[1:], strict=True):
        at = axis.round().to(integer)
        within = at.clamp(0, n - 1)
        inside, index = inside & (at == within), index * n + within
    values = image.flatten(1).index_select(1, index.flatten()).unflatten(1, inside.shape)
    return values if padding_mode == "border" else values.masked_fill(~inside, 0)


def _snapped(coords: Tensor, shape: Sequence[int], tolerance: float) -> tuple[Tensor, Tensor]:
    """Coordinates moved into an image, and the mask (*R) of those that it moved by no more than ``tolerance``."""
    last = torch.tensor(shape, device=coords.device).float().sub(1).view(-1, *[1] * len(shape))
    snapped = coords.clamp(torch.zeros_like(last), last)
    return snapped, (coords - snapped).abs().amax(0) <= tolerance  # several times as fast as `all`


def split_coordinates(output: Tensor, source_shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Coordinates and inside mask from what a spatial chain made of the identity coordinates and a channel of ones.

    Where the ones have faded, constant padding has been mixed in: those coordinates mean nothing.
    """
    coords, inside = _snapped(output[:-1], source_shape, SNAP)
    inside &= (output[-1] - 1).abs() <= SNAP
    return coords.masked_fill(~inside, OUTSIDE), inside


def affine_coordinates(
    steps: Sequence[tuple[Tensor, Sequence[int]]], ranges: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Coordinates and inside mask of a chain of affine maps, in closed form.

    Args:
        steps: in the chain's order, the matrix (D+1, D+1) float64 from what a step makes to what it gets, and the
            latter's size; a voxel shows the source if all steps found it inside of what they got.
        ranges: voxels along each axis of the last step's output.

    Returns:
        coordinates (D, *R), mask (*R), and the matrix of the whole chain.
    """
    dims = len(ranges)
    matrix, matrices = torch.eye(dims + 1, dtype=torch.float64, device=ranges[0].device), []
    for step, _ in reversed(steps):
        matrix = step.to(matrix) @ matrix
        matrices.append(matrix)
    sizes = [size for _, size in reversed(steps)]
    if fast := compiled("_views_numba", matrix.device):
        return *fast.affine_coordinates(matrices, sizes, ranges, ROUNDING, OUTSIDE), matrix
    inside = torch.ones([len(each) for each in ranges], dtype=torch.bool, device=matrix.device)
    for each, size in zip(matrices, sizes, strict=True):
        coords = each[:dims, -1].float().view(-1, *[1] * dims)
        for axis, voxels in enumerate(ranges):
            part = (each[:dims, axis, None] * voxels).float()
            coords = coords + part.view(dims, *[-1 if other == axis else 1 for other in range(dims)])
        coords, within = _snapped(coords, size, ROUNDING)
        inside &= within
    return coords.masked_fill_(~inside, OUTSIDE), inside, matrix


def carried_coordinates(
    coords: Tensor, shape: Sequence[int], steps: Sequence[tuple[Tensor, Sequence[int]]]
) -> tuple[Tensor, Tensor]:
    """Coordinates (D, *R) in what a chain of affine maps makes as source coordinates, also outside, and inside mask.

    Args:
        coords: float32.
        shape: shape of what the chain makes.
        steps: as for :py:func:`affine_coordinates`.
    """
    snapped, inside = _snapped(coords, shape, SNAP)
    for step, size in reversed(steps):
        matrix = step.to(coords)
        coords = torch.addmm(matrix[:-1, -1:], matrix[:-1, :-1], coords.flatten(1)).view_as(coords)
        snapped, within = _snapped(coords, size, SNAP)
        inside &= within
    return torch.where(inside, snapped, coords), inside


def fit_affine(coords: Tensor, valid: Tensor, tolerance: float = 1e-2) -> Tensor | None:
    """The affine map (D+1, D+1) float64 that agrees with ``coords`` at all valid voxels, else None.

    Args:
        coords: (D, *R).
        valid: (*R) bool.
        tolerance: largest residual in source voxels.
    """
    everywhere = flat_nonzero(valid)
    for voxels in (everywhere[:: len(everywhere) // 64 + 1], everywhere):  # some voxels tell most maps at once
        rows = torch.nn.functional.pad(unravel_index(voxels, valid.shape).double().T, [0, 1], value=1.0)
        targets, normal = coords.flatten(1)[:, voxels].double().T, rows.T @ rows
        if not len(rows) or torch.linalg.matrix_rank(normal, hermitian=True) <= len(coords):
            if len(rows) == len(everywhere):
                return None
            continue  # some voxels may lie on one line, or in one plane
        fit = torch.linalg.solve(normal, rows.T @ targets).T
        if (rows @ fit.T - targets).abs().amax() >= tolerance:
            return None
    return torch.cat([fit, torch.eye(len(normal), dtype=fit.dtype, device=fit.device)[-1:]])
