from __future__ import annotations

import gzip
import re

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from monai.data import NibabelReader
from monai.transforms import Compose, LoadImage, LoadImaged

from monai_infoaug.data import SimpleITKReader
from monai_infoaug.data._headers import image_header
from tests.data.files import halved, patched

SLOPE, SROW = 112, 280  # offsets in the header


def got(path, reader=None):
    reader = reader or SimpleITKReader()
    return reader.get_data(reader.read(path))


def written(path, array=None, affine=None, sform=1, qform=None, qcode=0, units=None, kind=nib.Nifti1Image):
    array = np.random.default_rng(0).integers(1, 1000, (6, 5, 4)).astype(np.int16) if array is None else array
    image = kind(array, np.diag([2.0, 3, 4, 1]) if affine is None else affine)
    if kind in (nib.Nifti1Image, nib.Nifti1Pair, nib.Nifti2Image):
        image.set_sform(image.affine, sform)
        image.set_qform(qform, qcode)
    if units:
        image.header.set_xyzt_units(units)
    nib.save(image, path)
    return path


def require_as_nibabel(path, factor=1.0):
    (ours, meta), (theirs, expected) = got(path), got(path, NibabelReader())
    np.testing.assert_array_equal(ours, theirs.astype(np.float32))
    affine = np.diag([factor] * 3 + [1]) @ expected["affine"]
    np.testing.assert_allclose(meta["affine"], affine, atol=1e-5 * np.abs(affine).max())
    assert meta["space"] == "RAS"


def turned(degrees):
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.array([[2 * c, -3 * s, 0, 5], [2 * s, 3 * c, 0, -6], [0, 0, 4, 7], [0, 0, 0, 1]])


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.NII.GZ"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.99])
def test_the_end_is_missing(tmp_path, name, share):
    path = halved(written(tmp_path / name), share)
    message = f"^`data` must be an image that SimpleITK can read, got '{re.escape(str(path))}': .+"
    with pytest.raises(ValueError, match=message):
        SimpleITKReader().read(path)
    with pytest.raises(ValueError, match=message):  # and not what MONAI's other readers say
        LoadImage(reader=SimpleITKReader)(path)
    with pytest.raises(RuntimeError, match="applying transform") as error:
        Compose([LoadImaged("image", reader=SimpleITKReader())])({"image": path})
    assert str(path) in str(error.value.__cause__)


def test_a_flipped_bit_in_compressed_voxels(tmp_path):
    path = written(tmp_path / "a.nii.gz", np.ones((30, 30, 30), np.int16))
    raw = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(raw, 0))  # stored as they are: without the check sum nothing tells
    patched(path, path.stat().st_size // 2, "B", path.read_bytes()[path.stat().st_size // 2] ^ 0x55)
    with pytest.raises(ValueError, match="CRC"):
        SimpleITKReader().read(path)


def test_a_sibling_of_almost_the_same_name_is_another_file(tmp_path):
    written(tmp_path / "a.nii", np.full((4, 5, 6), 99, np.int16))
    written(tmp_path / "a.img", np.full((4, 5, 6), 8, np.int16), kind=nib.Nifti1Pair)
    path = written(tmp_path / "a.nii.gz", np.full((4, 5, 6), 7, np.int16))
    assert np.unique(got(path)[0]) == [7]
    assert np.unique(got(tmp_path / "a.nii")[0]) == [99]
    assert np.unique(got(tmp_path / "a.img")[0]) == np.unique(got(tmp_path / "a.hdr")[0]) == [8]
    (tmp_path / "a.img").unlink()
    with pytest.raises(ValueError, match=r"a\.hdr': .*a\.img"):
        SimpleITKReader().read(tmp_path / "a.hdr")


def test_a_sibling_whose_suffix_is_in_other_letters_is_another_file(tmp_path):
    """For which nibabel looks where a suffix is in capital and small letters."""
    path = written(tmp_path / "other.nii").rename(tmp_path / "a.Nii")
    sibling = written(tmp_path / "a.nii", np.ones((6, 5, 4), np.int16))
    if path.samefile(sibling):
        pytest.skip("this file system does not tell letters apart")
    for read in (SimpleITKReader().read, image_header):
        with pytest.raises(ValueError, match=r"`data` must be a file named .nii or .NII, got '.*a\.Nii'"):
            read(path)


@pytest.mark.parametrize("code", [1, 2, 4])
def test_sform_before_qform_with_a_warning(tmp_path, code):
    path = written(tmp_path / "a.nii.gz", affine=turned(0), sform=code, qform=turned(20), qcode=1)
    with pytest.warns(UserWarning, match=r"a\.nii\.gz' has a sform and a qform that are .* mm apart: the sform"):
        require_as_nibabel(path)


def test_forms_that_agree_make_no_warning(tmp_path):
    require_as_nibabel(written(tmp_path / "a.nii.gz", affine=turned(20), qform=turned(20), qcode=1))
    require_as_nibabel(written(tmp_path / "b.nii.gz", sform=0, qform=turned(20), qcode=1))


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.AnalyzeImage])
def test_no_position(tmp_path, kind):
    path = written(tmp_path / ("a.nii" if kind is nib.Nifti1Image else "a.img"), sform=0, kind=kind)
    with pytest.warns(UserWarning, match="says no position"):
        require_as_nibabel(path)


