"""What the tiers do to one image, as a page that a browser opens without a server or a network."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor
from nibabel.orientations import io_orientation
from torch import Tensor

from monai_infoaug._files import ledger_for
from monai_infoaug._require import WITHOUT_MILLIMETRES, refusal
from monai_infoaug.commands import _page_pictures as pictures
from monai_infoaug.commands._images import read_image, require_millimetres
from monai_infoaug.commands._recipe import NUM_BINS, Recipe, Settings, recipe_for
from monai_infoaug.commands._steps import Step, as_code, as_python, run, step
from monai_infoaug.handlers import CHANGE_COLOURS, INFORMATION_COLOURS, TIER_COLOURS
from monai_infoaug.information import load_thresholds, tier_thresholds
from monai_infoaug.information._files import read_entry

__all__ = ["inspect_image"]

MAX_VIEW = 640  # pixels of a side of a view
POINTS = 48
PLANES = ("sagittal, the front", "coronal, the patient's right", "axial, the patient's right")
BLACK = 0.15  # share of a foreground without any information that is worth a word


def inspect_image(
    path: str | os.PathLike,
    out: str | os.PathLike = "inspect.html",
    modality: str | None = None,
    pixdim: float | Sequence[float] | None = None,
    origin: float | Sequence[float] = 0.0,
    working_pixdim: float | Sequence[float] | None = None,
    window: int | Sequence[int] | None = None,
    window_mm: float | Sequence[float] | None = None,
    num_bins: int | None = None,
    thresholds: Sequence[float] | None = None,
    intensity: str | None = None,
    axis: int = -1,
    index: int | None = None,
    seed: int = 0,
    strengths: Sequence[float] | None = None,
    foreground: str | float | None = None,
    ct_window: str | Sequence[float] | None = None,
    calibration: str | os.PathLike | None = None,
    bundle: str | os.PathLike | None = None,
    overlay: str | None = None,
) -> None:
    """Write a page with the information map, tiers, intensity by tier and paired views of one image.

    The page needs no other file and no network. Its thresholds can be moved, and it shows the transforms as code.

    Args:
        path: image that SimpleITK reads, 2D or 3D, grey or RGB; or a folder with a DICOM series.
        out: file of the page.
        modality: see :py:class:`monai_infoaug.transforms.ModalityPresetd`. None: that of the calibration, or what a
            DICOM file says; else ``"rgb"`` for three channels, ``"xray"`` in 2D, ``"ct"`` in 3D if a value is -500 or
            less, else ``"mr"``.
        pixdim: millimetres a pixel, for PNG and JPEG. None: as the file says.
        origin: millimetres of the first pixel's centre, with ``pixdim``.
        working_pixdim: millimetres a pixel that the image is resampled to first. None: those of the calibration or the
            bundle, without which it is not.
        window: odd side of the window in voxels, see :py:class:`monai_infoaug.transforms.InformationMap`. None: 9 in
            2D, 5 in 3D.
        window_mm: side of the window in millimetres, instead of ``window``.
        num_bins: number of grey-level bins. None: 32.
        thresholds: (t1, t2), in bits, that the page opens with. None: those of the calibration, or the tertiles inside
            the foreground.
        intensity: ``"rich"`` (None), ``"published"`` or ``"cross_contrast"``, see
            :py:class:`monai_infoaug.transforms.RandTierIntensity`.
        axis: axis along which a volume is cut.
        index: number of the slice for samples and views. None: the middle one.
        seed: seed of samples and views.
        strengths: of the change of the (low, medium, high) tier. None: the preset's own.
        foreground: ``"body"`` or a grey level of the file: the largest connected part above the level, or Otsu's, with
            its holes filled, so that black surrounds do not count, see :py:class:`monai_infoaug.transforms.BodyMask`.
            None: by the modality.
        ct_window: Hounsfield units (low, high) that become 0 and 1, or ``"soft"``, ``"brain"``, ``"lung"``, ``"bone"``.
            None: (-200, 1000).
        calibration: file of ``monai-infoaug calibrate``; what it says may not be given beside it.
        bundle: folder of a bundle, which may run code of its own, or name of one of the package: the page shows what
            its training would do. Other settings are then those of the bundle.
        overlay: name of a method of the bundle, such as ``"label_efficient"`` of ``segmentation``.

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
    settings = Settings(
        modality,
        working_pixdim,
        window,
        window_mm,
        num_bins,
        thresholds,
        intensity,
        strengths,
        foreground,
        ct_window,
        calibration,
        bundle,
        overlay,
    )
    settings.require_sound(seed)
    if Path(out).is_dir() or not Path(out).absolute().parent.is_dir():
        raise refusal("out", out, "a file in a folder that exists")
    ledger, name = ledger_for(out)
    ledger.require_ours([name], [path, *([] if calibration is None else [calibration])])
    require_millimetres(path, pixdim, working_pixdim, window_mm)

    raw, reading = read_image(path, pixdim, origin)
    recipe = recipe_for(path, raw, settings)
    if any(each["_target_"] == "monai.transforms.Spacingd" for each in recipe.scaling):
        require_millimetres(path, pixdim, working_pixdim or recipe)
    item = run([*recipe.scaling, *recipe.measure], {"image": raw})
    item.setdefault("foreground", torch.ones_like(item["information"], dtype=torch.uint8))
    axis, index = _cut(item["image"], axis, index)
    tertiles = tier_thresholds(item["information"], mask=item["foreground"])
    tiers, opening = _opening(recipe.tiers, tertiles, thresholds, item)
    item = run([tiers], item)

    top = math.log2(_bins(recipe))
    volumes, pixel = pictures.for_screen(item, axis)
    plane = {key: volume[:, index] for key, volume in volumes.items()}
    views = _views(plane["image"].shape[1:], recipe)
    page = {
        "name": Path(path).resolve().name,
        "facts": [*_facts(raw, item, axis), *recipe.facts],
        "colours": {"tiers": TIER_COLOURS, "information": INFORMATION_COLOURS, "change": CHANGE_COLOURS},
        "volume": raw.ndim == 4,
        "pixel": pixel,
        "bits": top,
        "tertiles": tertiles,
        "thresholds": opening,
        "black": _black(item) if foreground is None else 0,
        "histogram": pictures.histogram(item["information"][item["foreground"] > 0], top),
        "maps": pictures.mosaics(volumes, top, index) | _plane(item["image"], axis) | {"pixel": pixel},
        "crossing": [
            pictures.crossing(item, top, other) | _plane(item["image"], other)
            for other in range(item["image"].ndim - 1)
            if raw.ndim == 4 and other != axis
        ],
        "intensity": recipe.preset,
        "strengths": recipe.strengths,
        "draw": recipe.draw,
        "reduced": pictures.reduction(plane["image"]),
        "unchanged": pictures.sample(plane["image"]),
        "samples": pictures.samples(plane, recipe.changes[1], seed),
        "pair": pictures.pair(views, plane, seed),
        "code": as_code([*reading, *recipe.scaling, *recipe.measure, tiers | {"thresholds": "@thresholds"}]),
        "pair_code": as_python(views) + f".set_random_state(seed={seed})",
    }
    template = files("monai_infoaug.commands").joinpath("inspection.html").read_text(encoding="utf-8")
    ledger.write(name, template.replace("@page", json.dumps(page).replace("<", "\\u003c"), 1))


