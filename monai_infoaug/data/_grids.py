"""Whether a label lies on the grid of its image, by what their headers say."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np


class Grid(NamedTuple):
    """Where the voxels of a file lie.

    Args:
        shape: voxels along the D spatial axes.
        affine: of D + 1 rows, or of 4; None: the file says no millimetres.
    """

    shape: tuple[int, ...]
    affine: np.ndarray | None

    @property
    def matrix(self) -> np.ndarray:
        """Affine (D + 1, D + 1), the identity if there is none."""
        axes = [*range(len(self.shape)), -1]
        return np.eye(len(axes)) if self.affine is None else self.affine[np.ix_(axes, axes)]

    @property
    def spacing(self) -> np.ndarray:
        """Sides (D,) of a voxel."""
        return np.linalg.norm(self.matrix[:-1, :-1], axis=0)


def misfit(label: Grid, image: Grid) -> str:
    """What to say of a label that is not on the grid of its image, after its name; blank if it is."""
    if label.shape != image.shape:
        return f"has {in_words(label.shape)} voxels, its image {in_words(image.shape)}"
    if image.affine is None:
        return ""
    if label.affine is None:
        return "says no millimetres, as its image does"
    if not np.allclose(label.spacing, image.spacing, rtol=1e-3):
        return f"has voxels of {in_words(label.spacing)} mm, its image {in_words(image.spacing)} mm"
    if not np.allclose(label.matrix, image.matrix, rtol=1e-3, atol=0.05 * image.spacing.min()):
        return "lies or is turned otherwise than its image"
    return ""


def shows_its_place(label: Grid, image: Grid) -> bool:
    """Whether a label on another grid, once it is resampled to its image, is likely to be right.

    Both say their millimetres, and one shows all that the other does, to a voxel; of as many voxels, each: it was
    cropped, or is of another resolution, or turned. Otherwise it has lost its place, or is of another image.
    """
    if label.affine is None or image.affine is None or len(label.shape) != len(image.shape):
        return False
    dims = len(label.shape)
    to_voxels = np.linalg.solve(image.matrix, label.matrix)
    corners = np.array([*np.ndindex(*[2] * dims)]) * label.shape - 0.5
    found = corners @ to_voxels[:-1, :-1].T + to_voxels[:-1, -1]
    low, high, size = found.min(0) + 0.5, found.max(0) + 0.5, np.array(image.shape)
    voxel = np.maximum(1, np.abs(to_voxels[:-1, :-1]).sum(1))  # the larger one of the two, along the image's axes
    is_within = bool((low >= -voxel).all() and (high <= size + voxel).all())
    is_around = bool((low <= voxel).all() and (high >= size - voxel).all())
    return is_within and is_around if sorted(label.shape) == sorted(image.shape) else is_within or is_around


def in_words(sides: Iterable[float]) -> str:
    """Sides, as a person reads them."""
    return " x ".join(f"{side:.4g}" for side in sides)
