"""The reader on NIfTI, pictures and cut files that are made at random, against nibabel and Pillow."""

from __future__ import annotations

import io
import warnings
from itertools import permutations

import numpy as np
import pytest

pytest.importorskip("hypothesis", reason="fuzz tests need hypothesis")

import nibabel as nib
import SimpleITK as sitk
from hypothesis import strategies as st
from monai.transforms import LoadImage

from monai_infoaug.data import SimpleITKReader
from monai_infoaug.data._grids import Grid, misfit, shows_its_place
from monai_infoaug.data._headers import image_header
from tests.data.files import dicom
from tests.fuzz.fuzzing import REFUSED, as_numpy, fuzz, odd_values, outcome, seeds

TYPES = st.sampled_from(["u1", "i1", "<u2", ">u2", "<i2", ">i2", "i4", ">f4", "f4", "f8", "i8", "u4"])
READ = LoadImage(reader=SimpleITKReader(), image_only=True, dtype=None)


def array_of(draw, kind, most=6):
    shape = draw(st.tuples(*[st.integers(1, most)] * draw(st.sampled_from([2, 3, 3, 3, 4]))))
    random = np.random.default_rng(draw(seeds))
    return random.integers(0, 120, shape).astype(kind)


@st.composite
def nifti(draw: st.DrawFn):
    """A NIfTI file with a header that is odd, as bytes."""
    array, random = array_of(draw, draw(TYPES)), np.random.default_rng(draw(seeds))
    affine = np.eye(4)
    affine[:3, :3] = np.linalg.qr(random.normal(size=(3, 3)))[0] @ np.diag(random.uniform(0.1, 5, 3))
    affine[:3, 3] = random.normal(size=3) * 100
    if draw(st.booleans()):
        affine[:3, :3] = np.diag(draw(st.sampled_from([(1, 1, 1), (-1, 1, 2), (0.5, 0.5, -3)])))
    image = nib.Nifti1Image(array, affine, dtype=array.dtype)
    header = image.header
    header.set_slope_inter(*draw(st.sampled_from([(None, None), (1, 0), (2, -1024), (-0.5, 0), (1e-3, 7)])))
    header["xyzt_units"] = draw(st.sampled_from([0, 2, 2, 10, 1, 3]))
    image.set_sform(affine, draw(st.sampled_from([0, 1, 2])))
    qform = affine.copy()
    qform[0, 3] += draw(st.sampled_from([0, 0, 5]))
    image.set_qform(qform, draw(st.sampled_from([0, 1])))
    return image.to_bytes()


