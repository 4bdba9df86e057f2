"""Views on the CPU, each voxel or point in one go: the fast twins of what ``_correspondence.py`` does in steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from monai_infoaug._numba import jit, over_threads

if TYPE_CHECKING:
    from monai_infoaug.transforms._correspondence import Mesh

LEAST = 1 << 18  # voxels that are worth a thread
LEAST_FOLLOWED = 1 << 13  # points
WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # what is moved, whatever it means


@jit
def _at(image, z, y, x):
    """A voxel of ``image`` (z, y, x), 0 outside."""
    depth, height, width = image.shape
    inside = 0 <= z < depth and 0 <= y < height and 0 <= x < width
    return image[z, y, x] if inside else image.dtype.type(0)


@jit
def _tilted(flat, first, width, part_y, part_x):
    """Bilinear value in the cell that begins at index ``first``, unsigned, and its derivatives along y and x."""
    after = first + np.uint64(1)
    a, b, c, d = flat[first], flat[after], flat[first + width], flat[after + width]
    top, low = a + part_x * (b - a), c + part_x * (d - c)
    return top + part_y * (low - top), low - top, b - a + part_y * (d - c - b + a)


@jit
def _at_border(image, dims, z, y, x):
    """Multilinear value of ``image`` (z, y, x) at a place some of whose neighbours may be outside."""
    floors = np.floor(z), np.floor(y), np.floor(x)
    part_z, part_y, part_x = z - floors[0], y - floors[1], x - floors[2]
    value = image.dtype.type(0)
    for corner in range(1 << dims):
        dz, dy, dx = corner >> 2, corner >> 1 & 1, corner & 1
        weight = (part_y if dy else 1 - part_y) * (part_x if dx else 1 - part_x)
        weight *= part_z if dz else 1 - part_z
        value += weight * _at(image, int(floors[0]) + dz, int(floors[1]) + dy, int(floors[2]) + dx)
    return value


@jit
def _linear(image, coords, border, out, start, stop):
    """Multilinear values of ``image`` (C, z, y, x) at voxels ``start`` to ``stop`` of ``coords`` (2 or 3, n)."""
    depth, height, width = image.shape[1:]
    dims, down, deep = len(coords), np.uint64(width), np.uint64(height * width)  # unsigned: no test for negative ones
    zero, last_z, last_y, last_x = np.float32(0), np.float32(depth - 1), np.float32(height - 1), np.float32(width - 1)
    for channel in range(len(image)):
        flat = image[channel].ravel()
        for i in range(start, stop):
            z = coords[0, i] if dims == 3 else zero
            y, x = coords[dims - 2, i], coords[dims - 1, i]
            if border:
                z, y, x = min(max(z, zero), last_z), min(max(y, zero), last_y), min(max(x, zero), last_x)
            if 0 <= y < last_y and 0 <= x < last_x and (dims == 2 or 0 <= z < last_z):
                z0, y0, x0 = int(z), int(y), int(x)
                part_y, part_x = y - np.float32(y0), x - np.float32(x0)
                first = np.uint64((z0 * height + y0) * width + x0)
                value = _tilted(flat, first, down, part_y, part_x)[0]
                if dims == 3:
                    below = _tilted(flat, first + deep, down, part_y, part_x)[0]
                    value += (z - np.float32(z0)) * (below - value)
            elif -1 < y < height and -1 < x < width and (dims == 2 or -1 < z < depth):
                value = _at_border(image[channel], dims, z, y, x)
            else:
                value = image.dtype.type(0)
            out[channel, i] = value


@jit
def _nearest(image, coords, border, out, start, stop):
    """As :func:`_linear`, the nearest values."""
    depth, height, width = image.shape[1:]
    dims, half = len(coords), np.float32(1.5 * 2**23)  # what is added to it is rounded, halves to even, up to 2^22
    for channel in range(len(image)):
        flat = image[channel].ravel()
        for i in range(start, stop):
            z = int((coords[0, i] + half) - half) if dims == 3 else 0
            y, x = int((coords[dims - 2, i] + half) - half), int((coords[dims - 1, i] + half) - half)
            if border:
                z, y, x = min(max(z, 0), depth - 1), min(max(y, 0), height - 1), min(max(x, 0), width - 1)
            inside = 0 <= z < depth and 0 <= y < height and 0 <= x < width
            out[channel, i] = flat[np.uint64((z * height + y) * width + x)] if inside else image.dtype.type(0)


@jit
def _affine(matrices, last, rounding, outside, along_z, along_y, along_x, coords, inside, start, stop):
    """Lines ``start`` to ``stop`` of ``coords`` (2 or 3, z, y, x) and ``inside`` (z, y, x)."""
    dims, size_y, size_x = len(coords), inside.shape[1], inside.shape[2]
    for line in range(start, stop):
        i, j = line // size_y, line % size_y
        good = inside[i, j]
        good[:] = True
        for k in range(len(matrices)):
            for axis in range(dims):
                row, found, end = matrices[k, axis], coords[axis, i, j], last[k, axis]
                base, slope = row[3] + row[0] * along_z[i] + row[1] * along_y[j], row[2]
                for at in range(size_x):
                    value = base + slope * along_x[at]
                    snapped = 0.0 if value < 0.0 else (end if value > end else value)
                    good[at] &= abs(value - snapped) <= rounding
                    found[at] = snapped  # of the last step in the end
        for axis in range(dims):
            found = coords[axis, i, j]
            for at in range(size_x):
                found[at] = found[at] if good[at] else outside


@jit
def _is_cell(flat, height, width, dims, z, y, x):
    """Whether all corners of the cell that begins at (z, y, x) are true."""
    first = (z * height + y) * width + x
    whole = True
    for _ in range(dims - 1):
        index = np.uint64(first)
        down, right = np.uint64(width), np.uint64(1)
        whole &= flat[index] and flat[index + right] and flat[index + down] and flat[index + down + right]
        first += height * width
    return whole


@jit
def _located(inverse, valid, margin, points, position, found, start, stop):
    """Positions (2 or 3, n) of points ``start`` to ``stop``, and whether a cell of ``valid`` (z, y, x) is there."""
    dims, flat = len(points), valid.ravel()
    depth, height, width = valid.shape
    last_z, last_y, last_x = max(depth - 2, 0), height - 2, width - 2  # first corners
    for i in range(start, stop):
        z = points[0, i] if dims == 3 else np.float32(0)
        y, x = points[dims - 2, i], points[dims - 1, i]
        at_z = inverse[0, 0] * z + inverse[0, 1] * y + inverse[0, 2] * x + inverse[0, 3]
        at_y = inverse[1, 0] * z + inverse[1, 1] * y + inverse[1, 2] * x + inverse[1, 3]
        at_x = inverse[2, 0] * z + inverse[2, 1] * y + inverse[2, 2] * x + inverse[2, 3]
        z, y, x = min(max(at_z, 0.0), depth - 1.0), min(max(at_y, 0.0), height - 1.0), min(max(at_x, 0.0), width - 1.0)
        there = False
        if max(abs(at_z - z), abs(at_y - y), abs(at_x - x)) <= margin:
            there = _is_cell(flat, height, width, dims, min(int(z), last_z), min(int(y), last_y), min(int(x), last_x))
            for side in range(0 if there else 1 << dims):  # those that it nearly touches
                dz = margin if side >> 2 else -margin
                dy, dx = margin if side >> 1 & 1 else -margin, margin if side & 1 else -margin
                cell_z = min(max(math.floor(z + dz), 0), last_z)
                cell_y, cell_x = min(max(math.floor(y + dy), 0), last_y), min(max(math.floor(x + dx), 0), last_x)
                there |= _is_cell(flat, height, width, dims, cell_z, cell_y, cell_x)
        found[i] = there
        if dims == 3:
            position[0, i] = z if there else np.nan
        position[dims - 2, i] = y if there else np.nan
        position[dims - 1, i] = x if there else np.nan


@jit
def _bent(flat, dims, first, depth, width, part_z, part_y, part_x):
    """Multilinear value, and its derivatives along z, y and x."""
    value, along_y, along_x = _tilted(flat, first, width, part_y, part_x)
    if dims == 2:
        return value, (0.0, along_y, along_x)
    below, below_y, below_x = _tilted(flat, first + depth, width, part_y, part_x)
    along_y, along_x = along_y + part_z * (below_y - along_y), along_x + part_z * (below_x - along_x)
    return value + part_z * (below - value), (below - value, along_y, along_x)


@jit
def _step(rows, right):
    """Solution (z, y, x) of three equations by Cramer's rule, no more than 8 voxels an axis."""
    (a, b, c), (d, e, f), (g, h, i) = rows
    u, v, w = right
    volume = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
    z = u * (e * i - f * h) - b * (v * i - f * w) + c * (v * h - e * w)
    y = a * (v * i - f * w) - u * (d * i - f * g) + c * (d * w - v * g)
    x = a * (e * w - v * h) - b * (d * w - v * g) + u * (d * h - e * g)
    scale = 1 / volume if volume != 0 else 1e30
    return min(max(z * scale, -8.0), 8.0), min(max(y * scale, -8.0), 8.0), min(max(x * scale, -8.0), 8.0)


