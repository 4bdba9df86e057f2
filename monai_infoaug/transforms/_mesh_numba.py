"""Meshes of bent views on the CPU, a voxel or point in one go: the fast twin of ``_mesh.py``.

A view of two axes is one of three with a depth of one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from monai_infoaug._numba import jit, over_threads
from monai_infoaug.transforms._validity_numba import determinant

POINTS_PER_THREAD = 1 << 12  # fewer are not worth one


@jit
def _first_cells(cells, offsets, coords, first, low, high, start, stop):
    """First cell of which each voxel is a corner, -1 for none, and the extremes (D,) of such voxels' ``coords``."""
    for i in range(start, stop):
        first[i] = -1
        for offset in offsets:
            if i >= offset and cells[i - offset]:
                first[i] = i - offset
                break
        if first[i] >= 0:
            for axis in range(len(coords)):
                low[axis], high[axis] = min(low[axis], coords[axis, i]), max(high[axis], coords[axis, i])


def first_cells(cells: Tensor, offsets: Sequence[int], coords: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """First cell (n,) of which each voxel is a corner, -1 for none, and extremes (D,) of their coordinates (D, n)."""
    first = torch.empty(len(cells), dtype=torch.long)
    low, high = torch.full((len(coords),), torch.inf), torch.full((len(coords),), -torch.inf)
    arrays = (each.numpy() for each in (cells, torch.tensor(offsets), coords, first, low, high))
    over_threads(_first_cells, len(cells), *arrays, least=len(cells))  # one thread, for the extremes
    return first, low, high


@jit
def _box(coords, i, origin, box, found):
    """Box (3,) of the table that point ``i`` of ``coords`` (D, n) lies in."""
    for axis in range(len(coords)):
        found[3 - len(coords) + axis] = math.floor((coords[axis, i] - origin[axis]) / box[axis])


@jit
def _fill(first, coords, origin, box, table, start, stop):
    """Least cell of the voxels in each box of ``table`` (z, y, x), which holds -1 elsewhere."""
    at = np.zeros(3, np.int64)
    for i in range(start, stop):
        if first[i] >= 0:
            _box(coords, i, origin, box, at)
            known = table[at[0], at[1], at[2]]
            if known < 0 or first[i] < known:
                table[at[0], at[1], at[2]] = first[i]


@jit
def _borrow(table, filled, start, stop):
    """Planes ``start`` to ``stop`` of ``filled``: the table, and in its empty boxes the greatest cell beside them."""
    _, height, width = table.shape
    for z in range(start, stop):
        for y in range(height):
            for x in range(width):
                cell = table[z, y, x]
                if cell < 0:
                    near = table[max(z - 1, 0) : z + 2, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
                    for each in near.flat:
                        cell = max(cell, each)
                filled[z, y, x] = cell


def filled_table(first: Tensor, coords: Tensor, origin: Tensor, box: Tensor, shape: Sequence[int]) -> Tensor:
    """Table (z, y, x) from source box to a cell near it, -1 for none; see :py:func:`first_cells`."""
    table = torch.full((1,) * (3 - len(shape)) + tuple(shape), -1)
    arrays = (each.numpy() for each in (first, coords, origin, box, table))
    over_threads(_fill, len(first), *arrays, least=len(first))
    filled = torch.empty_like(table)
    over_threads(_borrow, len(table), table.numpy(), filled.numpy(), least=len(table))
    return filled


@jit
def _miss(coords, points, i, cell, offsets, at, away, slope):
    """How far a place in a cell is from point ``i``: ``away`` (3,), and its ``slope`` (3, 3), a row an axis."""
    dims = len(coords)
    away[:], slope[:] = 0, 0
    slope[0, 0] = 3 - dims  # of a depth that is not there
    for corner in range(1 << dims):
        cz, cy, cx = corner >> 2, corner >> 1 & 1, corner & 1
        wz = 1.0 if dims == 2 else (at[0] if cz else 1 - at[0])
        wy, wx = at[1] if cy else 1 - at[1], at[2] if cx else 1 - at[2]
        for axis in range(dims):
            value, row = coords[axis, cell + offsets[corner]] - points[axis, i], 3 - dims + axis
            away[row] += wz * wy * wx * value
            slope[0, row] += (dims - 2) * (2 * cz - 1) * wy * wx * value
            slope[1, row] += (2 * cy - 1) * wz * wx * value
            slope[2, row] += (2 * cx - 1) * wz * wy * value


@jit
def _newton_step(away, slope, at):
    """Move ``at`` by Cramer's rule, by no more than 8 cells an axis."""
    volume = determinant(slope[0], slope[1], slope[2])
    parts = (
        determinant(away, slope[1], slope[2]),
        determinant(slope[0], away, slope[2]),
        determinant(slope[0], slope[1], away),
    )
    for axis in range(3):
        step = parts[axis] / volume if volume != 0 else 8 * np.sign(parts[axis])
        at[axis] -= min(max(step, -8.0), 8.0)


@jit
def _beside(at, here, floor, last, margin, cells, strides, cell, ahead):
    """A cell that ``at`` touches, or the next behind a collapsed one, else ``cell``; its origin in ``ahead``."""
    ahead[:] = here
    shift, near = np.empty(3, np.int64), np.empty(3, np.int64)
    for axis in range(3):
        moved = floor[axis] - here[axis]
        part = at[axis] - moved
        shift[axis] = -1 if part < margin else (1 if part > 1 - margin else np.sign(moved))
    for side in range(8):
        index = 0
        for axis in range(3):
            near[axis] = min(max(floor[axis] + shift[axis] * (side >> (2 - axis) & 1), 0), last[axis])
            index += near[axis] * strides[axis]
        if cells[index]:
            cell, ahead[:] = index, near
    return cell


@jit
def _locate(points, table, origin, box, coords, cells, shape, offsets, limits, position, start, stop):
    """Places ``position`` (D, n) of ``points`` (D, n) in a mesh, by Newton's method; of those found alone."""
    residual, margin, steps = limits
    dims = len(points)
    strides = np.array((shape[1] * shape[2], shape[2], 1))
    last, here, ahead = np.empty(3, np.int64), np.zeros(3, np.int64), np.zeros(3, np.int64)
    for axis in range(3):
        last[axis] = max(shape[axis] - 2, 0)
    at, away, slope, floor = np.zeros(3), np.zeros(3), np.zeros((3, 3)), np.zeros(3, np.int64)
    for i in range(start, stop):
        _box(points, i, origin, box, floor)
        if min(floor) < 0 or floor[0] >= table.shape[0] or floor[1] >= table.shape[1] or floor[2] >= table.shape[2]:
            continue
        cell = table[floor[0], floor[1], floor[2]]
        if cell < 0:
            continue
        here[0], here[1], here[2] = cell // strides[0], cell % strides[0] // strides[1], cell % strides[1]
        at[:] = 0.5
        for _ in range(steps):
            _miss(coords, points, i, cell, offsets, at, away, slope)
            _newton_step(away, slope, at)
            close = away[0] ** 2 + away[1] ** 2 + away[2] ** 2 <= residual**2
            if close and max(np.abs(at - 0.5)) <= 0.5 + margin:
                for axis in range(3 - dims, 3):
                    position[axis + dims - 3, i] = here[axis] + min(max(at[axis], 0.0), 1.0)
                break
            for axis in range(3):
                floor[axis] = min(max(here[axis] + math.floor(at[axis]), 0), last[axis])
            found = floor[0] * strides[0] + floor[1] * strides[1] + floor[2]
            ahead[:] = floor
            if not cells[found]:
                found = _beside(at, here, floor, last, margin, cells, strides, cell, ahead)
            if close and found == cell:
                break
            at += here - ahead
            here[:], cell = ahead, found


def locate(
    points: Tensor,
    table: Tensor,
    origin: Tensor,
    box: Tensor,
    coords: Tensor,
    cells: Tensor,
    shape: Sequence[int],
    offsets: Sequence[int],
    limits: tuple[float, float, int],
) -> tuple[Tensor, Tensor]:
    """Positions (D, n) float32, NaN where not found, and found (n,); ``limits`` are residual, margin and steps."""
    position, depth = torch.full_like(points, torch.nan), (1,) * (3 - len(shape))
    arrays = (each.numpy() for each in (points.contiguous(), table, origin, box, coords, cells))
    given = np.array((*depth, *shape)), np.array(offsets), limits, position.numpy()
    over_threads(_locate, points.shape[1], *arrays, *given, least=POINTS_PER_THREAD)
    return position, ~position[0].isnan()
