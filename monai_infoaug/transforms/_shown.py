"""Transforms that show their settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monai.transforms import Transform


class Shown:
    """Shows the settings of a transform, those of the transforms in it included.

    Example:
        >>> from monai_infoaug.transforms import RandIntensityCurve
        >>> RandIntensityCurve(knots=4)
        RandIntensityCurve(prob=0.1, knots=4)
    """

    def __repr__(self) -> str:
        return _settings(self)


def _settings(transform: Any) -> str:
    public = {name: value for name, value in vars(transform).items() if name[0] != "_" and name != "R"}
    return f"{type(transform).__name__}({', '.join(f'{name}={_text(value)}' for name, value in public.items())})"


def _text(value: Any) -> str:
    """Like ``repr``, also for the transforms of MONAI, which show no more than where they lie in memory."""
    if isinstance(value, Transform):
        return _settings(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {_text(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple) and any(isinstance(each, Transform) for each in value):
        return f"({', '.join(map(_text, value))})"
    return getattr(value, "__qualname__", None) or repr(value)
