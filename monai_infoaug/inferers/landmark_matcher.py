"""Landmarks in new images from a few annotated ones, by nearest embedding."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.utils import convert_to_tensor
from torch import Tensor, nn
from torch.nn.functional import interpolate, normalize

from monai_infoaug._grid import level_features, level_shares
from monai_infoaug._require import require

__all__ = ["LandmarkMatcher", "match_points", "to_world"]

MAP_CELLS = 2**25  # of the similarity maps that are held at a time


def describe_points(template: Sequence[Tensor], points: Tensor, strides: Sequence[float]) -> list[Tensor]:
    """Embeddings of points, averaged over the templates that show them.

    Args:
        template: levels (T, F, *cells) of the embedding of T templates.
        points: (T, N, D) in voxels of the templates, any fraction of a voxel. NaN where a template does not show a
            point: it has then no vote on it.
        strides: voxels a cell, for each level.

    Returns:
        (N, F) for each level, NaN where no template shows the point.
    """
    votes = points.isfinite().all(-1).float()
    votes = votes / votes.sum(0)  # 0 / 0 where there is none
    return [
        (normalize(level_features(level.float(), points, s), dim=-1) * votes[..., None]).sum(0)
        for level, s in zip(template, strides, strict=True)
    ]


def match_points(
    template: Sequence[Tensor],
    points: Tensor,
    query: Sequence[Tensor],
    strides: Sequence[float],
    size: Sequence[int],
    weights: Sequence[float] | None = None,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Find the points of template images in query images.

    The similarity of a query cell is the weighted sum over levels of the cosines of the two embeddings, averaged over
    templates, in the cells of the finest level, to which the others are interpolated. Its maximum is refined to a
    fraction of a cell by a parabola along each axis.

    Args:
        template: levels (T, F, *cells) of the embedding of T templates.
        points: (T, N, D) in voxels of the templates, any fraction of a voxel. NaN where a template does not show a
            point: it has then no vote on it.
        query: levels (B, F, *cells) of the query images.
        strides: voxels a cell, for each level.
        size: spatial size of the query images.
        weights: of the levels, default all equal; a level with 0 is not looked at.
        chunk: points whose similarity maps are held at a time. None: as many as fit into 2**25 cells.

    Returns:
        Points (B, N, D) in voxels of the query images and scores (B, N), the weighted mean cosine in [-1, 1]; NaN where
        no template shows the point.

    Raises:
        ValueError: for weights that do not fit the levels.
    """
    return _find(_describe(template, points, strides), query, strides, size, weights, chunk)


def _describe(template: Sequence[Tensor], points: Tensor, strides: Sequence[float]) -> list[Tensor]:
    """Mean embeddings (N, F) of points, for each level; NaN where no template shows the point."""
    votes = points.isfinite().all(-1).float()
    votes = votes / votes.sum(0)  # 0 / 0 where there is none
    return [
        (normalize(level_features(level.float(), points, s), dim=-1) * votes[..., None]).sum(0)
        for level, s in zip(template, strides, strict=True)
    ]


