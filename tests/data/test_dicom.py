from __future__ import annotations

import os
import re

import numpy as np
import pytest
from monai.transforms import LoadImage

from monai_infoaug.data import SimpleITKReader
from tests.data.files import BIG, DEFLATED, EXPLICIT, IMPLICIT, JPEG, dicom, halved, numbers, place, slices

PIXELS = np.random.default_rng(0).integers(0, 4000, (6, 5)).astype(np.uint16)  # rows, columns
FRAMES = np.random.default_rng(0).integers(0, 4000, (4, 6, 5)).astype(np.uint16)
SERIES, ORIENTATION, SPACING, DETECTOR, COLOURS, MODALITY = (
    0x0020000E,
    0x00200037,
    0x00280030,
    0x00181164,
    0x00280004,
    0x00080060,
)
CORONAL = (1, 0, 0, 0, 0, -1)


def got(path, **options):
    reader = SimpleITKReader(affine_lps_to_ras=False, **options)
    return reader.get_data(reader.read(path))


def require_refused(path, message):
    with pytest.raises(ValueError, match=message) as error:
        SimpleITKReader().read(path)
    assert re.search(r"^`\w+` must be .+, got .+[^.]\.?$", str(error.value))
    with pytest.raises(ValueError, match=message):
        LoadImage(reader=SimpleITKReader())(path)


def test_one_slice_is_a_plane(tmp_path):
    path = dicom(tmp_path / "dx" / "1.dcm", PIXELS, {SPACING: numbers(0.2, 0.3)})
    for place_ in (path, path.parent):
        array, meta = got(place_)
        np.testing.assert_array_equal(array, PIXELS.T)
        np.testing.assert_allclose(meta["affine"], np.diag([0.3, 0.2, 1]))  # rows apart first, that is along y
        assert meta["spatial_shape"].tolist() == [5, 6]
        assert meta["0008|0060"].strip() == "CT" or place_ != path
    assert LoadImage(reader=SimpleITKReader, ensure_channel_first=True)(path).shape == (1, 5, 6)


def test_a_plane_lies_where_it_says(tmp_path):
    _, meta = got(dicom(tmp_path / "axial.dcm", PIXELS, place((10, -20, 30), (0, 1, 0, -1, 0, 0))))
    np.testing.assert_allclose(meta["affine"], [[0, -1, 10], [1, 0, -20], [0, 0, 1]], atol=1e-9)
    with pytest.warns(UserWarning, match=r"coronal\.dcm' is one slice that is not axial"):
        _, meta = got(dicom(tmp_path / "coronal.dcm", PIXELS, place((10, -20, 30), CORONAL)))
    np.testing.assert_allclose(meta["affine"], np.eye(3), atol=1e-9)


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG, DEFLATED])
@pytest.mark.parametrize("tilt", [0.0, 1.3])
def test_slices_lie_where_they_say(tmp_path, syntax, tilt):
    """Written from the last to the first; with a tilted gantry each is shifted against the one before."""
    for k in range(5):
        where = place((3, -4 + tilt * k, 7 + 5 * k))
        dicom(tmp_path / f"{9 - k}.dcm", np.full((6, 5), k, np.int16), where | {SPACING: numbers(0.5, 2)}, syntax)
    array, meta = got(tmp_path)
    assert array.shape == (5, 6, 5)
    assert array[0, 0].tolist() == [0, 1, 2, 3, 4]
    expected = [[2, 0, 0, 3], [0, 0.5, tilt, -4], [0, 0, 5, 7], [0, 0, 0, 1]]
    np.testing.assert_allclose(meta["affine"], expected, atol=1e-9)
    np.testing.assert_allclose(
        LoadImage(reader=SimpleITKReader)(tmp_path).affine, np.diag([-1, -1, 1, 1]) @ np.array(expected)
    )


def test_coronal_slices(tmp_path):
    slices(tmp_path, [(0, 2.5 * k, 0) for k in range(4)], tags={ORIENTATION: numbers(*CORONAL)})
    array, meta = got(tmp_path)
    np.testing.assert_allclose(meta["affine"][:3, :3], [[1, 0, 0], [0, 0, 2.5], [0, -1, 0]], atol=1e-9)
    assert array[0, 0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("heights", "message"),
    [
        ([0, 5, 10, 20, 25], r"with 10 mm between slices 002\.dcm and 003\.dcm, 5 mm being usual"),
        ([0, 5, 15, 20, 25, 30], r"with 10 mm between slices 001\.dcm and 002\.dcm"),
        ([0, 1, 2, 3.3, 4], "at regular distances"),
        ([0, 5, 5, 10], r"with slices 001\.dcm and 002\.dcm at the same place"),
        ([0, 5, 10, 0, 5, 10], "at the same place"),
    ],
)
def test_irregular_slices_are_refused(tmp_path, heights, message):
    require_refused(slices(tmp_path / "ct", [(0, 0, z) for z in heights]), message)


