from __future__ import annotations

import copy
import json
import pickle
from itertools import product

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import (
    Compose,
    OneOf,
    RandAdjustContrast,
    RandBiasField,
    RandFlip,
    RandGaussianNoise,
    RandGaussianNoised,
    RandScaleIntensity,
    Rotated,
)

from monai_infoaug.transforms import RandTierIntensity, RandTierIntensityd, intensity_preset

SHAPES = [(14, 11), (7, 6, 5)]
PLAIN = {"low": lambda x: 2 * x, "medium": lambda x: x + 3, "high": lambda x: -x}  # tiers 0, 1, 2


def draw(shape, channels=2, seed=0):
    """Image in [0.2, 0.8], information in bits and tiers."""
    generator = torch.Generator().manual_seed(seed)
    image = 0.2 + 0.6 * torch.rand(channels, *shape, generator=generator)
    return image, 5 * torch.rand(1, *shape, generator=generator), torch.randint(0, 3, (1, *shape), generator=generator)


def oracle_weights(tiers: np.ndarray, sigma: float) -> np.ndarray:
    """Weight of each tier at each voxel: the Gaussian share of the image's voxels that are of the tier."""
    positions = list(np.ndindex(tiers.shape))
    weights = np.zeros((3, *tiers.shape))
    for centre in positions:
        for other in positions:
            weights[(tiers[other], *centre)] += np.exp(-np.sum(np.subtract(centre, other) ** 2) / (2 * sigma**2))
    return weights / weights.sum(0)


@pytest.mark.parametrize(("shape", "sigma"), list(product([(9, 7), (5, 4, 3)], [0.8, 3.0])))
def test_blend_is_the_weighted_sum(shape, sigma):
    image, _, tiers = draw(shape)
    weights = torch.from_numpy(oracle_weights(tiers[0].numpy(), sigma))
    expected = sum(weights[k] * change(image) for k, change in enumerate(PLAIN.values()))
    got = RandTierIntensity(PLAIN, sigma=sigma)(image, tiers=tiers)
    torch.testing.assert_close(got.double(), expected, atol=1e-5, rtol=0)


def test_blend_without_smoothing_keeps_hard_edges():
    image, _, tiers = draw((14, 11))
    got = RandTierIntensity(PLAIN, sigma=0)(image, tiers=tiers)
    expected = torch.where(tiers == 0, 2 * image, torch.where(tiers == 1, image + 3, -image))
    torch.testing.assert_close(got, expected)


def test_blend_leaves_no_seam():
    image, tiers = torch.ones(1, 40, 40), torch.zeros(1, 40, 40, dtype=torch.uint8)
    tiers[:, 20:] = 2
    steps = {s: RandTierIntensity({"high": lambda x: 2 * x}, sigma=s)(image, tiers=tiers).diff(dim=1) for s in (0, 4.0)}
    assert steps[0].max() == 1
    assert steps[4.0].max() <= 1.01 / (4 * (2 * np.pi) ** 0.5)  # the slope of a Gaussian's integral
    assert steps[4.0].min() >= -1e-6


@pytest.mark.parametrize("shape", SHAPES)
def test_equal_transforms_in_all_tiers_are_one_transform(shape):
    image, _, tiers = draw(shape)
    chain = Compose([RandGaussianNoise(prob=1.0), OneOf([RandBiasField(prob=1.0), RandAdjustContrast(prob=1.0)])])
    transforms = {name: copy.deepcopy(chain) for name in ("low", "medium", "high")}
    intensity = RandTierIntensity(transforms).set_random_state(seed=3)
    got = intensity(image, tiers=tiers)
    torch.testing.assert_close(got, chain.set_random_state(seed=intensity._seed)(image).as_tensor())
    torch.testing.assert_close(
        RandTierIntensity(dict.fromkeys(transforms, chain)).set_random_state(3)(image, None, tiers), got
    )


@pytest.mark.parametrize("mode", ["blend", "anchor"])
def test_tiers_without_transform_stay(mode):
    image, _, tiers = draw((14, 11))
    intensity = RandTierIntensity({"medium": lambda x: x + 1}, mode=mode)
    assert torch.equal(intensity(image, tiers=torch.zeros_like(tiers)), image)
    torch.testing.assert_close(intensity(image, tiers=torch.ones_like(tiers)), image + 1)


