"""Coordinate maps that tests of the paired views share."""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib.util import find_spec

import pytest
import torch

from monai_infoaug.transforms import _twins
from monai_infoaug.transforms._coordinates import coordinate_grid
from monai_infoaug.transforms._mesh import SampledMesh
from monai_infoaug.transforms._validity import locally_invertible, typical_jacobian

needs_numba = pytest.mark.skipif(find_spec("numba") is None, reason="the compiled twins need numba")


def everywhere(coords: torch.Tensor) -> torch.Tensor:
    return torch.ones(coords.shape[1:], dtype=torch.bool)


def waves(shape: tuple[int, ...], height: float, period: float = 12.0) -> torch.Tensor:
    """A smooth map; it folds where ``height * 2 pi / period`` exceeds one."""
    grid = coordinate_grid(shape)
    return grid + height * torch.sin(2 * math.pi * grid.roll(1, 0) / period + 2 * math.pi * grid / period)


def linear(matrix: list[list[float]], shape: tuple[int, ...]) -> torch.Tensor:
    return (torch.tensor(matrix) @ coordinate_grid(shape).flatten(1)).view(-1, *shape)


def mesh_of(coords: torch.Tensor, valid: torch.Tensor) -> SampledMesh:
    typical = typical_jacobian(coords, valid)
    return SampledMesh(coords, valid, locally_invertible(coords, valid, typical, 0.1)[1], typical.spacing)


def with_and_without_numba(monkeypatch: pytest.MonkeyPatch, function: Callable, *arguments) -> list:
    assert _twins.compiled("_views_numba", torch.device("cpu"))
    results = [function(*arguments)]
    monkeypatch.setattr(_twins, "_twin", lambda name: None)
    results.append(function(*arguments))
    monkeypatch.undo()
    return results
