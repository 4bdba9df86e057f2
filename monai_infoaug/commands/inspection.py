"""What the tiers do to one image, as a page that a browser opens without a server or a network."""

from __future__ import annotations

import json
import math
import os
import tempfile
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path
from pydoc import locate
from typing import Any

import SimpleITK
import torch
from monai.data import MetaTensor
from monai.utils import ensure_tuple, ensure_tuple_rep
from nibabel.orientations import io_orientation
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from monai_infoaug._require import refusal
from monai_infoaug.data import SimpleITKReader
from monai_infoaug.data.simpleitk_reader import WITHOUT_MILLIMETRES
from monai_infoaug.information import TIERS, tier_thresholds
from monai_infoaug.transforms import InformationMap, InformationTiers, ModalityPreset, RandTierIntensity, guess_modality
from monai_infoaug.transforms.tier_intensity import NAMES

__all__ = ["inspect_image"]

LEVELS = 254  # of information in a picture; 0 is outside of the foreground, 1 is no information, 255 the most
CELLS = 8 * LEVELS  # of the histogram, which gives the shares
MAX_VOXELS, MAX_PIXELS, MAX_SAMPLE = 10**7, 2 * 10**6, 400  # of a map, of a slice of it, of a sample's longer side
DRAWS = 3
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
        out: the page.
        modality: see :py:class:`monai_infoaug.transforms.ModalityPresetd`. None: ``"rgb"`` for three channels,
            ``"xray"`` in 2D, ``"ct"`` in 3D if a value is -500 or less, else ``"mr"``.
        pixdim: millimetres a pixel, for PNG and JPEG. None: as the file says.
        origin: millimetres of the first pixel's centre, with ``pixdim``.
        working_pixdim: millimetres a pixel that the image is resampled to first. None: it is not.
        window, window_mm, num_bins: see :py:class:`monai_infoaug.transforms.InformationMap`.
        thresholds: (t1, t2), in bits, that the page opens with. None: the tertiles inside the foreground.
        intensity: ``"rich"``, ``"published"`` or ``"cross_contrast"``, see
            :py:class:`monai_infoaug.transforms.RandTierIntensity`.
        axis: of a volume, the one that is cut.
        index: of the slice for samples and views. None: the middle one.
        seed: of samples and views.

    Raises:
        ValueError: for an unreadable file, a setting that does not suit it, or a slice that it does not have.
        OSError: if ``out`` cannot be written.

    Example:
        >>> folder = Path(tempfile.mkdtemp())
        >>> SimpleITK.WriteImage(SimpleITK.GaussianSource(size=[48, 40]), folder / "blob.mha")
        >>> inspect_image(folder / "blob.mha", folder / "blob.html", window=5, thresholds=(0.5, 1.5))
        >>> (folder / "blob.html").stat().st_size > 0
        True
    """
    check_settings(window, window_mm, num_bins, modality, intensity, working_pixdim, seed)
    InformationTiers(thresholds)
    writable = Path(out).absolute().parent.is_dir() and not Path(out).is_dir()
    if not writable:
        raise refusal("out", out, "a file in a folder that exists")

    reading = [
        _step("monai.transforms.LoadImaged", keys="image", reader=_step("monai_infoaug.data.SimpleITKReader")),
        _step("monai.transforms.EnsureChannelFirstd", keys="image"),
    ]
    if pixdim is not None or origin != 0:
        reading.append(_step("monai_infoaug.transforms.AssignPixdimd", keys="image", pixdim=pixdim, origin=origin))
    raw = read_image(path, partial(_run, reading))
    if raw.shape[3:] == (1,):  # a radiograph in DICOM is a volume of one slice
        reading.append(_step("monai.transforms.SqueezeDimd", keys="image", dim=-1))
        raw = _run(reading[-1:], {"image": raw})["image"]
    dims = raw.ndim - 1
    guessed = guess_modality(raw)
    scaling = [_step("monai_infoaug.transforms.ModalityPresetd", keys="image", modality=modality or guessed)]
    if working_pixdim is not None:
        sizes = ensure_tuple_rep(working_pixdim, dims)
        scaling.insert(0, _step("monai.transforms.Spacingd", keys="image", pixdim=sizes, padding_mode="border"))
    item = _run(scaling, {"image": raw})
    axis, index = _cut(item["image"], axis, index)

    side = {"window": window} if window_mm is None else {"window_mm": window_mm}
    mask = {"mask_key": "foreground"}
    measure = _step("monai_infoaug.transforms.InformationMapd", keys="image", **side, num_bins=num_bins, **mask)
    item = _run([measure], item)
    tertiles = tier_thresholds(item["information"], mask=item["foreground"])
    opening = tertiles if thresholds is None else tuple(map(float, thresholds))
    tiers = _step("monai_infoaug.transforms.InformationTiersd", keys="information", thresholds=opening, **mask)
    item = _run([tiers], item)

    volumes, pixel = _display(item, axis)
    plane = {key: volume[:, index] for key, volume in volumes.items()}
    levels = _levels(volumes["information"], volumes["foreground"], math.log2(num_bins))
    pair = _pair_step(plane["image"].shape[1:], intensity)
    page = {
        "name": Path(path).resolve().name,
        "facts": [
            *_facts(raw, item, axis),
            ("modality", modality or f"{guessed} (assumed)"),
            ("information", ", ".join(f"{name} {value}" for name, value in (*side.items(), ("bins", num_bins)))),
        ],
        "volume": dims == 3,
        "pixel": pixel,
        "bits": math.log2(num_bins),
        "tertiles": tertiles,
        "thresholds": opening,
        "histogram": _histogram(item["information"][item["foreground"] > 0], math.log2(num_bins)),
        "maps": _mosaics(volumes["image"], levels, index),
        "intensity": intensity,
        "reduced": _reduction(plane["image"]),
        "unchanged": _sample(plane["image"]),
        "samples": _samples(plane, intensity, seed),
        "pair": _pair(pair, plane, seed),
        "code": _code([*reading, *scaling, measure, tiers | {"thresholds": "@thresholds"}]),
        "pair_code": _python(pair) + f".set_random_state(seed={seed})",
    }
    template = files("monai_infoaug.commands").joinpath("inspection.html").read_text(encoding="utf-8")
    Path(out).write_text(template.replace("@page", json.dumps(page).replace("<", "\\u003c"), 1), encoding="utf-8")


def read_image(path: str | os.PathLike, reading: Callable[[dict[str, Any]], Mapping[str, Any]]) -> MetaTensor:
    """The image (C, *S) that ``reading`` makes of a file.

    Raises:
        ValueError: naming a file that cannot be read, or an image that cannot be drawn.
    """
    try:
        image = reading({"image": os.fspath(path)})["image"]
    except (OSError, RuntimeError):
        SimpleITKReader().read(path)  # says in one line what is wrong, where MONAI lists what it tried
        raise
    drawable = image.ndim in (3, 4) and len(image) in (1, 3)
    accepted = "a 2D or 3D image with one channel or three"
    if not drawable:
        raise refusal("path", f"{path} of shape {tuple(image.shape)}", accepted)
    return image


def check_settings(
    window: int | Sequence[int],
    window_mm: float | Sequence[float] | None,
    num_bins: int,
    modality: str | None,
    intensity: str,
    working_pixdim: float | Sequence[float] | None,
    seed: int,
) -> None:
    """Refuse what no image can go with, before any is read.

    Raises:
        ValueError: naming the setting.
    """
    InformationMap(window, window_mm, num_bins)
    if modality is not None:
        ModalityPreset(modality)
    if intensity not in NAMES:
        raise refusal("intensity", repr(intensity), f"one of {NAMES}")
    if not (working_pixdim is None or min(ensure_tuple(working_pixdim)) > 0):
        raise refusal("working_pixdim", working_pixdim, "positive, in mm")
    if not (seed >= 0):
        raise refusal("seed", seed, "at least 0")


def _step(target: str, **arguments: Any) -> dict[str, Any]:
    """A transform as bundles write it; what the page shows as code is what ran."""
    return {"_target_": target} | arguments


def _build(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    return locate(value["_target_"])(**{name: _build(v) for name, v in value.items() if name != "_target_"})


def _run(steps: Sequence[Mapping[str, Any]], item: Mapping[str, Any]) -> dict[str, Any]:
    for step in steps:
        item = _build(step)(item)
    return item


def _cut(image: Tensor, axis: int, index: int | None) -> tuple[int, int]:
    """The axis along which a volume is cut and the number of the slice, checked; for an image of two axes (2, 0)."""
    dims = image.ndim - 1
    if dims != 3 and (axis != -1 or index):
        raise refusal("axis and slice", (axis, index), "left out for a 2D image")
    if not (-3 <= axis < 3):
        raise refusal("axis", axis, "0, 1 or 2")
    count = image.shape[1:][axis] if dims == 3 else 1
    index = count // 2 if index is None else index
    if not (0 <= index < count):
        raise refusal("slice", index, f"from 0 to {count - 1} along axis {axis % 3}")
    return axis % 3, index


def _display(item: Mapping[str, MetaTensor], axis: int) -> tuple[dict[str, Tensor], tuple[float, float]]:
    """The maps as (C, slices, X, Y), as a screen counts: x to the right, y down; and the millimetres of a pixel.

    A volume is drawn as radiologists look at it: the patient's left, back and feet are to the right and down.
    """
    image = item["image"]
    maps = {key: item[key].as_tensor() for key in ("image", "information", "foreground", "tiers")}
    if image.ndim == 3:
        return {key: value[:, None] for key, value in maps.items()}, tuple(image.pixdim[:2].tolist())
    towards = io_orientation(image.affine.numpy())  # for each axis: the patient's axis, and which way
    across, down = sorted((a for a in range(3) if a != axis), key=lambda a: towards[a, 0])
    turned = [place for place, a in ((2, across), (3, down)) if towards[a, 1] > 0]
    order = (0, axis + 1, across + 1, down + 1)
    volumes = {key: value.permute(order).flip(turned) for key, value in maps.items()}
    return volumes, (float(image.pixdim[across]), float(image.pixdim[down]))


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


def _levels(information: Tensor, foreground: Tensor, top: float) -> Tensor:
    """Information as 1 + the nearest of ``LEVELS`` equal steps up to ``top`` bits; 0 outside of the foreground."""
    levels = 1 + (information / top * LEVELS).round().clamp(0, LEVELS)
    return (levels * foreground.ne(0)).to(torch.uint8)


def _histogram(information: Tensor, top: float) -> list[int]:
    """Counts at 0, 1, ... ``CELLS`` equal steps up to ``top`` bits."""
    return torch.bincount((information / top * CELLS).round().long(), minlength=CELLS + 1).tolist()


def _mosaics(image: Tensor, levels: Tensor, index: int) -> dict[str, Any]:
    """Slices (C, slices, X, Y) of image and levels side by side in one picture each; large ones are thinned out."""
    thin = math.ceil(math.sqrt(image[0, 0].numel() / MAX_PIXELS))
    image, levels = image[..., ::thin, ::thin], levels[..., ::thin, ::thin]
    every = math.ceil(image[0].numel() / MAX_VOXELS)
    slices = list(range(index % every, image.shape[1], every))  # with the one that the samples show
    columns = math.ceil(math.sqrt(len(slices)))
    return {
        "image": _png(_tiled(_bytes(image[:, slices]), columns)),
        "levels": _png(_tiled(levels[:, slices], columns)),
        "size": tuple(image.shape[2:]),
        "columns": columns,
        "slices": slices,
        "start": slices.index(index),
        "thin": thin,
    }


def _tiled(slices: Tensor, columns: int) -> Tensor:
    """Slices (C, n, X, Y) as one picture (C, columns * X, rows * Y), row by row."""
    channels, count, width, height = slices.shape
    rows = math.ceil(count / columns)
    slices = pad(slices, (0, 0, 0, 0, 0, rows * columns - count)).unflatten(1, (rows, columns))
    return slices.permute(0, 2, 3, 1, 4).reshape(channels, columns * width, rows * height)


def _samples(plane: Mapping[str, Tensor], intensity: str, seed: int) -> list[list[str]]:
    """For each draw, the slice through the intensity transform of each tier, and through all of them blended."""
    draws = []
    for draw in range(DRAWS):
        shown = []
        for tier in (*range(len(TIERS)), None):
            change = RandTierIntensity(intensity, mode="blend" if tier is None else "anchor")
            change.set_random_state(seed=seed + draw)
            shown.append(_sample(change(plane["image"], tiers=plane["tiers"], tier=tier)))
        draws.append(shown)
    return draws


def _sample(image: Tensor) -> str:
    return _png(_bytes(avg_pool2d(image, _reduction(image))))


def _reduction(image: Tensor) -> int:
    return math.ceil(max(image.shape[1:]) / MAX_SAMPLE)


def _pair_step(size: Sequence[int], intensity: str) -> dict[str, Any]:
    spacing = max(8, min(size) // 6)
    spatial = _step(
        "monai.transforms.Rand2DElastic",
        prob=1.0,
        spacing=(spacing, spacing),
        magnitude_range=(round(spacing / 40, 2), round(spacing / 12, 2)),
        rotate_range=0.26,
        scale_range=0.15,
        padding_mode="zeros",
    )
    return _step(
        "monai_infoaug.transforms.RandPairedViewsd",
        keys="image",
        roi_size=[min(max(2, 3 * side // 4), MAX_VIEW) for side in size],
        spatial=spatial,
        intensity=_step("monai_infoaug.transforms.RandTierIntensity", transforms=intensity),
        num_points=POINTS,
        shares=SHARES,
        mask_key="foreground",
        outputs=("coords", "sampling"),
    )


def _pair(step: Mapping[str, Any], plane: Mapping[str, Tensor], seed: int) -> dict[str, Any]:
    views = _build(step).set_random_state(seed=seed)(plane)
    density, valid = views["sampling_view1"], views["points_valid"]
    points = torch.cat([views["points_view1"], views["points_view2"], views["points_tier"][:, None]], 1)[valid]
    return {
        "views": [_png(_bytes(views[f"image_view{k}"])) for k in (1, 2)],
        "sampling": _png(_bytes(density / density.max().clamp_min(torch.finfo().tiny))),
        "size": tuple(density.shape[1:]),
        "points": [[round(x, 2) for x in point] for point in points.tolist()],
    }


def _bytes(image: Tensor) -> Tensor:
    return (255 * image).round().clamp(0, 255).to(torch.uint8)


def _png(image: Tensor) -> str:
    """A picture (1 or 3, X, Y) uint8 as a data URL."""
    pixels = image.movedim(0, -1).transpose(0, 1).contiguous().numpy()
    if len(image) == 1:
        pixels = pixels[..., 0]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "image.png")
        picture = SimpleITK.GetImageFromArray(pixels, isVector=len(image) == 3)
        SimpleITK.WriteImage(picture, str(path), useCompression=True)
        return "data:image/png;base64," + b64encode(path.read_bytes()).decode()


def _code(steps: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The steps for a Python program and for a bundle's JSON."""
    modules: dict[str, set[str]] = {"monai.transforms": {"Compose"}}
    nested = [value for step in steps for value in step.values() if isinstance(value, Mapping)]
    for step in (*steps, *nested):
        module, name = step["_target_"].rsplit(".", 1)
        modules.setdefault(module, set()).add(name)
    imports = [f"from {module} import {', '.join(sorted(names))}" for module, names in sorted(modules.items())]
    lines = [f"        {_python(step)}," for step in steps]
    python = [*imports, "", "preprocessing = Compose(", "    [", *lines, "    ]", ")"]
    return {"python": "\n".join(python), "json": json.dumps(steps, indent=4)}


def _python(value: Any) -> str:
    if isinstance(value, Mapping):
        arguments = [f"{name}={_python(v)}" for name, v in value.items() if name != "_target_"]
        return f"{value['_target_'].rsplit('.', 1)[-1]}({', '.join(arguments)})"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_python, value))}]"
    return json.dumps(value) if isinstance(value, str) else repr(value)
