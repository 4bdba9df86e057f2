"""Where points of templates lie in other images, by their embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor
from torch.nn.functional import normalize

from monai_infoaug._grid import level_features, level_shares
from monai_infoaug._require import is_count, is_number, refusal
from monai_infoaug.inferers._coarse_to_fine import to_cells
from monai_infoaug.inferers._patch_search import of_unit_norm, patch_images, search_patches
from monai_infoaug.inferers._peaks import clip_to, peak_of

__all__ = ["match_points", "match_votes"]

MAP_CELLS = 2**25  # cells of the similarity maps that are held at a time
CACHED_CELLS = 2**20  # the same on CPUs, whose caches hold about so many
LEAST = 1e-6  # voxels of a patch's radius that are divided by


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
    changes are matched on the coarser levels, from coarse to fine, and most of them agree on an affine map. Around the
    places to which it takes 300 of them, the finest level is searched for the patches of embeddings around these
    points, in which a cell counts by how much it differs from its neighbours. Their matches bend the map: each point
    has an affine map of its own, fitted to the matches near by (Gaussian weights with a standard deviation of twice
    that radius). Around the place where this map takes the point, its patch is searched. This is far more precise where
    smooth maps take one image to the other but for some voxels (two scans of a patient, say); a point that lies further
    away is lost. The best of the templates decides on each point.

    Args:
        template: levels (T, F, *cells) of the embedding of T templates, not necessarily of unit norm.
        points: (T, N, D) in voxels of the templates, any fraction of a voxel. NaN where a template does not show a
            point: it has then no vote on it.
        query: levels (B, F, *cells) of the query images, likewise.
        strides: voxels a cell, for each level.
        size: spatial size of the query images.
        weights: weight of each level, default all equal; a level with 0 is not looked at.
        chunk: points whose similarity maps are held at a time, without patches. None: as many as fit into 2**25 cells.
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
        if patch_radius is not None:
            images, others = (patch_images(levels, strides, weights) for levels in (template, query))
            radius = max(patch_radius, LEAST)
            pairs = product(zip(images, points, strict=True), others)
            votes = [search_patches(image, seen, other, size, radius) for (image, seen), other in pairs]
        else:
            queries = [*map(of_unit_norm, query)]
            own = ([level[t : t + 1] for level in template] for t in range(len(points)))
            each = zip(own, points[:, None], strict=True)
            votes = [_match_alone(mine, seen, queries, strides, size, weights, chunk) for mine, seen in each]
    found, scores = (torch.stack(parts) for parts in zip(*votes, strict=True))
    shape = (len(points), len(query[0]))
    return found.reshape(*shape, *points.shape[1:]), scores.reshape(*shape, points.shape[1])


def require_search(chunk: int | None, patch_radius: float | None) -> None:
    """Refuse settings of a search that are out of range.

    Raises:
        ValueError: naming the setting.
    """
    if chunk is not None and not is_count(chunk, 1):
        raise refusal("chunk", chunk, "a whole number of at least 1, or None")
    if patch_radius is not None and not (is_number(patch_radius) and patch_radius > 0):
        raise refusal("patch_radius", patch_radius, "a number of voxels above 0, or None")


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
            to_cells(
                torch.einsum("nf,f...->n...", described[i : i + chunk], level[b].float())[None],
                stride / finest,
                cells.shape[2:],
            )[0]
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
