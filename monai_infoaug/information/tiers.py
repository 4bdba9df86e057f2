"""The split of pixels into low, medium and high information."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from monai_infoaug._require import refusal
from monai_infoaug.information._arrays import Array, are_numbers, is_ordered_pair, like, to_mask, to_tensor
from monai_infoaug.information._files import read_entry

__all__ = ["TIERS", "assign_tiers", "load_thresholds", "save_thresholds", "tier_thresholds"]

TIERS = ("low", "medium", "high")
NOTHING = 1e-3  # bits up to which a voxel tells nothing: one odd voxel in a window of 21 x 21 x 21 makes more


def tier_thresholds(
    information: np.ndarray | Tensor,
    quantiles: Sequence[float] = (1 / 3, 2 / 3),
    mask: np.ndarray | Tensor | None = None,
) -> tuple[float, float]:
    """The two quantiles of what an information map tells inside a mask, as thresholds for :func:`assign_tiers`.

    Voxels that tell nothing (0.001 bits or less: the black around a fundus, the air around a stripped brain) count in
    no quantile, as they are low under any thresholds. So the tiers of an object do not depend on how much of nothing is
    around it.

    Thresholds are levels of the map, next to the quantiles, that give the tiers their shares most closely (least
    squares). Equal voxels share a tier, but each tier that shall have a share has some, as long as there are as many
    levels.

    Args:
        information: (1,*S), in bits.
        quantiles: two shares in order, each from 0 to 1.
        mask: (1,*S), not zero inside. None: all is inside.

    Returns:
        (t1, t2), in bits, t1 <= t2; both above 0.

    Raises:
        ValueError: for quantiles out of range or order, a bad map or mask.

    Example:
        >>> import torch
        >>> tier_thresholds(torch.arange(1.0, 7).reshape(1, 1, 6))
        (3.0, 5.0)
        >>> tier_thresholds(torch.tensor([[[0.0, 0.0, 0.0, 0.0, 1.0, 2.0, 3.0]]]))
        (2.0, 3.0)
    """
    check_quantiles(quantiles)
    values = _to_map(information)
    values = values[to_mask(mask, values)]
    telling = values[values > NOTHING]
    levels, counts = np.unique(telling.cpu().numpy(), return_counts=True)
    if len(levels) == 0:
        return NOTHING, NOTHING
    shares = (counts.cumsum() - counts) / len(telling)  # of the voxels below each level
    # no tier is empty as long as there are levels: low needs one below t1, unless nothing fills it, medium one above
    low, medium = int(quantiles[0] > 0 and len(telling) == len(values)), int(quantiles[0] < quantiles[1])
    last, wanted = len(levels) - 1, np.array([float(quantile) for quantile in quantiles])

    def apart(t1: int, t2: int) -> tuple[int, int]:
        t2 = min(max(t2, low + medium), last)
        return max(min(t1, t2 - medium), min(low, last)), t2

    def misfit(cuts: tuple[int, int]) -> float:  # of the shares of the tiers
        return float(np.square(np.diff([0, *(shares[list(cuts)] - wanted), 0])).sum())

    t1, t2 = min((apart(*cuts) for cuts in product(*(_around(shares, share) for share in wanted))), key=misfit)
    return float(levels[t1]), float(levels[t2])


def _around(shares: NDArray[np.float64], quantile: float) -> list[int]:
    """The last of the ascending shares below a quantile, and the first that is not."""
    first = int(np.searchsorted(shares, quantile))
    return [max(first - 1, 0), min(first, len(shares) - 1)]


def assign_tiers(information: Array, thresholds: Sequence[float], mask: np.ndarray | Tensor | None = None) -> Array:
    """Each pixel's tier: 0 low (information < t1), 1 medium (t1 <= information < t2), 2 high (t2 <= information).

    What tells nothing (0.001 bits or less) is low whatever the thresholds are. Equal information always means equal
    tier, so ties make tiers uneven and a constant map has one tier only.

    Args:
        information: (1,*S), in bits.
        thresholds: (t1, t2), in bits, t1 <= t2.
        mask: (1,*S), not zero inside. Outside it the tier is 0. None: all is inside.

    Returns:
        uint8, of the shape, kind, device and metadata of ``information``.

    Raises:
        ValueError: for thresholds out of order, a bad map or mask.

    Example:
        >>> import torch
        >>> assign_tiers(torch.tensor([[[0.5, 2.0, 3.0, 4.5]]]), (2.0, 4.0))
        tensor([[[0, 1, 1, 2]]], dtype=torch.uint8)
    """
    check_thresholds(thresholds)
    values = _to_map(information)
    tiers = sum((values >= threshold).to(torch.uint8) for threshold in thresholds)
    return like(tiers * (to_mask(mask, values) & (values > NOTHING)), information)


def load_thresholds(path: str | os.PathLike[str]) -> tuple[float, float]:
    """Read thresholds from a JSON file such as ``{"thresholds": [2.27, 4.35]}``; other keys are ignored.

    Args:
        path: the file.

    Returns:
        (t1, t2), in bits.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is no JSON, or holds no two finite numbers in order under ``thresholds``.
    """
    thresholds = read_entry(path, "thresholds", 'a JSON file with {"thresholds": [t1, t2]}')
    check_thresholds(thresholds, f"thresholds in {path}")
    low, high = thresholds
    return float(low), float(high)


def save_thresholds(path: str | os.PathLike[str], thresholds: Sequence[float]) -> None:
    """Write thresholds where :func:`load_thresholds` reads them.

    Args:
        path: the JSON file, replaced if it exists.
        thresholds: (t1, t2), in bits, t1 <= t2.

    Raises:
        ValueError: for thresholds out of order.
        OSError: if the file cannot be written.
    """
    check_thresholds(thresholds)
    Path(path).write_text(json.dumps({"thresholds": [float(threshold) for threshold in thresholds]}), encoding="utf-8")


def check_thresholds(thresholds: Sequence[float], name: str = "thresholds") -> None:
    """Refuse what is not two finite numbers in order, called ``name`` in the error.

    Raises:
        ValueError: if ``thresholds`` is not (t1, t2) with t1 <= t2.
    """
    if not is_ordered_pair(thresholds):
        raise refusal(name, thresholds, "two finite numbers (t1, t2) with t1 <= t2")


def check_quantiles(quantiles: Sequence[float]) -> None:
    """Refuse what is not two shares in order.

    Raises:
        ValueError: if ``quantiles`` is not (q1, q2) with 0 <= q1 <= q2 <= 1.
    """
    if not are_numbers(quantiles, 2, 0, 1) or quantiles[0] > quantiles[1]:
        raise refusal("quantiles", quantiles, "two numbers (q1, q2) with 0 <= q1 <= q2 <= 1")


def _to_map(information: np.ndarray | Tensor) -> Tensor:
    values = to_tensor(information, "information")
    if len(values) != 1:
        raise refusal("information", f"{len(values)} channels", "a map of one channel")
    return values
