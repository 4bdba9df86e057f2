"""Two augmented views of an image with exact pixel correspondence, sampling densities and point pairs."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.data import MetaTensor
from monai.data.utils import set_rnd, to_affine_nd
from monai.transforms import (
    Affine,
    CenterSpatialCrop,
    Compose,
    Flip,
    MapTransform,
    RandAffine,
    RandAxisFlip,
    RandFlip,
    Randomizable,
    RandRotate,
    RandRotate90,
    RandSpatialCrop,
    Rotate,
    Rotate90,
    SpatialCrop,
    SpatialPad,
    Transform,
)
from monai.utils import (
    MAX_SEED,
    LazyAttr,
    TraceKeys,
    TransformBackends,
    convert_to_tensor,
    ensure_tuple,
    ensure_tuple_rep,
    fall_back_tuple,
)
from torch import Tensor
from torch.nn.functional import pad

from monai_infoaug._require import all_finite, refusal, require_shares
from monai_infoaug.transforms._correspondence import (
    OUTSIDE,
    AffineMesh,
    Mesh,
    affine_coordinates,
    coordinate_grid,
    fit_affine,
    frame,
    may_show_twice,
    places,
    resample,
    split_coordinates,
    unfolded,
    unravel,
    without_doubles,
)
from monai_infoaug.transforms._pending import up_to_date

__all__ = ["RandPairedViews", "RandPairedViewsD", "RandPairedViewsDict", "RandPairedViewsd"]

OUTPUTS = ("coords", "valid", "sampling")
MODES = ("bilinear", "nearest", "bicubic")
NO_TIER = 255
CHOICE = 32  # candidates a point
LOOKS = 4096  # voxels that tell the overlap
AFFINE = (  # transforms whose lazy mode does the same as they do otherwise
    Affine,
    CenterSpatialCrop,
    Flip,
    RandAffine,
    RandAxisFlip,
    RandFlip,
    RandRotate,
    RandRotate90,
    RandSpatialCrop,
    Rotate,
    Rotate90,
    SpatialCrop,
    SpatialPad,
)


class _View:
    """A view of the source, and what it shows of images.

    Args:
        coords: (D, *R).
        valid: (*R) bool.
        mesh: finds where the view shows a source point.
        matrix: (D+1, D+1) to the source, where it is known.
    """

    def __init__(self, coords: Tensor, valid: Tensor, mesh: Mesh | AffineMesh, matrix: Tensor | None = None) -> None:
        self.coords, self.valid, self.mesh, self.matrix = coords, valid, mesh, matrix

    def at(self, voxels: Tensor) -> Tensor:
        """Coordinates (D, n) of voxels (n,) by their linear index."""
        return self.coords.flatten(1).index_select(1, voxels)


class _Field:
    """A spatial chain's whole output, of which a view is cropped.

    Args:
        shape: of the output.
        size: of the view.
    """

    def __init__(self, shape: Sequence[int], size: Sequence[int]) -> None:
        self.size = tuple(size)
        self.shape = tuple(map(max, shape, size))  # padded at the end
        self.whole = tuple(slice(0, n) for n in self.shape)

    def start(self, position: Sequence[float]) -> tuple[int, ...]:
        """First voxel of a crop; ``position`` in [0, 1) an axis runs over all that fit."""
        room = [n - size + 1 for n, size in zip(self.shape, self.size, strict=True)]
        return tuple(int(u * n) for u, n in zip(position, room, strict=False))

    def window(self, start: Sequence[int], step: int = 1) -> tuple[slice, ...]:
        """Where a crop lies."""
        return tuple(slice(at, at + size, step) for at, size in zip(start, self.size, strict=True))


class _SampledField(_Field):
    """Of any chain: the coordinates that it made of the identity.

    Args:
        coords, inside: (D, *O) and (*O).
        size: of the view.
        threshold: of the Jacobian.
    """

    def __init__(self, coords: Tensor, inside: Tensor, size: Sequence[int], threshold: float) -> None:
        super().__init__(inside.shape, size)
        padding = [n for want, have in zip(self.shape, inside.shape, strict=True) for n in (want - have, 0)][::-1]
        self.coords, self.inside = pad(coords, padding, value=OUTSIDE), pad(inside, padding)
        self.usual, self.threshold = frame(self.coords, self.inside), threshold

    def coordinates(self, window: tuple[slice, ...]) -> tuple[Tensor, Tensor]:
        """Coordinates (D, *R) and inside mask (*R)."""
        return self.coords[(slice(None), *window)].contiguous(), self.inside[window].contiguous()

    def view(self, start: Sequence[int]) -> _View:
        """The crop at ``start``."""
        coords, inside = self.coordinates(self.window(start))
        valid, sound, folded = unfolded(coords, inside, self.usual, self.threshold)
        far = may_show_twice(coords, valid, self.usual.spacing)
        if far or folded.any():
            valid = without_doubles(coords, valid, sound, folded, far)
        return _View(coords, valid, Mesh(coords, valid, sound, self.usual.spacing))


class _AffineField(_Field):
    """Of a chain of affine maps, in closed form.

    Args:
        steps: see :py:func:`affine_coordinates`.
        shape: of the chain's output.
        size: of the view.
        device: of the source.
    """

    def __init__(
        self, steps: Sequence[tuple[Tensor, Sequence[int]]], shape: Sequence[int], size: Sequence[int], device: Any
    ) -> None:
        super().__init__(shape, size)
        self.steps, self.device = list(steps), device
        if not steps or self.shape != tuple(shape):  # nothing but a crop, or padded
            self.steps.append((torch.eye(len(size) + 1), tuple(shape)))

    def _closed(self, window: tuple[slice, ...]) -> tuple[Tensor, Tensor, Tensor]:
        ranges = [torch.arange(w.start, w.stop, w.step or 1, dtype=torch.float64, device=self.device) for w in window]
        return affine_coordinates(self.steps, ranges)

    def coordinates(self, window: tuple[slice, ...]) -> tuple[Tensor, Tensor]:
        """Coordinates (D, *R) and inside mask (*R)."""
        return self._closed(window)[:2]

    def view(self, start: Sequence[int]) -> _View:
        """The crop at ``start``."""
        coords, valid, matrix = self._closed(self.window(start))
        moved = torch.eye(len(matrix)).to(matrix)
        moved[:-1, -1] = torch.tensor(start).to(matrix)
        matrix = matrix @ moved
        return _View(coords, valid, AffineMesh(matrix, valid), matrix)


def _pair(value: Any, paired: bool) -> tuple[Any, Any]:
    return (value[0], value[1]) if paired else (value, value)


def _mode(mode: str | None, image: NdarrayOrTensor) -> str:
    floating = image.is_floating_point() if isinstance(image, Tensor) else np.asarray(image).dtype.kind == "f"
    return mode or ("bilinear" if floating else "nearest")


def _require_array(transform: Any, argument: str) -> None:
    """Refuse dictionary transforms, also inside compositions."""
    usable = transform is None or (callable(transform) and not isinstance(transform, MapTransform))
    if not usable:
        raise refusal(argument, type(transform).__name__, "an array transform (no dictionary transform)", TypeError)
    for inner in transform.transforms if isinstance(transform, Compose) else ():
        _require_array(inner, argument)


def affine_steps(
    chain: Any, seed: int, source: MetaTensor
) -> tuple[list[tuple[Tensor, tuple[int, ...]]], tuple[int, ...]] | None:
    """What a spatial chain does, where it is affine, as matrices and sizes: MONAI's lazy mode tells.

    Args:
        chain: transform, or a composition of them.
        seed: to draw with.
        source: (C, *S) image.

    Returns:
        the steps for :py:func:`affine_coordinates` and the size of the output, or None.
    """
    stages = _stages(chain)
    if not all(type(stage) in AFFINE for stage in stages):
        return None
    set_rnd(chain, seed)
    shape: tuple[int, ...] = tuple(source.shape[1:])
    image: Any = MetaTensor(torch.zeros(1).expand(1, *shape), affine=source.affine)
    for stage in stages:
        image = stage(image, lazy=True)
    steps = []
    for done in image.pending_operations:
        matrix = done[LazyAttr.AFFINE]
        if not _pads_with_zeros(done.get(TraceKeys.EXTRA_INFO)) or np.ndim(matrix) != 2:
            return None
        steps.append((torch.as_tensor(to_affine_nd(len(shape), matrix)), shape))
        shape = tuple(int(n) for n in done[LazyAttr.SHAPE])
    if min(shape) < 2 or any(abs(np.linalg.det(matrix)) < 1e-6 for matrix, _ in steps):
        return None
    return steps, shape


def _pads_with_zeros(info: Any) -> bool:
    """Whether what MONAI notes of a transform names no other padding."""
    if not isinstance(info, Mapping):
        return True
    mode = info.get("mode") if "padded" in info else info.get("padding_mode", "zeros")
    return mode in ("zeros", "constant") and _pads_with_zeros(info.get(TraceKeys.EXTRA_INFO))


def _stages(transform: Any) -> list[Any]:
    """The transforms of (nested) plain compositions, so that each can be given what it takes."""
    if type(transform) is Compose:
        return [stage for inner in transform.transforms for stage in _stages(inner)]
    return [] if transform is None else [transform]


def _takes_information(transform: Any) -> bool:
    return getattr(transform, "takes_information", False)


class RandPairedViews(Randomizable, Transform):
    """Two random views of one image that know where each of their voxels comes from.

    Only coordinates pass through the spatial chain; the image is then resampled once, so correspondence is exact for
    every chain, elastic ones included. A voxel is valid if it shows the source and the map is locally sound there: the
    Jacobian determinant exceeds ``jacobian_threshold`` times its median, no cell between voxels around it is folded,
    the map is turned by no more than 90 degrees against its median, and no valid place nearer the view's centre shows
    the same. So padding of any kind (constant, border, reflection, wrap) and folds are not valid.

    Where sampling is wanted, the density is uniform, or shared among tiers (``shares``), or ``information ** gamma``,
    over the valid voxels that both views show, up to 0.01 voxel at the border of the overlap. It sums to one, or is
    zero everywhere if the views share nothing. If it would vanish on all shared voxels, it is uniform.

    Args:
        roi_size: size of the views, cropped at random from the chain's output (padded at the end where that is smaller,
            padding is not valid). None or a non-positive entry: the whole axis. One size, or a (view 1, view 2) pair of
            which at least one is a sequence or None: ``(None, (64, 64))``.
        spatial: array transform or ``Compose`` of them, or a pair (tuple or list) of these. It must interpolate
            coordinates sensibly: keep its ``mode`` bilinear. None: only the crop.
        intensity: array transform, or a pair, applied to the views after resampling. Those with an attribute
            ``takes_information = True`` (such as :py:class:`RandTierIntensity`) are called with the view's
            ``information`` and ``tiers`` and with ``tier``, the pair's anchor tier if their ``mode`` is ``"anchor"``.
            The anchor tier is drawn by its mass among the tiers that both views show if ``shares`` are given, uniformly
            else, and the sampling density is restricted to it.
        num_points: N, corresponding points a pair; 0 for none.
        shares: mass of the (low, medium, high) tier in the density, summing to one; tiers that are not shown are left
            out and the rest scaled up. At most one of ``shares`` and ``gamma``.
        gamma: exponent of the information.
        min_overlap: least share of view 2's valid voxels that view 1 shows. Let the smaller view be the second.
        max_redraws: how often view 2's crop is redrawn to reach it, before its crop is centred on the middle of view 1.
        mode: ``"bilinear"``, ``"nearest"`` or ``"bicubic"`` (2D). None: nearest for integers and bool, else bilinear.
        padding_mode: ``"zeros"`` or ``"border"``, what the views show outside of the source.
        outputs: the dense maps wanted among ``"coords"``, ``"valid"`` and ``"sampling"``.
        jacobian_threshold: see above, in [0, 1).
        track_meta: views of a MetaTensor are MetaTensors, with the view's affine. False: plain tensors, which workers
            of a loader hand over faster.

    Example:
        >>> from monai.transforms import RandAffine
        >>> pair = RandPairedViews((24, 24), RandAffine(prob=1.0, rotate_range=0.3), num_points=5).set_random_state(0)
        >>> views = pair(torch.rand(1, 32, 32))
        >>> views["view1"].shape, views["coords_view2"].shape, views["points_view2"].shape
        (torch.Size([1, 24, 24]), torch.Size([2, 24, 24]), torch.Size([5, 2]))

    References:
        [1] Quan et al., "Information-guided pixel augmentation for pixel-wise contrastive learning", IEEE TMI 44(1),
        2025, arXiv:2211.07118.
    """

    backend = [TransformBackends.TORCH]

    def __init__(
        self,
        roi_size: Any = None,
        spatial: Callable | Sequence[Callable | None] | None = None,
        intensity: Callable | Sequence[Callable | None] | None = None,
        num_points: int = 512,
        shares: Sequence[float] | None = None,
        gamma: float | None = None,
        min_overlap: float = 0.25,
        max_redraws: int = 10,
        mode: str | None = None,
        padding_mode: str = "zeros",
        outputs: Sequence[str] = OUTPUTS,
        jacobian_threshold: float = 0.1,
        track_meta: bool = True,
    ) -> None:
        sizes = roi_size if isinstance(roi_size, (tuple, list)) else ()
        paired = len(sizes) == 2 and any(size is None or isinstance(size, (tuple, list)) for size in sizes)
        self.roi_size = _pair(roi_size, paired)
        for transforms, argument in ((spatial, "spatial"), (intensity, "intensity")):
            sequence = isinstance(transforms, (tuple, list))
            accepted = "one transform, a Compose or a (view 1, view 2) pair"
            if sequence and len(transforms) != 2:
                raise refusal(argument, transforms, accepted)
            for transform in transforms if sequence else (transforms,):
                _require_array(transform, argument)
        self.spatial = _pair(spatial, isinstance(spatial, (tuple, list)))
        self.intensity = _pair(intensity, isinstance(intensity, (tuple, list)))
        if not (num_points >= 0):
            raise refusal("num_points", num_points, "at least 0")
        if shares is not None and gamma is not None:
            raise refusal("gamma", gamma, "None when `shares` are given")
        require_shares(shares)
        if not (gamma is None or gamma >= 0):
            raise refusal("gamma", gamma, "at least 0")
        if not (0 <= min_overlap <= 1):
            raise refusal("min_overlap", min_overlap, "in [0, 1]")
        if not (max_redraws >= 0):
            raise refusal("max_redraws", max_redraws, "at least 0")
        if mode is not None and mode not in MODES:
            raise refusal("mode", mode, f"None or one of {MODES}")
        if padding_mode not in ("zeros", "border"):
            raise refusal("padding_mode", padding_mode, "'zeros' or 'border'")
        outputs = ensure_tuple(outputs)
        if not (set(outputs) <= set(OUTPUTS)):
            raise refusal("outputs", outputs, f"among {OUTPUTS}")
        if not (0 <= jacobian_threshold < 1):
            raise refusal("jacobian_threshold", jacobian_threshold, "in [0, 1)")
        self.num_points, self.shares, self.gamma = num_points, shares, gamma
        self.min_overlap, self.max_redraws = min_overlap, max_redraws
        self.mode, self.padding_mode, self.outputs = mode, padding_mode, outputs
        self.jacobian_threshold, self.track_meta = jacobian_threshold, track_meta

    @property
    def _dense(self) -> bool:
        """Whether somebody wants the sampling of each voxel."""
        return "sampling" in self.outputs

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
        stages = _stages(self.intensity[0]) + _stages(self.intensity[1])
        return {getattr(stage, "mode", None) for stage in stages if _takes_information(stage)}

    def randomize(self, data: Any = None) -> None:
        """Draw seeds for the chains and points, crop positions, and the anchor tier's quantile."""
        self._seeds = [int(seed) for seed in self.R.randint(MAX_SEED, size=5, dtype="uint32")]
        self._positions = self.R.random_sample((self.max_redraws + 2, 3))  # view 1, view 2, its redraws
        self._anchor_quantile = self.R.random_sample()
        self._generator = np.random.default_rng(self._seeds[4])

    def __call__(
        self,
        image: NdarrayOrTensor,
        information: NdarrayOrTensor | None = None,
        tiers: NdarrayOrTensor | None = None,
        mask: NdarrayOrTensor | None = None,
    ) -> dict[str, Any]:
        """Args:
            image: (C, *S), two or three spatial dimensions.
            information: (1, *S) bits; needed for ``gamma`` and by some intensity transforms.
            tiers: (1, *S) 0 low, 1 medium, 2 high; needed for ``shares`` and by some intensity transforms.
            mask: (1, *S); where it is zero the sampling density is zero.

        Returns:
            ``view1``, ``view2`` (C, *R); ``coords_view1``, ... (D, *R) float32, source voxels, -2 where padded;
            ``valid_view1``, ... (1, *R) bool; ``sampling_view1``, ... (1, *R) float32; ``points_view1``, ... (N, D)
            float32, view voxels; ``points_tier`` (N,) uint8, 0 if no tiers were given; ``points_valid`` (N,) bool.
            Points that could not be drawn are NaN, of tier 255 and not valid.
        """
        return self.make_pair({"": image}, {"": _mode(self.mode, image)}, ("",), information, tiers, mask)

    def output_names(self, images: Iterable[str] = ("",)) -> list[str]:
        """Names of all that a pair of these images consists of; the call's own image is ``""``."""
        stems = [f"{name}_view" if name else "view" for name in (*images, *self.outputs)]
        points = ["points_view1", "points_view2", "points_tier", "points_valid"] if self.num_points else []
        return [f"{stem}{k}" for stem in stems for k in (1, 2)] + points

    def make_pair(
        self,
        images: Mapping[str, NdarrayOrTensor],
        modes: Mapping[str, str],
        intensity_names: Sequence[str],
        information: NdarrayOrTensor | None = None,
        tiers: NdarrayOrTensor | None = None,
        mask: NdarrayOrTensor | None = None,
    ) -> dict[str, Any]:
        """A pair of views of several images of one size.

        Args:
            images: named images (C, *S).
            modes: interpolation of each.
            intensity_names: images whose views the intensity transforms change.
            information, tiers, mask: as in the call.

        Returns:
            as the call, with ``<name>_view1``, ``<name>_view2`` for each image.
        """
        sources = {name: self._checked(image, name or "image") for name, image in images.items()}
        first = next(iter(sources.values()))
        maps = {"information": information, "tiers": tiers, "mask": mask}
        if not (self.uses_information or self._intensity_modes):
            del maps["information"]  # spare the work
        maps = {name: self._checked(value, name, 1) for name, value in maps.items() if value is not None}
        for name, source in {**sources, **maps}.items():
            same = source.shape[1:] == first.shape[1:]
            if not same:
                raise refusal(name or "image", tuple(source.shape), f"of spatial shape {tuple(first.shape[1:])}")
        for name, used in (("information", self.uses_information), ("tiers", self.uses_tiers)):
            if used and name not in maps:
                raise refusal(name, None, "given for this sampling or intensity")
        if "tiers" in maps:
            low, high = map(int, maps["tiers"].as_tensor().aminmax())
            if not (low >= 0 and high <= 2):
                raise refusal("tiers", f"{low} to {high}", "0 low, 1 medium or 2 high")

        self.randomize()
        views, shared, partners = self._views(first)

        def read(coords: Tensor) -> dict[str, Tensor]:
            modes = {"information": "bilinear", "tiers": "nearest", "mask": "nearest"}
            return {name: resample(value.as_tensor(), coords, modes[name]) for name, value in maps.items()}

        known = [read(view.at(voxels)) for view, voxels in zip(views, shared, strict=False)]
        densities = [self._density(each, voxels) for each, voxels in zip(known, shared, strict=True)]
        anchor = self._anchor_tier(densities[0], known[0])
        if anchor is not None:
            densities = [
                self._normalised(density * (each["tiers"][0] == anchor), density)
                for density, each in zip(densities, known, strict=True)
            ]

        tracked = self.track_meta and any(isinstance(image, MetaTensor) for image in images.values())
        fits = [fit_affine(v.coords, v.valid) if tracked and v.matrix is None else v.matrix for v in views]
        out: list[NdarrayOrTensor] = []
        shown_maps = [read(view.coords) if intensity_names and self._intensity_modes else {} for view in views]
        for name, source in sources.items():
            for k, view in enumerate(views):
                shown = resample(source.as_tensor(), view.coords, modes[name], self.padding_mode)
                if name in intensity_names:
                    shown = self._intensity(k, shown, shown_maps[k], anchor)
                out.append(self._finished(shown, images[name], source, fits[k]))
        extra = []
        for output in self.outputs:
            if output == "sampling":
                pairs = zip(views, shared, densities, strict=True)
                extra += [self._as_map(density, voxels, view.valid) for view, voxels, density in pairs]
            else:
                extra += [view.coords if output == "coords" else view.valid[None] for view in views]
        if self.num_points:
            extra += self._points(shared[0], densities[0], partners, known[0].get("tiers"), views[0].valid.shape)
        if isinstance(next(iter(images.values())), np.ndarray):
            extra = [value.cpu().numpy() for value in extra]
        return dict(zip(self.output_names(images), out + extra, strict=True))

    @staticmethod
    def _checked(image: NdarrayOrTensor, name: str, channels: int | None = None) -> MetaTensor:
        """As a MetaTensor without pending operations."""
        tensor = up_to_date(convert_to_tensor(image, track_meta=True))
        shape = tuple(tensor.shape)
        usable = len(shape) in (3, 4) and shape[0] == (channels or shape[0]) and min(shape) > 0 and min(shape[1:]) > 1
        if not usable:
            raise refusal(name, shape, f"({channels or 'C'}, *S) of two or three axes longer than 1")
        finite = not tensor.is_floating_point() or all_finite(tensor.as_tensor())
        if not finite:
            raise refusal(name, "NaN or infinite values", "finite")
        return tensor

    def _field(self, k: int, source: MetaTensor) -> _Field:
        """View ``k``'s chain applied to the identity coordinates and a channel of ones."""
        shape = source.shape[1:]
        affine = affine_steps(self.spatial[k], self._seeds[k], source)
        if affine is not None:
            steps, made = affine
            return _AffineField(steps, made, self._view_size(k, made), source.device)
        grid = coordinate_grid(shape, source.device)
        output: Any = torch.cat([grid, torch.ones_like(grid[:1])])
        set_rnd(self.spatial[k], self._seeds[k])
        output = self.spatial[k](MetaTensor(output, affine=source.affine))
        single = isinstance(output, (np.ndarray, Tensor))
        if not single:
            raise refusal("spatial", type(output).__name__, "transforms that return one array", TypeError)
        output = convert_to_tensor(up_to_date(output), track_meta=False, device=source.device, dtype=torch.float32)
        kept = output.ndim == source.ndim and len(output) == len(grid) + 1 and min(output.shape[1:]) > 1
        accepted = "transforms that keep channels and rank, and leave axes longer than 1"
        if not kept:
            raise refusal("spatial", f"{(len(grid) + 1, *shape)} -> {tuple(output.shape)}", accepted)
        if not all_finite(output):
            raise refusal("spatial", "NaN or infinite coordinates", "spatial transforms only")
        coords, inside = split_coordinates(output, shape)
        return _SampledField(coords, inside, self._view_size(k, inside.shape), self.jacobian_threshold)

    def _view_size(self, k: int, shape: Sequence[int]) -> tuple[int, ...]:
        size = fall_back_tuple(self.roi_size[k], shape)
        if not (min(size) > 1):
            raise refusal("roi_size", size, "larger than 1")
        return size

    def _views(self, source: MetaTensor) -> tuple[list[_View], list[Tensor], Tensor]:
        """Views, the voxels (n,) of each that the other shows, and where (D, n) view 2 shows those of view 1.

        Where nobody wants the sampling, view 1 has as many voxels as leave the points a choice, and view 2 none.
        """
        fields = [self._field(k, source) for k in (0, 1)]
        first = fields[0].view(fields[0].start(self._positions[0]))
        starts = dict.fromkeys(fields[1].start(position) for position in self._positions[1:])  # each once
        for start in starts:
            second, shared = self._second(first, fields[1], start, self.min_overlap)
            if shared is not None:
                break
        else:
            second, shared = self._second(first, fields[1], self._centred(first, fields[1], start), 0.0)
        voxels = places(first.valid)
        every = 1 if self._dense else len(voxels) // (CHOICE * max(CHOICE, self.num_points))
        if every > 1:  # one of each few that follow each other
            drawn = self._generator.integers(every, size=len(voxels) // every) + every * np.arange(len(voxels) // every)
            voxels = voxels[torch.from_numpy(drawn).to(voxels.device)]
        partners, found = second.mesh.locate(first.at(voxels))
        found = places(found)
        return [first, second], [voxels[found], shared][: 1 + self._dense], partners.index_select(1, found)

    def _second(
        self, first: _View, field: _Field, start: Sequence[int], min_overlap: float
    ) -> tuple[_View, Tensor | None]:
        """View 2 cropped at ``start``, and its voxels (n,) that view 1 shows, None if these are too few.

        Where nobody wants view 2's sampling, only some voxels are looked at.
        """
        if min_overlap > 0:  # a coarse look spares most of the crops that will not do
            step = max(1, round((np.prod(field.size) / LOOKS) ** (1 / len(field.size))))
            coords, inside = field.coordinates(field.window(start, step))
            shown = first.mesh.start(coords[:, inside]) >= 0
            if not shown.numel() or shown.float().mean() < min_overlap:
                return first, None
        view = field.view(start)
        if not self._dense and (min_overlap == 0 or isinstance(field, _AffineField)):  # valid wherever inside
            return view, torch.zeros(0, dtype=torch.long)
        voxels = places(view.valid)
        if not self._dense:
            voxels = voxels[:: max(1, len(voxels) // LOOKS)]
        found = places(first.mesh.locate(view.at(voxels))[1])
        return view, None if len(found) < min_overlap * len(voxels) else voxels[found]

    @staticmethod
    def _centred(first: _View, field: _Field, otherwise: tuple[int, ...]) -> tuple[int, ...]:
        """Start of the crop of view 2 whose centre shows best the middle of what view 1 shows."""
        coords, inside = field.coordinates(field.whole)
        if not (first.valid.any() and inside.any()):
            return otherwise
        middle = first.coords[:, first.valid].mean(1).view(-1, *[1] * inside.ndim)
        distance = (coords - middle).square().sum(0).masked_fill(~inside, torch.inf)
        nearest = np.unravel_index(int(distance.argmin()), inside.shape)
        bounds = zip(nearest, field.size, inside.shape, strict=True)
        return tuple(int(min(max(at - size // 2, 0), n - size)) for at, size, n in bounds)

    @staticmethod
    def _as_map(density: Tensor, voxels: Tensor, valid: Tensor) -> Tensor:
        """The density (n,) of voxels (n,) as a map (1, *R), zero elsewhere."""
        return density.new_zeros(valid.numel()).index_copy_(0, voxels, density).view(1, *valid.shape)

    @staticmethod
    def _normalised(density: Tensor, otherwise: Tensor) -> Tensor:
        """``density`` scaled to sum to one; ``otherwise`` scaled, if it is zero; zeros if that is too."""
        for each in (density, otherwise.float()):
            total = each.sum(dtype=torch.float64)
            if total > 0:
                return (each / total).float()
        return torch.zeros_like(density)

    def _density(self, known: Mapping[str, Tensor], voxels: Tensor) -> Tensor:
        """Sampling density (n,) of voxels (n,), of which (1, n) values of the maps are known."""
        shared = known["mask"][0] != 0 if "mask" in known else torch.ones_like(voxels, dtype=torch.bool)
        density = shared.float()
        if self.gamma is not None:
            density = density * known["information"][0].float().clamp_min(0) ** self.gamma
        elif self.shares is not None:
            tiers = known["tiers"][0].long()
            counts = torch.bincount(tiers[shared], minlength=3).clamp_min(1)
            density = density * (torch.tensor(self.shares, device=tiers.device) / counts)[tiers]
        return self._normalised(density, shared)

    def _anchor_tier(self, density: Tensor, known: Mapping[str, Tensor]) -> int | None:
        """The tier that "anchor" intensity is meant for, None if no intensity transform is in that mode."""
        if "anchor" not in self._intensity_modes:
            return None
        mass = torch.stack([density[known["tiers"][0] == tier].sum() for tier in range(3)]).double().cpu().numpy()
        if self.shares is None:
            mass = (mass > 0).astype(float)
        mass = np.cumsum(mass if mass.sum() else np.ones(3))
        return int(np.searchsorted(mass, self._anchor_quantile * mass[-1], side="right"))

    def _intensity(self, k: int, view: Tensor, maps: Mapping[str, Tensor], anchor: int | None) -> Tensor:
        set_rnd(self.intensity[k], self._seeds[2 + k])
        shape, dtype = tuple(view.shape), view.dtype
        for stage in _stages(self.intensity[k]):
            tier = anchor if getattr(stage, "mode", None) == "anchor" else None
            known = {"information": maps.get("information"), "tiers": maps.get("tiers"), "tier": tier}
            changed = stage(view, **known) if _takes_information(stage) else stage(view)
            view = convert_to_tensor(changed, track_meta=False)
            if tuple(view.shape) != shape:
                raise refusal("intensity", f"{shape} -> {tuple(view.shape)}", "made of shape-keeping transforms")
        return view.to(dtype) if dtype.is_floating_point else view

    def _finished(
        self, shown: Tensor, image: NdarrayOrTensor, source: MetaTensor, fit: Tensor | None
    ) -> NdarrayOrTensor:
        """A view in the container of its image; a MetaTensor with the view's affine, identity where none fits."""
        if isinstance(image, np.ndarray):
            return shown.cpu().numpy()
        if not (self.track_meta and isinstance(image, MetaTensor)):
            return shown
        affine = source.affine
        moved = torch.eye(len(affine)) if fit is None else affine @ to_affine_nd(len(affine) - 1, fit).to(affine)
        meta = {key: value for key, value in source.meta.items() if key != "affine"} | {"source_affine": affine.clone()}
        return MetaTensor(shown, affine=moved.to(affine), meta=meta, applied_operations=[])

    def _points(
        self, voxels: Tensor, density: Tensor, partners: Tensor, tiers: Tensor | None, shape: Sequence[int]
    ) -> list[Tensor]:
        """Points drawn from voxels (n,) of view 1 without replacement, with their partners (D, n) in view 2."""
        device = density.device
        candidates = places(density > 0)
        # The smallest of exponential variables with rates p are a draw without replacement by p.
        keys = torch.from_numpy(self._generator.standard_exponential(len(candidates))).to(device) / density[candidates]
        count = min(self.num_points, len(candidates))
        drawn = candidates[keys.topk(count, largest=False).indices]
        points = [torch.full((self.num_points, len(shape)), torch.nan, device=device) for _ in range(2)]
        points[0][:count] = unravel(voxels[drawn], shape).T
        points[1][:count] = partners[:, drawn].T
        tier = torch.full((self.num_points,), NO_TIER, dtype=torch.uint8, device=device)
        tier[:count] = 0 if tiers is None else tiers[0, drawn].to(torch.uint8)
        valid = torch.arange(self.num_points, device=device) < count
        return [*points, tier, valid]


class RandPairedViewsd(Randomizable, MapTransform):
    """Dictionary version of :py:class:`RandPairedViews`: two views of each key from the same coordinates.

    For each key ``<prefix><key>_view1`` and ``..._view2``, and once ``<prefix>coords_view1`` and the other outputs. The
    sources (``keys``, information, tiers, mask), often of different sizes, are dropped; all other entries stay. List
    the information or tiers among the ``keys`` for views of them.

    Args:
        keys: images (C, *S) of one spatial shape.
        information_key: information map (1, *S), read if it is there, an error if it is needed and missing.
        tiers_key: likewise the tiers.
        mask_key: foreground (1, *S); outside, the sampling density is zero.
        mode: interpolation, one or one a key; None for bilinear, or nearest for integers and bool.
        intensity_keys: keys whose views change in intensity, all alike. None: those not resampled with nearest, nor
            the information map.
        keep_source: keep the sources.
        prefix: of all output keys, for several pairs in one dictionary.
        allow_missing_keys: do not raise for missing ``keys``.
        kwargs: further arguments of :py:class:`RandPairedViews`.

    Example:
        >>> pair = RandPairedViewsd(["image", "label"], num_points=3, roi_size=8, outputs="valid").set_random_state(0)
        >>> sorted(pair({"image": torch.rand(1, 16, 16), "label": torch.ones(1, 16, 16, dtype=torch.uint8)}))
        ... # doctest: +NORMALIZE_WHITESPACE
        ['image_view1', 'image_view2', 'label_view1', 'label_view2', 'points_tier', 'points_valid', 'points_view1',
         'points_view2', 'valid_view1', 'valid_view2']
    """

    backend = RandPairedViews.backend

    def __init__(
        self,
        keys: KeysCollection = ("image",),
        information_key: str = "information",
        tiers_key: str = "tiers",
        mask_key: str | None = None,
        mode: str | Sequence[str | None] | None = None,
        intensity_keys: KeysCollection | None = None,
        keep_source: bool = False,
        prefix: str = "",
        allow_missing_keys: bool = False,
        **kwargs: Any,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        self.pair = RandPairedViews(**kwargs)
        self.information_key, self.tiers_key, self.mask_key = information_key, tiers_key, mask_key
        self.mode = dict(zip(self.keys, ensure_tuple_rep(mode, len(self.keys)), strict=True))
        for each in self.mode.values():
            if each is not None and each not in MODES:
                raise refusal("mode", each, f"None or one of {MODES}")
        self.intensity_keys = None if intensity_keys is None else ensure_tuple(intensity_keys)
        known = self.intensity_keys is None or set(self.intensity_keys) <= set(self.keys)
        if not known:
            raise refusal("intensity_keys", intensity_keys, f"among the keys {self.keys}")
        self.keep_source, self.prefix = keep_source, prefix

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> RandPairedViewsd:
        super().set_random_state(seed, state)
        self.pair.set_random_state(state=self.R)
        return self

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        images = {key: d[key] for key in self.key_iterator(d)}
        if not images:
            raise KeyError(f"None of the keys {self.keys} of RandPairedViewsd is in the data.")
        keys = {"information": self.information_key, "tiers": self.tiers_key, "mask": self.mask_key}
        needed = (self.pair.uses_information, self.pair.uses_tiers, self.mask_key is not None)
        for key, need in zip(keys.values(), needed, strict=True):
            if need and key not in d:
                raise KeyError(
                    f"Key `{key}` of RandPairedViewsd is missing, for the sampling or an intensity transform."
                )
        maps = {name: d.get(key) for name, key in keys.items()}
        if not self.keep_source:
            for key in (*self.keys, *keys.values()):
                d.pop(key, None)
        for name in self.pair.output_names(images):
            free = self.prefix + name not in d
            if not free:
                raise refusal("prefix", repr(self.prefix), f"such that `{self.prefix + name}` is not a key already")
        modes = {key: _mode(self.mode[key], image) for key, image in images.items()}
        changed = self.intensity_keys
        if changed is None:
            changed = [key for key, mode in modes.items() if mode != "nearest" and key not in keys.values()]
        pair = self.pair.make_pair(images, modes, changed, **maps)
        return d | {self.prefix + name: value for name, value in pair.items()}


RandPairedViewsD = RandPairedViewsDict = RandPairedViewsd
