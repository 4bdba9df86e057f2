"""Lists of images with weak labels: which classes an image shows, and a few clicked points."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from monai.config import PathLike

from monai_infoaug._require import is_one_of, listed, refusal
from monai_infoaug.data._landmark_files import SPACES, Row, image_name, read_csv, rows_of, some
from monai_infoaug.data.datalists import as_path, image_datalist

__all__ = ["weak_label_datalist"]


def weak_label_datalist(
    images: PathLike, table: PathLike, classes: Sequence[str], space: str = "RAS"
) -> list[dict[str, str | np.ndarray]]:
    """Images of a folder with the little that is known of their labels, as a MONAI data list.

    Args:
        images: folder with the images, or one image.
        table: CSV file with the columns ``image,landmark,x,y[,z][,space]`` of landmark tables, in which the landmark is
            the name of a class or ``background``. A row with coordinates in millimetres is a click on a point of that
            class; there may be many of a class. A row without coordinates says that the image shows the class: an image
            with such rows shows no classes but those that it has a row of. Images of the table that are not in the
            folder are passed over; of images without a row nothing is known.
        classes: names of the classes without the background.
        space: how the axes of the images' affines run, to which the clicks are turned: "RAS" for MONAI's readers.

    Returns:
        ``[{"image": path, "name": name, "points": points, "point_classes": classes, "shown": shown}, ...]`` sorted by
        path: clicks (N, D) float32 in millimetres, their classes (N,) int64 with 0 as the background, and which of the
        K + 1 classes the image may show, bool.

    Raises:
        ValueError: for a folder without images, a faulty table or one without a row of these images, a landmark that is
            no class, a row with some of its coordinates, or an unknown space.

    Example:
        >>> weak_label_datalist("images", "weak.csv", ["rim", "cup"])  # doctest: +SKIP
        [{'image': 'images/01.png', 'name': '01', 'points': array([[40., 52.]]), 'point_classes': array([2]), ...}]
    """
    if not is_one_of(space, SPACES):
        raise refusal("space", repr(space), "'RAS' or 'LPS'")
    if not listed(classes) or not all(isinstance(name, str) for name in classes):
        raise refusal("classes", repr(classes), "a list of names")
    items, path, names = image_datalist(images), as_path("table", table), ["background", *classes]
    rows = rows_of(path, read_csv, "table")
    for row in rows:
        if row.label not in names:
            raise refusal(row.where, repr(row.label), f"a class, of {some(names)}")
        missing = np.isnan(row.position)
        if missing.any() and not missing.all():
            raise refusal(row.where, row.position, "all coordinates, or none")
    of_image: dict[str, list[Row]] = {image_name(item["image"]): [] for item in items}
    for row in rows:
        of_image.get(row.image, []).append(row)
    if not any(of_image.values()):
        raise refusal("table", f"'{path}'", f"a table with an image of '{images}'")
    dims = len(rows[0].position)
    return [
        item | {"name": name} | _known(of_image[name], names, dims, space)
        for item, name in zip(items, of_image, strict=True)
    ]


def _known(rows: Sequence[Row], names: Sequence[str], dims: int, space: str) -> dict[str, np.ndarray]:
    """Clicked points, their classes, and which classes the image may show."""
    clicks = [row for row in rows if not np.isnan(row.position).any()]
    named = {row.label for row in rows} | {"background"}
    points = np.array([row.position for row in clicks], np.float32).reshape(-1, dims)
    turned = np.array([row.space not in (None, space) for row in clicks], bool)
    points[turned, :2] *= -1
    return {
        "points": points,
        "point_classes": np.array([names.index(row.label) for row in clicks], np.int64),
        "shown": np.array([len(clicks) == len(rows) or name in named for name in names]),
    }
