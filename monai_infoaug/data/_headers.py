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

import SimpleITK as sitk

from monai_infoaug._require import GIVEN, WITHOUT_MILLIMETRES, reason, refusal
from monai_infoaug.data import _nifti
from monai_infoaug.data._dicom import check_dicom, is_dicom, read_header
from monai_infoaug.data._images import require_utf_8, warn
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
    """

    dims: tuple[int, ...]
    channels: tuple[int, ...]
    is_sized: bool


def image_header(path: str | PathLike[str]) -> Header:
    """Header of an image: a file, or a folder with a DICOM series.

    A file that seems to be shorter than it has to be is read, so that it is the reader who refuses it, or does not.

    Raises:
        FileNotFoundError: as the reader.
        ValueError: as the reader, for what is wrong with the header, or for a file that is cut off.
    """
    path = Path(path)
    size: Sequence[int] = ()
    channels: tuple[int, ...] = ()
    is_whole = False
    with warnings.catch_warnings(record=True) as caught:  # the reader says them when the file is read
        warnings.simplefilter("always")
        require_utf_8(path)
        if path.is_dir() or is_dicom(path):
            size, channels, is_whole = _of_dicom(path)
        elif path.is_file():
            size, channels, is_whole = _of_file(path)
        if not is_whole:
            SimpleITKReader().read(path)
    is_sized = not any(str(warning.message).endswith(f"{ASSUMED}.") for warning in caught)
    dims = (2, 3) if size[2:] == (1,) else (len(size),)
    return Header(dims, channels, is_sized and not path.name.lower().endswith(WITHOUT_MILLIMETRES))


def _of_dicom(path: Path) -> tuple[Sequence[int], tuple[int, ...], bool]:
    """Size along the spatial axes, channels, and whether the file seems to be whole."""
    headers = SimpleITKReader().series(path) if path.is_dir() else [read_header(path)]
    check_dicom(headers)
    columns, rows, samples = headers[0].size
    slices = sum(header.frames for header in headers)
    size = (columns, rows, slices) if slices > 1 else (columns, rows)
    return size, COLOURS if samples > 1 else (1,), all(header.pixels for header in headers)


def _of_file(path: Path) -> tuple[Sequence[int], tuple[int, ...], bool]:
    """As :func:`_of_dicom`."""
    name, is_whole = path.name.lower(), True
    with open(path, "rb") as file:
        head = file.read(4)
    if name.endswith(_nifti.SUFFIXES):
        size, components, is_whole = _nifti.nifti_header(path)
    elif is_picture(head) and not check_picture(path):
        return (1, 1), COLOURS, True  # of a kind that Pillow reads
    else:
        if name.endswith((".mha", ".mhd")):
            require_whole_meta_image(path)
        elif name.endswith((".nrrd", ".nhdr")):
            require_nrrd_in_millimetres(path)
        header = open_header(path)
        size, components = header.GetSize(), header.GetNumberOfComponents()
        if name.endswith(".nrrd"):
            is_whole = is_whole_nrrd(path, math.prod(size) * components * _bytes(header))
        if is_picture(head):
            return size, COLOURS if components > 1 else (1,), True
    if len(size) > 3:  # the axis after those of space is that of the channels
        return size[:3], (size[3],) if components == 1 and len(size) == 4 else (), is_whole
    return size, (components,), is_whole


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

    Yields:
        Errors, to be raised or shown: of files that cannot be read, that say no millimetres, or that have other axes or
        channels.
    """
    broken: list[str] = []
    unsized: list[str] = []
    unlike: dict[tuple[str, str], list[str]] = {}
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
        if pixdim is None and not header.is_sized:
            unsized.append(path)
        if dims is not None and dims not in header.dims:
            unlike.setdefault((f"{header.dims[0]} axes", f"of {dims} axes"), []).append(path)
        if wanted is not None and known and wanted not in known:
            accepted = f"of {wanted} channels" + (saying if key == "image" else "")
            unlike.setdefault((f"{known[-1]} channels", accepted), []).append(path)
    if broken:
        others = f"; {_some(broken[1:])} cannot be read either" if broken[1:] else ""
        yield ValueError(f"{why}{others}.")
    pictures = [path for path in unsized if path.lower().endswith(WITHOUT_MILLIMETRES)]
    if pictures:
        yield refusal("pixdim", f"none for {_some(pictures)}", GIVEN)
    elif unsized:
        others = f", nor {'do' if unsized[2:] else 'does'} {_some(unsized[1:])}" if unsized[1:] else ""
        warn(unsized[0], f"says no spacing{others}: {ASSUMED}")
    for (got, accepted), paths in unlike.items():
        yield refusal("data", f"{_some(paths)} of {got}", accepted)


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
