"""Landmark tables, in memory and in files."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from monai.config import PathLike
from monai.utils import convert_to_numpy, ensure_tuple
from numpy.typing import ArrayLike

from monai_infoaug._require import refusal
from monai_infoaug.data._landmark_files import FORMATS, SPACES, Row, in_order, some

__all__ = ["LandmarkTable", "read_landmarks", "write_landmarks"]


@dataclass(frozen=True, eq=False)
class LandmarkTable:
    """The same landmarks in a number of images.

    Args:
        labels: names of the L landmarks, each once.
        points: image name to (L, D) millimetres, D 2 or 3 for all images; kept as float64. NaN: missing.
        scores: image name to (L,), of the same images; higher is surer, NaN: none.
        space: how the axes run: "RAS" (to the right, anterior, superior) or "LPS" (left, posterior, superior), like
            ``meta["space"]`` of MONAI's images; None: as the affines of the images.

    Raises:
        ValueError: for labels that are empty or come twice, arrays of other shapes, coordinates that are infinite or
            partly missing, missing scores or an unknown space.

    Example:
        >>> table = LandmarkTable(["sella", "nasion"], {"001": [[83.2, 99.35], [np.nan, np.nan]]}, space="LPS")
        >>> table.to("RAS").points["001"].tolist()
        [[-83.2, -99.35], [nan, nan]]
    """

    labels: tuple[str, ...]
    points: dict[str, np.ndarray]
    scores: dict[str, np.ndarray] | None = None
    space: str | None = None

    def __post_init__(self) -> None:
        labels, points, space = tuple(map(str, self.labels)), _arrays(self.points), self.space and str(self.space)
        if len(labels) == 0 or not all(labels):
            raise refusal("labels", labels, "names of landmarks")
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise refusal("labels", f"{some(twice)} twice", "different names")
        if space not in (None, *SPACES):
            raise refusal("space", repr(space), "'RAS', 'LPS' or None")
        if len(points) == 0:
            raise refusal("points", "no image", "a dictionary with an image")
        dims = next(iter(points.values())).shape[-1:]
        accepted = f"of shape ({len(labels)}, 2) or ({len(labels)}, 3), one row a label and alike for all images"
        for name, array in points.items():
            good = array.shape == (len(labels), *dims) and dims in ((2,), (3,))
            if not good:
                raise refusal(f"points of {name}", f"shape {array.shape}", accepted)
            partly = np.isnan(array).any(1) != np.isnan(array).all(1)
            good = not (np.isinf(array).any() or partly.any())
            if not good:
                raise refusal(f"points of {name}", array.tolist(), "finite or all NaN, row by row")
        scores = None
        if self.scores is not None:
            missing = [name for name in points if name not in self.scores]
            if missing:
                raise refusal("scores", f"none of {some(missing)}", "a dictionary with every image")
            scores = _arrays({name: self.scores[name] for name in points})
            for name, array in scores.items():
                good = array.shape == (len(labels),) and not np.isinf(array).any()
                if not good:
                    raise refusal(f"scores of {name}", f"{array.tolist()}", f"{len(labels)} numbers, one a label")
        for field, value in {"labels": labels, "points": points, "scores": scores, "space": space}.items():
            object.__setattr__(self, field, value)

    def to(self, space: str) -> LandmarkTable:
        """The table with its axes as in ``space``, "RAS" or "LPS"; one that says none counts as already there."""
        if space not in SPACES:
            raise refusal("space", repr(space), "'RAS' or 'LPS'")
        if self.space in (None, space):
            return replace(self, space=space)
        return replace(self, points={name: _turned(array) for name, array in self.points.items()}, space=space)


def read_landmarks(path: PathLike, image: str | Sequence[str] | None = None) -> LandmarkTable:
    """Read a landmark table; the suffix tells the format.

    * ``.csv``: columns ``image,landmark,x,y[,z][,score][,space]`` in any order, one landmark a row; others are passed
      over.
    * ``.fcsv`` and ``.mrk.json`` of 3D Slicer: the points of one image, which gets the name of the file without its
      suffix. Slicer knows no planes: D is 3. A description "score 0.9" is a score.

    Args:
        path: file, UTF-8.
        image: name or names of the images to return; all, in the order of the table, if None.

    Returns:
        Table in millimetres. All images have the same landmarks, those of the whole file, in order of number if all
        labels are whole numbers, else of first appearance. A landmark is NaN if it has no row, or if all its
        coordinates are blank or ``nan``, or if Slicer says that its position is not defined.

    Raises:
        ValueError: for an unreadable file, another suffix, a missing column, a cell that is no finite number or an
            empty name, a second row of the same image and landmark, two spaces in one file, a file without a landmark,
            or an image that is not in the table; file, line and column are named.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "001.mrk.json"
        >>> write_landmarks(path, LandmarkTable(["sella"], {"001": [[83.2, 99.35]]}, space="LPS"))
        >>> read_landmarks(path).to("RAS").points["001"].tolist()
        [[-83.2, -99.35, 0.0]]
    """
    path = Path(path)
    read, _ = _format(path)
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(read(file, path))
    except (OSError, UnicodeDecodeError, csv.Error, json.JSONDecodeError) as error:
        raise ValueError(f"`path` must be a readable landmark file in UTF-8, got {path}: {error}.") from error
    if len(rows) == 0:
        raise refusal(str(path), "none", "a table with a landmark")
    table = _table(rows)
    if image is None:
        return table
    names = ensure_tuple(image)
    for name in names:
        accepted = f"in the table {path}, which has {some(list(table.points))}"
        if name not in table.points:
            raise refusal("image", repr(name), accepted)
    scores = table.scores and {name: table.scores[name] for name in names}
    return replace(table, points={name: table.points[name] for name in names}, scores=scores)


def write_landmarks(path: PathLike, table: LandmarkTable) -> None:
    """Write a file that :func:`read_landmarks` reads; every coordinate comes back exactly as it was.

    Args:
        path: file to write, in a folder that exists; its suffix tells the format.
        table: for the formats of 3D Slicer, points of one image; of a 2D image they get z = 0. The axes are
            ``table.space``, which Slicer's files always say: if the table does not, "LPS".

    Raises:
        ValueError: for another suffix, or several images for a format of 3D Slicer.
    """
    path = Path(path)
    _, write = _format(path)
    one = path.name.lower().endswith(".csv") or len(table.points) == 1
    if not one:
        raise refusal("table", some(list(table.points)), f"of one image for {path.name}")
    with open(path, "w", newline="", encoding="utf-8") as file:
        write(file, table)


def _format(path: Path) -> tuple:
    suffix = next((suffix for suffix in FORMATS if path.name.lower().endswith(suffix)), None)
    if suffix is None:
        raise refusal("path", f"'{path}'", f"a file of type {', '.join(FORMATS)}")
    return FORMATS[suffix]


def _table(rows: Sequence[Row]) -> LandmarkTable:
    """Gather the rows of a file."""
    found: dict[tuple[str, str], Row] = {}
    first = rows[0]
    for row in rows:
        given = sum(map(math.isfinite, row.position))
        if given not in (0, len(row.position)):
            raise refusal(f"{row.where}, columns x, y, z", row.position, "all given or none")
        if row.space != first.space:
            raise refusal(f"{row.where}, space", row.space, f"{first.space} as before")
        known = found.setdefault((row.image, row.label), row)
        again = f"{row.label!r} of image {row.image!r} again, as in {known.where}"
        if known is not row:
            raise refusal(row.where, again, "a landmark that has no row yet")
    images, labels = list(dict.fromkeys(image for image, _ in found)), in_order(label for _, label in found)
    missing = Row("", "", "", [math.nan] * len(first.position))
    grid = {image: [found.get((image, label), missing) for label in labels] for image in images}
    points = {image: [row.position for row in column] for image, column in grid.items()}
    scores = {image: [np.nan if row.score is None else row.score for row in column] for image, column in grid.items()}
    scored = any(row.score is not None for row in rows)
    return LandmarkTable(labels, points, scores if scored else None, first.space)


def _turned(points: np.ndarray) -> np.ndarray:
    return points * ([-1.0, -1.0, 1.0][: points.shape[1]])


def _arrays(values: Mapping[str, ArrayLike]) -> dict[str, np.ndarray]:
    return {name: convert_to_numpy(array, dtype=np.float64, wrap_sequence=True) for name, array in values.items()}
