"""How strong a change may be: mutual information of patches with their changed selves, and with other images'."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
import torch
from monai.data import MetaTensor
from monai.data.utils import set_rnd
from monai.utils import convert_to_tensor
from numpy.typing import ArrayLike
from torch import Tensor
from tqdm import tqdm

from monai_infoaug.commands._registration import registration, warped
from monai_infoaug.information import TIERS, mutual_information
from monai_infoaug.transforms import intensity_preset

PATCH = {2: 33, 3: 11}  # voxels of a patch's side: about a thousand voxels in a patch
PATCHES = 24  # of a tier in an image
BINS = 16  # of a patch: few, since the bias of mutual information grows with their square
DRAWS = 8  # of the change of an image, of which the one that leaves least counts
STRENGTHS = (*(k / 8 for k in range(1, 8)), *(k / 4 for k in range(4, 17)))  # that are tried; 0 is no change
FINER = 4  # parts of the step in which a tier's stop is reached
MAX_VOXELS = 2**19  # of an image that is changed; of a larger one a part is


class View(NamedTuple):
    """A part of an image with patches of each tier."""

    part: tuple[slice, ...]
    image: Tensor  # (C, *R) in [0, 1]
    centres: list[Tensor]  # for each tier (N, D) voxels of `image`


def draw_view(image: Tensor, tiers: Tensor, generator: np.random.RandomState) -> View:
    """A part of an image with patches of each tier, drawn by ``tiers`` (1, *S)."""
    part = draw_part(tiers < len(TIERS), generator)
    return view_of(image, part, tiers[(slice(None), *part)], generator)


def draw_part(foreground: Tensor, generator: np.random.RandomState) -> tuple[slice, ...]:
    """A part around a voxel that is drawn from the foreground (1, *S), all of it if it is not too large."""
    sizes = np.array(foreground.shape[1:])
    sides = np.minimum(sizes, np.ceil(sizes * (MAX_VOXELS / sizes.prod()) ** (1 / len(sizes))).astype(int))
    inside = foreground[0].nonzero()
    start = inside[generator.randint(len(inside))].numpy() - sides // 2
    start = start.clip(0, sizes - sides)
    return tuple(slice(a, a + side) for a, side in zip(start.tolist(), sides.tolist(), strict=True))


def view_of(
    image: Tensor, part: tuple[slice, ...], tiers: Tensor, generator: np.random.RandomState, patches: int = PATCHES
) -> View:
    """A part of an image (C, *S) with patches of each tier, drawn by the ``tiers`` (1, *R) of the part."""
    radius = PATCH[len(part)] // 2
    inner = tiers[0][tuple(slice(radius, side - radius) for side in tiers.shape[1:])]
    found = [(inner == tier).nonzero() for tier in range(len(TIERS))]
    centres = [radius + places[generator.permutation(len(places))[:patches]] for places in found]
    return View(part, convert_to_tensor(image[(slice(None), *part)], track_meta=False), centres)


def cut_patches(image: Tensor, centres: Tensor) -> Tensor:
    """The patches (N, C, *P) of an image (C, *S) around voxels (N, D)."""
    side = PATCH[centres.shape[1]]
    for axis in range(1, image.ndim):
        image = image.unfold(axis, side, 1)
    return image[(slice(None), *(centres - side // 2).T)].transpose(0, 1)


def tier_patches(image: Tensor, view: View) -> list[Tensor]:
    """The patches of each tier of a view, in its image or a changed one."""
    return [cut_patches(image, centres) for centres in view.centres]


def to_next(images: Sequence[MetaTensor]) -> list[sitk.Transform | None]:
    """The transform of each image to the next one, and of the last to the first; None where nothing corresponds."""
    transforms: list[sitk.Transform | None] = []
    for image, other in tqdm(_with_next(images), "Registering", unit="pair", disable=None):
        try:
            transforms.append(registration(image, other))
        except RuntimeError:  # nothing to register in one of them, or no overlap
            transforms.append(None)
    return transforms


def of_corresponding(
    images: Sequence[MetaTensor],
    views: Sequence[View],
    transforms: Sequence[sitk.Transform | None],
    value_range: tuple[float, float],
) -> tuple[np.ndarray, np.ndarray]:
    """For each tier, the mutual information of patches of an image with those of the next one, registered to it.

    Returns:
        Bits of the patches that correspond, and of any two patches, a number a tier.
    """
    rows = np.full((len(views), len(TIERS), 2), math.nan)
    for row, view, transform, (image, other) in zip(rows, views, transforms, _with_next(images), strict=True):
        if transform is None:
            continue
        partner = warped(other, transform, image, view.part)
        for tier, centres in enumerate(view.centres):
            here, there = cut_patches(view.image, centres), cut_patches(partner, centres)
            whole = there.flatten(1).isfinite().all(1)
            here, there = here[whole], there[whole]
            row[tier] = [_bits(here, patches, value_range) for patches in (there, there.roll(1, 0))]
    return _mean(rows[..., 0]), _mean(rows[..., 1])


def _with_next(images: Sequence[MetaTensor]) -> list[tuple[MetaTensor, MetaTensor]]:
    return list(zip(images, [*images[1:], images[0]], strict=True))


def of_themselves(views: Sequence[View], value_range: tuple[float, float]) -> np.ndarray:
    """For each tier, the mutual information of patches with themselves."""
    return _mean([[_bits(p, p, value_range) for p in tier_patches(view.image, view)] for view in views])


def weakened(
    views: Sequence[View],
    intensity: str,
    value_range: tuple[float, float],
    own: np.ndarray,
    stop: np.ndarray,
    seed: int,
) -> tuple[list[float], np.ndarray]:
    """The mutual information of patches with their changed selves, from ``own`` until it is at ``stop`` in every tier.

    Where a tier reaches its stop, the strengths lie closer.

    Returns:
        The strengths that were tried, from 0 up, and for each (rows) the bits of each tier.
    """
    patches = [tier_patches(view.image, view) for view in views]

    def bits_at(strength: float) -> np.ndarray:
        change, rows = intensity_preset(intensity, strength), np.empty((DRAWS, len(views), len(TIERS)))
        for draw, number in np.ndindex(DRAWS, len(views)):
            view = views[number]
            set_rnd(change, seed + draw * len(views) + number)  # the same at each strength: the curves are smooth
            image = torch.as_tensor(change(view.image.clone())).clamp(0, 1)
            pairs = zip(patches[number], tier_patches(image, view), strict=True)
            rows[draw, number] = [_bits(mine, changed, value_range) for mine, changed in pairs]
        return _mean(rows.min(0))

    found = {0.0: own}
    for strength in tqdm(STRENGTHS, "Raising the strength", unit="step", disable=None):
        found[strength] = bits_at(strength)
        if (found[strength] <= stop).all():
            break
    between = _around_stops(list(found), np.array([*found.values()]), stop)
    found |= {strength: bits_at(strength) for strength in between}
    strengths = sorted(found)
    return strengths, np.array([found[strength] for strength in strengths])


def _around_stops(strengths: Sequence[float], curves: np.ndarray, stop: np.ndarray) -> list[float]:
    """Strengths in between, in the step in which each tier's bits (a column) first fall to its stop."""
    between = set()
    for bits, end in zip(curves.T, stop, strict=True):
        below = np.flatnonzero(bits <= end)
        if len(below) and below[0] > 0:
            step = strengths[below[0] - 1], strengths[below[0]]
            between |= {float(strength) for strength in np.linspace(*step, FINER + 1)[1:-1]}
    return sorted(between)


def crossing(strengths: Sequence[float], bits: np.ndarray, stop: float) -> float:
    """The strength at which ``bits`` first falls to ``stop``, linear between strengths; the last one if it does not."""
    below = np.flatnonzero(bits <= stop)
    if len(below) == 0:
        return strengths[-1]
    k = max(int(below[0]), 1)
    return round(float(np.interp(stop, bits[[k, k - 1]], np.array(strengths)[[k, k - 1]])), 3)


def _bits(first: Tensor, second: Tensor, value_range: tuple[float, float]) -> float:
    """The mean mutual information of patches (N, C, *P); NaN without one."""
    if len(first) == 0:
        return math.nan
    return mutual_information(first.flatten(0, 1), second.flatten(0, 1), BINS, value_range)


def _mean(rows: ArrayLike) -> np.ndarray:
    """The mean of each column over the rows that have it, or NaN."""
    return np.ma.masked_invalid(rows).mean(0).filled(math.nan)
