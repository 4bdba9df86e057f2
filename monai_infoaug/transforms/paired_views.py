"""Two augmented views of an image with exact pixel correspondence, sampling densities and point pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from monai.config import KeysCollection, NdarrayOrTensor
from monai.transforms import Randomizable, Transform
from monai.utils import MAX_SEED, TransformBackends, ensure_tuple

from monai_infoaug._require import listed, refusal, require_truth
from monai_infoaug.transforms._keyed import KeyedTransform
from monai_infoaug.transforms._pair import (
    OUTPUTS,
    Chain,
    Draw,
    PairMaker,
    Size,
    SourceImage,
    interpolation,
    require_mode,
)
from monai_infoaug.transforms._shown import Shown

__all__ = ["RandPairedViews", "RandPairedViewsD", "RandPairedViewsDict", "RandPairedViewsd"]


class RandPairedViews(Shown, PairMaker, Randomizable, Transform):
    """Two random views of one image that know where each of their voxels comes from [1].

    Only coordinates pass through the spatial chain; the image is then resampled once, so correspondence is exact for
    every chain, elastic ones included. A voxel is valid if it shows the source and the map is locally invertible there:
    the Jacobian determinant exceeds ``jacobian_threshold`` times its median, no cell between voxels around it is
    folded, the map is turned by no more than 90 degrees against its median, and no valid place nearer the view's centre
    shows the same. So padding of any kind (constant, border, reflection, wrap) and folds are not valid.

    Where many folds lie upon each other, a nearer place may be missed: for at most 1 in 1,000 valid voxels of elastic
    chains with reflection that displace nodes by up to 0.4 of their spacing, for at most 1 in 100 at 0.75, and for up
    to 3 in 100 where nodes move further than their spacing.

    Where sampling is wanted, the density is uniform, or shared among tiers (``shares``), or ``information ** gamma``,
    over the valid voxels that both views show, up to 0.01 voxel at the border of the overlap. It sums to one, or is
    zero everywhere if the views share nothing. If it would vanish on all shared voxels, it is uniform.

    :py:meth:`randomize` draws all that is random into the attribute ``draw``. A call with such a ``draw`` repeats the
    pair, or makes the same pair of another image of that size.

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

    Raises:
        ValueError: for a number out of range, an unknown name, or both ``shares`` and ``gamma``.
        TypeError: for a transform that is not callable, or a dictionary transform.

    Example:
        >>> import torch
        >>> from monai.transforms import RandAffine
        >>> pair = RandPairedViews((24, 24), RandAffine(prob=1.0, rotate_range=0.3), num_points=5).set_random_state(0)
        >>> views = pair(torch.rand(1, 32, 32))
        >>> views["view1"].shape, views["coords_view2"].shape, views["points_view2"].shape
        (torch.Size([1, 24, 24]), torch.Size([2, 24, 24]), torch.Size([5, 2]))
        >>> again = pair(torch.rand(1, 32, 32), draw=pair.draw)  # of another image
        >>> bool((again["coords_view2"] == views["coords_view2"]).all())
        True

    References:
        1. Quan et al., "IGU-Aug: information-guided unsupervised augmentation and pixel-wise contrastive learning for
           medical image analysis", IEEE TMI 44(1):154-164, 2025, arXiv:2211.07118.
    """

    backend = [TransformBackends.TORCH]
    draw: Draw

    def randomize(self, data: Any = None) -> None:  # noqa: ARG002
        """Draw all that is random of a pair."""
        seeds = [int(seed) for seed in self.R.randint(MAX_SEED, size=5, dtype="uint32")]
        positions = self.R.random_sample((self.max_redraws + 2, 3)).tolist()
        self.draw = Draw(
            spatial_seeds=(seeds[0], seeds[1]),
            intensity_seeds=(seeds[2], seeds[3]),
            points_seed=seeds[4],
            crop_positions=tuple(map(tuple, positions)),
            anchor_quantile=self.R.random_sample(),
        )

    def __call__(
        self,
        image: NdarrayOrTensor,
        information: NdarrayOrTensor | None = None,
        tiers: NdarrayOrTensor | None = None,
        mask: NdarrayOrTensor | None = None,
        draw: Draw | None = None,
    ) -> dict[str, Any]:
        """Make a pair of views.

        Args:
            image: (C, *S), two or three spatial dimensions.
            information: (1, *S) bits; needed for ``gamma`` and by some intensity transforms.
            tiers: (1, *S) 0 low, 1 medium, 2 high; needed for ``shares`` and by some intensity transforms.
            mask: (1, *S); where it is zero the sampling density is zero.
            draw: the attribute ``draw`` after an earlier call, to repeat its pair. None: a new one.

        Returns:
            ``view1``, ``view2`` (C, *R); ``coords_view1``, ... (D, *R) float32, source voxels, -2 where padded;
            ``valid_view1``, ... (1, *R) bool; ``sampling_view1``, ... (1, *R) float32; ``points_view1``, ... (N, D)
            float32, view voxels; ``points_tier`` (N,) uint8, 0 if no tiers were given; ``points_valid`` (N,) bool.
            Points that could not be drawn are NaN, of tier 255 and not valid.

        Raises:
            ValueError: if an input is missing, not finite, or has another shape or other values than the above, or if a
                chain is no spatial or no intensity chain.
            TypeError: if a spatial chain returns other than one array.
        """
        maps = {"information": information, "tiers": tiers, "mask": mask}
        return self.make_pair({"": SourceImage(image, interpolation(self.mode, image))}, maps, draw)

    def make_pair(
        self,
        images: Mapping[Hashable, SourceImage],
        maps: Mapping[str, NdarrayOrTensor | None],
        draw: Draw | None = None,
    ) -> dict[str, Any]:
        """Make a pair of views of several images of one size.

        Args:
            images: named images.
            maps: ``information``, ``tiers`` and ``mask`` as in the call.
            draw: as in the call.

        Returns:
            As the call, with ``<name>_view1``, ``<name>_view2`` for each image.
        """
        sources = self.check(images, maps)
        if draw is not None and not isinstance(draw, Draw):
            raise refusal("draw", repr(draw), "the attribute `draw` after an earlier call, or None")
        if draw is None:
            self.randomize()
            draw = self.draw
        return self.apply(sources, draw)


class RandPairedViewsd(Shown, Randomizable, KeyedTransform):
    """Dictionary version of :py:class:`RandPairedViews`: two views of each key from the same coordinates [1].

    For each key ``<prefix><key>_view1`` and ``..._view2``, and once ``<prefix>coords_view1`` and the other outputs. The
    sources (``keys``, information, tiers, mask), often of different sizes, are dropped; all other entries stay. List
    the information or tiers among the ``keys`` for views of them.

    Args:
        keys: images (C, *S) of one spatial shape.
        information_key: information map (1, *S), read if it is there, an error if it is needed and missing.
        tiers_key: likewise the tiers.
        mask_key: foreground (1, *S); outside, the sampling density is zero.
        mode: ``"bilinear"``, ``"nearest"`` or ``"bicubic"`` (2D), for all or one a key. None: nearest for integers and
            bool, else bilinear.
        intensity_keys: keys whose views change in intensity, all alike. None: those not resampled with nearest, nor
            the information map.
        keep_source: keep the sources.
        prefix: prefix of all output keys, for several pairs in one dictionary.
        allow_missing_keys: do not raise for missing ``keys``.
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
        padding_mode: ``"zeros"`` or ``"border"``, what the views show outside of the source.
        outputs: the dense maps wanted among ``"coords"``, ``"valid"`` and ``"sampling"``.
        jacobian_threshold: see :py:class:`RandPairedViews`, in [0, 1).
        track_meta: views of a MetaTensor are MetaTensors, with the view's affine. False: plain tensors, which workers
            of a loader hand over faster.

    Raises:
        ValueError: for a number out of range, an unknown name, both ``shares`` and ``gamma``, or two outputs of one
            name.
        TypeError: for a transform that is not callable, or a dictionary transform.

    See Also:
        :py:class:`RandPairedViews`

    Example:
        >>> import torch
        >>> pair = RandPairedViewsd(["image", "label"], num_points=3, roi_size=8, outputs="valid").set_random_state(0)
        >>> sorted(pair({"image": torch.rand(1, 16, 16), "label": torch.ones(1, 16, 16, dtype=torch.uint8)}))
        ... # doctest: +NORMALIZE_WHITESPACE
        ['image_view1', 'image_view2', 'label_view1', 'label_view2', 'points_tier', 'points_valid', 'points_view1',
         'points_view2', 'valid_view1', 'valid_view2']

    References:
        1. Quan et al., "IGU-Aug: information-guided unsupervised augmentation and pixel-wise contrastive learning for
           medical image analysis", IEEE TMI 44(1):154-164, 2025, arXiv:2211.07118.
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
        roi_size: Size | tuple[Size, Size] = None,
        spatial: Chain | Sequence[Chain] = None,
        intensity: Chain | Sequence[Chain] = None,
        num_points: int = 512,
        shares: Sequence[float] | None = None,
        gamma: float | None = None,
        min_overlap: float = 0.25,
        max_redraws: int = 10,
        padding_mode: str = "zeros",
        outputs: str | Sequence[str] = OUTPUTS,
        jacobian_threshold: float = 0.1,
        track_meta: bool = True,
    ) -> None:
        require_truth(keep_source=keep_source)
        others = {"information_key": information_key, "tiers_key": tiers_key, "mask_key": mask_key}
        KeyedTransform.__init__(self, keys, allow_missing_keys, **others)
        self.pair = RandPairedViews(
            roi_size=roi_size,
            spatial=spatial,
            intensity=intensity,
            num_points=num_points,
            shares=shares,
            gamma=gamma,
            min_overlap=min_overlap,
            max_redraws=max_redraws,
            padding_mode=padding_mode,
            outputs=outputs,
            jacobian_threshold=jacobian_threshold,
            track_meta=track_meta,
        )
        self.map_keys = {"information": information_key, "tiers": tiers_key, "mask": mask_key}
        modes = listed(mode) or [mode] * len(self.keys)
        if len(modes) != len(self.keys):
            raise refusal("mode", mode, f"one for all, or one for each of the keys {self.keys}")
        self.mode = dict(zip(self.keys, modes, strict=True))
        for each in self.mode.values():
            require_mode(each)
        self.intensity_keys = None if intensity_keys is None else ensure_tuple(intensity_keys)
        if not all(isinstance(key, Hashable) and key in self.keys for key in self.intensity_keys or ()):
            raise refusal("intensity_keys", intensity_keys, f"among the keys {self.keys}")
        if not isinstance(prefix, str):
            raise refusal("prefix", repr(prefix), "text")
        self.keep_source, self.prefix = keep_source, prefix
        name, times = Counter(self.pair.output_names(self.keys)).most_common(1)[0]
        if times > 1:
            accepted = f"such that each output has a name of its own (`{prefix}{name}` would be made {times} times)"
            raise refusal("keys", self.keys, accepted)

    @property
    def draw(self) -> Draw:
        """All that was random of the last pair."""
        return self.pair.draw

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> RandPairedViewsd:
        """Seed what draws the pairs."""
        super().set_random_state(seed, state)
        self.pair.set_random_state(state=self.R)
        return self

    def __call__(self, data: Mapping[Hashable, Any], draw: Draw | None = None) -> dict[Hashable, Any]:
        """Make a pair of views of each image of a dictionary.

        Args:
            data: dictionary with the images.
            draw: the attribute ``draw`` after an earlier call, to repeat its pair. None: a new one.

        Returns:
            The dictionary with the views, see :py:meth:`RandPairedViews.__call__`.

        Raises:
            KeyError: for a missing key.
            ValueError: if an output key is there already, or as :py:meth:`RandPairedViews.__call__`.
        """
        d = dict(data)
        modes = {key: interpolation(self.mode[key], d[key]) for key in self.key_iterator(d)}
        if not modes:
            raise KeyError(f"None of the keys {self.keys} of RandPairedViewsd is in the data.")
        images = {key: SourceImage(d[key], mode, self._changes(key, mode)) for key, mode in modes.items()}
        maps = self._maps(d)
        if not self.keep_source:
            for key in (*self.keys, *self.map_keys.values()):
                d.pop(key, None)
        for name in self.pair.output_names(images):
            if self.prefix + name in d:
                raise refusal("prefix", repr(self.prefix), f"such that `{self.prefix + name}` is not a key already")
        pair = self.pair.make_pair(images, maps, draw)
        return d | {self.prefix + name: value for name, value in pair.items()}

    def _changes(self, key: Hashable, mode: str) -> bool:
        """Whether the intensity transforms change the views of a key."""
        if self.intensity_keys is not None:
            return key in self.intensity_keys
        return mode != "nearest" and key not in self.map_keys.values()

    def _maps(self, data: Mapping[Hashable, Any]) -> dict[str, Any]:
        """The maps that the data has."""
        needed = {"information": self.pair.uses_information, "tiers": self.pair.uses_tiers, "mask": True}
        for name, key in self.map_keys.items():
            if needed[name] and key is not None and key not in data:
                raise KeyError(
                    f"Key `{key}` of RandPairedViewsd is missing, for the sampling or an intensity transform."
                )
        return {name: data.get(key) for name, key in self.map_keys.items()}


RandPairedViewsD = RandPairedViewsDict = RandPairedViewsd