@fuzz(content=nifti(), gz=st.booleans())
def test_nifti_is_read_as_by_nibabel(content, gz, tmp_path_factory):
    path = tmp_path_factory.mktemp("nifti") / "a.nii"
    path.write_bytes(content)
    known = nib.load(path)
    if gz:
        path = path.with_suffix(".nii.gz")
        nib.save(nib.load(path.with_suffix("")), path)
        known = nib.load(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        values, affine = known.get_fdata(), known.affine.copy()
    found = outcome(lambda: READ(path))
    singular = not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9
    assert (found is not REFUSED) or singular
    if found is REFUSED:
        return
    affine[:3] *= {1: 1e3, 3: 1e-3}.get(int(known.header["xyzt_units"]) & 7, 1)
    size = [n for n in found.shape if n > 1]
    assert size == [n for n in values.shape if n > 1]
    np.testing.assert_allclose(as_numpy(found).reshape(values.shape), values, rtol=1e-5, atol=1e-4)
    if len(found.affine) == 4 and found.meta["spatial_shape"].size == 3:
        np.testing.assert_allclose(as_numpy(found.affine), affine, rtol=1e-4, atol=1e-3)
    header = image_header(path)
    assert tuple(found.meta["spatial_shape"].tolist()) in (header.grid.shape, (*header.grid.shape, 1))
    place = Grid(header.grid.shape, np.diag([-1, -1, *[1] * (len(found.affine) - 2)]) @ as_numpy(found.affine))
    np.testing.assert_allclose(header.grid.matrix, place.matrix, rtol=1e-4, atol=1e-3)


@fuzz(data=st.data(), seed=seeds)
def test_a_label_of_another_resolution_or_extent_shows_its_place_but_one_that_was_moved_does_not(data, seed):
    random, dims = np.random.default_rng(seed), data.draw(st.sampled_from([2, 3]))
    size, affine = random.integers(4, 30, dims), np.eye(4)
    affine[:dims, :dims] = np.linalg.qr(random.normal(size=(dims, dims)))[0] * random.uniform(0.2, 4, dims)
    affine[:3, 3] = random.normal(size=3) * 100
    image, change, order = Grid(tuple(size.tolist()), affine), np.eye(4), random.permutation(dims)
    start = random.integers(0, size - 2)
    extent = random.integers(2, size - start + 1)
    factor = random.choice([0.5, 1, 1.7, 3], dims)  # of a voxel of the label to one of the image
    shape = np.ceil(extent / factor).astype(int)[order]
    change[:dims, :dims] = np.diag(factor)[:, order]
    change[:dims, 3] = start + factor / 2 - 0.5  # the outer corners lie in one place
    label = Grid(tuple(shape.tolist()), affine @ change)
    assert outcome(lambda: shows_its_place(label, image)) or shape.tolist() in [list(p) for p in permutations(size)]
    assert outcome(lambda: misfit(label, image)) != "" or np.allclose(label.matrix, image.matrix)
    change[:dims, 3] += (size + 2 * factor) * random.choice([-1, 1])
    assert not outcome(lambda: shows_its_place(label._replace(affine=affine @ change), image))


PNGS = ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"]


@fuzz(data=st.data(), suffix=st.sampled_from([".png", ".png", ".jpg", ".bmp", ".tif"]))
def test_pictures_are_read_as_by_pillow(data, suffix, tmp_path_factory):
    Image = pytest.importorskip("PIL.Image")
    modes = {
        ".png": PNGS,
        ".jpg": ["L", "RGB", "CMYK"],
        ".bmp": ["1", "L", "P", "RGB"],
        ".tif": ["L", "RGB", "I;16", "F"],
    }
    mode, random = data.draw(st.sampled_from(modes[suffix])), np.random.default_rng(data.draw(seeds))
    size = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    if mode in ("I;16", "F"):
        picture = Image.fromarray(random.integers(0, 60000, size).astype("u2" if mode == "I;16" else "f4"))
    else:
        picture = Image.fromarray(random.integers(0, 256, (*size, 4)).astype("u1"), "RGBA")
        picture = (picture if mode in ("LA", "RGBA") else picture.convert("RGB")).convert(mode)
        if mode in ("LA", "RGBA") and (opaque := data.draw(st.booleans())):
            picture.putalpha(255)
    path = tmp_path_factory.mktemp("pictures") / f"a{suffix}"
    settings = {"dpi": (300, 300)} if data.draw(st.booleans()) else {}
    settings |= {"subsampling": 0} if suffix == ".jpg" else {}  # colours between pixels are left to the decoder
    picture.save(path, **settings)
    found = outcome(lambda: READ(path))
    transparent = mode in ("LA", "RGBA") and not opaque
    assert (found is not REFUSED) == (not transparent and mode != "CMYK")
    if found is REFUSED:
        return
    with Image.open(path) as file:
        shown = file.convert("RGB") if mode == "P" else file.copy()
    if mode in ("LA", "RGBA"):
        shown = shown.convert(mode[:-1])
    expected = np.asarray(shown).astype(float).swapaxes(0, 1)
    if expected.ndim == 3 and (expected == expected[..., :1]).all():
        expected = expected[..., 0]
    slack = 3 if suffix == ".jpg" else 0  # two decoders
    assert np.abs(as_numpy(found).reshape(expected.shape) - expected).max() <= slack
    assert np.allclose(as_numpy(found.pixdim), 1)


def whole_files(folder, random):
    """A small file of each format."""
    array = random.integers(0, 255, (6, 7, 5)).astype("u1")
    image = sitk.GetImageFromArray(array)
    for suffix in ("mha", "nrrd", "nii", "nii.gz"):
        sitk.WriteImage(image, str(folder / f"a.{suffix}"), useCompression=suffix != "nii")
    for suffix in ("png", "jpg", "bmp", "tif"):
        sitk.WriteImage(sitk.GetImageFromArray(array[0]), str(folder / f"a.{suffix}"))
    dicom(folder / "a.dcm", array[0].astype("u2"))
    return sorted(folder.iterdir())


@fuzz(data=st.data(), seed=st.integers(0, 3))
def test_a_cut_file_is_refused(data, seed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cut")
    path = data.draw(st.sampled_from(whole_files(folder, np.random.default_rng(seed))), label="file")
    whole, before = path.read_bytes(), as_numpy(READ(path))
    share = data.draw(st.floats(0, 1, exclude_max=True), label="share")
    path.write_bytes(whole[: min(int(share * len(whole)), len(whole) - 1)])
    found = outcome(lambda: READ(path))
    assert found is REFUSED or np.array_equal(as_numpy(found), before)  # nothing but the end of a JPEG, say, is gone


@fuzz(data=st.data(), seed=st.integers(0, 3))
def test_a_flipped_byte_is_read_or_refused(data, seed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("flipped")
    path = data.draw(st.sampled_from(whole_files(folder, np.random.default_rng(seed))), label="file")
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, 399), label="byte")
    content[at % len(content)] ^= 1 << data.draw(st.integers(0, 2))
    path.write_bytes(content)
    found = outcome(lambda: READ(path))
    assert found is REFUSED or found.ndim >= 2


@fuzz(
    data=st.data(),
    name=st.sampled_from(["a.png", "a.nii", "a.nii.gz", "a.mha", "a.dcm", "a.jpg", "a.nrrd", "a.txt", "a"]),
)
def test_noise_is_refused(data, name, tmp_path_factory):
    path = tmp_path_factory.mktemp("noise") / name
    starts = [
        b"",
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff",
        b"BM",
        b"II*\0",
        b"\x1f\x8b",
        b"NRRD0004\n",
        b"ObjectType = Image\n",
        b"\0" * 128 + b"DICM",
    ]
    path.write_bytes(data.draw(st.sampled_from(starts)) + data.draw(st.binary(max_size=200)))
    assert outcome(lambda: SimpleITKReader().read(str(path))) is REFUSED


@fuzz(data=st.data(), argument=st.sampled_from(["channel_dim", "series_uid", "reverse_indexing", "series_meta"]))
def test_odd_arguments_of_the_reader(data, argument, tmp_path_factory):
    path = tmp_path_factory.mktemp("reader") / "a.mha"
    sitk.WriteImage(sitk.Image([4, 3, 2], sitk.sitkUInt8), str(path))
    reader = outcome(lambda: SimpleITKReader(**{argument: data.draw(odd_values)}))
    if reader is not REFUSED:
        outcome(lambda: reader.get_data(reader.read(path)))


@fuzz(data=st.data())
def test_odd_paths(data):
    outcome(lambda: SimpleITKReader().read(data.draw(odd_values)))


def test_streams_are_no_files():
    assert outcome(lambda: SimpleITKReader().read(io.BytesIO())) is REFUSED
