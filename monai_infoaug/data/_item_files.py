"""All files that an item of a data set is read from."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from glob import escape, glob
from pathlib import Path
from typing import Any

PARTNERS = {"hdr": "img", "img": "hdr", "head": "brik", "brik": "head", "par": "rec", "rec": "par"}
HALF = re.compile(rf"(.*\.)({'|'.join(PARTNERS)})(\.gz)?", re.IGNORECASE)
LONGEST_HEADER = 1 << 20


def files_of_item(item: Any, apart_from: Path) -> list[tuple[str, int, int]]:
    """The files that an item names, with their sizes and times.

    Args:
        item: paths, and lists and mappings of them, beside anything else.
        apart_from: folder whose files do not count.

    Returns:
        Name, size and time of each file: of those named, all in folders, however deep, and those with the pixels of a
        header (MetaImage, NRRD, NIfTI and Analyze pairs, AFNI, Philips).
    """
    found = {}
    for path in _paths(item):
        for file in _with_pixels(path):
            if apart_from not in file.parents:
                stat = file.stat()
                found[str(file)] = stat.st_size, stat.st_mtime_ns
    return [(name, *found[name]) for name in sorted(found)]


def _paths(item: Any) -> Iterator[Path]:
    """The files that an item names, and those in its folders."""
    if isinstance(item, str | os.PathLike):
        if os.path.isdir(item):
            yield from (Path(folder, name) for folder, _, names in os.walk(os.fspath(item)) for name in names)
        elif os.path.isfile(item):
            yield Path(item)
    elif isinstance(item, Mapping):
        yield from _paths(list(item.values()))
    elif isinstance(item, list | tuple | set | frozenset):
        for each in item:
            yield from _paths(each)


def _with_pixels(path: Path) -> Iterator[Path]:
    """A file and those that hold its pixels, as far as they are there."""
    yield path
    yield from (other for other in _others(path) if os.path.isfile(other))


def _others(path: Path) -> Iterator[Path]:
    if half := HALF.fullmatch(path.name):
        stem, suffix, _ = half.groups()
        other = PARTNERS[suffix.lower()]
        yield from (path.with_name(f"{stem}{end}{packed}") for end in (other, other.upper()) for packed in ("", ".gz"))
    elif path.suffix.lower() in (".mhd", ".nhdr"):
        with path.open("rb") as file:
            header = os.fsdecode(file.read(LONGEST_HEADER))
        for line in header.splitlines():  # `ElementDataFile = NAME`, `data file: NAME`, or a NAME of a list
            for name in {part.strip() for part in (line, line.partition("=")[2], line.partition(":")[2])} - {""}:
                if "%" in name:  # numbered: `NAME%03d.raw 1 20 1`
                    pattern = re.sub(r"%\d*d", "*", name.split(" ")[0])
                    yield from map(Path, glob(os.path.join(escape(str(path.parent)), pattern)))
                else:
                    yield path.parent / name
