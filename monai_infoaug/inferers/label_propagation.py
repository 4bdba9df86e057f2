"""Label maps of templates in new images, by a dense map from many matches."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from monai.inferers import Inferer
from monai.utils import convert_to_tensor
from torch import Tensor, nn

from monai_infoaug._grid import level_features, level_shares, plain, sample_at
from monai_infoaug._require import all_finite, is_number, listed, refusal, require_counts
from monai_infoaug.inferers._consensus import nearest_maps, robust_affine, support_points
from monai_infoaug.inferers._patch_search import patch_images, search_patches
from monai_infoaug.inferers.coordinates import to_tensor, to_voxels, to_world

__all__ = ["DenseMap", "LabelPropagator", "carry_labels", "map_densely"]

NODES = 2**14  # of a dense map, about
VOXELS = 2**18  # that labels are carried to at a time


@dataclass(frozen=True, eq=False)
class DenseMap:
    """Where the places of an image lie in a template.

    Args:
        linear: (D, D), linear part of the map of the whole image.
        shift: (D,), its shift.
        moves: (1, D + 2, *nodes): by how many voxels of the template each node is moved from there, how many the
            matches around it differ from its local map, and the share of these matches that agrees with it.
        stride: voxels of the image a node.
    """

    linear: Tensor
    shift: Tensor
    moves: Tensor
    stride: float

    def __call__(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Places (N, D) in voxels of the template of points (N, D) of the image, errors (N,) and agreement (N,)."""
        dims = points.shape[-1]
        read = level_features(self.moves, points[None], self.stride)[0]
        return points @ self.linear.T + self.shift + read[:, :dims], read[:, dims], read[:, dims + 1]


