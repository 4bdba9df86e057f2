"""What is wrong with files, as far as their headers tell: the reader's own checks, before its work."""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import SimpleITK as sitk

from monai_infoaug._require import GIVEN, KEEPING, LOSSY, WITHOUT_MILLIMETRES, reason, refusal
from monai_infoaug.data import _nifti
from monai_infoaug.data._dicom import COLOURS as COLOURED
from monai_infoaug.data._dicom import is_dicom, read_header
from monai_infoaug.data._dicom_volume import affine_of_plane, check_dicom
from monai_infoaug.data._grids import Grid, misfit, shows_its_place
from monai_infoaug.data._images import affine_of, require_utf_8, warn
from monai_infoaug.data._pictures import check_picture, is_picture
from monai_infoaug.data._text_headers import is_whole_nrrd, require_nrrd_in_millimetres, require_whole_meta_image
from monai_infoaug.data.simpleitk_reader import SimpleITKReader, open_header

ASSUMED = "a pixel is taken as 1 mm"  # the end of the reader's warning
KEYS = ("image", "label")  # of the files in the items of a data list
COLOURS = (1, 3)  # equal ones become one channel


class Header(NamedTuple):
    """What is known of an image before its pixels are read.

    Args:
        dims: how many spatial axes it may be meant to have: a volume of one slice may be a plane.
        channels: how many it may have once it is read. Empty: not known.
        is_sized: whether it says how large a voxel is.
        grid: where its voxels lie, without axes of one voxel. None: not known.
    """

    dims: tuple[int, ...]
    channels: tuple[int, ...]
    is_sized: bool
    grid: Grid | None


def image_header(path: str | PathLike[str]) -> Header:
    """Header of an image: a file, or a folder with a DICOM series.

    A file that seems to be shorter than it has to be is read, so that it is the reader who refuses it, or does not.

    Raises:
        FileNotFoundError: as the reader.
        ValueError: as the reader, for what is wrong with the header, or for a file that is cut off.
    """
    path = Path(path)
    shape: tuple[int, ...] = ()
    affine: np.ndarray | None = None
    channels: tuple[int, ...] = ()
    is_whole = False
    with warnings.catch_warnings(record=True) as caught:  # the reader says them when the file is read
        warnings.simplefilter("always")
        require_utf_8(path)
        if path.is_dir() or is_dicom(path):
            shape, affine, channels, is_whole = _of_dicom(path)
        elif path.is_file():
            shape, affine, channels, is_whole = _of_file(path)
        if not is_whole:
            SimpleITKReader().read(path)
    is_sized = not any(str(warning.message).endswith(f"{ASSUMED}.") for warning in caught)
    is_sized = is_sized and not path.name.lower().endswith(WITHOUT_MILLIMETRES)
    dims = (2, 3) if shape[2:] == (1,) else (len(shape),)
    grid = None if affine is None else Grid(shape[:2] if dims == (2, 3) else shape, affine if is_sized else None)
    return Header(dims, channels, is_sized, grid)


Facts = tuple[tuple[int, ...], np.ndarray | None, tuple[int, ...], bool]


def _of_dicom(path: Path) -> Facts:
    """Shape, affine in LPS if it is known, channels, and whether the file seems to be whole."""
    headers = SimpleITKReader().series(path) if path.is_dir() else [read_header(path)]
    affine = check_dicom(headers)
    columns, rows, samples = headers[0].size
    slices = sum(header.frames for header in headers)
    if slices == 1:
        affine = affine_of_plane(headers[0])
    shape = (columns, rows, slices) if slices > 1 else (columns, rows)
    coloured = samples > 1 or headers[0].text(COLOURED) == "PALETTE COLOR"
    return shape, affine, COLOURS if coloured else (1,), all(header.pixels for header in headers)


def _of_file(path: Path) -> Facts:
    """As :func:`_of_dicom`."""
    name, is_whole = path.name.lower(), True
    with open(path, "rb") as file:
        head = file.read(4)
    if name.endswith(_nifti.SUFFIXES):
        shape, affine, components, is_whole = _nifti.nifti_header(path)
    elif is_picture(head) and not check_picture(path):
        return (1, 1), None, COLOURS, True  # of a kind that Pillow reads
    else:
        if name.endswith((".mha", ".mhd")):
            require_whole_meta_image(path)
        elif name.endswith((".nrrd", ".nhdr")):
            require_nrrd_in_millimetres(path)
        header = open_header(path)
        shape, affine, components = header.GetSize(), affine_of(header), header.GetNumberOfComponents()
        is_whole = bool(np.linalg.det(affine))  # else the reader says why
        if name.endswith(".nrrd"):
            is_whole &= is_whole_nrrd(path, math.prod(shape) * components * _bytes(header))
        if is_picture(head):
            return shape, affine, COLOURS if components > 1 else (1,), True
    if len(shape) > 3:  # the axis after those of space is that of the channels
        return shape[:3], affine, (shape[3],) if components == 1 and len(shape) == 4 else (), is_whole
    return shape, affine, (components,), is_whole


def _bytes(header: sitk.ImageFileReader) -> int:
    """Bytes of a component."""
    name = sitk.GetPixelIDValueAsString(header.GetPixelID())  # such as "complex of 32-bit float"
    bits = re.search(r"(\d+)-bit", name)
    return (int(bits[1]) if bits else 0) // 8 * (1 + ("complex" in name))


