"""Loss and similarity of single anchors of a trained network against information, and thresholds that follow [1].

References:
    [1] Quan et al., "IGU-Aug: information-guided unsupervised augmentation and pixel-wise contrastive learning for
    medical image analysis", IEEE TMI 44(1):154-164, 2025, arXiv:2211.07118.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import RandAffine
from monai.utils import convert_to_tensor
from numpy.polynomial import Polynomial
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from monai_infoaug._grid import level_features, sample_at
from monai_infoaug.losses import PixelInfoNCELoss
from monai_infoaug.transforms import RandPairedViewsd

__all__ = ["anchor_losses", "fit_curve", "information_grid", "loss_cuts"]

ANCHORS = 500  # of an image
TEMPERATURE, RADIUS = 0.1, 2.0  # of the loss that the bundles train with; cells within which nothing is a negative


@torch.no_grad()
def anchor_losses(
    network: nn.Module, image: MetaTensor, information: Tensor, foreground: Tensor, intensity: Callable, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """InfoNCE of anchors drawn evenly from the foreground in two views of an image, and how alike their views are.

    The views are turned by up to 15 degrees, scaled by up to 15 % and changed by ``intensity``.

    Args:
        network: network with ``strides``, from an image (1, C, *S) to levels.
        image: (C, *S), as the network was trained on.
        information: (1, *S) bits.
        foreground: (1, *S), not zero inside.
        intensity: array transform.
        seed: seed of the views and anchors.

    Returns:
        (N,) bits; (N,) losses and (N,) cosines of the two embeddings of each anchor, means over the levels.
    """
    spatial = RandAffine(prob=1.0, rotate_range=[0.26] * (image.ndim - 1), scale_range=[0.15] * (image.ndim - 1))
    draw = RandPairedViewsd(
        ("image", "information"),
        mask_key="foreground",
        intensity_keys="image",
        spatial=spatial,
        intensity=intensity,
        num_points=ANCHORS,
        outputs=(),
    )
    pair = draw.set_random_state(seed)({"image": image, "information": information, "foreground": foreground})
    pair = {name: convert_to_tensor(value, track_meta=False) for name, value in pair.items()}
    points = [pair[f"points_view{k}"][pair["points_valid"]][None] for k in (1, 2)]
    levels = [network(pair[f"image_view{k}"][None]) for k in (1, 2)]
    bits = sample_at(pair["information_view1"][None], points[0].mT)[0, 0]
    return bits, *_contrasts(levels, points, cast("Sequence[int]", network.strides))


def _contrasts(
    levels: Sequence[Sequence[Tensor]], points: Sequence[Tensor], strides: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Losses and cosines (N,) of the points (1, N, D) of view 1 against those of view 2, means over the levels."""
    contrast, found = PixelInfoNCELoss(TEMPERATURE, symmetric=False), []
    for level1, level2, stride in zip(*levels, strides, strict=True):
        features1, features2 = level_features(level1, points[0], stride), level_features(level2, points[1], stride)
        losses, _ = contrast.of_points(features1, features2, points[0], radius=RADIUS * stride)
        found.append(torch.cat([losses, cosine_similarity(features1, features2, dim=-1)]))
    losses, cosines = torch.stack(found).mean(0)
    return losses, cosines


def fit_curve(bits: np.ndarray, values: np.ndarray) -> Polynomial:
    """A smooth curve of the loss, say, over the information: the cubic of least squares."""
    return Polynomial.fit(bits, values, 3)


def information_grid(bits: np.ndarray, count: int) -> np.ndarray:
    """Evenly spaced values between the 1 and 99 percentile, where a curve is to be trusted."""
    low, high = np.quantile(bits, (0.01, 0.99))
    return np.linspace(low, high, count)


def loss_cuts(bits: np.ndarray, losses: np.ndarray) -> tuple[float, float] | None:
    """The thresholds (t1, t2) where the smooth curve of the loss crosses the mean loss.

    Looked for between the 1 and 99 percentile of ``bits``.

    Returns:
        bits; None if the curve does not cross the mean exactly twice.

    Example:
        >>> bits = np.linspace(0, 4, 101)
        >>> [round(cut, 2) for cut in loss_cuts(bits, (bits - 2) ** 2)]
        [0.83, 3.17]
    """
    grid = information_grid(bits, 2001)
    above = fit_curve(bits, losses)(grid) > losses.mean()
    crossings = np.flatnonzero(above[1:] != above[:-1])
    if len(crossings) != 2:
        return None
    t1, t2 = ((grid[crossings] + grid[crossings + 1]) / 2).tolist()
    return t1, t2
