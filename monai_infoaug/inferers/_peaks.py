"""Where a map is largest, between its cells."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def peak_of(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Maxima (N, D) of (N, *cells), to a fraction of a cell, and their values (N,)."""
    size = maps.shape[1:]
    scores, flat = maps.flatten(1).max(1)
    peak = torch.stack(torch.unravel_index(flat, size), dim=1)
    row = torch.arange(len(maps), device=maps.device)
    shifts = []
    for axis, length in enumerate(size):
        # at the border the parabola would need a value outside: the maximum stays where it is
        inner = peak[:, axis].clamp(1, max(length - 2, 1))
        low, mid, high = (
            maps[(row, *(inner + o if a == axis else peak[:, a] for a in range(len(size))))] if length > 2 else scores
            for o in (-1, 0, 1)
        )
        curvature = low - 2 * mid + high
        shift = 0.5 * (low - high) / curvature.where(curvature < 0, torch.full_like(curvature, -torch.inf))
        shifts.append(shift.where(inner == peak[:, axis], torch.zeros_like(shift)).clamp(-0.5, 0.5))
    return peak + torch.stack(shifts, dim=1), scores


def clip_to(points: Tensor, size: Sequence[int]) -> Tensor:
    """Points (..., D) in voxels, those outside of an image of this size moved to its border."""
    return points.clamp_min(0).minimum(torch.tensor(size).to(points) - 1)
