"""Lists of images, with their landmarks or labels, for MONAI's data sets."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from glob import escape
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
from monai.config import PathLike

from monai_infoaug._files import files_of
from monai_infoaug._require import is_count, is_number, is_one_of, refusal
from monai_infoaug.data._dicom import SUFFIXES as DICOM_SUFFIXES
from monai_infoaug.data._dicom import is_dicom, series_in
from monai_infoaug.data._dicom_volume import is_volume
from monai_infoaug.data._headers import image_header
from monai_infoaug.data._images import warn
from monai_infoaug.data._landmark_files import FORMATS, image_name, in_order, some
from monai_infoaug.data.landmarks import LandmarkTable, read_landmarks
from monai_infoaug.data.simpleitk_reader import IMAGE_SUFFIXES, has_image_suffix

__all__ = ["annotated_datalist", "image_datalist", "image_name", "landmark_datalist", "segmentation_datalist"]

PARTS = ("train", "val", "test")


def image_datalist(dataset_dir: PathLike, pattern: str = "*") -> list[dict[str, str]]:
    """Images of a folder as a MONAI data list.

    A folder whose DICOM files are the slices of one series is one image, a volume: ``dataset_dir`` itself, a folder
    that meets the pattern or lies in one that does, at any depth, as archives write patients, studies and series, and
    one with files that meet it. Other DICOM files, also without suffix, are an image each.

    Args:
        dataset_dir: folder, or one image. What a command line makes of the names ``2024`` and ``a,b``, a number and
            a tuple, is taken as the name again.
        pattern: glob pattern within the folder; ``"**/*.png"`` also looks into the folders below.

    Returns:
        ``[{"image": path}, ...]`` sorted by path; hidden files are left out.

    Raises:
        ValueError: for a missing folder, one in which the pattern meets no image, or one with a volume and other
            series.
    """
    return _listed("dataset_dir", dataset_dir, pattern)


def _listed(argument: str, place: PathLike, pattern: str = "*") -> list[dict[str, str]]:
    folder = as_path(argument, place)
    if folder.is_file():
        return [{"image": str(folder)}]
    if not folder.is_dir():
        raise refusal(argument, f"'{folder}'", "a folder or an image file")
    try:
        found = [path for path in folder.glob(os.fspath(pattern)) if not path.name.startswith(".")]
    except (NotImplementedError, TypeError, ValueError) as error:
        raise refusal("pattern", repr(pattern), "a glob pattern within the folder") from error
    files = {path for path in found if path.is_file() and (has_image_suffix(path) or is_dicom(path))}
    slices = {path for path in files if not has_image_suffix(path) or path.suffix.lower() in DICOM_SUFFIXES}
    images = files - slices
    folders = {below for path in found if path.is_dir() for below in _folders(path)}
    for place in {path.parent for path in slices} | folders:
        images |= _dicom_images(place, None if place in folders else slices)
    if len(images) == 0:
        accepted = f"a folder with images {pattern!r} of type {', '.join(IMAGE_SUFFIXES)}"
        deeper = next((f": '{path}' lies deeper" for path in images_below(folder) if path.parent != folder), "")
        raise refusal(argument, f"'{folder}' without one{deeper}", accepted)
    return [{"image": str(path)} for path in sorted(images)]


def landmark_datalist(
    images: PathLike, table: PathLike, space: str = "RAS", labels: Sequence[str] | None = None
) -> list[dict[str, str | np.ndarray | list[str]]]:
    """Images of a folder with their landmarks as a MONAI data list.

    Args:
        images: folder with the images, or one image.
        table: landmarks in millimetres, see :func:`read_landmarks`: a CSV file with rows by image name (file name
            without suffix; images of the table that are not in the folder are passed over), a file of 3D Slicer if
            there is exactly one image, or a folder with a file of 3D Slicer for each image, ``<image name>.mrk.json``
            or ``<image name>.fcsv``. The z that Slicer adds to the points of 2D images is dropped.
        space: how the axes of the images' affines run, to which the landmarks are turned: "RAS" for MONAI's readers.
        labels: landmarks to return, in this order; all if None.

    Returns:
        ``[{"image": path, "name": name, "landmarks": (L, D) float32 millimetres, "labels": L names}, ...]`` sorted by
        path, the same labels in the same order for all images. MONAI's
        ``ApplyTransformToPointsd(invert_affine=True)`` turns the landmarks into voxels.

    Raises:
        ValueError: for a folder without images, a faulty table, an image without a table, or a label that no table has.
    """
    items, _ = _with_landmarks(_named("images", _listed("images", images)), as_path("table", table), space, labels)
    return items


def annotated_datalist(
    images: PathLike,
    table: PathLike,
    space: str = "RAS",
    labels: Sequence[str] | None = None,
    labelled: int | float | Sequence[str] | None = None,
    seed: int = 0,
    min_score: float = 0.0,
) -> list[dict[str, str | np.ndarray | list[str]]]:
    """Those images of a folder that have landmarks, or some of them, to train on.

    Args:
        images: folder with the images, or one image; images that the table lacks are passed over.
        table: landmarks in millimetres, see :func:`landmark_datalist`.
        space: how the axes of the images' affines run, see :func:`landmark_datalist`.
        labels: landmarks to return, in this order; all if None.
        labelled: names of the images to take; or how many, or which share in (0, 1] of them (a float), drawn by
            ``seed`` (fewer are a part of more); or None: all.
        seed: non-negative integer.
        min_score: landmarks whose score in the table is below get weight 0.

    Returns:
        Items as those of :func:`landmark_datalist`, with ``"weights"`` (L,) float32 in [0, 1]: the score, cut to this
        range, and 1 where the table has none.

    Raises:
        ValueError: as :func:`landmark_datalist`, and for a table without any of the images, a name that is not among
            those that have landmarks, or a number that is not from 1 to their number.
    """
    if not is_number(min_score):
        raise refusal("min_score", repr(min_score), "a number")
    path = as_path("table", table)
    if path.name.lower().endswith(".csv"):
        names = {name for name, points in read_landmarks(path).points.items() if np.isfinite(points).any()}
    elif path.is_dir():
        names = {image_name(file) for file in path.iterdir() if file.name.lower().endswith(tuple(FORMATS))}
    else:
        names = None  # a file of 3D Slicer is of the one image
    items = _named("images", _listed("images", images))
    known = {name: item for name, item in items.items() if names is None or name in names}
    if not known:
        raise refusal("table", f"'{path}'", f"a table with an image of '{images}'")
    chosen = _chosen(list(known), labelled, seed, "images with landmarks")
    annotated, scores = _with_landmarks({name: known[name] for name in known if name in chosen}, path, space, labels)
    for item, score in zip(annotated, scores, strict=True):
        weights = np.where(np.isnan(score), 1, np.where(score < min_score, 0, score.clip(0, 1)))
        item["weights"] = weights.astype(np.float32)
    return annotated


def segmentation_datalist(
    images: PathLike,
    labels: PathLike,
    part: str | None = None,
    labelled: int | float | Sequence[str] | None = None,
    seed: int = 0,
    test_every: int | None = None,
    val_every: int | None = None,
) -> list[dict[str, str]]:
    """Images of a folder, with the label images of some of them, as a MONAI data list, split by case.

    Of the cases that have a label, sorted by path, the test and the validation part are split off if asked for; all
    other cases are of the training part. Of these only those that are ``labelled`` have a label in the list: who trains
    on it cannot see more labels than it is given.

    Args:
        images: folder with the images, a case each.
        labels: folder with label images of the same names (apart from the suffix), for all of the images or some.
        part: ``"train"``, ``"val"`` or ``"test"``; None: all cases, as one part to train on.
        labelled: names of the training cases that keep their label; or how many, or which share in (0, 1] of them (a
            float; at least one case), drawn by ``seed`` (fewer are a part of more); or None: all.
        seed: non-negative integer.
        test_every: one in so many cases with a label is of the test part, the last one of each group; None: none.
        val_every: one in so many of the others is of the validation part; None: none.

    Returns:
        ``[{"image": path, "name": name, "label": path}, ...]`` sorted by path, without ``"label"`` for cases that are
        not labelled.

    Raises:
        ValueError: for a folder without images, labels of no training case, a part without cases, or ``labelled`` that
            is out of range or names other cases.

    Example:
        >>> segmentation_datalist("images", "labels", "train", labelled=0.05)  # doctest: +SKIP
        [{'image': 'images/01.nii.gz', 'name': '01'}, {'image': 'images/02.nii.gz', 'name': '02', 'label': ...}, ...]
    """
    if part is not None and not is_one_of(part, PARTS):
        raise refusal("part", repr(part), f"one of {PARTS}, or None")
    for name, every in (("test_every", test_every), ("val_every", val_every)):
        if every is not None and not is_count(every, 2):
            raise refusal(name, every, "a whole number of at least 2, or None")
    if not as_path("labels", labels).exists():
        raise refusal("labels", f"'{labels}'", "a folder or an image file")
    known = {name: {"label": item["image"]} for name, item in _named("labels", _listed("labels", labels)).items()}
    items = [
        item | {"name": name} | known.get(name, {})
        for name, item in _named("images", _listed("images", images)).items()
    ]
    if part is not None:
        cases = [item for item in items if "label" in item]
        test = cases[test_every - 1 :: test_every] if test_every else []
        rest = [item for item in cases if item not in test]
        val = rest[val_every - 1 :: val_every] if val_every else []
        items = {"test": test, "val": val, "train": [item for item in items if item not in test + val]}[part]
        if part != "train" and not items:
            got = f"{part!r} with a `{part}_every` of {test_every if part == 'test' else val_every}"
            accepted = f"one with cases: of the {len(cases)} with a label none is in it unless `{part}_every` says so"
            raise refusal("part", got, accepted)
        if part != "train":
            return items
    names = [item["name"] for item in items if "label" in item]
    if not names:
        raise refusal("labels", f"'{labels}'", f"a folder with labels of training cases of '{images}'")
    kept = _chosen(names, labelled, seed, "training cases with a label")
    return [item if item["name"] in kept else {k: v for k, v in item.items() if k != "label"} for item in items]


def _chosen(names: list[str], labelled: int | float | Sequence[str] | None, seed: int, what: str) -> Collection[str]:
    """Some of the names: those given, a number or a share of all drawn by the seed, or all."""
    if labelled is None:
        return names
    if isinstance(labelled, Collection):
        given = list(labelled) if getattr(labelled, "ndim", 1) else []
        if isinstance(labelled, str) or not given or not all(isinstance(n, str) and n in names for n in given):
            accepted = f"a number, a share, or a list of {what}, which are {some(names)}"
            raise refusal("labelled", repr(labelled), accepted)
        return labelled
    whole = isinstance(labelled, Integral)
    good = is_count(labelled, 1) if whole else is_number(labelled) and labelled > 0
    if not good or labelled > (len(names) if whole else 1):
        raise refusal("labelled", labelled, f"from 1 to {len(names)}, the {what}, or a share in (0, 1]")
    if not is_count(seed):
        raise refusal("seed", seed, "a non-negative integer")
    number = int(labelled) if whole else max(1, round(labelled * len(names)))
    return np.random.RandomState(seed).permutation(names)[:number].tolist()


def _with_landmarks(
    items: Mapping[str, dict[str, str]], path: Path, space: str, labels: Sequence[str] | None
) -> tuple[list[dict[str, Any]], list[np.ndarray]]:
    """Images with their landmarks, and the landmarks' scores (L,), NaN where there is none."""
    names = list(items)
    if path.name.lower().endswith(".csv"):
        tables = dict.fromkeys(names, read_landmarks(path, names).to(space))
        points = {name: tables[name].points[name] for name in names}
    else:
        tables = {name: read_landmarks(_slicer_file(path, name, len(names))).to(space) for name in names}
        points = {name: next(iter(tables[name].points.values())) for name in names}
        for name, item in items.items():
            points[name] = points[name][:, : image_header(item["image"]).dims[-1]]
    known = in_order(label for name in names for label in tables[name].labels)
    if labels is not None and not isinstance(labels, list | tuple):
        raise refusal("labels", repr(labels), "a list of landmarks, or None for all")
    for label in labels or ():
        if label not in known:
            raise refusal("labels", repr(label), f"in the table {path}, which has {some(known)}")
    labels, annotated = list(labels or known), []
    for name, item in items.items():
        rows = dict(zip(tables[name].labels, points[name], strict=True))
        missing = np.full(points[name].shape[1], np.nan)
        landmarks = np.array([rows.get(label, missing) for label in labels], np.float32)
        annotated.append(item | {"name": name, "landmarks": landmarks, "labels": labels})
    return annotated, [_scores(tables[name], name, labels) for name in names]