def test_anchor_takes_the_given_tier_for_the_whole_image():
    image, _, tiers = draw((14, 11))
    for tier, change in enumerate(PLAIN.values()):
        torch.testing.assert_close(RandTierIntensity(PLAIN, mode="anchor")(image, tier=tier), change(image))
        torch.testing.assert_close(RandTierIntensity(PLAIN, mode="anchor")(image, None, tiers, tier), change(image))


def test_anchor_draws_among_the_tiers_present():
    image, _, tiers = draw((14, 11))
    tiers = torch.where(tiers == 1, 2, tiers)
    intensity = RandTierIntensity(PLAIN, mode="anchor").set_random_state(seed=0)
    signs = [float(intensity(image, tiers=tiers).sum() / image.sum()) for _ in range(40)]
    assert {round(sign) for sign in signs} == {2, -1}


@pytest.mark.parametrize("weights", [(1.0, 0.25), (0.0, 0.8)])
def test_continuous_ramps_with_information(weights):
    image, information, _ = draw((7, 6, 5))
    intensity = RandTierIntensity(lambda x: x + 1, "continuous", information_range=(1.5, 3.5), weights=weights)
    expected = np.interp(information.numpy(), (1.5, 3.5), weights)
    np.testing.assert_allclose(intensity(image, information) - image, expected.repeat(2, 0), atol=1e-5)


def test_continuous_takes_a_function():
    image, information, _ = draw((14, 11))
    intensity = RandTierIntensity(lambda x: x + 1, "continuous", weights=lambda bits: bits / 10)
    torch.testing.assert_close(intensity(image, information), image + information / 10)
    with pytest.raises(ValueError, match="`weights` must be of shape"):
        RandTierIntensity(lambda x: x, "continuous", weights=lambda bits: bits.mean())(image, information)


def factors(intensity, draws=150, **given):
    """Brightness and contrast factors of repeated draws, read from a dim image that no clipping touches."""
    image = 0.1 + 0.01 * torch.linspace(-1, 1, 144).reshape(1, 12, 12)
    intensity.set_random_state(seed=0)
    changed = [intensity(image, **given) for _ in range(draws)]
    brightness = torch.stack([y.mean() / image.mean() for y in changed])
    return brightness, torch.stack([y.std() / image.std() for y in changed]) / brightness


def assert_spans(values, low, high):
    assert low - 1e-4 <= values.min() < low + 0.1 * (high - low)
    assert high + 1e-4 >= values.max() > high - 0.1 * (high - low)


@pytest.mark.parametrize("tier", [0, 1, 2])
@pytest.mark.parametrize("mode", ["blend", "anchor"])
def test_published_ranges(mode, tier):
    given = {"tiers": torch.full((1, 12, 12), tier)}
    brightness, contrast = factors(RandTierIntensity("published", mode), **given)
    assert_spans(brightness, *((0.562, 1.612) if tier == 2 else (0.505, 1.997)))
    assert_spans(contrast, *((0.416, 1.817) if tier == 2 else (0.340, 2.329)))
    assert abs(np.corrcoef(brightness, contrast)[0, 1]) < 0.3


@pytest.mark.parametrize("bits", [0.0, 2.0, 4.5, 8.0])
def test_published_linear_form(bits):
    x = min(bits, 6) - 3
    brightness, contrast = factors(RandTierIntensity(mode="continuous"), information=torch.full((1, 12, 12), bits))
    assert_spans(brightness, 0.6 + 0.1 * x, 1.6 - 0.2 * x)
    assert_spans(contrast, 0.5 + 0.15 * x, 1.7 - 0.2 * x)


