"""From a folder and one annotated image to an annotated folder; the trainings are stood in for, all else is real."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

pytest.importorskip("ignite", reason="annotating needs the extra train")
pytest.importorskip("tqdm", reason="annotating needs the extra train")
pytest.importorskip("matplotlib", reason="annotating draws with matplotlib")

from monai_infoaug.__main__ import main
from monai_infoaug._files import Ledger
from monai_infoaug.bundles import find_bundle
from monai_infoaug.commands import _judgement, _label_stages, _landmark_stages, _plan, _stages
from monai_infoaug.commands._label_files import read_labels
from monai_infoaug.commands._label_plan import segmentation_settings
from monai_infoaug.commands.annotate import _corrected, annotate_images
from monai_infoaug.data import LandmarkTable, read_landmarks, write_landmarks
from monai_infoaug.inferers import ErrorModel
from tests.commands.labelled_scenes import NUMBERS, TINY, annotated, scene, stages_in_process, truth
from tests.commands.scenes import save_checkpoint, smooth

LABELS, POINTS = ("sella", "nasion", "chin"), np.array([[10.0, 8.0], [20.5, 30.25], [28.0, 15.0]])


@pytest.fixture
def folder(tmp_path) -> Path:
    """Pictures of 40 x 36 mm with the same content, the landmarks of the first one, and a file that is no picture."""
    (tmp_path / "images").mkdir()
    for name in "abcd":
        add(tmp_path, name)
    (tmp_path / "images" / "bad.png").write_text("no picture")
    write_landmarks(tmp_path / "table.csv", LandmarkTable(LABELS, {"a": POINTS}))
    return tmp_path


def add(folder: Path, name: str) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(smooth(0, (72, 80))), folder / "images" / f"{name}.png")


@pytest.fixture
def runs(monkeypatch) -> list[str]:
    """Which stages are run. Pre-training gives an untrained network, a detector what it has learnt and 0.1 mm more."""
    made: list[str] = []

    def run(folder, name, command, place, progress=None, share=None, accepted=(0,)):
        made.append(f"{folder.name} {name}")
        if name == "match":
            assert main(command[3:]) in accepted
            assert share() > 0
            return
        settings = json.loads((folder / f"{name}.json").read_text())
        if name == "inference":
            learnt = read_landmarks(Path(settings["output_dir"], "labels.csv"))
            place_of = np.nanmean(list(learnt.points.values()), axis=0) + 0.1
            names = [Path(item["image"]).stem for item in settings["dataset#data"]]
            made[-1] = f"{Path(settings['output_dir']).name} {' '.join(names)}"
            points, scores = (dict.fromkeys(names, value) for value in (place_of, np.full(len(place_of), 0.9)))
            write_landmarks(folder / "landmarks.csv", LandmarkTable(learnt.labels, points, scores, "LPS"))
            return
        assert Path(settings["dataset_dir"]).is_dir()
        bundle = json.loads((place / "configs" / "train.json").read_text())["settings"]["bundle"]
        if bundle == "landmark_detection":
            Path(settings["output_dir"], "checkpoint.pt").write_text("weights")
        else:
            kept = {name: settings[name] for name in ("modality", "working_pixdim")}
            kept |= {"bundle": bundle, "patch_radius": None}  # which is fast
            kept |= {"features": [32] * 5} if bundle == "landmark_pretraining" else {"roi_size": [64] * 3}
            save_checkpoint(folder / "checkpoint.pt", find_bundle(bundle), kept)

    monkeypatch.setattr(_stages, "run_command", run)
    monkeypatch.setattr(_landmark_stages, "run_command", run)
    monkeypatch.setattr(_plan, "seconds_of_step", lambda *_: 0.01)
    monkeypatch.setattr(_plan, "LONGEST", 80)
    monkeypatch.setattr(_plan, "SMALL", 8)
    return made


def annotate(folder: Path, **options) -> dict[str, str]:
    given = {"template": folder / "images" / "a.png", "landmarks": folder / "table.csv", "out": folder / "out"}
    return annotate_images([folder / "images"], **{**given, "pixdim": 0.5, "minutes": 1, **options})


def test_every_image_is_annotated(runs, folder, capsys):
    assert [Path(path).name for path in annotate(folder)] == ["bad.png"]
    rounds = [f"{stage} {what}" for stage in ("3_round1", "4_round2") for what in ("train", "a b c d")]
    assert runs == ["1_pretraining train", "2_matching match", *rounds]
    out, names = folder / "out", "abcd"
    written = {path.name for path in out.iterdir() if not path.name.startswith(".")}
    files = {f"{name}{end}" for name in names for end in (".mrk.json", ".png")}
    assert written == files | {"landmarks.csv", "review.html", "plan.json", "stages"}
    table = read_landmarks(out / "landmarks.csv")
    np.testing.assert_allclose(table.points["a"], POINTS, atol=1e-4)  # as somebody has annotated it
    each = [
        read_landmarks(out / "stages" / place / "found1" / "landmarks.csv").points["c"]
        for place in ("3_round1", "4_round2")
    ]
    assert np.abs(each[1] - each[0]).max() > 0.1
    np.testing.assert_allclose(table.points["c"], np.mean(each, axis=0), atol=1e-3)
    np.testing.assert_allclose(table.points["c"], POINTS + 0.125, atol=0.4)
    for name in names:
        found = read_landmarks(out / f"{name}.mrk.json").to("LPS")
        np.testing.assert_allclose(found.points[name][:, :2], table.points[name], atol=1e-3)
    printed = capsys.readouterr()
    assert "bad.png: left out: " in printed.err
    assert "4 images are few" in printed.err
    told = [line.partition(",")[0] for line in printed.out.splitlines() if "since the start" in line]
    rounds = ["round1: 100%", "prediction: 50%", "round2: 100%", "prediction: 100%"]
    assert told == ["pretraining: 100%", "matching: 100%", *rounds]
    page = (out / "review.html").read_text()
    assert all(label in page for label in LABELS)


def test_errors_of_one_round_are_those_of_a_detector(runs, folder, monkeypatch):
    annotate(folder, dry_run=True)
    plan = json.loads((folder / "out" / "plan.json").read_text())
    del plan["stages"]["round2"]
    (folder / "plan.json").write_text(json.dumps(plan))
    monkeypatch.setattr(_judgement, "MATCHED", ErrorModel({"voxel": 1e6}))
    annotate(folder, plan=folder / "plan.json")
    assert "3_round1 a b c d" in runs
    with (folder / "out" / "landmarks.csv").open(newline="") as file:
        errors = [float(row["error_mm"]) for row in csv.DictReader(file) if row["image"] != "a"]
    assert len(errors) == 9
    assert max(errors) < 100


@pytest.mark.slow
def test_what_is_done_is_not_done_again(runs, folder):
    annotate(folder)
    before = {path: path.stat().st_mtime_ns for path in (folder / "out").iterdir() if path.suffix in (".json", ".png")}
    runs.clear()
    annotate(folder)
    assert runs == ["2_matching match"]  # which does nothing but look
    assert {path: path.stat().st_mtime_ns for path in before if path.name != "plan.json"} == {
        path: time for path, time in before.items() if path.name != "plan.json"
    }


@pytest.mark.slow
def test_more_images_are_found_by_the_networks_that_are_there(runs, folder):
    annotate(folder)
    add(folder, "e")
    runs.clear()
    annotate(folder)
    assert runs == ["2_matching match", "3_round1 e", "4_round2 e"]
    assert (folder / "out" / "e.mrk.json").exists()
    assert sorted(read_landmarks(folder / "out" / "landmarks.csv").points) == list("abcde")


@pytest.mark.slow
def test_an_image_that_has_changed_is_looked_at_again(runs, folder):
    annotate(folder)
    add(folder, "e")
    annotate(folder)
    shown = (folder / "out" / "e.png").read_bytes()
    sitk.WriteImage(sitk.GetImageFromArray(smooth(7, (72, 80))), folder / "images" / "e.png")
    runs.clear()
    annotate(folder)
    assert runs == ["2_matching match", "3_round1 e", "4_round2 e"]
    assert (folder / "out" / "e.png").read_bytes() != shown


@pytest.mark.slow
def test_an_image_that_is_as_it_was_before_has_the_landmarks_of_then(runs, folder):
    annotate(folder)
    add(folder, "e")
    annotate(folder)
    found = folder / "out" / "stages" / "4_round2"
    first, kept = read_landmarks(found / "found2" / "landmarks.csv").points["e"], folder / "kept.png"
    (folder / "images" / "e.png").rename(kept)
    sitk.WriteImage(sitk.GetImageFromArray(smooth(7, (72, 80))), folder / "images" / "e.png")
    annotate(folder)
    for place in (folder / "out" / "stages").glob("*_round*/found3/landmarks.csv"):  # as if it had other ones
        table = read_landmarks(place)
        write_landmarks(place, replace(table, points={"e": table.points["e"] + 5}))
    kept.replace(folder / "images" / "e.png")
    annotate(folder)
    np.testing.assert_allclose(read_landmarks(folder / "out" / "landmarks.csv").points["e"], first, atol=0.3)


@pytest.mark.slow
def test_an_image_of_the_same_name_elsewhere_is_another_one(runs, folder):
    annotate(folder)
    add(folder, "e")
    annotate(folder)
    (folder / "more").mkdir()
    sitk.WriteImage(sitk.GetImageFromArray(smooth(7, (72, 80))), folder / "more" / "e.png")
    (folder / "images" / "e.png").unlink()
    runs.clear()
    given = {"template": folder / "images" / "a.png", "landmarks": folder / "table.csv", "out": folder / "out"}
    annotate_images([folder / "images", folder / "more"], **given, pixdim=0.5, minutes=1)
    assert runs == ["2_matching match", "3_round1 e", "4_round2 e"]
    assert (folder / "out" / "stages" / "images" / "e.png").resolve() == (folder / "more" / "e.png").resolve()


def test_what_a_command_has_written_is_not_what_somebody_has_corrected(runs, folder, capsys):
    """Of the command's own folder, what was changed there counts: else all that it has found would be sure."""
    ledger = Ledger(folder / "out")
    ledger.folder.mkdir()
    for name in "bc":
        write_landmarks(folder / "found.mrk.json", LandmarkTable(LABELS, {name: POINTS}, space="LPS"))
        ledger.write(f"{name}.mrk.json", (folder / "found.mrk.json").read_text())
    with pytest.raises(ValueError, match=r"`corrected` must be .* of the images that you have changed, got '.*out'"):
        annotate(folder, corrected=folder / "out", dry_run=True)
    table = LandmarkTable(LABELS, {"b": POINTS + 1}, space="LPS")
    write_landmarks(folder / "out" / "b.mrk.json", table)
    points, _ = _corrected(folder / "out", {Path(name): name for name in "abc"}, True, False)
    assert [each.name for each in points] == ["b"]
    write_landmarks(folder / "out" / "b.fcsv", table)
    with pytest.raises(ValueError, match=r"`corrected` must be a folder with one file .*, got '.*b.fcsv' and '.*b.mrk"):
        annotate(folder, corrected=folder / "out", dry_run=True)


