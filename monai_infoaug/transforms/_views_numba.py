"""Affine views on the CPU, each voxel in one go: the fast twins of what ``_correspondence.py`` does in steps."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from monai_infoaug._numba import jit, over_threads

LEAST = 1 << 18  # voxels that are worth a thread
WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # what is moved, whatever it means


@jit
def _at(image, z, y, x):
    """A voxel of ``image`` (z, y, x), 0 outside."""
    depth, height, width = image.shape
    inside = 0 <= z < depth and 0 <= y < height and 0 <= x < width
    return image[z, y, x] if inside else image.dtype.type(0)


@jit
def _linear(image, coords, border, out, start, stop):
    """Multilinear values of ``image`` (C, z, y, x) at voxels ``start`` to ``stop`` of ``coords`` (2 or 3, n)."""
    channels, depth, height, width = image.shape
    dims, flat = len(coords), image.reshape(channels, -1)
    steps = np.uint64(height * width), np.uint64(width), np.uint64(1)
    for i in range(start, stop):
        z = coords[0, i] if dims == 3 else np.float32(0)
        y, x = coords[dims - 2, i], coords[dims - 1, i]
        if border:
            z, y, x = min(max(z, 0), depth - 1), min(max(y, 0), height - 1), min(max(x, 0), width - 1)
        z0, y0, x0 = math.floor(z), math.floor(y), math.floor(x)
        part_z, part_y, part_x = z - z0, y - y0, x - x0
        within = 0 <= y0 < height - 1 and 0 <= x0 < width - 1 and (dims == 2 or 0 <= z0 < depth - 1)
        for channel in range(channels):
            value = image.dtype.type(0)
            if within:
                first = np.uint64((z0 * height + y0) * width + x0)  # unsigned: no test for negative ones
                for side in range(dims - 1):
                    low, high = flat[channel, first], flat[channel, first + steps[2]]
                    near = low + part_x * (high - low)
                    low, high = flat[channel, first + steps[1]], flat[channel, first + steps[1] + steps[2]]
                    near += part_y * (low + part_x * (high - low) - near)
                    value += near if dims == 2 else near * (part_z if side else 1 - part_z)
                    first += steps[0]
            else:
                for corner in range(1 << dims):
                    dz, dy, dx = corner >> 2, corner >> 1 & 1, corner & 1
                    weight = (part_y if dy else 1 - part_y) * (part_x if dx else 1 - part_x)
                    weight *= part_z if dz else 1 - part_z
                    value += weight * _at(image[channel], z0 + dz, y0 + dy, x0 + dx)
            out[channel, i] = value


@jit
def _nearest(image, coords, border, out, start, stop):
    """As :func:`_linear`, the nearest values."""
    channels, depth, height, width = image.shape
    dims, flat = len(coords), image.reshape(channels, -1)
    half = np.float32(1.5 * 2**23)  # what is added to it is rounded, halves to even, up to 2^22
    for i in range(start, stop):
        z = int((coords[0, i] + half) - half) if dims == 3 else 0
        y, x = int((coords[dims - 2, i] + half) - half), int((coords[dims - 1, i] + half) - half)
        if border:
            z, y, x = min(max(z, 0), depth - 1), min(max(y, 0), height - 1), min(max(x, 0), width - 1)
        if 0 <= z < depth and 0 <= y < height and 0 <= x < width:
            index = np.uint64((z * height + y) * width + x)
            for channel in range(channels):
                out[channel, i] = flat[channel, index]


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
def _located(inverse, valid, margin, points, position, found, start, stop):
    """Positions (2 or 3, n) of points ``start`` to ``stop``, and whether a cell of ``valid`` (z, y, x) is there."""
    dims, flat, shape = len(points), valid.ravel(), valid.shape
    at, cell = np.empty(3), np.empty(3, np.int64)
    for i in range(start, stop):
        near = True
        for axis in range(3 - dims, 3):
            value = inverse[axis + dims - 3, dims]
            for other in range(dims):
                value += inverse[axis + dims - 3, other] * points[other, i]
            at[axis] = min(max(value, 0.0), shape[axis] - 1)
            near &= abs(value - at[axis]) <= margin
        there = False
        for side in range(-1, 1 << dims if near else -1):  # the cell itself, then those that it nearly touches
            for axis in range(3 - dims, 3):
                shift = 0.0 if side < 0 else (margin if side >> (2 - axis) & 1 else -margin)
                cell[axis] = min(max(math.floor(at[axis] + shift), 0), shape[axis] - 2)
            there = True
            for corner in range(1 << dims):
                z = cell[0] + (corner >> 2) if dims == 3 else 0
                index = (z * shape[1] + cell[1] + (corner >> 1 & 1)) * shape[2] + cell[2] + (corner & 1)
                there &= flat[index]
            if there:
                break
        found[i] = there
        for axis in range(dims):
            position[axis, i] = at[axis + 3 - dims] if there else np.nan


def resample(image: Tensor, coords: Tensor, nearest: bool, border: bool) -> Tensor:
    """(C, *R) of an image (C, *S), float32 or float64 unless ``nearest``, at float32 coordinates (D, *R)."""
    voxels = image.reshape(len(image), -1, *image.shape[-2:]).contiguous()  # 2D: one z
    if nearest:
        voxels = voxels.view(WORDS[voxels.itemsize])
    places = coords.flatten(1).contiguous().numpy()
    out = voxels.new_zeros(len(image), places.shape[1])
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
    rows = np.zeros((len(matrices), dims, 4))
    rows[..., 3 - dims :] = torch.stack(list(matrices))[:, :dims].numpy()
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
    over_threads(_located, len(found), inverse.double().numpy(), solid, margin, *arrays, least=LEAST)
    return position, found
