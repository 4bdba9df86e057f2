"""File formats of landmark tables, CSV and two of 3D Slicer: each is read into rows and written from rows."""

from __future__ import annotations

import codecs
import csv
import json
import math
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from io import StringIO
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from monai_infoaug._console import printable
from monai_infoaug._require import refusal

AXES = ("x", "y", "z")
SPACES = ("RAS", "LPS")
STATES = ("undefined", "preview", "defined", "missing")  # of a position, by the number that an .fcsv has
NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
DELIMITERS = ",;\t"
# soft hyphen, marks of the direction of writing, zero-width space, byte order mark
INVISIBLE = re.compile("[\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff]")
SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
    "markups-schema-v1.0.3.json#"
)
FCSV_COLUMNS = "id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID"


class Row(NamedTuple):
    """One landmark of one image."""

    where: str  # in the file, for errors
    image: str
    label: str
    position: list[float]
    score: float | None = None
    space: str | None = None
    note: str = ""
    selected: bool = True


def image_name(path: str | Path) -> str:
    """Name of an image in a landmark table: that of its file without suffix, ``.nii.gz`` being one, or of its folder.

    Example:
        >>> [image_name(path) for path in ("scans/patient.1.nii.gz", "007.PNG", "007.seg.nrrd", "1.2.840.10")]
        ['patient.1', '007', '007', '1.2.840.10']
    """
    path = Path(path)
    if path.is_dir():  # of DICOM
        return composed(path.name)
    stem = re.sub(r"(\.seg)?(\.(nii|mrk))?\.[A-Z]\w*$", "", path.name, flags=re.IGNORECASE)  # a number is no suffix
    return composed(stem)


def composed(name: str) -> str:
    r"""A name as :func:`tidy` makes it, its accents encoded in one way: file names of macOS have them in another.

    Example:
        >>> composed("Mu\u0308ller") == "M\u00fcller"
        True
    """
    return unicodedata.normalize("NFC", tidy(name))


def by_name(files: Iterable[Path], argument: str, accepted: str) -> dict[str, Path]:
    """Name of an image to its file.

    Raises:
        ValueError: for two files of one image; it names the argument and says what is accepted.
    """
    named: dict[str, Path] = {}
    for file in files:
        other = named.setdefault(image_name(file), file)
        if other != file:
            raise refusal(argument, f"'{other}' and '{file}'", accepted)
    return named


def distinct_names(paths: Sequence[Path]) -> dict[Path, str]:
    """Name of each image: without folder, or with all below the common one where two files have the same name.

    Example:
        >>> list(distinct_names([Path("scans/1/t1.nii.gz"), Path("scans/2/t1.nii.gz")]).values())
        ['1_t1', '2_t1']
    """
    root = Path(os.path.commonpath([path.absolute().parent for path in paths]))
    within = [path.absolute().relative_to(root) for path in paths]
    for names in (
        [image_name(path) for path in within],
        ["_".join([*path.parts[:-1], image_name(path)]) for path in within],
        ["_".join(path.parts) for path in within],
        [f"{number}_{path.name}" for number, path in enumerate(within)],
    ):
        if len({name.casefold() for name in names}) == len(names):  # there are file systems that do not tell case
            break
    return dict(zip(paths, map(printable, names), strict=True))


def tidy(name: str) -> str:
    r"""A name without what cannot be seen of it: invisible characters, and white space around it.

    Example:
        >>> tidy("\ufeff sella\u00a0")
        'sella'
    """
    return INVISIBLE.sub("", name).strip()


def look(name: str) -> str:
    r"""What tells names apart: not how much white space they have, nor how an accent is encoded.

    Example:
        >>> look("left  horn") == look(" left\u00a0horn")
        True
    """
    return composed(" ".join(tidy(name).split()))


def in_order(labels: Iterable[str]) -> list[str]:
    """Each label once: by number if all are whole numbers, else as they first appear."""
    unique = list(dict.fromkeys(labels))
    return sorted(unique, key=int) if all(label.isdecimal() for label in unique) else unique


def some(names: Sequence[str], count: int = 5) -> str:
    """The first few names, for errors."""
    return ", ".join(map(repr, names[:count])) + (f" and {len(names) - count} more" if len(names) > count else "")


def number(cell: Any, where: str, decimal: str = ".") -> float:
    """Finite number, or NaN for a blank or ``nan``; text with a decimal point, or what stands in its place."""
    if isinstance(cell, str):
        text = cell.strip().translate(str.maketrans(f".{decimal}", f"{decimal}."))
        value = math.nan if text.lower() in ("", "nan") else float(text) if NUMBER.fullmatch(text) else math.inf
    else:
        value = float(cell) if isinstance(cell, Real) and not isinstance(cell, bool) else math.inf
    if math.isinf(value):
        raise refusal(where, repr(cell), f"a finite number such as -83{decimal}25, or blank for a missing one")
    return value