def test_of_the_commands_own_folder_label_maps_that_were_changed_count(tmp_path):
    ledger = Ledger(tmp_path / "out")
    ledger.folder.mkdir()
    for name in ("a.nii.gz", "a.png", "b.nii.gz", "b.png"):
        ledger.write(name, "made")
    stage = tmp_path / "out" / "stages" / "images"
    stage.mkdir(parents=True)
    (stage / "c.png").write_text("an image")
    (tmp_path / "out" / "b.nii.gz").write_text("changed")
    names = {Path(name): name for name in "abc"}
    assert _corrected(tmp_path / "out", names, False, True) == ([], {"b": tmp_path / "out" / "b.nii.gz"})


@pytest.mark.slow
def test_what_somebody_corrects_is_a_template(runs, folder):
    annotate(folder)
    (folder / "corrected").mkdir()
    moved = POINTS + np.array([1.0, -1.0])
    write_landmarks(folder / "corrected" / "b.mrk.json", LandmarkTable(LABELS, {"b": moved}, space="LPS"))
    own = (folder / "out" / "b.mrk.json").read_bytes()
    (folder / "out" / "d.mrk.json").write_text("mine")
    runs.clear()
    annotate(folder, corrected=folder / "corrected")
    assert runs[0] == "2_matching match"
    assert runs[1:] == ["3_round1 train", "3_round1 a b c d", "4_round2 train", "4_round2 a b c d"]
    table = read_landmarks(folder / "out" / "landmarks.csv")
    np.testing.assert_allclose(table.points["b"], moved, atol=1e-4)
    assert (folder / "out" / "b.mrk.json").read_bytes() != own
    assert (folder / "out" / "d.mrk.json").read_text() == "mine"


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["1_pretraining", "2_matching", "3_round1", "found1", "4_round2"])
def test_a_kill_in_any_stage_loses_nothing(runs, folder, monkeypatch, stage):
    usual, stopped = _stages.run_command, []

    def stop(place, *args, **kwargs):
        if place.name == stage and not stopped:
            stopped.append(stage)
            raise KeyboardInterrupt
        return usual(place, *args, **kwargs)

    monkeypatch.setattr(_stages, "run_command", stop)
    monkeypatch.setattr(_landmark_stages, "run_command", stop)
    with pytest.raises(KeyboardInterrupt):
        annotate(folder)
    annotate(folder)
    assert len(runs) - runs.count("2_matching match") == 5  # each of the others once
    assert sorted(read_landmarks(folder / "out" / "landmarks.csv").points) == list("abcd")


