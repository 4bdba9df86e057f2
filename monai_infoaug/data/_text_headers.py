"""What SimpleITK takes on trust in the headers of MetaImage and NRRD: sizes, and millimetres."""

from __future__ import annotations

import math
import re
from pathlib import Path

from monai_infoaug.data._images import refused, unpacked_size, unreadable, warn

BYTES = {
    **dict.fromkeys(("MET_CHAR", "MET_UCHAR"), 1),
    **dict.fromkeys(("MET_SHORT", "MET_USHORT"), 2),
    **dict.fromkeys(("MET_INT", "MET_UINT", "MET_LONG", "MET_ULONG", "MET_FLOAT"), 4),
    **dict.fromkeys(("MET_LONG_LONG", "MET_ULONG_LONG", "MET_DOUBLE"), 8),
}


def require_whole_meta_image(path: Path) -> None:
    """Refuse a file in other units, or whose pixels are cut off, missing, or more than the header says.

    A warning tells if it says no millimetres.

    Raises:
        ValueError: naming the units, or the file with the pixels.
    """
    with open(path, "rb") as file:
        head = file.read(1 << 16)
    end = re.search(rb"^ElementDataFile\s*=\s*(.*?)\s*?\n", head, re.MULTILINE)
    if end is None:
        return  # SimpleITK says why it is none
    lines = re.findall(r"^(\w+)\s*=\s*(.*?)\s*$", head[: end.start()].decode("latin-1"), re.MULTILINE)
    fields, name = dict(lines), end[1].decode(errors="replace")
    if fields.get("DistanceUnits", "mm") not in ("mm", "?"):
        raise refused(path, f"in {fields['DistanceUnits']}", "an image in mm")
    if not {"ElementSpacing", "ElementSize"} & set(fields):
        warn(path, "says no spacing: a pixel is taken as 1 mm")
    packed, skipped = fields.get("CompressedData", "").lower() == "true", _product(fields.get("HeaderSize", "0"), path)
    size = BYTES.get(fields.get("ElementType", ""))
    if name.split(" ")[0].upper() == "LIST" or "%" in name or size is None or "DimSize" not in fields:
        return
    pixels = path if name.upper() == "LOCAL" else path.parent / name
    if not pixels.is_file():
        raise unreadable(path, f"'{pixels}' with its pixels does not exist")
    wanted = _product(f"{fields['DimSize']} {fields.get('ElementNumberOfChannels', 1)}", path) * size
    if packed:
        wanted = _product(fields.get("CompressedDataSize", "0"), path)
    found = pixels.stat().st_size - (end.end() if pixels == path else 0) - max(skipped, 0)
    if found < wanted or (found > wanted and pixels != path and not packed and skipped >= 0):
        raise unreadable(path, f"'{pixels.name}' has {found} bytes of pixels, not {wanted}")


def is_whole_nrrd(path: Path, size: int) -> bool:
    """Whether a file with its own pixels, in an encoding that tells, is as long as its size in bytes demands."""
    with open(path, "rb") as file:
        head = file.read(1 << 16)
    end, encoding = re.search(rb"\r?\n\r?\n", head), re.search(rb"^encoding: *(\w+)", head, re.MULTILINE)
    if end is None or encoding is None or re.search(rb"^data ?file:", head, re.MULTILINE):
        return True
    if encoding[1] == b"raw":
        return path.stat().st_size - end.end() >= size
    return encoding[1] not in (b"gz", b"gzip") or unpacked_size(path) == size % 2**32


def _product(numbers: str, path: Path) -> int:
    """Product of the whole numbers of a text."""
    try:
        return math.prod(map(int, numbers.split()))
    except ValueError:
        raise unreadable(path, "its header is broken") from None


def require_nrrd_in_millimetres(path: Path) -> None:
    """Refuse a file in other units; warn if it says no spacing.

    Raises:
        ValueError: naming the units.
    """
    with open(path, "rb") as file:
        head = file.read(1 << 16).replace(b"\r", b"").partition(b"\n\n")[0].decode("latin-1")
    fields: dict[str, str] = dict(re.findall(r"^([^#:\n]+):[ =]*(.*)$", head, re.MULTILINE))
    units = set(re.findall(r'"([^"]*)"', fields.get("space units", fields.get("units", "")))) - {"mm", ""}
    if units:
        raise refused(path, f"in {', '.join(sorted(units))}", "an image in mm")
    if not {"spacings", "space directions"} & set(fields):
        warn(path, "says no spacing: a pixel is taken as 1 mm")