@pytest.mark.parametrize(("units", "factor"), [("mm", 1), ("unknown", 1), ("meter", 1000), ("micron", 0.001)])
def test_units_become_millimetres(tmp_path, units, factor):
    path = written(tmp_path / "a.nii.gz", affine=turned(10), units=units)
    if factor == 1:
        return require_as_nibabel(path)
    with pytest.warns(UserWarning, match="metres: turned into millimetres"):
        require_as_nibabel(path, factor)
    return None


@pytest.mark.parametrize("scale", [(0, 0), (0, 7), (np.nan, np.nan), (np.nan, 7), (np.inf, 0), (2, 10), (0.1, -3)])
def test_slope_and_intercept(tmp_path, scale):
    require_as_nibabel(patched(written(tmp_path / "a.nii"), SLOPE, "<ff", *scale))


def test_slope_without_an_intercept_is_refused(tmp_path):
    path = patched(written(tmp_path / "a.nii"), SLOPE, "<ff", 1, np.nan)
    with pytest.raises(ValueError, match=r"a\.nii': .*intercept"):
        SimpleITKReader().read(path)


@pytest.mark.parametrize(
    "rows", [[0] * 12, [0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0], [np.nan] * 12, [1, 2, 0, 0] * 2 + [1] * 4]
)
def test_an_affine_that_cannot_be_inverted_is_refused(tmp_path, rows):
    path = patched(written(tmp_path / "a.nii"), SROW, "<12f", *rows)
    message = r"^`data` must be a file whose sform can be inverted, got '.*a\.nii' whose affine is singular\.$"
    with pytest.raises(ValueError, match=message):
        SimpleITKReader().read(path)
    with pytest.raises(ValueError, match=message):  # NibabelReader, which MONAI would try next, takes it
        LoadImage(reader=SimpleITKReader())(path)


def test_a_sheared_affine(tmp_path):
    affine = turned(10)
    affine[0, 1] += 0.5
    path = written(tmp_path / "a.nii.gz", affine=affine)
    require_as_nibabel(path)
    np.testing.assert_allclose(LoadImage(reader=SimpleITKReader)(path).affine, affine, atol=1e-5)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(24, dtype=">f4").reshape(4, 3, 2),
        np.arange(24, dtype=np.int64).reshape(4, 3, 2),
        np.arange(24, dtype=np.float64).reshape(4, 3, 2) / 7,
        np.arange(24, dtype=np.complex64).reshape(4, 3, 2),
    ],
)
def test_types_of_voxels(tmp_path, array):
    nib.save(nib.Nifti1Image(array, np.eye(4), dtype=array.dtype), tmp_path / "a.nii")
    ours, _ = got(tmp_path / "a.nii")
    np.testing.assert_array_equal(ours, array)
    assert ours.dtype == array.dtype.newbyteorder("=")


def test_nifti_2_and_colours(tmp_path):
    require_as_nibabel(written(tmp_path / "a.nii", kind=nib.Nifti2Image))
    colours = np.random.default_rng(0).integers(0, 255, (4, 3, 2, 3)).astype(np.uint8)
    names = np.zeros((4, 3, 2), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    for i, name in enumerate("RGB"):
        names[name] = colours[..., i]
    np.testing.assert_array_equal(got(written(tmp_path / "b.nii", names))[0], colours)


@pytest.mark.parametrize(
    ("shape", "ours"), [((5, 4, 1), (5, 4, 1)), ((5, 4, 3, 1), (5, 4, 3)), ((5, 4, 1, 3), (5, 4, 1, 3))]
)
def test_axes_of_one_voxel(tmp_path, shape, ours):
    assert got(written(tmp_path / "a.nii", np.zeros(shape, np.int16)))[0].shape == ours


def test_a_plane(tmp_path):
    flat = np.zeros((5, 4), np.int16)
    affine = turned(30)[np.ix_([0, 1, 3], [0, 1, 3])]
    np.testing.assert_allclose(got(written(tmp_path / "a.nii", flat, turned(30)))[1]["affine"], affine, atol=1e-5)
    coronal = np.array([[2.0, 0, 0, 9], [0, 0, 1, 9], [0, 3, 0, 9], [0, 0, 0, 1]])
    with pytest.warns(UserWarning, match="one slice that is not axial: its millimetres are counted within the slice"):
        _, meta = got(written(tmp_path / "b.nii", flat, coronal))
    np.testing.assert_allclose(meta["affine"], np.diag([2, 3, 1]), atol=1e-6)


def test_a_line_is_no_image(tmp_path):
    with pytest.raises(ValueError, match=r"`data` must be an image of 2 to 5 axes, got '.*' of shape \(5,\)"):
        SimpleITKReader().read(written(tmp_path / "a.nii", np.zeros(5, np.int16)))


def test_fields_of_the_header(tmp_path):
    path = written(tmp_path / "a.nii.gz", affine=turned(10), qform=turned(10), qcode=1)
    image, meta = sitk.ReadImage(path), got(path)[1]
    keys = {"descrip", "dim[1]", "dim[2]", "bitpix", "datatype", "pixdim[1]", "srow_x", "sform_code", "xyzt_units"}
    assert {key: meta[key] for key in keys} == {key: image.GetMetaData(key) for key in keys}


def test_a_type_of_pixels_can_be_asked_for(tmp_path):
    reader = SimpleITKReader(outputPixelType=sitk.sitkFloat64)
    assert got(written(tmp_path / "a.nii"), reader)[0].dtype == np.float64
