from __future__ import annotations

import re

import numpy as np
import pytest
import SimpleITK as sitk
from monai.transforms import LoadImage

from monai_infoaug.data import SimpleITKReader
from tests.data.files import halved


def written(path, packed=False):
    values = np.random.default_rng(0).integers(0, 999, (20, 10, 30)).astype(np.int16)
    sitk.WriteImage(sitk.GetImageFromArray(values), path, useCompression=packed)
    return path


@pytest.mark.parametrize("name", ["a.mha", "a.mhd", "a.nrrd"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("share", [0.6, 0.95])
def test_the_end_is_missing(tmp_path, name, packed, share):
    path = written(tmp_path / name, packed)
    SimpleITKReader().read(path)
    halved(path.with_suffix((".zraw" if packed else ".raw") if name == "a.mhd" else path.suffix), share)
    for read in (SimpleITKReader().read, LoadImage(reader=SimpleITKReader)):
        with pytest.raises(ValueError, match=re.escape(f"that SimpleITK can read, got '{path}': ")):
            read(path)


def test_pixels_are_missing_or_more_than_the_header_says(tmp_path):
    path = written(tmp_path / "a.mhd")
    with open(tmp_path / "a.raw", "ab") as file:
        file.write(b"more")
    with pytest.raises(ValueError, match=r"a\.mhd': 'a\.raw' has 12004 bytes of pixels, not 12000"):
        SimpleITKReader().read(path)
    (tmp_path / "a.raw").unlink()
    with pytest.raises(ValueError, match=r"a\.mhd': '.*a\.raw' with its pixels does not exist"):
        SimpleITKReader().read(path)


@pytest.mark.parametrize(("skipped", "before"), [(7, 7), (-1, 5)])
def test_pixels_after_another_header(tmp_path, skipped, before):
    path = written(tmp_path / "a.mhd")
    whole = sitk.GetArrayFromImage(sitk.ReadImage(path)).T
    raw = tmp_path / "a.raw"
    raw.write_bytes(b"x" * before + raw.read_bytes())
    path.write_text(path.read_text().replace("ElementDataFile", f"HeaderSize = {skipped}\nElementDataFile"))
    reader = SimpleITKReader()
    np.testing.assert_array_equal(reader.get_data(reader.read(path))[0], whole)


def test_no_millimetres(tmp_path):
    path = written(tmp_path / "a.mhd")
    path.write_text(re.sub("ElementSpacing.*\n", "", path.read_text()))
    with pytest.warns(UserWarning, match=r"a\.mhd' says no spacing: a pixel is taken as 1 mm"):
        SimpleITKReader().read(path)


def test_meta_image_in_other_units(tmp_path):
    for name, units in (("a", "mm"), ("b", "cm")):
        path = written(tmp_path / f"{name}.mhd")
        path.write_text(path.read_text().replace("ElementSpacing", f"DistanceUnits = {units}\nElementSpacing"))
    SimpleITKReader().read(tmp_path / "a.mhd")
    with pytest.raises(ValueError, match=r"`data` must be an image in mm, got '.*b\.mhd' in cm"):
        LoadImage(reader=SimpleITKReader)(tmp_path / "b.mhd")


def nrrd(path, header):
    values = np.arange(24, dtype=np.int16)
    lines = ["NRRD0004", "type: short", "dimension: 3", "sizes: 4 3 2", "endian: little", "encoding: raw", *header]
    path.write_bytes("\n".join([*lines, "", ""]).encode() + values.tobytes())
    return path


@pytest.mark.parametrize("units", ["space units", "units"])
def test_nrrd_in_other_units(tmp_path, units):
    header = (
        ["spacings: 5 5 5"] if units == "units" else ["space dimension: 3", "space directions: (5,0,0) (0,5,0) (0,0,5)"]
    )
    SimpleITKReader().read(nrrd(tmp_path / "a.nrrd", [*header, f'{units}: "mm" "mm" "mm"']))
    with pytest.raises(ValueError, match=r"`data` must be an image in mm, got '.*b\.nrrd' in um"):
        LoadImage(reader=SimpleITKReader)(nrrd(tmp_path / "b.nrrd", [*header, f'{units}: "um" "um" "um"']))


def test_nrrd_without_spacing(tmp_path):
    with pytest.warns(UserWarning, match=r"a\.nrrd' says no spacing: a pixel is taken as 1 mm"):
        SimpleITKReader().read(nrrd(tmp_path / "a.nrrd", []))


@pytest.mark.parametrize("name", ["a.mha", "a.nii.gz", "a.nrrd", "a.tif"])
def test_values_that_are_not_finite_are_named(tmp_path, name):
    values = np.full((4, 5) if name == "a.tif" else (3, 4, 5), 1e38, np.float32)
    sitk.WriteImage(sitk.GetImageFromArray(values), tmp_path / name)
    SimpleITKReader().read(tmp_path / name)
    values[..., 2, 2:4] = np.nan, np.inf
    sitk.WriteImage(sitk.GetImageFromArray(values), tmp_path / name)
    with pytest.warns(UserWarning, match=rf"{name}' has {values[..., 2, 2:4].size} values that are NaN or infinite"):
        SimpleITKReader().read(tmp_path / name)


@pytest.mark.parametrize("field", [b"DimSize = 30 10 20", b"CompressedData = False\n"])
def test_numbers_that_are_none(tmp_path, field):
    path = written(tmp_path / "a.mha")
    broken = {b"D": b"DimSize = 30 $0 20", b"C": field + b"HeaderSize = x\n"}[field[:1]]
    path.write_bytes(path.read_bytes().replace(field, broken))
    with pytest.raises(ValueError, match=r"a\.mha': its header is broken"):
        SimpleITKReader().read(path)
