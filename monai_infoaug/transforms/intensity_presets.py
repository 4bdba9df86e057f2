"""Random intensity changes that go by a name, for images scaled to [0, 1]."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from monai.transforms import (
    Compose,
    RandAdjustContrast,
    RandBiasField,
    RandGaussianNoise,
    RandGaussianSmooth,
    RandScaleIntensity,
    RandScaleIntensityFixedMean,
)

from monai_infoaug._require import is_number, refusal
from monai_infoaug.information.tiers import TIERS
from monai_infoaug.transforms.intensity_curve import RandIntensityCurve

__all__ = ["INTENSITY_PRESETS", "intensity_preset"]

TIER_STRENGTHS = (0.5, 1.0, 0.7)  # the ratio of medium and high is that of the published ranges
MOST = 100  # strength, whose powers do not overflow
MEDIUM = {"brightness": (0.505, 1.997), "contrast": (0.340, 2.329)}  # published factors
HIGH = {"brightness": (0.562, 1.612), "contrast": (0.416, 1.817)}


def _published(strength: float) -> Compose:
    """The published factors of brightness and contrast, raised to the power ``strength``."""
    return _scale(**{name: (low**strength, high**strength) for name, (low, high) in MEDIUM.items()})


def _rich(strength: float) -> Compose:
    """Gamma curve, bias field, blur and noise."""
    return _softened(RandAdjustContrast(gamma=(0.6**strength, 1.8**strength), prob=1.0), strength)


def _cross_contrast(strength: float) -> Compose:
    """As rich, with a curve that rises and falls, the same at every strength."""
    return _softened(RandIntensityCurve(knots=5, prob=1.0), strength)


INTENSITY_PRESETS: dict[str, Callable[[float], Compose]] = {  # a line a preset; all else takes the names from here
    "published": _published,
    "rich": _rich,
    "cross_contrast": _cross_contrast,
}


def intensity_preset(name: str, strength: float = 1.0) -> Compose:
    """The random intensity change that goes by a name; :py:class:`RandTierIntensity` gives each tier its strength.

    Args:
        name: one of ``INTENSITY_PRESETS``, all for images scaled to [0, 1], which need not stay in it:

            - ``"published"``: brightness and contrast by the factors of [1], raised to the power ``strength``.
            - ``"rich"``: gamma curve, bias field, blur and noise, which instance normalisation cannot undo.
            - ``"cross_contrast"``: as ``"rich"``, with a curve that rises and falls (:py:class:`RandIntensityCurve`)
              instead of the gamma curve: for matching between contrasts, such as T1- and T2-weighted images. The curve
              is the same at every strength.

        strength: above 0, at most 100; 1 is that of the medium tier.

    Returns:
        An array transform.

    Raises:
        ValueError: for an unknown name or a strength that is not above 0.

    References:
        [1] Quan et al., "IGU-Aug: information-guided unsupervised augmentation and pixel-wise contrastive learning for
        medical image analysis", IEEE TMI 44(1):154-164, 2025, arXiv:2211.07118.

    Example:
        >>> import torch
        >>> mild = intensity_preset("rich", strength=0.3).set_random_state(seed=0)
        >>> mild(torch.rand(1, 16, 16)).shape
        torch.Size([1, 16, 16])
    """
    require_preset(name, "name")
    if not is_number(strength, most=MOST) or strength <= 0:
        raise refusal("strength", strength, f"a number above 0, at most {MOST}")
    return INTENSITY_PRESETS[name](strength)


def require_preset(name: object, argument: str) -> None:
    """Refuse what is no name of a preset, called ``argument`` in the error.

    Raises:
        ValueError: naming it.
    """
    if not isinstance(name, str) or name not in INTENSITY_PRESETS:
        raise refusal(argument, repr(name), f"one of {tuple(INTENSITY_PRESETS)}")


def preset_by_tier(name: str, strengths: Mapping[str, float] | None = None) -> dict[str, Compose]:
    """The change of each tier, without those of strength 0.

    Args:
        name: that of a preset.
        strengths: number of at least 0 for each tier. None: ``TIER_STRENGTHS``, or what is published where it is.

    Returns:
        Transform of each tier, one object where strengths are equal, so that it can run once.
    """
    if strengths is None and name == "published":
        medium = intensity_preset(name)
        return {"low": medium, "medium": medium, "high": _scale(**HIGH)}
    by_tier = dict(zip(TIERS, TIER_STRENGTHS, strict=True)) if strengths is None else strengths
    made = {strength: intensity_preset(name, strength) for strength in by_tier.values() if strength > 0}
    return {tier: made[by_tier[tier]] for tier in TIERS if by_tier[tier] > 0}


def _scale(brightness: tuple[float, float], contrast: tuple[float, float]) -> Compose:
    """Multiply by a factor from ``brightness``, then scale around the mean by one from ``contrast``."""
    low_b, high_b, low_c, high_c = (factor - 1 for factor in (*brightness, *contrast))  # MONAI scales by 1 + factor
    return Compose(
        [
            RandScaleIntensity(factors=(low_b, high_b), prob=1.0),
            RandScaleIntensityFixedMean(factors=(low_c, high_c), prob=1.0),
        ]
    )


def _softened(curve: Callable, strength: float) -> Compose:
    """A grey-level curve, then bias field, blur and noise."""
    sigma = (min(0.25, 1.5 * strength), 1.5 * strength)
    return Compose(
        [
            curve,
            RandBiasField(coeff_range=(-0.1 * strength, 0.1 * strength), prob=0.5),
            RandGaussianSmooth(sigma_x=sigma, sigma_y=sigma, sigma_z=sigma, prob=0.5),
            RandGaussianNoise(std=0.05 * strength, prob=0.5),
        ]
    )
