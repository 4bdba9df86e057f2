"""Label maps as files on the grid of the image that they belong to: NIfTI, or PNG for pictures."""

from __future__ import annotations

import gzip
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from monai.data import MetaTensor
from monai.data.utils import orientation_ras_lps, to_affine_nd
from monai.transforms import LoadImage, ResampleToMatch
from monai.utils.enums import MetaKeys
from torch import Tensor

from monai_infoaug._grid import plain
from monai_infoaug._require import KEEPING, LOSSY, WITHOUT_MILLIMETRES, naming, refusal
from monai_infoaug.data import SimpleITKReader
from monai_infoaug.transforms import AssignPixdim


def read_on_grid(
    path: str | os.PathLike, pixdim: float | Sequence[float] | None = None, origin: float | Sequence[float] = 0.0
) -> MetaTensor:
    """Read an image (C, *S) on its own grid, whose pixels are of ``pixdim`` millimetres if the file does not say it."""
    read: Any = LoadImage(
        reader=SimpleITKReader(),
        image_only=True,
        dtype=np.float64,  # sums of bits are exact in it
        ensure_channel_first=True,
    )
    with naming(os.fspath(path)):
        return AssignPixdim(pixdim, origin)(read(os.fspath(path)))


def read_labels(
    path: str | os.PathLike, pixdim: float | Sequence[float] | None = None, origin: float | Sequence[float] = 0.0
) -> MetaTensor:
    """Read a label map (1, *S), see :py:func:`read_on_grid`.

    Raises:
        ValueError: naming the file, for JPEG, for colours, or for other values than whole numbers of at least 0.
    """
    if os.fspath(path).lower().endswith(LOSSY):
        raise refusal("labels", f"'{path}'", KEEPING)
    image = read_on_grid(path, pixdim, origin)
    if len(image) != 1:
        raise refusal("labels", f"'{path}' with {len(image)} channels", "label maps of one channel")
    if not bool(((image >= 0) & (image == image.round())).all()):
        raise refusal("labels", f"'{path}' with other values", "label maps of whole numbers of at least 0")
    return image


def onto_grid(labels: MetaTensor, grid: MetaTensor) -> Tensor:
    """A label map (1, *S) at the voxels of another grid, 0 outside; as it is where the grids are the same."""
    dims = grid.ndim - 1
    own, wanted = (to_affine_nd(dims, each.affine.numpy()) for each in (labels, grid))
    if labels.shape[1:] == grid.shape[1:] and np.allclose(own, wanted, atol=1e-3):
        return plain(labels)
    return plain(ResampleToMatch(mode="nearest", padding_mode="zeros")(labels, grid))


def label_suffix(path: str | os.PathLike) -> str:
    """Suffix of the label map of an image: pictures get a picture, which viewers lay over them pixel by pixel."""
    return ".png" if Path(path).name.lower().endswith(WITHOUT_MILLIMETRES) else ".nii.gz"


def label_bytes(labels: Tensor, grid: MetaTensor, suffix: str) -> bytes:
    """The file of a label map (1, *S) of whole numbers, on the grid (C, *S) of its image.

    Args:
        labels: whole numbers of at least 0.
        grid: image as :py:func:`read_on_grid` reads it.
        suffix: of :py:func:`label_suffix`.

    Raises:
        ValueError: for values that a PNG has no room for.
    """
    array = plain(labels)[0].cpu().numpy()
    most = int(array.max(initial=0))
    array = array.astype(np.uint8 if most < 2**8 else np.uint16 if most < 2**16 else np.int32)
    if suffix == ".png":
        if array.dtype == np.int32:
            raise refusal("labels", f"values up to {most}", f"below {2**16}, in a PNG")
        from PIL import Image

        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(array.T)).save(buffer, "png")
        return buffer.getvalue()
    affine = grid.affine.cpu().numpy()
    if grid.meta.get(MetaKeys.SPACE) == "LPS":
        affine = orientation_ras_lps(affine)
    return gzip.compress(nibabel.Nifti1Image(array, to_affine_nd(3, affine)).to_bytes(), mtime=0)


def percent(confidence: Tensor) -> Tensor:
    """A confidence in [0, 1] as a label map of whole per cent."""
    return (100 * plain(confidence)).round().to(torch.uint8)
