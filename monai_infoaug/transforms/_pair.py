"""Making pairs of views by a draw: all of the paired views that is not random."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.config import NdarrayOrTensor
from monai.data import MetaTensor, get_track_meta
from monai.data.utils import to_affine_nd
from monai.utils import ensure_tuple
from torch import Tensor

from monai_infoaug._require import all_finite, is_count, is_number, is_one_of, refusal, require_shares, require_truth
from monai_infoaug.information._arrays import plain_tensor
from monai_infoaug.transforms._chains import (
    require_array_transforms,
    require_spatial,
    run_on_view,
    stages,
    takes_information,
)
from monai_infoaug.transforms._coordinates import fit_affine, resample
from monai_infoaug.transforms._fields import View, spatial_field
from monai_infoaug.transforms._overlap import Overlap, overlapping_views
from monai_infoaug.transforms._pending import up_to_date
from monai_infoaug.transforms._sampling import (
    anchor_tier,
    density_in_tier,
    density_map,
    draw_points,
    sampling_density,
)

OUTPUTS = ("coords", "valid", "sampling")
POINTS = ("points_view1", "points_view2", "points_tier", "points_valid")
MODES = ("bilinear", "nearest", "bicubic")
MAP_MODES = {"information": "bilinear", "tiers": "nearest", "mask": "nearest"}
CANDIDATES_PER_POINT, FEWEST_POINTS = 32, 32

Chain = Callable[..., Any] | None
Size = int | Sequence[int | None] | None


class Draw(NamedTuple):
    """All that is random of a pair: with the same draw, the same images give the same pair."""

    spatial_seeds: tuple[int, int]  # of the spatial chain of view 1 and view 2
    intensity_seeds: tuple[int, int]  # likewise
    points_seed: int  # of the choice of points
    crop_positions: tuple[tuple[float, ...], ...]  # in [0, 1) an axis: of view 1, view 2, and view 2 in each redraw
    anchor_quantile: float  # in [0, 1), of the distribution of the anchor tier


class SourceImage(NamedTuple):
    """An image (C, *S), and how views show it."""

    data: NdarrayOrTensor
    mode: str  # of interpolation
    changes: bool = True  # whether the intensity transforms change its views


class Sources(NamedTuple):
    """What a pair is made of, checked: images and maps of one spatial shape."""

    images: Mapping[Hashable, SourceImage]
    tensors: dict[Hashable, MetaTensor]  # the same, without pending operations
    guides: dict[str, MetaTensor]  # the maps that are given and asked for


class PairMaker:
    """Makes pairs of views from images and a :py:class:`Draw`; :py:class:`RandPairedViews` says with what arguments."""

    def __init__(
        self,
        roi_size: Size | tuple[Size, Size] = None,
        spatial: Chain | Sequence[Chain] = None,
        intensity: Chain | Sequence[Chain] = None,
        num_points: int = 512,
        shares: Sequence[float] | None = None,
        gamma: float | None = None,
        min_overlap: float = 0.25,
        max_redraws: int = 10,
        mode: str | None = None,
        padding_mode: str = "zeros",
        outputs: str | Sequence[str] = OUTPUTS,
        jacobian_threshold: float = 0.1,
        track_meta: bool = True,
    ) -> None:
        require_truth(track_meta=track_meta)
        if not is_count(num_points):
            raise refusal("num_points", num_points, "a whole number of at least 0")
        if shares is not None and gamma is not None:
            raise refusal("gamma", gamma, "None when `shares` are given")
        require_shares(shares)
        if gamma is not None and not is_number(gamma, 0):
            raise refusal("gamma", gamma, "None or a number of at least 0")
        if not is_number(min_overlap, 0, 1):
            raise refusal("min_overlap", min_overlap, "a number in [0, 1]")
        if not is_count(max_redraws):
            raise refusal("max_redraws", max_redraws, "a whole number of at least 0")
        if not is_one_of(padding_mode, ("zeros", "border")):
            raise refusal("padding_mode", padding_mode, "'zeros' or 'border'")
        if not all(output in OUTPUTS for output in ensure_tuple(outputs)):
            raise refusal("outputs", outputs, f"among {OUTPUTS}")
        if not is_number(jacobian_threshold, 0, 1) or jacobian_threshold == 1:
            raise refusal("jacobian_threshold", jacobian_threshold, "a number in [0, 1)")
        require_mode(mode)
        self.roi_size = _size_pair(roi_size)
        self.spatial, self.intensity = _chain_pair(spatial, "spatial"), _chain_pair(intensity, "intensity")
        for chain in self.spatial:
            require_spatial(chain)
        self.num_points, self.shares, self.gamma = num_points, shares, gamma
        self.min_overlap, self.max_redraws = min_overlap, max_redraws
        self.mode, self.padding_mode = mode, padding_mode
        self.outputs = tuple(dict.fromkeys(ensure_tuple(outputs)))
        self.jacobian_threshold, self.track_meta = jacobian_threshold, track_meta

    @property
    def uses_information(self) -> bool:
        """Whether the sampling or an intensity transform asks for the information map."""
        return self.gamma is not None or "continuous" in self._intensity_modes

    @property
    def uses_tiers(self) -> bool:
        """Whether the sampling or an intensity transform asks for the tiers."""
        return self.shares is not None or not self._intensity_modes.isdisjoint({"anchor", "blend"})

    @property
    def _intensity_modes(self) -> set[str | None]:
        asking = (stage for chain in self.intensity for stage in stages(chain) if takes_information(stage))
        return {getattr(stage, "mode", None) for stage in asking}

    def output_names(self, images: Iterable[Hashable] = ("",)) -> list[str]:
        """Names of all that a pair of these images consists of; the call's own image is ``""``."""
        dense = [_view_name(name, k) for name in (*images, *self.outputs) for k in (0, 1)]
        return dense + (list(POINTS) if self.num_points > 0 else [])

    def check(self, images: Mapping[Hashable, SourceImage], maps: Mapping[str, NdarrayOrTensor | None]) -> Sources:
        """What a pair is made of; refuses what can't be used.

        Args:
            images: named images.
            maps: ``information``, ``tiers`` and ``mask``, as far as they are given.
        """
        tensors = {name: _as_image(image.data, str(name) or "image") for name, image in images.items()}
        unread = set() if self.uses_information or self._intensity_modes else {"information"}
        given = {name: value for name, value in maps.items() if value is not None and name not in unread}
        guides = {name: _as_image(value, name, channels=1) for name, value in given.items()}
        shape = next(iter(tensors.values())).shape[1:]
        for name, tensor in (*tensors.items(), *guides.items()):
            if tensor.shape[1:] != shape:
                raise refusal(str(name) or "image", tuple(tensor.shape), f"of spatial shape {tuple(shape)}")
        for name, used in (("information", self.uses_information), ("tiers", self.uses_tiers)):
            if used and name not in guides:
                raise refusal(name, None, "given for this sampling or intensity")
        if "tiers" in guides:
            low, high = map(int, guides["tiers"].as_tensor().float().aminmax())
            if low < 0 or high > 2:
                raise refusal("tiers", f"{low} to {high}", "0 low, 1 medium or 2 high")
        return Sources(images, tensors, guides)

    def apply(self, sources: Sources, draw: Draw) -> dict[str, Any]:
        """The pair of views of all images, with the dense maps and points."""
        generator = np.random.default_rng(draw.points_seed)
        overlap = self._overlap(next(iter(sources.tensors.values())), draw, generator)
        both = zip(overlap.views, overlap.shared, strict=False)
        known = [_read(sources.guides, view.coords_at(voxels)) for view, voxels in both]
        densities, anchor = self._densities(overlap, known, draw)
        shown = self._shown(sources, overlap.views, anchor, draw)
        extra = self._dense(overlap, densities)
        if self.num_points:
            extra |= draw_points(overlap, densities[0], known[0].get("tiers"), self.num_points, generator)
        as_arrays = isinstance(next(iter(sources.images.values())).data, np.ndarray)
        return shown | ({name: value.cpu().numpy() for name, value in extra.items()} if as_arrays else extra)

    def _overlap(self, source: MetaTensor, draw: Draw, generator: np.random.Generator) -> Overlap:
        """Both views; all voxels that they share where somebody wants the sampling of each, else enough to choose."""
        chains = zip(self.spatial, draw.spatial_seeds, self.roi_size, strict=True)
        first, second = (
            spatial_field(chain, seed, source, size, self.jacobian_threshold) for chain, seed, size in chains
        )
        enough = CANDIDATES_PER_POINT * max(FEWEST_POINTS, self.num_points)
        candidates = None if "sampling" in self.outputs else enough
        return overlapping_views((first, second), draw.crop_positions, self.min_overlap, candidates, generator)

    def _densities(
        self, overlap: Overlap, known: Sequence[Mapping[str, Tensor]], draw: Draw
    ) -> tuple[list[Tensor], int | None]:
        """Sampling density (n,) of the shared voxels, and the tier that "anchor" intensity is meant for."""
        pairs = zip(overlap.shared, known, strict=True)
        densities = [sampling_density(voxels, maps, self.shares, self.gamma) for voxels, maps in pairs]
        if "anchor" not in self._intensity_modes:
            return densities, None
        anchor = anchor_tier(densities[0], known[0]["tiers"], self.shares is not None, draw.anchor_quantile)
        restricted = zip(densities, known, strict=True)
        return [density_in_tier(density, maps["tiers"], anchor) for density, maps in restricted], anchor

    def _shown(
        self, sources: Sources, views: tuple[View, View], anchor: int | None, draw: Draw
    ) -> dict[str, NdarrayOrTensor]:
        """Both views of each image, as they are seen."""
        images = sources.images
        asked = self._intensity_modes and any(image.changes for image in images.values())
        guides = [_read(sources.guides, view.coords) if asked else {} for view in views]
        tracked = any(self._tracks(image.data) for image in images.values())
        fits = [fit_affine(v.coords, v.valid) if tracked and v.matrix is None else v.matrix for v in views]
        pair = {}
        for (name, image), tensor in zip(images.items(), sources.tensors.values(), strict=True):
            for k, view in enumerate(views):
                shown = resample(tensor.as_tensor(), view.coords, image.mode, self.padding_mode)
                if image.changes:
                    shown = run_on_view(self.intensity[k], draw.intensity_seeds[k], shown, guides[k], anchor)
                pair[_view_name(name, k)] = self._finished(shown, image.data, tensor, fits[k])
        return pair

    def _dense(self, overlap: Overlap, densities: Sequence[Tensor]) -> dict[str, Tensor]:
        """The dense maps that are wanted."""
        maps = {}
        for output in self.outputs:
            for k, view in enumerate(overlap.views):
                if output == "sampling":
                    value = density_map(densities[k], overlap.shared[k], view.valid.shape)
                else:
                    value = view.coords if output == "coords" else view.valid[None]
                maps[_view_name(output, k)] = value
        return maps

    def _tracks(self, image: NdarrayOrTensor) -> bool:
        """Whether a view of an image says where it lies."""
        return self.track_meta and get_track_meta() and isinstance(image, MetaTensor)

    def _finished(
        self, shown: Tensor, image: NdarrayOrTensor, source: MetaTensor, fit: Tensor | None
    ) -> NdarrayOrTensor:
        """A view in the container of its image; a MetaTensor with the view's affine, identity where none fits."""
        if isinstance(image, np.ndarray):
            return shown.cpu().numpy()
        if not self._tracks(image):
            return shown
        affine = source.affine
        moved = torch.eye(len(affine)) if fit is None else affine @ to_affine_nd(len(affine) - 1, fit).to(affine)
        meta = {key: value for key, value in source.meta.items() if key != "affine"} | {"source_affine": affine.clone()}
        return MetaTensor(shown, affine=moved.to(affine), meta=meta, applied_operations=[])


