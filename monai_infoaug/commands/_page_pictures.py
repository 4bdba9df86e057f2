"""The pictures of the page about an image, as data URLs, and the numbers that belong to them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from nibabel.orientations import io_orientation
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from monai_infoaug.commands._pictures import data_url, small_url
from monai_infoaug.commands._steps import Step, build
from monai_infoaug.handlers import CHANGE_COLOURS
from monai_infoaug.information import TIERS

LEVELS = 254  # of information in a picture; 0 is outside of the foreground, 1 is no information, 255 the most
CELLS = 8 * LEVELS  # of the histogram, which gives the shares
MAX_VOXELS, MAX_SAMPLE = 10**7, 400  # of a map, of a side of a sample
MAX_PIXELS, MAX_SLICE = 2 * 10**6, 10**5  # of an image, of a slice of a volume
MAX_LEVELS, MAX_IMAGE, MAX_SHOWN, MAX_VIEW = 1_200_000, 500_000, 28_000, 120_000  # characters of pictures: below 3 MB
CROSSING = 0.1  # of those of the slices, for each of the other planes of a volume
DRAWS = 3
LEAST_CHANGE = 0.02  # that is drawn in full colours


def for_screen(item: Mapping[str, MetaTensor], axis: int) -> tuple[dict[str, Tensor], tuple[float, float]]:
    """The maps as (C, slices, X, Y), as a screen counts: x to the right, y down; and the millimetres of a pixel.

    A volume is drawn as radiologists look at it: the patient's left, back and feet are to the right and down.
    """
    image = item["image"]
    maps = {key: item[key].as_tensor() for key in ("image", "information", "foreground", "tiers")}
    if image.ndim == 3:
        width, height = image.pixdim[:2].tolist()
        return {key: value[:, None] for key, value in maps.items()}, (width, height)
    towards = io_orientation(image.affine.numpy())  # for each axis: the patient's axis, and which way
    across, down = sorted((a for a in range(3) if a != axis), key=lambda a: towards[a, 0])
    turned = [place for place, a in ((2, across), (3, down)) if towards[a, 1] > 0]
    order = (0, axis + 1, across + 1, down + 1)
    volumes = {key: value.permute(order).flip(turned) for key, value in maps.items()}
    return volumes, (float(image.pixdim[across]), float(image.pixdim[down]))


def histogram(information: Tensor, top: float) -> list[int]:
    """Counts at 0, 1, ... ``CELLS`` equal steps up to ``top`` bits."""
    return torch.bincount((information / top * CELLS).round().long(), minlength=CELLS + 1).tolist()


def mosaics(volumes: Mapping[str, Tensor], top: float, index: int, part: float | None = None) -> dict[str, Any]:
    """All slices of the image side by side in one picture, and those of its information; large ones are thinned out.

    Args:
        volumes: maps of :func:`for_screen`.
        top: bits that are drawn as the most.
        index: number of a slice that is among them in any case.
        part: of the characters that a page has for them. None: all, but for the other planes of a volume.
    """
    image = volumes["image"]
    levels = _levels(volumes["information"], volumes["foreground"], top)
    is_volume = image.shape[1] > 1
    part = part or (1 - 2 * CROSSING if is_volume else 1)
    thin = math.ceil(math.sqrt(image[0, 0].numel() / (MAX_SLICE if is_volume else MAX_PIXELS)))
    every = math.ceil(image[0, :, ::thin, ::thin].numel() / MAX_VOXELS)
    while True:
        slices = list(range(index % every, image.shape[1], every))
        columns = math.ceil(math.sqrt(len(slices)))
        url = data_url(_tiled(levels[:, slices, ::thin, ::thin], columns))
        excess = len(url) / (part * MAX_LEVELS)
        if excess <= 1:
            break
        every = math.ceil(every * max(excess, 1 + 1 / every)) if len(slices) > 1 else every
        thin += len(slices) == 1
    image = image[:, slices, ::thin, ::thin]
    return {
        "image": small_url(_tiled(_bytes(image), columns), int(part * MAX_IMAGE)),
        "levels": url,
        "size": tuple(image.shape[2:]),
        "columns": columns,
        "slices": slices,
        "start": slices.index(index),
        "thin": thin,
    }


def crossing(item: Mapping[str, MetaTensor], top: float, axis: int) -> dict[str, Any]:
    """The slice through the middle of a volume, across another axis than the slices: as one of :func:`mosaics`."""
    volumes, pixel = for_screen(item, axis)
    index = volumes["image"].shape[1] // 2
    maps = mosaics({key: volume[:, [index]] for key, volume in volumes.items()}, top, 0, CROSSING)
    return maps | {"slices": [index], "pixel": pixel}


def samples(plane: Mapping[str, Tensor], intensity: Step, seed: int) -> dict[str, Any]:
    """For each draw, the slice through the intensity transform of each tier, and through all of them blended.

    Returns:
        For each draw and transform the picture, the picture of what is darker and brighter, and the mean of what has
        changed in the foreground, in shares of the range of grey levels; and the change of the strongest colours.
    """
    images = torch.empty(0, *plane["image"].shape)
    for draw in range(DRAWS):
        for tier in (*range(len(TIERS)), None):
            change = build(intensity | {"mode": "blend" if tier is None else "anchor"})
            change.set_random_state(seed=seed + draw)
            changed = torch.as_tensor(change(plane["image"], tiers=plane["tiers"], tier=tier))
            images = torch.cat([images, changed[None]])
    by = reduction(plane["image"])
    pooled = avg_pool2d((images - plane["image"]).mean(1, keepdim=True), by)
    most = max(LEAST_CHANGE, float(np.percentile(pooled.abs().numpy(), 99)))
    inside = plane["foreground"] > 0
    means = [float((image - plane["image"]).abs().mean(0, keepdim=True)[inside].mean()) for image in images]
    rows = range(0, len(images), len(TIERS) + 1)
    split = [slice(start, start + len(TIERS) + 1) for start in rows]
    return {
        "pictures": [[sample(image) for image in images[row]] for row in split],
        "changes": [[small_url(_coloured(change[0] / most), MAX_SHOWN) for change in pooled[row]] for row in split],
        "means": [[0.0 if math.isnan(mean) else round(mean, 4) for mean in means[row]] for row in split],
        "most": round(most, 4),
    }


def sample(image: Tensor) -> str:
    """An image (C, X, Y) with at most ``MAX_SAMPLE`` pixels a side."""
    return small_url(_bytes(avg_pool2d(image, reduction(image))), MAX_SHOWN)


def _coloured(shares: Tensor) -> Tensor:
    """Shares (X, Y) of the strongest change, -1 darker to 1 brighter, as colours (3, X, Y) uint8."""
    stops = torch.tensor([[*bytes.fromhex(colour[1:])] for colour in CHANGE_COLOURS]).float()
    at = (shares.clamp(-1, 1) + 1) / 2 * (len(stops) - 1)
    low = at.long().clamp(max=len(stops) - 2)
    colours = stops[low].lerp(stops[low + 1], (at - low)[..., None])
    return colours.movedim(-1, 0).round().to(torch.uint8)


def reduction(image: Tensor) -> int:
    """Pixels a side that become one in a sample."""
    return math.ceil(max(image.shape[1:]) / MAX_SAMPLE)


def pair(views: Step, plane: Mapping[str, Tensor], seed: int) -> dict[str, Any]:
    """Two views of a slice, where points are drawn from, and the points."""
    item = build(views).set_random_state(seed=seed)(plane)
    density, valid = item["sampling_view1"], item["points_valid"]
    points = torch.cat([item["points_view1"], item["points_view2"], item["points_tier"][:, None]], 1)[valid]
    return {
        "views": [small_url(_bytes(item[f"image_view{k}"]), MAX_VIEW) for k in (1, 2)],
        "sampling": small_url(_bytes(density / density.max().clamp_min(torch.finfo().tiny)), MAX_VIEW),
        "size": tuple(density.shape[1:]),
        "points": [[round(x, 2) for x in point] for point in points.tolist()],
    }


def _levels(information: Tensor, foreground: Tensor, top: float) -> Tensor:
    """Information as 1 + the nearest of ``LEVELS`` equal steps up to ``top`` bits; 0 outside of the foreground."""
    levels = 1 + (information / top * LEVELS).round().clamp(0, LEVELS)
    return (levels * foreground.ne(0)).to(torch.uint8)


def _tiled(slices: Tensor, columns: int) -> Tensor:
    """Slices (C, n, X, Y) as one picture (C, columns * X, rows * Y), row by row."""
    channels, count, width, height = slices.shape
    rows = math.ceil(count / columns)
    slices = pad(slices, (0, 0, 0, 0, 0, rows * columns - count)).unflatten(1, (rows, columns))
    return slices.permute(0, 2, 3, 1, 4).reshape(channels, columns * width, rows * height)


def _bytes(image: Tensor) -> Tensor:
    return (255 * image).round().clamp(0, 255).to(torch.uint8)