@pytest.mark.parametrize("name", ["published", "rich"])
@pytest.mark.parametrize("mode", ["blend", "anchor", "continuous"])
def test_named_sets_stay_in_range_and_change_something(name, mode):
    image, information, tiers = draw((14, 11))
    intensity = RandTierIntensity(name, mode).set_random_state(seed=1)
    outs = torch.stack([intensity(image, information, tiers) for _ in range(10)])
    assert outs.min() >= 0
    assert outs.max() <= 1
    assert ((outs - image).abs().flatten(1).amax(1) > 0.01).all()
    wide = intensity(image * 300 - 100, information, tiers)  # not scaled: its own range instead
    assert wide.min() >= (image * 300 - 100).min()
    assert wide.max() <= (image * 300 - 100).max()
    assert wide.max() > 1


def test_rich_is_mildest_for_the_low_tier():
    image, _, _ = draw((14, 11))
    intensity = RandTierIntensity("rich", mode="anchor")
    change = []
    for tier in range(3):
        intensity.set_random_state(seed=0)
        change.append(sum(float((intensity(image, tier=tier) - image).abs().mean()) for _ in range(30)))
    assert change[0] < change[2] < change[1]


@pytest.mark.parametrize("mode", ["blend", "anchor", "continuous"])
@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor, MetaTensor])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "float16", "float32", "float64"])
def test_kinds_and_dtypes(mode, kind, dtype):
    image, information, tiers = draw((6, 5, 4))
    image = kind((image * 200).numpy().astype(dtype))
    information, tiers = kind(information.numpy()), kind(tiers.numpy().astype(np.uint8))
    before = copy.deepcopy((image, information, tiers))
    for prob in (0.0, 1.0):
        out = RandTierIntensity(mode=mode, prob=prob).set_random_state(seed=2)(image, information, tiers)
        assert type(out) is type(image)
        assert out.shape == image.shape
        assert str(out.dtype).removeprefix("torch.") == (dtype if dtype.startswith("float") else "float32")
        assert np.array_equal(np.asarray(out), np.asarray(image)) == (prob == 0)
        out[:] = 0  # the result is its own memory
        for a, b in zip(before, (image, information, tiers), strict=True):
            np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_metadata_is_kept():
    image, _, tiers = draw((14, 11))
    affine = torch.diag(torch.tensor([0.3, 0.5, 1.0], dtype=torch.float64))
    image = MetaTensor(image, affine=affine, meta={"filename_or_obj": "a.png"})
    out = RandTierIntensity()(image, tiers=tiers)
    assert torch.equal(out.affine, affine)
    assert out.meta["filename_or_obj"] == "a.png"
    assert out.applied_operations == image.applied_operations


def test_transforms_that_write_in_place_do_no_harm():
    image, _, tiers = draw((14, 11))
    before = image.clone()
    torch.testing.assert_close(
        RandTierIntensity({"low": lambda x: x.mul_(2)}, sigma=0)(image, None, 0 * tiers), 2 * image
    )
    assert torch.equal(image, before)


@pytest.mark.parametrize("mode", ["blend", "anchor", "continuous"])
@pytest.mark.parametrize("name", ["published", "rich"])
def test_randomness_comes_from_the_own_state_alone(mode, name):
    image, information, tiers = draw((14, 11))

    def run(intensity, seed=5):
        intensity.set_random_state(seed=seed)
        return torch.stack([intensity(image, information, tiers) for _ in range(2)])

    intensity = RandTierIntensity(name, mode)
    np.random.seed(1)
    first = run(intensity)
    state = np.random.get_state()[1].copy()
    torch.manual_seed(9)
    assert torch.equal(run(intensity), first)
    assert torch.equal(run(pickle.loads(pickle.dumps(intensity))), first)
    assert torch.equal(run(copy.deepcopy(intensity)), first)
    assert np.array_equal(np.random.get_state()[1], state)
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(run(intensity, seed=6), first)


def test_randomize_false_repeats_the_draw():
    image, _, tiers = draw((14, 11))
    intensity = RandTierIntensity("rich")
    assert torch.equal(intensity(image, tiers=tiers), intensity(image, tiers=tiers, randomize=False))


def test_prob():
    image, _, tiers = draw((6, 5))
    intensity = RandTierIntensity(PLAIN, prob=0.3).set_random_state(seed=0)
    changed = sum(not torch.equal(intensity(image, tiers=tiers), image) for _ in range(200))
    assert 40 < changed < 80


