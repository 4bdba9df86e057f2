"""The three planes of a volume, as radiologists look at them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from nibabel.orientations import io_orientation

PLANES = {"axial": (0, 1), "coronal": (0, 2), "sagittal": (1, 2)}  # the patient's axes to the right and down


class Plane(NamedTuple):
    """A plane of a volume: the patient's left, back and feet are to the right and down.

    Args:
        name: "axial", "coronal" or "sagittal".
        axes: those of the volume that run across and down.
        cut: the third one.
        turned: whether each of ``axes`` is drawn from its end to its start.
        aspect: height of a voxel by its width.
    """

    name: str
    axes: tuple[int, int]
    cut: int
    turned: tuple[bool, bool]
    aspect: float


def planes_of(affine: np.ndarray) -> Iterator[Plane]:
    """The axial, coronal and sagittal plane of a volume with an affine (4, 4) into RAS millimetres."""
    towards = io_orientation(affine)  # for each axis of the volume: the patient's axis, and which way
    sides = np.linalg.norm(np.asarray(affine)[:3, :3], axis=0)
    own = {int(axis): number for number, axis in enumerate(towards[:, 0])}
    for name, patient in PLANES.items():
        across, down = (own[axis] for axis in patient)
        turned = bool(towards[across, 1] > 0), bool(towards[down, 1] > 0)
        yield Plane(name, (across, down), 3 - across - down, turned, float(sides[down] / sides[across]))
