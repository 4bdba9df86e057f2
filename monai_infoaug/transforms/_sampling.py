"""Which of the voxels that both views show are sampled: their density, the anchor tier, and points drawn by it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from monai_infoaug._grid import unravel_index
from monai_infoaug.transforms._lattice import flat_nonzero
from monai_infoaug.transforms._overlap import Overlap

NO_TIER = 255
HIGH_GAMMA = 20  # above it, bits to its power may overflow, or vanish all


def sampling_density(
    voxels: Tensor, known: Mapping[str, Tensor], shares: Sequence[float] | None, gamma: float | None
) -> Tensor:
    """Density (n,) of voxels (n,) that both views show: shared among the tiers, by information, or uniform.

    Args:
        voxels: linear indices.
        known: values (1, n) of ``information``, ``tiers`` and ``mask`` there, those that are given.
        shares: mass of the (low, medium, high) tier.
        gamma: exponent of the information.
    """
    counted = known["mask"][0] != 0 if "mask" in known else torch.ones_like(voxels, dtype=torch.bool)
    density = counted.float()
    if gamma is not None:
        bits = known["information"][0].float().clamp_min(0)
        if gamma > HIGH_GAMMA and len(bits):
            bits = bits / bits.amax().clamp_min(torch.finfo(bits.dtype).tiny)
        density = density * bits**gamma
    elif shares is not None:
        tiers = known["tiers"][0].long()
        counts = torch.bincount(tiers[counted], minlength=3).clamp_min(1)
        density = density * (torch.tensor(shares, device=tiers.device) / counts)[tiers]
    return _normalised(density, counted)


def density_in_tier(density: Tensor, tiers: Tensor, tier: int) -> Tensor:
    """Density (n,) restricted to a tier of the tiers (1, n), if that leaves anything."""
    return _normalised(density * (tiers[0] == tier), density)


def _normalised(density: Tensor, otherwise: Tensor) -> Tensor:
    """``density`` scaled to sum to one; ``otherwise`` scaled, if it is zero; zeros if that is too."""
    for each in (density, otherwise.float()):
        total = each.sum(dtype=torch.float64)
        if total > 0:
            return (each / total).float()
    return torch.zeros_like(density)


def density_map(density: Tensor, voxels: Tensor, shape: Sequence[int]) -> Tensor:
    """The density (n,) of voxels (n,) as a map (1, *shape), zero elsewhere."""
    return density.new_zeros(math.prod(shape)).index_copy_(0, voxels, density).view(1, *shape)


def anchor_tier(density: Tensor, tiers: Tensor, by_mass: bool, quantile: float) -> int:
    """The tier at a quantile, in [0, 1), of the tiers (1, n) with any density: weighted by their mass, or equally."""
    mass = torch.stack([density[tiers[0] == tier].sum() for tier in range(3)]).double().cpu().numpy()
    if not by_mass:
        mass = (mass > 0).astype(float)
    cumulative = np.cumsum(mass if mass.sum() else np.ones(3))
    return int(np.searchsorted(cumulative, quantile * cumulative[-1], side="right"))


def draw_points(
    overlap: Overlap, density: Tensor, tiers: Tensor | None, number: int, generator: np.random.Generator
) -> dict[str, Tensor]:
    """Points drawn without replacement from the voxels that both views show, as many of each tier as its mass says.

    Args:
        overlap: the views.
        density: (n,) of view 1's shared voxels.
        tiers: (1, n), their tiers, if known.
        number: number of points (N).
        generator: draws them.

    Returns:
        ``points_view1``, ``points_view2`` (N, D), ``points_tier`` (N,) and ``points_valid`` (N,).
    """
    device, shape = density.device, overlap.views[0].valid.shape
    candidates = flat_nonzero(density > 0)
    # The smallest of exponential variables with rates p are a draw without replacement by p.
    keys = torch.from_numpy(generator.standard_exponential(len(candidates))).to(device) / density[candidates]
    count = min(number, len(candidates))
    if tiers is not None and count:
        keys = _by_quota(keys, tiers[0, candidates], count * density[candidates], generator.random())
    drawn = candidates[keys.topk(count, largest=False).indices]
    first, second = (torch.full((number, len(shape)), torch.nan, device=device) for _ in range(2))
    first[:count] = unravel_index(overlap.shared[0][drawn], shape).T
    second[:count] = overlap.partners[:, drawn].T
    tier = torch.full((number,), NO_TIER, dtype=torch.uint8, device=device)
    tier[:count] = 0 if tiers is None else tiers[0, drawn].to(torch.uint8)
    valid = torch.arange(number, device=device) < count
    return {"points_view1": first, "points_view2": second, "points_tier": tier, "points_valid": valid}


def _by_quota(keys: Tensor, tiers: Tensor, expected: Tensor, offset: float) -> Tensor:
    """Keys (n,) of a draw: of each tier as many as are expected of it keep theirs, all others come after them.

    An ``offset`` drawn from [0, 1) rounds what is expected to whole numbers, without a bias: systematic sampling.
    """
    places = [flat_nonzero(tiers == tier) for tier in range(3)]
    masses = [float(expected[mine].sum(dtype=torch.float64)) for mine in places]
    quotas = np.diff(np.floor(np.cumsum([0, *masses]) + offset)).astype(int).tolist()
    later = torch.ones_like(tiers, dtype=torch.bool)
    for mine, quota in zip(places, quotas, strict=True):
        later[mine[keys[mine].topk(min(quota, len(mine)), largest=False).indices]] = False
    return keys + later * keys.amax()