def _size_pair(roi_size: Any) -> tuple[Size, Size]:
    """One size for both views, or one for each."""
    sizes = roi_size if isinstance(roi_size, (tuple, list)) else ()
    paired = len(sizes) == 2 and any(size is None or isinstance(size, (tuple, list)) for size in sizes)
    first, second = sizes if paired else (roi_size, roi_size)
    if not all(n is None or is_count(n, -(2**31)) for size in (first, second) for n in ensure_tuple(size)):
        raise refusal("roi_size", roi_size, "whole numbers or None, or a (view 1, view 2) pair of these")
    return first, second


def _chain_pair(chains: Any, argument: str) -> tuple[Chain, Chain]:
    """One chain for both views, or one for each."""
    pair = chains if isinstance(chains, (tuple, list)) else (chains, chains)
    if len(pair) != 2:
        raise refusal(argument, chains, "one transform, a Compose or a (view 1, view 2) pair")
    for chain in pair:
        require_array_transforms(chain, argument)
    return pair[0], pair[1]


def require_mode(mode: str | None) -> None:
    """Refuse an unknown interpolation."""
    if mode is not None and not is_one_of(mode, MODES):
        raise refusal("mode", mode, f"None or one of {MODES}")


def interpolation(mode: str | None, image: NdarrayOrTensor) -> str:
    """The mode, by default that which suits the type of an image."""
    kind = image.dtype.kind if isinstance(image, np.ndarray) else ""
    floating = image.is_floating_point() if isinstance(image, Tensor) else kind == "f"
    return mode or ("bilinear" if floating else "nearest")


def _as_image(image: NdarrayOrTensor, name: str, channels: int | None = None) -> MetaTensor:
    """An image (C, *S) as a MetaTensor without pending operations."""
    image = up_to_date(image)
    tensor = plain_tensor(image, name)
    shape = tuple(tensor.shape)
    if len(shape) not in (3, 4) or shape[0] != (channels or shape[0]) or min(shape) < 1 or min(shape[1:]) < 2:
        raise refusal(name, shape, f"({channels or 'C'}, *S) of two or three axes longer than 1")
    if tensor.is_floating_point() and not all_finite(tensor):
        raise refusal(name, "NaN or infinite values", "finite")
    return MetaTensor(tensor, meta=dict(image.meta)) if isinstance(image, MetaTensor) else MetaTensor(tensor)


def _read(maps: Mapping[str, MetaTensor], coords: Tensor) -> dict[str, Tensor]:
    """Values (1, *R) of maps at coordinates (D, *R)."""
    return {name: resample(value.as_tensor(), coords, MAP_MODES[name]) for name, value in maps.items()}


def _view_name(name: Hashable, k: int) -> str:
    """What shows ``name`` in view 1 (``k`` 0) or 2."""
    return f"{name}_view{k + 1}" if name != "" else f"view{k + 1}"
