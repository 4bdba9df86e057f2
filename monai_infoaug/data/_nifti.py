"""NIfTI and Analyze files, read by nibabel."""

from __future__ import annotations

import gzip
import math
import os
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from monai_infoaug.data._images import image_of, plane_affine, refused, set_affine, unpacked_size, unreadable, warn

SUFFIXES = (".nii", ".nii.gz", ".img", ".img.gz", ".hdr", ".hdr.gz")
MILLIMETRES = {1: ("metres", 1e3), 3: ("micrometres", 1e-3)}
VECTORS = (1006, 1007)  # intents of displacements and of vectors: axis 4 is that of the components
ERRORS = (OSError, EOFError, ValueError, zlib.error, ImageFileError, HeaderDataError)


def read_nifti(path: Path) -> sitk.Image:
    """Read a file with the values and the affine of nibabel, but in millimetres.

    Raises:
        ValueError: for a file that is broken, cut off, or whose affine cannot be inverted.
    """
    try:
        image = _loaded(path)
        if path.suffix.lower() == ".gz" and hasattr(image, "from_bytes"):
            image = type(image).from_bytes(gzip.decompress(path.read_bytes()))  # to its end, where the check sum is
        array = np.asanyarray(image.dataobj)
        affine = _affine(image, path)
    except ERRORS as error:
        if str(error).startswith("`"):
            raise
        raise unreadable(path, error) from error
    array, components = _arranged(array, image)
    if array.ndim < 2 or array.ndim > 5 or 0 in array.shape:
        raise refused(path, f"of shape {array.shape}", "an image of 2 to 5 axes")
    out = image_of(array, components)
    set_affine(out, _in_lps(affine, array.ndim - components, path))
    for key, value in _fields(image.header).items():
        out.SetMetaData(key, value)
    return out


def nifti_header(path: Path) -> tuple[tuple[int, ...], np.ndarray, int, bool]:
    """Shape, affine in LPS, components and whether the file is as long as it has to be, from the header.

    Raises:
        ValueError: for a header that is broken, or whose affine cannot be inverted.
    """
    try:
        image = _loaded(path)
        affine = _affine(image, path)
        shape, vector = _shape(image)
        kind, pixels = image.get_data_dtype(), Path(image.file_map["image"].filename)
        end, is_packed = image.dataobj.offset + math.prod(image.shape) * kind.itemsize, pixels.suffix.lower() == ".gz"
        is_whole = unpacked_size(pixels) == end % 2**32 if is_packed else pixels.stat().st_size >= end
    except ERRORS as error:
        if str(error).startswith("`"):
            raise
        raise unreadable(path, error) from error
    return shape, _in_lps(affine, len(shape), path), image.shape[-1] if vector else len(kind.names or "1"), is_whole


def _loaded(path: Path) -> Any:
    """The file by nibabel, which reads ``x.nii`` for ``x.Nii``."""
    image: Any = nib.load(path)
    parts = [part.filename for part in image.file_map.values() if part.filename]
    if not any(os.path.exists(part) and os.path.samefile(part, path) for part in parts):
        raise refused(path, "with a suffix in capital and small letters", "a file named .nii or .NII")
    return image


def _shape(image: Any) -> tuple[tuple[int, ...], bool]:
    """Shape without trailing axes of one voxel, as ITK has it, and whether axis 4 is that of components."""
    shape = image.shape
    vector = len(shape) == 5 and image.header.get("intent_code", 0) in VECTORS
    if vector:
        shape = shape[:4]
    while len(shape) > (2 if vector else 3) and shape[-1] == 1:
        shape = shape[:-1]
    return shape, vector


def _arranged(array: np.ndarray, image: Any) -> tuple[np.ndarray, bool]:
    """Array of a type that SimpleITK knows, and whether its last axis is that of components."""
    stored = image.get_data_dtype()
    shape, vector = _shape(image)
    if array.dtype.names:  # RGB
        array = np.stack([array[name] for name in array.dtype.names], -1)
        return array.reshape(*shape, -1, order="F"), True
    if array.dtype == np.float64 != stored.newbyteorder("="):  # scaled; ITK makes single precision of it too
        array = array.astype(np.float32)
    if array.dtype.itemsize > (16 if array.dtype.kind == "c" else 8):
        array = array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    return array.reshape((*shape, array.shape[-1]) if vector else shape, order="F"), vector


def _affine(image: Any, path: Path) -> np.ndarray:
    """Affine in RAS and millimetres: as nibabel's, which is warned about where other readers decide otherwise."""
    header, affine = image.header, np.asarray(image.affine, np.float64)
    sides = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) <= 1e-6 * sides.prod():
        raise refused(path, "whose affine is singular", f"a file whose {_source(header)} can be inverted")
    if _source(header) == "pixdim":
        warn(path, "says no position (no sform, no qform): its middle is taken as the origin, as nibabel does")
    elif _source(header) == "sform" and header["qform_code"] > 0:
        corners = np.array([*np.ndindex(2, 2, 2)]) * np.subtract((*image.shape, 1, 1)[:3], 1)
        other = image.get_qform()
        apart = np.linalg.norm(corners @ (affine - other)[:3, :3].T + (affine - other)[:3, 3], axis=1).max()
        if apart > 0.1 * sides.min():
            warn(path, f"has a sform and a qform that are {apart:.3g} mm apart: the sform is taken, as nibabel does")
    units, factor = MILLIMETRES.get(int(header.get("xyzt_units", 0)) & 7, ("", 1.0))
    if units:
        warn(path, f"is in {units}: turned into millimetres, where nibabel keeps the numbers")
        affine[:3] *= factor
    return affine


def _in_lps(affine: np.ndarray, dims: int, path: Path) -> np.ndarray:
    """An affine in RAS, for a plane that of its own axes, in LPS."""
    if dims == 2:
        affine = plane_affine(affine, path)
    return np.diag([-1.0, -1.0, *[1.0] * (len(affine) - 2)]) @ affine


def _source(header: Any) -> str:
    return next((name for name in ("sform", "qform") if header.get(f"{name}_code", 0) > 0), "pixdim")


def _fields(header: Any) -> dict[str, str]:
    """Fields of the header as text, named as ITK does."""
    fields: dict[str, str] = {}
    for name, value in header.items():
        if value.dtype.kind == "S":
            fields[name] = value.item().decode("latin-1")
        elif name.startswith("srow") or value.ndim == 0:
            fields[name] = " ".join(f"{x:.6g}" for x in np.atleast_1d(value))
        else:
            fields |= {f"{name}[{i}]": f"{x:.6g}" for i, x in enumerate(value)}
    return fields
