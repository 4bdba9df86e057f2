"""The split of pixels into low, medium and high information."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from monai_infoaug._require import refusal
from monai_infoaug.information._arrays import Array, are_numbers, is_ordered_pair, like, quantile, to_mask, to_tensor
from monai_infoaug.information._files import read_entry

__all__ = ["TIERS", "assign_tiers", "load_thresholds", "save_thresholds", "tier_thresholds"]

TIERS = ("low", "medium", "high")
LEAST = torch.finfo(torch.float32).tiny  # bits, more than none


def tier_thresholds(
    information: np.ndarray | Tensor,
    quantiles: Sequence[float] = (1 / 3, 2 / 3),
    mask: np.ndarray | Tensor | None = None,
) -> tuple[float, float]:
    """The two quantiles of an information map inside a mask, as thresholds for :func:`assign_tiers`.

    Where more than the low tier's share tells nothing at all (0 bits: the black around a fundus, the air around a
    stripped brain), that is the low tier, and what tells something is split between medium and high in the ratio of
    their shares.

    Args:
        information: (1,*S), in bits.
        quantiles: two shares in order, each from 0 to 1.
        mask: (1,*S), not zero inside. None: all is inside.

    Returns:
        (t1, t2), in bits, t1 <= t2; equal if many pixels tie, and above 0 unless the low tier shall have no share.

    Raises:
        ValueError: for quantiles out of range or order, a bad map or mask.

    Example:
        >>> import torch
        >>> tier_thresholds(torch.arange(7.0).reshape(1, 1, 7))
        (2.0, 4.0)
        >>> tier_thresholds(torch.tensor([[[0.0, 0.0, 0.0, 0.0, 1.0, 2.0, 3.0]]]))
        (1.0, 2.0)
    """
    check_quantiles(quantiles)
    values = _to_map(information)
    values = values[to_mask(mask, values)]
    low, high = (quantile(values, q) for q in quantiles)
    if quantiles[0] > 0 and low <= 0:
        telling = values[values > 0]
        if len(telling) == 0:
            return LEAST, LEAST
        low = telling.min().item()
        high = quantile(telling, (quantiles[1] - quantiles[0]) / (1 - quantiles[0]))
    return low, high


def assign_tiers(information: Array, thresholds: Sequence[float], mask: np.ndarray | Tensor | None = None) -> Array:
    """Each pixel's tier: 0 low (information < t1), 1 medium (t1 <= information < t2), 2 high (t2 <= information).

    Equal information always means equal tier, so ties make tiers uneven and a constant map has one tier only.

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
    return like(tiers * to_mask(mask, values), information)


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
