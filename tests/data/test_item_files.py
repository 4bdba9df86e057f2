"""An item belongs to all files that it is read from."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.transforms import Compose, RandFlip, Transform

from monai_infoaug.data import cached_dataset
from monai_infoaug.data._item_files import files_of_item

IMAGE = sitk.GetImageFromArray(np.arange(24, dtype=np.int16).reshape(2, 3, 4))


def named(item, apart_from=Path("/nowhere")) -> list[str]:
    return [Path(name).name for name, *_ in files_of_item(item, apart_from)]


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def test_lists_mappings_and_folders(tmp_path):
    touch(tmp_path, "a.png", "b.png", "c/1.dcm", "c/deep/2.dcm", "other.png")
    a, b, c = tmp_path / "a.png", str(tmp_path / "b.png"), tmp_path / "c"
    item = {"image": [a, {"more": (b,)}], "series": c, "label": "no file", "number": 3, "a": torch.zeros(2), "n": None}
    assert named(item) == ["a.png", "b.png", "1.dcm", "2.dcm"]
    assert named(b) == ["b.png"]
    assert named([item, item]) == named(item)
    assert named({"folder": tmp_path}, apart_from=c) == ["a.png", "b.png", "other.png"]
    assert named(["", "\0", "x" * 5000, b"b.png"]) == []


def test_sizes_and_times(tmp_path):
    touch(tmp_path, "a.png")
    os.utime(tmp_path / "a.png", ns=(5, 7))
    assert files_of_item(tmp_path, tmp_path / "cache") == [(str(tmp_path / "a.png"), 5, 7)]


@pytest.mark.parametrize(
    ("given", "other"),
    [
        ("a.hdr", "a.img"),
        ("a.img", "a.hdr"),
        ("a.hdr", "a.img.gz"),
        ("a.HDR", "a.IMG"),
        ("b+orig.HEAD", "b+orig.BRIK.gz"),
        ("c.par", "c.rec"),
    ],
)
def test_the_other_half_of_a_pair(tmp_path, given, other):
    touch(tmp_path, given, other, "a.txt", "aa.img", "b.img.gz")
    assert named(tmp_path / given) == sorted([given, other])


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("NDims = 2\nElementDataFile = far/pixels of a.raw\n", ["pixels of a.raw"]),
        ("ElementDataFile = LIST\ns 1.raw\r\ns2.raw\n", ["s 1.raw", "s2.raw"]),
        ("ElementDataFile = p%02d.raw 1 2 1\n", ["p01.raw", "p02.raw"]),
        ("NRRD0004\nencoding: raw\ndata file: far/pixels of a.raw\n", ["pixels of a.raw"]),
        ("NRRD0004\ndata file: LIST\ns2.raw\n", ["s2.raw"]),
        ("NRRD0004\ndata file: ./p%02d.raw 1 2 1\n", ["p01.raw", "p02.raw"]),
        ("ElementDataFile = missing.raw\n", []),
        ("ElementDataFile = LOCAL\n%%%d\0** /%d\n%**\n\xff%s\n", []),
        ("", []),
    ],
)
@pytest.mark.parametrize("suffix", [".mhd", ".nhdr"])
def test_pixels_beside_a_header(tmp_path, suffix, header, expected):
    touch(tmp_path, "far/pixels of a.raw", "s 1.raw", "s2.raw", "p01.raw", "p02.raw", "q.raw")
    (tmp_path / f"[x]{suffix}").write_bytes(header.encode("latin-1"))
    assert sorted(named(tmp_path / f"[x]{suffix}")) == sorted([*expected, f"[x]{suffix}"])


class Read(Transform):
    """Reads an image, or all images of a folder."""

    def __call__(self, item):
        if Path(item).is_dir():
            return torch.stack([self(str(path)) for path in sorted(Path(item).iterdir())])
        return torch.as_tensor(sitk.GetArrayFromImage(sitk.ReadImage(item)).astype(np.float32))


@pytest.mark.parametrize(
    ("names", "item", "changed"),
    [
        (["a.mhd"], "a.mhd", "a.raw"),
        (["a.nhdr"], "a.nhdr", "a.raw"),
        (["a.hdr"], "a.hdr", "a.img"),
        (["a.img"], "a.img", "a.img"),
        (["a.mha", "b.mha"], ["a.mha", "b.mha"], "b.mha"),
        (["s/a.mha", "s/b.mha"], "s", "s/b.mha"),
    ],
)
def test_a_change_in_any_of_the_files_is_seen(tmp_path, names, item, changed):
    def served():
        chain = Compose([Read(), RandFlip(0.0)])
        data = [str(tmp_path / item) if isinstance(item, str) else [str(tmp_path / name) for name in item]]
        found = cached_dataset(data, chain, tmp_path / "cache")[0]
        return torch.stack(found) if isinstance(found, list) else found

    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        sitk.WriteImage(IMAGE, tmp_path / name)
    before = served()
    data = bytearray((tmp_path / changed).read_bytes())
    data[-1] ^= 1
    (tmp_path / changed).write_bytes(data)
    after = served()
    assert (before != after).sum() == 1
    assert len(list((tmp_path / "cache").iterdir())) == 2
    assert torch.equal(served(), after)
    assert len(list((tmp_path / "cache").iterdir())) == 2