def test_half_of_the_images_of_a_supervised_training_stay_as_they_are():
    image, _, tiers = draw((6, 5))
    item, intensity = {"image": image, "tiers": tiers}, RandTierIntensityd("image", transforms="rich")
    intensity.set_random_state(seed=0)
    changed = sum(not torch.equal(intensity(item)["image"], image) for _ in range(200))
    assert 80 < changed < 120


@pytest.mark.parametrize("mode", ["blend", "anchor", "continuous"])
def test_dictionary_shares_one_draw(mode):
    image, information, tiers = draw((14, 11))
    item = {"image": image, "other": image.clone(), "label": tiers, "information": information, "tiers": tiers}
    intensity = RandTierIntensityd(["image", "other"], mode=mode, prob=1.0).set_random_state(seed=0)
    out = intensity(item)
    assert torch.equal(out["image"], out["other"])
    assert not torch.equal(out["image"], image)
    assert item["image"] is image
    assert out["label"] is tiers
    assert out["tiers"] is tiers
    assert not torch.equal(intensity(item)["image"], out["image"])
    assert torch.equal(intensity.set_random_state(seed=0)(item)["image"], out["image"])


def test_dictionary_keys():
    image, information, tiers = draw((14, 11))
    with pytest.raises(KeyError, match="tiers"):
        RandTierIntensityd("image")({"image": image, "information": information})
    with pytest.raises(KeyError, match="bits"):
        RandTierIntensityd("image", "bits", mode="continuous")({"image": image, "tiers": tiers})
    with pytest.raises(KeyError, match="other"):
        RandTierIntensityd(["image", "other"], tiers_key="t")({"image": image, "t": tiers})
    out = RandTierIntensityd(["image", "other"], tiers_key="t", prob=1.0, allow_missing_keys=True)(
        {"image": image, "t": tiers}
    )
    assert set(out) == {"image", "t"}


def test_pending_operations_are_applied_first():
    image, information, _ = draw((14, 14))
    item = {"image": MetaTensor(image), "information": MetaTensor(information)}
    rotate, intensity = (
        Rotated(["image", "information"], angle=0.4),
        RandTierIntensityd("image", mode="continuous", prob=1.0),
    )

    def chain(lazy):
        return Compose([rotate, intensity], lazy=lazy).set_random_state(seed=0)(item)["image"].as_tensor()

    torch.testing.assert_close(chain(lazy=True), chain(lazy=False))
    pending = rotate(item, lazy=True)
    direct, expected = (intensity.set_random_state(seed=0)(x)["image"] for x in (pending, rotate(item)))
    torch.testing.assert_close(direct.as_tensor(), expected.as_tensor())
    assert pending["image"].pending_operations
    assert not direct.pending_operations


IMAGE, INFORMATION, TIERS = draw((14, 11))
NAN = torch.full_like(IMAGE, torch.nan)
DICTIONARY, SMALLER, LISTED = RandGaussianNoised("image"), lambda x: x[:, 1:], lambda x: [x]


