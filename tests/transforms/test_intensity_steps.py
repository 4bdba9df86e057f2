"""MONAI's intensity transforms in steps, against MONAI's own calls from the same seed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data.utils import set_rnd
from monai.transforms import (
    Compose,
    RandAdjustContrast,
    RandBiasField,
    RandGaussianNoise,
    RandGaussianSmooth,
    RandScaleIntensity,
    RandScaleIntensityFixedMean,
    RandShiftIntensity,
)

from monai_infoaug.transforms import INTENSITY_PRESETS, RandIntensityCurve, RandTierIntensity, _twins, intensity_preset
from monai_infoaug.transforms._intensity_steps import changed_by, draw_steps
from tests.transforms.coordinate_maps import needs_numba

SHAPES = [(2, 33, 40), (1, 9, 8, 11)]


def image_of(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(dtype)


def by_monai(chain, seed: int, image: torch.Tensor) -> torch.Tensor:
    set_rnd(chain, seed)
    return torch.as_tensor(chain(image.clone())).as_subclass(torch.Tensor).to(image.dtype)


CHAINS = {
    "gamma": lambda: RandAdjustContrast(1.0, (0.4, 2.5)),
    "bias": lambda: RandBiasField(degree=2, coeff_range=(-0.2, 0.4), prob=1.0),
    "blur": lambda: RandGaussianSmooth((0.2, 1.5), (0.2, 3), (0.5, 1), prob=1.0, approx="sampled"),
    "noise": lambda: RandGaussianNoise(1.0, mean=0.2, std=0.1, sample_std=False),
    "scale": lambda: RandScaleIntensity((-0.5, 0.5), 1.0),
    "contrast": lambda: RandScaleIntensityFixedMean(1.0, (-0.9, 0.5)),
    "curve": lambda: RandIntensityCurve(4, 1.0),
    "perhaps": lambda: Compose([CHAINS["gamma"](), RandGaussianNoise(0.5), RandBiasField(prob=0.5)]),
}


@pytest.mark.parametrize("compiled", [pytest.param(True, marks=needs_numba), False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", [*CHAINS, *INTENSITY_PRESETS])
def test_steps_do_what_monai_does_with_the_same_draws(name, shape, dtype, compiled, monkeypatch):
    if not compiled:
        monkeypatch.setattr(_twins, "_twin", lambda name: None)
    makes = [CHAINS[name]] * 2 if name in CHAINS else [lambda s=s: intensity_preset(name, s) for s in (0.3, 1.6)]
    image = image_of(shape, dtype)
    for seed in range(6):
        chains = [make() for make in makes]
        assert None not in draw_steps(chains, seed, image)
        for changed, chain in zip(changed_by(chains, seed, image), chains, strict=True):
            assert changed.dtype == dtype
            torch.testing.assert_close(changed, by_monai(chain, seed, image), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "chain",
    [
        RandShiftIntensity(0.1, prob=1.0),
        RandScaleIntensity(0.5, 1.0, channel_wise=True),
        RandAdjustContrast(1.0, retain_stats=True),
        Compose([RandGaussianNoise(1.0), RandShiftIntensity(0.1, prob=1.0)]),
        lambda x: x + 1,
    ],
)
def test_what_is_not_known_runs_itself(chain):
    image = image_of(SHAPES[0])
    assert draw_steps([chain], 3, image) == [None]
    assert torch.equal(next(changed_by([chain], 3, image)), by_monai(chain, 3, image))


def test_chains_of_several_strengths_share_the_noise():
    image = image_of((1, 40, 50))
    chains = [Compose([RandGaussianNoise(1.0, std=std)]) for std in (0.1, 0.3)]
    one, other = (changed - image for changed in changed_by(chains, 5, image))
    torch.testing.assert_close(3 * one, other, atol=1e-5, rtol=0)


@pytest.mark.parametrize("mode", ["blend", "anchor", "continuous"])
@pytest.mark.parametrize("name", ["rich", "cross_contrast"])
def test_tiers_change_as_they_do_by_monai(name, mode, monkeypatch):
    image, generator = image_of((1, 48, 40)), torch.Generator().manual_seed(1)
    maps = {
        "tiers": torch.randint(0, 3, (1, 48, 40), generator=generator),
        "information": 6 * torch.rand(1, 48, 40, generator=generator),
    }
    intensity = RandTierIntensity(name, mode)
    steps = [intensity.set_random_state(seed)(image, **maps) for seed in range(8)]
    monkeypatch.setattr("monai_infoaug.transforms._intensity_steps.READERS", {})
    for seed, changed in enumerate(steps):
        torch.testing.assert_close(intensity.set_random_state(seed)(image, **maps), changed, atol=1e-5, rtol=0)
    assert np.std([float(changed.std()) for changed in steps]) > 0.01
