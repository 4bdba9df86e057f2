"""Landmark tables, in memory and in files."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

import numpy as np
from monai.config import PathLike
from monai.utils import convert_to_numpy, ensure_tuple
from numpy.typing import ArrayLike

from monai_infoaug._files import write_whole
from monai_infoaug._require import is_one_of, refusal, to_path
from monai_infoaug.data._landmark_files import FORMATS, SPACES, Row, composed, in_order, look, rows_of, some, tidy

__all__ = ["LandmarkTable", "read_landmarks", "write_landmarks"]


@dataclass(frozen=True, eq=False, init=False)
class LandmarkTable:
    """The same landmarks in a number of images.

    Args:
        labels: names of the L landmarks, each once. Invisible characters, and white space around a name, are left out.
        points: image name to (L, D) millimetres, D 2 or 3 for all images; kept as float64. NaN: missing.
        scores: image name to (L,), of the same images; higher is surer, NaN: none.
        space: how the axes run: "RAS" (to the right, anterior, superior) or "LPS" (left, posterior, superior), like
            ``meta["space"]`` of MONAI's images; None: as the affines of the images.
        notes: image name to L remarks, of the same images, which 3D Slicer shows as descriptions. None: none.
        selected: image name to (L,) truth values, of the same images: whether 3D Slicer shows a landmark in the colour
            of selected ones. None: all.

    Raises:
        ValueError: for labels that are empty or look alike, arrays of other shapes, coordinates that are infinite or
            partly missing, missing scores, notes or selections, or an unknown space.

    Example:
        >>> table = LandmarkTable(["sella", "nasion"], {"001": [[83.2, 99.35], [np.nan, np.nan]]}, space="LPS")
        >>> table.to("RAS").points["001"].tolist()
        [[-83.2, -99.35], [nan, nan]]
    """

    labels: tuple[str, ...]
    points: dict[str, np.ndarray]
    scores: dict[str, np.ndarray] | None
    space: str | None
    notes: dict[str, np.ndarray] | None
    selected: dict[str, np.ndarray] | None

    def __init__(
        self,
        labels: Iterable[object],
        points: Mapping[str, ArrayLike],
        scores: Mapping[str, ArrayLike] | None = None,
        space: str | None = None,
        notes: Mapping[str, ArrayLike] | None = None,
        selected: Mapping[str, ArrayLike] | None = None,
    ) -> None:
        if isinstance(labels, bytes) or not isinstance(labels, Iterable) or getattr(labels, "ndim", 1) == 0:
            raise refusal("labels", repr(labels), "names of landmarks")
        names = tuple(tidy(str(label)) for label in labels)
        if len(names) == 0 or not all(names):
            raise refusal("labels", names, "names of landmarks")
        looks = [*map(look, names)]
        twice = sorted({name for name, its_look in zip(names, looks, strict=True) if looks.count(its_look) > 1})
        if twice:
            raise refusal("labels", f"{some(twice)} twice", "different names")
        if space is not None and not is_one_of(space, SPACES):
            raise refusal("space", repr(space), "'RAS', 'LPS' or None")
        fields = {
            "labels": names,
            "points": _points(points, len(names)),
            "scores": _one_a_label("scores", "numbers", scores, points, len(names), np.float64),
            "space": space and str(space),
            "notes": _one_a_label("notes", "texts", notes, points, len(names), np.str_),
            "selected": _one_a_label("selected", "truth values", selected, points, len(names), np.bool_),
        }
        for field, value in fields.items():
            object.__setattr__(self, field, value)

    def to(self, space: str) -> LandmarkTable:
        """The table with its axes as in ``space``, "RAS" or "LPS"; one that says none counts as already there."""
        if not is_one_of(space, SPACES):
            raise refusal("space", repr(space), "'RAS' or 'LPS'")
        if self.space in (None, space):
            return replace(self, space=space)
        return replace(self, points={name: _turned(array) for name, array in self.points.items()}, space=space)


def read_landmarks(path: PathLike, image: str | Sequence[str] | None = None) -> LandmarkTable:
    """Read a landmark table; the suffix tells the format.

    * ``.csv``: columns ``image,landmark,x,y[,z][,score][,space]`` in any order and case, one landmark a row; others are
      passed over. They are separated by commas, or by semicolons or tabs; then numbers may have decimal commas.
    * ``.fcsv`` and ``.mrk.json`` of 3D Slicer: the points of one image, which gets the name of the file without its
      suffix. Slicer knows no planes: D is 3. A description "score 0.9; blurred" is a score and a note.

    Args:
        path: file, UTF-8, or UTF-16 with a byte order mark.
        image: name or names of the images to return; all, in the order of the table, if None.

    Returns:
        Table in millimetres. All images have the same landmarks, those of the whole file, in order of number if all
        labels are whole numbers, else of first appearance. A landmark is NaN if it has no row, or if all its
        coordinates are blank or ``nan``, or if Slicer says that its position is undefined, missing or a preview. Names
        are without invisible characters and white space around them; labels that differ only in how much white space
        they have are one. Where axes run both ways, they are turned to those of the first row.

    Raises:
        ValueError: for an unreadable file, another suffix, a column that is missing or comes twice, more cells than
            columns, a cell that is no finite number or an empty name, a second row of the same image and landmark, a
            space in some rows alone, coordinates in other units than mm, a file without a landmark, or an image that is
            not in the table; file, line and column are named.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "001.mrk.json"
        >>> write_landmarks(path, LandmarkTable(["sella"], {"001": [[83.2, 99.35]]}, space="LPS"))
        >>> read_landmarks(path).to("RAS").points["001"].tolist()
        [[-83.2, -99.35, 0.0]]
    """
    path = to_path("path", path)
    read, _ = _format(path)
    rows = rows_of(path, read, "path")
    if len(rows) == 0:
        raise refusal(str(path), "none", "a table with a landmark")
    table = _table(rows)
    if image is None:
        return table
    names = tuple(composed(name) if isinstance(name, str) else name for name in ensure_tuple(image))
    for name in names:
        if not isinstance(name, str) or name not in table.points:
            raise refusal("image", repr(name), f"in the table {path}, which has {some(list(table.points))}")

    def part(values: Mapping[str, np.ndarray] | None) -> dict[str, np.ndarray] | None:
        return None if values is None else {name: values[name] for name in names}

    points = {name: table.points[name] for name in names}
    scores, notes, selected = map(part, (table.scores, table.notes, table.selected))
    return replace(table, points=points, scores=scores, notes=notes, selected=selected)


def write_landmarks(path: PathLike, table: LandmarkTable) -> None:
    """Write a file that :func:`read_landmarks` reads; every coordinate comes back exactly as it was.

    Args:
        path: file to write, in a folder that exists; its suffix tells the format.
        table: for the formats of 3D Slicer, points of one image; of a 2D image they get z = 0. The axes are
            ``table.space``, which Slicer's files always say: if the table does not, "LPS". CSV holds no notes and no
            selection.

    Raises:
        ValueError: for another suffix, or several images for a format of 3D Slicer.
        OSError: naming the file and the reason; what was there before is then as it was.
    """
    write_whole(path, landmark_text(path, table))


def landmark_text(path: PathLike, table: LandmarkTable) -> str:
    """What :func:`write_landmarks` writes."""
    path = to_path("path", path)
    _, write = _format(path)
    if len(table.points) > 1 and not path.name.lower().endswith(".csv"):
        raise refusal("table", some(list(table.points)), f"of one image for {path.name}")
    text = io.StringIO(newline="")
    write(text, list(_rows(table)))
    return text.getvalue()


def _format(path: Path) -> tuple[Callable[[TextIO, Path], Iterator[Row]], Callable[[TextIO, Sequence[Row]], None]]:
    suffix = next((suffix for suffix in FORMATS if path.name.lower().endswith(suffix)), None)
    if suffix is None:
        raise refusal("path", f"'{path}'", f"a file of type {', '.join(FORMATS)}")
    return FORMATS[suffix]


def _table(rows: Sequence[Row]) -> LandmarkTable:
    """Gather the rows of a file."""
    found: dict[tuple[str, str], Row] = {}
    names: dict[str, str] = {}  # by how they look
    first = rows[0]
    for row in rows:
        given = sum(map(math.isfinite, row.position))
        if given not in (0, len(row.position)):
            raise refusal(f"{row.where}, columns x, y, z", row.position, "all given or none")
        if (row.space is None) != (first.space is None):
            raise refusal(f"{row.where}, space", row.space, f"{first.space} as before")
        label = names.setdefault(look(row.label), row.label)
        known = found.setdefault((row.image, label), row)
        if known is not row:
            again = f"{row.label!r} of image {row.image!r} again, as in {known.where}"
            raise refusal(row.where, again, "a landmark that has no row yet")
    images, labels = list(dict.fromkeys(image for image, _ in found)), in_order(label for _, label in found)
    missing = Row("", "", "", [math.nan] * len(first.position))
    grid = {image: [found.get((image, label), missing) for label in labels] for image in images}
    points = {image: [_as_in(first.space, row) for row in column] for image, column in grid.items()}
    scores = {image: [np.nan if row.score is None else row.score for row in column] for image, column in grid.items()}
    notes = {image: [row.note for row in column] for image, column in grid.items()}
    selected = {image: [row.selected for row in column] for image, column in grid.items()}
    return LandmarkTable(
        labels,
        points,
        scores if any(row.score is not None for row in rows) else None,
        first.space,
        notes if any(row.note for row in rows) else None,
        selected if not all(row.selected for row in rows) else None,
    )


def _rows(table: LandmarkTable) -> Iterator[Row]:
    """The rows of a table, image by image."""
    for image, points in table.points.items():
        scores = [None] * len(points) if table.scores is None else table.scores[image].tolist()
        notes = [""] * len(points) if table.notes is None else table.notes[image].tolist()
        selected = [True] * len(points) if table.selected is None else table.selected[image].tolist()
        columns = zip(table.labels, points.tolist(), scores, notes, selected, strict=True)
        for label, point, score, note, is_selected in columns:
            yield Row("", image, label, point, score, table.space, note, is_selected)


def _points(given: Mapping[str, ArrayLike], count: int) -> dict[str, np.ndarray]:
    """Positions (count, D) of each image."""
    if not isinstance(given, Mapping) or len(given) == 0:
        raise refusal("points", repr(given), "a dictionary with an image")
    points = {name: _array(f"points of {name}", values, np.float64) for name, values in given.items()}
    dims = next(iter(points.values())).shape[-1:]
    for name, array in points.items():
        if array.shape != (count, *dims) or dims not in ((2,), (3,)):
            accepted = f"of shape ({count}, 2) or ({count}, 3), one row a label and alike for all images"
            raise refusal(f"points of {name}", f"shape {array.shape}", accepted)
        missing = np.isnan(array)
        if np.isinf(array).any() or (missing.any(1) != missing.all(1)).any():
            raise refusal(f"points of {name}", array.tolist(), "finite or all NaN, row by row")
    return points


def _one_a_label(
    field: str, kind: str, given: Mapping[str, ArrayLike] | None, images: Iterable[str], count: int, dtype: type
) -> dict[str, np.ndarray] | None:
    """Values (count,) of each image."""
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise refusal(field, repr(given), "a dictionary with every image")
    missing = [name for name in images if name not in given]
    if missing:
        raise refusal(field, f"none of {some(missing)}", "a dictionary with every image")
    arrays = {name: _array(f"{field} of {name}", given[name], dtype) for name in images}
    for name, array in arrays.items():
        if array.shape != (count,) or (dtype is np.float64 and np.isinf(array).any()):
            raise refusal(f"{field} of {name}", array.tolist(), f"{count} {kind}, one a label")
    return arrays


def _as_in(space: str | None, row: Row) -> np.ndarray:
    """Position of a row, whose axes may be those of another markup of the file."""
    position = np.array(row.position)
    return position if row.space in (None, space) else _turned(position)


def _turned(points: np.ndarray) -> np.ndarray:
    return points * ([-1.0, -1.0, 1.0][: points.shape[-1]])


def _array(argument: str, values: ArrayLike, dtype: type) -> np.ndarray:
    try:
        return np.asarray(convert_to_numpy(values, dtype=dtype, wrap_sequence=True), dtype)
    except (TypeError, ValueError) as error:
        raise refusal(argument, repr(values), "an array") from error