@jit
def _next_to(at, origin, last, margin, side):
    """First voxel of a cell along an axis; with ``side`` that beyond the edge nearly touched, or on from ``origin``."""
    first = min(max(math.floor(at), 0), last)
    if side:
        part = at - first
        first += -1 if part < margin else (1 if part > 1 - margin else np.sign(first - origin))
    return int(min(max(first, 0), last))


@jit
def _followed(coords, cells, shape, margin, residual, steps, points, first, position, start, stop):
    """Positions (2 or 3, n) of points ``start`` to ``stop`` by Newton's method from the cells ``first``, or NaN."""
    dims, (depth, height, width) = len(coords), shape
    deep, last_z, last_y, last_x = height * width, max(depth - 2, 0), height - 2, width - 2
    for i in range(start, stop):
        position[:, i] = np.nan
        cell = first[i]
        z, y, x = cell // deep + 0.5 * (dims == 3), cell // width % height + 0.5, cell % width + 0.5
        for _ in range(steps if cell >= 0 else 0):
            z0, y0, x0 = cell // deep, cell // width % height, cell % width
            given = dims, np.uint64(cell), np.uint64(deep), np.uint64(width), z - z0, y - y0, x - x0
            to_y, along_y = _bent(coords[dims - 2], *given)
            to_x, along_x = _bent(coords[dims - 1], *given)
            to_z, along_z = _bent(coords[0], *given) if dims == 3 else (0.0, (1.0, 0.0, 0.0))
            right_z = points[0, i] - to_z if dims == 3 else 0.0
            right_y, right_x = points[dims - 2, i] - to_y, points[dims - 1, i] - to_x
            change = _step((along_z, along_y, along_x), (right_z, right_y, right_x))
            z, y, x = z + change[0], y + change[1], x + change[2]
            close = right_z**2 + right_y**2 + right_x**2 <= residual**2
            reach = 0.5 + margin
            within = abs(y - y0 - 0.5) <= reach and abs(x - x0 - 0.5) <= reach
            if close and within and (dims == 2 or abs(z - z0 - 0.5) <= reach):
                if dims == 3:
                    position[0, i] = min(max(z, z0), z0 + 1)
                position[dims - 2, i], position[dims - 1, i] = min(max(y, y0), y0 + 1), min(max(x, x0), x0 + 1)
                break
            before = cell
            for side in range(1 << dims):  # as `Mesh._cell_at`
                a = _next_to(z, z0, last_z, margin, side >> 2)
                b, c = _next_to(y, y0, last_y, margin, side >> 1 & 1), _next_to(x, x0, last_x, margin, side & 1)
                near = (a * height + b) * width + c
                if cells[near]:
                    cell = near
                    if side == 0:
                        break
            if close and cell == before:
                break


