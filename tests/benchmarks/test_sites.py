"""Simulated sites: what changes, what stays, and that what is chosen on has nothing in common with what is reported."""

from itertools import chain, product

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.transforms import Compose

pytest.importorskip("ignite", reason="benchmarks of bundles need the extra train")
from benchmarks import _sites

FAMILIES = {  # that are reported, and that are chosen on
    "volumes": (_sites.SCANNERS, _sites.OTHER_SCANNERS, (16, 20, 24)),
    "slices": (_sites.SLICES, _sites.OTHER_SCANNERS, (40, 48)),
    "radiographs": (_sites.EXPOSURES, _sites.OTHER_EXPOSURES, (64, 64)),
    "photographs": ({}, _sites.CAMERAS, (40, 48)),
}
CHANGES = [(name, site) for name, (*families, _) in FAMILIES.items() for site in chain(*families)]


def image_of(name):
    sizes = FAMILIES[name][2]
    axes = np.meshgrid(*(np.linspace(0, 7, size) for size in sizes), indexing="ij")
    waves = np.stack(
        [np.prod([np.sin(axis + c) for axis in axes], 0) for c in range(3 if name == "photographs" else 1)]
    )
    return torch.from_numpy(0.5 + 0.45 * waves).float()


@pytest.mark.parametrize(("name", "site"), CHANGES)
def test_a_site_changes_the_look_and_keeps_the_shape(name, site):
    reported, chosen_on, _ = FAMILIES[name]
    image = image_of(name)
    change = Compose((reported | chosen_on)[site]).set_random_state(0)
    changed = torch.as_tensor(change(image)).clamp(0, 1)
    assert changed.shape == image.shape
    assert float((changed - image).abs().mean()) > 0.01
    assert bool(changed.isfinite().all())


@pytest.mark.parametrize("name", FAMILIES)
def test_no_change_is_both_chosen_on_and_reported(name):
    reported, chosen_on, _ = FAMILIES[name]
    image = image_of(name)
    for first, second in product(reported.values(), chosen_on.values()):
        looks = [torch.as_tensor(Compose(steps).set_random_state(0)(image)) for steps in (first, second)]
        assert float((looks[0] - looks[1]).abs().mean()) > 0.01


def test_a_contrast_is_inverted_in_part():
    levels = torch.linspace(0, 1, 101)[None]
    for change in (_sites.PARTLY_INVERTED, _sites.OTHERWISE_INVERTED):
        rise = change(levels).diff()
        assert 0.1 < float((rise > 0).float().mean()) < 0.9
        assert 0.1 < float((rise < 0).float().mean()) < 0.9


@pytest.mark.parametrize(("shape", "vector"), [((10, 12, 14), False), ((12, 14), False), ((12, 14, 3), True)])
def test_an_image_is_taken_again_on_its_grid(tmp_path, shape, vector):
    array = np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8)
    image = sitk.GetImageFromArray(array, isVector=vector)
    volume = image.GetDimension() == 3
    suffix = ".nii.gz" if volume else ".png"
    if volume:
        image.SetSpacing((1, 2, 3))
        image.SetOrigin((4, 5, 6))
    sitk.WriteImage(image, str(tmp_path / f"a{suffix}"))
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        _sites.take_again(tmp_path / f"a{suffix}", [lambda x: x / 2], 3, tmp_path / name / f"b{suffix}")
        assert [path.name for path in (tmp_path / name).iterdir()] == [f"b{suffix}"]
    made = sitk.ReadImage(str(tmp_path / "first" / f"b{suffix}"))
    assert made.GetSize() == image.GetSize()
    assert made.GetSpacing() == pytest.approx(image.GetSpacing())
    assert made.GetOrigin() == pytest.approx(image.GetOrigin())
    assert made.GetNumberOfComponentsPerPixel() == image.GetNumberOfComponentsPerPixel()
    found = sitk.GetArrayFromImage(made)
    assert np.array_equal(found, sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "second" / f"b{suffix}"))))
    low, high = (0, 255) if vector else np.percentile(array, (0.5, 99.5))
    wanted = 255 / 2 * ((array - low) / (high - low)).clip(0, 1)
    assert np.abs(found - wanted).max() <= 1


def test_slices(tmp_path):
    volume = np.random.default_rng(0).integers(0, 255, (3, 8, 9)).astype(np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(volume), str(tmp_path / "a_01.nii.gz"))
    (tmp_path / "slices").mkdir()
    _sites.write_slices(tmp_path / "a_01.nii.gz", tmp_path / "slices")
    found = sorted((tmp_path / "slices").iterdir())
    assert [path.name for path in found] == ["a_01_00.png", "a_01_02.png"]
    assert np.array_equal([sitk.GetArrayFromImage(sitk.ReadImage(str(path))) for path in found], volume[::2])
