"""Which images to annotate: what is written, what is refused, and what goes on."""

from __future__ import annotations

import csv
import errno
import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

pytest.importorskip("tqdm", reason="advice needs the extra train")
pytest.importorskip("matplotlib", reason="advice draws with matplotlib")

from monai_infoaug._files import Ledger
from monai_infoaug.bundles import find_bundle
from monai_infoaug.commands import advise as command
from monai_infoaug.commands._embedding import Embedder
from monai_infoaug.commands.advise import advise_images
from monai_infoaug.commands.template_matcher import TemplateMatcher
from monai_infoaug.data import LandmarkTable, write_landmarks
from monai_infoaug.inferers import salient_points
from tests.commands.scenes import save_checkpoint, smooth

POINTS = np.array([[10.0, 8.0], [20.5, 30.25], [28.0, 15.0]])
SETTINGS = {"bundle": "landmark_pretraining", "modality": "xray", "features": [32] * 5, "working_pixdim": 0.5}
QUICK = {"pixdim": 0.5, "patch_radius": None}
BY_PATCHES = {"pixdim": 0.5, "patch_radius": 4}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("c") / "c.pt", find_bundle("landmark_pretraining"), SETTINGS)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Pictures of one kind, ``m`` in the middle of them, one ``x`` of another kind, and a bad file."""
    (tmp_path / "images").mkdir()
    middle, away = smooth(0, (72, 80)).astype(float), smooth(99, (72, 80))
    mixed = {name: 0.75 * middle + 0.25 * smooth(seed, (72, 80)) for seed, name in enumerate("abc", 1)}
    for name, pixels in (mixed | {"m": middle, "x": away}).items():
        sitk.WriteImage(sitk.GetImageFromArray(pixels.astype(np.uint8)), tmp_path / "images" / f"{name}.png")
    (tmp_path / "images" / "bad.png").write_text("no picture")
    return tmp_path


def run(checkpoint: Path, folder: Path, **options) -> list[str]:
    given = {"images": [folder / "images"], "out": folder / "out", "settings": QUICK, **options}
    return [path.stem for path in advise_images(checkpoint, **given)]


def table(folder: Path) -> dict[str, dict[str, str]]:
    with open(folder / "out" / "advice.csv", encoding="utf-8") as file:
        return {row["image"]: row for row in csv.DictReader(file)}


@pytest.fixture
def rated(monkeypatch) -> list[str]:
    """Names of the images that were really rated."""
    names, usual = [], command.rate
    monkeypatch.setattr(command, "rate", lambda e, path, asked: names.append(path.stem) or usual(e, path, asked))
    return names


def test_the_image_in_the_middle_is_advised_and_the_odd_one_last(checkpoint, folder, capsys):
    assert run(checkpoint, folder) == ["m"]
    rows = table(folder)
    assert {**dict.fromkeys("abcmx")}.keys() == rows.keys()
    assert [row["rank"] for row in rows.values()] == list("12345")
    scores = {name: float(row["score"]) for name, row in rows.items()}
    assert max(scores, key=scores.get) == "m"
    assert min(scores, key=scores.get) == "x"
    reached = [float(row["reached"]) for row in rows.values()]
    assert reached == sorted(reached)
    assert float(rows["m"]["reached"]) == scores["m"]
    assert float(rows["m"]["gain"]) == pytest.approx(scores["m"] - np.mean(list(scores.values())), abs=2e-4)
    assert Path(rows["a"]["file"]) == folder / "images" / "a.png"
    said = capsys.readouterr()
    assert said.err.count("bad.png:") == 1
    assert said.out.splitlines()[2].split()[:3] == ["1", "m", f"{scores['m']:.3f}"]
    picture = sitk.GetArrayFromImage(sitk.ReadImage(folder / "out" / "advice.png"))
    assert (picture[..., :3] == (44, 160, 44)).all(-1).any()  # a green frame


def test_a_score_is_the_mean_over_points_that_are_searched_in_another_image(checkpoint, folder):
    for name in "abc":
        (folder / "images" / f"{name}.png").unlink()
    run(checkpoint, folder, settings=BY_PATCHES)
    embedder = Embedder(checkpoint, settings=BY_PATCHES)
    images = [embedder.read(folder / "images" / f"{name}.png") for name in "mx"]
    mine, its = map(embedder.embed, images)
    points = salient_points(mine, embedder.strides, 60)
    found, scores = embedder.search(mine, points, its, images[1])
    back, _ = embedder.search(its, found, mine, images[0])
    share = ((back - points).norm(dim=-1) <= 3).float().mean().item()
    record = next(kept for kept in Ledger(folder / "out").records() if "m.png" in kept.get("image", ""))
    assert np.nanmean(record["scores"]) == pytest.approx(scores.mean().item(), abs=1e-4)
    assert np.nanmean(record["returned"]) == pytest.approx(share, abs=1e-4)
    assert np.isnan(record["scores"]).sum() == 1  # in itself
    assert float(table(folder)["m"]["come_back"]) == pytest.approx(share, abs=1e-4)


def test_with_templates_the_next_one_is_advised_by_their_landmarks(checkpoint, folder, monkeypatch):
    images = folder / "images"
    write_landmarks(folder / "table.csv", LandmarkTable("pqr", {"m": POINTS * 0.7}))
    seen, usual = {}, command._points

    def noted(embedder, path, levels):
        seen[path.stem] = usual(embedder, path, levels)
        return seen[path.stem]

    monkeypatch.setattr(command, "_points", noted)
    found = run(checkpoint, folder, number=2, templates=images / "m.png", landmarks=folder / "table.csv")
    assert len(found) == 2
    assert "m" not in table(folder)
    matcher = TemplateMatcher(checkpoint, images / "m.png", folder / "table.csv", settings=QUICK)
    torch.testing.assert_close(seen["m"], matcher.templates[0].points)
    np.testing.assert_allclose(seen["a"][0], matcher.look(images / "a.png")[1], atol=1e-3)
    assert all(float(row["gain"]) >= 0 for row in table(folder).values())

    seen.clear()  # label maps were annotated
    run(checkpoint, folder, out=folder / "labels", templates=[images / "m.png"])
    assert seen["m"].shape == (1, 60, 2)


@pytest.mark.slow
def test_a_second_run_goes_on(checkpoint, folder, rated, monkeypatch):
    usual = command.rate

    def stop(embedder, path, asked):
        if len(rated) == 2:
            raise KeyboardInterrupt
        return usual(embedder, path, asked)

    with monkeypatch.context() as patch:
        patch.setattr(command, "rate", stop)
        with pytest.raises(KeyboardInterrupt):
            run(checkpoint, folder)
    before = list(rated)
    first = run(checkpoint, folder, number=2)
    assert sorted(rated) == list("abcmx")
    assert rated[:2] == before
    written = (folder / "out" / "advice.csv").read_bytes()
    assert run(checkpoint, folder, number=1) == first[:1]
    assert (folder / "out" / "advice.csv").read_bytes() == written
    assert len(rated) == 5
    run(checkpoint, folder, settings=QUICK | {"level_weights": [1, 1, 1, 1, 1, 0]})
    assert len(rated) == 10


@pytest.mark.slow
def test_of_many_images_some_are_drawn_and_others_asked(checkpoint, folder, rated, monkeypatch):
    monkeypatch.setattr(command, "CANDIDATES", 2)
    monkeypatch.setattr(command, "ASKED", 2)
    asked, usual = [], command.ask

    def noted(embedder, paths):
        found = usual(embedder, paths)
        asked.extend(each.path.stem for each in found[0])
        return found

    monkeypatch.setattr(command, "ask", noted)
    drawn = set()
    for seed in (0, 0, 1, 2):
        asked.clear()
        run(checkpoint, folder, seed=seed)
        assert len(asked) == 2
        assert len(table(folder)) == 2
        assert not {*asked} & table(folder).keys()
        drawn.add((*asked,))
    assert len(rated) == 6  # the second run has found what the first has kept
    assert len(drawn) > 1


def test_volumes_in_a_turned_anisotropic_frame(tmp_path):
    settings = {"bundle": "landmark_matching_3d", "modality": "mr"}
    checkpoint = save_checkpoint(tmp_path / "c.pt", find_bundle("landmark_matching_3d"), settings)
    (tmp_path / "images").mkdir()
    for name, seed in {"a": 0, "b": 1, "c": 2}.items():
        volume = sitk.GetImageFromArray(smooth(seed, (12, 20, 24)))
        volume.SetSpacing((1.5, 2.0, 3.0))
        volume.SetDirection((0.0, -1.0, 0.0, 0.0, 0.0, -1.0, 1.0, 0.0, 0.0))
        sitk.WriteImage(volume, tmp_path / "images" / f"{name}.nii.gz")
    found = run(checkpoint, tmp_path, number=3, settings={"patch_radius": None})
    assert sorted(path.split(".")[0] for path in found) == list("abc")
    assert list(table(tmp_path)) == [path.split(".")[0] for path in found]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"number": 0}, "`number` must be a whole number of at least 1, got 0"),
        ({"seed": -1}, "`seed` must be"),
        ({"images": []}, "`images` must be"),
        ({"images": ["nowhere"]}, "`images` must be files and folders, got 'nowhere'"),
        ({"landmarks": "table.csv"}, "`landmarks` must be given with `templates`"),
        ({"templates": ["nowhere.png"]}, "`templates` must be"),
        ({"settings": {"pixdim": 0.5, "modalty": "mr"}}, "modality may be meant"),
    ],
)
def test_bad_input_is_named(checkpoint, folder, options, message):
    with pytest.raises(ValueError, match=message):
        run(checkpoint, folder, **options)
    assert not (folder / "out").exists()


def test_one_image_has_nothing_to_be_compared_with(checkpoint, folder):
    with pytest.raises(ValueError, match="`images` must be at least two that can be read"):
        run(checkpoint, folder, images=[folder / "images" / name for name in ("a.png", "bad.png")])


def test_nothing_of_others_is_written_over(checkpoint, folder):
    with pytest.raises(ValueError, match="another folder than that of the images"):
        run(checkpoint, folder, out=folder / "images")
    (folder / "out").mkdir()
    (folder / "out" / "advice.csv").write_text("mine")
    with pytest.raises(ValueError, match="which is somebody else's"):
        run(checkpoint, folder)
    assert [file.name for file in (folder / "out").iterdir()] == ["advice.csv"]


def test_a_full_disk_ends_the_run(checkpoint, folder, monkeypatch):
    def full(source, target):
        raise OSError(errno.ENOSPC, "No space left on device", source)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match=r"advice\.csv"):
        run(checkpoint, folder)