@pytest.mark.parametrize(
    ("error", "message", "make"),
    [
        (ValueError, "`mode` must be one of .*blend.*got 'mix'", lambda: RandTierIntensity(mode="mix")),
        (ValueError, "`transforms` must be one of .*published.*got 'strong'", lambda: RandTierIntensity("strong")),
        (ValueError, "`transforms` must be keyed by .*low.*middle", lambda: RandTierIntensity({"middle": abs})),
        (TypeError, "`transforms` must be a dictionary", lambda: RandTierIntensity(RandScaleIntensity(0.1))),
        (TypeError, "`transforms` must be made of array", lambda: RandTierIntensity({"low": 3})),
        (TypeError, "`transforms` must be made of array", lambda: RandTierIntensity({"low": DICTIONARY})),
        (TypeError, "`transforms` must be made of array", lambda: RandTierIntensity({"low": abs}, mode="continuous")),
        (ValueError, "`prob` must be in", lambda: RandTierIntensity(prob=1.5)),
        (ValueError, "`sigma` must be", lambda: RandTierIntensity(sigma=-1)),
        (ValueError, "`information_range` must be", lambda: RandTierIntensity(information_range=(4, 2))),
        (ValueError, "`information_range` must be", lambda: RandTierIntensity(information_range=None)),
        (ValueError, "`weights` must be", lambda: RandTierIntensity(weights=(0.5, 2.0))),
        (ValueError, "`weights` must be", lambda: RandTierIntensity(weights=0.5)),
        (ValueError, "`weights` must be", lambda: RandTierIntensity(weights=((1, 0), 1))),
        (ValueError, "`prob` must be in", lambda: RandTierIntensity(prob="1")),
        (ValueError, "`sigma` must be", lambda: RandTierIntensity(sigma=float("nan"))),
        (ValueError, "`sigma` must be", lambda: RandTierIntensity(sigma=None)),
        (ValueError, "`information_range` must be", lambda: RandTierIntensity(information_range=("1", "2"))),
        (ValueError, "`information_range` must be", lambda: RandTierIntensity(information_range=(2, 2))),
        (TypeError, "`img` must be a NumPy array", lambda: RandTierIntensity()([1.0], tiers=TIERS)),
        (ValueError, "`tiers` must be given in mode 'blend', got N", lambda: RandTierIntensity()(IMAGE, INFORMATION)),
        (ValueError, "`tiers` must be given in mode 'anchor'", lambda: RandTierIntensity(mode="anchor")(IMAGE)),
        (ValueError, "`information` must be given", lambda: RandTierIntensity(mode="continuous")(IMAGE, None, TIERS)),
        (ValueError, "`tiers` must be of shape", lambda: RandTierIntensity()(IMAGE, tiers=TIERS[:, 1:])),
        (ValueError, "`tiers` must be of shape", lambda: RandTierIntensity()(IMAGE, tiers=TIERS[0])),
        (ValueError, "`information` must be of shape", lambda: RandTierIntensity()(IMAGE, IMAGE, TIERS)),
        (ValueError, "`tiers` must be 0, 1 or 2", lambda: RandTierIntensity()(IMAGE, tiers=TIERS + 1)),
        (ValueError, "`tiers` must be 0, 1 or 2", lambda: RandTierIntensity()(IMAGE, tiers=TIERS / 2)),
        (TypeError, "`tiers` must be a NumPy array", lambda: RandTierIntensity()(IMAGE, tiers=TIERS.tolist())),
        (ValueError, "`tier` must be 0", lambda: RandTierIntensity(mode="anchor")(IMAGE, tier=255)),
        (ValueError, "`img` must be finite", lambda: RandTierIntensity()(NAN, tiers=TIERS)),
        (ValueError, "`information` must be finite", lambda: RandTierIntensity()(IMAGE, NAN[:1], TIERS)),
        (ValueError, "`img` must be a channel-first", lambda: RandTierIntensity()(IMAGE[0], tiers=TIERS)),
        (ValueError, "`img` must be a channel-first", lambda: RandTierIntensity()(IMAGE[:, :0], tiers=TIERS)),
        (TypeError, "`img` must be of real numbers", lambda: RandTierIntensity()(IMAGE + 1j, tiers=TIERS)),
        (ValueError, "`transforms` must be intensity", lambda: RandTierIntensity({"low": SMALLER})(IMAGE, tiers=TIERS)),
        (TypeError, "`transforms` must be functions", lambda: RandTierIntensity({"low": LISTED})(IMAGE, tiers=TIERS)),
    ],
)  # fmt: skip
def test_bad_input(error, message, make):
    with pytest.raises(error, match=message):
        make()


def test_a_transform_of_another_kind_is_still_a_function_of_the_seed():
    """Randomizable parts are found behind plain objects too."""

    class Holder:
        def __init__(self):
            self.inner = RandGaussianNoise(prob=1.0)
            self.flip = RandFlip(prob=0.0)

        def __call__(self, x):
            return self.flip(self.inner(x))

    image, _, tiers = draw((14, 11))
    intensity = RandTierIntensity({"low": Holder(), "medium": Holder(), "high": Holder()})
    first = intensity.set_random_state(seed=1)(image, tiers=tiers)
    assert torch.equal(intensity.set_random_state(seed=1)(image, tiers=tiers), first)
    assert not torch.equal(intensity(image, tiers=tiers), first)