def test_small_errors_of_positions_are_taken(tmp_path):
    slices(tmp_path, [(0, 0, round(k * 0.6251, 2)) for k in range(40)])
    np.testing.assert_allclose(got(tmp_path)[1]["affine"][2, 2], 0.625, atol=1e-3)


@pytest.mark.parametrize(
    ("pixels", "tags", "message"),
    [
        (np.zeros((5, 5), np.int16), {}, r"x\.dcm' of another size than '000\.dcm'"),
        (None, {ORIENTATION: numbers(0, 1, 0, 0, 0, -1)}, r"x\.dcm' of another orientation than '000\.dcm'"),
        (None, {SPACING: numbers(1, 2)}, r"x\.dcm' of another spacing than"),
        (None, {0x00200032: None}, r"x\.dcm' with no position \(ImagePositionPatient\)"),
        (np.zeros((2, 5, 4), np.int16), {}, r"x\.dcm' with several frames"),
        (None, {0x00200032: numbers(1, 2)}, r"x\.dcm' with '1\\2', .*|a file with 3 numbers in tag 00200032"),
        (None, {ORIENTATION: numbers(1, 0, 0, 1, 0, 0)}, "a file with ImageOrientationPatient at right angles"),
    ],
)
def test_slices_unlike_the_others_are_refused(tmp_path, pixels, tags, message):
    slices(tmp_path / "ct", [(0, 0, k) for k in range(3)])
    dicom(tmp_path / "ct" / "x.dcm", np.zeros((5, 4), np.int16) if pixels is None else pixels, place((0, 0, 3)) | tags)
    require_refused(tmp_path / "ct", message)


def test_slices_of_almost_the_same_size_are_refused(tmp_path):
    for k in range(2):
        dicom(tmp_path / f"{k}.dcm", np.zeros((1000 + k, 2), np.uint8), place((0, 0, k)))
    require_refused(tmp_path, r"1\.dcm' of another size than '0\.dcm'")


def test_files_that_are_no_image_are_passed_over(tmp_path):
    slices(tmp_path, [(0, 0, k) for k in range(3)])
    dicom(tmp_path / "report.dcm", PIXELS, {0x7FE00010: None, 0x00280010: None, SERIES: ("UI", "1.2.9")})
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "._000.dcm").write_bytes(b"of another system")
    assert got(tmp_path)[0].shape == (4, 5, 3)


def test_a_broken_slice_is_not_dropped(tmp_path):
    slices(tmp_path, [(0, 0, k) for k in range(3)])
    halved(tmp_path / "001.dcm", 0.97)
    require_refused(tmp_path, r"001\.dcm': it has \d+ bytes of pixels of 40")
    dicom(tmp_path / "001.dcm", PIXELS, place((0, 0, 1)) | {0x7FE00010: None})
    require_refused(tmp_path, r"001\.dcm': it is cut off, or has no pixels")
    (tmp_path / "001.dcm").write_bytes(b"")
    require_refused(tmp_path, r"001\.dcm': it has no header of DICOM")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG, DEFLATED])
def test_the_end_is_missing(tmp_path, share, syntax):
    path = halved(dicom(tmp_path / "1.dcm", np.tile(PIXELS, (9, 9)), syntax=syntax), share)
    require_refused(path, re.escape(f"SimpleITK can read, got '{path}': "))


def test_the_end_of_compressed_pixels_is_missing(tmp_path):
    item = b"\xfe\xff\x00\xe0"
    fragments = item + b"\0\0\0\0" + item + b"\x40\0\0\0" + bytes(64) + b"\xfe\xff\xdd\xe0\0\0\0\0"
    path = dicom(tmp_path / "1.dcm", PIXELS, {0x7FE00010: ("OW", fragments)}, JPEG)
    data = path.read_bytes()
    at = data.index(fragments)
    path.write_bytes(data[: at - 4] + b"\xff\xff\xff\xff" + fragments[:-20])
    require_refused(path, "it is cut off")


