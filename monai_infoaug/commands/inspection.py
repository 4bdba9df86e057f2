"""What the tiers do to one image, as a page that a browser opens without a server or a network."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from monai.data import MetaTensor
from nibabel.orientations import io_orientation
from torch import Tensor

from monai_infoaug._files import ledger_for
from monai_infoaug._require import WITHOUT_MILLIMETRES, refusal
from monai_infoaug.commands import _page_pictures as pictures
from monai_infoaug.commands._images import read_image, require_measurable, require_millimetres, resampling
from monai_infoaug.commands._steps import Step, as_code, as_python, run, step
from monai_infoaug.information import tier_thresholds
from monai_infoaug.transforms import InformationTiers, guess_modality

__all__ = ["inspect_image"]

MAX_VIEW = 1000  # pixels of a side of a view
POINTS, SHARES = 48, (0.2, 0.4, 0.4)
PLANES = ("sagittal, the front", "coronal, the patient's right", "axial, the patient's right")


def inspect_image(
    path: str | os.PathLike,
    out: str | os.PathLike = "inspect.html",
    modality: str | None = None,
    pixdim: float | Sequence[float] | None = None,
    origin: float | Sequence[float] = 0.0,
    working_pixdim: float | Sequence[float] | None = None,
    window: int | Sequence[int] = 9,
    window_mm: float | Sequence[float] | None = None,
    num_bins: int = 32,
    thresholds: Sequence[float] | None = None,
    intensity: str = "rich",
    axis: int = -1,
    index: int | None = None,
    seed: int = 0,
) -> None:
    """Write a page with the information map, tiers, intensity by tier and paired views of one image.

    The page needs no other file and no network. Its thresholds can be moved, and it shows the transforms as code.

    Args:
        path: image that SimpleITK reads, 2D or 3D, grey or RGB; or a folder with a DICOM series.
        out: file of the page.
        modality: see :py:class:`monai_infoaug.transforms.ModalityPresetd`. None: ``"rgb"`` for three channels,
            ``"xray"`` in 2D, ``"ct"`` in 3D if a value is -500 or less, else ``"mr"``.
        pixdim: millimetres a pixel, for PNG and JPEG. None: as the file says.
        origin: millimetres of the first pixel's centre, with ``pixdim``.
        working_pixdim: millimetres a pixel that the image is resampled to first. None: it is not.
        window: odd side of the window in voxels, see :py:class:`monai_infoaug.transforms.InformationMap`.
        window_mm: side of the window in millimetres, instead of ``window``.
        num_bins: number of grey-level bins.
        thresholds: (t1, t2), in bits, that the page opens with. None: the tertiles inside the foreground.
        intensity: ``"rich"``, ``"published"`` or ``"cross_contrast"``, see
            :py:class:`monai_infoaug.transforms.RandTierIntensity`.
        axis: axis along which a volume is cut.
        index: number of the slice for samples and views. None: the middle one.
        seed: seed of samples and views.

    Raises:
        ValueError: for an unreadable file, a setting that does not suit it, a slice that it does not have, or an
            ``out`` that is there and was not written by this function, or was changed since.
        OSError: if ``out`` cannot be written.

    Example:
        >>> import SimpleITK, tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> SimpleITK.WriteImage(SimpleITK.GaussianSource(size=[48, 40]), folder / "blob.mha")
        >>> inspect_image(folder / "blob.mha", folder / "blob.html", window=5, thresholds=(0.5, 1.5))
        >>> (folder / "blob.html").stat().st_size > 0
        True
    """
    require_measurable(window, window_mm, num_bins, modality, intensity, working_pixdim, seed)
    InformationTiers(thresholds)
    if Path(out).is_dir() or not Path(out).absolute().parent.is_dir():
        raise refusal("out", out, "a file in a folder that exists")
    ledger, name = ledger_for(out)
    ledger.require_ours([name], [path])
    require_millimetres(path, pixdim, working_pixdim, window_mm)

    raw, reading = read_image(path, pixdim, origin)
    dims = raw.ndim - 1
    guessed = guess_modality(raw)
    scaling = [step("monai_infoaug.transforms.ModalityPresetd", keys="image", modality=modality or guessed)]
    if working_pixdim is not None:
        scaling.insert(0, resampling(raw, working_pixdim))
    item = run(scaling, {"image": raw})
    axis, index = _cut(item["image"], axis, index)

    side: dict[str, Any] = {"window": window} if window_mm is None else {"window_mm": window_mm}
    mask = {"mask_key": "foreground"}
    measure = step("monai_infoaug.transforms.InformationMapd", keys="image", **side, num_bins=num_bins, **mask)
    item = run([measure], item)
    tertiles = tier_thresholds(item["information"], mask=item["foreground"])
    opening = tertiles if thresholds is None else tuple(map(float, thresholds))
    tiers = step("monai_infoaug.transforms.InformationTiersd", keys="information", thresholds=opening, **mask)
    item = run([tiers], item)

    top = math.log2(num_bins)
    volumes, pixel = pictures.for_screen(item, axis)
    plane = {key: volume[:, index] for key, volume in volumes.items()}
    views = _views(plane["image"].shape[1:], intensity)
    page = {
        "name": Path(path).resolve().name,
        "facts": [
            *_facts(raw, item, axis),
            ("modality", modality or f"{guessed} (assumed)"),
            ("information", ", ".join(f"{name} {value}" for name, value in (*side.items(), ("bins", num_bins)))),
        ],
        "volume": dims == 3,
        "pixel": pixel,
        "bits": top,
        "tertiles": tertiles,
        "thresholds": opening,
        "histogram": pictures.histogram(item["information"][item["foreground"] > 0], top),
        "maps": pictures.mosaics(volumes, top, index),
        "intensity": intensity,
        "reduced": pictures.reduction(plane["image"]),
        "unchanged": pictures.sample(plane["image"]),
        "samples": pictures.samples(plane, intensity, seed),
        "pair": pictures.pair(views, plane, seed),
        "code": as_code([*reading, *scaling, measure, tiers | {"thresholds": "@thresholds"}]),
        "pair_code": as_python(views) + f".set_random_state(seed={seed})",
    }
    template = files("monai_infoaug.commands").joinpath("inspection.html").read_text(encoding="utf-8")
    ledger.write(name, template.replace("@page", json.dumps(page).replace("<", "\\u003c"), 1))


def _cut(image: Tensor, axis: int, index: int | None) -> tuple[int, int]:
    """The axis along which a volume is cut and the number of the slice, checked; for an image of two axes (2, 0)."""
    dims = image.ndim - 1
    if dims != 3 and (axis != -1 or index):
        raise refusal("axis and slice", (axis, index), "left out for a 2D image")
    if axis not in range(-3, 3):
        raise refusal("axis", axis, "0, 1 or 2")
    count = image.shape[1:][axis] if dims == 3 else 1
    index = count // 2 if index is None else index
    if index not in range(count):
        raise refusal("slice", index, f"from 0 to {count - 1} along axis {axis % 3}")
    return axis % 3, index


def _facts(raw: MetaTensor, item: Mapping[str, MetaTensor], axis: int) -> list[tuple[str, str]]:
    """What is known about an image, and what was assumed: pairs of a name and a text."""

    def size(image: MetaTensor) -> str:
        return " x ".join(map(str, image.shape[1:])) + (", RGB" if len(image) == 3 else "")

    def spacing(image: MetaTensor) -> str:
        return " x ".join(f"{side:.4g}" for side in image.pixdim[: image.ndim - 1].tolist()) + " mm"

    image = item["image"]
    unknown = str(raw.meta.get("filename_or_obj")).lower().endswith(WITHOUT_MILLIMETRES) and (raw.pixdim == 1).all()
    facts = [
        ("size", size(raw)),
        ("spacing", spacing(raw) + (" (assumed)" if unknown else "")),
        ("values", f"{raw.min():.6g} to {raw.max():.6g}"),
    ]
    if raw.shape != image.shape:
        facts.append(("resampled to", f"{size(image)}, {spacing(image)}"))
    facts.append(("foreground", f"{100 * item['foreground'].double().mean():.0f} %"))
    if image.ndim == 4:
        plane = PLANES[int(io_orientation(image.affine.numpy())[axis, 0])]
        facts.append(("slices", f"along axis {axis}: {plane} on the left"))
    return facts


def _views(size: Sequence[int], intensity: str) -> Step:
    """The pair of views of a slice of this size."""
    spacing = max(8, min(size) // 6)
    spatial = step(
        "monai.transforms.Rand2DElastic",
        prob=1.0,
        spacing=(spacing, spacing),
        magnitude_range=(round(spacing / 40, 2), round(spacing / 12, 2)),
        rotate_range=0.26,
        scale_range=0.15,
        padding_mode="zeros",
    )
    return step(
        "monai_infoaug.transforms.RandPairedViewsd",
        keys="image",
        roi_size=[min(max(2, 3 * side // 4), MAX_VIEW) for side in size],
        spatial=spatial,
        intensity=step("monai_infoaug.transforms.RandTierIntensity", transforms=intensity),
        num_points=POINTS,
        shares=SHARES,
        mask_key="foreground",
        outputs=("coords", "sampling"),
    )
