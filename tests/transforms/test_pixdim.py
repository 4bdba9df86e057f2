from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Spacing

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
    np.testing.assert_allclose(out.pixdim, pixdim)


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
    assert torch.equal(image, before) and torch.equal(image.affine, affine)
    assert image.meta["filename_or_obj"] == "a.png"
    array = np.ones((1, 2, 2), np.float32)
    AssignPixdim(2.0)(array).zero_()
    assert array.all()


def test_spacing_then_works_in_millimetres():
    assert Spacing(pixdim=1.0)(AssignPixdim(0.5)(torch.rand(1, 9, 9))).shape == (1, 5, 5)


def test_dictionary():
    data = {"image": torch.zeros(1, 4, 4), "label": np.zeros((1, 4, 4)), "name": "a"}
    out = AssignPixdimd(("image", "label", "mask"), (0.5, 1.5), allow_missing_keys=True)(data)
    for key in ("image", "label"):
        np.testing.assert_allclose(out[key].pixdim, (0.5, 1.5))
        assert not isinstance(data[key], MetaTensor)
    assert out["name"] == "a" and AssignPixdimD is AssignPixdimDict is AssignPixdimd
    with pytest.raises(KeyError, match="mask"):
        AssignPixdimd(("image", "mask"), 0.5)(data)


@pytest.mark.parametrize("pixdim", [0, -1, [1, 0], np.nan, np.inf, [1, np.nan], "wide", None])
def test_pixdim_that_is_none(pixdim):
    with pytest.raises(ValueError, match="`pixdim` must be positive and finite"):
        AssignPixdim(pixdim)


def test_numbers_that_do_not_fit():
    with pytest.raises(ValueError, match="`pixdim` must be one number or 2, one an axis of the image"):
        AssignPixdim((1, 1, 1))(torch.zeros(1, 4, 4))
    with pytest.raises(ValueError, match="`origin` must be one number or 3, one an axis of the image"):
        AssignPixdim(1, origin=(0, 0))(torch.zeros(1, 4, 4, 4))
    with pytest.raises(ValueError, match="`origin` must be finite"):
        AssignPixdim(1, origin=np.inf)
