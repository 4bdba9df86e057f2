from __future__ import annotations

import pytest
import torch
from monai.transforms import Compose, RandGaussianNoise

from monai_infoaug.transforms import INTENSITY_PRESETS, RandTierIntensity, intensity_preset

IMAGE = 0.2 + 0.6 * torch.rand(2, 14, 11, generator=torch.Generator().manual_seed(0))
TIERS = torch.arange(3).repeat(14 * 11)[: 14 * 11].reshape(1, 14, 11)


@pytest.mark.parametrize("name", INTENSITY_PRESETS)
@pytest.mark.parametrize("shape", [(14, 11), (7, 6, 5)])
def test_a_preset_is_a_random_array_transform(name, shape):
    image = torch.rand(2, *shape)
    change = intensity_preset(name)
    first, second = change.set_random_state(0)(image), change(image)
    assert first.shape == image.shape
    assert first.isfinite().all()
    assert not torch.equal(first, second)
    assert torch.equal(intensity_preset(name, 1).set_random_state(0)(image), first)


@pytest.mark.parametrize("name", ["published", "rich"])
def test_a_preset_changes_more_as_its_strength_grows(name):
    means = []
    for strength in (0.01, 0.1, 0.5, 1, 2):
        change = intensity_preset(name, strength)
        shifts = [(change.set_random_state(seed)(IMAGE) - IMAGE).abs().mean() for seed in range(30)]
        means.append(float(torch.stack(shifts).mean()))
    assert means == sorted(means)
    assert means[0] < 0.01
    assert means[-1] > 0.1


@pytest.mark.parametrize(
    ("name", "strength", "message"),
    [
        ("strong", 1, r"`name` must be one of \('published', 'rich', 'cross_contrast'\), got 'strong'"),
        (["rich"], 1, "`name` must be one of"),
        ("rich", 0, "`strength` must be a number above 0, at most 100, got 0"),
        ("rich", float("inf"), "`strength` must be"),
        ("rich", "1", "`strength` must be"),
    ],
)
def test_bad_input(name, strength, message):
    with pytest.raises(ValueError, match=message):
        intensity_preset(name, strength)


def test_a_line_in_the_table_is_all_that_a_new_preset_takes(monkeypatch):
    def noisy(strength):
        return Compose([RandGaussianNoise(std=0.1 * strength, prob=1.0)])

    monkeypatch.setitem(INTENSITY_PRESETS, "noisy", noisy)
    for mode in ("blend", "anchor", "continuous"):
        named = RandTierIntensity("noisy", mode).set_random_state(1)
        by_hand = noisy(1.0) if mode == "continuous" else {"low": noisy(0.5), "medium": noisy(1.0), "high": noisy(0.7)}
        expected = RandTierIntensity(by_hand, mode).set_random_state(1)
        given = {"information": 2.0 * TIERS, "tiers": TIERS}
        assert torch.equal(named(IMAGE, **given), expected(IMAGE, **given).clamp(0, 1))
    with pytest.raises(ValueError, match="'noisy'"):
        RandTierIntensity("other")
