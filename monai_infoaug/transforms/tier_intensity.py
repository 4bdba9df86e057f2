"""Random intensity changes whose strength follows the information of a pixel."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Mapping, Sequence

import numpy as np
import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.data.utils import set_rnd
from monai.transforms import (
    Compose,
    MapTransform,
    RandAdjustContrast,
    RandBiasField,
    RandGaussianNoise,
    RandGaussianSmooth,
    RandomizableTransform,
    RandScaleIntensity,
    RandScaleIntensityFixedMean,
)
from monai.utils import MAX_SEED, TransformBackends, convert_to_dst_type, convert_to_tensor

from monai_infoaug._require import all_finite, refusal
from monai_infoaug.information.tiers import TIERS
from monai_infoaug.transforms._calibration import read_settings
from monai_infoaug.transforms._pending import up_to_date
from monai_infoaug.transforms.intensity_curve import RandIntensityCurve

__all__ = [
    "RandTierIntensity",
    "RandTierIntensityD",
    "RandTierIntensityDict",
    "RandTierIntensityd",
]

MODES = ("blend", "anchor", "continuous")
MEDIUM = {"brightness": (0.505, 1.997), "contrast": (0.340, 2.329)}  # published factors
NAMES = ("published", "rich", "cross_contrast")


def _scale(brightness: tuple[float, float], contrast: tuple[float, float]) -> Compose:
    """Multiply by a factor from ``brightness``, then scale around the mean by one from ``contrast``."""
    low_b, high_b, low_c, high_c = (factor - 1 for factor in (*brightness, *contrast))  # MONAI scales by 1 + factor
    return Compose(
        [
            RandScaleIntensity(factors=(low_b, high_b), prob=1.0),
            RandScaleIntensityFixedMean(factors=(low_c, high_c), prob=1.0),
        ]
    )


def _rich(strength: float, any_contrast: bool = False) -> Compose:
    """Grey-level curve (any, or a gamma curve), bias field, blur and noise for images scaled to [0, 1]."""
    sigma = (min(0.25, 1.5 * strength), 1.5 * strength)
    gamma = RandAdjustContrast(gamma=(0.6**strength, 1.8**strength), prob=1.0)
    return Compose(
        [
            RandIntensityCurve(knots=5, prob=1.0) if any_contrast else gamma,
            RandBiasField(coeff_range=(-0.1 * strength, 0.1 * strength), prob=0.5),
            RandGaussianSmooth(sigma_x=sigma, sigma_y=sigma, sigma_z=sigma, prob=0.5),
            RandGaussianNoise(std=0.05 * strength, prob=0.5),
        ]
    )


def preset(name: str, strength: float) -> Compose:
    """The change that goes by ``name``, at a strength above 0; 1 is that of the medium tier.

    ``"published"`` raises the published factors of brightness and contrast to the power ``strength``.
    """
    if name == "published":
        return _scale(*(tuple(factor**strength for factor in factors) for factors in MEDIUM.values()))
    return _rich(strength, any_contrast=name == "cross_contrast")


def _named(name: str, mode: str) -> Mapping[str, Callable] | Callable | None:
    if name != "published":
        return preset(name, 1.0) if mode == "continuous" else _of_strengths(name, (0.5, 1.0, 0.7), "")
    if mode == "continuous":
        return None  # the published linear form, see `_linear`
    medium = _scale(**MEDIUM)
    return {"low": medium, "medium": medium, "high": _scale((0.562, 1.612), (0.416, 1.817))}


def _of_strengths(name: str, strengths: Sequence[float] | Mapping[str, float], source: str) -> dict[str, Compose]:
    """The named transform at the strength of each tier."""
    if name not in NAMES:
        raise refusal(f"transforms{source}", repr(name), f"one of {NAMES}")
    named = isinstance(strengths, Mapping)
    if (
        (named and set(strengths) != set(TIERS))
        or len(strengths) != len(TIERS)
        or not all(0 <= strength < np.inf for strength in (strengths.values() if named else strengths))
    ):
        raise refusal(f"strengths{source}", strengths, f"a number of at least 0 for each of {TIERS}")
    by_tier = strengths if named else dict(zip(TIERS, strengths, strict=True))
    made = {strength: preset(name, strength) for strength in by_tier.values() if strength > 0}  # equal ones run once
    return {tier: made[by_tier[tier]] for tier in TIERS if by_tier[tier] > 0}


def _require_array_transform(transform: object) -> None:
    usable = callable(transform) and not isinstance(transform, MapTransform)
    if not usable:
        raise refusal("transforms", type(transform).__name__, "made of array transforms", TypeError)


def _smooth(image: torch.Tensor, sigma: float) -> torch.Tensor:
    """Gaussian smoothing of ``(C,*S)``, normalised at the border, so that maps that sum to one still do."""
    for axis in range(1, image.ndim):
        index = torch.arange(image.shape[axis], device=image.device, dtype=image.dtype)
        kernel = torch.softmax(-0.5 * ((index[:, None] - index) / sigma) ** 2, dim=1)
        image = (image.movedim(axis, -1) @ kernel.T).movedim(-1, axis)
    return image


class RandTierIntensity(RandomizableTransform):
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
            ``"continuous"`` one T; or one of these names, all for images scaled to [0, 1] (results are clipped to
            [0, 1], or to the image's own range where that is wider):

            - ``"published"``: brightness and contrast as in [1], milder for the high tier; in mode ``"continuous"``
              the linear form: with ``h = H - 3`` (H clipped to [0, 6] bits), brightness from [0.6 + 0.1h, 1.6 - 0.2h]
              and contrast from [0.5 + 0.15h, 1.7 - 0.2h].
            - ``"rich"``: gamma curve, bias field, blur and noise, which instance normalisation cannot undo. Relative
              strength 0.5 for the low tier (a strong change destroys the little that a flat region tells), 1 for
              medium and 0.7 for high (the ratio of the published ranges); in mode ``"continuous"`` strength 1 times
              the weight.
            - ``"cross_contrast"``: as ``"rich"``, with a curve that rises and falls
              (:py:class:`RandIntensityCurve`) instead of the gamma curve: for matching between contrasts, such as
              T1- and T2-weighted images. The curve is the same in all tiers, so that no edge appears between them; in
              mode ``"blend"`` flat regions, of which the shape of the edges is all that is left, get milder blur and
              noise.

        mode: ``"blend"``, ``"anchor"`` or ``"continuous"``.
        prob: probability of any change, in [0, 1].
        sigma: standard deviation in voxels of the Gaussian that smooths the tiers in mode ``"blend"``; 0 keeps hard
            edges.
        information_range: information (low, high) in bits between which the weight ramps in mode ``"continuous"``.
            The default is the published pair of cuts. Not used by the published linear form.
        weights: weight at and below, and at and above the ``information_range``, each in [0, 1]; or a function of
            the information tensor ``(1,*S)`` that returns weights of that shape.
        file: JSON file of ``monai-infoaug calibrate``, read at once. It says which of the named ``transforms`` to take
            and how strong it is in each tier; those given here are then not used. Not for mode ``"continuous"``.
        strengths: of the named ``transforms`` in the (low, medium, high) tier, numbers of at least 0: 0 is no change, 1
            that of the medium tier. Equal ones make the change uniform. Not for mode ``"continuous"``.

    Raises:
        OSError: if ``file`` cannot be read.
        ValueError: for an unknown mode, name or tier, a number out of range, or a faulty ``file``.
        TypeError: for a transform that is not callable, or a dictionary transform.

    References:
        [1] Quan et al., "Information-guided pixel augmentation for pixel-wise contrastive learning", IEEE TMI 44(1),
        2025, arXiv:2211.07118.

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
        transforms: str | Mapping[str, Callable] | Callable = "published",
        mode: str = "blend",
        prob: float = 1.0,
        sigma: float = 4.0,
        information_range: tuple[float, float] = (2.27, 4.35),
        weights: tuple[float, float] | Callable[[torch.Tensor], torch.Tensor] = (1.0, 0.5),
        file: str | os.PathLike | None = None,
        strengths: Sequence[float] | None = None,
    ) -> None:
        if mode not in MODES:
            raise refusal("mode", repr(mode), f"one of {MODES}")
        if not (0 <= prob <= 1):
            raise refusal("prob", prob, "in [0, 1]")
        if not (0 <= sigma < np.inf):
            raise refusal("sigma", sigma, "a number of voxels >= 0")
        in_order = (
            np.shape(information_range) == (2,) and -np.inf < information_range[0] < information_range[1] < np.inf
        )
        if not in_order:
            raise refusal("information_range", information_range, "(low, high) bits, low < high")
        if not callable(weights):
            in_range = np.shape(weights) == (2,) and all(0 <= weight <= 1 for weight in weights)
            if not in_range:
                raise refusal("weights", weights, "two numbers in [0, 1], or a function")
        RandomizableTransform.__init__(self, prob)
        self.mode, self.sigma, self.information_range, self.weights = mode, sigma, information_range, weights
        self.clip = file is not None or isinstance(transforms, str)
        if file is not None:
            if mode == "continuous":
                raise refusal("file", file, "None in mode 'continuous'")
            transforms = _of_strengths(*read_settings(file, "intensity", "transforms", "strengths"), f" in {file}")
        elif strengths is not None:
            if mode == "continuous":
                raise refusal("strengths", strengths, "None in mode 'continuous'")
            if not self.clip:
                raise refusal("strengths", strengths, "None unless `transforms` is a name")
            transforms = _of_strengths(transforms, strengths, "")
        elif self.clip:
            if transforms not in NAMES:
                raise refusal("transforms", repr(transforms), f"one of {NAMES}, or transforms")
            transforms = _named(transforms, mode)
        elif mode == "continuous":
            _require_array_transform(transforms)
        else:
            wanted = f"a dictionary from tier to transform in mode '{mode}'"
            if not isinstance(transforms, Mapping):
                raise refusal("transforms", type(transforms), wanted, TypeError)
            if not (set(transforms) <= set(TIERS)):
                raise refusal("transforms", list(transforms), f"keyed by {TIERS}")
            for transform in transforms.values():
                _require_array_transform(transform)
        self.transforms = transforms
        self._seed, self._factors, self._tier = 0, (0.5, 0.5), None

    def randomize(self, tiers: NdarrayOrTensor | None = None) -> None:
        """Draw whether and how to change; in mode ``"anchor"`` also one of the tiers that are present in ``tiers``."""
        super().randomize(None)
        self._seed = int(self.R.randint(MAX_SEED, dtype="uint32"))
        self._factors = tuple(self.R.uniform(size=2))
        drawn = self.mode == "anchor" and tiers is not None
        self._tier = int(self.R.choice(convert_to_tensor(tiers, track_meta=False).unique().cpu())) if drawn else None

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
        """
        if not isinstance(img, np.ndarray | torch.Tensor):
            raise refusal("img", type(img).__name__, "an array or a tensor", TypeError)
        img = up_to_date(img)
        x = convert_to_tensor(img, track_meta=False)
        if not (x.ndim in (3, 4) and x.numel() > 0):
            raise refusal("img", tuple(x.shape), "a channel-first 2D or 3D image, not empty")
        if x.is_complex():
            raise refusal("img", x.dtype, "real", TypeError)
        dtype = x.dtype if x.is_floating_point() else torch.float32
        x = x if x.dtype == torch.float64 else x.float()  # half precision and integers are computed in float32
        if not all_finite(x):
            raise refusal("img", "NaN or infinity", "finite")
        information, tiers = self._map(information, "information", x), self._map(tiers, "tiers", x)
        if tiers is not None:
            known = sum(tiers == code for code in range(len(TIERS)))
            if not bool(known.all()):
                raise refusal("tiers", "others", "0, 1 or 2")
        if tier is not None and tier not in range(len(TIERS)):
            raise refusal("tier", tier, "0 (low), 1 (medium) or 2 (high)")
        needs, given = {
            "blend": ("tiers", tiers is not None),
            "anchor": ("tiers", tiers is not None or tier is not None),
            "continuous": ("information", information is not None),
        }[self.mode]
        if not given:
            raise refusal(needs, None, f"given in mode '{self.mode}'")
        if randomize:
            self.randomize(tiers if tier is None else None)
        if self._do_transform:
            out = getattr(self, f"_{self.mode}")(x, information, tiers, self._tier if tier is None else int(tier))
            # a crop's own range may be narrow, so the scaled image's [0, 1] is always allowed
            x = out.clamp(min(0.0, float(x.min())), max(1.0, float(x.max()))) if self.clip else out
        return convert_to_dst_type(x.clone(), img, dtype=dtype)[0]

    def _map(self, data: NdarrayOrTensor | None, name: str, x: torch.Tensor) -> torch.Tensor | None:
        if data is None:
            return None
        data = convert_to_tensor(up_to_date(data), track_meta=False, device=x.device)
        wanted = (1, *x.shape[1:])
        if tuple(data.shape) != wanted:
            raise refusal(name, tuple(data.shape), f"of shape {wanted}, as the image")
        if not all_finite(data):
            raise refusal(name, "NaN or infinity", "finite")
        return data

    def _apply(self, transform: Callable, x: torch.Tensor) -> torch.Tensor:
        set_rnd(transform, self._seed)
        out = transform(x.clone())
        single = isinstance(out, np.ndarray | torch.Tensor)
        if not single:
            raise refusal("transforms", f"a {type(out).__name__}", "functions from array to array", TypeError)
        out = convert_to_tensor(out, dtype=x.dtype, device=x.device, track_meta=False)
        if out.shape != x.shape:
            raise refusal("transforms", f"{tuple(x.shape)} -> {tuple(out.shape)}", "intensity transforms")
        return out

    def _blend(self, x: torch.Tensor, information: None, tiers: torch.Tensor, tier: None) -> torch.Tensor:
        out = x
        for transform in dict.fromkeys(self.transforms.values()):  # one that serves several tiers runs once
            codes = [code for code, name in enumerate(TIERS) if self.transforms.get(name) is transform]
            member = sum(tiers == code for code in codes)
            if member.any():
                weight = _smooth(member.to(x), self.sigma) if self.sigma > 0 else member.to(x)
                out = out.addcmul(weight, self._apply(transform, x) - x)
        return out

    def _anchor(self, x: torch.Tensor, information: None, tiers: None, tier: int) -> torch.Tensor:
        transform = self.transforms.get(TIERS[tier])
        return x if transform is None else self._apply(transform, x)

    def _continuous(self, x: torch.Tensor, information: torch.Tensor, tiers: None, tier: None) -> torch.Tensor:
        information = information.to(x.dtype)
        if self.transforms is None:
            return self._linear(x, information)
        if callable(self.weights):
            weight = self._map(self.weights(information), "weights", x)
        else:
            (low, high), (first, last) = self.information_range, self.weights
            weight = first + (last - first) * ((information - low) / (high - low)).clamp(0, 1)
        return x + weight * (self._apply(self.transforms, x) - x)

    def _linear(self, x: torch.Tensor, information: torch.Tensor) -> torch.Tensor:
        h = information.clamp(0, 6) - 3  # a little above 6 bits the ranges meet
        brightness, contrast = self._factors
        x = x * torch.lerp(0.6 + 0.1 * h, 1.6 - 0.2 * h, brightness)
        return x.mean() + torch.lerp(0.5 + 0.15 * h, 1.7 - 0.2 * h, contrast) * (x - x.mean())


