"""Landmarks in new images from a few annotated ones, by nearest embedding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from typing import Any

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.utils import convert_to_tensor
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize

from monai_infoaug._grid import level_features, level_shares
from monai_infoaug._require import all_finite, is_count, is_number, listed, refusal, require_truth
from monai_infoaug.inferers._consensus import compare_patches, local_places, robust_affine, salience, support_points
from monai_infoaug.inferers._peaks import clip_to, peak_of

__all__ = ["LandmarkMatcher", "match_points", "to_voxels", "to_world"]

MAP_CELLS = 2**25  # cells of the similarity maps that are held at a time
LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
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
    _require_search(chunk, patch_radius)
    find: Callable[..., tuple[Tensor, Tensor]] = _match_alone
    if patch_radius is not None:
        find = partial(_match_by_consensus, patch_radius=max(patch_radius, LEAST))
    with torch.autocast(points.device.type, enabled=False):  # half precision would cost voxels
        return find(template, points, [*map(_of_unit_norm, query)], strides, size, weights, chunk)


def _require_search(chunk: int | None, patch_radius: float | None) -> None:
    if chunk is not None and not is_count(chunk, 1):
        raise refusal("chunk", chunk, "a whole number of at least 1, or None")
    if patch_radius is not None and not (is_number(patch_radius) and patch_radius > 0):
        raise refusal("patch_radius", patch_radius, "a number of voxels above 0, or None")


def _of_unit_norm(level: Tensor) -> Tensor:
    """Embeddings (B, F, *cells) of unit norm; as they are if a sample of the cells says that they have it, or zeros."""
    sample = level.flatten(2)[..., :: level[0, 0].numel() // SAMPLE | 1]  # odd, so as to meet all columns
    norms = sample.float().norm(dim=1)
    has_it = norms.any() & ((norms == 0) | ((norms - 1).abs() < 0.01)).all()  # as near as half precision comes
    return level if has_it else normalize(level.float(), dim=1)


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
        (share, stride, (normalize(level_features(mine.float(), points, stride), dim=-1) * votes).sum(0), its)
        for share, stride, mine, its in zip(shares, strides, template, query, strict=True)
        if share
    ]
    _, finest, _, cells = min(levels, key=lambda level: level[1])
    chunk = chunk or max(1, MAP_CELLS // cells[0, 0].numel())
    peaks = []
    for b, i in product(range(len(cells)), range(0, points.shape[1], chunk)):
        maps = cells.new_zeros((), dtype=torch.float32)
        for share, stride, described, level in levels:
            cosines = torch.einsum("nf,f...->n...", described[i : i + chunk], level[b].float())
            maps = maps + share * _to_cells(cosines, stride / finest, cells.shape[2:])
        peaks.append(peak_of(maps))
    shape = (len(cells), points.shape[1])
    found, scores = (torch.cat(parts).reshape(*shape, *parts[0].shape[1:]) for parts in zip(*peaks, strict=True))
    found = clip_to(finest * found + (finest - 1) / 2, size)
    return found.masked_fill(scores.isnan()[..., None], torch.nan), scores


def _match_by_consensus(
    template: Sequence[Tensor],
    points: Tensor,
    query: Sequence[Tensor],
    strides: Sequence[float],
    size: Sequence[int],
    weights: Sequence[float] | None,
    chunk: int | None,
    patch_radius: float,
) -> tuple[Tensor, Tensor]:
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
        salient = salience(_of_unit_norm(fine[t : t + 1])[0])
        support = support_points(salient, stride, SUPPORT)
        own = [level[t : t + 1] for level in coarse]
        matches, _ = _match_alone(own, support[None], coarse_query, strides, size, shares, chunk)
        for b, matched in enumerate(matches):
            look = partial(_look_around, fine[t], salient, fine_query[b], stride=stride, radius=patch_radius)
            linear, shift = robust_affine(support, matched, stride)
            some = support[:REFINED]
            places, _ = look(some, some @ linear.T + shift, linear, cells=2, radius_searched=patch_radius)
            linear, shift = robust_affine(some, places, stride)
            # a match is wrong where it lies further from the map than the points are searched
            bend = partial(local_places, some, places, spread=2 * patch_radius, scale=patch_radius / 2)
            places = bend(seen.nan_to_num(), linear, shift)
            for cells, searched in ((2, patch_radius / 2), (1, 2 * stride), (1, stride)):
                places, scores = look(seen.nan_to_num(), places, linear, cells=cells, radius_searched=searched)
            votes.append((places, scores.where(seen.isfinite().all(-1), -torch.inf)))
    shape = (len(points), len(fine_query))
    found, scores = (torch.stack(parts).reshape(*shape, *parts[0].shape) for parts in zip(*votes, strict=True))
    scores, best = scores.max(0)
    found = clip_to(found.take_along_dim(best[None, ..., None], 0)[0], size)
    return found.masked_fill(scores.isinf()[..., None], torch.nan), scores.masked_fill(scores.isinf(), torch.nan)


def _look_around(
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
    """Better places (N, D) and scores (N,) of points by patches, in steps of so many cells."""
    step = cells * stride
    most = max(query.shape[2:])  # cells, beyond which there is nothing
    reach, search = (max(1, min(round(distance / step), most)) for distance in (radius, radius_searched))
    peaks, scores = peak_of(
        compare_patches(template, salient, points, query, places, linear, stride, step, reach, search)
    )
    return places + step * (peaks - search) @ linear.T, scores


def _to_cells(maps: Tensor, ratio: float, cells: Sequence[int]) -> Tensor:
    """(N, *coarser cells) interpolated to (N, *cells)."""
    if ratio == 1:
        return maps
    mode = {2: "bilinear", 3: "trilinear"}[maps.ndim - 1]
    maps = interpolate(maps[None], scale_factor=ratio, mode=mode, align_corners=False)[0]
    return maps[(slice(None), *map(slice, cells))]


def _affine(image: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Linear part (D, D) or (B, D, D) and origin (1, D) or (B, 1, D) of the map from voxels to millimetres."""
    dims = points.shape[-1]
    affine = torch.as_tensor(image.affine if isinstance(image, MetaTensor) else torch.eye(dims + 1)).to(points)
    return affine[..., :dims, :dims], affine[..., None, :dims, -1]