def _padded(matrix: Tensor) -> np.ndarray:
    """Rows (3, 4) of a matrix (D+1, D+1): 2D has one z."""
    rows, dims = np.zeros((3, 4)), len(matrix) - 1
    rows[3 - dims :, 3 - dims :] = matrix[:dims].numpy()
    return rows


def resample(image: Tensor, coords: Tensor, nearest: bool, border: bool) -> Tensor:
    """(C, *R) of an image (C, *S), float32 or float64 unless ``nearest``, at float32 coordinates (D, *R)."""
    voxels = image.reshape(len(image), -1, *image.shape[-2:]).contiguous()  # 2D: one z
    if nearest:
        voxels = voxels.view(WORDS[voxels.itemsize])
    places = coords.flatten(1).contiguous().numpy()
    out = voxels.new_empty(len(image), places.shape[1])
    over_threads(
        _nearest if nearest else _linear, places.shape[1], voxels.numpy(), places, border, out.numpy(), least=LEAST
    )
    return out.view(image.dtype).view(len(image), *coords.shape[1:])


def affine_coordinates(
    matrices: Sequence[Tensor],
    sizes: Sequence[Sequence[int]],
    ranges: Sequence[Tensor],
    rounding: float,
    outside: float,
) -> tuple[Tensor, Tensor]:
    """Coordinates (D, *R) float32 and mask (*R) of matrices (D+1, D+1) from the output to what each step gets."""
    dims, shape = len(ranges), [len(each) for each in ranges]
    rows = np.stack([_padded(matrix)[3 - dims :] for matrix in matrices])
    axes = [np.zeros(1)] * (3 - dims) + [each.numpy() for each in ranges]
    whole = [len(each) for each in axes]
    coords, inside = np.empty((dims, *whole), np.float32), np.empty(whole, np.bool_)
    given = rows, np.array(sizes, float) - 1, rounding, np.float32(outside)
    over_threads(_affine, whole[0] * whole[1], *given, *axes, coords, inside, least=max(1, LEAST // whole[2]))
    return torch.from_numpy(coords).view(dims, *shape), torch.from_numpy(inside).view(*shape)


def locate(inverse: Tensor, valid: Tensor, margin: float, points: Tensor) -> tuple[Tensor, Tensor]:
    """Positions (D, n) float32, NaN where there is no cell of ``valid`` voxels (*R), and found (n,)."""
    position, found = torch.empty_like(points), torch.empty(points.shape[1], dtype=torch.bool)
    solid = valid.reshape(-1, *valid.shape[-2:]).numpy()
    arrays = (each.numpy() for each in (points.contiguous(), position, found))
    over_threads(_located, len(found), _padded(inverse), solid, margin, *arrays, least=LEAST)
    return position, found


def follow(mesh: Mesh, margin: float, residual: float, steps: int, points: Tensor, start: Tensor) -> Tensor:
    """Positions (D, n) float32 of points (D, n) in a mesh, from the cells (n,) to begin in; NaN where there is none."""
    position, shape = torch.empty_like(points), (*[1] * (3 - len(points)), *mesh.shape)
    arrays = (each.contiguous().numpy() for each in (points, start, position))
    given = mesh.coords.contiguous().numpy(), mesh.cells.numpy(), shape, margin, residual, steps
    over_threads(_followed, len(start), *given, *arrays, least=LEAST_FOLLOWED)
    return position
