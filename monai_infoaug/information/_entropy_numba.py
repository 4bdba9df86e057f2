"""Sliding histograms on the CPU: the fast twin of the torch path in ``entropy.py``, needs numba."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from monai_infoaug._numba import jit, over_threads

# counts of two windows in one number: most voxels enter and leave both
HALF, ONE, SECOND = np.uint64(32), np.uint64(1), np.uint64(1 << 32)
BOTH, MASK = SECOND + ONE, SECOND - ONE


@jit
def _by_voxel(
    bins: NDArray[Any],
    window: tuple[int, int, int],
    num_bins: int,
    table: NDArray[Any],
    steps: NDArray[Any],
    out: NDArray[Any],
    start: int,
    stop: int,
) -> None:
    """Entropy along pairs ``start`` to ``stop`` of lines of axis 2 of ``bins`` (channel, z, y, x), neighbours along x.

    Two windows slide along y; the voxels of their y-slices enter and leave the histograms one by one.
    """
    _, size_z, size_y, size_x = bins.shape
    radius_z, radius_y, radius_x = window[0] // 2, window[1] // 2, window[2] // 2
    histogram, pairs = np.zeros(num_bins + 1, np.uint64), (size_x + 1) // 2
    for pair in range(start, stop):
        x, z, channel = 2 * (pair % pairs), pair // pairs % size_z, pair // (pairs * size_z)
        z0, z1 = max(z - radius_z, 0), min(z + radius_z + 1, size_z)
        x0, x1 = max(x + 1 - radius_x, 0), min(x + radius_x + 1, size_x)
        left, right = x - radius_x, x + radius_x + 1
        widths = x1 - max(left, 0), min(right + 1, size_x) - x0
        histogram[:] = 0
        first, second = 0, 0  # of table[count]: whole numbers, so that no rounding error builds up
        for y in range(-radius_y, size_y):
            enter, leave = y + radius_y, y - radius_y - 1
            for yy, sign in ((leave, -1), (enter, 1)):
                if not 0 <= yy < size_y:
                    continue
                grown = np.uint64(sign > 0)
                shrunk = ONE - grown  # before the counts are looked up
                for zz in range(z0, z1):
                    row, gains, others = bins[channel, zz, yy], 0, 0
                    for xx in range(x0, x1):
                        counts = histogram[row[xx]] - shrunk * BOTH
                        histogram[row[xx]] = counts + grown * BOTH
                        gains += steps[counts & MASK]
                        others += steps[counts >> HALF]
                    if left >= 0:
                        counts = histogram[row[left]] - shrunk
                        histogram[row[left]] = counts + grown
                        gains += steps[counts & MASK]
                    if right < size_x:
                        counts = histogram[row[right]] - shrunk * SECOND
                        histogram[row[right]] = counts + grown * SECOND
                        others += steps[counts >> HALF]
                    first += sign * gains
                    second += sign * others
            if y >= 0:
                area = (z1 - z0) * (min(enter + 1, size_y) - max(leave + 1, 0))
                outside = histogram[num_bins]
                if bins[channel, z, y, x] < num_bins:
                    beyond = np.int64(outside & MASK)
                    count = area * widths[0] - beyond
                    out[channel, z, y, x] = (table[count] - first + table[beyond]) / count
                if x + 1 < size_x and bins[channel, z, y, x + 1] < num_bins:
                    beyond = np.int64(outside >> HALF)
                    count = area * widths[1] - beyond
                    out[channel, z, y, x + 1] = (table[count] - second + table[beyond]) / count


@jit
def _by_slice(
    bins: NDArray[Any],
    window: tuple[int, int, int],
    num_bins: int,
    table: NDArray[Any],
    out: NDArray[Any],
    start: int,
    stop: int,
) -> None:
    """Entropy along lines ``start`` to ``stop`` of axis 2 of ``bins`` (channel, z, y, x): the window slides along y.

    Each y keeps the histogram of its y-slice of the window, which follows x by adding and removing lines along z; whole
    slices enter and leave. The time a voxel is so bounded by the number of bins and the side along z, which is 1 in 2D.
    """
    _, size_z, size_y, size_x = bins.shape
    radius_z, radius_y, radius_x = window[0] // 2, window[1] // 2, window[2] // 2
    histogram = np.zeros(num_bins + 1, np.uint32)
    slices = np.zeros((size_y, num_bins + 1), np.uint32)
    for line in range(start, stop):
        x, z, channel = line % size_x, line // size_x % size_z, line // (size_x * size_z)
        z0, z1 = max(z - radius_z, 0), min(z + radius_z + 1, size_z)
        x0, x1 = max(x - radius_x, 0), min(x + radius_x + 1, size_x)
        fresh = line == start or x == 0
        if fresh:
            slices[:] = 0
        for zz in range(z0, z1):
            for xx in range(x0 if fresh else x + radius_x, x1):
                for y in range(size_y):
                    slices[y, bins[channel, zz, y, xx]] += 1
            if not fresh and x > radius_x:
                for y in range(size_y):
                    slices[y, bins[channel, zz, y, x - radius_x - 1]] -= 1
        histogram[:] = 0
        for y in range(-radius_y, size_y):
            enter, leave = y + radius_y, y - radius_y - 1
            if leave >= 0:
                for level in range(num_bins + 1):
                    histogram[level] -= slices[leave, level]
            if enter < size_y:
                for level in range(num_bins + 1):
                    histogram[level] += slices[enter, level]
            if y >= 0 and bins[channel, z, y, x] < num_bins:
                total = 0
                for level in range(num_bins + 1):
                    total += table[histogram[level]]
                beyond = histogram[num_bins]
                count = (z1 - z0) * (x1 - x0) * (min(enter + 1, size_y) - max(leave + 1, 0)) - beyond
                out[channel, z, y, x] = (table[count] - total + table[beyond]) / count


def window_entropy(bins: Tensor, window: tuple[int, ...], num_bins: int, table: Tensor) -> Tensor:
    """The same as :func:`monai_infoaug.information.entropy.window_entropy`, on as many threads as torch may use."""
    voxels = bins.reshape(len(bins), -1, *bins.shape[-2:]).numpy()  # 2D: one z
    voxels = voxels.view(np.uint32)  # unsigned indices spare numba the test for negative ones: 1.6 times faster
    sides = (1, *window)[-3:]
    out, counts = np.zeros(voxels.shape, np.float32), table.numpy()
    channels, size_z, _, size_x = voxels.shape
    if 2 * sides[0] * (sides[2] + 4) <= num_bins:  # about where the two ways take equal time
        pairs = channels * size_z * ((size_x + 1) // 2)
        over_threads(_by_voxel, pairs, voxels, sides, num_bins, counts, np.diff(counts), out)
    else:
        over_threads(_by_slice, channels * size_z * size_x, voxels, sides, num_bins, counts, out)
    return torch.from_numpy(out).reshape(bins.shape)
