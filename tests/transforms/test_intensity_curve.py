from __future__ import annotations

import numpy as np
import pytest
import torch

from monai_infoaug.transforms import RandIntensityCurve, RandIntensityCurved


@pytest.mark.parametrize("knots", [2, 3, 6])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_is_linear_between_the_knots(knots, dtype):
    image = torch.rand(2, 9, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    curve = RandIntensityCurve(knots, prob=1.0).set_random_state(3)
    got = curve(image)
    places = np.linspace(0, 1, knots)
    heights = curve(torch.from_numpy(places)[None], randomize=False)[0].numpy()
    assert got.dtype == dtype
    assert heights[0] == 0
    assert heights.max() == 1
    assert heights.min() >= 0
    expected = np.interp(image.double(), places, heights)
    np.testing.assert_allclose(got.double(), expected, atol=2e-3 if dtype == torch.float16 else 1e-6)


def test_falls_as_often_as_it_rises_and_draws_differ():
    curve, ramp = RandIntensityCurve(prob=1.0).set_random_state(0), torch.linspace(0, 1, 6, dtype=torch.float64)[None]
    steps = np.concatenate([np.diff(curve(ramp)[0, 1:]) for _ in range(200)])
    assert 0.4 < (steps > 0).mean() < 0.6
    assert len(np.unique(steps)) > 700


def test_two_knots_and_no_probability_change_nothing():
    image = torch.rand(1, 5, 5)
    for unchanged in (RandIntensityCurve(knots=2, prob=1.0), RandIntensityCurve(prob=0.0)):
        torch.testing.assert_close(unchanged(image), image)


def test_values_outside_are_clipped():
    curve = RandIntensityCurve(prob=1.0).set_random_state(0)
    out = curve(torch.tensor([[-3.0, 0, 1, 7]]))
    assert out[0, 0] == out[0, 1] == 0
    assert out[0, 2] == out[0, 3]


def test_one_curve_for_all_keys():
    image = torch.rand(1, 6, 6)
    out = RandIntensityCurved(["a", "b"], prob=1.0).set_random_state(1)({"a": image, "b": image})
    assert torch.equal(out["a"], out["b"])
    assert not torch.equal(out["a"], image)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"knots": 1}, "`knots` must be a whole number of at least 2"),
        ({"knots": 2.5}, "`knots` must be"),
        ({"knots": "6"}, "`knots` must be"),
        ({"prob": 2}, r"`prob` must be in \[0, 1\]"),
        ({"prob": None}, "`prob` must be"),
        ({"prob": True}, "`prob` must be"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        RandIntensityCurve(**settings)


def test_bad_image():
    with pytest.raises(ValueError, match="`img` must be finite"):
        RandIntensityCurve(prob=1.0)(torch.full((1, 4, 4), torch.nan))


@pytest.mark.parametrize("shape", [(0,), (5,), (1, 0, 4), (0, 4, 4)])
def test_image_without_pixels_or_channels(shape):
    with pytest.raises(ValueError, match=r"`img` must be of shape \(C, \*S\), not empty, got shape"):
        RandIntensityCurve(prob=1.0)(torch.zeros(shape))


def test_one_pixel():
    assert RandIntensityCurve(prob=1.0).set_random_state(0)(torch.zeros(1, 1, 1)).tolist() == [[[0.0]]]
