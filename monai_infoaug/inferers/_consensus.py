"""Registration by embeddings: the whole anatomy says how the query lies, and patches of embeddings where a point is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import conv1d, conv2d, embedding_bag, normalize

from monai_infoaug._grid import unravel_index

ITERATIONS = 30  # steps of a robust fit, which has converged long before
SLAB = 16  # cells along the first axis at a time: their differences are as large as the embedding
AT_ONCE = 2**14  # places of the query around points that are compared
PLACES = 2**8  # whose local maps are fitted at a time
RIDGE = 0.05  # of the nearest matches, of which there are always some: they leave no map open


def salience(level: Tensor) -> Tensor:
    """How much each cell of a level (F, *cells) differs from its neighbours: root of the sum of squares, (*cells)."""
    parts = []
    for start in range(0, level.shape[1], SLAB):
        first = max(0, start - 1)
        parts.append(_squared_steps(level[:, first : start + SLAB + 1])[start - first :][:SLAB])
    return torch.cat(parts).sqrt().clamp_min(1e-6)  # constant embeddings have points and patches, too


def _squared_steps(level: Tensor) -> Tensor:
    """Sum over the neighbours of a cell of the squared difference."""
    change = torch.zeros_like(level[0])
    for axis in range(1, level.ndim):
        step = level.diff(dim=axis).square_().sum(0)
        for start in (0, 1):
            change.narrow(axis - 1, start, step.shape[axis - 1]).add_(step)
    return change


def support_points(salient: Tensor, stride: float, count: int) -> Tensor:
    """Centres of cells drawn in proportion to the square of their salience; the same ones every time.

    Args:
        salient: (*cells), above 0.
        stride: voxels a cell.
        count: number of points, if there are as many cells.

    Returns:
        (N, D) in voxels.
    """
    # the smallest of exponential variables with these rates are a draw without replacement
    keys = torch.empty(salient.numel()).exponential_(generator=torch.Generator().manual_seed(0))
    keys = keys / salient.cpu().flatten().square()
    drawn = keys.topk(min(count, len(keys)), largest=False).indices
    cells = unravel_index(drawn, salient.shape).T.to(salient)
    return stride * cells + (stride - 1) / 2


def robust_affine(points: Tensor, found: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """The affine map that most of the matches agree on, by iteratively reweighted least squares (Geman-McClure).

    Args:
        points: (N, D).
        found: (N, D), their matches.
        scale: least distance that counts as an error; the median distance where that is larger.

    Returns:
        Linear part (D, D) and shift (D,), to be used as ``points @ linear.T + shift``; least in norm where the points
        do not determine them.
    """
    middle = points.mean(0)
    known = torch.cat([points - middle, torch.ones_like(points[:, :1])], dim=1).double()
    found, weights = found.double(), torch.ones_like(known[:, :1])
    for _ in range(ITERATIONS):
        weighted = (weights.square() * known).T
        # by the pseudo-inverse, since points in a plane leave the map open
        solution = torch.linalg.pinv(weighted @ known, hermitian=True, rtol=1e-12) @ (weighted @ found)
        distance = (known @ solution - found).norm(dim=1, keepdim=True)
        weights = 1 / (1 + (distance / distance.median().clamp_min(scale)).square())
    linear = solution[:-1].T.to(points)
    return linear, solution[-1].to(points) - linear @ middle


def local_places(
    points: Tensor, found: Tensor, at: Tensor, linear: Tensor, shift: Tensor, spread: float, scale: float
) -> Tensor:
    """Where places lie in the query by the matches around them: each place has its own robust affine map.

    What is fitted, by iteratively reweighted least squares (Geman-McClure), is the difference to the map of the whole
    image. Each of its coefficients is drawn to 0 as if by one match, so that the map holds where few matches are near.

    Args:
        points: (M, D).
        found: (M, D), their matches.
        at: (N, D), the places.
        linear: (D, D), linear part of the map of the whole image.
        shift: (D,), its shift.
        spread: standard deviation of the Gaussian weights of the matches, by their distance from a place.
        scale: distance between a match and a local map that counts as an error.

    Returns:
        (N, D).
    """
    moved = (found - points @ linear.T - shift).double()
    places = []
    for some in torch.split(at, PLACES):
        offsets = (points - some[:, None]).double() / spread
        near = torch.exp(-offsets.square().sum(-1, keepdim=True) / 2)
        solution, *_ = _robust_moves(offsets, moved, near, scale)
        places.append(some @ linear.T + shift + solution[:, -1].to(some))
    return torch.cat(places)


def nearest_maps(
    points: Tensor,
    found: Tensor,
    trust: Tensor,
    at: Tensor,
    linear: Tensor,
    shift: Tensor,
    neighbours: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As :py:func:`local_places`, by so many of the nearest matches, however densely they lie: they count nearly alone.

    Args:
        points: (M, D).
        found: (M, D), their matches.
        trust: (M,) weights of the matches, in [0, 1].
        at: (N, D), the places.
        linear: (D, D), linear part of the map of the whole image.
        shift: (D,), its shift.
        neighbours: number of matches. The standard deviation of their Gaussian weights is half of the distance of the
            farthest.
        scale: distance between a match and a local map that counts as an error.

    Returns:
        How far each place (N, D) is moved from where the map of the whole image takes it, the linear parts (N, D, D) of
        the local maps, the root mean square distance (N,) between the matches that count and the local map, and the
        share (N,) of the matches' weights that counts.
    """
    moved = (found - points @ linear.T - shift).double()
    parts = []
    for some in torch.split(at, PLACES):
        distance, index = torch.cdist(some, points).topk(min(neighbours, len(points)), largest=False)
        spread = (distance[:, -1:, None].double() / 2).clamp_min(1e-6)
        offsets = (points[index] - some[:, None]).double() / spread
        near = trust[index][..., None].double() * torch.exp(-offsets.square().sum(-1, keepdim=True) / 2)
        solution, *fit = _robust_moves(offsets, moved[index], near, scale, ridge=RIDGE)
        parts.append((solution[:, -1], (solution[:, :-1] / spread).mT, *fit))
    moves, turns, errors, shares = (torch.cat(part).to(at) for part in zip(*parts, strict=True))
    return moves, linear + turns, errors, shares