class RandTierIntensityd(RandomizableTransform, MapTransform):
    """Dictionary version of :py:class:`RandTierIntensity`: one draw for all keys; labels and other keys are left alone.

    Args:
        keys: keys of the images to change.
        information_key: key of the information map ``(1,*S)``, in bits; read in mode ``"continuous"``.
        tiers_key: key of the tiers ``(1,*S)``; read in the modes ``"blend"`` and ``"anchor"``.
        transforms: see :py:class:`RandTierIntensity`, like the next seven.
        mode: ``"blend"``, ``"anchor"`` or ``"continuous"``.
        prob: probability of any change.
        sigma: smoothing of the tiers in voxels.
        information_range: information (low, high) in bits between which the weight ramps.
        weights: weights at its two ends, or a function.
        file: of ``monai-infoaug calibrate``.
        strengths: of the named transforms in each tier.
        allow_missing_keys: skip missing ``keys``. The information or tiers key may never miss.

    Raises:
        KeyError: if a key is missing.

    See Also:
        :py:class:`RandTierIntensity`

    Example:
        >>> import torch
        >>> item = {"image": torch.rand(1, 32, 32), "tiers": torch.randint(0, 3, (1, 32, 32)), "label": 1}
        >>> out = RandTierIntensityd("image", transforms="rich").set_random_state(seed=0)(item)
        >>> out["image"].shape, out["label"]
        (torch.Size([1, 32, 32]), 1)
    """

    backend = RandTierIntensity.backend

    def __init__(
        self,
        keys: KeysCollection,
        information_key: Hashable = "information",
        tiers_key: Hashable = "tiers",
        transforms: str | Mapping[str, Callable] | Callable = "published",
        mode: str = "blend",
        prob: float = 1.0,
        sigma: float = 4.0,
        information_range: tuple[float, float] = (2.27, 4.35),
        weights: tuple[float, float] | Callable[[torch.Tensor], torch.Tensor] = (1.0, 0.5),
        file: str | os.PathLike | None = None,
        strengths: Sequence[float] | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)
        self.intensity = RandTierIntensity(transforms, mode, prob, sigma, information_range, weights, file, strengths)
        self.map = ("information", information_key) if mode == "continuous" else ("tiers", tiers_key)

    def set_random_state(
        self, seed: int | None = None, state: np.random.RandomState | None = None
    ) -> RandTierIntensityd:
        super().set_random_state(seed, state)
        self.intensity.set_random_state(seed, state)
        return self

    def __call__(self, data: Mapping[Hashable, NdarrayOrTensor]) -> dict[Hashable, NdarrayOrTensor]:
        """Change the images of a dictionary of channel-first arrays; see :py:meth:`RandTierIntensity.__call__`."""
        out = dict(data)
        name, map_key = self.map
        if map_key not in out:
            raise KeyError(f"Key `{map_key}` of transform `{type(self).__name__}` was missing in the data.")
        guide = {name: up_to_date(out[map_key])}
        self.intensity.randomize(guide.get("tiers"))
        for key in self.key_iterator(out):
            out[key] = self.intensity(out[key], **guide, randomize=False)
        return out


RandTierIntensityD = RandTierIntensityDict = RandTierIntensityd
