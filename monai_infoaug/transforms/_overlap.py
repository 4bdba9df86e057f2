"""Cropping two views that overlap, and finding what both of them show."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from monai_infoaug.transforms._fields import Field, View
from monai_infoaug.transforms._lattice import flat_nonzero

OVERLAP_SAMPLES = 4096  # voxels that tell the overlap


class Overlap(NamedTuple):
    """Two views, and the voxels that both show."""

    views: tuple[View, View]
    shared: list[Tensor]  # linear indices (n,) of view 1, and of view 2 if they were asked for
    partners: Tensor  # (D, n), where view 2 shows those of view 1


def overlapping_views(
    fields: tuple[Field, Field],
    positions: Sequence[Sequence[float]],
    min_overlap: float,
    candidates: int | None,
    generator: np.random.Generator,
) -> Overlap:
    """Crop view 1, and view 2 such that it shows enough of the same.

    Args:
        fields: output of each view's spatial chain.
        positions: in [0, 1) an axis, where to crop view 1, view 2, and view 2 again if it shows too little. If all
            positions do, its centre shows best the middle of view 1.
        min_overlap: least share of view 2's valid voxels that view 1 shows.
        candidates: number of view 1's voxels that are looked for in view 2, about. None for all, and those of view 2.
        generator: chooses them.
    """
    dense = candidates is None
    first = fields[0].view(fields[0].crop_origin(positions[0]))
    second, seen = _second_view(first, fields[1], positions[1:], min_overlap, dense)
    voxels = flat_nonzero(first.valid)
    if candidates is not None:
        voxels = _thinned(voxels, len(voxels) // candidates, generator)
    partners, found = second.mesh.locate(first.coords_at(voxels))
    both = flat_nonzero(found)
    return Overlap((first, second), [voxels[both], seen][: 1 + dense], partners.index_select(1, both))


def _thinned(voxels: Tensor, every: int, generator: np.random.Generator) -> Tensor:
    """One of each ``every`` voxels (n,) that follow each other."""
    if every < 2:
        return voxels
    count = len(voxels) // every
    drawn = generator.integers(every, size=count) + every * np.arange(count)
    return voxels[torch.from_numpy(drawn).to(voxels.device)]


def _second_view(
    first: View, field: Field, positions: Sequence[Sequence[float]], min_overlap: float, dense: bool
) -> tuple[View, Tensor]:
    """View 2, and those of its voxels (n,) that view 1 shows; not all of them unless ``dense``."""
    origins = list(dict.fromkeys(field.crop_origin(position) for position in positions))  # each once
    nothing = torch.zeros(0, dtype=torch.long)
    for origin in origins:
        if min_overlap > 0 and not _may_overlap(first, field, origin, min_overlap):
            continue
        view = field.view(origin)
        if not dense and (min_overlap == 0 or field.all_inside_valid):  # there is nothing more to tell
            return view, nothing
        voxels = flat_nonzero(view.valid)
        voxels = voxels if dense else voxels[:: max(1, len(voxels) // OVERLAP_SAMPLES)]
        seen = _seen(first, view, voxels)
        if len(seen) >= min_overlap * len(voxels):
            return view, seen
    view = field.view(_centred_origin(first, field, origins[-1]))
    return view, _seen(first, view, flat_nonzero(view.valid)) if dense else nothing


def _may_overlap(first: View, field: Field, origin: Sequence[int], min_overlap: float) -> bool:
    """Whether view 1 may show enough of a crop: a coarse look spares most of those that will not do."""
    step = max(1, round((prod(field.size) / OVERLAP_SAMPLES) ** (1 / len(field.size))))
    coords, inside = field.coordinates(field.crop(origin, step))
    shown = first.mesh.shows(coords[:, inside])
    return shown.numel() > 0 and bool(shown.float().mean() >= min_overlap)


def _seen(first: View, view: View, voxels: Tensor) -> Tensor:
    """Those of a view's voxels (n,) that view 1 shows."""
    return voxels[flat_nonzero(first.mesh.locate(view.coords_at(voxels))[1])]


def _centred_origin(first: View, field: Field, otherwise: tuple[int, ...]) -> tuple[int, ...]:
    """Origin of the crop whose centre shows best the middle of what view 1 shows, if that shows anything."""
    coords, inside = field.coordinates(field.whole)
    if not (first.valid.any() and inside.any()):
        return otherwise
    middle = first.coords[:, first.valid].mean(1).view(-1, *[1] * inside.ndim)
    distance = (coords - middle).square().sum(0).masked_fill(~inside, torch.inf)
    nearest = [int(n) for n in np.unravel_index(int(distance.argmin()), inside.shape)]
    bounds = zip(nearest, field.size, inside.shape, strict=True)
    return tuple(min(max(at - size // 2, 0), n - size) for at, size, n in bounds)
