"""Few label maps in, segmentations of all images out: what is written, decided, refused and not done twice."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

pytest.importorskip("ignite", reason="bundles need the extra train")
pytest.importorskip("tensorboard", reason="bundles need the extra train")
pytest.importorskip("scipy", reason="bundles need the extra train")

from monai_infoaug.commands import _label_stages, segment
from monai_infoaug.commands._label_files import read_labels
from monai_infoaug.commands._survey import Survey
from monai_infoaug.commands.segment import make_plan, segment_images
from tests.commands.labelled_scenes import BITS, NUMBERS, TINY, annotated, dice, scene, stages_in_process, truth


@pytest.fixture
def folder(tmp_path) -> Path:
    """Five pictures, two of them with label maps."""
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    for seed in range(5):
        sitk.WriteImage(sitk.GetImageFromArray(scene(seed)[0]), tmp_path / "images" / f"{seed}.png")
    for seed in (1, 3):
        annotated(tmp_path / "labels" / f"{seed}.png", tmp_path / "images" / f"{seed}.png", NUMBERS)
    return tmp_path


@pytest.fixture
def trained(monkeypatch) -> list[dict]:
    """Settings of the trainings, which are tiny ones in this process."""
    runs: list[dict] = []
    monkeypatch.setattr(_label_stages, "run_stage", stages_in_process(runs, **TINY))
    monkeypatch.setattr(segment, "seconds_of_step", lambda *_: 1.0)
    return runs


def run(folder: Path, **options) -> dict[str, str]:
    given = {"names": ["square", "bar"], "pixdim": 0.5, "minutes": 10.0, **options}
    return segment_images([folder / "images"], folder / "labels", folder / "out", **given)


def test_all_images_are_segmented_with_the_given_values_and_names(folder, trained, capsys):
    (folder / "images" / "bad.png").write_bytes(b"")
    failures = run(folder)
    assert [Path(path).name for path in failures] == ["bad.png"]
    out, printed = folder / "out", capsys.readouterr()
    assert "Classes: square 4, bar 9. Label maps: 2 of 5 images." in printed.out
    assert "bad.png" in printed.err
    for seed in range(5):
        found, expected = read_labels(out / f"{seed}.png"), truth(Path(f"{seed}.png"), NUMBERS)
        for mask, its in zip(NUMBERS.masks(found), NUMBERS.masks(expected), strict=True):
            assert dice(mask, its) > (0.999 if seed in (1, 3) else 0.5)
    content = json.loads((out / "classes.json").read_text())
    assert content == {"classes": {"square": 4, "bar": 9}, "bits": False}
    with (out / "labels.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["image", "file", "label_map", "confidence square", "confidence bar", "failure"]
    assert rows[0][0] == "bad"
    assert rows[0][-1]
    assert [row[0] for row in rows[4:]] == ["1", "3"]
    assert [row[2:5] for row in rows[4:]] == [["given", "", ""]] * 2
    least = [min(map(float, row[3:5])) for row in rows[1:4]]
    assert least == sorted(least)

    learnt = [[item["name"] for item in settings["items"]] for settings in trained]
    assert learnt == [["1", "3"], ["0", "1", "2", "3", "4"]]
    assert trained[0]["classes"] == ["square", "bar"]
    assert trained[0]["max_epochs"] == 6  # 5 minutes of steps of a second, 50 an epoch
    assert "origin" not in trained[0]


@pytest.mark.slow
def test_a_second_run_does_what_is_missing(folder, trained, monkeypatch):
    run(folder)
    before = {path: path.stat().st_mtime_ns for path in (folder / "out").rglob("*.png")}
    monkeypatch.setattr(segment, "seconds_of_step", lambda *_: 2.0)  # the machine is slower now
    sitk.WriteImage(sitk.GetImageFromArray(scene(8)[0]), folder / "images" / "8.png")
    assert run(folder) == {}
    assert len(trained) == 2
    assert (folder / "out" / "8.png").exists()
    stages = {path: path.stat().st_mtime_ns for path in before if "stages" in path.parts}
    assert stages == {path: time for path, time in before.items() if path in stages}


@pytest.mark.slow
def test_what_somebody_has_corrected_stays(folder, trained, capsys):
    run(folder, minutes=2)
    (folder / "out" / "0.png").write_bytes(b"corrected")
    assert run(folder, minutes=2) == {}
    assert (folder / "out" / "0.png").read_bytes() == b"corrected"
    assert "0.png was changed since it was written: it stays so" in capsys.readouterr().err


@pytest.mark.slow
def test_classes_that_overlap_stay_bits(folder, trained):
    for seed in (1, 3):
        annotated(folder / "labels" / f"{seed}.png", folder / "images" / f"{seed}.png", BITS)
    label = read_labels(folder / "labels" / "1.png")
    label[0, :2] = 3
    sitk.WriteImage(sitk.Cast(sitk.GetImageFromArray(label[0].numpy().T), sitk.sitkUInt8), folder / "labels" / "1.png")
    run(folder, minutes=2)
    assert trained[0]["label_bits"] == [1, 2]
    assert json.loads((folder / "out" / "classes.json").read_text())["bits"]
    assert read_labels(folder / "out" / "1.png").equal(label)


def test_a_dry_run_stops_at_the_plan(folder, trained, capsys):
    assert run(folder, dry_run=True) == {}
    assert trained == []
    assert [path.name for path in (folder / "out").iterdir() if not path.name.startswith(".")] == ["plan.json"]
    said = capsys.readouterr().out
    assert "round" in said
    assert f"Wrote {folder / 'out' / 'plan.json'}: edit it and give it as --plan to do otherwise." in said


@pytest.mark.slow
def test_an_edited_plan_counts(folder, trained):
    run(folder, dry_run=True)
    plan = json.loads((folder / "out" / "plan.json").read_text())
    plan["stages"]["training"]["settings"]["max_epochs"] = 3
    (folder / "edited.json").write_text(json.dumps(plan))
    run(folder, plan=folder / "edited.json")
    assert trained[0]["max_epochs"] == 3
    (folder / "out" / "plan.json").write_text(json.dumps(plan | {"modality": "mr"}))  # in its place, as the line says
    run(folder, plan=folder / "out" / "plan.json", dry_run=True)
    assert json.loads((folder / "out" / "plan.json").read_text())["modality"] == "mr"
    with pytest.raises(
        ValueError, match=r"`minutes` must be .*, as '.*plan\.json' plans, or give another `out`, got 7"
    ):
        run(folder, minutes=7)
    (folder / "edited.json").write_text(json.dumps(plan | {"stages": {}}))
    with pytest.raises(ValueError, match=r"`stages of .*` must be with `training`"):
        run(folder, plan=folder / "edited.json")


@pytest.mark.parametrize(
    ("dims", "count", "total", "stages"),
    [
        (2, 5, 100, ["training", "round"]),
        (2, 21, 100, ["training"]),
        (2, 5, 5, ["training"]),
        (3, 7, 100, ["training", "round"]),
        (3, 13, 100, ["training"]),
    ],
)
def test_the_recipe_follows_from_our_tables(monkeypatch, dims, count, total, stages):
    monkeypatch.setattr(segment, "seconds_of_step", lambda *_: 0.5)
    names = {Path(f"{number}.png"): str(number) for number in range(total)}
    survey = Survey(names, {}, dims, 1, "mr", False, (51.2,) * dims, (0.4,) * dims)
    plan = make_plan(survey, count, 60.0)
    assert list(plan.stages) == stages
    assert sum(stage["minutes"] for stage in plan.stages.values()) == pytest.approx(60)
    steps = sum(stage["settings"]["max_epochs"] * 50 for stage in plan.stages.values())
    assert steps == pytest.approx(7200, rel=0.01)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (None, {"minutes": 0}, "`minutes` must be a number above 0"),
        (None, {"pixdim": None}, "`pixdim` must be given"),
        (None, {"names": ["a"]}, "`names` must be a name a class"),
        (lambda f: [p.rename(p.with_name(f"of_{p.name}")) for p in (f / "labels").iterdir()], {}, "with the names of"),
        (
            lambda f: sitk.WriteImage(sitk.Image(9, 9, sitk.sitkUInt8), f / "labels" / "1.png"),
            {},
            "as large as its image",
        ),
        (lambda f: (f / "out").mkdir() or (f / "out" / "0.png").write_bytes(b"mine"), {}, "somebody else's"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_trained(folder, trained, change, options, message):
    if change:
        change(folder)
    with pytest.raises(ValueError, match=message):
        run(folder, **options)
    assert trained == []


def test_a_label_map_of_two_images_is_refused(folder, trained):
    for name in ("a", "b"):
        (folder / name).mkdir()
        sitk.WriteImage(sitk.GetImageFromArray(scene(1)[0]), folder / name / "1.png")
    with pytest.raises(ValueError, match=r"`labels` must be of one image each: .*1.png' for the images a_1, b_1"):
        segment_images([folder / "a", folder / "b"], folder / "labels", folder / "out", pixdim=0.5)


def test_label_maps_of_volumes_lie_where_their_images_do(tmp_path, trained, recwarn):
    """One of another place would be brought to its image as nothing but background."""
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    for seed in range(3):
        image = sitk.GetImageFromArray(np.stack([scene(seed)[0]] * 8))
        image.SetOrigin((100, 150, -600))
        sitk.WriteImage(image, tmp_path / "images" / f"{seed}.nii.gz")
    label = sitk.GetImageFromArray(np.stack([scene(0)[1][0].astype(np.uint8)] * 8))
    label.SetOrigin((100, 150, -600))
    sitk.WriteImage(label[2:], tmp_path / "labels" / "0.nrrd")  # cropped, and still in its place
    segment_images([tmp_path / "images"], tmp_path / "labels", tmp_path / "out", dry_run=True)
    assert "has 38 x 36 x 8 voxels, its image 40 x 36 x 8: it is resampled to its image" in str(recwarn[-1].message)
    label.SetOrigin((0, 0, 0))
    sitk.WriteImage(label, tmp_path / "labels" / "1.nrrd")
    with pytest.raises(ValueError, match=r"`label` must be on the grid of its image, got '.*1.nrrd', which lies"):
        segment_images([tmp_path / "images"], tmp_path / "labels", tmp_path / "out", dry_run=True)


def test_label_maps_that_are_not_taken_are_named(folder, trained, capsys):
    label = folder / "labels" / "1.png"
    label.with_name("7.png").write_bytes(label.read_bytes())
    label.rename(label.with_name("1.seg.png"))  # 3D Slicer's own suffix is no part of a name
    run(folder, dry_run=True)
    said = capsys.readouterr()
    assert "7.png': passed over, of none of the images." in said.err
    assert "Label maps: 2 of 5 images." in said.out
    sitk.WriteImage(sitk.GetImageFromArray(scene(1)[0]), folder / "labels" / "1.nrrd")
    with pytest.raises(ValueError, match=r"`labels` must be label maps of different names, got '.*1.nrrd' and '.*1.s"):
        run(folder, dry_run=True)
