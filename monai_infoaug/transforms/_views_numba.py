"""Views on the CPU, each voxel or point in one go: the fast twins of what the other files do in steps."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from monai_infoaug._numba import jit, over_threads

VOXELS_PER_THREAD = 1 << 18  # fewer are not worth one
WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # what is moved, whatever it means


@jit
def _at(image, z, y, x):
    """A voxel of ``image`` (z, y, x), 0 outside."""
    depth, height, width = image.shape
    inside = 0 <= z < depth and 0 <= y < height and 0 <= x < width
    return image[z, y, x] if inside else image.dtype.type(0)


@jit
def _bilinear(flat, first, width, part_y, part_x):
    """Bilinear value in the cell that begins at index ``first``, unsigned."""
    after = first + np.uint64(1)
    a, b, c, d = flat[first], flat[after], flat[first + width], flat[after + width]
    top, low = a + part_x * (b - a), c + part_x * (d - c)
    return top + part_y * (low - top)


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
                value = _bilinear(flat, first, down, part_y, part_x)
                if dims == 3:
                    below = _bilinear(flat, first + deep, down, part_y, part_x)
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
    points, kernel = coords.flatten(1).contiguous().numpy(), _nearest if nearest else _linear
    out = voxels.new_empty(len(image), points.shape[1])
    given = voxels.numpy(), points, border, out.numpy()
    over_threads(kernel, points.shape[1], *given, least=VOXELS_PER_THREAD)
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
    given = rows, np.array(sizes, float) - 1, rounding, np.float32(outside), *axes, coords, inside
    over_threads(_affine, whole[0] * whole[1], *given, least=max(1, VOXELS_PER_THREAD // whole[2]))  # lines
    return torch.from_numpy(coords).view(dims, *shape), torch.from_numpy(inside).view(*shape)


def locate(inverse: Tensor, valid: Tensor, margin: float, points: Tensor) -> tuple[Tensor, Tensor]:
    """Positions (D, n) float32, NaN where there is no cell of ``valid`` voxels (*R), and found (n,)."""
    position, found = torch.empty_like(points), torch.empty(points.shape[1], dtype=torch.bool)
    solid = valid.reshape(-1, *valid.shape[-2:]).numpy()
    arrays = (each.numpy() for each in (points.contiguous(), position, found))
    over_threads(_located, len(found), _padded(inverse), solid, margin, *arrays, least=VOXELS_PER_THREAD)
    return position, found
