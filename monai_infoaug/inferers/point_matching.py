"""Where points of templates lie in other images, by their embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import product

import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from monai_infoaug._grid import level_features, level_shares
from monai_infoaug._require import is_count, is_number, refusal
from monai_infoaug.inferers._consensus import compare_patches, local_places, robust_affine, salience, support_points
from monai_infoaug.inferers._peaks import clip_to, peak_of

__all__ = ["match_points", "match_votes"]

MAP_CELLS = 2**25  # cells of the similarity maps that are held at a time
CACHED_CELLS = 2**20  # the same on CPUs, whose caches hold about so many
SAMPLE = 1000  # cells of a level that tell whether it is of unit norm
LEAST = 1e-6  # voxels of a patch's radius that are divided by
SUPPORT, REFINED = 1000, 300  # points on whose matches, and on whose patches' matches, the maps are fitted


def match_points(
    template: Sequence[Tensor],
    points: Tensor,
    query: Sequence[Tensor],
    strides: Sequence[float],
    size: Sequence[int],
    weights: Sequence[float] | None = None,
    chunk: int | None = None,
    patch_radius: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Find the points of template images in query images.

    The similarity of a query cell is the weighted sum over levels of the cosines of the two embeddings, averaged over
    templates, in the cells of the finest level, to which the others are interpolated. Its maximum is refined to a
    fraction of a cell by a parabola along each axis.

    With a ``patch_radius`` the search is a registration by embeddings [1]. 1000 points where the template's embedding
    changes are matched on the coarser levels as above, and most of them agree on an affine map. Around the places to
    which it takes 300 of them, the finest level is searched for the patches of embeddings around these points, in which
    a cell counts by how much it differs from its neighbours. Their matches bend the map: each point has an affine map
    of its own, fitted to the matches near by (Gaussian weights with a standard deviation of twice that radius).
    Around the place where this map takes the point, its patch is searched. This is far more precise where smooth maps
    take one image to the other but for some voxels (two scans of a patient, say); a point that lies further away is
    lost. The best of the templates decides on each point.

    Args:
        template: levels (T, F, *cells) of the embedding of T templates, not necessarily of unit norm.
        points: (T, N, D) in voxels of the templates, any fraction of a voxel. NaN where a template does not show a
            point: it has then no vote on it.
        query: levels (B, F, *cells) of the query images, likewise.
        strides: voxels a cell, for each level.
        size: spatial size of the query images.
        weights: weight of each level, default all equal; a level with 0 is not looked at.
        chunk: points whose similarity maps are held at a time. None: as many as fit into 2**25 cells.
        patch_radius: radius in voxels of the patches; along each axis of the template they are searched as far from
            the affine map's place, and half as far from the local map's. None: no patches, every point for itself in
            the whole query.

    Returns:
        Points (B, N, D) in voxels of the query images and scores (B, N), the weighted mean cosine in [-1, 1]; NaN where
        no template shows the point.

    Raises:
        ValueError: for weights that do not fit the levels, a ``patch_radius`` that is no number above 0, or a ``chunk``
            that is no whole number of at least 1.

    References:
        1. Liu et al., "SAME: deformable image registration based on self-supervised anatomical embeddings", MICCAI
           2021, arXiv:2109.11572.
    """
    if patch_radius is not None:
        votes, scores = match_votes(template, points, query, strides, size, weights, chunk, patch_radius)
        scores, best = scores.nan_to_num(-torch.inf).max(0)
        found, unseen = votes.take_along_dim(best[None, ..., None], 0)[0], scores.isinf()
        return found.masked_fill(unseen[..., None], torch.nan), scores.masked_fill(unseen, torch.nan)
    require_search(chunk, patch_radius)
    with torch.autocast(points.device.type, enabled=False):  # half precision would cost voxels
        return _match_alone(template, points, [*map(of_unit_norm, query)], strides, size, weights, chunk)


