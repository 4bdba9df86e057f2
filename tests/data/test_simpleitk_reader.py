from __future__ import annotations

import os
import pickle
import re

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.bundle import ConfigParser
from monai.data import DataLoader, Dataset, NibabelReader, PILReader
from monai.transforms import Compose, EnsureChannelFirstd, LoadImage, LoadImaged

from monai_infoaug.data import SimpleITKReader


def turned(dims: int) -> np.ndarray:
    """Affine in RAS with a rotation, three spacings and an origin."""
    rotation, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(dims, dims)))
    affine = np.eye(4)
    affine[:dims, :dims] = rotation @ np.diag([0.5, 2.0, 1.25][:dims])
    affine[:dims, 3] = [10, -20, 30][:dims]
    return affine


def made(path, size=(5, 4, 3), components=1, dtype=np.int16, geometry=True):
    """Write an image of random values; return its array with axis 0 = x, components last."""
    values = np.random.default_rng(0).integers(0, 200, (*size, components)).astype(dtype)
    array = values if components > 1 else values[..., 0]
    zyx = np.moveaxis(array.T, 0, -1) if components > 1 else array.T
    image = sitk.GetImageFromArray(zyx, isVector=components > 1)
    dims = min(len(size), 3)
    if geometry:
        affine = turned(dims)
        affine[:2] *= -1  # ITK is in LPS
        spacing = np.linalg.norm(affine[:dims, :dims], axis=0)
        direction = np.eye(len(size))
        direction[:dims, :dims] = affine[:dims, :dims] / spacing
        image.SetSpacing([*spacing, 1][: len(size)])
        image.SetOrigin([*affine[:dims, 3], 0][: len(size)])
        image.SetDirection(direction.ravel().tolist())
    sitk.WriteImage(image, path)
    return array


def got(reader, path):
    return reader.get_data(reader.read(path))


def write_series(folder, affine, volume, uid):
    """A DICOM series whose file names are in another order than its slices; tags of the geometry are in LPS."""
    lps = np.diag([-1, -1, 1, 1]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    directions = (lps[:3, :3] / spacing).T
    folder.mkdir(exist_ok=True)
    for k in range(volume.shape[2]):
        image = sitk.GetImageFromArray(volume[:, :, k : k + 1].T)
        image.SetSpacing(spacing.tolist())
        tags = {
            "0008|0060": "CT",
            "0010|0010": "Nobody",
            "0020|000d": "1.2.3",
            "0020|000e": uid,
            "0020|0032": "\\".join(f"{x:.6f}" for x in lps[:3, :3] @ [0, 0, k] + lps[:3, 3]),
            "0020|0037": "\\".join(f"{x:.10f}" for x in directions[:2].ravel()),
            "0020|0013": str(k),
        }
        for key, value in tags.items():
            image.SetMetaData(key, value)
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetFileName(str(folder / f"{uid}.{(k + 2) % volume.shape[2]}.dcm"))
        writer.Execute(image)


@pytest.mark.parametrize("size", [(5, 4, 3), (5, 4), (5, 4, 3, 2)])
@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.uint8])
def test_nifti_as_nibabel_reads_it(tmp_path, size, dtype):
    """Written by NiBabel too, so that it is the authority on array order and affine."""
    array, dims = np.random.default_rng(0).integers(0, 200, size).astype(dtype), min(len(size), 3)
    nib.save(nib.Nifti1Image(array, turned(dims)), tmp_path / "a.nii.gz")
    (ours, meta), (theirs, expected) = (got(r, tmp_path / "a.nii.gz") for r in (SimpleITKReader(), NibabelReader()))
    assert ours.shape == size
    assert ours.dtype == dtype
    np.testing.assert_array_equal(ours, theirs)
    corner = np.ix_([*range(dims), -1], [*range(dims), -1])  # NiBabel gives planes four rows too
    for key in ("affine", "original_affine"):
        assert meta[key].shape == (dims + 1, dims + 1)
        np.testing.assert_allclose(meta[key], expected[key][corner], atol=1e-5)
        np.testing.assert_allclose(meta[key], turned(dims)[corner], atol=1e-5)
    assert meta["spatial_shape"].tolist() == list(size[:dims]) == expected["spatial_shape"].tolist()[:dims]
    assert meta["space"] == expected["space"] == "RAS"
    np.testing.assert_equal(meta["original_channel_dim"], expected["original_channel_dim"])
    loaded = [
        LoadImage(reader=r, ensure_channel_first=True)(tmp_path / "a.nii.gz") for r in (SimpleITKReader, NibabelReader)
    ]
    assert torch.equal(*(torch.as_tensor(image) for image in loaded))


