"""Images of DICOM files: what they must say, in which order slices lie, and where."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import SimpleITK as sitk

from monai_infoaug.data._dicom import COLOURS, IMAGE_TYPE, MODALITY, MODALITY_CURVE, POSITION, Dicom
from monai_infoaug.data._images import copy_metadata, grey_if_equal, plane_affine, refused, set_affine, warn

TOLERANCE = 0.05  # of the distance of slices


def is_volume(headers: Sequence[Dicom]) -> bool:
    """Whether the files of a series are slices that say where they lie, and not all at the same place."""
    places = [header.text(POSITION) for header in headers]
    return len(set(places)) > 1 and all(places)


def read_dicom(headers: Sequence[Dicom], **kwargs: Any) -> sitk.Image:
    """Read the slices of a series in their order, or one file: a plane, frames, or the slices of a volume.

    Raises:
        ValueError: for slices that are not at regular distances.
    """
    first = headers[0]
    if len({header.storage for header in headers}) > 1:  # SimpleITK would take the type of the first file for all
        kwargs = {"outputPixelType": sitk.sitkFloat32} | kwargs
    files = [str(header.path) for header in headers]
    image = sitk.ReadImage(files[0] if len(files) == 1 else files, **kwargs)
    image = grey_if_equal(image, first.path)
    affine = check_dicom(headers)
    if image.GetSize()[2:] == (1,):
        image = copy_metadata(image, image[:, :, 0])
        set_affine(image, affine_of_plane(first))
        return image
    if affine is None:
        image.SetSpacing([*(first.spacing or (1.0, 1.0)), image.GetSpacing()[2]])
        warn(first.path, f"says no positions of its frames: they are taken as {image.GetSpacing()[2]:g} mm apart")
        return image
    set_affine(image, affine)
    return image


def affine_of_plane(header: Dicom) -> np.ndarray:
    """Affine (3, 3) in LPS of a file of one frame."""
    plane = np.eye(4)
    plane[:3, :3] = header.axes * [*(header.spacing or (1, 1)), 1]
    plane[:3, 3] = header.positions[0] if header.positions is not None else 0
    return plane_affine(plane, header.path)


def check_dicom(headers: Sequence[Dicom]) -> np.ndarray | None:
    """Affine in LPS of a volume, None for a plane, and for frames that do not say where they lie; by the headers.

    Raises:
        ValueError: for slices that are not at regular distances, or in tiles of one image, values that are turned, or
            frames that are each rescaled otherwise.
    """
    first = headers[0]
    if "MOSAIC" in first.text(IMAGE_TYPE).split("\\"):
        raise refused(
            first.path, "with all slices side by side (MOSAIC)", "a file a slice: dcm2niix makes a volume of it"
        )
    if not all(header.is_rescaled_alike for header in headers):
        raise refused(first.path, "with frames that are rescaled differently", "frames alike, or a file a slice")
    if any(MODALITY_CURVE in header.tags for header in headers):
        warn(first.path, "has a curve for its values (ModalityLUTSequence), which is not applied")
    if any(header.text(COLOURS) == "MONOCHROME1" and header.text(MODALITY) in ("CT", "PT") for header in headers):
        raise refused(first.path, "in MONOCHROME1", "values that are not turned, MONOCHROME2, in CT and PET")
    if first.spacing is None:
        warn(first.path, "says no spacing: a pixel is taken as 1 mm")
    is_plane = len(headers) == 1 and first.frames == 1
    return None if is_plane or first.positions is None else _affine(headers)


def in_order(headers: Sequence[Dicom]) -> Sequence[Dicom]:
    """Slices along their normal.

    Raises:
        ValueError: for slices that are unlike each other, or do not say where they lie.
    """
    if len(headers) == 1:
        return headers
    first, heights = headers[0], []
    for header in headers:
        if header.frames != 1 or header.positions is None:
            what = "several frames" if header.frames != 1 else "no position (ImagePositionPatient)"
            raise refused(header.path, f"with {what}", "a slice of a volume; read the files one by one otherwise")
        alike = {
            "size": first.size == header.size,
            "orientation": np.allclose(first.axes, header.axes, atol=1e-3),
            "spacing": np.allclose(first.spacing or (0, 0), header.spacing or (0, 0), rtol=1e-3),
        }
        if not all(alike.values()):
            name = next(name for name in alike if not alike[name])
            raise refused(header.path, f"of another {name} than '{first.path.name}'", "a series of slices alike")
        heights.append(header.positions[0] @ first.axes[:, 2])
    return [headers[k] for k in np.argsort(heights, kind="stable")]


def _affine(headers: Sequence[Dicom]) -> np.ndarray:
    """Affine in LPS of slices or frames at regular distances; they may be shifted, as by a tilted gantry."""
    first = headers[0]
    positions = np.concatenate([header.positions for header in headers])
    step = (positions[-1] - positions[0]) / (len(positions) - 1)
    along = np.diff(positions @ first.axes[:, 2])
    files = len(headers) > 1
    where = first.path.parent if files else first.path
    names = [header.path.name for header in headers] if files else [str(i + 1) for i in range(first.frames)]
    accepted = "slices at regular distances, one a place"
    k = int(np.abs(along).argmin())
    if abs(along[k]) < 1e-3:
        raise refused(where, f"with slices {names[k]} and {names[k + 1]} at the same place", accepted)
    off = np.linalg.norm(positions - positions[0] - np.arange(len(positions))[:, None] * step, axis=1)
    if off.max() > TOLERANCE * np.linalg.norm(step):
        usual = float(np.median(along))
        k = int(np.abs(along - usual).argmax())
        got = f"with {along[k]:.4g} mm between slices {names[k]} and {names[k + 1]}, {usual:.4g} mm being usual"
        raise refused(where, got, accepted)
    affine = np.eye(4)
    affine[:3, :2] = first.axes[:, :2] * (first.spacing or (1, 1))
    affine[:3, 2], affine[:3, 3] = step, positions[0]
    return affine