@pytest.mark.parametrize("mode", ["blend", "anchor", "continuous"])
def test_cross_contrast_turns_contrasts_around_and_keeps_air_dark(mode):
    ramp = torch.linspace(0, 1, 16 * 16).reshape(1, 16, 16)
    maps = {"information": torch.full((1, 16, 16), 3.0), "tiers": torch.ones(1, 16, 16, dtype=torch.uint8)}
    intensity = RandTierIntensity("cross_contrast", mode=mode).set_random_state(0)
    outs = torch.stack([intensity(ramp, **maps) for _ in range(40)])
    assert outs.min() >= 0
    assert outs.max() <= 1
    slopes = outs[:, 0, 9:15].mean((1, 2)) - outs[:, 0, 4:8].mean((1, 2))
    assert 5 < (slopes < 0).sum() < 35  # the brighter half of the tissues becomes the darker about as often as not
    assert outs[:, 0, 0, :4].mean() < 0.2 < outs[:, 0, 4:].mean()


def calibration_file(folder, strengths=(0.3, 1, 0.6), name="rich", version=2):
    settings = {"strengths": dict(zip(("low", "medium", "high"), strengths, strict=True)), "transforms": name}
    (folder / "found.json").write_text(json.dumps({"version": version, "intensity": settings, "thresholds": [1, 2]}))
    return folder / "found.json"


@pytest.mark.parametrize("name", ["published", "rich", "cross_contrast"])
@pytest.mark.parametrize("mode", ["blend", "anchor"])
def test_file_gives_the_strength_of_each_tier(tmp_path, name, mode):
    image, _, tiers = draw((14, 11))
    change = {
        "low": intensity_preset(name, 0.3),
        "medium": intensity_preset(name, 1),
        "high": intensity_preset(name, 0.6),
    }
    expected = RandTierIntensity(change, mode).set_random_state(3)(image, tiers=tiers).clamp(0, 1)
    file = calibration_file(tmp_path, name=name)
    assert torch.equal(RandTierIntensity(mode=mode, file=file).set_random_state(3)(image, tiers=tiers), expected)
    item = {"image": image, "tiers": tiers}
    by_file, by_hand = (
        RandTierIntensityd("image", mode=mode, prob=1.0, **how).set_random_state(3)(item)["image"]
        for how in ({"file": str(file)}, {"transforms": change})
    )
    assert torch.equal(by_file, by_hand.clamp(0, 1))


@pytest.mark.parametrize("mode", ["blend", "anchor"])
def test_strengths_of_a_named_set(mode):
    image, _, tiers = draw((14, 11))
    change = {"medium": intensity_preset("rich", 1.5), "high": intensity_preset("rich", 0.6)}  # 0 is no change
    expected = RandTierIntensity(change, mode).set_random_state(3)(image, tiers=tiers).clamp(0, 1)
    by_strength = RandTierIntensity("rich", mode, strengths=(0, 1.5, 0.6)).set_random_state(3)(image, tiers=tiers)
    assert torch.equal(by_strength, expected)


def test_equal_strengths_are_a_uniform_change():
    image, _, tiers = draw((14, 11))
    uniform = RandTierIntensity("rich", strengths=(1.5, 1.5, 1.5)).set_random_state(3)
    others = RandTierIntensity("rich", strengths=(1.5, 1.5, 1.5)).set_random_state(3)
    assert torch.equal(uniform(image, tiers=tiers), others(image, tiers=torch.zeros_like(tiers)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strengths": (1, 1)}, "`strengths` must be a number of at least 0, at most 100, for each of"),
        ({"strengths": (1, 1, -1)}, "`strengths` must be"),
        ({"strengths": (1, 1, float("nan"))}, "`strengths` must be"),
        ({"strengths": 1}, "`strengths` must be"),
        ({"strengths": (1, 1, True)}, "`strengths` must be"),
        ({"strengths": (1, 1, "1")}, "`strengths` must be"),
        ({"strengths": np.ones((3, 1))}, "`strengths` must be"),
        ({"strengths": (1, 1, 1), "mode": "continuous"}, "`strengths` must be None in mode 'continuous'"),
        ({"strengths": (1, 1, 1), "transforms": {}}, "`strengths` must be None unless `transforms` is a name"),
        ({"strengths": (1, 1, 1), "transforms": "none"}, "`transforms` must be one of"),
    ],
)
def test_faulty_strengths_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        RandTierIntensity(**{"transforms": "rich"} | arguments)