@pytest.mark.parametrize("suffix", [".mha", ".mhd", ".nrrd", ".nii", ".nii.gz"])
@pytest.mark.parametrize(("size", "components"), [((5, 4, 3), 1), ((5, 4, 3), 2), ((5, 4), 1), ((5, 4), 3)])
def test_array_and_affine_of_medical_formats(tmp_path, suffix, size, components):
    array = made(tmp_path / f"a{suffix}", size, components, np.float32)
    ours, meta = got(SimpleITKReader(), tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(ours, array)
    dims = len(size)
    keep = [*range(dims), 3]
    np.testing.assert_allclose(meta["affine"], turned(dims)[np.ix_(keep, keep)], atol=1e-5)
    assert meta["spatial_shape"].tolist() == list(size)
    np.testing.assert_equal(meta["original_channel_dim"], np.nan if components == 1 else -1)
    in_lps, lps = got(SimpleITKReader(reverse_indexing=True, affine_lps_to_ras=False), tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(np.moveaxis(in_lps, -1, 0).T if components > 1 else in_lps.T, array)
    image = sitk.ReadImage(tmp_path / f"a{suffix}")
    voxel = [3, 1, 2][:dims]
    np.testing.assert_allclose(lps["affine"] @ [*voxel, 1], [*image.TransformIndexToPhysicalPoint(voxel), 1], atol=1e-5)
    assert lps["space"] == "LPS"
    assert lps["spatial_shape"].tolist() == list(size)


@pytest.mark.parametrize(
    ("suffix", "components"), [(".png", 1), (".png", 3), (".tif", 1), (".tif", 3), (".bmp", 3), (".jpg", 1)]
)
def test_pictures_as_pil_reads_them(tmp_path, suffix, components):
    pytest.importorskip("PIL", reason="PILReader needs Pillow")
    path = tmp_path / f"a{suffix}"
    array = made(path, (16, 24), components, np.uint8, geometry=False)
    (ours, meta), (theirs, expected) = got(SimpleITKReader(), path), got(PILReader(), path)
    assert ours.dtype == theirs.dtype == np.uint8
    np.testing.assert_array_equal(ours, theirs)
    if suffix != ".jpg":
        np.testing.assert_array_equal(ours, array)
    assert meta["spatial_shape"].tolist() == expected["spatial_shape"].tolist() == [16, 24]
    np.testing.assert_equal(meta["original_channel_dim"], expected["original_channel_dim"])
    np.testing.assert_allclose(meta["affine"], np.diag([-1, -1, 1]), atol=1e-6)  # for ITK a plain picture is LPS


def test_colours_of_a_jpeg(tmp_path):
    """The decoders may differ by their interpolation of the colours."""
    pytest.importorskip("PIL", reason="PILReader needs Pillow")
    x, y = np.meshgrid(np.linspace(0, 255, 32), np.linspace(0, 255, 24))
    picture = np.stack([x, y, 255 - x], -1).astype(np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(picture, isVector=True), tmp_path / "a.jpg")
    ours, theirs = (got(reader, tmp_path / "a.jpg")[0].astype(int) for reader in (SimpleITKReader(), PILReader()))
    assert ours.shape == theirs.shape == (32, 24, 3)
    for read in (ours, theirs):
        np.testing.assert_allclose(read, np.moveaxis(picture, 0, 1), atol=12)


@pytest.mark.parametrize(("suffix", "size"), [(".nii.gz", (5, 4, 3)), (".nii.gz", (5, 4, 3, 2)), (".mha", (5, 4))])
@pytest.mark.parametrize("options", [{}, {"reverse_indexing": True}, {"channel_dim": 0}, {"affine_lps_to_ras": False}])
def test_as_monais_itk_reader(tmp_path, suffix, size, options):
    pytest.importorskip("itk")
    from monai.data import ITKReader

    made(tmp_path / f"a{suffix}", size, dtype=np.float32)
    readers = SimpleITKReader(**options), ITKReader(**options)
    (ours, meta), (theirs, expected) = (got(reader, tmp_path / f"a{suffix}") for reader in readers)
    np.testing.assert_array_equal(ours, theirs)
    assert ours.dtype == theirs.dtype
    assert set(expected) - set(meta) <= {"qto_xyz", "qfac"}
    for key, value in meta.items():
        np.testing.assert_equal(value, expected[key])


def test_dicom_series(tmp_path):
    volume = np.random.default_rng(0).integers(-1000, 2000, (5, 4, 4)).astype(np.int16)
    write_series(tmp_path / "ct", turned(3), volume, "1.2.5")
    ours, meta = got(SimpleITKReader(), tmp_path / "ct")
    np.testing.assert_array_equal(ours, volume)
    np.testing.assert_allclose(meta["affine"], turned(3), atol=1e-4)
    assert "0010|0010" not in meta
    _, tagged = got(SimpleITKReader(series_meta=True), tmp_path / "ct")
    assert tagged["0010|0010"].strip() == "Nobody"
    assert tagged["0020|0013"].strip() == "0"
    np.testing.assert_array_equal(tagged["affine"], meta["affine"])
    with pytest.warns(UserWarning, match="is one slice that is not axial"):
        single, _ = got(SimpleITKReader(), next((tmp_path / "ct").iterdir()))
    assert single.shape == (5, 4)


def test_folder_with_several_series(tmp_path):
    first, second = np.zeros((5, 4, 2), np.int16), np.ones((3, 4, 3), np.int16)
    write_series(tmp_path, turned(3), first, "1.2.5")
    write_series(tmp_path, turned(3), second, "1.2.6")
    for uid, volume in (("1.2.5", first), ("1.2.6", second)):
        np.testing.assert_array_equal(got(SimpleITKReader(series_uid=uid), tmp_path)[0], volume)
    for uid in (None, "1.2.7"):
        with pytest.raises(ValueError, match=rf"`series_uid` must be .* 1\.2\.5, 1\.2\.6, got {uid}"):
            SimpleITKReader(series_uid=uid).read(tmp_path)


def test_lists_are_stacked_as_by_monais_readers(tmp_path):
    files = [tmp_path / f"{i}.nii.gz" for i in range(3)]
    for i, path in enumerate(files):
        nib.save(nib.Nifti1Image(np.full((5, 4, 3), i, np.int16), turned(3)), path)
    (ours, meta), (theirs, expected) = got(SimpleITKReader(), files), got(NibabelReader(), files)
    np.testing.assert_array_equal(ours, theirs)
    assert meta["original_channel_dim"] == expected["original_channel_dim"] == 0
    assert ours.shape == (3, 5, 4, 3)
    nib.save(nib.Nifti1Image(np.zeros((5, 4, 3), np.int16), np.eye(4)), files[1])
    with pytest.raises(RuntimeError, match="affine matrix of all images should be the same"):
        got(SimpleITKReader(), files)
    for path in files:
        made(path.with_suffix(".mha"), components=2)
    assert got(SimpleITKReader(), [path.with_suffix(".mha") for path in files])[0].shape == (5, 4, 3, 6)


def test_channel_dim(tmp_path):
    made(tmp_path / "a.nii.gz", (2, 5, 4))
    _, meta = got(SimpleITKReader(channel_dim=0), tmp_path / "a.nii.gz")
    assert meta["original_channel_dim"] == 0
    assert meta["spatial_shape"].tolist() == [5, 4]
    assert np.isnan(got(SimpleITKReader("no_channel"), tmp_path / "a.nii.gz")[1]["original_channel_dim"])
    assert LoadImage(reader=SimpleITKReader, channel_dim=0, ensure_channel_first=True)(tmp_path / "a.nii.gz").shape == (
        2,
        5,
        4,
    )


@pytest.mark.parametrize("name", ["a.png", "a.nii.gz", "a.dcm", "a.mha"])
def test_missing_and_unreadable_files_are_named(tmp_path, name):
    path = re.escape(str(tmp_path / name))
    with pytest.raises(FileNotFoundError, match=rf"^`data` must be an existing file or folder, got '{path}'\.$"):
        SimpleITKReader().read(tmp_path / name)
    (tmp_path / name).write_bytes(b"no image" * 20)
    with pytest.raises(ValueError, match=rf"^`data` must be an image that SimpleITK can read, got '{path}': .+$"):
        SimpleITKReader().read([tmp_path / name])


def test_truncated_file_is_named(tmp_path):
    made(tmp_path / "a.png", (50, 40), dtype=np.uint8, geometry=False)
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:300])
    with pytest.raises(ValueError, match=rf"SimpleITK can read, got '{tmp_path}/a\.png': .+$"):
        SimpleITKReader().read(tmp_path / "a.png")


