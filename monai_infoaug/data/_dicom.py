"""Headers of DICOM files; SimpleITK reads the pixels."""

from __future__ import annotations

import math
import mmap
import struct
import zlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from monai_infoaug.data._images import (
    refused,
    require_utf_8,
    unreadable,
    warn,
)

SUFFIXES = (".dcm", ".ima")
LONG = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
UNDEFINED, ITEM, ITEM_END, SEQUENCE_END, PIXELS = 0xFFFFFFFF, 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD, 0x7FE00010
SHARED, PER_FRAME, PLACES, TURNS, MEASURES = 0x52009229, 0x52009230, 0x00209113, 0x00209116, 0x00289110
RESCALING, MODALITY_CURVE = 0x00289145, 0x00283000
SEQUENCES = {SHARED, PER_FRAME, PLACES, TURNS, MEASURES, RESCALING, MODALITY_CURVE}
SYNTAX, SERIES, IMAGE_TYPE, MODALITY, COLOURS = 0x00020010, 0x0020000E, 0x00080008, 0x00080060, 0x00280004
POSITION, ORIENTATION, OFFSETS, FRAMES = 0x00200032, 0x00200037, 0x3004000C, 0x00280008
SAMPLES, ROWS, COLUMNS, BITS, SIGNED = 0x00280002, 0x00280010, 0x00280011, 0x00280100, 0x00280103
SPACINGS = (0x00280030, 0x00181164, 0x00182010)  # of pixels, of the detector, of the film scanner
INTERCEPT, SLOPE = 0x00281052, 0x00281053