def test_strength_1_is_the_named_medium_tier(tmp_path):
    image, _, _ = draw((14, 11))
    for name in ("published", "rich", "cross_contrast"):
        file = calibration_file(tmp_path, (1, 1, 1), name)
        got = RandTierIntensity(file=file, mode="anchor").set_random_state(0)(image, tier=1)
        assert torch.equal(got, RandTierIntensity(name, mode="anchor").set_random_state(0)(image, tier=1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 1}, "`.*found.json` must be a file of `monai-infoaug calibrate`, version 2, got version 1"),
        ({"name": "__import__('os')"}, "`transforms in .*found.json` must be one of"),
        ({"name": ["rich"]}, "`transforms in .*found.json` must be one of"),
        (
            {"strengths": (-1, 1, 1)},
            "`strengths in .*found.json` must be a number of at least 0, at most 100, for each of",
        ),
        ({"strengths": ("1", 1, 1)}, "`strengths in .*found.json`"),
        ({"strengths": (float("nan"), 1, 1)}, "`strengths in .*found.json`"),
        ({"strengths": (float("inf"), 1, 1)}, "`strengths in .*found.json`"),
    ],
)
def test_faulty_files_are_named(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        RandTierIntensity(file=calibration_file(tmp_path, **changes))


@pytest.mark.parametrize("text", ["{", "[]", '{"version": 2}', '{"version": 2, "intensity": {"strengths": 1}}'])
def test_other_files_are_named(tmp_path, text):
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(ValueError, match=r"other\.json"):
        RandTierIntensity(file=tmp_path / "other.json")
    with pytest.raises(FileNotFoundError, match="missing"):
        RandTierIntensity(file=tmp_path / "missing.json")


def test_strength_0_is_no_change(tmp_path):
    image, _, _ = draw((14, 11))
    intensity = RandTierIntensity(mode="anchor", file=calibration_file(tmp_path, (0, 1, 1)))
    assert torch.equal(intensity(image, tier=0), image)
    assert not torch.equal(intensity(image, tier=1), image)


def test_file_is_not_for_the_continuous_mode(tmp_path):
    with pytest.raises(ValueError, match="`file` must be None in mode 'continuous'"):
        RandTierIntensity(mode="continuous", file=calibration_file(tmp_path))


@pytest.mark.parametrize(
    ("beside", "name"),
    [
        ({"transforms": "rich"}, "transforms"),
        ({"transforms": {"low": RandFlip()}}, "transforms"),
        ({"strengths": (1, 1, 1)}, "strengths"),
    ],
)
def test_what_the_file_says_is_refused_beside_it(tmp_path, beside, name):
    file = calibration_file(tmp_path)
    for make in (RandTierIntensity, lambda **given: RandTierIntensityd("image", **given)):
        with pytest.raises(ValueError, match=f"`{name}` must be None beside `file`, which says it, got"):
            make(file=file, **beside)


def test_the_default_is_the_published_change():
    image, information, tiers = draw((14, 11))
    for mode in ("blend", "anchor", "continuous"):
        outs = [
            RandTierIntensity(*named, mode=mode).set_random_state(3)(image, information, tiers)
            for named in ((), ("published",))
        ]
        assert torch.equal(*outs)


def test_a_draw_without_a_tier_cannot_be_repeated_without_one():
    image, _, tiers = draw((14, 11))
    intensity = RandTierIntensity(PLAIN, mode="anchor")
    intensity(image, tier=1)
    torch.testing.assert_close(intensity(image, tier=0, randomize=False), 2 * image)
    with pytest.raises(ValueError, match="`tier` must be given, as the last draw has none"):
        intensity(image, tiers=tiers, randomize=False)
