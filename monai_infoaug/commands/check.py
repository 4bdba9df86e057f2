"""Whether the files of a data set can be read and go together: what ``monai-infoaug check`` does."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median_low
from typing import NamedTuple

import numpy as np
from monai.data import MetaTensor
from monai.transforms import Compose, LoadImage
from monai.utils.enums import MetaKeys

from monai_infoaug._files import files_of
from monai_infoaug._require import LOSSY, WITHOUT_MILLIMETRES, reason, refusal
from monai_infoaug.data import LandmarkTable, SimpleITKReader, image_datalist, image_name, read_landmarks
from monai_infoaug.data._grids import Grid, in_words, misfit
from monai_infoaug.data._headers import ASSUMED
from monai_infoaug.data._landmark_files import FORMATS, some
from monai_infoaug.data._places import if_turned, outside
from monai_infoaug.data.datalists import images_below
from monai_infoaug.transforms import AssignPixdim

__all__ = ["Finding", "check_data"]

SIZE, SPACING = 10, 2  # times as many voxels, as large a voxel as the median of all


class Finding(NamedTuple):
    """What is to be said about a file.

    Args:
        path: the file.
        text: in a line.
        is_fault: whether the file is not fine; otherwise this is a note.
    """

    path: str
    text: str
    is_fault: bool = True


class Look(NamedTuple):
    """What is known of an image when its pixels are forgotten."""

    path: str
    channels: int
    grid: Grid


def check_data(
    data: str | os.PathLike,
    labels: str | os.PathLike | None = None,
    landmarks: str | os.PathLike | None = None,
    pixdim: float | Sequence[float] | None = None,
    origin: float | Sequence[float] = 0.0,
) -> list[Finding]:
    """Read every file of a data set as the bundles do, and say what is wrong with which.

    A file is not fine if it cannot be read, if the reader had to assume something about it, if it says no millimetres,
    shows nothing, or its axes are not at right angles (a tilted gantry); if it has another number of axes or channels
    than most, ten times as many voxels, or pixels twice as large; a label if there is no image of its name, or that
    has another size, spacing or place, or if its values are no numbers of classes; a landmark if it lies outside of
    its image. Files that are passed over and images without label or landmarks are noted.

    Args:
        data: folder of images, or one image.
        labels: folder of label images with the names of the images.
        landmarks: table of landmarks in millimetres, or folder of such, see
            :py:func:`monai_infoaug.data.landmark_datalist`; or 3D Slicer's file of the one image of its name.
        pixdim: millimetres a pixel, for files that do not say it. None: as the files say.
        origin: millimetres of the centre of the first pixel, with ``pixdim``.

    Returns:
        What is to be said, by file.

    Raises:
        ValueError: for a folder without images, a table that cannot be read, or a ``pixdim`` out of range.

    Example:
        >>> import SimpleITK, tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "b.mha").write_text("no image")
        >>> SimpleITK.WriteImage(SimpleITK.GaussianSource(size=[48, 40]), folder / "a.mha")
        >>> [(Path(found.path).name, found.is_fault) for found in check_data(folder)]
        [('b.mha', True)]
    """
    read = Reader(pixdim, origin)
    images = [item["image"] for item in image_datalist(data)]
    names = {image_name(path): path for path in images}
    tables = {} if landmarks is None else _tables(Path(landmarks), names, read.findings)
    is_of_one = landmarks is not None and os.path.isfile(landmarks) and not str(landmarks).lower().endswith(".csv")
    known: dict[str, str] = {}
    for item in [] if labels is None else image_datalist(labels):
        other = known.setdefault(image_name(item["image"]), item["image"])
        if other != item["image"]:
            read.find(item["image"], f"has the name of '{other}', which is taken")
    looks: list[Look] = []
    for path in images:
        name = image_name(path)
        if names[name] != path and (labels is not None or landmarks is not None):
            read.find(path, f"has the name of '{names[name]}', so that labels and landmarks cannot tell them apart")
        image = read(path)
        if labels is not None and name not in known:
            read.find(path, "has no label", False)
        if landmarks is not None and name not in tables and not is_of_one:
            read.find(path, "has no landmarks", False)
        if image is None:
            continue
        looks.append(read.look(path, image))
        if name in known:
            read.compare_label(known[name], looks[-1])
        if name in tables and looks[-1].grid.affine is not None:
            read.compare_landmarks(path, image, tables[name])
    for name, path in known.items():
        if name not in names:
            read.find(path, f"is a label without an image of the name {name!r}")
            read(path)
    order = {path: number for number, path in enumerate([*images, *known.values()])}
    found = [*read.findings, *_unlike(looks), *_passed_over(Path(data), images, landmarks)]
    return sorted(found, key=lambda finding: order.get(finding.path, len(order)))


class Reader:
    """Reads image after image, and gathers what is to be said about them."""

    def __init__(self, pixdim: float | Sequence[float] | None, origin: float | Sequence[float]) -> None:
        self.is_sized = pixdim is not None
        self.load = Compose(
            [
                LoadImage(reader=SimpleITKReader(), ensure_channel_first=True),
                AssignPixdim(pixdim, origin),
            ]
        )
        self.findings: list[Finding] = []

    def find(self, path: str | os.PathLike, text: str, is_fault: bool = True) -> None:
        """Add what is to be said about a file."""
        self.findings.append(Finding(os.fspath(path), text, is_fault))

    def __call__(self, path: str) -> MetaTensor | None:
        """The image (C, *S), None if it cannot be read."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                image = self.load(path)
            except Exception as error:  # whatever it is, it is this file's
                self.find(path, f"cannot be read: {reason(error)}")
                return None
        for warning in caught:
            text = str(warning.message).removeprefix(f"'{path}' ").removesuffix(".")
            if not (self.is_sized and text.endswith(ASSUMED)):
                self.find(path, text)
        return image

    def look(self, path: str, image: MetaTensor) -> Look:
        """What is to be remembered of an image; what is wrong with itself is found."""
        dims = image.ndim - 1
        grid = Grid(tuple(image.shape[1:]), image.affine.numpy())
        is_sized = not any(found.path == path and found.text.endswith(ASSUMED) for found in self.findings)
        if not self.is_sized and path.lower().endswith(WITHOUT_MILLIMETRES):
            is_sized = False
            self.find(path, "says no millimetres: give `pixdim`, 1 for pixels")
        axes = grid.matrix[:-1, :-1] / grid.spacing
        if np.abs(axes.T @ axes - np.eye(dims)).max() > 1e-3:
            self.find(path, "is tilted: its axes are not at right angles")
        if image.min() == image.max():
            self.find(path, f"shows nothing: all its values are {image.min():g}")
        return Look(path, len(image), grid if is_sized else grid._replace(affine=None))

    def compare_label(self, path: str, image: Look) -> None:
        """Read a label and find what does not go with its image."""
        label = self(path)
        if label is None:
            return
        before = len(self.findings)
        look = self.look(path, label)
        own = ("says no millimetres", "shows nothing")  # which a label may: it lies where its image does
        self.findings[before:] = [found for found in self.findings[before:] if not found.text.startswith(own)]
        if path.lower().endswith(LOSSY):
            self.find(path, "is a label in JPEG, which changes the values")
        if look.channels != 1:
            self.find(path, f"is a label with {look.channels} channels instead of 1")
        if not label.eq(label.round()).all():
            self.find(path, "is a label with values that are no whole numbers")
        if unlike := misfit(look.grid, image.grid):
            self.find(path, unlike)

    def compare_landmarks(self, path: str, image: MetaTensor, table: LandmarkTable) -> None:
        """Find landmarks that lie outside of their image."""
        name, dims = image_name(path), image.ndim - 1
        points = table.points.get(name, next(iter(table.points.values())))
        if points.shape[1] > dims and not np.nan_to_num(points[:, dims:]).any():  # what Slicer adds
            points = points[:, :dims]
        if points.shape[1] != dims:
            self.find(path, f"has landmarks of {points.shape[1]} coordinates for {dims} axes")
            return
        own = LandmarkTable(table.labels, {name: points}, space=table.space)
        turned = own.to(image.meta.get(MetaKeys.SPACE) or "RAS").points[name]
        voxels, is_outside = outside(turned, image)
        lost = [
            f"{label!r} at voxel {voxel.round(1).tolist()}"
            for label, voxel, out in zip(table.labels, voxels, is_outside, strict=True)
            if out
        ]
        if lost:
            more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
            extent = " x ".join(map(str, image.shape[1:]))
            hint = if_turned(turned, image)
            self.find(path, f"has landmarks outside of its {extent} voxels: {', '.join(lost[:3])}{more}{hint}")


