from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from monai_infoaug.data._images import copy_metadata, grey_if_equal, image_of, plane_affine, set_affine, unreadable

SHEARED = np.array([[2.0, 0.3, 0, 5], [0, 3, 1.3, -6], [0, 0, 4, 7], [0, 0, 0, 1]])


@pytest.mark.parametrize("size", [(4, 3, 2), (4, 3, 2, 5)])
def test_geometry_is_that_of_the_affine(size):
    image = image_of(np.zeros(size, np.int16))
    set_affine(image, SHEARED)
    assert image.GetSize() == size
    voxel = [3, 2, 1, 4][: len(size)]
    point = image.TransformIndexToPhysicalPoint(voxel)
    np.testing.assert_allclose(point[:3], (SHEARED @ [3, 2, 1, 1])[:3])
    assert point[3:] == tuple(voxel[3:])


@pytest.mark.parametrize("tilt", [0.0, 1e-5, 0.1])
def test_a_plane_in_space(tilt):
    affine = np.array([[0, -2.0, 0, 5], [3, 0, 0, 6], [0, tilt, 1, 7], [0, 0, 0, 1]])
    if tilt < 0.1:
        np.testing.assert_allclose(plane_affine(affine, "a"), [[0, -2, 5], [3, 0, 6], [0, 0, 1]])
        return
    with pytest.warns(UserWarning, match="'a' is one slice that is not axial"):
        np.testing.assert_allclose(plane_affine(affine, "a"), np.diag([3, np.hypot(2, tilt), 1]))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(("channels", "left"), [(1, 1), (2, 1), (3, 1), (4, 1), (-3, 3), (-4, 3), (5, 1)])
def test_as_few_channels_as_needed(dtype, channels, left):
    """Negative: of different colours."""
    values = np.random.default_rng(0).integers(0, 200, (4, 3, 1)).astype(dtype).repeat(abs(channels), -1)
    if channels < 0:
        values[3, 2, 1] += 1
    expected = values[..., :left]
    if abs(channels) in (2, 4):
        values[..., -1] = np.iinfo(dtype).max
    image = image_of(values, components=True) if abs(channels) > 1 else image_of(values[..., 0])
    image.SetMetaData("key", "value")
    image.SetSpacing((2, 3))
    out = grey_if_equal(image, "a")
    assert out.GetNumberOfComponentsPerPixel() == left
    np.testing.assert_array_equal(sitk.GetArrayFromImage(out).reshape(3, 4, left), np.swapaxes(expected, 0, 1))
    assert out.GetSpacing() == (2, 3)
    assert out.GetMetaData("key") == "value"
    if channels > 1:
        assert out.GetMetaData("equal_channels") == str(channels - (channels in (2, 4)))


def test_metadata_are_copied():
    image = sitk.Image([2, 2], sitk.sitkUInt8)
    image.SetMetaData("key", "value")
    assert copy_metadata(image, sitk.Image([2, 2], sitk.sitkUInt8)).GetMetaData("key") == "value"


def test_errors_of_several_lines_become_one():
    text = "Exception in x:\n/tmp/y.cxx:1:\nITK ERROR: Reader(0x1): cannot\nread"
    error = unreadable("a.png", RuntimeError(text))
    assert str(error) == "`data` must be an image that SimpleITK can read, got 'a.png': Reader(0x1): cannot read"
    assert str(unreadable("a", EOFError())).endswith("got 'a': EOFError")
