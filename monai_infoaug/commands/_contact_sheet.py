"""A picture of many images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from monai.data import MetaTensor
from monai.transforms import Orientation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS, SIDE = 4, 3.0  # images in a row, and inches that one is wide
PIXELS = 400  # along the longest side of an image, about


def draw_sheet(images: Sequence[MetaTensor], captions: Sequence[str], framed: int = 0) -> Figure:
    """Images (C, *S) side by side in radiological view, of volumes the three slices through the middle.

    Args:
        images: 2D or 3D; of three channels RGB, else the first channel is shown.
        captions: a line for each.
        framed: number of the first images that have a frame.
    """
    from matplotlib.figure import Figure

    pictures = [_picture(image) for image in images]
    columns = min(COLUMNS, len(images))
    rows = -(-len(images) // columns)
    height = SIDE * min(2.0, max(picture.shape[0] / picture.shape[1] for picture in pictures))
    figure = Figure(figsize=(SIDE * columns, (height + 0.3) * rows), layout="constrained")
    cells = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes in cells[len(images) :]:
        axes.axis("off")
    for place, (axes, picture, caption) in enumerate(zip(cells, pictures, captions, strict=False)):
        axes.imshow(picture, cmap="gray", origin="upper")
        axes.set_title(caption, fontsize=9, parse_math=False)
        axes.set(xticks=[], yticks=[])
        for spine in axes.spines.values():
            spine.set(color="tab:green", linewidth=4, visible=place < framed)
    return figure


def _picture(image: MetaTensor) -> np.ndarray:
    """(rows, columns), or (rows, columns, 3) in [0, 1]."""
    dims = image.ndim - 1
    voxels = Orientation("LPI"[:dims], labels=None)(image).cpu().float().numpy()
    voxels = voxels if len(voxels) == 3 else voxels[:1]
    if dims == 3:
        x, y, z = (side // 2 for side in voxels.shape[1:])
        slices = [voxels[:, :, :, z], voxels[:, :, y], voxels[:, x]]  # axial, coronal, sagittal
        height = max(plane.shape[2] for plane in slices)
        voxels = np.concatenate([_padded(plane, height) for plane in slices], axis=1)
    step = max(1, max(voxels.shape[1:]) // PIXELS)
    pixels = voxels[:, ::step, ::step].T
    if pixels.shape[-1] == 1:
        return pixels[..., 0]
    low, high = pixels.min(), pixels.max()
    return (pixels - low) / max(high - low, 1e-6)


def _padded(plane: np.ndarray, height: int) -> np.ndarray:
    """A slice (C, X, Y) in the middle of a higher one, darkest around it."""
    above, below = (height - plane.shape[2]) // 2, -(-(height - plane.shape[2]) // 2)
    return np.pad(plane, [(0, 0), (0, 2), (above, below)], constant_values=plane.min())