def _scores(table: LandmarkTable, name: str, labels: Sequence[str]) -> np.ndarray:
    if table.scores is None:
        return np.full(len(labels), np.nan)
    own = table.scores.get(name, next(iter(table.scores.values())))  # a file of 3D Slicer knows no name of the image
    rows = dict(zip(table.labels, own, strict=True))
    return np.array([rows.get(label, np.nan) for label in labels])


def _slicer_file(path: Path, name: str, count: int) -> Path:
    """File with the landmarks of image ``name``, one of ``count``."""
    if not path.is_dir():
        if count != 1:
            raise refusal("table", f"'{path}' for {count} images", "a CSV file, or a folder with a file an image")
        return path
    suffixes = [suffix for suffix in FORMATS if suffix != ".csv"]
    files = (file for file in files_of(path) if file.name.lower().endswith(tuple(suffixes)))
    found = [file for file in files if image_name(file) == name]
    if len(found) != 1:
        names = " or ".join(f"{name}{suffix}" for suffix in suffixes)
        raise refusal("table", f"{len(found)} of them in '{path}'", f"a folder with either {names}")
    return found[0]


def as_path(argument: str, value: object) -> Path:
    """A path, also where a command line has made a number or a tuple of a name, or ``a`` or ``a::b`` of ``a#b``.

    Raises:
        ValueError: for anything else, naming the argument.
    """
    if isinstance(value, tuple):
        value = ",".join(map(str, value))
    if isinstance(value, bool) or not isinstance(value, str | os.PathLike | int | float):
        raise refusal(argument, repr(value), "a path; write ./NAME for a name that could be something else")
    path = Path(str(value))
    if path.exists() or path.name in ("", ".."):
        return path
    if (unchanged := Path(str(path).replace("::", "#"))).exists():
        return unchanged
    longer = list(path.parent.glob(f"{escape(path.name)}#*"))  # Python Fire takes `#` as the start of a comment
    if len(longer) != 1:
        return path
    warn(path, f"does not exist: `{argument}` is taken as '{longer[0]}'")
    return longer[0]


