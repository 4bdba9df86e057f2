"""Writers of small files as scanners, archives and editors leave them."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np

LONG = {"OB", "OW", "SQ", "UN"}
EXPLICIT, IMPLICIT, BIG, DEFLATED, JPEG = (f"1.2.840.10008.1.2{end}" for end in (".1", "", ".2", ".1.99", ".4.70"))


def halved(path: Path, share: float = 0.5) -> Path:
    """Cut off the end of a file."""
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    return path


def patched(path: Path, offset: int, form: str, *values: float) -> Path:
    """Overwrite a few numbers in a file."""
    data = bytearray(path.read_bytes())
    struct.pack_into(form, data, offset, *values)
    path.write_bytes(data)
    return path


def element(tag: int, kind: str, value, syntax: str = EXPLICIT) -> bytes:
    """An element of DICOM; the value of a sequence is a list of dictionaries {tag: (kind, value)}."""
    order = ">" if syntax == BIG else "<"
    if kind == "US":
        value = struct.pack(f"{order}H", value)
    elif kind == "SQ":
        items = (b"".join(element(t, *tags[t], syntax=syntax) for t in sorted(tags)) for tags in value)
        value = b"".join(struct.pack(f"{order}HHI", 0xFFFE, 0xE000, len(item)) + item for item in items)
    elif isinstance(value, str):
        value = value.encode() + (b"\0" if kind == "UI" else b" ") * (len(value) % 2)
    head = struct.pack(f"{order}HH", tag >> 16, tag & 0xFFFF)
    if syntax == IMPLICIT:
        return head + struct.pack("<I", len(value)) + value
    length = b"\0\0" + struct.pack(f"{order}I", len(value)) if kind in LONG else struct.pack(f"{order}H", len(value))
    return head + kind.encode() + length + value


def numbers(*values: float) -> tuple[str, str]:
    """A decimal string."""
    return "DS", "\\".join(f"{value:.10g}" for value in values)


def place(position, orientation=(1, 0, 0, 0, 1, 0)) -> dict:
    """Tags of where a slice lies, in LPS."""
    return {0x00200032: numbers(*position), 0x00200037: numbers(*orientation)}


def dicom(path: Path, pixels: np.ndarray, tags: dict | None = None, syntax: str = EXPLICIT, preamble=True) -> Path:
    """Write pixels (y, x) or (frames, y, x), or (y, x, 3) in uint8 for colours; tags that are None are left out."""
    colour = pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[-1] == 3
    bits, order = pixels.dtype.itemsize * 8, ">" if syntax == BIG else "<"
    stored = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    all_tags = {
        0x00080016: ("UI", "1.2.840.10008.5.1.4.1.1.2"),
        0x00080018: ("UI", f"1.2.3.{zlib.crc32(str(path).encode())}"),
        0x00080060: ("CS", "CT"),
        0x0020000D: ("UI", "1.2.3"),
        0x0020000E: ("UI", "1.2.3.4"),
        0x00280002: ("US", 3 if colour else 1),
        0x00280004: ("CS", "RGB" if colour else "MONOCHROME2"),
        0x00280010: ("US", pixels.shape[0 if colour else -2]),
        0x00280011: ("US", pixels.shape[1 if colour else -1]),
        0x00280030: numbers(1, 1),
        0x00280100: ("US", bits),
        0x00280101: ("US", bits),
        0x00280102: ("US", bits - 1),
        0x00280103: ("US", int(pixels.dtype.kind == "i")),
        0x7FE00010: ("OB" if bits == 8 else "OW", stored),
    }
    if colour:
        all_tags[0x00280006] = ("US", 0)
    elif pixels.ndim == 3:
        all_tags[0x00280008] = ("IS", str(len(pixels)))
    all_tags |= tags or {}
    body = b"".join(element(t, *all_tags[t], syntax=syntax) for t in sorted(all_tags) if all_tags[t])
    if syntax == DEFLATED:
        packer = zlib.compressobj(wbits=-15)
        body = packer.compress(body) + packer.flush()
    meta = b"".join(
        [
            element(0x00020001, "OB", b"\0\1"),
            element(0x00020002, *all_tags[0x00080016]),
            element(0x00020003, *all_tags[0x00080018]),
            element(0x00020010, "UI", syntax),
        ]
    )
    meta = element(0x00020000, "UL", struct.pack("<I", len(meta))) + meta
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((b"\0" * 128 + b"DICM" if preamble else b"") + meta + body)
    return path


def slices(folder: Path, positions, **tags) -> Path:
    """A series, slice k with the value k, whose file names are in the order of the positions."""
    for k, position in enumerate(positions):
        dicom(folder / f"{k:03}.dcm", np.full((5, 4), k, np.int16), place(position) | tags.get("tags", {}))
    return folder


def png(path: Path, rows: np.ndarray, bits: int, colours: int, **chunks: bytes) -> Path:
    """Write packed rows of bytes as a PNG of any kind, with more chunks."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    width = rows.shape[1] * 8 // bits // {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colours]
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, len(rows), bits, colours, 0, 0, 0))
    more = b"".join(chunk(name.encode(), data) for name, data in chunks.items())
    pixels = zlib.compress(np.pad(rows.astype(np.uint8), ((0, 0), (1, 0))).tobytes())
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + more + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))
    return path


def tiff(path: Path, pixels: np.ndarray, tile: int = 0, big: bool = False, kind: int = 1) -> Path:
    """Write pixels (y, x) as a TIFF of 300 dots per inch, in a strip or in square tiles that fill it, or as BigTIFF.

    Args:
        kind: what the bits stand for: 1 whole numbers, 3 numbers with a fraction.
    """
    rows, columns = pixels.shape
    place, number, size = ("Q", "Q", 8) if big else ("I", "H", 4)
    step = tile or max(pixels.shape)
    parts = [pixels[y : y + step, x : x + step] for y in range(0, rows, step) for x in range(0, columns, step)]
    parts = [np.ascontiguousarray(part).tobytes() for part in parts]
    start = 16 if big else 8  # the pixels, the values that have no room among the tags, the tags
    starts = [start + sum(map(len, parts[:i])) for i in range(len(parts))]
    end = start + sum(map(len, parts))
    tags = {256: columns, 257: rows, 258: pixels.itemsize * 8, 259: 1, 262: 1, 277: 1, 296: 2, 339: kind}
    tags |= (
        {322: tile, 323: tile, 324: starts, 325: [*map(len, parts)]}
        if tile
        else {273: starts, 278: rows, 279: [len(parts[0])]}
    )
    body, entries = b"", []
    for tag, value in sorted({**tags, 282: None, 283: None}.items()):
        if value is None:
            code, count, data = 5, 1, struct.pack("<II", 300, 1)
        else:
            values = value if isinstance(value, list) else [value]
            code, count, data = 4, len(values), struct.pack(f"<{len(values)}I", *values)
        if len(data) > size:
            body, data = body + data, struct.pack(f"<{place}", end + len(body))
        entries.append(struct.pack(f"<HH{place}", tag, code, count) + data.ljust(size, b"\0"))
    head = (
        struct.pack("<2sHHHQ", b"II", 43, 8, 0, end + len(body))
        if big
        else struct.pack("<2sHI", b"II", 42, end + len(body))
    )
    tail = struct.pack(f"<{number}", len(entries)) + b"".join(entries) + struct.pack(f"<{place}", 0)
    path.write_bytes(head + b"".join(parts) + body + tail)
    return path
