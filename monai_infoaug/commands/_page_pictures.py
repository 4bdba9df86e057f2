"""The pictures of the page about an image, as data URLs, and the numbers that belong to them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from monai.data import MetaTensor
from nibabel.orientations import io_orientation
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from monai_infoaug.commands._pictures import data_url
from monai_infoaug.commands._steps import Step, build
from monai_infoaug.information import TIERS
from monai_infoaug.transforms import RandTierIntensity

LEVELS = 254  # of information in a picture; 0 is outside of the foreground, 1 is no information, 255 the most
CELLS = 8 * LEVELS  # of the histogram, which gives the shares
MAX_VOXELS, MAX_PIXELS, MAX_SAMPLE = 10**7, 2 * 10**6, 400  # of a map, of a slice of it, of a sample's longer side
DRAWS = 3


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


def mosaics(volumes: Mapping[str, Tensor], top: float, index: int) -> dict[str, Any]:
    """All slices of the image side by side in one picture, and those of its information; large ones are thinned out.

    Args:
        volumes: maps of :func:`for_screen`.
        top: bits that are drawn as the most.
        index: number of a slice that is among them in any case.
    """
    image = volumes["image"]
    levels = _levels(volumes["information"], volumes["foreground"], top)
    thin = math.ceil(math.sqrt(image[0, 0].numel() / MAX_PIXELS))
    image, levels = image[..., ::thin, ::thin], levels[..., ::thin, ::thin]
    every = math.ceil(image[0].numel() / MAX_VOXELS)
    slices = list(range(index % every, image.shape[1], every))
    columns = math.ceil(math.sqrt(len(slices)))
    return {
        "image": data_url(_tiled(_bytes(image[:, slices]), columns)),
        "levels": data_url(_tiled(levels[:, slices], columns)),
        "size": tuple(image.shape[2:]),
        "columns": columns,
        "slices": slices,
        "start": slices.index(index),
        "thin": thin,
    }


def samples(plane: Mapping[str, Tensor], intensity: str, seed: int) -> list[list[str]]:
    """For each draw, the slice through the intensity transform of each tier, and through all of them blended."""
    draws = []
    for draw in range(DRAWS):
        shown = []
        for tier in (*range(len(TIERS)), None):
            change = RandTierIntensity(intensity, mode="blend" if tier is None else "anchor")
            change.set_random_state(seed=seed + draw)
            shown.append(sample(torch.as_tensor(change(plane["image"], tiers=plane["tiers"], tier=tier))))
        draws.append(shown)
    return draws


def sample(image: Tensor) -> str:
    """An image (C, X, Y) with at most ``MAX_SAMPLE`` pixels a side."""
    return data_url(_bytes(avg_pool2d(image, reduction(image))))


def reduction(image: Tensor) -> int:
    """Pixels a side that become one in a sample."""
    return math.ceil(max(image.shape[1:]) / MAX_SAMPLE)


def pair(views: Step, plane: Mapping[str, Tensor], seed: int) -> dict[str, Any]:
    """Two views of a slice, where points are drawn from, and the points."""
    item = build(views).set_random_state(seed=seed)(plane)
    density, valid = item["sampling_view1"], item["points_valid"]
    points = torch.cat([item["points_view1"], item["points_view2"], item["points_tier"][:, None]], 1)[valid]
    return {
        "views": [data_url(_bytes(item[f"image_view{k}"])) for k in (1, 2)],
        "sampling": data_url(_bytes(density / density.max().clamp_min(torch.finfo().tiny))),
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