def to_world(points: Tensor, image: Tensor) -> Tensor:
    """Map voxels (B, L, D) of images to millimetres by the MetaTensor's affine; plain tensors have voxels of 1 mm."""
    linear, origin = _affine(image, points)
    return points @ linear.mT + origin


def to_voxels(points: Tensor, image: Tensor) -> Tensor:
    """The way back from :py:func:`to_world`."""
    linear, origin = _affine(image, points)
    voxels: Tensor = torch.linalg.solve(linear, (points - origin).mT)
    return voxels.mT


def _tensor(argument: str, values: object, **how: Any) -> Tensor:
    """An array or nested sequences as a tensor."""
    try:
        tensor = convert_to_tensor(values, wrap_sequence=True, **how)
    except (TypeError, ValueError, RuntimeError) as error:
        raise refusal(argument, repr(values), "a tensor") from error
    if not isinstance(tensor, Tensor):
        raise refusal(argument, repr(values), "a tensor")
    return tensor


class LandmarkMatcher(Inferer):
    """Inferer that finds the landmarks of annotated templates in new images.

    It compares directions of embeddings: those of the network need not be of unit norm.

    Args:
        templates: images (T, C, *S), or one (C, *S), preprocessed like the images to come.
        landmarks: (T, L, D), or (L, D) for one template, in voxels; NaN where a template lacks a landmark.
        world: whether the landmarks are in millimetres of the templates' affines instead.
        level_weights: weight of each level's similarity, default all equal.
        chunk, patch_radius: see :py:func:`monai_infoaug.inferers.match_points`.

    Raises:
        ValueError: for shapes that do not fit each other, a ``patch_radius`` that is no number above 0, a landmark
            outside of its template, an image that is not finite, or a network without strides or one a weight.

    Example:
        >>> from monai_infoaug.networks import PixelEmbeddingNet
        >>> image, landmarks = torch.rand(1, 64, 64), torch.tensor([[20.0, 30.0], [40.5, 12.0]])
        >>> matcher = LandmarkMatcher(image, landmarks)
        >>> found = matcher(image[None], PixelEmbeddingNet())
        >>> found["landmarks"].shape, found["scores"].shape
        (torch.Size([1, 2, 2]), torch.Size([1, 2]))
    """

    def __init__(
        self,
        templates: Tensor,
        landmarks: Tensor,
        world: bool = False,
        level_weights: Sequence[float] | None = None,
        chunk: int | None = None,
        patch_radius: float | None = None,
    ) -> None:
        require_truth(world=world)
        landmarks = _tensor("landmarks", landmarks, dtype=torch.float32)
        templates = _tensor("templates", templates, track_meta=True)
        dims = landmarks.shape[-1] if landmarks.ndim else 0
        if templates.ndim == dims + 1:
            templates = templates[None]
        if landmarks.ndim == 2:
            landmarks = landmarks[None]
        if not (landmarks.ndim == 3 and dims in (2, 3) and landmarks.numel() > 0):
            raise refusal("landmarks", f"shape {tuple(landmarks.shape)}", "(T, L, D) with D 2 or 3")
        if templates.ndim != dims + 2 or len(templates) != len(landmarks):
            raise refusal(
                "templates",
                f"shape {tuple(templates.shape)}",
                f"(T, C, *S) with {dims} spatial dimensions and T = {len(landmarks)} like `landmarks`",
            )
        if not all_finite(templates):
            raise refusal("templates", "NaN or infinite values", "finite")
        if world:
            landmarks = to_voxels(landmarks, templates)
        templates = convert_to_tensor(templates)
        size = torch.tensor(templates.shape[2:], device=landmarks.device)
        outside = ((landmarks < -0.5) | (landmarks > size - 0.5)).any(-1).nonzero().tolist()
        if outside:
            raise refusal(
                "landmarks",
                f"(template, landmark) {outside} outside",
                f"inside of the image of {tuple(size.tolist())} voxels",
            )
        _require_search(chunk, patch_radius)
        if level_weights is not None:
            level_shares(level_weights, max(1, len(listed(level_weights))))
        self.templates, self.landmarks = templates, landmarks
        self.level_weights, self.chunk, self.patch_radius = level_weights, chunk, patch_radius
        self._network: nn.Module | None = None
        self._state: object = None
        self._levels: list[Tensor] = []

    @torch.no_grad()
    def __call__(
        self,
        inputs: Tensor,
        network: Callable[..., Any],
        *args: Any,  # noqa: ARG002
        **kwargs: Any,  # noqa: ARG002
    ) -> dict[str, Tensor]:
        """Find the landmarks in images.

        Args:
            inputs: (B, C, *S); a MetaTensor's affine gives millimetres, otherwise a voxel is taken as one.
            network: embedding network with ``strides``, in evaluation mode.
            args: not used; MONAI's inferers take them.
            kwargs: not used, either.

        Returns:
            ``landmarks`` (B, L, D) in voxels, ``world`` (B, L, D) in millimetres, ``scores`` (B, L) in [-1, 1].
        """
        if inputs.ndim != self.templates.ndim or inputs.shape[1] != self.templates.shape[1]:
            raise refusal(
                "inputs",
                f"shape {tuple(inputs.shape)}",
                f"(B, C, *S) like the templates' {tuple(self.templates.shape)}",
            )
        if not all_finite(inputs):
            raise refusal("inputs", "NaN or infinite values", "finite")
        strides = getattr(getattr(network, "module", network), "strides", None)
        if not isinstance(network, nn.Module) or strides is None:
            raise refusal("network", type(network).__name__, "an embedding network with `strides`")
        images = convert_to_tensor(inputs)  # a MetaTensor would carry its metadata through every layer
        found, scores = match_points(
            self._embedded(network, images),
            self.landmarks.to(images.device),
            self._levels_of(network, images),
            strides,
            images.shape[2:],
            self.level_weights,
            self.chunk,
            self.patch_radius,
        )
        return {"landmarks": found, "world": to_world(found, inputs), "scores": scores}

    def _levels_of(self, network: nn.Module, images: Tensor) -> list[Tensor]:
        levels: list[Tensor] = network(images)
        if self.patch_radius is not None:
            for i, level in enumerate(levels):  # as the patches are read, so that none is copied there
                levels[i] = level.contiguous(memory_format=LAST[level.ndim])
        return levels

    def _embedded(self, network: nn.Module, images: Tensor) -> list[Tensor]:
        """Levels of the templates, computed anew only for another network, changed weights or another device.

        PyTorch counts the changes of a tensor, those through ``tensor.data`` excepted.
        """
        tensors = [*network.parameters(), *network.buffers()]
        versions = [(id(t), t.data_ptr(), None if t.is_inference() else t._version) for t in tensors]
        state = network.training, images.device, images.dtype, versions
        if self._network is not network or self._state != state:
            self._levels = self._levels_of(network, self.templates.to(images))
            self._network, self._state, self._tensors = network, state, tensors  # kept alive, so that no id comes twice
        return self._levels
