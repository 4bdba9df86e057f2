"""The bundles of the package, listed and copied."""

from __future__ import annotations

import json

import pytest

from monai_infoaug.bundles import copy_bundle, describe_bundles, find_bundle


def test_every_bundle_is_described_in_a_line():
    bundles = describe_bundles()
    assert "landmark_pretraining" in bundles
    for name, line in bundles.items():
        assert line
        assert "\n" not in line
        assert (find_bundle(name) / "configs" / "train.json").is_file()


@pytest.mark.parametrize("name", describe_bundles())
@pytest.mark.parametrize("exists", [False, True])
def test_the_copy_is_whole(tmp_path, name, exists):
    folder = tmp_path / "a" / "b"
    if exists:
        folder.mkdir(parents=True)
    assert copy_bundle(name, folder) == folder
    source = find_bundle(name)
    files = {f.relative_to(source) for f in source.rglob("*") if f.is_file() and "__pycache__" not in f.parts}
    assert {f.relative_to(folder) for f in folder.rglob("*") if f.is_file()} == files
    assert all((folder / f).read_bytes() == (source / f).read_bytes() for f in files)
    assert json.loads((folder / "configs" / "metadata.json").read_text())["description"] == describe_bundles()[name]


def test_unknown_bundles_and_used_folders(tmp_path):
    with pytest.raises(ValueError, match=r"`bundle` must be one of .*landmark_pretraining.*, got 'landmarks'"):
        copy_bundle("landmarks", tmp_path / "new")
    assert not (tmp_path / "new").exists()
    mine = tmp_path / "mine.txt"
    mine.write_text("mine")
    for folder in (tmp_path, mine):
        with pytest.raises(ValueError, match=f"`folder` must be new or empty, got '{folder}'"):
            copy_bundle("landmark_pretraining", folder)
    assert [f.name for f in tmp_path.iterdir()] == ["mine.txt"]
