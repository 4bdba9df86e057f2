"""PNG, JPEG, BMP and TIFF: what their headers say, and what SimpleITK does not read or reads otherwise than viewers."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from monai_infoaug.data._images import grey_if_equal, image_of, refused, unreadable, warn

PIXELS = {"1", "L", "LA", "RGB", "RGBA", "I;16", "I", "F"}  # modes of Pillow that are taken
TIFFS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # + of BigTIFF
TIFF_TYPES = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}
TILES, SAMPLE_FORMAT, HALF = 322, 339, 3  # the latter of numbers with a fraction


def is_picture(head: bytes) -> bool:
    """Whether a file begins as a PNG, JPEG, BMP or TIFF does."""
    return head.startswith((b"\x89PNG", b"\xff\xd8\xff", b"BM", *TIFFS))


def read_picture(path: Path, **kwargs: Any) -> sitk.Image:
    """Read a picture as viewers show it, a pixel a millimetre, in as few channels as it needs; 1 bit gives 0 and 1.

    Raises:
        ValueError: for a picture that is cut off, transparent, or in colours other than grey and RGB.
    """
    if check_picture(path):
        image = sitk.ReadImage(str(path), **kwargs)
        with open(path, "rb") as file:
            head = file.read(26)
        if head.startswith(b"\x89PNG") and head[24:] == b"\x01\x00":
            image = image > 0
    else:
        image = _by_pillow(path)
    image.SetSpacing([1.0] * image.GetDimension())  # a resolution in the file is that of print
    return grey_if_equal(image, path)


def check_picture(path: Path) -> bool:
    """Whether SimpleITK reads a picture, by its header.

    Raises:
        ValueError: for a picture that is cut off, or in colours other than grey and RGB.
    """
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        check = {b"\x89P": _png, b"\xff\xd8": _jpeg, b"BM": _bmp}.get(data[:2], _tiff)
        try:
            return check(data, path)
        except (struct.error, IndexError) as error:
            raise unreadable(path, "it is cut off") from error


def _png(data: mmap.mmap, path: Path) -> bool:
    """Whether SimpleITK reads it: grey with alpha it does not."""
    colours, chunks, at = data[25], {}, 8
    while data[at + 4 : at + 8] not in (b"IDAT", b""):
        (length,) = struct.unpack_from(">I", data, at)
        chunks[data[at + 4 : at + 8]] = data[at + 8 : at + 8 + length]
        at += length + 12
    if data.rfind(b"IEND\xaeB`\x82") < at:
        raise unreadable(path, "it is cut off")
    if colours == 3:
        _warn_of_palette(np.frombuffer(chunks.get(b"PLTE", b""), np.uint8).reshape(-1, 3), path)
    _warn_of_orientation(chunks.get(b"eXIf", b""), path)
    if data[24] == 16 and (colours == 4 or (colours == 0 and b"tRNS" in chunks)):
        raise refused(path, "in 16 bits with transparency", "an image without an alpha channel")
    return colours != 4 and not (colours == 0 and b"tRNS" in chunks)


def _jpeg(data: mmap.mmap, path: Path) -> bool:
    at = 2
    while data[at + 1] != 0xDA:  # start of the scan
        if data[at] != 0xFF:
            raise unreadable(path, "its header is broken")
        if data[at + 1] == 0xFF:  # a fill byte
            at += 1
            continue
        (length,) = struct.unpack_from(">H", data, at + 2)
        if data[at + 1] in (0xC0, 0xC1, 0xC2) and data[at + 9] not in (1, 3):
            raise refused(path, "in CMYK", "an image in grey or RGB")
        if data[at + 1] == 0xE1 and data[at + 4 : at + 10] == b"Exif\0\0":
            _warn_of_orientation(data[at + 10 : at + 2 + length], path)
        at += length + 2
    if data.rfind(b"\xff\xd9", at) < 0:  # a thumbnail in the header has an end of its own
        raise unreadable(path, "it is cut off")
    return True


def _bmp(data: mmap.mmap, path: Path) -> bool:
    size, offset, header, width, height = struct.unpack_from("<I4xIIii", data, 2)
    bits, packed = struct.unpack_from("<HI", data, 28)
    wanted = offset + (width * bits + 31) // 32 * 4 * abs(height) if packed in (0, 3) else size
    if len(data) < wanted:
        raise unreadable(path, f"it has {len(data)} bytes of {wanted}")
    if 1 < bits <= 8:
        colours = np.frombuffer(data[14 + header : offset], np.uint8)
        _warn_of_palette(colours[: len(colours) // 4 * 4].reshape(-1, 4)[:, 2::-1], path)
    return bits in (8, 24) and packed == 0 and height > 0


def _tiff(data: mmap.mmap, path: Path) -> bool:
    pages = _pages(data, path)
    first, plain = pages[0], True
    for page in pages:
        if [page.get(tag) for tag in (256, 257, 258)] != [first.get(tag) for tag in (256, 257, 258)]:
            raise refused(path, "with pages of different sizes", "one page, or pages alike")
        for offsets, counts in ((273, 279), (324, 325)):
            for start, count in zip(page.get(offsets, ()), page.get(counts, ()), strict=False):
                if start + count > len(data):
                    raise unreadable(path, "it is cut off")
        samples, deep = page.get(277, (1,))[0], all(bits in (8, 16, 32, 64) for bits in page.get(258, (1,)))
        usual = page.get(262, (1,))[0] in (1, 2) and page.get(274, (1,))[0] == 1 and page.get(284, (1,))[0] == 1
        kinds = {*zip(page.get(SAMPLE_FORMAT, ()), page.get(258, ()), strict=False)}
        plain &= samples in (1, 3) and deep and usual and TILES not in page and (HALF, 16) not in kinds
    if first.get(262) == (3,):
        _warn_of_palette(np.reshape(first.get(320, ()), (3, -1)).T / 257, path)
    if not plain and (len(pages) > 1 or max(first.get(258, (1,))) > 8):
        raise refused(path, "in a form of TIFF that is not read", "a page of 8 bits, or pages in grey or RGB")
    return plain


def _pages(data: bytes | mmap.mmap, path: Path) -> list[dict[int, tuple[int, ...]]]:
    """Tags of the pages of a TIFF, or of EXIF, that are whole numbers."""
    order = "<" if data[:2] == b"II" else ">"
    big = b"+" in data[2:4]
    place, number, size = ("Q", "Q", 8) if big else ("I", "H", 4)  # of an offset, of how many tags, bytes of a value
    pages: list[dict[int, tuple[int, ...]]] = []
    seen, (at,) = set(), struct.unpack_from(f"{order}{place}", data, size)
    while at and at not in seen:
        seen.add(at)
        (count,) = struct.unpack_from(f"{order}{number}", data, at)
        at += struct.calcsize(f"{order}{number}")
        page = {}
        for _ in range(count):
            tag, kind, length = struct.unpack_from(f"{order}HH{place}", data, at)
            at += 4 + size
            if kind in TIFF_TYPES:
                values = f"{order}{length}{TIFF_TYPES[kind]}"
                is_there = struct.calcsize(values) <= size
                where = at if is_there else struct.unpack_from(f"{order}{place}", data, at)[0]
                page[tag] = struct.unpack_from(values, data, where)
            at += size
        pages.append(page)
        (at,) = struct.unpack_from(f"{order}{place}", data, at)
    if not pages:
        raise unreadable(path, "it has no page")
    return pages


def _warn_of_palette(colours: np.ndarray, path: Path) -> None:
    if not np.array_equal(colours, np.repeat(np.arange(len(colours))[:, None], 3, 1)):
        warn(path, "has a palette: its colours are read, not the numbers of the colours, which labels may need")


def _warn_of_orientation(exif: bytes, path: Path) -> None:
    try:
        turned = exif and _pages(exif.removeprefix(b"Exif\0\0"), path)[0].get(274, (1,))[0]
    except (struct.error, ValueError):
        return  # notes that are broken say nothing
    if turned and turned != 1:
        warn(path, "is turned by viewers (EXIF): its pixels stay as they are stored, as MONAI's PILReader has them")


def _by_pillow(path: Path) -> sitk.Image:
    try:
        from PIL import Image
    except ImportError:
        raise refused(path, "in a form that Pillow alone reads", "in another form, or Pillow installed") from None
    try:
        with Image.open(path) as file:
            picture: Image.Image = file
            mode = file.mode
            if "transparency" in picture.info:
                picture = picture.convert("LA" if mode in ("1", "L") else "RGBA")
            elif mode in ("P", "YCbCr"):
                picture = picture.convert("RGB")
            if picture.mode not in PIXELS:
                raise refused(path, f"in {mode}", "an image in grey or RGB")
            array = np.asarray(picture)
    except (OSError, SyntaxError) as error:
        raise unreadable(path, error) from error
    array = array.astype(np.uint8) if array.dtype == bool else array
    return image_of(np.swapaxes(array, 0, 1), array.ndim == 3)