@pytest.mark.slow
def test_markups_of_a_volume_are_where_its_affine_says(runs, folder):
    """Two volumes of the same voxels, not as high as wide; the second one lies elsewhere, turned."""
    volumes, spacing = folder / "volumes", np.array([1.0, 1.0, 2.0])
    volumes.mkdir()
    voxels = np.array([[10.0, 20.0, 12.0], [30.5, 12.0, 7.0]])
    turn, origin = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]]), np.array([5.0, -7.0, 9.0])
    for name, direction, start in (("a", np.eye(3), np.zeros(3)), ("b", turn, origin)):
        image = sitk.GetImageFromArray(smooth(0, (24, 44, 48)))
        image.SetDirection(direction.flatten().tolist())
        image.SetSpacing(spacing.tolist())
        image.SetOrigin(start.tolist())
        sitk.WriteImage(image, volumes / f"{name}.nii.gz")
    write_landmarks(folder / "table.csv", LandmarkTable(["p", "q"], {"a": voxels * spacing}, space="LPS"))
    out = folder / "out3d"
    assert annotate_images([volumes], volumes / "a.nii.gz", folder / "table.csv", out, minutes=1) == {}
    assert runs == ["1_pretraining train", "2_matching match"]
    found = read_landmarks(out / "b.mrk.json").to("LPS").points["b"]
    np.testing.assert_allclose(found, (voxels * spacing) @ turn.T + origin, atol=0.5)