def faults(
    items: Iterable[Any],
    dims: int | None = None,
    channels: Mapping[str, int | None] | None = None,
    pixdim: object = None,
    saying: str = "",
    is_resampled: bool | None = None,
) -> Iterator[ValueError]:
    """What is wrong with the files of a data list, as far as their headers tell: an error for each kind of fault.

    Where one channel is wanted, files with three are read until one shows colours. A warning tells of files other than
    pictures for which the reader assumes that a voxel is a millimetre.

    Args:
        items: dictionaries with paths, or lists of paths, at ``"image"`` and ``"label"``; nothing else counts.
        dims: how many spatial axes the files are to have; None: any.
        channels: how many channels those of a key are to have.
        pixdim: millimetres a pixel, so that the files need not say it.
        saying: what to add about where the channels of the images are said.
        is_resampled: whether labels will be resampled to their images; then a warning tells of those on another grid
            that shows the same place. None: grids do not count.

    Yields:
        Errors, to be raised or shown: of files that cannot be read, that say no millimetres, or that have other axes or
        channels, and of labels that are in JPEG, or do not lie on the grid of their image.
    """
    items = list(items)
    broken: list[str] = []
    unsized: list[str] = []
    lossy: list[str] = []
    unlike: dict[tuple[str, str], list[str]] = {}
    grids: dict[str, Grid | None] = {}
    why = ""
    for key, path, is_alone in dict.fromkeys(file for item in items for file in _files(item)):
        wanted = (channels or {}).get(key) if is_alone else None
        try:
            header = image_header(path)
            known = header.channels
            if wanted == 1 and known == COLOURS and not unlike:  # grey in three channels is fine, colours are not
                known = (_channels(path),)
        except (OSError, ValueError) as error:
            broken.append(path)
            why = why or reason(error).rstrip(".")
            continue
        grids[path] = header.grid if pixdim is None or header.grid is None else header.grid._replace(affine=None)
        if pixdim is None and not header.is_sized:
            unsized.append(path)
        if dims is not None and dims not in header.dims:
            unlike.setdefault((f"{header.dims[0]} axes", f"of {dims} axes"), []).append(path)
        if wanted is not None and known and wanted not in known:
            accepted = f"of {wanted} channels" + (saying if key == "image" else "")
            unlike.setdefault((f"{known[-1]} channels", accepted), []).append(path)
        if key == "label" and path.lower().endswith(LOSSY):
            lossy.append(path)
    if broken:
        others = f"; {_some(broken[1:])} cannot be read either" if broken[1:] else ""
        yield ValueError(f"{why}{others}.")
    if lossy:
        yield refusal("label", _some(lossy), KEEPING)
    pictures = [path for path in unsized if path.lower().endswith(WITHOUT_MILLIMETRES)]
    if pictures:
        yield refusal("pixdim", f"none for {_some(pictures)}", GIVEN)
    elif unsized:
        others = f", nor {'do' if unsized[2:] else 'does'} {_some(unsized[1:])}" if unsized[1:] else ""
        warn(unsized[0], f"says no spacing{others}: {ASSUMED}")
    for (got, accepted), paths in unlike.items():
        yield refusal("data", f"{_some(paths)} of {got}", accepted)
    if is_resampled is not None and not unlike:
        yield from _unlike_images(items, grids, is_resampled)


def _unlike_images(items: Iterable[Any], grids: Mapping[str, Grid | None], is_resampled: bool) -> Iterator[ValueError]:
    """What is wrong with the grids of labels; a warning of those that are brought to that of their image."""
    wrong: dict[str, str] = {}
    other: dict[str, str] = {}
    for item in items:
        files = {key: path for key, path, is_alone in _files(item) if is_alone}
        label, image = (grids.get(files.get(key, "")) for key in ("label", "image"))
        if label is not None and image is not None and (text := misfit(label, image)):
            (other if is_resampled and shows_its_place(label, image) else wrong)[files["label"]] = text
    if wrong:
        path, text = next(iter(wrong.items()))
        more = f", and {len(wrong) - 1} more" * (len(wrong) > 1)
        yield refusal("label", f"'{path}', which {text}{more}", "on the grid of its image")
    if other:
        path, text = next(iter(other.items()))
        warn(path, f"{text}: it is resampled to its image" + f", and so are {len(other) - 1} more" * (len(other) > 1))


def _channels(path: str) -> int:
    """Channels of an image that has to be read for that."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the reader says them again
        image: Any = SimpleITKReader().read(path)
        return image.GetNumberOfComponentsPerPixel()


def faults_beside(
    first: str | PathLike[str], paths: Iterable[str | PathLike[str]], pixdim: object = None
) -> Iterator[ValueError]:
    """As :func:`faults`, for images that are to have the axes and channels of a first one.

    Raises:
        ValueError: for what is wrong with the first one.
    """
    header = image_header(first)
    dims, channels = (each[0] if len(each) == 1 else None for each in (header.dims, header.channels))
    return faults([{"image": path} for path in paths], dims, {"image": channels}, pixdim)


def _some(paths: Sequence[str]) -> str:
    """The first of some files, and how many more."""
    return f"'{paths[0]}'" + f" and {len(paths) - 1} more" * (len(paths) > 1)


def _files(item: Any) -> Iterator[tuple[str, str, bool]]:
    """Key and path of each file of an item, and whether it is not one of several that are stacked."""
    for key in KEYS if isinstance(item, Mapping) else ():
        value = item.get(key)
        paths = value if isinstance(value, list | tuple) else [value]
        for path in paths:
            if isinstance(path, str | PathLike):
                yield key, os.fspath(path), paths is not value
