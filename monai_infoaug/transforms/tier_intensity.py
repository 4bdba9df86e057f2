"""Random intensity changes whose strength follows the information of a pixel."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import MAX_SEED, TransformBackends, convert_to_dst_type
from torch import Tensor

from monai_infoaug._require import all_finite, is_count, is_number, is_one_of, refusal, require_shares_of_one
from monai_infoaug.information._arrays import are_numbers, is_ordered_pair, plain_tensor
from monai_infoaug.information.tiers import TIERS
from monai_infoaug.transforms._calibration import read_settings
from monai_infoaug.transforms._intensity_steps import changed_by
from monai_infoaug.transforms._keyed import KeyedTransform
from monai_infoaug.transforms._pending import up_to_date
from monai_infoaug.transforms._shown import Shown
from monai_infoaug.transforms._smoothing import smoothed
from monai_infoaug.transforms.intensity_presets import MOST, intensity_preset, preset_by_tier, require_preset

__all__ = ["RandTierIntensity", "RandTierIntensityD", "RandTierIntensityDict", "RandTierIntensityd"]

MODES = ("blend", "anchor", "continuous")


def _for_each_tier(
    transforms: str | Mapping[str, Callable] | Callable | None,
    mode: str,
    file: str | os.PathLike | None,
    strengths: Sequence[float] | None,
) -> Mapping[str, Callable]:
    """The transform of each tier that has one, from the arguments of :class:`RandTierIntensity`."""
    if file is not None:
        name, found = read_settings(file, "intensity", transforms=transforms, strengths=strengths)
        require_preset(name, f"transforms in {file}")
        return preset_by_tier(name, _strength_of_tiers(found, f"strengths in {file}"))
    if transforms is None or isinstance(transforms, str):
        name = "published" if transforms is None else transforms
        require_preset(name, "transforms")
        return preset_by_tier(name, None if strengths is None else _strength_of_tiers(strengths, "strengths"))
    if strengths is not None:
        raise refusal("strengths", strengths, "None unless `transforms` is a name")
    if not isinstance(transforms, Mapping):
        accepted = f"a dictionary from tier to transform in mode '{mode}'"
        raise refusal("transforms", type(transforms), accepted, TypeError)
    if not set(transforms) <= set(TIERS):
        raise refusal("transforms", list(transforms), f"keyed by {TIERS}")
    for transform in transforms.values():
        _require_array_transform(transform)
    return transforms


def _for_continuous(transforms: str | Mapping[str, Callable] | Callable | None) -> Callable | None:
    """The one transform of mode ``"continuous"``. None: the published linear form."""
    if transforms is None or transforms == "published":
        return None
    if isinstance(transforms, str):
        require_preset(transforms, "transforms")
        return intensity_preset(transforms)
    _require_array_transform(transforms)
    return cast(Callable, transforms)


def _strength_of_tiers(strengths: Any, argument: str) -> Mapping[str, float]:
    """The strength of each tier, from a mapping that has them or three numbers in order."""
    by_tier = dict(zip(TIERS, strengths, strict=True)) if are_numbers(strengths, len(TIERS)) else strengths
    whole = isinstance(by_tier, Mapping) and set(by_tier) == set(TIERS)
    if not whole or not are_numbers([*by_tier.values()], 3, 0, MOST):
        raise refusal(argument, strengths, f"a number of at least 0, at most {MOST}, for each of {TIERS}")
    return by_tier


def _require_array_transform(transform: object) -> None:
    if not callable(transform) or isinstance(transform, MapTransform):
        raise refusal("transforms", type(transform).__name__, "made of array transforms", TypeError)


def _map(data: NdarrayOrTensor, name: str, x: Tensor) -> Tensor:
    """A map ``(1,*S)`` beside the image ``x``, on its device."""
    values = plain_tensor(up_to_date(data), name).to(x.device)
    wanted = (1, *x.shape[1:])
    if tuple(values.shape) != wanted:
        raise refusal(name, tuple(values.shape), f"of shape {wanted}, as the image")
    if not all_finite(values):
        raise refusal(name, "NaN or infinity", "finite")
    return values


def _are_tiers(codes: Tensor) -> bool:
    """Whether all are 0, 1 or 2."""
    low, high = float(codes.min()), float(codes.max())
    return low >= 0 and high < len(TIERS) and not (codes.is_floating_point() and bool(codes.frac().any()))


class RandTierIntensity(Shown, RandomizableTransform):
    """Randomly change intensities, differently for pixels of low, medium and high information [1].

    Any MONAI random array intensity transform T may serve a tier. ``mode`` says how the tiers' changes meet:

    - ``"blend"``: ``y = sum_t w_t T_t(x)``. The weights are the tiers' masks, smoothed; they sum to one, so no seam
      appears.
    - ``"anchor"``: one tier is picked and its T changes the whole image, as published [1].
    - ``"continuous"``: ``y = x + w(H) (T(x) - x)`` with the weight w a function of the information H.

    The transforms of all tiers start from the same random state. So they move together (all brighter, or all darker)
    and the tiers differ in strength alone: equal transforms in all tiers give what one transform gives.

    Args:
        transforms: ``{"low": T, "medium": T, "high": T}``, where a missing tier stays unchanged; in mode
            ``"continuous"`` one T; or the name of an :py:func:`intensity_preset`, all for images scaled to [0, 1]
            (results are clipped to [0, 1], or to the image's own range where that is wider). None: that in ``file``,
            else ``"published"``.

            - ``"published"``: brightness and contrast as in [1], milder for the high tier; in mode ``"continuous"``
              the linear form: with ``h = H - 3`` (H clipped to [0, 6] bits), brightness from [0.6 + 0.1h, 1.6 - 0.2h]
              and contrast from [0.5 + 0.15h, 1.7 - 0.2h].
            - Other names, such as ``"rich"`` and ``"cross_contrast"``: strength 0.5 for the low tier (a strong change
              destroys the little that a flat region tells), 1 for medium and 0.7 for high (the ratio of the published
              ranges); in mode ``"continuous"`` strength 1 times the weight.

        mode: ``"blend"``, ``"anchor"`` or ``"continuous"``.
        prob: probability of any change, in [0, 1].
        sigma: standard deviation in voxels of the Gaussian that smooths the tiers in mode ``"blend"``; 0 keeps hard
            edges.
        information_range: information (low, high) in bits between which the weight ramps in mode ``"continuous"``.
            The default is the published pair of cuts. Not used by the published linear form.
        weights: weight at and below, and at and above the ``information_range``, each in [0, 1]; or a function of
            the information tensor ``(1,*S)`` that returns weights of that shape.
        file: JSON file of ``monai-infoaug calibrate``, read at once. It says which of the named ``transforms`` to take
            and how strong it is in each tier, so neither may be given beside it. Not for mode ``"continuous"``.
        strengths: strength of the named ``transforms`` in the (low, medium, high) tier, numbers of at least 0: 0 is no
            change, 1 that of the medium tier. Equal ones make the change uniform. Not for mode ``"continuous"``.

    Raises:
        OSError: if ``file`` cannot be read.
        ValueError: for an unknown mode, name or tier, a number out of range, a faulty ``file``, or ``transforms`` or
            ``strengths`` beside it.
        TypeError: for a transform that is not callable, or a dictionary transform.

    References:
        [1] Quan et al., "IGU-Aug: information-guided unsupervised augmentation and pixel-wise contrastive learning for
        medical image analysis", IEEE TMI 44(1):154-164, 2025, arXiv:2211.07118.

    Example:
        >>> import torch
        >>> from monai.transforms import RandGaussianNoise, RandScaleIntensity
        >>> noise, scale = RandGaussianNoise(prob=1.0, std=0.1), RandScaleIntensity(factors=0.3, prob=1.0)
        >>> intensity = RandTierIntensity({"medium": noise, "high": scale}, sigma=1.0).set_random_state(seed=0)
        >>> image, tiers = torch.rand(1, 32, 32), torch.zeros(1, 32, 32, dtype=torch.uint8)
        >>> bool((intensity(image, tiers=tiers) == image).all())  # only low: unchanged
        True
        >>> bool((intensity(image, tiers=tiers + 1) == image).all())
        False
    """

    backend = [TransformBackends.TORCH]
    takes_information = True  # asks for `information`, `tiers` and `tier` beside the image

    def __init__(
        self,
        transforms: str | Mapping[str, Callable] | Callable | None = None,
        mode: str = "blend",
        prob: float = 1.0,
        sigma: float = 4.0,
        information_range: tuple[float, float] = (2.27, 4.35),
        weights: tuple[float, float] | Callable[[Tensor], Tensor] = (1.0, 0.5),
        file: str | os.PathLike | None = None,
        strengths: Sequence[float] | None = None,
    ) -> None:
        if not is_one_of(mode, MODES):
            raise refusal("mode", repr(mode), f"one of {MODES}")
        require_shares_of_one(prob=prob)
        if not is_number(sigma, 0):
            raise refusal("sigma", sigma, "a number of voxels >= 0")
        if not is_ordered_pair(information_range) or information_range[0] == information_range[1]:
            raise refusal("information_range", information_range, "(low, high) bits, low < high")
        if not callable(weights) and not are_numbers(weights, 2, 0, 1):
            raise refusal("weights", weights, "two numbers in [0, 1], or a function")
        RandomizableTransform.__init__(self, prob)
        self.mode, self.sigma, self.information_range, self.weights = mode, sigma, information_range, weights
        self.clip = transforms is None or isinstance(transforms, str)
        self.transform: Callable | None = None  # of mode "continuous"
        self.transforms: Mapping[str, Callable] = {}  # of the other modes, by tier
        if mode == "continuous":
            for name, value in (("file", file), ("strengths", strengths)):
                if value is not None:
                    raise refusal(name, value, "None in mode 'continuous'")
            self.transform = _for_continuous(transforms)
        else:
            self.transforms = _for_each_tier(transforms, mode, file, strengths)
        self._seed, self._factors = 0, (0.5, 0.5)
        self._tier: int | None = None

    def randomize(self, tiers: NdarrayOrTensor | None = None) -> None:
        """Draw whether and how to change; in mode ``"anchor"`` also one of the tiers that are present in ``tiers``."""
        super().randomize(None)
        self._seed = int(self.R.randint(MAX_SEED, dtype="uint32"))
        self._factors = self.R.uniform(), self.R.uniform()
        self._tier = None
        if self.mode == "anchor" and tiers is not None:
            self._tier = int(self.R.choice(plain_tensor(tiers, "tiers").unique().cpu()))

    def __call__(
        self,
        img: NdarrayOrTensor,
        information: NdarrayOrTensor | None = None,
        tiers: NdarrayOrTensor | None = None,
        tier: int | None = None,
        randomize: bool = True,
    ) -> NdarrayOrTensor:
        """Change one image.

        Args:
            img: ``(C,*S)`` image, 2D or 3D, real and finite.
            information: ``(1,*S)`` bits; needed in mode ``"continuous"``.
            tiers: ``(1,*S)`` with 0 low, 1 medium, 2 high; needed in mode ``"blend"``, and in ``"anchor"`` when
                ``tier`` is not given.
            tier: 0, 1 or 2 to force the tier of mode ``"anchor"``.
            randomize: ``False`` repeats the last draw.

        Returns:
            The changed image, of the kind, shape and metadata of ``img``, and of its dtype if floating, else float32.

        Raises:
            ValueError: if what the mode needs is missing, or an input has the wrong shape, values, NaN or infinity.
            TypeError: for what is no array or tensor, a complex image, or a transform that gives no such image back.
        """
        img = up_to_date(img)
        x = plain_tensor(img, "img")
        if x.ndim not in (3, 4) or x.numel() == 0:
            raise refusal("img", tuple(x.shape), "a channel-first 2D or 3D image, not empty")
        dtype = x.dtype if x.is_floating_point() else torch.float32
        x = x if x.dtype == torch.float64 else x.float()  # half precision and integers are computed in float32
        if not all_finite(x):
            raise refusal("img", "NaN or infinity", "finite")
        bits = None if information is None else _map(information, "information", x)
        codes = None if tiers is None else _map(tiers, "tiers", x)
        if codes is not None and not _are_tiers(codes):
            raise refusal("tiers", "others", "0, 1 or 2")
        if tier is not None and not (is_count(tier) and tier < len(TIERS)):
            raise refusal("tier", tier, "0 (low), 1 (medium) or 2 (high)")
        self._require_guide(bits, codes, tier)
        if randomize:
            self.randomize(codes if tier is None else None)
        if self._do_transform:
            out = self._changed(x, bits, codes, self._tier if tier is None else int(tier))
            # a crop's own range may be narrow, so the scaled image's [0, 1] is always allowed
            low, high = map(float, x.aminmax())
            x = out.clamp(min(0.0, low), max(1.0, high)) if self.clip else out.clone()
        else:
            x = x.clone()
        return convert_to_dst_type(x, img, dtype=dtype)[0]

    def _require_guide(self, information: Tensor | None, tiers: Tensor | None, tier: int | None) -> None:
        """Refuse to go without what the mode goes by."""
        name, given = {
            "blend": ("tiers", tiers is not None),
            "anchor": ("tiers", tiers is not None or tier is not None),
            "continuous": ("information", information is not None),
        }[self.mode]
        if not given:
            raise refusal(name, None, f"given in mode '{self.mode}'")

    def _changed(self, x: Tensor, information: Tensor | None, tiers: Tensor | None, tier: int | None) -> Tensor:
        """The image through the last draw, unclipped."""
        if self.mode == "blend":
            return self._blend(x, cast(Tensor, tiers))
        if self.mode == "continuous":
            return self._continuous(x, cast(Tensor, information).to(x.dtype))
        if tier is None:
            raise refusal("tier", None, "given, as the last draw has none")
        transform = self.transforms.get(TIERS[tier])
        return x if transform is None else next(changed_by([transform], self._seed, x))

    def _blend(self, x: Tensor, tiers: Tensor) -> Tensor:
        counts = torch.bincount(tiers.flatten().to(torch.uint8), minlength=len(TIERS)).tolist()
        served: dict[Callable, list[int]] = {}  # a transform that serves several tiers runs once
        for code, name in enumerate(TIERS):
            if counts[code] and name in self.transforms:
                served.setdefault(self.transforms[name], []).append(code)
        rest = sum(map(bool, counts))  # tiers
        out, tiers = x.clone(), tiers.to(x.dtype)
        left = torch.ones_like(tiers)  # of their weights, which sum to one
        for codes, changed in zip(served.values(), changed_by(list(served), self._seed, x), strict=True):
            rest, weight = rest - len(codes), left
            if rest:
                weight = torch.stack([tiers.clone().eq_(code) for code in codes]).sum(0)
                weight = smoothed(weight, self.sigma) if self.sigma > 0 else weight
            out.addcmul_(weight, changed).addcmul_(weight, x, value=-1)
            left.sub_(weight)
        return out

    def _continuous(self, x: Tensor, information: Tensor) -> Tensor:
        if self.transform is None:
            return self._linear(x, information)
        if callable(self.weights):
            weight = _map(self.weights(information), "weights", x)
        else:
            (low, high), (first, last) = self.information_range, self.weights
            weight = first + (last - first) * ((information - low) / (high - low)).clamp(0, 1)
        return x + weight * (next(changed_by([self.transform], self._seed, x)) - x)

    def _linear(self, x: Tensor, information: Tensor) -> Tensor:
        h = information.clamp(0, 6) - 3  # a little above 6 bits the ranges meet
        brightness, contrast = self._factors
        x = x * torch.lerp(0.6 + 0.1 * h, 1.6 - 0.2 * h, brightness)
        return x.mean() + torch.lerp(0.5 + 0.15 * h, 1.7 - 0.2 * h, contrast) * (x - x.mean())


class RandTierIntensityd(Shown, RandomizableTransform, KeyedTransform):
    """Dictionary version of :py:class:`RandTierIntensity`: one draw for all keys; labels and other keys are left alone.

    It is for supervised training, where half of the images stay as they are by default: a network that has seen none as
    it comes is worse on images of its own site.

    Args:
        keys: keys of the images to change.
        information_key: key of the information map ``(1,*S)``, in bits; read in mode ``"continuous"``.
        tiers_key: key of the tiers ``(1,*S)``; read in the modes ``"blend"`` and ``"anchor"``.
        transforms: see :py:class:`RandTierIntensity`, like the next seven.
        mode: ``"blend"``, ``"anchor"`` or ``"continuous"``.
        prob: probability of any change, in [0, 1].
        sigma: smoothing of the tiers in voxels.
        information_range: information (low, high) in bits between which the weight ramps.
        weights: weights at its two ends, or a function.
        file: JSON file of ``monai-infoaug calibrate``.
        strengths: strength of the named transforms in each tier.
        allow_missing_keys: skip missing ``keys``. The information or tiers key may never miss.

    Raises:
        OSError, ValueError, TypeError: as :py:class:`RandTierIntensity`.
        KeyError: if a key is missing.

    Example:
        >>> import torch
        >>> item = {"image": torch.rand(1, 32, 32), "tiers": torch.randint(0, 3, (1, 32, 32)), "label": 1}
        >>> out = RandTierIntensityd("image", transforms="rich", prob=1.0).set_random_state(seed=0)(item)
        >>> out["image"].shape, out["label"]
        (torch.Size([1, 32, 32]), 1)
    """

    backend = RandTierIntensity.backend

    def __init__(
        self,
        keys: KeysCollection,
        information_key: Hashable = "information",
        tiers_key: Hashable = "tiers",
        transforms: str | Mapping[str, Callable] | Callable | None = None,
        mode: str = "blend",
        prob: float = 0.5,
        sigma: float = 4.0,
        information_range: tuple[float, float] = (2.27, 4.35),
        weights: tuple[float, float] | Callable[[Tensor], Tensor] = (1.0, 0.5),
        file: str | os.PathLike | None = None,
        strengths: Sequence[float] | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        keyed = {"information_key": information_key, "tiers_key": tiers_key}
        KeyedTransform.__init__(self, keys, allow_missing_keys, **keyed)
        self.intensity = RandTierIntensity(transforms, mode, prob, sigma, information_range, weights, file, strengths)
        RandomizableTransform.__init__(self, prob)
        self.map = ("information", information_key) if mode == "continuous" else ("tiers", tiers_key)

    def set_random_state(
        self, seed: int | None = None, state: np.random.RandomState | None = None
    ) -> RandTierIntensityd:
        """Seed the array transform too; see MONAI's ``Randomizable``."""
        super().set_random_state(seed, state)
        self.intensity.set_random_state(seed, state)
        return self

    def randomize(self, tiers: NdarrayOrTensor | None = None) -> None:
        """Draw as :py:meth:`RandTierIntensity.randomize` does, from the array transform's state."""
        self.intensity.prob = self.prob
        self.intensity.randomize(tiers)
        self._do_transform = self.intensity._do_transform

    def __call__(self, data: Mapping[Hashable, NdarrayOrTensor]) -> dict[Hashable, NdarrayOrTensor]:
        """Change the images of a dictionary of channel-first arrays; see :py:meth:`RandTierIntensity.__call__`."""
        out = dict(data)
        name, map_key = self.map
        if map_key not in out:
            raise KeyError(f"Key `{map_key}` of transform `{type(self).__name__}` was missing in the data.")
        guide = up_to_date(out[map_key])
        information, tiers = (guide, None) if name == "information" else (None, guide)
        self.randomize(tiers)
        for key in self.key_iterator(out):
            out[key] = self.intensity(out[key], information, tiers, randomize=False)
        return out


RandTierIntensityD = RandTierIntensityDict = RandTierIntensityd