def _find(
    descriptors: Sequence[Tensor],
    query: Sequence[Tensor],
    strides: Sequence[float],
    size: Sequence[int],
    weights: Sequence[float] | None,
    chunk: int | None,
) -> tuple[Tensor, Tensor]:
    weights = level_shares(weights, len(strides))
    levels = [level for level in zip(weights, strides, descriptors, query, strict=True) if level[0]]
    _, finest, points, cells = min(levels, key=lambda level: level[1])
    chunk = chunk or max(1, MAP_CELLS // cells[0, 0].numel())
    peaks = []
    for b, i in product(range(len(cells)), range(0, len(points), chunk)):
        maps = 0
        for weight, stride, described, level in levels:
            cosines = torch.einsum("nf,f...->n...", described[i : i + chunk], level[b].float())
            maps = maps + weight * _to_cells(cosines, stride / finest, cells.shape[2:])
        peaks.append(_peak(maps))
    shape = (len(cells), len(points))
    found, scores = (torch.cat(parts).reshape(*shape, *parts[0].shape[1:]) for parts in zip(*peaks, strict=True))
    found = finest * found + (finest - 1) / 2
    found = found.clamp_min(0).minimum(torch.tensor(size).to(found) - 1)
    return found.masked_fill(scores.isnan()[..., None], torch.nan), scores


def _to_cells(maps: Tensor, ratio: float, cells: Sequence[int]) -> Tensor:
    """(N, *coarser cells) interpolated to (N, *cells)."""
    if ratio == 1:
        return maps
    mode = {2: "bilinear", 3: "trilinear"}[maps.ndim - 1]
    maps = interpolate(maps[None], scale_factor=ratio, mode=mode, align_corners=False)[0]
    return maps[(..., *(slice(n) for n in cells))]


def _peak(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Maxima (N, D) of (N, *cells), to a fraction of a cell, and their values (N,)."""
    size = maps.shape[1:]
    scores, flat = maps.flatten(1).max(1)
    peak = torch.stack(torch.unravel_index(flat, size), dim=1)
    row = torch.arange(len(maps), device=maps.device)
    shifts = []
    for axis, length in enumerate(size):
        # at the border the parabola would need a value outside: the maximum stays where it is
        inner = peak[:, axis].clamp(1, max(length - 2, 1))
        low, mid, high = (
            maps[(row, *(inner + o if a == axis else peak[:, a] for a in range(len(size))))] if length > 2 else scores
            for o in (-1, 0, 1)
        )
        curvature = low - 2 * mid + high
        shift = 0.5 * (low - high) / curvature.where(curvature < 0, torch.full_like(curvature, -torch.inf))
        shifts.append(shift.where(inner == peak[:, axis], torch.zeros_like(shift)).clamp(-0.5, 0.5))
    return peak + torch.stack(shifts, dim=1), scores


def _affine(image: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Linear part (D, D) or (B, D, D) and origin (1, D) or (B, 1, D) of the map from voxels to millimetres."""
    dims = points.shape[-1]
    affine = torch.as_tensor(image.affine if isinstance(image, MetaTensor) else torch.eye(dims + 1)).to(points)
    return affine[..., :dims, :dims], affine[..., None, :dims, -1]


def to_world(points: Tensor, image: Tensor) -> Tensor:
    """Map voxels (B, L, D) of images to millimetres by the MetaTensor's affine; plain tensors have voxels of 1 mm."""
    linear, origin = _affine(image, points)
    return points @ linear.mT + origin


class LandmarkMatcher(Inferer):
    """Inferer that finds the landmarks of annotated templates in new images.

    Args:
        templates: images (T, C, *S), or one (C, *S), preprocessed like the images to come.
        landmarks: (T, L, D), or (L, D) for one template, in voxels; NaN where a template lacks a landmark.
        world: the landmarks are in millimetres of the templates' affines instead.
        level_weights: weight of each level's similarity, default all equal.
        chunk: landmarks whose similarity maps are held at a time, see :py:func:`monai_infoaug.inferers.match_points`.

    Raises:
        ValueError: for shapes that do not fit each other, a landmark outside of its template, a template that is not
            finite, or a network without one stride a weight.

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
    ) -> None:
        landmarks = convert_to_tensor(landmarks, dtype=torch.float32, wrap_sequence=True)
        templates, dims = convert_to_tensor(templates, track_meta=True), landmarks.shape[-1]
        if templates.ndim == dims + 1:
            templates = templates[None]
        if landmarks.ndim == 2:
            landmarks = landmarks[None]
        require(
            landmarks.ndim == 3 and dims in (2, 3) and landmarks.numel() > 0,
            "landmarks",
            f"shape {tuple(landmarks.shape)}",
            "(T, L, D) with D 2 or 3",
        )
        require(
            templates.ndim == dims + 2 and len(templates) == len(landmarks),
            "templates",
            f"shape {tuple(templates.shape)}",
            f"(T, C, *S) with {dims} spatial dimensions and T = {len(landmarks)} like `landmarks`",
        )
        require(bool(templates.isfinite().all()), "templates", "NaN or infinite values", "finite")
        if world:
            linear, origin = _affine(templates, landmarks)
            landmarks = torch.linalg.solve(linear, (landmarks - origin).mT).mT
        templates = convert_to_tensor(templates)
        size = torch.tensor(templates.shape[2:], device=landmarks.device)
        outside = ((landmarks < -0.5) | (landmarks > size - 0.5)).any(-1).nonzero().tolist()
        require(
            not outside,
            "landmarks",
            f"(template, landmark) {outside} outside",
            f"inside of the image of {tuple(size.tolist())} voxels",
        )
        require(lambda: chunk is None or chunk >= 1, "chunk", chunk, "at least 1, or None")
        self.templates, self.landmarks = templates, landmarks
        self.level_weights, self.chunk = level_weights, chunk
        self._network: nn.Module | None = None

    @torch.no_grad()
    def __call__(self, inputs: Tensor, network: nn.Module, *args, **kwargs) -> dict[str, Tensor]:
        """Find the landmarks in images.

        Args:
            inputs: (B, C, *S); a MetaTensor's affine gives millimetres, otherwise a voxel is taken as one.
            network: embedding network with ``strides``, in evaluation mode.

        Returns:
            ``landmarks`` (B, L, D) in voxels, ``world`` (B, L, D) in millimetres, ``scores`` (B, L) in [-1, 1].
        """
        require(
            inputs.ndim == self.templates.ndim and inputs.shape[1] == self.templates.shape[1],
            "inputs",
            f"shape {tuple(inputs.shape)}",
            f"(B, C, *S) like the templates' {tuple(self.templates.shape)}",
        )
        require(bool(inputs.isfinite().all()), "inputs", "NaN or infinite values", "finite")
        images = convert_to_tensor(inputs)  # a MetaTensor would carry its metadata through every layer
        strides = getattr(network, "module", network).strides
        found, scores = _find(
            self._described(network, images), network(images), strides, images.shape[2:], self.level_weights, self.chunk
        )
        return {"landmarks": found, "world": to_world(found, inputs), "scores": scores}

    def _described(self, network: nn.Module, images: Tensor) -> list[Tensor]:
        """Descriptors of the landmarks, computed anew only for another network, changed weights or another device.

        PyTorch counts the changes of a tensor, those through ``tensor.data`` excepted.
        """
        tensors = [*network.parameters(), *network.buffers()]
        versions = [(id(t), t.data_ptr(), None if t.is_inference() else t._version) for t in tensors]
        state = network.training, images.device, images.dtype, versions
        if self._network is not network or self._state != state:
            levels = network(self.templates.to(images))
            strides = getattr(network, "module", network).strides
            self._descriptors = _describe(levels, self.landmarks.to(images.device), strides)
            self._network, self._state, self._tensors = network, state, tensors  # kept alive, so that no id comes twice
        return self._descriptors