@pytest.mark.parametrize("name", ["a.png", "a.nii"])
def test_names_that_are_no_utf_8(tmp_path, name):
    name = os.fsdecode(b"R\xf6ntgen" + name.encode())
    try:
        made(tmp_path / "a.png", (5, 4), dtype=np.uint8).tofile(tmp_path / name)
    except OSError:
        pytest.skip("this file system takes no such name")
    for read in (SimpleITKReader().read, LoadImage(reader=SimpleITKReader)):
        with pytest.raises(
            ValueError, match=r"^`data` must be a file whose name is in UTF-8, got '.*R\\udcf6ntgen.*'\.$"
        ) as error:
            read(tmp_path / name)
        print(error.value)  # on any console


def test_a_list_with_a_broken_file(tmp_path):
    made(tmp_path / "a.png", (5, 4), dtype=np.uint8, geometry=False)
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:-30])
    for paths in ([tmp_path / "a.png", tmp_path / "b.png"], (tmp_path / "a.png", tmp_path / "b.png")):
        with pytest.raises(ValueError, match=r"b\.png': it is cut off"):
            LoadImage(reader=SimpleITKReader)(paths)


def test_files_of_other_kinds_are_left_to_other_readers(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((3, 2)))
    assert LoadImage(reader=["NumpyReader", SimpleITKReader()])(tmp_path / "a.npy").shape == (3, 2)