def map_densely(
    image: Sequence[Tensor],
    template: Sequence[Tensor],
    strides: Sequence[float],
    image_size: Sequence[int],
    template_size: Sequence[int],
    weights: Sequence[float] | None = None,
    patch_radius: float = 16.0,
    count: int = 600,
    neighbours: int = 24,
) -> DenseMap:
    """A map of every place of an image to a template: local affine maps, fitted to matches of many points.

    Points where the embedding of the image changes are searched in the template, and points of the template in the
    image, by patches as in :py:func:`monai_infoaug.inferers.match_points` but in steps of two cells: many matches make
    up for their fractions. They are searched once more near by, each patch as the pairs around it turn and stretch it.
    Most of the pairs agree on an affine map. At each node of a grid, the pairs near by bend it: they are fitted by an
    affine map of its own [1], with weights that fall with the distance, grow with the square of the score (none below
    0), and fall with the distance of the pair from the map (Geman-McClure, with a quarter of the radius as scale). In
    between, the map is interpolated.

    Args:
        image: levels (1, F, *cells) of its embedding.
        template: likewise.
        strides: voxels a cell, for each level.
        image_size: spatial size of the image.
        template_size: that of the template.
        weights: weight of each level, default all equal.
        patch_radius: voxels, see :py:func:`monai_infoaug.inferers.match_points`.
        count: points that are searched, of each of the two.
        neighbours: pairs that a local map is fitted to.

    Returns:
        The map.

    Raises:
        ValueError: for weights that do not fit the levels, a ``patch_radius`` that is no number above 0, or a ``count``
            or ``neighbours`` that is no whole number of at least 1.

    References:
        1. Schaefer, McPhail & Warren, "Image deformation using moving least squares", ACM Transactions on Graphics
           25(3), 2006.
    """
    require_counts(count=count, neighbours=neighbours)
    if not (is_number(patch_radius) and patch_radius > 0):
        raise refusal("patch_radius", patch_radius, "a number of voxels above 0")
    sizes = image_size, template_size
    with torch.autocast(image[0].device.type, enabled=False):
        [first], [second] = (patch_images(levels, strides, weights) for levels in (image, template))
        both, stride = (first, second), first.stride
        points = [support_points(its.salient, stride, count) for its in both]
        orders = ((0, 1), (1, 0))
        matches = [search_patches(both[a], points[a], both[b], sizes[b], patch_radius, finely=False) for a, b in orders]
        found, scores = map(list, zip(*matches, strict=True))
        fit = _Pairs(points, found, scores, stride, neighbours, patch_radius / 4)
        for a, b in orders:  # a patch is compared best as the anatomy around it is turned and stretched
            places, turns, _, _ = fit.maps(points[a], back=bool(a))
            found[a], scores[a] = both[a].look_around(both[b], points[a], places, turns, 2, patch_radius, 2 * stride)
            last = torch.tensor(sizes[b]).to(places) - 1
            scores[a] *= ((found[a] > 0) & (found[a] < last)).all(-1)  # what lies outside has no match
    fit = _Pairs(points, found, scores, stride, neighbours, patch_radius / 4)
    side = max(1, round((math.prod(image_size) / NODES) ** (1 / len(image_size))))
    axes = [torch.arange(-(-length // side)).to(points[0]) * side + (side - 1) / 2 for length in image_size]
    nodes = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    places, _, errors, agreement = fit.maps(nodes.flatten(0, -2))
    linear, shift = fit.affine()
    moves = torch.cat([places - nodes.flatten(0, -2) @ linear.T - shift, errors[:, None], agreement[:, None]], dim=1).T
    return DenseMap(linear, shift, moves.reshape(1, -1, *nodes.shape[:-1]), side)


class _Pairs:
    """Pairs of points of an image and a template, those of each with their matches, and the maps that they fit.

    Args:
        points: (N, D) of the image, (M, D) of the template.
        found: their matches.
        scores: (N,) and (M,).
        stride: least distance that counts as an error for the map of the whole image.
        neighbours: pairs that a local map is fitted to.
        scale: distance that counts as an error for these.
    """

    def __init__(
        self,
        points: Sequence[Tensor],
        found: Sequence[Tensor],
        scores: Sequence[Tensor],
        stride: float,
        neighbours: int,
        scale: float,
    ) -> None:
        self.sides = torch.cat([points[0], found[1]]), torch.cat([found[0], points[1]])
        self.trust = torch.cat([*scores]).clamp(0, 1).square()
        self.stride, self.neighbours, self.scale = stride, neighbours, scale

    def affine(self, back: bool = False) -> tuple[Tensor, Tensor]:
        """The map of the whole image to the template, or back."""
        return robust_affine(self.sides[back], self.sides[not back], self.stride)

    def maps(self, at: Tensor, back: bool = False) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Where places (N, D) lie in the template, or back; linear parts, errors and agreement of their local maps."""
        linear, shift = self.affine(back)
        moves, turns, errors, agreement = nearest_maps(
            self.sides[back], self.sides[not back], self.trust, at, linear, shift, self.neighbours, self.scale
        )
        return at @ linear.T + shift + moves, turns, errors, agreement


def carry_labels(
    maps: Sequence[DenseMap], labels: Sequence[Tensor], templates: Sequence[Tensor], image: Tensor, grid: Tensor
) -> tuple[Tensor, Tensor]:
    """Carry label maps of templates to an image, each voxel once.

    The share of a label at a place is interpolated between the voxels of the label map. The label of the largest share
    is taken, of several templates that of the largest mean. Its confidence is the mean over templates of two numbers'
    product: the share that the label has on average around the place, which is as uncertain as the matches around
    differ (a normal distribution, by the points of the unscented transform [1]), and the share of matches that agree.

    Args:
        maps: one a template, from the image to it.
        labels: (1, *S), whole numbers of at least 0, one a template, on any grid: a MetaTensor's affine says where.
        templates: (C, *S), as they were embedded.
        image: (C, *S), as it was embedded.
        grid: (C, *S), an image of the grid that the labels are wanted on.

    Returns:
        Labels (1, *S) of the type of ``labels``, and their confidence (1, *S) in [0, 1]. What lies outside of a label
        map is 0.

    References:
        1. Julier & Uhlmann, "Unscented filtering and nonlinear estimation", Proceedings of the IEEE 92(3), 2004.
    """
    size, dims = grid.shape[1:], grid.ndim - 1
    names = torch.unique(torch.cat([torch.unique(plain(label)) for label in labels]))
    names = names[names > 0]
    device = maps[0].linear.device
    axes = [torch.arange(length, dtype=torch.float32, device=device) for length in size]
    voxels = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, -2)
    kinds, sures = [], []
    offsets = 3**0.5 * torch.cat([torch.zeros(1, dims), torch.eye(dims), -torch.eye(dims)]).to(device)
    weights = torch.tensor([1 - dims / 3] + [1 / 6] * (2 * dims), device=device)
    for some in torch.split(voxels, VOXELS):
        places = to_voxels(to_world(some[None], grid), image)[0]
        shares, sure = torch.zeros(2, 1 + len(names), len(some), device=device)
        for to_template, label, template in zip(maps, labels, templates, strict=True):
            found, errors, agreement = to_template(places)
            around = found + offsets[:, None] * (errors / dims**0.5)[:, None]
            at = to_voxels(to_world(around, template), label).movedim(-1, 0)[None]
            for i, name in enumerate(names, 1):
                part = sample_at((label == name).to(device, torch.float32)[None], at)[0, 0]
                shares[i] += part[0] / len(maps)
                sure[i] += agreement * (weights @ part) / len(maps)
            sure[0] += agreement / len(maps)  # what no label has is 0's, below
        shares[0], sure[0] = 1 - shares[1:].sum(0), sure[0] - sure[1:].sum(0)
        best = shares.argmax(0)
        kinds.append(best)
        sures.append(sure.take_along_dim(best[None], 0)[0].clamp(0, 1))
    values = torch.cat([names.new_zeros(1), names]).to(device)
    return values[torch.cat(kinds)].reshape(1, *size), torch.cat(sures).reshape(1, *size)


class LabelPropagator(Inferer):
    """Inferer that carries the label maps of annotated templates to new images.

    Args:
        templates: images (T, C, *S), or one (C, *S), preprocessed like the images to come.
        labels: a label map (1, *S), or a list of them, one a template: whole numbers, on any grid; a MetaTensor's
            affine says where.
        level_weights: weight of each level's similarity, default all equal.
        patch_radius, count, neighbours: see :py:func:`monai_infoaug.inferers.map_densely`.

    Raises:
        ValueError: for shapes that do not fit each other, labels that are no whole numbers of at least 0, settings out
            of range, an image that is not finite, or a network without strides.

    Example:
        >>> from monai_infoaug.networks import PixelEmbeddingNet
        >>> image = torch.rand(1, 64, 64)
        >>> propagator = LabelPropagator(image, (image > 0.5).byte(), count=50)
        >>> found = propagator(image[None], PixelEmbeddingNet())
        >>> found["labels"].shape, found["confidence"].shape
        (torch.Size([1, 1, 64, 64]), torch.Size([1, 1, 64, 64]))
    """

    def __init__(
        self,
        templates: Tensor,
        labels: Tensor | Sequence[Tensor],
        level_weights: Sequence[float] | None = None,
        patch_radius: float = 16.0,
        count: int = 600,
        neighbours: int = 24,
    ) -> None:
        require_counts(count=count, neighbours=neighbours)
        if not (is_number(patch_radius) and patch_radius > 0):
            raise refusal("patch_radius", patch_radius, "a number of voxels above 0")
        if level_weights is not None:
            level_shares(level_weights, max(1, len(listed(level_weights))))
        templates = to_tensor("templates", templates)
        maps = [to_tensor("labels", label) for label in (labels if isinstance(labels, list | tuple) else [labels])]
        if len(maps) == 0:
            raise refusal("labels", "none", "label maps, one a template")
        if templates.ndim == maps[0].ndim:
            templates = templates[None]
        dims = templates.ndim - 2
        if dims not in (2, 3) or len(templates) != len(maps):
            accepted = f"(T, C, *S), 2D or 3D, with T = {len(maps)} like `labels`"
            raise refusal("templates", f"shape {tuple(templates.shape)}", accepted)
        if not all_finite(templates):
            raise refusal("templates", "NaN or infinite values", "finite")
        for label in maps:
            if label.ndim != dims + 1 or len(label) != 1 or label.numel() == 0:
                raise refusal("labels", f"shape {tuple(label.shape)}", f"(1, *S), {dims}D like the templates")
            if not bool(((label >= 0) & (label == label.round())).all()):
                raise refusal("labels", "other values", "whole numbers of at least 0")
        self.templates, self.labels, self.level_weights = templates, maps, level_weights
        self.patch_radius, self.count, self.neighbours = patch_radius, count, neighbours

    @torch.no_grad()
    def __call__(
        self,
        inputs: Tensor,
        network: Callable[..., Any],
        *args: Any,  # noqa: ARG002
        grid: Tensor | None = None,
        **kwargs: Any,  # noqa: ARG002
    ) -> dict[str, Tensor]:
        """Carry the labels to images.

        Args:
            inputs: (B, C, *S).
            network: embedding network with ``strides``, in evaluation mode.
            args: not used; MONAI's inferers take them.
            grid: (C, *S), an image of the grid that the labels are wanted on, such as the one that ``inputs``, then of
                one image, was resampled from. By default that of ``inputs``.
            kwargs: not used, either.

        Returns:
            ``labels`` (B, 1, *S) of the label maps' type, and ``confidence`` (B, 1, *S) in [0, 1], see
            :py:func:`monai_infoaug.inferers.carry_labels`.
        """
        if inputs.ndim != self.templates.ndim or inputs.shape[1] != self.templates.shape[1]:
            accepted = f"(B, C, *S) like the templates' {tuple(self.templates.shape)}"
            raise refusal("inputs", f"shape {tuple(inputs.shape)}", accepted)
        if not all_finite(inputs):
            raise refusal("inputs", "NaN or infinite values", "finite")
        if grid is not None and (len(inputs) != 1 or grid.ndim != inputs.ndim - 1):
            got = f"shape {tuple(grid.shape)} for {len(inputs)} images"
            raise refusal("grid", got, f"(C, *S), {inputs.ndim - 2}D, with one image")
        strides = getattr(getattr(network, "module", network), "strides", None)
        if not isinstance(network, nn.Module) or strides is None:
            raise refusal("network", type(network).__name__, "an embedding network with `strides`")
        templates = self.templates.to(inputs.device)
        embedded = [network(convert_to_tensor(template[None])) for template in templates]
        parts = []
        for image in inputs:
            levels = network(convert_to_tensor(image[None]))
            maps = [
                map_densely(
                    levels,
                    its,
                    strides,
                    image.shape[1:],
                    self.templates.shape[2:],
                    self.level_weights,
                    self.patch_radius,
                    self.count,
                    self.neighbours,
                )
                for its in embedded
            ]
            parts.append(carry_labels(maps, self.labels, list(self.templates), image, image if grid is None else grid))
        labels, confidence = map(torch.stack, zip(*parts, strict=True))
        return {"labels": labels, "confidence": confidence}
