"""Information-guided pixel augmentation and pixel-contrastive pre-training for MONAI."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.2.0"

__all__ = [
    "advise",
    "annotate",
    "bundles",
    "commands",
    "data",
    "engines",
    "handlers",
    "inferers",
    "information",
    "losses",
    "metrics",
    "networks",
    "samplers",
    "segment",
    "transforms",
]

COMMANDS = ("advise", "annotate", "segment")  # whose function of images is theirs, too


def __getattr__(name: str) -> Any:
    """Import a sub-package when it is first asked for, so that nothing is loaded that a user does not use."""
    if name in COMMANDS:
        return getattr(import_module(f"{__name__}.commands.{name}"), f"{name}_images")
    if name in __all__:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