@dataclass
class Dicom:
    """Header of a file."""

    path: Path
    tags: dict[int, Any]
    order: str = "<"
    pixels: int | None = field(default=None)  # bytes, if there are as many as the header says

    def text(self, tag: int, tags: dict[int, Any] | None = None) -> str:
        """Value of a text, blank if there is none."""
        value = (self.tags if tags is None else tags).get(tag, b"")
        return value.decode("latin-1").strip(" \0") if isinstance(value, bytes) else ""

    def number(self, tag: int, default: int = 0) -> int:
        """Value of a short integer."""
        value = self.tags.get(tag, b"")
        return int(struct.unpack_from(f"{self.order}H", value)[0]) if len(value) >= 2 else default

    def numbers(self, tag: int, count: int, tags: dict[int, Any] | None = None) -> tuple[float, ...] | None:
        """Values of a text of numbers, None if there are none."""
        text = self.text(tag, tags)
        if not text:
            return None
        try:
            values = tuple(float(part) for part in text.split("\\"))
        except ValueError:
            values = ()
        if (count and len(values) != count) or not all(map(math.isfinite, values)):
            raise refused(
                self.path, f"with {text!r}", f"a file with {count or 'any'} number{'s' * (count != 1)} in tag {tag:08x}"
            )
        return values

    def _grouped(self, group: int, tag: int, count: int) -> list[tuple[float, ...]]:
        """Values in the functional groups, one a frame or one shared by all."""
        found = []
        for name in (PER_FRAME, SHARED):
            for frame in self.tags.get(name, ()):
                for item in frame.get(group, ()):
                    values = self.numbers(tag, count, item)
                    found += [values] if values else []
            if found:
                break
        return found

    @cached_property
    def frames(self) -> int:
        """Number of frames."""
        return int((self.numbers(FRAMES, 1) or (1,))[0])

    @cached_property
    def series(self) -> str:
        """Unique identifier of the series."""
        return self.text(SERIES)

    @cached_property
    def size(self) -> tuple[int, int, int]:
        """Columns, rows, samples a pixel."""
        return self.number(COLUMNS), self.number(ROWS), self.number(SAMPLES, 1)

    @cached_property
    def spacing(self) -> tuple[float, ...] | None:
        """Millimetres along x and y, the first that the file says."""
        grouped = self._grouped(MEASURES, SPACINGS[0], 2)
        found = grouped[:1] + [values for tag in SPACINGS if (values := self.numbers(tag, 2))]
        if any(not np.allclose(values, grouped[0], rtol=1e-3) for values in grouped):
            raise refused(self.path, "with frames of different spacing", "frames alike")
        if found and min(found[0]) <= 0:
            raise refused(self.path, f"with a spacing of {found[0]}", "a file with spacings above 0")
        if len(found) > 1 and not np.allclose(found[0], found[1], rtol=1e-3):
            warn(self.path, f"has two spacings: that of the pixels, {found[0]} mm, is taken, not that of the detector")
        return found[0][::-1] if found else None

    @cached_property
    def axes(self) -> np.ndarray:
        """Directions of x, y and their normal as columns, in LPS.

        Raises:
            ValueError: for directions that are not at right angles, or change from frame to frame.
        """
        grouped = self._grouped(TURNS, ORIENTATION, 6)
        values = (grouped or [self.numbers(ORIENTATION, 6) or (1, 0, 0, 0, 1, 0)])[0]
        if any(not np.allclose(other, values, atol=1e-3) for other in grouped):
            raise refused(self.path, "with frames of different orientation", "frames in parallel")
        x, y = np.reshape(values, (2, 3))
        if not np.allclose([x @ x, y @ y, x @ y], [1, 1, 0], atol=1e-2):
            raise refused(self.path, f"with directions {values}", "a file with ImageOrientationPatient at right angles")
        return np.stack([x / np.linalg.norm(x), y / np.linalg.norm(y), np.cross(x, y)], 1)

    @cached_property
    def positions(self) -> np.ndarray | None:
        """First pixel of each frame (frames, 3) in LPS, None if the file does not say."""
        first = self.numbers(POSITION, 3)
        if self.frames == 1 and first:
            return np.array([first])
        places, offsets = self._grouped(PLACES, POSITION, 3), self.numbers(OFFSETS, 0)
        if len(places) == self.frames:
            return np.array(places)
        if first and offsets and len(offsets) == self.frames:  # a dose: relative, from the first
            return np.array(first) + np.outer(np.subtract(offsets, offsets[0]), self.axes[:, 2])
        return None

    @cached_property
    def is_rescaled_alike(self) -> bool:
        """Whether all frames are rescaled as the first one, which is what SimpleITK does."""
        scales = (self._grouped(RESCALING, tag, 1) for tag in (INTERCEPT, SLOPE))
        return all(len(set(values)) <= 1 for values in scales)

    @property
    def storage(self) -> tuple[object, ...]:
        """What the type of the values that SimpleITK returns depends on."""
        return (*(self.number(tag) for tag in (BITS, SIGNED)), *(self.numbers(tag, 1) for tag in (INTERCEPT, SLOPE)))


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM: by its content if it has the usual preamble, else by its suffix."""
    try:
        with open(path, "rb") as file:
            head = file.read(132)
    except OSError:
        return False
    return head[128:] == b"DICM" or path.suffix.lower() in SUFFIXES


def read_header(path: Path) -> Dicom:
    """Read all tags up to the pixels.

    Raises:
        ValueError: for a file that is no DICOM, or cut off.
    """
    require_utf_8(path)
    with open(path, "rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b""
    try:
        return _header(path, data)
    except (struct.error, zlib.error) as error:
        raise unreadable(path, "it is cut off, or no DICOM") from error
    finally:
        if isinstance(data, mmap.mmap):
            data.close()


def _header(path: Path, data: Any) -> Dicom:
    start = 132 if data[128:132] == b"DICM" else 0
    if start == 0 and data[:2] not in (b"\x02\0", b"\x08\0"):
        raise unreadable(path, "it has no header of DICOM")
    meta, at = _elements(data, start, True, "<", group=2)
    syntax = meta.get(SYNTAX, b"").decode("latin-1").strip(" \0")
    explicit = syntax != "1.2.840.10008.1.2" if syntax else data[at + 4 : at + 6].isalpha()
    order = ">" if syntax == "1.2.840.10008.1.2.2" else "<"
    if syntax == "1.2.840.10008.1.2.1.99":
        data, at = zlib.decompressobj(-15).decompress(data[at:]), 0
    tags, at = _elements(data, at, explicit, order)
    header = Dicom(path, tags, order)
    if PIXELS in tags:
        columns, rows, samples = header.size
        wanted = header.frames * columns * rows * samples * header.number(BITS) // 8
        if tags[PIXELS] == UNDEFINED:
            _require_fragments(path, data, at, order)
        elif tags[PIXELS] < wanted or at + wanted > len(data):
            raise unreadable(path, f"it has {len(data) - at} bytes of pixels of {wanted}")
        header.pixels = wanted
    elif ROWS in tags or any(data[at:]):
        raise unreadable(path, "it is cut off, or has no pixels")
    return header


def _elements(data: Any, at: int, explicit: bool, order: str, group: int | None = None) -> tuple[dict[int, Any], int]:
    """Values of tags, the items of sequences as lists, until the pixels or the end, and where that is."""
    found: dict[int, Any] = {}
    while at + 8 <= len(data):
        high, low = struct.unpack_from(f"{order}HH", data, at)
        tag, kind, head = high << 16 | low, bytes(data[at + 4 : at + 6]) if explicit else b"", 8
        if (group is not None and high != group) or high == 0:
            break
        if tag in (ITEM_END, SEQUENCE_END):
            return found, at + 8
        if kind in LONG:
            (length,), head = struct.unpack_from(f"{order}I", data, at + 8), 12
        elif explicit:
            (length,) = struct.unpack_from(f"{order}H", data, at + 6)
        else:
            (length,) = struct.unpack_from(f"{order}I", data, at + 4)
        at += head
        if tag == PIXELS:
            found[tag] = length
            break
        if length == UNDEFINED or tag in SEQUENCES:
            found[tag], at = _items(data, at, length, explicit and kind != b"UN", order)
            continue
        if at + length > len(data):
            raise struct.error
        if kind != b"SQ":
            found[tag] = bytes(data[at : at + length])
        at += length
    return found, at


def _items(data: Any, at: int, length: int, explicit: bool, order: str) -> tuple[list[dict[int, Any]], int]:
    items: list[dict[int, Any]] = []
    end = len(data) if length == UNDEFINED else at + length
    while at < end:
        high, low, size = struct.unpack_from(f"{order}HHI", data, at)
        at += 8
        if high << 16 | low == SEQUENCE_END:
            return items, at
        if high << 16 | low != ITEM:
            raise struct.error
        if size == UNDEFINED:
            item, at = _elements(data, at, explicit, order)
        else:
            item, _ = _elements(data[at : at + size], 0, explicit, order)
            at += size
        items.append(item)
    return items, at


def _require_fragments(path: Path, data: Any, at: int, order: str) -> None:
    """Refuse compressed pixels of which a part is missing."""
    while at + 8 <= len(data):
        high, low, size = struct.unpack_from(f"{order}HHI", data, at)
        if high << 16 | low != ITEM:
            return
        at += 8 + size
    if at != len(data):
        raise unreadable(path, "it is cut off")


def series_in(folder: Path, broken: list[Path] | None = None) -> dict[str, list[Dicom]]:
    """Headers of the images in a folder by the unique identifier of their series.

    Args:
        folder: its files are looked at, those that are DICOM; not hidden ones.
        broken: list that takes the files that are broken.

    Raises:
        ValueError: for a file that is broken, without such a list.
    """
    found: dict[str, list[Dicom]] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.is_file() or not is_dicom(path):
            continue
        try:
            header = read_header(path)
        except ValueError:
            if broken is None:
                raise
            broken.append(path)
            continue
        if header.pixels:  # else a report, a plan or a directory
            found.setdefault(header.series, []).append(header)
    return dict(sorted(found.items()))