def _named(argument: str, images: Sequence[dict[str, str]]) -> dict[str, dict[str, str]]:
    """Images by their names, which have to differ."""
    items: dict[str, dict[str, str]] = {}
    for item in images:
        known = items.setdefault(image_name(item["image"]), item)
        if known is not item:
            raise refusal(argument, f"'{known['image']}' and '{item['image']}'", "images of different names")
    return items


def _folders(folder: Path) -> Iterator[Path]:
    """A folder and all below that are not hidden."""
    for place, names, _ in os.walk(folder):
        names[:] = [name for name in names if not name.startswith(".")]
        yield Path(place)


def images_below(folder: Path) -> Iterator[Path]:
    """Files with the suffix of an image in a folder and those below."""
    for place in _folders(folder):
        yield from (path for path in files_of(place) if has_image_suffix(path))


def _dicom_images(folder: Path, met: Collection[Path] | None) -> set[Path]:
    """The folder itself if its DICOM files are a volume; else the files, those that the pattern met if given."""
    broken: list[Path] = []
    series = series_in(folder, broken)
    if any(map(is_volume, series.values())):
        if len(series) > 1:
            accepted = "a folder for each DICOM series: move them apart"
            raise refusal("dataset_dir", f"'{folder}' with {len(series)}, {some(list(series))}", accepted)
        return {folder}
    images = {header.path for headers in series.values() for header in headers} | set(broken)
    return images if met is None else images.intersection(met)
