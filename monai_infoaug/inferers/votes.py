"""One place from the votes of several templates."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from monai_infoaug._require import is_count, is_number, refusal

__all__ = ["Consensus", "robust_centre"]

ITERATIONS = 30  # steps of a robust fit, which has converged long before
TIE = 1e-6  # votes by which a start of a better score is preferred


class Consensus(NamedTuple):
    """What votes agree on.

    Args:
        points: (*N, D) places in millimetres; NaN where nobody votes.
        scores: (*N) mean of the scores of the votes, each as much as it counts; NaN where nobody votes.
        spreads: (*N) mean distance in millimetres of the votes from the place; 0 for one vote, NaN for none.
        votes: (*N) number of votes that count.
    """

    points: Tensor
    scores: Tensor
    spreads: Tensor
    votes: Tensor


def robust_centre(votes: Tensor, scores: Tensor, scale: float = 3.0, keep: int | None = 5) -> Consensus:
    """The place that votes agree on: that of the least cost by Geman and McClure [1], found from each vote.

    The cost of a place is the sum over votes of ``r ** 2 / (1 + r ** 2)``, with r the distance in units of ``scale``: a
    vote far away costs 1 wherever exactly it lies. It has several minima, one a group of votes. From each vote one is
    found by iteratively reweighted least squares [2]; of equal ones, that of the better score counts. Of two votes the
    one of the better score wins.

    Args:
        votes: (T, *N, D) places in millimetres, NaN where a template has no vote.
        scores: (T, *N), NaN likewise.
        scale: millimetres at which a vote counts a quarter.
        keep: number of votes that count, those of the best scores. None: all.

    Returns:
        The consensus of the votes on each of the N places.

    Raises:
        ValueError: for shapes that do not fit each other, a ``scale`` that is no number above 0, or a ``keep`` that is
            no whole number of at least 1.

    References:
        1. Geman & McClure, "Statistical methods for tomographic image reconstruction", Bulletin of the International
           Statistical Institute 52(4), 1987.
        2. Holland & Welsch, "Robust regression using iteratively reweighted least-squares", Communications in
           Statistics 6(9), 1977.

    Example:
        >>> votes = torch.tensor([[[10.0, 10.0]], [[10.0, 11.0]], [[11.0, 10.0]], [[60.0, 0.0]]])
        >>> found = robust_centre(votes, torch.tensor([[0.7], [0.8], [0.8], [0.9]]))
        >>> found.points.round(decimals=1)
        tensor([[10.3000, 10.3000]])
    """
    if votes.ndim < 2 or scores.shape != votes.shape[:-1] or len(votes) == 0:
        got = f"shapes {tuple(votes.shape)} and {tuple(scores.shape)}"
        raise refusal("votes", got, "(T, *N, D) with `scores` (T, *N)")
    if not (is_number(scale) and scale > 0):
        raise refusal("scale", scale, "a number of millimetres above 0")
    if keep is not None and not is_count(keep, 1):
        raise refusal("keep", keep, "a whole number of at least 1, or None")
    shape, kind = votes.shape[1:], votes.dtype
    places = votes.double().reshape(len(votes), -1, shape[-1]).transpose(0, 1)  # (M, T, D)
    given = scores.double().reshape(len(votes), -1).T
    given = given.masked_fill(~places.isfinite().all(-1) | given.isnan(), -torch.inf)
    given, order = given.sort(dim=1, descending=True, stable=True)
    given = given[:, :keep]
    known = given > -torch.inf
    places = places.take_along_dim(order[:, :keep, None], 1).masked_fill(~known[..., None], 0.0)

    centres = places
    for _ in range(ITERATIONS):
        weights = known[:, None] / (1 + _squares(centres, places, scale)).square()  # (M, starts, T)
        centres = weights @ places / weights.sum(-1, keepdim=True).clamp_min(1e-300)
    squares = _squares(centres, places, scale)
    costs = (known[:, None] * (1 - 1 / (1 + squares))).sum(-1) + TIE * torch.arange(known.shape[1]).to(places)
    best = costs.masked_fill(~known, torch.inf).argmin(1)
    count = known.sum(1)
    few = (count <= 2)[:, None]
    rows = torch.arange(len(best), device=best.device)
    centre = torch.where(few, places[:, 0], centres[rows, best])
    squares = _squares(centre[:, None], places, scale)[:, 0]
    weights = known / (1 + squares).square()
    weights = torch.where(few, torch.nn.functional.one_hot(count * 0, known.shape[1]).to(weights), weights)
    score = (weights * given.masked_fill(~known, 0.0)).sum(1) / weights.sum(1)
    spread = scale * (known * squares.sqrt()).sum(1) / count
    nobody = count == 0
    return Consensus(
        centre.masked_fill(nobody[:, None], torch.nan).to(kind).reshape(shape),
        score.masked_fill(nobody, torch.nan).to(scores.dtype).reshape(shape[:-1]),
        spread.to(kind).reshape(shape[:-1]),
        count.reshape(shape[:-1]),
    )


def _squares(centres: Tensor, places: Tensor, scale: float) -> Tensor:
    """Squared distances (M, S, T) of centres (M, S, D) and places (M, T, D), in units of a scale."""
    return ((centres[:, :, None] - places[:, None]) / scale).square().sum(-1)