def _tables(path: Path, names: Mapping[str, str], findings: list[Finding]) -> dict[str, LandmarkTable]:
    """Table with the landmarks of each image that has some."""
    if path.name.lower().endswith(".csv"):
        table = read_landmarks(path)
        found = {name: table for name, points in table.points.items() if np.isfinite(points).any()}
        files = dict.fromkeys(found, path)
    elif path.is_dir():
        found = {}
        files = {image_name(file): file for file in files_of(path) if file.name.lower().endswith(tuple(FORMATS))}
        for name, file in files.items():
            try:
                table = read_landmarks(file)
            except ValueError as error:
                findings.append(Finding(str(file), f"cannot be read: {reason(error)}"))
            else:
                found[name] = table
    elif len(names) == 1 or image_name(path) in names:
        name = image_name(path) if image_name(path) in names else next(iter(names))
        found, files = {name: read_landmarks(path)}, {name: path}
    else:
        accepted = "a CSV file, a folder with a file an image, or a file with the name of an image"
        raise refusal("landmarks", f"'{path}' for {len(names)} images", accepted)
    absent = [name for name in files if name not in names]
    if absent:
        findings.append(Finding(str(path), f"has landmarks of {some(absent)}, of which there is no image", False))
    return found


def _unlike(looks: Sequence[Look]) -> Iterator[Finding]:
    """Images that are unlike the others."""
    if not looks:
        return
    for kind, of in (("axes", lambda look: len(look.grid.shape)), ("channels", lambda look: look.channels)):
        usual = Counter(map(of, looks)).most_common(1)[0][0]
        for look in looks:
            if of(look) != usual:
                yield Finding(look.path, f"has {of(look)} {kind}, most have {usual}")
        looks = [look for look in looks if of(look) == usual]
    voxels = median_low(float(np.prod(look.grid.shape)) for look in looks)
    for look in looks:
        if not 1 / SIZE < np.prod(look.grid.shape) / voxels < SIZE:
            yield Finding(look.path, f"has {in_words(look.grid.shape)} voxels, most about {voxels:.0f} in all")
    sized = [(look, look.grid.spacing) for look in looks if look.grid.affine is not None]
    if sized:
        sides = [median_low(column) for column in zip(*(spacing for _, spacing in sized), strict=True)]
        for look, spacing in sized:
            if any(not 1 / SPACING < side / usual < SPACING for side, usual in zip(spacing, sides, strict=True)):
                yield Finding(look.path, f"has voxels of {in_words(spacing)} mm, others of {in_words(sides)} mm")


def _passed_over(folder: Path, images: Sequence[str], table: str | os.PathLike | None) -> Iterator[Finding]:
    """What lies in the folder of the images and is none."""
    if not folder.is_dir() or str(folder) in images:
        return
    read = {place for path in images for place in (Path(path), *Path(path).parents)}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path in read or path == (table and Path(table)):
            continue
        if path.is_dir() and any(images_below(path)):
            yield Finding(str(path), "is passed over: its images lie deeper than those that are read", False)
        else:
            yield Finding(str(path), "is passed over: no image by its name and content", False)
