"""What the images of a folder are: read once, before anything is planned."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from monai.utils.enums import MetaKeys
from tqdm import tqdm

from monai_infoaug._require import GIVEN, WITHOUT_MILLIMETRES, reason, refusal
from monai_infoaug.commands._images import read_image, said_modality
from monai_infoaug.data._grids import Grid
from monai_infoaug.transforms import guess_modality

UNLIKE = 2.0  # times larger or smaller along an axis than usual is another kind of image


@dataclass(frozen=True)
class Survey:
    """What images have in common.

    Args:
        names: each image that goes with the others to its name.
        left_out: each other file to the reason why it is left out.
        dims: number of spatial axes.
        channels: number of channels.
        modality: "ct", "mr", "xray" or "rgb".
        modality_said: whether the files say it; else it is guessed.
        extent: median extent in millimetres along each axis.
        pixdim: median millimetres of a voxel along each axis.
        grids: where the voxels of each image lie.
        spaces: how the axes of each image run, "RAS" or "LPS".
    """

    names: dict[Path, str]
    left_out: dict[Path, str]
    dims: int
    channels: int
    modality: str
    modality_said: bool
    extent: tuple[float, ...]
    pixdim: tuple[float, ...]
    grids: dict[Path, Grid] = field(default_factory=dict)
    spaces: dict[Path, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Image:
    grid: Grid
    space: str
    channels: int
    extent: tuple[float, ...]
    pixdim: tuple[float, ...]
    modality: str
    said: bool

    @property
    def kind(self) -> tuple[int, int]:
        return len(self.grid.shape), self.channels


def survey_images(
    names: Mapping[Path, str],
    first: Sequence[Path] = (),
    pixdim: float | Sequence[float] | None = None,
    origin: float | Sequence[float] = 0.0,
) -> Survey:
    """Read images, and tell what they have in common and which do not go with the others.

    Args:
        names: each image to its name.
        first: of these, those that the others have to go with, such as templates.
        pixdim: millimetres a pixel, for files that do not say it.
        origin: millimetres of the first pixel's centre.

    Returns:
        What they are; images that cannot be read, have other axes or channels, or are of another size altogether, are
        left out.

    Raises:
        ValueError: if one of the ``first`` is left out, if no image is left, or if nobody says the millimetres.
    """
    unsized = [path for path in names if str(path).lower().endswith(WITHOUT_MILLIMETRES)]
    if pixdim is None and unsized:
        raise refusal("pixdim", f"none for '{unsized[0]}'", GIVEN)
    found: dict[Path, _Image] = {}
    left_out: dict[Path, str] = {}
    for path in tqdm(names, "Reading", unit="image", disable=None):
        try:
            found[path] = _looked_at(path, pixdim, origin)
        except (OSError, RuntimeError, ValueError) as error:
            left_out[path] = reason(error)
    if not found:
        raise refusal("images", next(iter(left_out.values()), "none"), "at least one that can be read")
    leading = [found[path] for path in first if path in found] or list(found.values())
    dims, channels = Counter(image.kind for image in leading).most_common(1)[0][0]
    alike = [image for image in found.values() if image.kind == (dims, channels)]
    extent, usual = (np.median([getattr(image, name) for image in alike], axis=0) for name in ("extent", "pixdim"))
    for path, image in found.items():
        if image.kind != (dims, channels):
            own, others = ("{} channels in {}D".format(*kind[::-1]) for kind in (image.kind, (dims, channels)))
            left_out[path] = f"it has {own}, the others have {others}"
        elif (np.maximum(image.extent / extent, extent / image.extent) > UNLIKE).any():
            own, others = (" x ".join(f"{side:.0f}" for side in size) for size in (image.extent, extent))
            left_out[path] = (
                f"it is of {own} mm, the others of {others} mm: another part of the body, or a wrong pixel size"
            )
    for path in first:
        if path in left_out:
            raise refusal("template", f"'{path}': {left_out[path]}", "an image like the others")
    modalities = Counter((image.modality, image.said) for image in alike)
    modality, said = modalities.most_common(1)[0][0]
    return Survey(
        {path: name for path, name in names.items() if path not in left_out},
        left_out,
        dims,
        channels,
        modality,
        said,
        tuple(float(side) for side in extent),
        tuple(float(side) for side in usual),
        {path: found[path].grid for path in names if path not in left_out},
        {path: found[path].space for path in names if path not in left_out},
    )


def _looked_at(path: Path, pixdim: float | Sequence[float] | None, origin: float | Sequence[float]) -> _Image:
    image, _ = read_image(path, pixdim, origin)
    said = said_modality(path) if len(image) == 1 else None
    sides = tuple(float(side) for side in image.pixdim[: image.ndim - 1])
    extent = tuple(length * side for length, side in zip(image.shape[1:], sides, strict=True))
    grid = Grid(tuple(image.shape[1:]), image.affine.double().numpy())
    space = image.meta.get(MetaKeys.SPACE) or "RAS"
    return _Image(grid, space, len(image), extent, sides, said or guess_modality(image), said is not None)


def link_images(names: Mapping[Path, str], folder: str | os.PathLike) -> Path:
    """Make a folder with a link a name to each image, as the bundles want them; copies where there can be no links.

    Args:
        names: each image, a file or a folder with a DICOM series, to its name.
        folder: folder, made where it is missing; links of an earlier call stay where the image is the same.

    Returns:
        ``folder``.
    """
    folder = Path(os.path.abspath(folder))
    folder.mkdir(parents=True, exist_ok=True)
    for path, name in names.items():
        stem = path.name.split(".")[0]
        parts = [path] if path.is_dir() else [path, *(p for p in _beside(path) if p.name.split(".")[0] == stem)]
        for part in parts:
            suffix = (
                "" if part.is_dir() else "".join(part.suffixes[-2:] if part.suffix == ".gz" else part.suffixes[-1:])
            )
            target = folder / (name + suffix if part == path else part.name)
            if target.is_symlink() and os.readlink(target) != os.fspath(part.absolute()):
                target.unlink()  # another image has that name now
            if not os.path.lexists(target):
                target.symlink_to(part.absolute(), target_is_directory=part.is_dir())
    return folder


def _beside(path: Path) -> list[Path]:
    """Files that a header speaks of: the voxels of MetaImage, NRRD and Analyze are in a file of their own."""
    if path.suffix.lower() not in (".mhd", ".nhdr", ".hdr", ".img"):
        return []
    return [each for each in path.parent.iterdir() if each.suffix.lower() in (".raw", ".zraw", ".img", ".hdr", ".gz")]
