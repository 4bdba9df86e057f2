"""Where bent views can be trusted, on the CPU a cell or voxel in one go: the fast twin of ``_validity.py``.

A view of two axes is one of three with a depth of one; the edges along the depth then are unit vectors.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from monai_infoaug._numba import jit, over_threads

CELLS_PER_THREAD = 1 << 15  # fewer are not worth one


@jit
def _edge(coords, z, y, x, dz, dy, dx):
    """From a voxel of ``coords`` (3, z, y, x) to another."""
    a = coords[0, z + dz, y + dy, x + dx] - coords[0, z, y, x]
    b = coords[1, z + dz, y + dy, x + dx] - coords[1, z, y, x]
    return a, b, coords[2, z + dz, y + dy, x + dx] - coords[2, z, y, x]


@jit
def determinant(a, b, c):
    """Of a matrix, given as its columns."""
    first = a[0] * (b[1] * c[2] - b[2] * c[1])
    return first + a[1] * (b[2] * c[0] - b[0] * c[2]) + a[2] * (b[0] * c[1] - b[1] * c[0])


@jit
def _pushes_ahead(a, b, c, least):
    """Whether the symmetric part of a matrix, given as its columns, is positive definite."""
    ab, ac, bc = (a[1] + b[0]) / 2, (a[2] + c[0]) / 2, (b[2] + c[1]) / 2
    minor = a[0] * b[1] - ab * ab
    whole = minor * c[2] - a[0] * bc * bc + 2 * ab * ac * bc - b[1] * ac * ac
    return a[0] > least and minor > least and whole > least


@jit
def _cells(upright, inside, deep, least, noise, sound, folded, injective, start, stop):
    """Lines ``start`` to ``stop`` of cells (z, y, x): sound and folded ones, and whether each line is injective."""
    one, zero = upright.dtype.type(1), upright.dtype.type(0)
    for line in range(start, stop):
        z, y = line // sound.shape[1], line % sound.shape[1]
        ahead = True
        for x in range(sound.shape[2]):
            smallest, whole = upright.dtype.type(np.inf), True
            for corner in range(8 if deep else 4):
                cz, cy, cx = corner >> 2, corner >> 1 & 1, corner & 1
                whole &= inside[z + cz, y + cy, x + cx]
                a = _edge(upright, z, y + cy, x + cx, 1, 0, 0) if deep else (one, zero, zero)
                b = _edge(upright, z + cz, y, x + cx, 0, 1, 0)
                c = _edge(upright, z + cz, y + cy, x, 0, 0, 1)
                smallest = min(smallest, determinant(a, b, c))
                ahead &= _pushes_ahead(a, b, c, noise)
            sound[z, y, x], folded[z, y, x] = whole and smallest > least, whole and smallest < -noise
        injective[line] = ahead


@jit
def _mean_edge(points, solid, index, stride, first, last):
    """Mean difference of ``points`` (3, n) to ``solid`` (n) neighbours along an axis, and whether there is one."""
    before = not first and solid[index - stride]
    after = not last and solid[index + stride]
    low, high = (index - stride if before else index), (index + stride if after else index)
    part = points.dtype.type(0.5 if before and after else 1)
    a, b = part * (points[0, high] - points[0, low]), part * (points[1, high] - points[1, low])
    return (a, b, part * (points[2, high] - points[2, low])), before or after


@jit
def _beside_folded(folded, z, y, x):
    """Whether a voxel is a corner of a folded cell."""
    found = False
    for cz in range(max(z - 1, 0), min(z + 1, folded.shape[0])):
        for cy in range(max(y - 1, 0), min(y + 1, folded.shape[1])):
            for cx in range(max(x - 1, 0), min(x + 1, folded.shape[2])):
                found |= folded[cz, cy, cx]
    return found


@jit
def _voxels(upright, inside, deep, least, folded, folds, good, start, stop):
    """Lines ``start`` to ``stop`` of voxels (z, y, x) where the map is upright, and beside no folded cell."""
    depth, height, width = inside.shape
    one, zero = upright.dtype.type(1), upright.dtype.type(0)
    points, solid = upright.reshape(3, -1), inside.ravel()
    below, down, beside = (
        np.uint64(height * width),
        np.uint64(width),
        np.uint64(1),
    )  # unsigned: no test for negative ones
    for line in range(start, stop):
        z, y = line // height, line % height
        for x in range(width):
            index = np.uint64(line * width + x)
            if not solid[index]:
                continue
            a, some = (one, zero, zero), True
            if deep:
                a, some = _mean_edge(points, solid, index, below, z == 0, z == depth - 1)
            b, more = _mean_edge(points, solid, index, down, y == 0, y == height - 1)
            c, most = _mean_edge(points, solid, index, beside, x == 0, x == width - 1)
            size, turn = determinant(a, b, c), b[1] + c[2] + (a[0] if deep else zero)
            fine = some and more and most and size > least and (turn * turn * turn > size if deep else turn > 0)
            good[z, y, x] = fine and not (folds and _beside_folded(folded, z, y, x))


def invertibility(upright: Tensor, inside: Tensor, least: float, noise: float) -> tuple[Tensor, Tensor, Tensor, bool]:
    """Good voxels (*R), sound and folded cells (*R less one an axis), and whether the whole map is surely injective.

    That is so where each step in the view goes ahead by some part of it in the source: on a convex view, no two places
    can then meet.

    Args:
        upright: (D, *R) float32, coordinates of all voxels in usual steps, so that usual edges are unit vectors.
        inside: (*R) bool.
        least: determinant of what is neither collapsed nor folded.
        noise: of determinants.
    """
    deep = inside.ndim == 3
    solid = inside.reshape(-1, *inside.shape[-2:])
    points = upright.reshape(len(upright), *solid.shape)
    points = points if deep else torch.cat([torch.zeros_like(points[:1]), points])
    shape = [n - 1 if n > 1 else 1 for n in solid.shape]
    sound, folded = torch.empty(shape, dtype=torch.bool), torch.empty(shape, dtype=torch.bool)
    injective, good = torch.empty(shape[0] * shape[1], dtype=torch.bool), torch.zeros_like(solid)
    given = points.contiguous().numpy(), solid.contiguous().numpy(), deep, np.float32(least)
    found = sound.numpy(), folded.numpy(), injective.numpy()
    over_threads(_cells, len(injective), *given, np.float32(noise), *found, least=max(1, CELLS_PER_THREAD // shape[2]))
    lines = solid.shape[0] * solid.shape[1]
    over_threads(
        _voxels, lines, *given, found[1], bool(found[1].any()), good.numpy(), least=max(1, CELLS_PER_THREAD // shape[2])
    )
    sizes = [n - 1 for n in inside.shape]
    return good.view(inside.shape), sound.view(sizes), folded.view(sizes), bool(injective.all())
