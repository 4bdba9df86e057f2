"""The bundles of the package, listed and copied."""

from __future__ import annotations

import ast
import json
import shlex
import shutil

import pytest
from monai.bundle import ConfigParser

from monai_infoaug.bundles import (
    bundle_overlays,
    copy_bundle,
    describe_bundles,
    find_bundle,
    inputs_of,
    say_what_next,
    training_command,
    using_command,
)
from monai_infoaug.bundles.finding import MOVED
from monai_infoaug.commands._arguments import make_parser


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


def test_a_full_disk_leaves_nothing_of_a_copy(tmp_path, full_disk):
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "new"):
        said = rf"`folder` must be one that can be written to, got '{folder}': .*too large"
        with full_disk(), pytest.raises(OSError, match=said):
            copy_bundle("landmark_pretraining", folder)
    assert [f.name for f in tmp_path.rglob("*")] == ["empty"]


@pytest.mark.parametrize("moved", [[], ["configs"]])
def test_a_killed_copy_is_made_again(tmp_path, moved):
    whole = copy_bundle("landmark_pretraining", tmp_path / "whole")
    killed = tmp_path / "killed"
    for folder in [killed / ".partial" / "docs", *(killed / name for name in moved)]:
        folder.mkdir(parents=True)
    for name in moved:
        shutil.copytree(whole / name, killed / name, dirs_exist_ok=True)
    copy_bundle("landmark_pretraining", killed)
    assert {f.relative_to(killed) for f in killed.rglob("*")} == {f.relative_to(whole) for f in whole.rglob("*")}
    (killed / ".partial").mkdir()
    (killed / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="new or empty"):
        copy_bundle("landmark_pretraining", killed)
    assert (killed / "notes.txt").exists()


@pytest.mark.parametrize("name", MOVED)
def test_the_name_of_old_says_what_it_is_called_now(name):
    with pytest.raises(
        ValueError, match=rf"`bundle` must be segmentation, .*configs/{MOVED[name]}\.json, got '{name}'"
    ):
        find_bundle(name)
    assert MOVED[name] in bundle_overlays(find_bundle("segmentation"))


def test_overlays_are_the_configurations_that_not_every_bundle_has():
    assert bundle_overlays(find_bundle("segmentation")) == sorted([*MOVED.values(), "consistency"])
    assert bundle_overlays(find_bundle("landmark_pretraining")) == []


@pytest.mark.parametrize(
    ("name", "overlay"),
    [(name, overlay) for name in describe_bundles() for overlay in (None, *bundle_overlays(find_bundle(name)))],
)
def test_training_commands_name_files_and_settings_that_are_there(name, overlay):
    folder = find_bundle(name)
    words = shlex.split(training_command(folder, overlay))
    assert words[:5] == ["python", "-m", "monai.bundle", "run", "--config_file"]
    files = ast.literal_eval(words[5]) if words[5].startswith("[") else [words[5]]
    config = ConfigParser()
    config.read_config([folder / file for file in files])
    given = {word.removeprefix("--") for word in words[6::2]}
    assert given <= set(config.get())
    to_be_given = [key for key, value in config.get().items() if str(value).startswith("/workspace/")]
    assert {*to_be_given, "output_dir"} <= given


@pytest.mark.parametrize("name", describe_bundles())
def test_using_commands_name_files_and_settings_that_are_there(name, capsys):
    folder = find_bundle(name)
    say_what_next(name, "there/checkpoint.pt")
    said, command = capsys.readouterr().out.splitlines()
    assert said.startswith("Wrote there/checkpoint.pt.")
    words = shlex.split(command)
    if words[0] == "monai-infoaug":
        parsed = make_parser().parse_args(words[1:])
        assert (parsed.command, parsed.checkpoint) == ("match", "there/checkpoint.pt")
        return
    config = ConfigParser()
    config.read_config(folder / words[5])
    given = dict(zip(words[6::2], words[7::2], strict=True))
    assert {word.removeprefix("--") for word in given} <= set(config.get())
    assert given["--output_dir"] == "there"
    assert "--checkpoint other.pt" in using_command(folder, "other.pt")


@pytest.mark.parametrize("name", describe_bundles())
def test_all_words_in_capitals_are_explained(name):
    commands = training_command(find_bundle(name)), using_command(find_bundle(name))
    words = {word.split("/")[0] for word in shlex.split(" ".join(commands)) if word.split("/")[0].isupper()}
    assert inputs_of(*commands).keys() == words
