"""Where a map is largest, between its cells."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def peak_of(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Maxima (N, D) of (N, *cells), to a fraction of a cell, and their values (N,)."""
    flat = maps.flatten(1)
    scores, best = flat.max(1)
    return peak_around(best, maps.shape[1:], lambda cells: flat.gather(1, cells)), scores


def peak_around(best: Tensor, size: Sequence[int], values: Callable[[Tensor], Tensor]) -> Tensor:
    """Maxima (N, D), to a fraction of a cell, of maps whose largest cells are known.

    Args:
        best: (N,) number of the largest cell of each map.
        size: cells of the maps along each axis.
        values: gives the values (N, M) of cells with the numbers (N, M), M a row of the maps.
    """
    lengths = torch.tensor(size, device=best.device)
    steps = cell_steps(lengths)
    peak = best[:, None] // steps % lengths
    # at the border the parabola would need a value outside: the maximum stays where it is
    inner = peak.clamp_min(1).minimum((lengths - 2).clamp_min(0))
    middle = best[:, None] + (inner - peak) * steps
    beside = middle[..., None] + (lengths > 2)[:, None] * torch.outer(steps, steps.new_tensor([-1, 0, 1]))
    low, mid, high = values(beside.flatten(1)).reshape(beside.shape).unbind(-1)
    curvature = low - 2 * mid + high
    shift: Tensor = 0.5 * (low - high) / torch.where(curvature < 0, curvature, -torch.inf)
    return peak + torch.where(inner == peak, shift, 0.0).clamp(-0.5, 0.5)


def cell_steps(size: Tensor) -> Tensor:
    """How far the numbers of cells are apart that follow each other along an axis, for each axis."""
    return size.flip(0).cumprod(0).flip(0) // size


def clip_to(points: Tensor, size: Sequence[int]) -> Tensor:
    """Points (..., D) in voxels, those outside of an image of this size moved to its border."""
    return points.clamp_min(0).minimum(torch.tensor(size).to(points) - 1)