@pytest.mark.slow
@pytest.mark.parametrize("rounds", [False, True])
def test_label_maps_beside_landmarks(runs, tmp_path, monkeypatch, rounds):
    """One picture of a square and a bar is annotated, two more are not."""
    trained: list[dict] = []
    monkeypatch.setattr(_label_stages, "run_stage", stages_in_process(trained, **TINY))
    (tmp_path / "images").mkdir()
    paths = [tmp_path / "images" / f"{seed}.png" for seed in range(3)]
    for path in paths:
        sitk.WriteImage(sitk.GetImageFromArray(scene(int(path.stem))[0]), path)
    given = annotated(tmp_path / "mine.png", paths[0], NUMBERS)
    write_landmarks(tmp_path / "table.csv", LandmarkTable(["p"], {"0": [[5.0, 6.0]]}))
    options = {"pixdim": 0.5, "minutes": 5, "names": ["square", "bar"], "out": tmp_path / "out"}
    if rounds:  # which are not planned for planes
        annotate_images([tmp_path / "images"], paths[0], tmp_path / "table.csv", labels=given, dry_run=True, **options)
        plan = json.loads((tmp_path / "out" / "plan.json").read_text())
        own = segmentation_settings({"modality": "xray", "pixdim": 0.5}, [20.0, 18.0], [0.5, 0.5])
        learnt = {"bundle": "segmentation", "settings": own | {"max_epochs": 2}, "minutes": 1}
        plan["stages"] |= dict.fromkeys(("segmentation1", "segmentation2"), learnt)
        (tmp_path / "plan.json").write_text(json.dumps(plan))
        options["plan"] = tmp_path / "plan.json"
    annotate_images([tmp_path / "images"], paths[0], tmp_path / "table.csv", labels=given, **options)
    stages = {path.name for path in (tmp_path / "out" / "stages").iterdir() if path.is_dir()}
    assert stages >= {"1_pretraining", "2_matching", "4_round2", "6_carrying"}
    assert (stages >= {"7_segmentation1", "8_segmentation2"}) == rounds
    for path in paths:
        found = read_labels(tmp_path / "out" / f"{path.stem}.nii.gz")
        assert found.shape == (1, 40, 36)
        assert found.pixdim.tolist()[:2] == [0.5, 0.5]
        assert set(found.unique().tolist()) <= {0, 4, 9}
        assert (tmp_path / "out" / f"{path.stem}.mrk.json").exists()
    assert torch.equal(read_labels(tmp_path / "out" / "0.nii.gz").long(), truth(paths[0], NUMBERS))
    assert json.loads((tmp_path / "out" / "classes.json").read_text())["classes"] == {"square": 4, "bar": 9}
    page = (tmp_path / "out" / "review.html").read_text()
    assert "square" in page
    assert [len(settings["items"]) for settings in trained] == [3, 3] * rounds
    before = len(trained), len(runs)
    annotate_images([tmp_path / "images"], paths[0], tmp_path / "table.csv", labels=given, **options)
    assert (len(trained), len(runs) - 1) == before  # but for `match`, which looks


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"template": "images/none.png"}, r"`template` must be an image file, got '.*none\.png'"),
        ({"landmarks": "pixels.csv"}, r"`landmarks` must be millimetres .*they lie inside as pixels: multiply them"),
        ({"landmarks": "other.csv"}, r"other\.csv.*'a'"),
        ({"pixdim": None}, r"`pixdim` must be .*, got none for"),
        ({"corrected": "images"}, r"`corrected` must be a folder with files NAME\.mrk\.json"),
        ({"out": "images"}, r"`out` must be another folder than that of the images"),
        ({"landmarks": None}, r"`landmarks` must be a table, or label maps, got none, and no `labels`"),
        ({"labels": "none.png"}, r"`labels` must be files and folders, got '.*none\.png'"),
        ({"minutes": -1}, r"`minutes` must be a number above 0"),
    ],
)
def test_bad_input_before_anything_is_computed(runs, folder, options, message):
    write_landmarks(folder / "pixels.csv", LandmarkTable(LABELS, {"a": POINTS / 0.5 + np.array([0, 9])}))
    write_landmarks(folder / "other.csv", LandmarkTable(LABELS, {"z": POINTS}))
    options = {k: folder / v if isinstance(v, str) else v for k, v in options.items()}
    with pytest.raises(ValueError, match=message):
        annotate(folder, **options)
    assert runs == []


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"minutes": 2}, r"`minutes` must be 1, as '.*plan\.json' plans, or give another `out`, got 2"),
        ({"seed": 4}, "`seed` must be 0, as"),
        ({"pixdim": 0.6}, r"`pixdim` must be 0\.5, as"),
        ({"landmarks": "more.csv"}, r"`landmarks` must be \[.*\], as .*, got \[.*'another'\]"),
    ],
)
def test_what_was_not_planned_is_refused_before_anything_is_computed(runs, folder, asked, message):
    labels, points = [*LABELS, "another"], np.concatenate([POINTS, POINTS[:1] + 1])
    write_landmarks(folder / "more.csv", LandmarkTable(labels, {"a": points}))
    annotate(folder, dry_run=True)
    annotate(folder, dry_run=True)
    with pytest.raises(ValueError, match=message):
        annotate(folder, **{k: folder / v if isinstance(v, str) else v for k, v in asked.items()})
    assert runs == []


@pytest.mark.slow
def test_a_checkpoint_takes_the_place_of_pre_training(runs, folder, capsys, monkeypatch):
    annotate(folder)
    runs.clear()
    monkeypatch.chdir(folder)  # the stages run elsewhere
    trained = "out/stages/1_pretraining/checkpoint.pt"
    annotate(folder, out=folder / "again", checkpoint=trained)
    assert runs[0] == "2_matching match"
    plan = json.loads((folder / "again" / "plan.json").read_text())
    assert plan["stages"]["pretraining"]["minutes"] == 0
    assert sum(stage["minutes"] for stage in plan["stages"].values()) == pytest.approx(1, abs=0.3)
    assert "by the checkpoint that is given" in capsys.readouterr().out


def test_a_dry_run_stops_at_the_plan_which_may_be_edited(runs, folder, capsys):
    annotate(folder, dry_run=True)
    assert runs == []
    plan = json.loads((folder / "out" / "plan.json").read_text())
    plan["consensus"] = 1
    (folder / "edited.json").write_text(json.dumps(plan))
    annotate(folder, plan=folder / "edited.json")
    assert json.loads((folder / "out" / "plan.json").read_text()) == plan
    assert "--consensus 1 " in capsys.readouterr().out or runs