@pytest.mark.parametrize("tags", [{SPACING: None}, {SPACING: None, DETECTOR: None, MODALITY: ("CS", "US")}])
def test_no_millimetres(tmp_path, tags):
    with pytest.warns(UserWarning, match=r"1\.dcm' says no spacing: a pixel is taken as 1 mm"):
        assert got(dicom(tmp_path / "1.dcm", PIXELS, tags))[1]["spacing"].tolist() == [1, 1]


def test_spacing_of_the_detector_and_of_the_pixels(tmp_path):
    detector = {DETECTOR: numbers(0.2, 0.4), 0x00080016: ("UI", "1.2.840.10008.5.1.4.1.1.1.1")}
    _, meta = got(dicom(tmp_path / "1.dcm", PIXELS, detector | {SPACING: None}))
    np.testing.assert_allclose(meta["spacing"], [0.4, 0.2])
    with pytest.warns(UserWarning, match="has two spacings"):
        _, meta = got(dicom(tmp_path / "2.dcm", PIXELS, detector | {SPACING: numbers(0.15, 0.3)}))
    np.testing.assert_allclose(meta["spacing"], [0.3, 0.15])
    require_refused(dicom(tmp_path / "3.dcm", PIXELS, {SPACING: numbers(0, 1)}), "a file with spacings above 0")


def test_values_are_rescaled_slice_by_slice(tmp_path):
    """As in PET; the first has a slope of one, so that its own type would be of whole numbers."""
    for k, slope in enumerate([1, 0.25, 0.5]):
        tags = place((0, 0, k)) | {0x00281052: numbers(-8), 0x00281053: numbers(slope)}
        dicom(tmp_path / f"{k}.dcm", PIXELS, tags)
    array, _ = got(tmp_path)
    np.testing.assert_array_equal(array, np.stack([PIXELS.T * slope - 8 for slope in (1, 0.25, 0.5)], -1))


def test_a_slope_that_is_no_number_is_refused(tmp_path):
    path = dicom(tmp_path / "1.dcm", PIXELS, {0x00281052: numbers(0), 0x00281053: ("DS", "1,5")})
    require_refused(path, "a file with 1 number in tag 00281053, got '.*' with '1,5'")


def test_names_that_are_no_utf_8(tmp_path):
    slices(tmp_path, [(0, 0, k) for k in range(3)])
    try:
        (tmp_path / "001.dcm").rename(tmp_path / os.fsdecode(b"\xf6.dcm"))
    except OSError:
        pytest.skip("this file system takes no such name")
    require_refused(tmp_path, r"`data` must be a file whose name is in UTF-8, got '.*\\udcf6\.dcm'")


def test_signed_and_unsigned_slices(tmp_path):
    low, high = np.full((5, 4), -3, np.int16), np.full((5, 4), 60000, np.uint16)
    dicom(tmp_path / "0.dcm", high, place((0, 0, 0)))
    dicom(tmp_path / "1.dcm", low, place((0, 0, 1)))
    assert got(tmp_path)[0][0, 0].tolist() == [60000, -3]


def test_monochrome_1_is_turned(tmp_path):
    dark = {COLOURS: ("CS", "MONOCHROME1"), MODALITY: ("CS", "DX")}
    array, _ = got(dicom(tmp_path / "1.dcm", PIXELS, dark))
    np.testing.assert_array_equal(array, 65535 - PIXELS.T.astype(int))
    ct = dicom(tmp_path / "2.dcm", PIXELS, dark | {MODALITY: ("CS", "CT")})
    require_refused(ct, r"`data` must be values that are not turned, MONOCHROME2, in CT and PET, got '.*2\.dcm'")


def test_colours(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 255, (6, 5, 3)).astype(np.uint8)
    np.testing.assert_array_equal(got(dicom(tmp_path / "1.dcm", rgb))[0], np.swapaxes(rgb, 0, 1))
    grey = np.repeat(rgb[..., :1], 3, -1)
    array, meta = got(dicom(tmp_path / "2.dcm", grey))
    np.testing.assert_array_equal(array, grey[..., 0].T)
    assert meta["0028|0004"].strip() == "RGB"


def test_frames_without_positions(tmp_path):
    path = dicom(tmp_path / "1.dcm", FRAMES, {MODALITY: ("CS", "US"), SPACING: numbers(0.2, 0.3)})
    with pytest.warns(UserWarning, match="says no positions of its frames: they are taken as 1 mm apart"):
        array, meta = got(path)
    np.testing.assert_array_equal(array, FRAMES.T)
    np.testing.assert_allclose(meta["spacing"], [0.3, 0.2, 1])


