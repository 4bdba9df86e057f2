"""Compiled twins of what takes long, where numba is there."""

from __future__ import annotations

import functools
from importlib import import_module
from types import ModuleType

import torch


@functools.cache
def _twin(name: str) -> ModuleType | None:
    try:
        return import_module(f"monai_infoaug.transforms.{name}")
    except ImportError:
        return None


def compiled(name: str, device: torch.device) -> ModuleType | None:
    """The module of this room with compiled loops for the CPU; None on other devices, and where numba is missing."""
    return _twin(name) if device.type == "cpu" else None