def columns_of(names: Sequence[str], needed: Sequence[str], optional: Sequence[str], where: str) -> list[str]:
    """Names of columns without white space around them and in small letters, of which what is read comes once."""
    columns = [tidy(name).lower() for name in names]
    for column in needed:
        if column not in columns:
            raise refusal(where, names, f"column names with `{column}`")
    for column in (*needed, *optional):
        if columns.count(column) > 1:
            raise refusal(where, names, f"column names with `{column}` once")
    return columns


def rows_of(path: Path, read: Callable[[TextIO, Path], Iterator[Row]], argument: str) -> list[Row]:
    """The rows of a file in UTF-8, or in UTF-16 with the mark at its begin that spreadsheets write.

    Raises:
        ValueError: naming the argument if the file cannot be read, else the file and the line.
    """
    try:
        content = path.read_bytes()
        encoding = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
        return list(read(StringIO(content.decode(encoding), newline=""), path))
    except (OSError, UnicodeDecodeError, csv.Error, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"`{argument}` must be a readable landmark file in UTF-8, got {path}: {error}.") from error


def read_csv(file: TextIO, path: Path) -> Iterator[Row]:
    """Columns ``image,landmark,x,y[,z][,score][,space]`` in any order and case, others are passed over.

    Columns are separated by commas, or by semicolons or tabs, as the first line says; by the latter two, numbers may
    have decimal commas.
    """
    delimiter = max(DELIMITERS, key=next(filter(str.strip, file), "").count)
    file.seek(0)
    table = csv.reader(file, delimiter=delimiter, strict=True)
    lines = [(f"{path}, line {table.line_num}", line) for line in table if any(map(str.strip, line))]
    where, names = lines[0] if lines else (f"{path}, line 1", [])
    columns = columns_of(names, ("image", "landmark", "x", "y"), ("z", "score", "space"), where)
    axes = AXES if "z" in columns else AXES[:2]
    pairs = ((name, cell) for _, line in lines[1:] for name, cell in zip(columns, line, strict=False))
    commas = delimiter != "," and any("," in cell for name, cell in pairs if name in (*axes, "score"))
    for where, line in lines[1:]:
        if any(map(str.strip, line[len(columns) :])):
            accepted = f"a line of {len(columns)} cells like the first one, numbers with decimal points"
            raise refusal(where, f"{len(line)} cells", accepted)
        cells = dict(zip(columns, line, strict=False))
        for column, tidied in (("image", composed), ("landmark", tidy)):
            cells[column] = tidied(cells.get(column, ""))
            if not cells[column]:
                raise refusal(f"{where}, column {column}", "nothing", "a name")
        position, score = (
            [number(cells.get(name), f"{where}, column {name}", "," if commas else ".") for name in names]
            for names in (axes, ["score"] if "score" in columns else [])
        )
        space = cells.get("space", "").strip() or None
        if space not in (None, *SPACES):
            raise refusal(f"{where}, column space", repr(space), "RAS, LPS or blank")
        yield Row(where, cells["image"], cells["landmark"], position, score[0] if score else None, space)


def write_csv(file: TextIO, rows: Sequence[Row]) -> None:
    """What :func:`read_csv` reads; the axes are in the column ``space`` if the rows say them."""
    lines: list[dict[str, Any]] = [
        {"image": row.image, "landmark": row.label}
        | ({} if row.space is None else {"space": row.space})
        | dict(zip(AXES, row.position, strict=False))
        | ({} if row.score is None else {"score": row.score})
        for row in rows
    ]
    writer = csv.DictWriter(file, list(lines[0]))
    writer.writeheader()
    writer.writerows(lines)


def read_fcsv(file: TextIO, path: Path) -> Iterator[Row]:
    """Slicer's older point lists; a further cell after the named columns says whether the position is defined."""
    table, columns, space = csv.reader(file, strict=True), FCSV_COLUMNS.lower().split(","), "RAS"
    for cells in table:
        where, line = f"{path}, line {table.line_num}", ",".join(cells).rstrip(", ")  # as spreadsheets fill lines up
        if line.startswith("#"):
            key, _, value = (part.strip() for part in line[1:].partition("="))
            if key == "columns":
                columns = columns_of(value.split(","), (*AXES, "label"), ("desc", "sel"), where)
            elif key.lower() == "coordinatesystem":
                space = {"0": "RAS", "1": "LPS"}.get(value, value)
                if space not in SPACES:
                    raise refusal(f"{where}, CoordinateSystem", value, "0, 1, RAS or LPS")
        elif line:
            named, further = dict(zip(columns, cells, strict=False)), [cell.strip() for cell in cells[len(columns) :]]
            if len(cells) < len(columns):
                raise refusal(where, f"{len(cells)} cells", f"a line of {len(columns)} cells")
            # a position status and the number of an associated point, or neither
            if len(further) > 2 or not {*further[:1]} <= {*"0123"}:
                accepted = f"a line of {len(columns)} cells with decimal points, or with a position status 0 to 3 more"
                raise refusal(where, f"{len(cells)} cells, the last ones {further}", accepted)
            label = tidy(named["label"])
            if not label:
                raise refusal(f"{where}, column label", "nothing", "a name")
            position = [number(named[axis], f"{where}, column {axis}") for axis in AXES]
            if further and STATES[int(further[0])] != "defined":
                position = [math.nan] * 3
            score, note = read_description(named.get("desc"))
            selected = named.get("sel") != "0"
            yield Row(where, image_name(path), label, position, score, space, note, selected)


