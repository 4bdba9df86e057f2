"""The one way in which the package refuses bad input."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor  # which takes a second that `monai-infoaug init` need not wait

E = TypeVar("E", bound=Exception)
WITHOUT_MILLIMETRES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff")  # files that do not say how large pixels are
LOSSY = (".jpeg", ".jpg")  # of these, that change values a little, where those of a label map are numbers of classes
KEEPING = "label maps in a format that keeps values, such as PNG: JPEG changes them"
GIVEN = "given, 1 for pixels: PNG, JPEG, BMP and TIFF do not say millimetres"  # what their `pixdim` has to be


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
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value) and least <= float(value) <= most
    except OverflowError:  # a whole number of hundreds of digits
        return False


def is_count(value: object, least: int = 0) -> bool:
    """Whether a value is a whole number, of any integer type, from ``least`` on.

    Example:
        >>> [is_count(value, 1) for value in (3, 0, 2.0, "3", True)]
        [True, False, False, False, False]
    """
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least


def are_counts(values: object, least: int = 0) -> bool:
    """Whether values are one or more whole numbers, of any integer type, from ``least`` on.

    Example:
        >>> [are_counts(values, 1) for values in ((3, 1), [], (2, 0), "31", 3)]
        [True, False, False, False, False]
    """
    numbers = listed(values)
    return len(numbers) > 0 and all(is_count(number, least) for number in numbers)


def require_counts(least: int = 1, **counts: object) -> None:
    """Refuse settings, given by their names, that are no whole numbers from ``least`` on.

    Raises:
        ValueError: naming the first of them.
    """
    for name, value in counts.items():
        if not is_count(value, least):
            raise refusal(name, value, f"a whole number of at least {least}")


def require_shares_of_one(**numbers: object) -> None:
    """Refuse settings, given by their names, that are no numbers from 0 to 1, such as probabilities.

    Raises:
        ValueError: naming the first of them.
    """
    for name, value in numbers.items():
        if not is_number(value, 0, 1):
            raise refusal(name, value, "in [0, 1]")


def require_truth(**settings: object) -> None:
    """Refuse settings, given by their names, that are neither true nor false; Python takes the text "false" as true.

    Raises:
        ValueError: naming the first of them.
    """
    for name, value in settings.items():
        if not isinstance(value, (bool, np.bool_, Integral)) or value not in (0, 1):  # PyTorch 2.8 compiles no union
            raise refusal(name, repr(value), "true or false")


def to_path(argument: str, value: object) -> Path:
    """A path from text or what stands for one.

    Raises:
        TypeError: naming the argument, for anything else.
    """
    if not isinstance(value, str | PathLike):
        raise refusal(argument, repr(value), "a path", TypeError)
    return Path(value)


def is_one_of(value: object, names: Iterable[str]) -> bool:
    """Whether a value is one of some names.

    Example:
        >>> [is_one_of(value, ("mask", "linear")) for value in ("mask", "best", None, np.zeros(2))]
        [True, False, False, False]
    """
    return isinstance(value, str) and value in names


def listed(values: object) -> list[Any]:
    """What a sequence, array or tensor holds; of anything else, text and bytes included, nothing.

    Example:
        >>> [listed(values) for values in ((1, 2), np.arange(3), 4, "5")]
        [[1, 2], [0, 1, 2], [], []]
    """
    if isinstance(values, Sequence) and not isinstance(values, str | bytes):
        return list(values)
    return [*values.tolist()] if hasattr(values, "tolist") and getattr(values, "ndim", 0) > 0 else []


def require_ignore_index(value: object) -> None:
    """Refuse a label of pixels without part that is no whole number.

    Raises:
        ValueError: naming ``ignore_index``.
    """
    if not is_number(value) or value % 1:  # type: ignore[operator]
        raise refusal("ignore_index", repr(value), "a whole number")


def require_device(device: str) -> None:
    """Refuse a device that PyTorch does not find here.

    Raises:
        ValueError: naming it.
    """
    import torch

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
    three = isinstance(shares, (Sequence, np.ndarray)) and len(shares) == 3 and all(is_number(s, 0) for s in shares)
    if not three or not math.isclose(sum(shares), 1, rel_tol=1e-5):
        raise refusal("shares", shares, "three shares (low, medium, high), not negative, that sum to one")


@contextmanager
def naming(what: str) -> Iterator[None]:
    """Turn any error into one line that says what it was about.

    Args:
        what: file or setting that the work is about.

    Raises:
        ValueError: beginning with ``what``, for whatever went wrong.

    Example:
        >>> with naming("template 1.png"):
        ...     raise refusal("pixdim", 0, "above 0")
        Traceback (most recent call last):
        ...
        ValueError: template 1.png: `pixdim` must be above 0, got 0.
    """
    try:
        yield
    except Exception as error:
        raise ValueError(f"{what}: {reason(error)}") from error


def reason(error: BaseException) -> str:
    """What went wrong, in a line: an error of this package if others have wrapped one, else the first of all."""
    chain = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    # a worker tells its error within a traceback, after its type
    lines = [re.sub(r"^\w+: (?=`)", "", line) for link in chain for line in str(link).strip().splitlines()]
    first = str(chain[-1]).strip().partition("\n")[0] or type(chain[-1]).__name__
    return next((line for line in lines if line.startswith("`")), first)
