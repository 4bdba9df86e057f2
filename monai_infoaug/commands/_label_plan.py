"""How the bundle ``segmentation`` is to be trained on images, in the minutes that there are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

LONGEST = 256  # pixels along the longest axis that is worked at, in 2D: all of them are in a crop
VOXELS = 160**3  # of a working volume at most
CROP = 96  # voxels along each axis of a crop at most, in 3D
OF = 16  # what the sides of a crop are multiples of: the network halves them four times
FEWEST = 2  # epochs of a training


def segmentation_settings(shared: Mapping[str, Any], extent: Sequence[float], sides: Sequence[float]) -> dict[str, Any]:
    """Settings of the bundle ``segmentation`` that suit images, but for how long it is trained.

    Args:
        shared: settings that it has in common with other bundles: ``modality``, ``in_channels``, ``pixdim``, ``seed``.
        extent: millimetres of an image along each axis.
        sides: millimetres of a voxel along each axis.

    Returns:
        Settings with plain values.

    Example:
        >>> found = segmentation_settings({"modality": "xray"}, [358.4, 358.4], [0.7, 0.7])
        >>> found["working_pixdim"], found["roi_size"]
        (1.4, [256, 256])
        >>> segmentation_settings({"modality": "mr"}, [35.0, 50.0, 36.0], [1.0, 1.0, 1.0])["roi_size"]
        [48, 64, 48]
    """
    dims = len(extent)
    least = max(extent) / LONGEST if dims == 2 else (math.prod(extent) / VOXELS) ** (1 / 3)
    side = float(f"{max(least, min(sides)):.3g}")
    size = [OF * max(2, math.ceil(length / side / OF - 0.05)) for length in extent]
    return {name: value for name, value in shared.items() if name != "origin"} | {
        "spatial_dims": dims,
        "working_pixdim": side,
        "roi_size": size if dims == 2 else [min(CROP, length) for length in size],
        "window": 9 if dims == 2 else 5,
    }


def epochs_for(settings: Mapping[str, Any], minutes: float, seconds: float) -> dict[str, Any]:
    """How long to train: epochs, and images an epoch.

    Args:
        settings: of the bundle.
        minutes: that the training may take.
        seconds: that a step takes, see :py:func:`monai_infoaug.commands._step_time.seconds_of_step`.
    """
    samples, batch = settings.get("samples_per_epoch", 100), settings.get("batch_size", 2)
    return {
        "samples_per_epoch": samples,
        "batch_size": batch,
        "max_epochs": max(FEWEST, int(60 * minutes / (seconds * samples / batch))),
    }