def write_fcsv(file: TextIO, rows: Sequence[Row]) -> None:
    """As Slicer writes it; a missing landmark is a hidden point at 0 of position status 0."""
    file.write(f"# Markups fiducial file version = 5.6\n# CoordinateSystem = {rows[0].space or 'LPS'}\n")
    file.write(f"# columns = {FCSV_COLUMNS}\n")
    for i, row in enumerate(rows, 1):
        missing, position = in_3d(row.position)
        visible, status = (0, 0) if missing else (1, 2)
        flags = visible, int(row.selected), 0
        cells = [i, *position, 0, 0, 0, 1, *flags, row.label, write_description(row), "", status, 0]
        line = StringIO(newline="")
        csv.writer(line).writerow(cells)  # which quotes the characters of its own end of a line, and no others
        file.write(line.getvalue().removesuffix("\r\n") + "\n")


def read_json(file: TextIO, path: Path) -> Iterator[Row]:
    """Slicer's markups: the control points of all of a file's markups of type Fiducial."""
    content = json.load(file, parse_int=float)  # a whole number of thousands of digits is an error of its own
    markups = content.get("markups") if isinstance(content, dict) else None
    if not isinstance(markups, list):
        raise refusal(str(path), "none", "JSON of 3D Slicer with a list `markups`")
    for m, markup in enumerate(markups):
        if not isinstance(markup, dict) or markup.get("type") != "Fiducial":
            continue
        here, unit = f"{path}, markup {m}", markup.get("coordinateUnits", "mm")
        space, points = markup.get("coordinateSystem", "LPS"), markup.get("controlPoints", [])
        if space not in SPACES:
            raise refusal(f"{here}, coordinateSystem", repr(space), "RAS or LPS")
        if unit != "mm" and not (isinstance(unit, list) and unit[:1] == ["mm"]):
            raise refusal(f"{here}, coordinateUnits", repr(unit), "mm")
        if not isinstance(points, list):
            raise refusal(f"{here}, controlPoints", repr(points), "a list")
        for p, point in enumerate(points):
            yield _control_point(point, f"{here}, control point {p}", image_name(path), space)


def _control_point(point: Any, where: str, image: str, space: str) -> Row:
    if not isinstance(point, dict):
        raise refusal(where, repr(point), "a JSON object")
    label, status = point.get("label"), point.get("positionStatus", "defined")
    if not isinstance(label, str) or not tidy(label):
        raise refusal(f"{where}, label", repr(label), "a name")
    if status not in STATES:
        raise refusal(f"{where}, positionStatus", repr(status), f"one of {', '.join(STATES)}")
    position = point.get("position") if status == "defined" else [math.nan] * 3
    if not isinstance(position, list) or len(position) != 3:
        raise refusal(f"{where}, position", position, "three numbers")
    position = [number(value, f"{where}, position") for value in position]
    score, note = read_description(point.get("description"))
    return Row(where, image, tidy(label), position, score, space, note, point.get("selected") is not False)


def write_json(file: TextIO, rows: Sequence[Row]) -> None:
    """Version 1.0.3 of Slicer's schema for markups."""
    points = []
    for i, row in enumerate(rows, 1):
        missing, position = in_3d(row.position)
        point = {"id": str(i), "label": row.label, "description": write_description(row)}
        place = {} if missing else {"position": position}
        flags = {"selected": row.selected, "locked": False, "visibility": True}
        points.append(point | place | flags | {"positionStatus": "undefined" if missing else "defined"})
    markup = {
        "type": "Fiducial",
        "coordinateSystem": rows[0].space or "LPS",
        "coordinateUnits": "mm",
        "locked": False,
        "fixedNumberOfControlPoints": False,
        "labelFormat": "%N-%d",
        "controlPoints": points,
    }
    json.dump({"@schema": SCHEMA, "markups": [markup]}, file, indent=1, ensure_ascii=False, allow_nan=False)
    file.write("\n")


def in_3d(position: list[float]) -> tuple[bool, list[float]]:
    """Whether a landmark is missing, and its three coordinates, for Slicer knows no planes: z = 0."""
    missing = math.isnan(position[0])
    return missing, [0.0] * 3 if missing else [*position, 0.0][:3]


def write_description(row: Row) -> str:
    """Slicer has no field for a score: it goes into the description, which Slicer shows, before the note."""
    return "; ".join(part for part in ("" if row.score is None else f"score {row.score}", row.note) if part)


def read_description(description: Any) -> tuple[float | None, str]:
    """The other direction: score and note; no score in a description that does not begin with one."""
    text = description if isinstance(description, str) else ""
    found = re.fullmatch(r"score (-?\d+(?:\.\d+)?(?:e[-+]\d+)?|nan)(?:; ?(.*))?", text, re.DOTALL)
    return (float(found[1]), found[2] or "") if found else (None, text)


FORMATS = {".csv": (read_csv, write_csv), ".fcsv": (read_fcsv, write_fcsv), ".mrk.json": (read_json, write_json)}
