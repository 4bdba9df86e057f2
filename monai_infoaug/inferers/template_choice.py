"""Which images to annotate: those whose points are found well in the other images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from monai_infoaug._require import is_count, refusal, require_counts
from monai_infoaug.inferers._consensus import salience, support_points
from monai_infoaug.inferers._patch_search import of_unit_norm

TIE = 1e-9  # of means that are equal but for rounding

__all__ = ["ChosenTemplates", "choose_templates", "salient_points"]


class ChosenTemplates(NamedTuple):
    """Which candidates are to become templates, the best first.

    Args:
        rows: (K,) numbers of the candidates.
        alone: (K,) mean score of each.
        reached: (K,) mean over the images of the best score, with the candidates up to this one.
        gains: (K,) how much of it each adds: the first one to the templates given, or else to a candidate drawn at
            random.
    """

    rows: Tensor
    alone: Tensor
    reached: Tensor
    gains: Tensor


def salient_points(
    levels: Sequence[Tensor], strides: Sequence[float], count: int = 60, weights: Sequence[float] | None = None
) -> Tensor:
    """Points of an image where its embedding changes, as it does at landmarks: the same ones every time.

    Args:
        levels: levels (1, F, *cells) of the embedding.
        strides: voxels a cell, for each level.
        count: number of points; fewer where the finest level has fewer cells.
        weights: weight of each level; one with 0 is not looked at.

    Returns:
        (1, N, D) in voxels of the image.

    Raises:
        ValueError: for a ``count`` that is no whole number of at least 1.

    Example:
        >>> from monai_infoaug.networks import PixelEmbeddingNet
        >>> network = PixelEmbeddingNet()
        >>> salient_points(network(torch.rand(1, 1, 64, 64)), network.strides, 20).shape
        torch.Size([1, 20, 2])
    """
    require_counts(count=count)
    used = [i for i in range(len(strides)) if weights is None or weights[i]]
    finest = min(used, key=lambda i: strides[i])
    with torch.no_grad():
        salient = salience(of_unit_norm(levels[finest].float())[0])
    return support_points(salient, strides[finest], count)[None]


def choose_templates(scores: Tensor, number: int | None = None, given: Sequence[int] = ()) -> ChosenTemplates:
    """Choose the candidates that serve all images best together: an image is served by the best of them for it.

    The first is that of the highest mean score; each further one is that which raises the mean over the images of the
    best score the most, and of equal ones that of the higher mean. Such greedy steps [1] reach at least 63 % of what
    the best choice of as many reaches.

    Args:
        scores: (T, Q) how well the points of each candidate are found in each image, the higher the better. NaN where
            the candidate is the image: it is then taken to serve it as it serves others, and as others do.
        number: how many are chosen, default all.
        given: candidates that are templates already, and are not chosen.

    Returns:
        The choice.

    Raises:
        ValueError: for another shape, a ``number`` that is no whole number of at least 1, or ``given`` that are no
            candidates.

    References:
        1. Nemhauser, Wolsey & Fisher, "An analysis of approximations for maximizing submodular set functions",
           Mathematical Programming 14, 1978.

    Example:
        >>> scores = torch.tensor([[0.8, 0.8, 0.1], [0.8, 0.7, 0.1], [0.1, 0.1, 0.9]])
        >>> choose_templates(scores, 2).rows
        tensor([0, 2])
    """
    if scores.ndim != 2 or scores.numel() == 0:
        raise refusal("scores", f"shape {tuple(scores.shape)}", "(T, Q)")
    if number is not None:
        require_counts(number=number)
    if not all(is_count(row) and row < len(scores) for row in given):
        raise refusal("given", list(given), f"numbers of candidates, from 0 to {len(scores) - 1}")
    scores = scores.double()
    expected = scores.nanmean(1, keepdim=True) + scores.nanmean(0) - scores.nanmean()
    scores = torch.where(scores.isnan(), expected.nan_to_num(0.0), scores)  # 0 where nothing is known
    own, left = scores.mean(1), torch.ones(len(scores), dtype=torch.bool, device=scores.device)
    left[list(given)] = False
    best = scores[list(given)].amax(0) if len(given) else torch.full_like(scores[0], -torch.inf)
    before, rows, reached = best.mean() if len(given) else own.mean(), list[int](), list[Tensor]()
    for _ in range(min(int(left.sum()), len(scores) if number is None else number)):
        means = torch.maximum(scores, best).mean(1).masked_fill(~left, -torch.inf)
        row = int(own.masked_fill(means < means.max() - TIE, -torch.inf).argmax())
        left[row], best = False, torch.maximum(best, scores[row])
        rows.append(row)
        reached.append(best.mean())
    so_far = torch.stack([before, *reached])
    return ChosenTemplates(torch.tensor(rows, dtype=torch.long), own[rows], so_far[1:], so_far.diff())
