from __future__ import annotations

import re
import struct
import sys

import numpy as np
import pytest
import SimpleITK as sitk
from monai.transforms import LoadImage

from monai_infoaug.data import SimpleITKReader
from tests.data.files import halved, patched, png, tiff

GREY = np.random.default_rng(0).integers(0, 255, (24, 16)).astype(np.uint8)  # rows, columns
RGB = np.random.default_rng(1).integers(0, 255, (24, 16, 3)).astype(np.uint8)


def got(path):
    reader = SimpleITKReader()
    return reader.get_data(reader.read(path))


@pytest.fixture
def Image():
    return pytest.importorskip("PIL.Image", reason="Pillow is the authority on pictures")


def saved(Image, path, array, mode=None, **options):
    picture = Image.fromarray(array)
    (picture.convert(mode) if mode else picture).save(path, **options)
    return path


def require_picture(path, expected):
    """Of (x, y) or (x, y, 3), a pixel a millimetre."""
    array, meta = got(path)
    np.testing.assert_array_equal(array, np.swapaxes(expected, 0, 1))
    np.testing.assert_allclose(meta["affine"], np.diag([-1, -1, 1]), atol=1e-9)
    assert meta["spatial_shape"].tolist() == [16, 24]
    assert LoadImage(reader=SimpleITKReader, ensure_channel_first=True)(path).shape[0] == array[0, 0].size


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "tif"])
@pytest.mark.parametrize("array", [GREY, RGB])
def test_resolution_is_that_of_print(Image, tmp_path, suffix, array):
    plain, dpi = (
        saved(Image, tmp_path / f"{name}.{suffix}", array, **options)
        for name, options in (("plain", {}), ("dpi", {"dpi": (300, 72)}))
    )
    assert plain.read_bytes() != dpi.read_bytes()
    for path in (plain, dpi):
        np.testing.assert_array_equal(got(path)[1]["affine"], np.diag([-1, -1, 1]))
        assert got(path)[1]["spacing"].tolist() == [1, 1]


@pytest.mark.parametrize("mode", [None, "RGB", "RGBA", "LA"])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_grey_in_any_number_of_channels_is_one(Image, tmp_path, suffix, mode):
    require_picture(saved(Image, tmp_path / f"a.{suffix}", GREY, mode), GREY)


@pytest.mark.parametrize("mode", [None, "RGB"])
def test_grey_bmp_and_jpeg(Image, tmp_path, mode):
    require_picture(saved(Image, tmp_path / "a.bmp", GREY, mode), GREY)
    assert got(saved(Image, tmp_path / "a.jpg", GREY, mode))[0].shape == (16, 24)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
def test_colours_and_opaque_alpha(Image, tmp_path, suffix):
    require_picture(saved(Image, tmp_path / f"rgb.{suffix}", RGB), RGB)
    require_picture(saved(Image, tmp_path / f"rgba.{suffix}", RGB, "RGBA"), RGB)


def test_one_coloured_pixel_is_colour(Image, tmp_path):
    nearly = np.repeat(GREY[..., None], 3, -1)
    nearly[-1, -1, 2] ^= 1
    require_picture(saved(Image, tmp_path / "a.png", nearly), nearly)


@pytest.mark.parametrize(
    ("mode", "suffix", "options"),
    [
        ("RGBA", "png", {}),
        ("LA", "png", {}),
        ("RGBA", "tif", {}),
        ("L", "png", {"transparency": int(GREY[3, 4])}),
        ("P", "png", {"transparency": 3}),
    ],
)
def test_transparency_is_refused(Image, tmp_path, mode, suffix, options):
    picture = Image.fromarray(GREY).convert(mode)
    if mode.endswith("A"):
        picture.putalpha(Image.fromarray(np.where(GREY > 250, 254, 255).astype(np.uint8)))
    picture.save(tmp_path / f"a.{suffix}", **options)
    with pytest.raises(ValueError, match=r"`data` must be an opaque image: .*a\.\w+' with transparent pixels"):
        LoadImage(reader=SimpleITKReader())(tmp_path / f"a.{suffix}")


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
def test_one_bit_is_0_and_1(Image, tmp_path, suffix):
    path = saved(Image, tmp_path / f"a.{suffix}", GREY > 99)
    require_picture(path, np.asarray(Image.open(path)).astype(np.uint8))


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
def test_a_palette_is_read_in_its_colours(Image, tmp_path, suffix):
    picture = Image.fromarray(RGB).quantize(200)
    picture.save(tmp_path / f"a.{suffix}")
    with pytest.warns(UserWarning, match=r"a\.\w+' has a palette: its colours are read"):
        array, _ = got(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(array, np.swapaxes(np.asarray(picture.convert("RGB")), 0, 1))


def test_a_palette_of_grey_levels_is_grey(tmp_path):
    levels = bytes(level for i in range(256) for level in (i, i, i))
    require_picture(png(tmp_path / "a.png", GREY, 8, 3, PLTE=levels), GREY)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits(Image, tmp_path, suffix):
    deep = GREY.astype(np.uint16) * 200
    require_picture(saved(Image, tmp_path / f"a.{suffix}", deep), deep)
    assert got(tmp_path / f"a.{suffix}")[0].dtype == np.uint16


def test_sixteen_bits_with_alpha(tmp_path):
    deep = np.stack([GREY, GREY, np.full_like(GREY, 255), np.full_like(GREY, 255)], -1).reshape(24, -1)
    with pytest.raises(ValueError, match=r"without an alpha channel, got '.*' in 16 bits with transparency"):
        got(png(tmp_path / "a.png", deep, 16, 4))


def test_white_is_zero(Image, tmp_path):
    path = saved(Image, tmp_path / "a.tif", GREY, tiffinfo={262: 0})
    require_picture(path, np.asarray(Image.open(path)))


def test_the_suffix_does_not_matter(Image, tmp_path):
    saved(Image, tmp_path / "a.png", GREY).rename(tmp_path / "a.jpg")
    require_picture(tmp_path / "a.jpg", GREY)


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_cmyk_is_refused(Image, tmp_path, suffix):
    with pytest.raises(ValueError, match=r"`data` must be an image in grey or RGB, got '.*' in CMYK"):
        got(saved(Image, tmp_path / f"a.{suffix}", RGB, "CMYK"))


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("turn", [1, 6])
def test_orientation_of_exif(Image, tmp_path, suffix, turn):
    exif = Image.Exif()
    exif[274] = turn
    path = saved(Image, tmp_path / f"a.{suffix}", RGB, exif=exif)
    if turn == 1:
        assert got(path)[0].shape == (16, 24, 3)
        return
    with pytest.warns(UserWarning, match=r"is turned by viewers \(EXIF\)"):
        assert got(path)[0].shape == (16, 24, 3)


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        ("jpg", {}),
        ("jpg", {"progressive": True}),
        ("jpg", {"exif": b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0\xff\xd8 thumbnail \xff\xd9"}),
        ("png", {}),
        ("bmp", {}),
        ("tif", {}),
        ("tif", {"compression": "tiff_lzw"}),
    ],
)
@pytest.mark.parametrize("array", [GREY, RGB])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9, 0.99])
def test_the_end_is_missing(Image, tmp_path, suffix, options, array, share):
    path = saved(Image, tmp_path / f"a.{suffix}", np.tile(array, (4, 4) + (1,) * (array.ndim - 2)), **options)
    got(path)
    halved(path, share)
    with pytest.raises(ValueError, match=f"^`data` must be .*'{re.escape(str(path))}'"):
        SimpleITKReader().read(path)
    with pytest.raises(ValueError, match=re.escape(str(path))):
        LoadImage(reader=SimpleITKReader())(path)


