"""Reading an image for a command, and the check of settings before any is read."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from monai.data import MetaTensor
from monai.utils import ensure_tuple, ensure_tuple_rep

from monai_infoaug._files import files_of
from monai_infoaug._require import GIVEN, WITHOUT_MILLIMETRES, is_count, is_number, refusal
from monai_infoaug.commands._steps import Step, run, step
from monai_infoaug.data import SimpleITKReader, image_datalist
from monai_infoaug.data._dicom import MODALITY, is_dicom, read_header
from monai_infoaug.transforms import InformationMap, ModalityPreset
from monai_infoaug.transforms.intensity_presets import require_preset

OF_DICOM = {"CT": "ct", "PT": "mr", "MR": "mr"} | dict.fromkeys(
    ("CR", "DX", "MG", "PX", "RF", "RG", "XA", "IO"), "xray"
)
MAX_VOXELS = 2**31  # of an image that is resampled: 8 GiB


def read_image(
    path: str | os.PathLike, pixdim: float | Sequence[float] | None, origin: float | Sequence[float] = 0.0
) -> tuple[MetaTensor, list[Step]]:
    """Read an image as the bundles do.

    Args:
        path: 2D or 3D, grey or RGB; or a folder with a DICOM series.
        pixdim: millimetres a pixel. None: as the file says.
        origin: millimetres of the first pixel's centre, with ``pixdim``.

    Returns:
        The image (C, *S), a volume of one slice in 2D, and the steps that have read it.

    Raises:
        ValueError: naming a file that cannot be read, or an image that cannot be drawn.
    """
    steps = [
        step("monai.transforms.LoadImaged", keys="image", reader=step("monai_infoaug.data.SimpleITKReader")),
        step("monai.transforms.EnsureChannelFirstd", keys="image"),
    ]
    if pixdim is not None or origin != 0:
        steps.append(step("monai_infoaug.transforms.AssignPixdimd", keys="image", pixdim=pixdim, origin=origin))
    try:
        item = run(steps, {"image": os.fspath(path)})
    except (OSError, RuntimeError):
        SimpleITKReader().read(path)  # says in one line what is wrong, where MONAI lists what it tried
        raise
    shape = tuple(item["image"].shape)
    if len(shape) not in (3, 4) or shape[0] not in (1, 3):
        raise refusal("path", f"{path} of shape {shape}", "a 2D or 3D image with one channel or three")
    if shape[3:] == (1,):  # a radiograph in DICOM is a volume of one slice
        steps.append(step("monai.transforms.SqueezeDimd", keys="image", dim=-1))
        item = run(steps[-1:], item)
    return item["image"], steps


def said_modality(path: str | os.PathLike) -> str | None:
    """The modality that a DICOM file or series says; None for another file, or if it is none of ours."""
    file = next((each for each in files_of(Path(path)) if not each.name.startswith(".") and is_dicom(each)), None)
    return None if file is None else OF_DICOM.get(read_header(file).text(MODALITY))


def require_millimetres(path: str | os.PathLike, pixdim: object, *sizes: object) -> None:
    """Refuse sizes in millimetres for a picture whose millimetres nobody says.

    Raises:
        ValueError: naming ``pixdim``.
    """
    if pixdim is None and sizes.count(None) < len(sizes) and os.fspath(path).lower().endswith(WITHOUT_MILLIMETRES):
        raise refusal("pixdim", f"none for '{path}'", GIVEN)


def require_measurable(
    window: int | Sequence[int] | None,
    window_mm: float | Sequence[float] | None,
    num_bins: int | None,
    modality: str | None,
    intensity: str,
    working_pixdim: float | Sequence[float] | None,
    seed: int,
) -> None:
    """Refuse settings that no image can go with.

    Raises:
        ValueError: naming the setting.
    """
    InformationMap(window if window_mm is None else None, window_mm, num_bins)
    if modality is not None:
        ModalityPreset(modality)
    require_preset(intensity, "intensity")
    if working_pixdim is not None:
        sides = ensure_tuple(working_pixdim)
        if not all(is_number(side) and side > 0 for side in sides):
            raise refusal("working_pixdim", working_pixdim, "positive, in mm")
    require_seed(seed)


def require_seed(seed: int) -> None:
    """Refuse what generators do not take.

    Raises:
        ValueError: naming ``seed``.
    """
    if not is_count(seed) or seed >= 2**32:
        raise refusal("seed", seed, "at least 0 and below 2 ** 32")


def resampling(image: MetaTensor, working_pixdim: float | Sequence[float]) -> Step:
    """The step that resamples an image (C, *S), as the bundles do.

    Raises:
        ValueError: for more voxels than a computer holds, or another number of them than the image has axes.
    """
    dims = image.ndim - 1
    given = ensure_tuple(working_pixdim)
    if len(given) not in (1, dims):
        raise refusal("working_pixdim", given, f"one number or {dims}, one an axis of the image")
    sides = ensure_tuple_rep(working_pixdim, dims)
    extents = [n * float(old) for n, old in zip(image.shape[1:], image.pixdim, strict=False)]
    voxels = len(image) * math.prod(extent / new for extent, new in zip(extents, sides, strict=True))
    if voxels > MAX_VOXELS:
        extent = " x ".join(f"{side:.4g}" for side in extents)
        got = f"{working_pixdim} mm for an image of {extent} mm, {voxels:.1e} voxels"
        raise refusal("working_pixdim", got, f"for at most {MAX_VOXELS:.1e} voxels")
    return step("monai.transforms.Spacingd", keys="image", pixdim=sides, padding_mode="border")


def images_of(argument: str, given: Iterable[str | os.PathLike]) -> list[Path]:
    """The images of files and folders, each once.

    Raises:
        ValueError: naming what does not exist, and for none.
    """
    places = list(given)
    for place in places:
        if not Path(place).exists():
            raise refusal(argument, f"'{place}'", "files and folders")
    if not places:
        raise refusal(argument, "none", "files and folders")
    return list(dict.fromkeys(Path(item["image"]) for place in places for item in image_datalist(place)))
