"""File formats of landmark tables, CSV and two of 3D Slicer: each is read into rows and written from rows."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from monai_infoaug._require import refusal

AXES = ("x", "y", "z")
SPACES = ("RAS", "LPS")
STATES = ("defined", "preview", "undefined")
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
    """Name of an image in a landmark table: that of its file or folder without suffix, ``.nii.gz`` being one.

    Example:
        >>> [image_name(path) for path in ("scans/patient.1.nii.gz", "007.PNG", "007.mrk.json", "1.2.840.10")]
        ['patient.1', '007', '007', '1.2.840.10']
    """
    return re.sub(r"(\.(nii|mrk))?\.[A-Za-z]\w*$", "", Path(path).name)  # a number is no suffix: folders of DICOM


def in_order(labels: Iterable[str]) -> list[str]:
    """Each label once: by number if all are whole numbers, else as they first appear."""
    unique = list(dict.fromkeys(labels))
    return sorted(unique, key=int) if all(label.isdecimal() for label in unique) else unique


def some(names: Sequence[str], count: int = 5) -> str:
    """The first few names, for errors."""
    return ", ".join(map(repr, names[:count])) + (f" and {len(names) - count} more" if len(names) > count else "")


def number(cell: Any, where: str) -> float:
    """Finite number, or NaN for a blank or ``nan``."""
    try:
        value = math.inf if cell is None else float(cell.strip() or math.nan) if isinstance(cell, str) else float(cell)
    except (TypeError, ValueError):
        value = math.inf
    if math.isinf(value):
        raise refusal(where, repr(cell), "a finite number, or blank for a missing one")
    return value


def read_csv(file: TextIO, path: Path) -> Iterator[Row]:
    """Columns ``image,landmark,x,y[,z][,score][,space]`` in any order, others are passed over."""
    table = csv.DictReader(file)
    columns = table.fieldnames or []
    axes = AXES if "z" in columns else AXES[:2]
    for column in ("image", "landmark", *axes):
        if column not in columns:
            raise refusal(f"{path}, line 1", columns, f"column names with `{column}`")
    for cells in table:
        where = f"{path}, line {table.line_num}"
        for column in ("image", "landmark"):
            if not cells[column]:
                raise refusal(f"{where}, column {column}", "nothing", "a name")
        position = [number(cells[axis], f"{where}, column {axis}") for axis in axes]
        score = number(cells["score"], f"{where}, column score") if "score" in columns else None
        space = cells.get("space") or None
        if space not in (None, *SPACES):
            raise refusal(f"{where}, column space", repr(space), "RAS, LPS or blank")
        yield Row(where, cells["image"], cells["landmark"], position, score, space)


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
    """Slicer's older point lists; a further cell 0 after the named columns says that the position is undefined."""
    table, columns, space = csv.reader(file), FCSV_COLUMNS.split(","), "RAS"
    for cells in table:
        where, line = f"{path}, line {table.line_num}", ",".join(cells)
        if line.startswith("#"):
            key, _, value = (part.strip() for part in line[1:].partition("="))
            if key == "columns":
                columns = [column.strip() for column in value.split(",")]
                for column in (*AXES, "label"):
                    if column not in columns:
                        raise refusal(where, columns, f"column names with `{column}`")
            elif key == "CoordinateSystem":
                space = {"0": "RAS", "1": "LPS"}.get(value, value)
                if space not in SPACES:
                    raise refusal(f"{where}, CoordinateSystem", value, "0, 1, RAS or LPS")
        elif cells:
            if len(cells) < len(columns):
                raise refusal(where, f"{len(cells)} cells", f"a line of {len(columns)} cells")
            named, further = dict(zip(columns, cells, strict=False)), cells[len(columns) :]
            if not named["label"]:
                raise refusal(f"{where}, column label", "nothing", "a name")
            position = [number(named[axis], f"{where}, column {axis}") for axis in AXES]
            if further[:1] == ["0"]:
                position = [math.nan] * 3
            score, note = read_description(named.get("desc"))
            selected = named.get("sel") != "0"
            yield Row(where, image_name(path), named["label"], position, score, space, note, selected)


def write_fcsv(file: TextIO, rows: Sequence[Row]) -> None:
    """As Slicer writes it; a missing landmark is a hidden point at 0 of position status 0."""
    file.write(f"# Markups fiducial file version = 5.6\n# CoordinateSystem = {rows[0].space or 'LPS'}\n")
    file.write(f"# columns = {FCSV_COLUMNS}\n")
    writer = csv.writer(file, lineterminator="\n")
    for i, row in enumerate(rows, 1):
        missing, position = in_3d(row.position)
        visible, status = (0, 0) if missing else (1, 2)
        flags = visible, int(row.selected), 0
        writer.writerow([i, *position, 0, 0, 0, 1, *flags, row.label, write_description(row), "", status, 0])


def read_json(file: TextIO, path: Path) -> Iterator[Row]:
    """Slicer's markups: the control points of all of a file's markups of type Fiducial."""
    content = json.load(file)
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
    if not isinstance(label, str) or not label:
        raise refusal(f"{where}, label", repr(label), "a name")
    if status not in STATES:
        raise refusal(f"{where}, positionStatus", repr(status), f"one of {', '.join(STATES)}")
    position = point.get("position") if status == "defined" else [math.nan] * 3
    if not isinstance(position, list) or len(position) != 3:
        raise refusal(f"{where}, position", position, "three numbers")
    position = [number(value, f"{where}, position") for value in position]
    score, note = read_description(point.get("description"))
    return Row(where, image, label, position, score, space, note, point.get("selected") is not False)


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
