"""Landmark tables in and out, and lists of images for MONAI's data sets."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from monai.config import PathLike
from monai.utils import convert_to_numpy, ensure_tuple
from numpy.typing import ArrayLike

from monai_infoaug._require import require

__all__ = ["image_datalist", "landmark_datalist", "read_landmarks", "write_landmarks"]

AXES = ("x", "y", "z")
IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".dcm", ".mha", ".mhd", ".nii", ".nii.gz", ".nrrd")


def read_landmarks(path: PathLike, image: str | Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Read a table with one landmark a row: columns ``image,landmark,x,y[,z]``; others, such as ``score``, are ignored.

    Args:
        path: CSV file, UTF-8.
        image: name or names of the images to return; all, in the order of the table, if None.

    Returns:
        Image name to (L, D) float64 array, in the unit of the table (mm), D = 3 if there is a column ``z``. All images
        have the same L landmarks: those of the whole table, in order of number if all names are whole numbers, else of
        first appearance. A landmark is NaN if it has no row, or if all its coordinates are blank or ``nan``.

    Raises:
        ValueError: for an unreadable file, a missing column, a cell that is no finite number or an empty name, a
            second row of the same image and landmark, or an image that is not in the table; file, line and column
            are named.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "landmarks_mm.csv"
        >>> write_landmarks(path, {"001": np.array([[83.2, 99.35], [np.nan, np.nan]])})
        >>> read_landmarks(path)["001"].tolist()
        [[83.2, 99.35], [nan, nan]]
    """
    rows: dict[tuple[str, str], list[float]] = {}
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file)
            columns = table.fieldnames or []
            axes = AXES if "z" in columns else AXES[:2]
            for column in ("image", "landmark", *axes):
                require(column in columns, f"{path}, line 1", columns, f"column names with `{column}`")
            for row in table:
                where = f"{path}, line {table.line_num}"
                for column in ("image", "landmark"):
                    require(bool(row[column]), f"{where}, column {column}", "nothing", "a name")
                key = row["image"], row["landmark"]
                require(key not in rows, f"{where}, columns image and landmark", key, "named in one row only")
                rows[key] = [_coordinate(row[axis], f"{where}, column {axis}") for axis in axes]
                given = sum(map(math.isfinite, rows[key]))
                require(given in (0, len(axes)), f"{where}, columns {', '.join(axes)}", rows[key], "all given or none")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"`path` must be a readable CSV file in UTF-8, got {path}: {error}.") from error
    images, labels = (list(dict.fromkeys(names)) for names in zip(*rows, strict=True)) if rows else ([], [])
    if all(label.isdecimal() for label in labels):
        labels.sort(key=int)
    asked = images if image is None else ensure_tuple(image)
    for name in asked:
        require(name in images, "image", repr(name), f"in the table {path}, which has {_some(images)}")
    missing = [math.nan] * len(axes)
    return {name: np.array([rows.get((name, label), missing) for label in labels]) for name in asked}


def write_landmarks(
    path: PathLike, landmarks: Mapping[str, ArrayLike], scores: Mapping[str, ArrayLike] | None = None
) -> None:
    """Write the table that :func:`read_landmarks` reads; every coordinate comes back exactly as it was.

    Args:
        path: CSV file to write, in a folder that exists.
        landmarks: image name to (L, D) coordinates, D 2 or 3 for all images, NaN for a missing landmark. The
            landmarks are named 0 ... L - 1.
        scores: image name to (L,) scores, for a column ``score``.

    Raises:
        ValueError: for an array of another shape, infinite or partly missing coordinates, or missing scores.
    """
    require(len(landmarks) > 0, "landmarks", "no image", "a dictionary with an image")
    arrays = {name: _float64(points) for name, points in landmarks.items()}
    shape = next(iter(arrays.values())).shape
    require(len(shape) == 2 and shape[1] in (2, 3), "landmarks", f"shape {shape}", "of shape (L, 2) or (L, 3)")
    columns = ["image", "landmark", *AXES[: shape[1]]]
    for name, points in arrays.items():
        require(points.shape == shape, f"landmarks of {name}", f"shape {points.shape}", f"of shape {shape}")
        partly = np.isnan(points).any(1) != np.isnan(points).all(1)
        require(
            not (np.isinf(points).any() or partly.any()), f"landmarks of {name}", points.tolist(), "finite or all NaN"
        )
    if scores is not None:
        columns.append("score")
        for name in arrays:
            require(name in scores, "scores", _some(list(scores)), f"a dictionary with every image, also {name!r}")
            column = _float64(scores[name])
            require(column.shape == shape[:1], f"scores of {name}", f"shape {column.shape}", f"of shape {shape[:1]}")
            arrays[name] = np.column_stack([arrays[name], column])
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows([name, i, *row] for name, array in arrays.items() for i, row in enumerate(array.tolist()))


def image_datalist(dataset_dir: PathLike, pattern: str = "*") -> list[dict[str, str]]:
    """Images of a folder as a MONAI data list.

    Args:
        dataset_dir: folder, or one image.
        pattern: glob pattern within the folder; ``"**/*.png"`` also looks into the folders below.

    Returns:
        ``[{"image": path}, ...]`` sorted by path; hidden files are left out.

    Raises:
        ValueError: for a missing folder, or one in which the pattern meets no image.
    """
    folder = Path(dataset_dir)
    if folder.is_file():
        return [{"image": str(folder)}]
    require(folder.is_dir(), "dataset_dir", f"'{folder}'", "a folder or an image file")
    files = sorted(f for f in folder.glob(pattern) if _is_image(f))
    accepted = f"a folder with images {pattern!r} of type {', '.join(IMAGE_SUFFIXES)}"
    require(len(files) > 0, "dataset_dir", f"'{folder}' without one", accepted)
    return [{"image": str(f)} for f in files]


def landmark_datalist(images: PathLike, table: PathLike) -> list[dict[str, str | np.ndarray]]:
    """Images of a folder with their landmarks as a MONAI data list.

    Args:
        images: folder with the images, or one image.
        table: landmarks in millimetres of the images' affines, see :func:`read_landmarks`; its image names are file
            names without suffix. Images of the table that are not in the folder are passed over.

    Returns:
        ``[{"image": path, "name": name, "landmarks": (L, D) float32 millimetres}, ...]`` sorted by path. MONAI's
        ``ApplyTransformToPointsd(invert_affine=True)`` turns them into voxels.

    Raises:
        ValueError: for a folder without images, a faulty table, or an image that is not in the table.
    """
    items = image_datalist(images)
    names = [Path(Path(item["image"]).name.removesuffix(".gz")).stem for item in items]
    points = read_landmarks(table, names)
    return [
        item | {"name": name, "landmarks": points[name].astype(np.float32)}
        for item, name in zip(items, names, strict=True)
    ]


def _coordinate(cell: str | None, where: str) -> float:
    try:
        value = float(cell.strip() or math.nan) if cell is not None else math.inf
    except ValueError:
        value = math.inf
    require(not math.isinf(value), where, repr(cell), "a finite number, or blank for a missing landmark")
    return value


def _float64(values: ArrayLike) -> np.ndarray:
    return convert_to_numpy(values, dtype=np.float64, wrap_sequence=True)


def _some(names: Sequence[str], count: int = 5) -> str:
    return ", ".join(map(repr, names[:count])) + (f" and {len(names) - count} more" if len(names) > count else "")


def _is_image(path: Path) -> bool:
    return path.name.lower().endswith(IMAGE_SUFFIXES) and not path.name.startswith(".") and path.is_file()