def enhanced(path, heights, **options):
    """A multi-frame CT with its geometry in functional groups."""
    orientation = {0x00209116: ("SQ", [{ORIENTATION: numbers(1, 0, 0, 0, 1, 0)}])}
    measures = {0x00289110: ("SQ", [{SPACING: numbers(0.5, 0.75), 0x00180050: numbers(9)}])}
    frames = [{0x00209113: ("SQ", [{0x00200032: numbers(1, 2, z)}])} for z in heights]
    if options.get("turned"):
        frames[1] |= {0x00209116: ("SQ", [{ORIENTATION: numbers(0, 1, 0, -1, 0, 0)}])}
        frames[0] |= orientation
        orientation = {}
    for frame, slope in zip(frames, options.get("slopes", ()), strict=False):
        frame[0x00289145] = ("SQ", [{0x00281052: numbers(-5), 0x00281053: numbers(slope)}])
    tags = {
        0x00080016: ("UI", "1.2.840.10008.5.1.4.1.1.2.1"),
        SPACING: None,
        0x52009229: ("SQ", [orientation | measures]),
        0x52009230: ("SQ", frames),
    }
    return dicom(path, FRAMES, tags, options.get("syntax", EXPLICIT))


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG])
@pytest.mark.parametrize("heights", [(0, 2.5, 5, 7.5), (7.5, 5, 2.5, 0)])
def test_frames_lie_where_they_say(tmp_path, heights, syntax):
    array, meta = got(enhanced(tmp_path / "1.dcm", heights, syntax=syntax))
    np.testing.assert_array_equal(array, FRAMES.T)
    for k, z in enumerate(heights):
        np.testing.assert_allclose(meta["affine"] @ [4, 2, k, 1], [1 + 4 * 0.75, 2 + 2 * 0.5, z, 1], atol=1e-6)


@pytest.mark.parametrize(
    ("heights", "options", "message"),
    [
        ((0, 2.5, 2.5, 5), {}, "with slices 2 and 3 at the same place"),
        ((0, 5, 2.5, 7.5), {}, "at regular distances"),
        ((0, 2.5, 5, 10), {}, "with 5 mm between slices 3 and 4, 2.5 mm being usual"),
        ((0, 2.5, 5, 7.5), {"turned": True}, "with frames of different orientation"),
        ((0, 2.5, 5, 7.5), {"slopes": (1, 2, 1, 1)}, "with frames that are rescaled differently"),
    ],
)
def test_irregular_frames_are_refused(tmp_path, heights, options, message):
    require_refused(enhanced(tmp_path / "1.dcm", heights, **options), message)


def test_frames_that_are_rescaled_alike(tmp_path):
    array, _ = got(enhanced(tmp_path / "1.dcm", (0, 2.5, 5, 7.5), slopes=(2, 2, 2, 2)))
    np.testing.assert_array_equal(array, 2.0 * FRAMES.T - 5)


def test_slices_side_by_side_are_refused(tmp_path):
    tags = {0x00080008: ("CS", "ORIGINAL\\PRIMARY\\M\\ND\\MOSAIC"), MODALITY: ("CS", "MR")}
    require_refused(dicom(tmp_path / "1.dcm", PIXELS, tags), r"with all slices side by side \(MOSAIC\)")


def test_a_curve_of_values_is_said_not_to_be_applied(tmp_path):
    curve = {0x00283002: ("UN", b"\2\0\0\0\20\0"), 0x00283006: ("OW", b"\1\0\0\0")}
    with pytest.warns(UserWarning, match="has a curve for its values"):
        array, _ = got(dicom(tmp_path / "1.dcm", PIXELS, {0x00283000: ("SQ", [curve])}))
    np.testing.assert_array_equal(array, PIXELS.T)


def test_frames_of_a_dose(tmp_path):
    tags = place((1, 2, 3)) | {0x3004000C: numbers(0, 4, 8, 12)}
    _, meta = got(dicom(tmp_path / "1.dcm", FRAMES, tags))
    np.testing.assert_allclose(meta["affine"] @ [0, 0, 3, 1], [1, 2, 15, 1])


@pytest.mark.parametrize("name", ["IM_0001", "1.2.840.113", "a.IMA", "a.dcm", "a.DCM"])
def test_names_of_files(tmp_path, name):
    path = dicom(tmp_path / name, PIXELS)
    assert SimpleITKReader().verify_suffix(path)
    np.testing.assert_array_equal(LoadImage(reader=SimpleITKReader)(path), PIXELS.T)
    np.testing.assert_array_equal(LoadImage(reader=SimpleITKReader)(path.parent), PIXELS.T)
