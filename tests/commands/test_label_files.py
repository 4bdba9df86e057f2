"""Label maps on the grid of their image: where each voxel lies, what is written, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from monai_infoaug.commands._label_files import (
    label_bytes,
    label_suffix,
    onto_grid,
    percent,
    read_labels,
    read_on_grid,
)


def turned_volume(size: tuple[int, ...], sides: tuple[float, ...]) -> sitk.Image:
    """A volume whose axes are turned in space."""
    image = sitk.GetImageFromArray(np.random.default_rng(0).integers(0, 200, size[::-1], np.uint8))
    image.SetSpacing(sides)
    image.SetOrigin((5.0, -7.0, 3.0))
    image.SetDirection(np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0].ravel())
    return image


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int32])
def test_a_label_map_of_a_turned_volume_lies_on_it(tmp_path, kind):
    image = turned_volume((9, 7, 5), (1.0, 2.5, 0.7))
    sitk.WriteImage(image, tmp_path / "image.nii.gz")
    grid = read_on_grid(tmp_path / "image.nii.gz")
    values = torch.zeros(1, 9, 7, 5, dtype=torch.long)
    values[0, 2, 3, 1], values[0, 8, 0, 4] = 1, np.iinfo(kind).max
    assert label_suffix("image.nii.gz") == ".nii.gz"
    (tmp_path / "label.nii.gz").write_bytes(label_bytes(values, grid, ".nii.gz"))
    found = sitk.ReadImage(tmp_path / "label.nii.gz")
    assert sitk.GetArrayFromImage(found).dtype == kind
    assert found[2, 3, 1] == 1
    assert found[8, 0, 4] == np.iinfo(kind).max
    for voxel in ((2, 3, 1), (8, 0, 4)):
        lies = [each.TransformIndexToPhysicalPoint(voxel) for each in (image, found)]
        np.testing.assert_allclose(*lies, atol=1e-3)
    assert torch.equal(read_labels(tmp_path / "label.nii.gz").as_tensor().long(), values)


def test_a_label_map_of_a_picture_is_one(tmp_path):
    pytest.importorskip("PIL", reason="pictures are written with Pillow")
    image = np.random.default_rng(0).integers(0, 200, (5, 8), np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(image), tmp_path / "a.png")
    grid = read_on_grid(tmp_path / "a.png", 0.5)
    assert grid.pixdim.tolist()[:2] == [0.5, 0.5]
    assert label_suffix(tmp_path / "a.png") == label_suffix("b.JPG") == ".png"
    for most in (7, 300):
        values = torch.zeros(1, 8, 5, dtype=torch.long)
        values[0, 6, 1] = most
        (tmp_path / "label.png").write_bytes(label_bytes(values, grid, ".png"))
        found = sitk.GetArrayFromImage(sitk.ReadImage(tmp_path / "label.png"))
        assert found.shape == image.shape
        assert found[1, 6] == found.max() == most
    with pytest.raises(ValueError, match=r"`labels` must be below 65536, in a PNG, got values up to 65536"):
        label_bytes(values * 0 + 65536, grid, ".png")


def test_a_label_map_of_another_grid_is_brought_onto_that_of_the_image(tmp_path):
    image = turned_volume((9, 7, 5), (1.0, 2.5, 0.7))
    sitk.WriteImage(image, tmp_path / "image.nii.gz")
    grid = read_on_grid(tmp_path / "image.nii.gz")
    fine = sitk.Image([27, 21, 15], sitk.sitkUInt8)
    fine.SetDirection(image.GetDirection())
    fine.SetSpacing([side / 3 for side in image.GetSpacing()])
    fine.SetOrigin(image.TransformContinuousIndexToPhysicalPoint([-1 / 3] * 3))
    fine[3 * 4 + 1, 3 * 2 + 1, 3 * 3 + 1] = 6  # in the middle of voxel 4, 2, 3
    sitk.WriteImage(fine, tmp_path / "label.nii.gz")
    found = onto_grid(read_labels(tmp_path / "label.nii.gz"), grid)
    assert found.shape == (1, 9, 7, 5)
    assert found.nonzero().tolist() == [[0, 4, 2, 3]]
    same = read_labels(tmp_path / "image.nii.gz")
    assert torch.equal(onto_grid(same, grid), same.as_tensor())


def test_a_confidence_is_in_per_cent():
    assert percent(torch.tensor([[0.0, 0.004, 0.5, 1.0]])).tolist() == [[0, 0, 50, 100]]