def _robust_moves(
    offsets: Tensor, moved: Tensor, near: Tensor, scale: float, ridge: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Affine maps (P, D + 1, D) of offsets (P, M, D) to moves, their errors (P,) and shares that agree (P,).

    Each coefficient is drawn to 0 as if by ``ridge`` matches; ``near`` (P, M, 1) are the weights of the matches.
    """
    known = torch.cat([offsets, torch.ones_like(near)], dim=-1)
    drawn = ridge * torch.eye(known.shape[-1]).to(known)
    weights = near
    for _ in range(ITERATIONS):
        weighted = (weights * known).mT
        solution = torch.linalg.solve(weighted @ known + drawn, weighted @ moved)
        distance = (known @ solution - moved).norm(dim=-1, keepdim=True)
        weights = near / (1 + (distance / scale).square()).square()
    total, least = weights.sum((1, 2)), torch.finfo(near.dtype).tiny
    errors = ((weights * distance.square()).sum((1, 2)) / total.clamp_min(least)).sqrt()
    return solution, errors, total / near.sum((1, 2)).clamp_min(least)


def compare_patches(
    template: Tensor,
    salient: Tensor,
    points: Tensor,
    query: Tensor,
    places: Tensor,
    linear: Tensor,
    stride: float,
    step: float,
    reach: int,
    search: int,
) -> Tensor:
    """Maps of how well the patch of embeddings around each point fits around a place of the query.

    The query is read through the linear map, in the template's frame, so that a turn or a change of size between the
    images does not count.

    Args:
        template: (F, *cells).
        salient: (*cells) of the template, above 0.
        points: (N, D) in voxels of the template.
        query: (F, *cells).
        places: (N, D) in voxels of the query.
        linear: (D, D), from displacements in the template to those in the query; or (N, D, D), one a point.
        stride: voxels a cell.
        step: voxels of the template between the samples of a patch and between two displacements.
        reach: steps from the middle of a patch to its border.
        search: steps of the largest displacement along an axis.

    Returns:
        (N, *[2 * search + 1] * D) similarities in [-1, 1] at displacements from ``-search`` to ``search`` steps: mean
        cosines, weighted by salience (flat regions look alike everywhere) and by a Gaussian whose standard deviation is
        half of the reach.
    """
    dims, wide = points.shape[1], reach + search
    axis = step * torch.arange(-wide, wide + 1, device=points.device).to(points)
    offsets = torch.stack(torch.meshgrid(*[axis] * dims, indexing="ij"), dim=-1)
    patch = offsets[(slice(search, search + 2 * reach + 1),) * dims]
    gaussian = torch.exp(-2 * patch.square().sum(-1) / (reach * step) ** 2)
    around, each = (slice(None), *[None] * dims), tuple(range(1, dims + 1))

    # with one dimension less: each row of the query is compared with each of the patch, as many channels of a fast
    # convolution, and then those that a displacement brings together are summed
    maps = []
    many = max(1, AT_ONCE // offsets[..., 0].numel())
    parts = [torch.split(x, many) for x in (points, places, linear.expand(len(points), dims, dims))]
    for some, there, turns in zip(*parts, strict=True):
        weights, mine = _read((salient[None], template), some[around] + patch, stride)
        weights = gaussian[..., None] * weights
        mine = weights / weights.sum(each, keepdim=True) * normalize(mine, dim=-1)
        turned = torch.einsum("...j,nij->n...i", offsets, turns)
        [its] = _read((query,), there[around] + turned, stride)
        its = normalize(its, dim=-1)
        rows = _compare_rows(its.movedim(-1, 2), mine.movedim(-1, 2))
        moves = range(2 * search + 1)
        maps.append(torch.stack([rows.diagonal(-move, 1, 2).sum(-1) for move in moves], dim=1))
    return torch.cat(maps)


def _read(levels: Sequence[Tensor], at: Tensor, stride: float) -> list[Tensor]:
    """As :py:func:`monai_infoaug._grid.level_features`: (*N, F) of levels (F, *cells) at finite voxels (*N, D).

    In half of its time where the features of a cell lie side by side.
    """
    size = levels[0].shape[1:]
    last = torch.tensor(size).to(at) - 1
    cells = ((at.flatten(0, -2) + 0.5) / stride - 0.5).clamp_min(0).minimum(last)
    low = cells.floor().minimum((last - 1).clamp_min(0))
    index, weights = torch.zeros_like(low[:, :1], dtype=torch.long), torch.ones_like(low[:, :1])
    for length, first, part in zip(size, *(torch.split(x, 1, 1) for x in (low.long(), cells - low)), strict=True):
        index = length * index + first
        index = torch.cat([index, index + min(1, length - 1)], dim=1)
        weights = torch.cat([weights * (1 - part), weights * part], dim=1)
    tables = (level.movedim(0, -1).flatten(0, -2) for level in levels)
    read = (embedding_bag(index, table, per_sample_weights=weights, mode="sum") for table in tables)
    return [features.reshape(*at.shape[:-1], -1) for features in read]


def _compare_rows(query: Tensor, patch: Tensor) -> Tensor:
    """Each row (N, W, F, *w) of the query with each (N, P, F, *p) of the patch, moved along the rest: (N, W, P, *m)."""
    if query.ndim > 4:
        return torch.stack([conv2d(its, mine) for its, mine in zip(query, patch, strict=True)])
    rows = conv1d(query.transpose(0, 1).flatten(1, 2), patch.flatten(0, 1), groups=len(query))  # several times faster
    return rows.reshape(len(rows), *patch.shape[:2], -1).transpose(0, 1)
