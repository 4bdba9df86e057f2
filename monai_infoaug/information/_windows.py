"""Windows of the information map: one, or several whose maps become one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from monai_infoaug._require import is_count, is_one_of, listed, refusal

Window = int | Sequence[int] | Sequence[Sequence[int]]
REDUCTIONS = ("max", "mean")


def each_window(window: Any) -> list[Any]:
    """The windows of a setting: itself, or what it holds if that are sequences.

    Example:
        >>> each_window(9), each_window((9, 5)), each_window([[5], [9, 9]])
        ([9], [(9, 5)], [[5], [9, 9]])
    """
    windows = listed(window)
    return windows if windows and all(isinstance(each, Sequence | np.ndarray) for each in windows) else [window]


def check_windows(window: Window, reduction: str) -> None:
    """Refuse windows that suit no image at all, and an unknown way to make one map of theirs.

    Raises:
        ValueError: for a side that is not odd, or another reduction.
    """
    for each in each_window(window):
        sides = listed(each) or [each]
        if not all(is_count(side, 1) and side % 2 == 1 for side in sides):
            raise refusal("window", window, "odd and positive, one side or one an axis, or sequences of such")
    if not is_one_of(reduction, REDUCTIONS):
        raise refusal("reduction", repr(reduction), f"one of {REDUCTIONS}")


def windows_for(window: Window, sizes: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Side along each axis of each window, for an image of these sizes.

    Raises:
        ValueError: for a window of other axes, or larger than the image.
    """
    windows = []
    for each in each_window(window):
        sides = tuple(np.atleast_1d(each).tolist())
        sides = sides * len(sizes) if len(sides) == 1 else sides
        fits = len(sides) == len(sizes) and all(side <= size for side, size in zip(sides, sizes, strict=True))
        if not fits:
            raise refusal("window", window, f"one side or one an axis, no larger than the image's axes {sizes}")
        windows.append(sides)
    return windows


def reduced(maps: Sequence[Tensor], reduction: str) -> Tensor:
    """The maximum or the mean of maps of one shape."""
    if len(maps) == 1:
        return maps[0]
    return torch.stack(list(maps)).amax(0) if reduction == "max" else torch.stack(list(maps)).mean(0)
