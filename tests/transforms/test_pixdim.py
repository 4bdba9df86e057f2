from __future__ import annotations

import nibabel
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, SaveImaged, Spacing, Spacingd

from monai_infoaug.transforms.pixdim import AssignPixdim, AssignPixdimD, AssignPixdimd, AssignPixdimDict


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor, MetaTensor])
@pytest.mark.parametrize("size", [(4, 6), (4, 6, 5)])
def test_index_lies_at_origin_plus_pixdim_times_index(size, kind):
    pixdim, origin = (0.5, 2.0, 3.0)[: len(size)], (10.0, -4.0, 1.0)[: len(size)]
    out = AssignPixdim(pixdim, origin)(kind(np.zeros((1, *size), np.float32)))
    index = np.array([3, 5, 2][: len(size)])
    homogeneous = np.zeros(4)
    homogeneous[: len(size)], homogeneous[3] = index, 1
    assert isinstance(out, MetaTensor)
    np.testing.assert_allclose((out.affine.numpy() @ homogeneous)[: len(size)], np.add(origin, pixdim * index))
    np.testing.assert_allclose(out.pixdim[: len(size)], pixdim)  # MONAI 1.6.0: always three


@pytest.mark.parametrize("pixdim", [0.5, [0.5], (0.5, 0.5), np.array([0.5, 0.5]), torch.tensor(0.5)])
def test_one_number_or_one_an_axis(pixdim):
    out = AssignPixdim(pixdim, origin=[1.0])(torch.zeros(1, 3, 3))
    np.testing.assert_allclose(out.affine, [[0.5, 0, 0, 1], [0, 0.5, 0, 1], [0, 0, 1, 0], [0, 0, 0, 1]])


def test_input_is_kept_and_other_metadata_stay():
    image = MetaTensor(torch.rand(1, 3, 3), affine=torch.eye(4) * 3, meta={"filename_or_obj": "a.png"})
    before, affine = image.clone(), image.affine.clone()
    out = AssignPixdim(0.5)(image)
    out += 1
    out.meta["filename_or_obj"] = "b.png"
    assert torch.equal(image, before)
    assert torch.equal(image.affine, affine)
    assert image.meta["filename_or_obj"] == "a.png"
    array = np.ones((1, 2, 2), np.float32)
    AssignPixdim(2.0)(array).zero_()
    assert array.all()


def test_frame_is_that_of_plain_images_in_viewers():
    image = MetaTensor(torch.rand(1, 3, 3))
    assert AssignPixdim(0.5)(image).meta["space"] == "LPS"
    assert image.meta["space"] == "RAS"


@pytest.mark.parametrize("space", ["RAS", "LPS"])
def test_without_pixdim_the_file_is_right(space):
    affine = torch.tensor([[0.0, -2, 0, 5], [3, 0, 0, 6], [0, 0, 1, 7], [0, 0, 0, 1]], dtype=torch.float64)
    image = MetaTensor(torch.rand(1, 3, 4), affine=affine, meta={"space": space})
    out = AssignPixdimd("image", pixdim=None)({"image": image})["image"]
    assert torch.equal(out, image)
    assert torch.equal(out.affine, affine)
    assert out.meta["space"] == space
    assert isinstance(AssignPixdim(None)(np.ones((1, 3, 3))), MetaTensor)
    with pytest.raises(ValueError, match="`origin` must be 0 without a `pixdim`, got 3"):
        AssignPixdim(None, origin=3)


def test_image_is_saved_on_the_pixels_of_its_file(tmp_path):
    pixels = np.add.outer(10 * np.arange(12), np.arange(16)).astype(np.uint8)
    Image = pytest.importorskip("PIL.Image", reason="MONAI reads PNG with Pillow")
    Image.fromarray(pixels).save(tmp_path / "a.png")
    options = {"output_dir": tmp_path, "output_ext": ".nii.gz", "separate_folder": False, "print_log": False}
    save = SaveImaged("image", resample=True, mode="bilinear", **options)
    chain = [LoadImaged("image"), EnsureChannelFirstd("image"), AssignPixdimd("image", (0.5, 2.0), (10, -4))]
    Compose([*chain, Spacingd("image", (1.0, 1.0)), save])({"image": tmp_path / "a.png"})
    saved = nibabel.load(tmp_path / "a_trans.nii.gz")
    np.testing.assert_allclose(saved.affine[:2], [[0.5, 0, 0, 10], [0, 2, 0, -4]])
    np.testing.assert_allclose(np.squeeze(saved.dataobj)[2:-2, 1:-1], pixels.T[2:-2, 1:-1], atol=1e-3)


def test_spacing_then_works_in_millimetres():
    assert Spacing(pixdim=1.0)(AssignPixdim(0.5)(torch.rand(1, 9, 9))).shape == (1, 5, 5)


def test_dictionary():
    data = {"image": torch.zeros(1, 4, 4), "label": np.zeros((1, 4, 4)), "name": "a"}
    out = AssignPixdimd(("image", "label", "mask"), (0.5, 1.5), allow_missing_keys=True)(data)
    for key in ("image", "label"):
        np.testing.assert_allclose(out[key].pixdim[:2], (0.5, 1.5))
        assert not isinstance(data[key], MetaTensor)
    assert out["name"] == "a"
    assert AssignPixdimD is AssignPixdimDict is AssignPixdimd
    with pytest.raises(KeyError, match="mask"):
        AssignPixdimd(("image", "mask"), 0.5)(data)


@pytest.mark.parametrize("pixdim", [0, -1, [1, 0], np.nan, np.inf, [1, np.nan], "wide", [[1], 2], True])
def test_pixdim_that_is_none(pixdim):
    with pytest.raises(ValueError, match="`pixdim` must be positive and finite, or None"):
        AssignPixdim(pixdim)


def test_numbers_that_do_not_fit():
    with pytest.raises(ValueError, match="`pixdim` must be one number or 2, one an axis of the image"):
        AssignPixdim((1, 1, 1))(torch.zeros(1, 4, 4))
    with pytest.raises(ValueError, match="`origin` must be one number or 3, one an axis of the image"):
        AssignPixdim(1, origin=(0, 0))(torch.zeros(1, 4, 4, 4))
    with pytest.raises(ValueError, match="`origin` must be finite"):
        AssignPixdim(1, origin=np.inf)
    with pytest.raises(ValueError, match="`origin` must be finite"):
        AssignPixdim(1, origin=("left", 0))
    with pytest.raises(ValueError, match="`origin` must be 0 without a `pixdim`"):
        AssignPixdim(None, origin=(0, 1))


@pytest.mark.parametrize("kind", [tuple, np.array, torch.tensor])
def test_numbers_in_any_kind_of_sequence(kind):
    out = AssignPixdim(kind([0.5, 1.5]), kind([1.0, 0.0]))(torch.zeros(1, 4, 4))
    np.testing.assert_allclose(out.pixdim[:2], (0.5, 1.5))
    np.testing.assert_allclose(out.affine[:2, -1], (1, 0))
