"""What the readers of all formats share: images from arrays and affines, and how a file is refused."""

from __future__ import annotations

import os
import warnings
from os import PathLike
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from monai_infoaug._require import refusal


def refused(path: str | PathLike[str], got: str, accepted: str) -> ValueError:
    """The error that refuses a file, to be raised."""
    return refusal("data", f"'{path}' {got}", accepted)


def unreadable(path: str | PathLike[str], error: Exception | str) -> ValueError:
    """What is broken, perhaps a library's error of several lines, as an error of one line that names the file."""
    reason = " ".join(str(error).rsplit("ERROR: ", 1)[-1].split()) or type(error).__name__
    return ValueError(f"`data` must be an image that SimpleITK can read, got '{path}': {reason}")


def require_utf_8(path: Path) -> None:
    """Refuse a name that SimpleITK cannot open, and no console can show.

    Raises:
        ValueError: naming it in ASCII.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise refusal("data", ascii(str(path)), "a file whose name is in UTF-8") from None


def warn(path: str | PathLike[str], text: str) -> None:
    """Say what was assumed about a file."""
    warnings.warn(f"'{path}' {text}.", stacklevel=3)


def unpacked_size(path: Path) -> int:
    """Bytes, modulo 2 ** 32, that a gzip file says at its end to hold; anything if its end is missing."""
    with open(path, "rb") as file:
        file.seek(-min(4, path.stat().st_size), os.SEEK_END)
        return int.from_bytes(file.read(), "little")


def image_of(array: np.ndarray, components: bool = False) -> sitk.Image:
    """Image of an array with axis 0 = x, and the components, if it has some, last."""
    zyx = np.moveaxis(array.T, 0, -1) if components else array.T
    return sitk.GetImageFromArray(zyx, isVector=components)


def affine_of(image: sitk.Image | sitk.ImageFileReader) -> np.ndarray:
    """Affine in LPS, of three axes at most."""
    dims = min(image.GetDimension(), 3)
    direction = np.reshape(image.GetDirection(), [image.GetDimension()] * 2)[:dims, :dims]
    affine = np.eye(dims + 1)
    affine[:dims, :dims] = direction * image.GetSpacing()[:dims]
    affine[:dims, -1] = image.GetOrigin()[:dims]
    return affine


def set_affine(image: sitk.Image, affine: np.ndarray) -> None:
    """Set the geometry of an image from an affine in LPS, sheared or not."""
    dims = len(affine) - 1
    spacing = np.linalg.norm(affine[:dims, :dims], axis=0)
    rest = image.GetDimension() - dims
    direction = np.eye(image.GetDimension())
    direction[:dims, :dims] = affine[:dims, :dims] / spacing
    image.SetSpacing([*spacing.tolist(), *[1.0] * rest])
    image.SetOrigin([*affine[:dims, -1].tolist(), *[0.0] * rest])
    image.SetDirection(direction.ravel().tolist())


def plane_affine(affine: np.ndarray, path: str | PathLike[str]) -> np.ndarray:
    """Affine (3, 3) of a plane in space: its x and y, or its own axes if it does not lie in the plane of these."""
    sides = np.linalg.norm(affine[:3, :2], axis=0)
    if np.allclose(affine[2, :2], 0, atol=1e-3 * sides.min()):
        return affine[np.ix_([0, 1, 3], [0, 1, 3])]
    warn(path, "is one slice that is not axial: its millimetres are counted within the slice, from its first pixel")
    return np.diag([*sides, 1.0])


def copy_metadata(source: sitk.Image | sitk.ImageFileReader, image: sitk.Image) -> sitk.Image:
    """The image with the metadata of another, which SimpleITK's filters drop."""
    for key in source.GetMetaDataKeys():
        image.SetMetaData(key, source.GetMetaData(key))
    return image


def grey_if_equal(image: sitk.Image, path: str | PathLike[str]) -> sitk.Image:
    """A picture in as few channels as it needs: without an opaque alpha, one if all colours are equal.

    Raises:
        ValueError: for a picture that is transparent in places.
    """
    count = image.GetNumberOfComponentsPerPixel()
    if count == 1:
        return image
    values = sitk.GetArrayViewFromImage(image)
    colours = count - (count in (2, 4))
    if colours < count and values[..., -1].min() < np.iinfo(values.dtype).max:
        raise refused(path, "with transparent pixels", "an opaque image: put it on a background first")
    if all(np.array_equal(values[..., 0], values[..., i]) for i in range(1, colours)):
        grey = copy_metadata(image, sitk.VectorIndexSelectionCast(image, 0))
        grey.SetMetaData("equal_channels", str(colours))
        return grey
    if colours == count:
        return image
    return copy_metadata(image, sitk.Compose([sitk.VectorIndexSelectionCast(image, i) for i in range(colours)]))
