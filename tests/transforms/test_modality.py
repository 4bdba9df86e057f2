from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.data import MetaTensor
from monai.transforms import LoadImage, ScaleIntensityRangePercentiles

from monai_infoaug.data import SimpleITKReader
from monai_infoaug.transforms import BodyMask
from monai_infoaug.transforms.modality import (
    MODALITIES,
    ModalityPreset,
    ModalityPresetD,
    ModalityPresetd,
    ModalityPresetDict,
    guess_modality,
)


def image_of(modality: str, dims: int = 2, seed: int = 0) -> np.ndarray:
    """A bright object in the dark, in the modality's numbers."""
    shape, generator = (24, 20, 16)[:dims], np.random.RandomState(seed)
    middle = tuple(slice(4, n - 4) for n in shape)
    inside = np.zeros(shape)
    inside[middle] = generator.uniform(0.6, 1, inside[middle].shape)
    inside = inside + generator.uniform(0, 0.02, shape)
    low, high = {"ct": (-1000, 300), "mr": (0, 800), "xray": (0, 4095), "rgb": (0, 250)}[modality]
    return np.stack([low + (high - low) * inside] * (3 if modality == "rgb" else 1)).astype(np.float32)


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("dims", [2, 3])
def test_grey_levels_in_0_to_1_and_a_mask(modality, dims):
    image = image_of(modality, dims)
    scaled, foreground = ModalityPreset(modality)(image)
    assert scaled.shape == image.shape
    assert scaled.dtype == np.float32
    assert scaled.min() >= 0
    assert scaled.max() <= 1
    assert foreground.shape == (1, *image.shape[1:])
    assert foreground.dtype == np.uint8
    assert set(np.unique(foreground)) <= {0, 1}
    assert foreground.all() == (modality in ("xray", "rgb"))
    middle = (0, *(slice(4, n - 4) for n in image.shape[1:]))
    assert foreground[middle].all()
    assert foreground.all() or foreground.sum() == foreground[middle].size


def test_ct_cuts_the_window():
    image = image_of("ct")
    image[0, 10, 8:12] = -1000, 0, 100, 3000
    scaled, foreground = ModalityPreset("ct", window=(-100, 300))(image)
    np.testing.assert_allclose(scaled[0, 10, 8:12], [0, 0.25, 0.5, 1], atol=1e-6)
    np.testing.assert_array_equal(foreground, BodyMask(-500)(image))
    np.testing.assert_allclose(ModalityPreset("ct")(image)[0], np.clip((image + 200) / 1200, 0, 1), atol=1e-6)


def test_mr_takes_percentiles_of_each_channel_inside_the_foreground():
    first = image_of("mr", 3)
    image = np.concatenate([first, 5 * image_of("mr", 3, seed=1)])
    scaled, foreground = ModalityPreset("mr", lower=2, upper=98)(image)
    for channel, source in zip(scaled, image, strict=True):
        low, high = np.percentile(source[foreground[0] > 0], (2, 98))
        np.testing.assert_allclose(channel, np.clip((source - low) / (high - low), 0, 1), atol=1e-4)
    wide = np.pad(first, [(0, 0), (20, 20), (0, 0), (0, 0)], "reflect", reflect_type="odd").clip(0, 10)
    wide[:, 20:-20] = first  # more air around changes nothing
    np.testing.assert_allclose(ModalityPreset("mr")(wide)[0][:, 20:-20], ModalityPreset("mr")(first)[0], atol=1e-5)


@pytest.mark.parametrize(("lower", "upper"), [(0.5, 99.5), (5, 90)])
def test_xray_is_as_monai(lower, upper):
    image = image_of("xray")
    expected = ScaleIntensityRangePercentiles(lower, upper, 0, 1, clip=True)(image)
    np.testing.assert_array_equal(ModalityPreset("xray", lower=lower, upper=upper)(image)[0], expected)


def test_rgb_by_range():
    generator = np.random.RandomState(0)
    share = generator.rand(3, 9, 9).astype(np.float32)
    rgb = ModalityPreset("rgb")
    np.testing.assert_array_equal(rgb(share)[0], share)
    eight_bits = (255 * share).astype(np.uint8)
    np.testing.assert_allclose(rgb(eight_bits)[0], eight_bits / 255, atol=1e-6)
    np.testing.assert_allclose(rgb(260 * share - 3)[0], ((260 * share - 3) / 255).clip(0, 1), atol=1e-6)  # overshoot
    np.testing.assert_allclose(rgb(1.05 * share)[0], (1.05 * share).clip(0, 1), atol=1e-6)
    for other in (65535 * share, 4 * share - 2):
        low, high = np.percentile(other, (0.5, 99.5))
        np.testing.assert_allclose(rgb(other)[0], ((other - low) / (high - low)).clip(0, 1), atol=1e-4)


