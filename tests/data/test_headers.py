"""What headers tell of images is what the reader makes of them, and thousands are looked at without a pixel."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from monai_infoaug.data import SimpleITKReader
from monai_infoaug.data._grids import Grid
from monai_infoaug.data._headers import Header, faults, image_header
from tests.data.files import DEFLATED, dicom, halved, numbers, place, png, slices

VOLUME = np.arange(5 * 6 * 7, dtype=np.int16).reshape(5, 6, 7)


def nifti(path: Path, array: np.ndarray) -> Path:
    nib.save(nib.Nifti1Image(array, np.diag([0.5, 0.5, 2, 1])), path)
    return path


def itk(path: Path, array: np.ndarray, packed: bool = False, colours: bool = False) -> Path:
    sitk.WriteImage(sitk.GetImageFromArray(array, isVector=colours), path, packed)
    return path


RGB = np.dstack([VOLUME[0]] * 2 + [VOLUME[1]]).astype(np.uint8)
MAKE = {
    "a.nii": lambda p: nifti(p, VOLUME),
    "plane.nii.gz": lambda p: nifti(p, VOLUME[0]),
    "slice.nii.gz": lambda p: nifti(p, VOLUME[:, :, :1]),
    "time.nii.gz": lambda p: nifti(p, np.stack([VOLUME, VOLUME], -1)),
    "colours.nii": lambda p: nifti(p, np.zeros((5, 6, 7), [(c, "u1") for c in "RGB"])),
    "pair.img": lambda p: nib.save(nib.Nifti1Pair(VOLUME, np.diag([0.5, 0.5, 2, 1])), p) or p,
    "a.mha": lambda p: itk(p, VOLUME),
    "packed.mha": lambda p: itk(p, VOLUME, True),
    "vector.mha": lambda p: itk(p, RGB, colours=True),
    "a.nrrd": lambda p: itk(p, VOLUME),
    "packed.nrrd": lambda p: itk(p, VOLUME[0], True),
    "grey.png": lambda p: itk(p, VOLUME[0].astype(np.uint8)),
    "rgb.png": lambda p: itk(p, RGB, colours=True),
    "equal.png": lambda p: itk(p, np.dstack([RGB[..., 0]] * 3), colours=True),
    "alpha.png": lambda p: png(p, np.full((8, 12), 255), 8, 4),
    "a.jpg": lambda p: itk(p, VOLUME[0].astype(np.uint8)),
    "a.bmp": lambda p: itk(p, RGB, colours=True),
    "pages.tif": lambda p: itk(p, VOLUME.astype(np.uint8)),
    "plane.dcm": lambda p: dicom(p, VOLUME[0]),
    "deflated.dcm": lambda p: dicom(p, VOLUME[0], syntax=DEFLATED),
    "colours.dcm": lambda p: dicom(p, RGB),
    "series": lambda p: slices(p, [(0, 0, 2 * k) for k in range(4)]),
}


@pytest.mark.parametrize("name", MAKE)
def test_the_header_is_that_of_the_image(tmp_path, monkeypatch, name):
    if name == "alpha.png":
        pytest.importorskip("PIL", reason="Pillow reads grey with alpha")
    path = MAKE[name](tmp_path / name)
    array, meta = SimpleITKReader().get_data(SimpleITKReader().read(path))
    dims = len(meta["spatial_shape"])
    monkeypatch.setattr(SimpleITKReader, "read", None)  # pixels are not looked at
    header = image_header(path)
    assert dims in header.dims
    assert header.dims == ((2, 3) if name.startswith("slice") else (dims,))
    assert (array.shape[-1] if array.ndim > dims else 1) in header.channels
    assert (len(header.channels) > 1) == (name in ("rgb.png", "equal.png", "alpha.png", "a.bmp", "colours.dcm"))
    assert header.is_sized == (path.suffix not in (".png", ".jpg", ".bmp", ".tif"))
    if name in ("alpha.png", "time.nii.gz"):
        return  # of which Pillow knows the size, and whose affine has a row of time
    assert header.grid is not None
    sides = [side for side in meta["spatial_shape"].tolist() if side > 1]
    assert header.grid.shape == tuple(sides)
    if header.is_sized:
        axes = [*range(len(sides)), -1]
        expected = np.diag([-1.0, -1, *[1.0] * (dims - 1)]) @ meta["affine"]  # from RAS to LPS
        np.testing.assert_allclose(header.grid.matrix, expected[np.ix_(axes, axes)], atol=1e-6)
    else:
        assert header.grid.affine is None


@pytest.mark.parametrize("name", [name for name in MAKE if name != "alpha.png"])
@pytest.mark.parametrize("share", [0.6, 0.97])
def test_a_file_that_is_cut_off_is_refused_as_by_the_reader(tmp_path, name, share):
    path = MAKE[name](tmp_path / name)
    halved(path / "002.dcm" if path.is_dir() else path, share)
    with pytest.raises(ValueError, match="`data` must be") as expected:
        SimpleITKReader().read(path)
    with pytest.raises(ValueError, match="`data` must be") as caught:
        image_header(path)
    line, other = (re.sub(r"0x\w+", "", str(each.value)) for each in (caught, expected))  # without addresses
    assert line == other


def test_what_the_reader_takes_is_no_fault(tmp_path):
    """Some writers leave an empty block at the end, by which a file seems to hold nothing; others pad it."""
    whole = nifti(tmp_path / "a.nii", VOLUME).read_bytes()
    (tmp_path / "blocks.nii.gz").write_bytes(gzip.compress(whole) + gzip.compress(b""))
    (tmp_path / "padded.nii.gz").write_bytes(gzip.compress(whole + b"\0" * 99))
    (tmp_path / "padded.nii").write_bytes(whole + b"\0" * 99)
    packed = itk(tmp_path / "a.nrrd", VOLUME).read_bytes()
    (tmp_path / "padded.nrrd").write_bytes(packed + b"\0" * 99)
    items = [{"image": path} for path in tmp_path.iterdir()]
    assert len(items) == 6
    assert list(faults(items, 3, {"image": 1})) == []


def test_files_without_header(tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.dcm").write_text("text")
    for name in ("absent.nii", "empty.png", "text.dcm", "bad\udcff.png"):
        with pytest.raises((ValueError, FileNotFoundError), match="`data` must be"):
            image_header(tmp_path / name)


def test_dicom_that_says_no_spacing(tmp_path):
    path = dicom(tmp_path / "a.dcm", VOLUME[0], {0x00280030: None})
    assert image_header(path) == Header((2,), (1,), False, Grid((6, 7)[::-1], None))
    assert image_header(dicom(tmp_path / "b.dcm", VOLUME[0], {0x00280030: numbers(2, 2)} | place((0, 0, 0)))).is_sized


@pytest.mark.parametrize("spacing", ["1 1 0", "1,5 1,5 0,5"])
def test_a_header_that_the_reader_refuses_is_refused(tmp_path, spacing):
    path = Path(MAKE["a.mha"](tmp_path / "a.mha"))
    path.write_bytes(re.sub(rb"(ElementSpacing =) [^\n]*", rb"\1 " + spacing.encode(), path.read_bytes()))
    with pytest.raises(ValueError, match=r"a\.mha': .*Zero-valued spacing"):
        image_header(path)


def test_dicom_in_a_palette_may_be_coloured(tmp_path):
    colours = {0x00280004: ("CS", "PALETTE COLOR")}
    assert image_header(dicom(tmp_path / "a.dcm", VOLUME[0].astype(np.uint8), colours)).channels == (1, 3)


def test_each_kind_of_fault_is_told_in_a_line(tmp_path):
    good = {"image": MAKE["a.mha"](tmp_path / "good.mha"), "name": "good", "points": VOLUME}
    bad = [str(halved(MAKE["a.mha"](tmp_path / f"bad{k}.mha"))) for k in range(3)]
    other = MAKE["packed.nrrd"](tmp_path / "plane.nrrd")
    coloured = str(MAKE["vector.mha"](tmp_path / "coloured.mha"))
    pictures = [MAKE["grey.png"](tmp_path / f"{k}.png") for k in range(2)]
    items = [good, good, *({"image": path, "label": pictures[0]} for path in bad), {"image": [other, pictures[1]]}]
    items.append({"image": good["image"], "label": coloured})
    assert [str(fault) for fault in faults(items, 3, {"image": 1, "label": 1})] == [
        f"`data` must be an image that SimpleITK can read, got '{bad[0]}': "
        f"'bad0.mha' has {pixels_of(bad[0])} bytes of pixels, not 420; '{bad[1]}' and 1 more cannot be read either.",
        f"`pixdim` must be given, 1 for pixels: PNG, JPEG, BMP and TIFF do not say millimetres, "
        f"got none for '{pictures[0]}' and 1 more.",
        f"`data` must be of 3 axes, got '{pictures[0]}' and 3 more of 2 axes.",
        f"`data` must be of 1 channels, got '{coloured}' of 3 channels.",
    ]
    assert [str(fault)[:30] for fault in faults([good, {"image": pictures[0]}], pixdim=1)] == []


def test_labels_in_jpeg_are_refused_and_images_are_not(tmp_path):
    path = str(tmp_path / "a.jpg")
    sitk.WriteImage(sitk.GaussianSource(sitk.sitkUInt8, [40, 48]), path)
    assert [*faults([{"image": path}], pixdim=1)] == []
    (fault,) = faults([{"image": path, "label": path}], pixdim=1)
    assert str(fault).startswith("`label` must be label maps in a format that keeps values, such as PNG")


def test_colours_where_one_channel_is_wanted_are_looked_at(tmp_path, monkeypatch):
    paths = [MAKE[name](tmp_path / f"{k}.png") for k, name in enumerate(("equal.png", "rgb.png", "rgb.png"))]
    items, looks = [{"image": path} for path in paths], []
    read = SimpleITKReader.read
    monkeypatch.setattr(SimpleITKReader, "read", lambda self, path: looks.append(path) or read(self, path))
    assert list(faults(items, channels={"image": 3}, pixdim=1)) == []
    assert list(faults(items[:1], channels={"image": 1}, pixdim=1)) == []
    assert looks == [str(paths[0])]
    found = [str(fault) for fault in faults(items, channels={"image": 1}, pixdim=1, saying=", as you said")]
    assert found == [f"`data` must be of 1 channels, as you said, got '{paths[1]}' of 3 channels."]
    assert looks == [str(path) for path in (paths[0], *paths[:2])]
    halved(paths[0])
    assert "it is cut off" in str(next(faults(items, channels={"image": 1}, pixdim=1)))


def test_labels_that_are_not_on_the_grid_of_their_image(tmp_path):
    def item(name: str, origin: float, spacing: float = 1.0, shape: tuple[int, ...] = (5, 6, 7)) -> dict[str, str]:
        for key, given in (("image", (0, 1.0, (5, 6, 7))), ("label", (origin, spacing, shape))):
            volume = sitk.GetImageFromArray(np.zeros(given[2], np.uint8))
            volume.SetOrigin([given[0]] * 3)
            volume.SetSpacing([given[1]] * 3)
            volume.SetDirection([0, 1, 0, 0.6, 0, -0.8, 0.8, 0, 0.6])
            sitk.WriteImage(volume, tmp_path / f"{name}_{key}.nrrd")
        return {key: str(tmp_path / f"{name}_{key}.nrrd") for key in ("image", "label")}

    good, moved, shrunk = item("good", 0), item("moved", 2), item("shrunk", 0, 0.7)
    cut, lost = item("cut", 0, shape=(5, 6, 3)), item("lost", 50, shape=(5, 6, 3))
    stacked = {"image": good["image"], "label": [good["label"], lost["label"]]}
    said = "`label` must be on the grid of its image, got "
    for is_resampled, expected in (
        (None, []),
        (True, [f"{said}'{moved['label']}', which lies or is turned otherwise than its image, and 2 more."]),
        (False, [f"{said}'{moved['label']}', which lies or is turned otherwise than its image, and 3 more."]),
    ):
        items = [good, moved, shrunk, lost, stacked, {"label": lost["label"]}, good, moved]
        items += [] if is_resampled else [cut]
        assert [str(fault) for fault in faults(iter(items), 3, is_resampled=is_resampled)] == expected
    text = "cut_label.nrrd' has 3 x 6 x 5 voxels, its image 7 x 6 x 5: it is resampled to its image.$"
    with pytest.warns(UserWarning, match=text) as caught:
        assert list(faults([good, cut], is_resampled=True)) == []
    assert len(caught) == 1
    with pytest.warns(UserWarning, match="it is resampled to its image, and so are 1 more.$"):
        assert list(faults([cut, item("coarse", 0, 2.0, (3, 3, 4))], is_resampled=True)) == []
    assert list(faults([moved], pixdim=1, is_resampled=True)) == []  # which takes its place from nothing
    assert "has 3 x 6 x 5 voxels, its" in str(next(faults([cut], pixdim=1, is_resampled=True)))


def pixels_of(path: str) -> int:
    return len(Path(path).read_bytes().rpartition(b"LOCAL\n")[2])


def test_a_line_for_all_files_whose_voxels_are_taken_as_a_millimetre(tmp_path):
    paths = [dicom(tmp_path / f"{k}.dcm", VOLUME[0], {0x00280030: None}) for k in range(3)]
    items = [{"image": path} for path in paths]
    text = f"'{paths[0]}' says no spacing, nor do '{paths[1]}' and 1 more: a pixel is taken as 1 mm."
    with pytest.warns(UserWarning, match=text):
        assert list(faults(items)) == []
    assert list(faults(items, pixdim=(1, 1))) == []


def test_what_is_no_file_of_an_item_is_nobodys_fault(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "name").write_text("a file of the name of an image")
    image = MAKE["a.nii"](tmp_path / "a.nii")
    items = [{"image": image, "name": "name"}, {"image": VOLUME}, {}, image, VOLUME, None, {"image": None, "label": 1}]
    assert list(faults(items, 3, {"image": 1})) == []
