"""How far the landmarks that were found in images can be trusted: predicted errors, and which are absent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from monai_infoaug.data._grids import Grid
from monai_infoaug.inferers import ErrorModel, LandmarkLayout, LayoutPlaces, absent_landmarks

# Fitted to consensus matches of three templates in ten of the training images 121 to 130 each of the ISBI 2015
# cephalometric challenge, with the landmarks of these images, the mean of two annotators. So the part that no image has
# a say in, of the voxel, has the template's own annotator in it, who is 1.15 mm off the mean.
MATCHED = ErrorModel(
    {"voxel": 1.6, "spread": 0.19, "usual spread": 0.14, "layout": 0.13, "unsure": 0.08, "misfit": 44.0}, 3.1
)
# Fitted to what one run of `annotate` found in training images 121 to 150 from template 115: means of two detectors.
DETECTED = ErrorModel(
    {
        "voxel": 0.467,
        "heat": 0.048,
        "usual heat": 0.236,
        "layout": 0.124,
        "misfit": 12.42,
        "matches": 0.072,
        "spread": 0.434,
    },
    2.98,
)
RADIUS = 5.0  # voxels within which a detector's score says that the landmark is
FITTING = 0.6  # of a landmark's usual score, below which the place of others is not judged by it
TYPICAL = 2.0  # voxels that a feature is taken as where nothing is known of it


@dataclass(frozen=True, eq=False)
class Found:
    """Landmarks that were found in N images, and what else is known of them; NaN where nothing is.

    Args:
        points: (N, L, D) millimetres.
        scores: (N, L) of whatever has found them.
        detected: whether that was a detector, so that the scores are probabilities; else they are of matches.
        matches: (N, L, D) where the templates' matches lie, if that is something else.
        spreads: (N, L) millimetres between the votes on these.
    """

    points: np.ndarray
    scores: np.ndarray
    detected: bool
    matches: np.ndarray | None = None
    spreads: np.ndarray | None = None


def judge(
    found: Found, template: np.ndarray, voxel: float, grids: Sequence[Grid | None] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """How wrong landmarks may be, and which of them are absent.

    Args:
        found: the landmarks of all images, at best: what is usual for a landmark is learnt from them.
        template: (L, D) landmarks of a template in millimetres; NaN where it lacks one.
        voxel: millimetres of a voxel that was worked at.
        grids: of the images, with the millimetres of their points. None, or None for an image: nothing is absent.

    Returns:
        (N, L) millimetres that 90 % of such landmarks are within, NaN where none was found; (N, L) which are absent.
    """
    places, fits = looked_at(found, template)
    errors = (DETECTED if found.detected else MATCHED).predict(features_of(found, places, fits, voxel))
    absent = torch.zeros(fits.shape, dtype=torch.bool)
    for i, grid in enumerate(grids or ()):
        if grid is not None:
            place = LayoutPlaces(*(values[i : i + 1] for values in places))
            absent[i] = absent_landmarks(place, fits[i : i + 1], grid.shape, torch.from_numpy(grid.matrix))[0]
    return errors.masked_fill(_tensor(found.points).isnan().any(-1), math.nan).numpy(), absent.numpy()


def looked_at(found: Found, template: np.ndarray) -> tuple[LayoutPlaces, Tensor]:
    """Where each landmark has to lie by the others of its image that fit, and how well it fits itself (N, L)."""
    scores, start = _tensor(found.scores), _tensor(template)
    fits = scores / scores.nanmedian(0, keepdim=True).values.clamp_min(1e-6)
    points = _tensor(found.points).masked_fill((fits < FITTING)[..., None], math.nan)
    # a landmark that the template lacks lies where it does in the other images, with respect to their middle
    apart = (points - points.nanmean(1, keepdim=True)).nanmedian(0).values
    start = start.where(start.isfinite(), apart + start.nanmean(0)).nan_to_num()
    return LandmarkLayout(start, points).predict(points), fits


def features_of(found: Found, places: LayoutPlaces, fits: Tensor, voxel: float) -> dict[str, Tensor]:
    """What errors grow with, (N, L) each, in millimetres, from what :py:func:`looked_at` says."""
    points = _tensor(found.points)
    unsure = places.covariances.diagonal(dim1=-2, dim2=-1).sum(-1).sqrt()
    known = {"layout": (points - places.points).norm(dim=-1), "unsure": unsure}
    if points.shape[1] < points.shape[2] + 2:  # the others do not say how the image lies
        known = {name: torch.full_like(values, TYPICAL * voxel) for name, values in known.items()}
    known = {name: _filled(values, voxel) for name, values in known.items()}
    known["misfit"] = voxel * (1 - fits).clamp(0, 1).nan_to_num(1.0)
    known["matches"] = _filled(_between(points, found.matches), voxel)
    known["spread"] = _filled(_known(found.spreads, points), voxel)
    if found.detected:
        known["heat"] = _filled(heat_spread(_tensor(found.scores), RADIUS * voxel), voxel)
    usual = {f"usual {name}": values.square().mean(0, keepdim=True).sqrt() for name, values in known.items()}
    return {name: values.expand(points.shape[:-1]) for name, values in (known | usual).items()} | {
        "voxel": torch.full(points.shape[:-1], voxel, dtype=torch.float64)
    }


def heat_spread(shares: Tensor, radius: float) -> Tensor:
    """Standard deviation of the Gaussian in a plane that has such shares of its mass within a radius."""
    return radius / (-2 * torch.log1p(-shares.clamp(1e-3, 1 - 1e-6))).sqrt()


def _tensor(values: np.ndarray) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64)


def _known(values: np.ndarray | None, points: Tensor) -> Tensor:
    return torch.full(points.shape[:-1], math.nan, dtype=torch.float64) if values is None else _tensor(values)


def _between(points: Tensor, others: np.ndarray | None) -> Tensor:
    return _known(None, points) if others is None else (points - _tensor(others)).norm(dim=-1)


def _filled(values: Tensor, voxel: float) -> Tensor:
    """Values (N, L), those that are not known as usual for the landmark."""
    usual = values.square().nanmean(0, keepdim=True).sqrt().nan_to_num(TYPICAL * voxel)
    return values.where(values.isfinite(), usual)