def _opening(
    tiers: Step, tertiles: tuple[float, float], given: Sequence[float] | None, item: Mapping[str, MetaTensor]
) -> tuple[Step, tuple[float, float]]:
    """The step that splits an image, by thresholds, and these: given ones, a file's, or quantiles."""
    step_of = {name: value for name, value in tiers.items() if name not in ("file", "quantiles", "thresholds")}
    if given is not None:
        found = tuple(map(float, given))
    elif tiers.get("file") is not None:
        found = load_thresholds(tiers["file"])
    elif tiers.get("thresholds") is not None:
        found = tuple(map(float, tiers["thresholds"]))
    elif tiers.get("quantiles") is not None:
        found = tier_thresholds(item["information"], tiers["quantiles"], item["foreground"])
    else:
        found = tertiles
    return step_of | {"thresholds": found}, (found[0], found[1])


def _bins(recipe: Recipe) -> int:
    """Number of grey-level bins of the map of information."""
    measure = next(each for each in recipe.measure if each["_target_"].endswith(".InformationMapd"))
    if measure.get("file") is not None:
        return int(read_entry(measure["file"], "information", "a calibration")["num_bins"])
    return int(measure.get("num_bins") or NUM_BINS)


def _black(item: Mapping[str, MetaTensor]) -> float:
    """Share that tells nothing of an image that is all foreground, if it is large: perhaps a black surround."""
    share = float((item["information"] <= 0).float().mean())
    return share if share > BLACK and bool((item["foreground"] > 0).all()) else 0.0


def _plane(image: MetaTensor, axis: int) -> dict[str, Any]:
    """Name of the slices along an axis, and what of the patient is left, right, at the top and at the bottom of one."""
    if image.ndim == 3:
        return {"plane": "", "ends": []}
    patient = [int(world) for world in io_orientation(image.affine.numpy())[:, 0]]
    across, down = sorted(patient[a] for a in range(3) if a != axis)
    plane = PLANES[patient[axis]].partition(",")[0]
    return {"plane": plane, "ends": ["RAS"[across], "LPI"[across], "RAS"[down], "LPI"[down]]}


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
        sides = [each.pixdim[: image.ndim - 1] for each in (raw, image)]
        facts.append(("cropped to" if torch.allclose(*sides) else "resampled to", f"{size(image)}, {spacing(image)}"))
    facts.append(("foreground", f"{100 * item['foreground'].double().mean():.0f} %"))
    if image.ndim == 4:
        plane = PLANES[int(io_orientation(image.affine.numpy())[axis, 0])]
        facts.append(("slices", f"along axis {axis}: {plane} on the left"))
    return facts


def _views(size: Sequence[int], recipe: Recipe) -> Step:
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
    first, second = recipe.changes
    return step(
        "monai_infoaug.transforms.RandPairedViewsd",
        keys="image",
        roi_size=[min(max(2, 3 * side // 4), MAX_VIEW) for side in size],
        spatial=spatial,
        intensity=first if first == second else [first, second],
        num_points=POINTS,
        **recipe.draw,
        mask_key="foreground",
        outputs=("coords", "sampling"),
    )