def match_votes(
    template: Sequence[Tensor],
    points: Tensor,
    query: Sequence[Tensor],
    strides: Sequence[float],
    size: Sequence[int],
    weights: Sequence[float] | None = None,
    chunk: int | None = None,
    patch_radius: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Find the points of each template, by itself, in query images: its votes.

    Args:
        template: levels (T, F, *cells), this and what follows as :py:func:`match_points` takes it.
        points: (T, N, D) in voxels of the templates, NaN where a template does not show a point.
        query: levels (B, F, *cells).
        strides: voxels a cell, for each level.
        size: spatial size of the query images.
        weights: weight of each level.
        chunk: points at a time.
        patch_radius: radius in voxels of the patches.

    Returns:
        Points (T, B, N, D) in voxels of the query images and scores (T, B, N); NaN where a template does not show the
        point. :py:func:`monai_infoaug.inferers.robust_centre` makes one point of them.

    Raises:
        ValueError: as :py:func:`match_points` does.
    """
    require_search(chunk, patch_radius)
    with torch.autocast(points.device.type, enabled=False):
        others = [*map(of_unit_norm, query)]
        if patch_radius is not None:
            radius = max(patch_radius, LEAST)
            return match_patches(template, points, others, strides, size, weights, chunk, radius)
        votes = []
        for t in range(len(points)):
            own = [level[t : t + 1] for level in template]
            votes.append(_match_alone(own, points[t : t + 1], others, strides, size, weights, chunk))
    found, scores = map(torch.stack, zip(*votes, strict=True))
    return found, scores


def require_search(chunk: int | None, patch_radius: float | None) -> None:
    """Refuse settings of a search that are out of range.

    Raises:
        ValueError: naming the setting.
    """
    if chunk is not None and not is_count(chunk, 1):
        raise refusal("chunk", chunk, "a whole number of at least 1, or None")
    if patch_radius is not None and not (is_number(patch_radius) and patch_radius > 0):
        raise refusal("patch_radius", patch_radius, "a number of voxels above 0, or None")


def of_unit_norm(level: Tensor) -> Tensor:
    """Embeddings (B, F, *cells) of unit norm; as they are if a sample of the cells says that they have it, or zeros."""
    sample = level.flatten(2)[..., :: level[0, 0].numel() // SAMPLE | 1]  # odd, so as to meet all columns
    norms = sample.float().norm(dim=1)
    has_it = norms.any() & ((norms == 0) | ((norms - 1).abs() < 0.01)).all()  # as near as half precision comes
    if has_it:
        return level
    values = level.float()
    return values / values.square().sum(1, keepdim=True).sqrt().clamp_min(1e-12)  # an eighth of the time of `normalize`


def _match_alone(
    template: Sequence[Tensor],
    points: Tensor,
    query: Sequence[Tensor],
    strides: Sequence[float],
    size: Sequence[int],
    weights: Sequence[float] | None,
    chunk: int | None,
) -> tuple[Tensor, Tensor]:
    votes = points.isfinite().all(-1, keepdim=True).float()
    votes = votes / votes.sum(0)  # 0 / 0 where there is none
    shares = level_shares(weights, len(strides))
    levels = [
        (stride, share * (normalize(level_features(mine.float(), points, stride), dim=-1) * votes).sum(0), its)
        for share, stride, mine, its in zip(shares, strides, template, query, strict=True)
        if share
    ]
    finest, _, cells = min(levels, key=lambda level: level[0])
    chunk = chunk or max(1, (CACHED_CELLS if cells.device.type == "cpu" else MAP_CELLS) // cells[0, 0].numel())
    peaks = []
    for b, i in product(range(len(cells)), range(0, points.shape[1], chunk)):
        cosines = (
            _to_cells(
                torch.einsum("nf,f...->n...", described[i : i + chunk], level[b].float()),
                stride / finest,
                cells.shape[2:],
            )
            for stride, described, level in levels
        )
        maps = next(cosines).contiguous()
        for more in cosines:
            maps += more
        peaks.append(peak_of(maps))
    shape = (len(cells), points.shape[1])
    found, scores = (torch.cat(parts).reshape(*shape, *parts[0].shape[1:]) for parts in zip(*peaks, strict=True))
    found = clip_to(finest * found + (finest - 1) / 2, size)
    return found.masked_fill(scores.isnan()[..., None], torch.nan), scores


def match_patches(
    template: Sequence[Tensor],
    points: Tensor,
    query: Sequence[Tensor],
    strides: Sequence[float],
    size: Sequence[int],
    weights: Sequence[float] | None,
    chunk: int | None,
    patch_radius: float,
    finely: bool = True,
) -> tuple[Tensor, Tensor]:
    """:py:func:`match_votes` by patches, of queries of unit norm; unless finely, in steps of two cells alone."""
    shares = level_shares(weights, len(strides))
    levels = sorted(
        (level for level in zip(strides, shares, template, query, strict=True) if level[1]), key=lambda level: level[0]
    )
    stride, _, *finest = levels[0]
    # patches are read faster where the features of a cell lie side by side
    fine, fine_query = (level.float().movedim(1, -1).contiguous().movedim(-1, 1) for level in finest)
    strides, shares, coarse, coarse_query = map(list, zip(*(levels[1:] or levels), strict=True))
    votes = []
    for t, seen in enumerate(points):
        salient = salience(of_unit_norm(fine[t : t + 1])[0])
        support = support_points(salient, stride, SUPPORT)
        own = [level[t : t + 1] for level in coarse]
        matches, _ = _match_alone(own, support[None], coarse_query, strides, size, shares, chunk)
        for b, matched in enumerate(matches):
            look = partial(look_around, fine[t], salient, fine_query[b], stride=stride, radius=patch_radius)
            linear, shift = robust_affine(support, matched, stride)
            some = support[:REFINED]
            places, _ = look(some, some @ linear.T + shift, linear, cells=2, radius_searched=patch_radius)
            linear, shift = robust_affine(some, places, stride)
            # a match is wrong where it lies further from the map than the points are searched
            bend = partial(local_places, some, places, spread=2 * patch_radius, scale=patch_radius / 2)
            places = bend(seen.nan_to_num(), linear, shift)
            for cells, searched in ((2, patch_radius / 2), (1, 2 * stride), (1, stride))[: 3 if finely else 1]:
                places, scores = look(seen.nan_to_num(), places, linear, cells=cells, radius_searched=searched)
            unseen = ~seen.isfinite().all(-1)
            places = clip_to(places, size).masked_fill(unseen[:, None], torch.nan)
            votes.append((places, scores.masked_fill(unseen, torch.nan)))
    shape = (len(points), len(fine_query))
    found, scores = (torch.stack(parts).reshape(*shape, *parts[0].shape) for parts in zip(*votes, strict=True))
    return found, scores


def look_around(
    template: Tensor,
    salient: Tensor,
    query: Tensor,
    points: Tensor,
    places: Tensor,
    linear: Tensor,
    stride: float,
    cells: int,
    radius: float,
    radius_searched: float,
) -> tuple[Tensor, Tensor]:
    """Better places (N, D) and scores (N,) of points by patches, in steps of so many cells.

    For the arguments see :py:func:`monai_infoaug.inferers._consensus.compare_patches`.
    """
    step = cells * stride
    most = max(query.shape[2:])  # cells, beyond which there is nothing
    reach, search = (max(1, min(round(distance / step), most)) for distance in (radius, radius_searched))
    peaks, scores = peak_of(
        compare_patches(template, salient, points, query, places, linear, stride, step, reach, search)
    )
    moves = step * (peaks - search)
    return places + (moves @ linear.T if linear.ndim == 2 else (linear @ moves[..., None])[..., 0]), scores


def _to_cells(maps: Tensor, ratio: float, cells: Sequence[int]) -> Tensor:
    """(N, *coarser cells) interpolated to (N, *cells)."""
    if ratio == 1:
        return maps
    mode = {2: "bilinear", 3: "trilinear"}[maps.ndim - 1]
    maps = interpolate(maps[None], scale_factor=ratio, mode=mode, align_corners=False)[0]
    return maps[(slice(None), *map(slice, cells))]