@pytest.mark.filterwarnings("ignore:Divide by zero")
def test_a_grey_photograph_among_others_has_three_channels(tmp_path):
    grey = np.random.default_rng(0).integers(0, 256, (6, 5, 1)).astype(np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(grey.repeat(3, -1), isVector=True), tmp_path / "a.png")
    image = LoadImage(reader=SimpleITKReader, ensure_channel_first=True)(tmp_path / "a.png")
    assert image.shape == (1, 5, 6)
    scaled, foreground = ModalityPreset("rgb")(image)
    assert (scaled.shape, foreground.shape) == ((3, 5, 6), (1, 5, 6))
    np.testing.assert_allclose(scaled, image.repeat(3, 1, 1) / 255)


@pytest.mark.parametrize(("modality", "value"), [("ct", -1000), ("mr", 0), ("mr", 500), ("xray", 4000), ("rgb", 0)])
def test_constant_image(modality, value):
    scaled, foreground = ModalityPreset(modality)(np.full((3, 5, 6), value, np.int16))
    assert foreground.all()
    assert (scaled == 0).all()


@pytest.mark.filterwarnings("ignore:Divide by zero")
def test_nearly_constant_image_stays_in_range():
    image = np.zeros((1, 30, 30), np.float32)
    image[0, 0, 0] = 4000
    assert ModalityPreset("xray")(image)[0].max() == 1


@pytest.mark.parametrize("modality", MODALITIES)
def test_metadata_and_integers(modality):
    image = MetaTensor(image_of(modality).round(), affine=torch.eye(4) * 2, meta={"patient": "p1"})
    outs = ModalityPreset(modality)(image)
    for out, dtype in zip(outs, (torch.float32, torch.uint8), strict=True):
        assert out.dtype == dtype
        assert out.meta["patient"] == "p1"
        assert torch.equal(out.affine, image.affine)
    for plain, out in zip(ModalityPreset(modality)(image.numpy().astype(np.int32)), outs, strict=True):
        np.testing.assert_array_equal(plain, out)


def test_dictionary():
    data = {"image": image_of("mr"), "other": image_of("mr", seed=1)}
    preset = ModalityPreset("mr", lower=1, upper=90)
    out = ModalityPresetd("image", "mr", lower=1, upper=90)(data)
    for key, expected in zip(("image", "foreground"), preset(data["image"]), strict=True):
        np.testing.assert_array_equal(out[key], expected)
    assert data["image"].max() > 100
    assert out["other"] is data["other"]
    out = ModalityPresetd(("image", "other"), "mr", foreground_key=("a", "b"))(data)
    assert set(out) == {"image", "other", "a", "b"}
    assert {"image_foreground", "other_foreground"} < set(ModalityPresetd(("image", "other"), "mr")(data))
    assert ModalityPresetD is ModalityPresetDict is ModalityPresetd
    with pytest.raises(KeyError, match="`output key` must be new to the data, got foreground"):
        ModalityPresetd("image", "mr")({**data, "foreground": 1})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"modality": "us"}, r"`modality` must be one of \('ct', 'mr', 'xray', 'rgb'\), got 'us'"),
        ({"modality": "CT"}, "`modality` must be one of"),
        ({"modality": "mr", "window": (0, 1)}, "`window` must be None for modality 'mr'"),
        ({"modality": "ct", "window": (1, 1)}, "`window` must be two Hounsfield units"),
        ({"modality": "ct", "window": (1,)}, "`window` must be two Hounsfield units"),
        ({"modality": "ct", "window": 5}, "`window` must be two Hounsfield units"),
        ({"modality": "ct", "window": ("0", "1")}, "`window` must be two Hounsfield units"),
        ({"modality": "mr", "lower": 90, "upper": 10}, "`lower and upper` must be percentiles in order"),
        ({"modality": "mr", "upper": "99"}, "`lower and upper` must be percentiles in order"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        ModalityPreset(**settings)


@pytest.mark.parametrize(
    ("modality", "image", "message"),
    [
        ("ct", np.random.rand(1, 5, 5), "in Hounsfield units for modality 'ct' .* values from 0"),
        ("rgb", np.random.rand(1, 5, 5), "of 3 channels for modality 'rgb', got 1 channels"),
        ("mr", np.full((1, 5, 5), np.inf), "`img` must be finite"),
        ("xray", np.zeros((5, 5)), "`img` must be channel first"),
    ],
)
def test_bad_images(modality, image, message):
    with pytest.raises(ValueError, match=message):
        ModalityPreset(modality)(image)


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor, MetaTensor])
@pytest.mark.parametrize(
    ("modality", "dims", "guessed"),
    [("rgb", 2, "rgb"), ("rgb", 3, "rgb"), ("xray", 2, "xray"), ("ct", 2, "xray"), ("ct", 3, "ct"), ("mr", 3, "mr")],
)
def test_guess(kind, modality, dims, guessed):
    assert guess_modality(kind(image_of(modality, dims))) == guessed


@pytest.mark.parametrize("shape", [(5, 5), (1, 0, 5, 5)])
def test_guess_refuses_what_is_no_image(shape):
    with pytest.raises(ValueError, match="`img` must be channel first, 2D or 3D, not empty"):
        guess_modality(np.zeros(shape))
