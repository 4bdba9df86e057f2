"""Checkpoints that a training might have left."""

from __future__ import annotations

from pathlib import Path

import torch


def checkpoint_of(path: Path, network: dict | None = None, **settings) -> Path:
    torch.save({"network": network or {}, "settings": settings}, path)
    return path