def test_folder_without_dicom(tmp_path):
    made(tmp_path / "a.mha")
    with pytest.raises(FileNotFoundError, match=f"a folder with DICOM files, got '{tmp_path}' without one"):
        SimpleITKReader().read(tmp_path)


def test_suffixes(tmp_path):
    reader = SimpleITKReader()
    assert reader.verify_suffix("a.NII.GZ")
    assert reader.verify_suffix(["b.png", tmp_path])
    assert not reader.verify_suffix("a.npy")
    assert not reader.verify_suffix(["b.png", "c.txt"])


def test_every_way_to_name_the_reader(tmp_path):
    array = made(tmp_path / "a.nrrd", components=2)
    config = {
        "_target_": "monai.transforms.LoadImaged",
        "keys": "image",
        "reader": {"_target_": "monai_infoaug.data.SimpleITKReader"},
    }
    loaders = [
        LoadImaged("image", reader=SimpleITKReader),
        LoadImaged("image", reader=SimpleITKReader()),
        LoadImaged("image", reader="monai_infoaug.data.SimpleITKReader"),
        ConfigParser({"load": config}).get_parsed_content("load"),
        pickle.loads(pickle.dumps(LoadImaged("image", reader=SimpleITKReader(imageIO="NrrdImageIO")))),
    ]
    for loader in loaders:
        image = loader({"image": tmp_path / "a.nrrd"})["image"]
        np.testing.assert_array_equal(image, array)
        assert image.dtype == torch.float32
        assert image.meta["filename_or_obj"] == str(tmp_path / "a.nrrd")
    with pytest.raises(RuntimeError, match=rf"got '{tmp_path}/none\.nrrd'"):
        loaders[0]({"image": tmp_path / "none.nrrd"})


def test_in_the_workers_of_a_loader(tmp_path):
    for i in range(4):
        made(tmp_path / f"{i}.nii.gz")
    chain = Compose([LoadImaged("image", reader=SimpleITKReader()), EnsureChannelFirstd("image")])
    dataset = Dataset([{"image": tmp_path / f"{i}.nii.gz"} for i in range(4)], chain)
    batches = [batch["image"] for batch in DataLoader(dataset, batch_size=2, num_workers=2)]
    assert [batch.shape for batch in batches] == [(2, 1, 5, 4, 3)] * 2
    np.testing.assert_allclose(batches[0].affine[0], turned(3), atol=1e-5)
