"""The one way in which the package refuses bad input."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor


def require(
    condition: bool | Callable[[], bool],
    argument: str,
    got: object,
    accepted: str,
    error: type[Exception] = ValueError,
) -> None:
    """Raise ``error`` unless ``condition`` holds.

    Args:
        condition: what must be true; or a function that says so, which values of a wrong type may make fail.
        argument: name of the argument, key or file at fault.
        got: what came.
        accepted: what would have been accepted.
        error: type of the exception.

    Raises:
        ValueError: (or ``error``) naming the argument, what is accepted and what came.

    Example:
        >>> require(3 > 4, "window", 3, "larger than 4")
        Traceback (most recent call last):
        ...
        ValueError: `window` must be larger than 4, got 3.
    """
    if callable(condition):
        try:
            condition = condition()
        except (TypeError, ValueError):
            condition = False
    if not condition:
        raise error(f"`{argument}` must be {accepted}, got {got}.")


def require_device(device: str) -> None:
    """Refuse a device that PyTorch does not find here.

    Raises:
        ValueError: naming it.
    """
    import torch  # not needed by the rest of this module

    try:
        torch.empty(0, device=device)
    except (AssertionError, RuntimeError) as error:
        raise ValueError(f"`device` must be one that PyTorch finds here, such as cpu, got {device}.") from error


def all_finite(tensor: Tensor) -> bool:
    """Whether there is neither NaN nor infinity: the sum tells faster, unless it overflows.

    Example:
        >>> import torch
        >>> all_finite(torch.tensor([3e38, 3e38])), all_finite(torch.tensor([torch.inf, -torch.inf]))
        (True, False)
    """
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def require_shares(shares: Sequence[float] | None) -> None:
    """Raise ``ValueError`` unless the shares of the (low, medium, high) tier are None, or sum to one."""
    require(
        lambda: shares is None or (len(shares) == 3 and min(shares) >= 0 and np.isclose(sum(shares), 1)),
        "shares",
        shares,
        "three shares (low, medium, high), not negative, that sum to one",
    )