def test_palette_bmp_and_tiff_whose_end_is_missing(Image, tmp_path):
    for suffix, options in (("bmp", {}), ("tif", {"compression": "tiff_lzw"})):
        path = saved(Image, tmp_path / f"a.{suffix}", RGB, "P", **options)
        with pytest.raises(ValueError, match="can read, got"):
            got(halved(path, 0.6))


def test_bytes_after_the_end_do_no_harm(Image, tmp_path):
    for suffix in ("jpg", "png", "bmp", "tif"):
        path = saved(Image, tmp_path / f"a.{suffix}", GREY)
        whole = got(path)[0]
        path.write_bytes(path.read_bytes() + b"\0" * 99)
        np.testing.assert_array_equal(got(path)[0], whole)


def test_bmp_from_top_to_bottom(Image, tmp_path):
    path = saved(Image, tmp_path / "a.bmp", RGB)
    patched(path, 22, "<i", -24)
    require_picture(path, np.asarray(Image.open(path)))


def test_pages_of_a_tiff(Image, tmp_path):
    first, *rest = (Image.fromarray(GREY + i) for i in range(3))
    first.save(tmp_path / "a.tif", save_all=True, append_images=rest)
    array, meta = got(tmp_path / "a.tif")
    np.testing.assert_array_equal(array, np.stack([GREY.T + i for i in range(3)], -1))
    assert meta["spacing"].tolist() == [1, 1, 1]
    first.save(tmp_path / "b.tif", save_all=True, append_images=[first.resize((5, 5))])
    with pytest.raises(ValueError, match=r"`data` must be one page, or pages alike, got '.*b\.tif' with pages of diff"):
        got(tmp_path / "b.tif")


def test_tiff_of_floats_and_of_sitk(tmp_path):
    values = np.linspace(-1, 1, 24 * 16, dtype=np.float32).reshape(24, 16)
    sitk.WriteImage(sitk.GetImageFromArray(values), tmp_path / "a.tif")
    require_picture(tmp_path / "a.tif", values)


def test_without_pillow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    rows = np.stack([GREY, np.full_like(GREY, 255)], -1).reshape(24, -1)
    with pytest.raises(ValueError, match="`data` must be in another form, or Pillow installed, got"):
        got(png(tmp_path / "a.png", rows, 8, 4))
    require_picture(png(tmp_path / "b.png", GREY, 8, 0, pHYs=struct.pack(">IIB", 9999, 300, 1)), GREY)


def test_big_tiff_and_tiles(Image, tmp_path):
    """The resolution of print is none of BigTIFF either; SimpleITK has tiles in 8 bits, and half floats as integers."""
    deep = GREY.astype(np.uint16) * 200
    for number, pixels in enumerate((GREY, deep)):
        require_picture(tiff(tmp_path / f"{number}.tif", pixels), pixels)
        require_picture(tiff(tmp_path / f"{number}b.tif", pixels, big=True), pixels)
    square = np.tile(GREY, (2, 2))[:32]
    np.testing.assert_array_equal(got(tiff(tmp_path / "t.tif", square, tile=16))[0], square.T)
    for name, path in {
        "tiles": tiff(tmp_path / "tiles.tif", square.astype(np.uint16), tile=16),
        "half": tiff(tmp_path / "half.tif", GREY.astype(np.float16), kind=3),
    }.items():
        with pytest.raises(ValueError, match=rf"got '.*{name}\.tif' in a form of TIFF that is not read"):
            got(path)
    with pytest.raises(ValueError, match="it is cut off"):
        got(halved(tmp_path / "1b.tif"))
