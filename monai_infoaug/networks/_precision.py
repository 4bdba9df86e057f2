"""The precision that networks compute norms and sums in."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_single(x: Tensor) -> Tensor:
    """Half precision, which is too coarse for norms and sums, and whole numbers as float32; double stays.

    Example:
        >>> [at_least_single(torch.zeros(1, dtype=t)).dtype for t in (torch.bfloat16, torch.float64)]
        [torch.float32, torch.float64]
    """
    return x if x.dtype == torch.float64 else x.float()
