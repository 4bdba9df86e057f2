"""Registration by embeddings of one image to another: points where most changes, then patches around them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial

import torch
from torch import Tensor

from monai_infoaug._grid import level_shares
from monai_infoaug.inferers._coarse_to_fine import LAST, CoarseToFine, descriptors
from monai_infoaug.inferers._consensus import compare_patches, local_places, robust_affine, salience, support_points
from monai_infoaug.inferers._peaks import clip_to, peak_of

SAMPLE = 1000  # cells of a level that tell whether it is of unit norm
SUPPORT, REFINED = 1000, 300  # points on whose matches, and on whose patches' matches, the maps are fitted


class PatchImage:
    """An image as the search by patches looks at it; what is made of its embedding is made once.

    Args:
        levels: (1, F, *cells) of its embedding.
        strides: voxels a cell, for each level.
        weights: weight of each level; one of weight 0 is not looked at.
    """

    def __init__(self, levels: Sequence[Tensor], strides: Sequence[float], weights: Sequence[float] | None) -> None:
        shares = level_shares(weights, len(strides))
        used = sorted((i for i, share in enumerate(shares) if share), key=lambda i: strides[i])
        first, self.stride = of_unit_norm(levels[used[0]]), strides[used[0]]
        # patches are read faster where the features of a cell lie side by side
        self.fine = first.float().contiguous(memory_format=LAST[first.ndim])[0]
        coarse = used[1:] or used
        self._coarse = [levels[i] for i in coarse], [strides[i] for i in coarse]
        total = sum(shares[i] for i in coarse)
        self._shares = [shares[i] / total for i in coarse]

    @cached_property
    def salient(self) -> Tensor:
        """How much each cell of the finest level differs from its neighbours."""
        return salience(self.fine)

    @cached_property
    def support(self) -> Tensor:
        """Points (N, D) that are matched first."""
        return support_points(self.salient, self.stride, SUPPORT)

    @cached_property
    def described(self) -> Tensor:
        """Descriptors of these on the coarser levels."""
        return descriptors(*self._coarse, self._shares, self.support)

    @cached_property
    def coarse(self) -> CoarseToFine:
        """The coarser levels, where points of other images are searched."""
        levels, strides = self._coarse
        return CoarseToFine([*map(of_unit_norm, levels)], strides, self._shares)

    def look_around(
        self,
        query: PatchImage,
        points: Tensor,
        places: Tensor,
        linear: Tensor,
        cells: int,
        radius: float,
        radius_searched: float,
    ) -> tuple[Tensor, Tensor]:
        """Better places (N, D) in a query and scores (N,) of points of this image, in steps of so many cells.

        For the arguments see :py:func:`monai_infoaug.inferers._consensus.compare_patches`.
        """
        step = cells * self.stride
        most = max(query.fine.shape[1:])  # cells, beyond which there is nothing
        reach, search = (max(1, min(round(distance / step), most)) for distance in (radius, radius_searched))
        peaks, scores = peak_of(
            compare_patches(
                self.fine, self.salient, points, query.fine, places, linear, self.stride, step, reach, search
            )
        )
        moves = step * (peaks - search)
        return places + (moves @ linear.T if linear.ndim == 2 else (linear @ moves[..., None])[..., 0]), scores


class Levels(list[Tensor]):
    """Levels of an embedding that keep what the search by patches makes of them: they must not be changed.

    They are kept as patches are read, so that nothing is copied there.
    """

    def __init__(self, levels: Sequence[Tensor]) -> None:
        super().__init__(level.contiguous(memory_format=LAST[level.ndim]) for level in levels)
        self._images: dict[tuple[object, ...], list[PatchImage]] = {}

    def images(self, strides: Sequence[float], weights: Sequence[float] | None) -> list[PatchImage]:
        """The images of the batch."""
        key = tuple(strides), weights if weights is None else tuple(weights)
        if key not in self._images:
            self._images[key] = patch_images([*self], strides, weights)
        return self._images[key]


def patch_images(
    levels: Sequence[Tensor], strides: Sequence[float], weights: Sequence[float] | None
) -> list[PatchImage]:
    """The images of a batch, kept by its levels if they are :py:class:`Levels`."""
    if isinstance(levels, Levels):
        return levels.images(strides, weights)
    each = ([level[b : b + 1] for level in levels] for b in range(len(levels[0])))
    return [PatchImage(its, strides, weights) for its in each]


def search_patches(
    template: PatchImage,
    points: Tensor,
    query: PatchImage,
    size: Sequence[int],
    patch_radius: float,
    finely: bool = True,
) -> tuple[Tensor, Tensor]:
    """Where points of a template lie in a query by patches; unless finely, in steps of two cells alone.

    Args:
        template: image that shows the points.
        points: (N, D) in its voxels, NaN where it does not show a point.
        query: image that is searched.
        size: its spatial size in voxels.
        patch_radius: see :py:func:`monai_infoaug.inferers.match_points`.
        finely: whether to search in steps of one cell in the end.

    Returns:
        Places (N, D) in the query and scores (N,); NaN likewise.
    """
    support, stride = template.support, template.stride
    matched = clip_to(query.coarse.find(template.described), size)
    look = partial(template.look_around, query, radius=patch_radius)
    linear, shift = robust_affine(support, matched, stride)
    some = support[:REFINED]
    places, _ = look(some, some @ linear.T + shift, linear, cells=2, radius_searched=patch_radius)
    linear, shift = robust_affine(some, places, stride)
    # a match is wrong where it lies further from the map than the points are searched
    seen = points.nan_to_num()
    places = local_places(some, places, seen, linear, shift, spread=2 * patch_radius, scale=patch_radius / 2)
    for cells, searched in ((2, patch_radius / 2), (1, 2 * stride), (1, stride))[: 3 if finely else 1]:
        places, scores = look(seen, places, linear, cells=cells, radius_searched=searched)
    unseen = ~points.isfinite().all(-1)
    return clip_to(places, size).masked_fill(unseen[:, None], torch.nan), scores.masked_fill(unseen, torch.nan)


def of_unit_norm(level: Tensor) -> Tensor:
    """Embeddings (B, F, *cells) of unit norm; as they are if a sample of the cells says that they have it, or zeros."""
    sample = level.flatten(2)[..., :: level[0, 0].numel() // SAMPLE | 1]  # odd, so as to meet all columns
    norms = sample.float().norm(dim=1)
    has_it = norms.any() & ((norms == 0) | ((norms - 1).abs() < 0.01)).all()  # as near as half precision comes
    if has_it:
        return level
    values = level.float()
    return values / values.square().sum(1, keepdim=True).sqrt().clamp_min(1e-12)  # an eighth of the time of `normalize`
