"""Landmarks by the votes of one template and of images that score well: which become templates, and what goes on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

pytest.importorskip("tqdm", reason="matching needs the extra train")
pytest.importorskip("matplotlib", reason="matching draws with matplotlib")

from monai_infoaug.bundles import find_bundle
from monai_infoaug.commands import match as command
from monai_infoaug.commands.match import match_images
from monai_infoaug.commands.template_matcher import TemplateMatcher
from monai_infoaug.data import LandmarkTable, read_landmarks, write_landmarks
from monai_infoaug.inferers import robust_centre, to_world
from tests.commands.scenes import save_checkpoint, smooth

POINTS = np.array([[10.0, 8.0], [20.5, 30.25], [28.0, 15.0]])
SETTINGS = {"bundle": "landmark_pretraining", "modality": "xray", "features": [32] * 5, "working_pixdim": 0.5} | {
    "patch_radius": 4  # which is fast
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("c") / "c.pt", find_bundle("landmark_pretraining"), SETTINGS)


@pytest.fixture
def folder(tmp_path) -> Path:
    """The template ``a``, images that differ from it the more the later in the alphabet, and a bad file."""
    (tmp_path / "images").mkdir()
    plain, other = smooth(0, (72, 80)).astype(float), smooth(7, (72, 80))
    for name, share in {"a": 0, "b": 0.1, "c": 0.2, "d": 0.4, "e": 1}.items():
        mixed = ((1 - share) * plain + share * other).astype(np.uint8)
        sitk.WriteImage(sitk.GetImageFromArray(mixed), tmp_path / "images" / f"{name}.png")
    (tmp_path / "images" / "bad.png").write_text("no picture")
    write_landmarks(tmp_path / "table.csv", LandmarkTable("pqr", {"a": POINTS}))
    return tmp_path


def files(checkpoint: Path, folder: Path) -> dict:
    return {"checkpoint": checkpoint, "template": folder / "images" / "a.png", "landmarks": folder / "table.csv"}


def run(checkpoint: Path, folder: Path, consensus: int, out: str = "out", **options) -> dict[str, str]:
    given = {"images": [folder / "images"], "out": folder / out, "settings": {"pixdim": 0.5}, **options}
    return match_images(**files(checkpoint, folder), **given, consensus=consensus)


@pytest.fixture
def read(monkeypatch) -> list[str]:
    """Names of the images that are matched, in order; those that become templates with a plus."""
    names, usual, add = [], TemplateMatcher.__call__, TemplateMatcher.add

    def noted(self, image, path=None):
        names.append(Path(path).stem)
        return usual(self, image, path)

    def added(self, path, points):
        names.append("+" + Path(path).stem)
        add(self, path, points)

    monkeypatch.setattr(TemplateMatcher, "__call__", noted)
    monkeypatch.setattr(TemplateMatcher, "add", added)
    return names


@pytest.mark.slow
def test_the_best_scored_images_vote_too(checkpoint, folder, read, capsys):
    failures = run(checkpoint, folder, 2)
    assert [Path(path).name for path in failures] == ["bad.png"]
    assert read == ["+b", "+c", "a", "b", "c", "d", "e"]
    assert capsys.readouterr().err.count("bad.png:") == 1

    matcher = TemplateMatcher(**files(checkpoint, folder), settings={"pixdim": 0.5})
    table = read_landmarks(folder / "out" / "landmarks.csv")
    voters = {name: matcher.look(folder / "images" / f"{name}.png")[1] for name in ("b", "c")}
    levels = {name: matcher.embed(matcher.read(folder / "images" / f"{name}.png")) for name in voters}
    for name, its in {"a": (), "b": ("c",), "c": ("b",), "d": ("b", "c")}.items():
        image = matcher.read(folder / "images" / f"{name}.png")
        found = [matcher.search(matcher.templates[0].levels, matcher.templates[0].points, matcher.embed(image), image)]
        for voter in its:
            points = torch.as_tensor(voters[voter]).float()[None]
            found.append(matcher.search(levels[voter], points, matcher.embed(image), image))
        votes, scores = zip(*found, strict=True)
        expected = robust_centre(torch.stack([to_world(vote, image) for vote in votes]), torch.stack(scores))
        np.testing.assert_allclose(table.points[name], expected.points[0], atol=1e-3)
        np.testing.assert_allclose(table.scores[name], expected.scores[0], atol=1e-3)
        markups = json.loads((folder / "out" / f"{name}.mrk.json").read_text())["markups"][0]["controlPoints"]
        for point, spread in zip(markups, expected.spreads[0].tolist(), strict=True):
            assert f"; {len(votes)} vote{'s' * bool(its)}, spread {spread:.1f} mm; round trip " in point["description"]


def test_without_it_nothing_changes(checkpoint, folder, read):
    run(checkpoint, folder, 0)
    assert read == ["a", "b", "c", "d", "e"]
    matcher = TemplateMatcher(**files(checkpoint, folder), settings={"pixdim": 0.5})
    found = matcher(matcher.read(folder / "images" / "d.png"), folder / "images" / "d.png")
    np.testing.assert_array_equal(read_landmarks(folder / "out" / "landmarks.csv").points["d"], found.world)
    assert found.spreads is found.votes is None
    assert "votes" not in (folder / "out" / "d.mrk.json").read_text()
    assert set(found.as_json()) == {"world", "space", "scores", "round_trips", "low"}


@pytest.mark.slow
def test_a_second_run_goes_on_as_long_as_the_templates_are_the_same(checkpoint, folder, read, monkeypatch):
    looked, usual = [], TemplateMatcher.look
    monkeypatch.setattr(TemplateMatcher, "look", lambda self, path: looked.append(Path(path).stem) or usual(self, path))
    run(checkpoint, folder, 2)
    first = (folder / "out" / "landmarks.csv").read_bytes()
    read.clear()
    run(checkpoint, folder, 2)
    assert read == ["+b", "+c"]
    assert looked == ["b", "bad", "c", "d", "e", "bad"]
    assert (folder / "out" / "landmarks.csv").read_bytes() == first

    far = sitk.GetImageFromArray(smooth(9, (72, 80)))
    sitk.WriteImage(far, folder / "images" / "f.png")
    read.clear()
    run(checkpoint, folder, 2)
    assert read == ["+b", "+c", "f"]

    (folder / "images" / "g.png").write_bytes((folder / "images" / "a.png").read_bytes())  # the best of all
    read.clear()
    run(checkpoint, folder, 2)
    assert read == ["+g", "+b", "a", "b", "c", "d", "e", "f", "g"]


@pytest.mark.slow
def test_a_kill_while_choosing_loses_one_image(checkpoint, folder, monkeypatch):
    looked, usual = [], TemplateMatcher.look

    def stop(self, path):
        if Path(path).stem == "d" and "d" not in looked:
            looked.append("d")
            raise KeyboardInterrupt
        looked.append(Path(path).stem)
        return usual(self, path)

    monkeypatch.setattr(TemplateMatcher, "look", stop)
    with pytest.raises(KeyboardInterrupt):
        run(checkpoint, folder, 2)
    looked.append("again")
    run(checkpoint, folder, 2)
    assert looked == ["b", "bad", "c", "d", "again", "bad", "d", "e"]


@pytest.mark.slow
def test_fewer_images_than_wanted_are_said(checkpoint, folder, capsys):
    run(checkpoint, folder, 9, images=[folder / "images" / name for name in ("a.png", "b.png", "d.png")])
    assert "The consensus is of 2 images beside the template: there are no more." in capsys.readouterr().err
    run(checkpoint, folder, 9, "alone", images=[folder / "images" / "a.png"])
    np.testing.assert_allclose(read_landmarks(folder / "alone" / "landmarks.csv").points["a"], POINTS, atol=0.6)


@pytest.mark.parametrize("consensus", [-1, 1.5, "3", None, True])
def test_consensus_that_is_no_number_of_images(checkpoint, folder, consensus):
    with pytest.raises(ValueError, match="`consensus` must be a whole number of at least 0, got"):
        run(checkpoint, folder, consensus)
    assert not (folder / "out").exists()


def test_nothing_of_others_is_written_over(checkpoint, folder, monkeypatch):
    monkeypatch.setattr(command, "_add_templates", lambda *_: pytest.fail("before anything is looked at"))
    (folder / "out").mkdir()
    (folder / "out" / "landmarks.csv").write_text("mine")
    with pytest.raises(ValueError, match="which is somebody else's"):
        run(checkpoint, folder, 2)
    assert [file.name for file in (folder / "out").iterdir()] == ["landmarks.csv"]
