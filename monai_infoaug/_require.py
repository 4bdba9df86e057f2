"""The one way in which the package refuses bad input."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from numbers import Real
from typing import TypeVar

import numpy as np
from torch import Tensor

E = TypeVar("E", bound=Exception)


def refusal(argument: str, got: object, accepted: str, error: type[E] = ValueError) -> E:  # type: ignore[assignment]
    """The error that refuses a value, to be raised.

    Args:
        argument: name of the argument, key or file at fault.
        got: what came.
        accepted: what would have been accepted.
        error: type of the exception.

    Returns:
        The exception, which names all three.

    Example:
        >>> if not is_number(-3, 0):
        ...     raise refusal("gamma", -3, "a number of at least 0")
        Traceback (most recent call last):
        ...
        ValueError: `gamma` must be a number of at least 0, got -3.
    """
    return error(f"`{argument}` must be {accepted}, got {got}.")


def is_number(value: object, least: float = -math.inf, most: float = math.inf) -> bool:
    """Whether a value is a finite number from ``least`` to ``most``; text and truth values are none.

    Example:
        >>> [is_number(value, 0) for value in (0.5, -1, "0.5", True, float("nan"), float("inf"))]
        [True, False, False, False, False, False]
    """
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value) and least <= value <= most


def is_count(value: object, least: int = 0) -> bool:
    """Whether a value is a whole number, of any integer type, from ``least`` on.

    Example:
        >>> [is_count(value, 1) for value in (3, 0, 2.0, "3", True)]
        [True, False, False, False, False]
    """
    try:
        return not isinstance(value, bool) and operator.index(value) >= least  # type: ignore[arg-type]
    except TypeError:
        return False


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
    """Refuse shares of the (low, medium, high) tier that are not None and do not sum to one.

    Raises:
        ValueError: naming ``shares``.
    """
    if shares is None:
        return
    three = np.shape(shares) == (3,) and all(is_number(share, 0) for share in shares)
    if not three or not math.isclose(sum(shares), 1, rel_tol=1e-5):
        raise refusal("shares", shares, "three shares (low, medium, high), not negative, that sum to one")
