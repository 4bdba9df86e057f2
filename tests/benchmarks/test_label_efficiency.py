"""The benchmark of segmentations with few labels on small pictures: its rows, what it keeps, and its numbers."""

import json
import shutil

import numpy as np
import pytest
import SimpleITK as sitk

pytest.importorskip("ignite", reason="bundles need the extra train")
pytest.importorskip("scipy", reason="bundles need the extra train")
from benchmarks import label_efficiency
from benchmarks.label_efficiency import main, summary

SMALL = {
    "spatial_dims": 2,
    "modality": "xray",
    "pixdim": 0.5,
    "working_pixdim": 0.5,
    "classes": ["square"],
    "roi_size": [48, 48],
    "features": [8, 8, 8, 8, 16, 8],
    "widths": [16, 16],
    "coarse_features": [4, 4, 4, 4, 8, 4],
    "samples_per_epoch": 4,
    "max_epochs": 1,
    "num_workers": 0,
}


@pytest.fixture
def folder(tmp_path):
    """Twelve pictures of a square, and their labels."""
    for name in ("images", "masks"):
        (tmp_path / "squares" / name).mkdir(parents=True)
    for seed in range(12):
        generator, label = np.random.default_rng(seed), np.zeros((48, 48), np.uint8)
        row, column = generator.integers(6, 24, 2)
        label[row : row + 16, column : column + 16] = 1
        image = (80 + 90 * label + generator.normal(0, 10, label.shape)).clip(0, 255).astype(np.uint8)
        for name, array in (("images", image), ("masks", label)):
            sitk.WriteImage(sitk.GetImageFromArray(array), tmp_path / "squares" / name / f"{seed}.png")
    return tmp_path


def run(folder, rows, *more, **settings):
    changed = [f"{name}={json.dumps(value)}" for name, value in (SMALL | settings).items()]
    there = ["--data", str(folder / "squares"), "--out", str(folder / "out"), "--rows", rows, "--epochs", "1"]
    main([*there, "--seeds", "1", "--jobs", "1", *more, "--set", *changed])


def test_every_row_is_trained_once_and_printed(folder, capsys, monkeypatch):
    rows = "scratch,tiers,consistency_shuffled,consistency_usual,label_efficient_guided,label_efficient,"
    rows += "label_efficient_round,local_contrast_guided,attention"
    run(folder, rows, "--fractions", "50")
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [row["row"] for row in last["table"]] == rows.split(",")
    kept = folder / "out" / "squares" / "small"
    for row in last["table"]:
        result = json.loads((kept / row["row"] / "0.5" / "0" / "result.json").read_text())
        assert np.shape(result["dice"]) == np.shape(result["hausdorff"]) == (3, 1)
        assert row["dice"] == pytest.approx(np.mean(result["dice"]), abs=1e-4)
        settings = json.loads((kept / row["row"] / "0.5" / "0" / "settings.json").read_text())
        assert settings["labelled"] == 0.5
        assert settings["max_epochs"] == 1
    mean = {row["row"]: row["dice"] for row in last["table"]}
    for name, other in (("tiers", "scratch"), ("label_efficient_guided", "label_efficient")):
        difference = last["differences"][f"0.5: {name} - {other}"][0]
        assert difference == pytest.approx(mean[name] - mean[other], abs=2e-4)

    monkeypatch.setattr(label_efficiency, "run_bundle", None)  # nothing is trained again
    run(folder, rows, "--fractions", "50")
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == last
    with pytest.raises(ValueError, match=r"`out` must be new, or of a run with the same settings"):
        run(folder, "scratch", "--fractions", "50", samples_per_epoch=6)


@pytest.mark.parametrize(
    "rows", [["local_contrast_drawn", "local_contrast_guided"], ["label_efficient", "label_efficient_short"]]
)
def test_a_stage_is_shared_and_nothing_else_changes(folder, monkeypatch, rows):
    copied = []
    monkeypatch.setattr(label_efficiency.shutil, "copy", lambda *places: copied.append(shutil.copy2(*places)))
    found = []
    for out, names in (("both", ",".join(rows)), ("alone", rows[1])):
        run(folder, names, "--fractions", "50", "--out", str(folder / out), max_epochs=3)
        result = folder / out / "squares" / "small" / rows[1] / "0.5" / "0" / "result.json"
        found.append(json.loads(result.read_text())["dice"])
    assert found[0] == found[1]
    assert len(copied) == 1


def test_the_table_has_the_seeds_that_are_complete(folder, capsys):
    run(folder, "scratch", "--numbers", "1", "--seeds", "1")
    run(folder, "scratch,label_efficient_round", "--numbers", "1", "--seeds", "1", "--minutes", "0")
    assert "Complete: 0 of 1 seeds." in capsys.readouterr().out
    run(folder, "scratch", "--numbers", "1", "--seeds", "2", "--minutes", "0")
    printed = capsys.readouterr().out
    assert "Complete: 1 of 2 seeds. Run the same command again to go on." in printed
    assert "\n1 seeds x" in printed


def test_a_class_that_was_not_found_has_dice_but_no_distance():
    results = [{"dice": [[0.5, 0.0], [1.0, 0.5]], "hausdorff": [[2.0, np.inf], [1.0, np.nan]], "seconds": 3.0}] * 2
    row = summary("scratch", 5, results, ["a", "b"])
    assert row["dice"] == 0.5
    assert row["dice_by_class"] == {"a": 0.75, "b": 0.25}
    assert row["sd_of_seeds"] == 0
    assert row["hausdorff_95_mm"] == 1.5
    assert row["not_found"] == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("best", "--fractions", "5"), "`rows` must be among scratch, .*, got 'best'"),
        (("scratch",), "`fractions` must be per cent, or `numbers` given"),
        (("scratch", "--numbers", "5", "--jobs", "0"), "`jobs` must be at least 1, got 0"),
    ],
)
def test_bad_arguments(folder, arguments, message):
    with pytest.raises(ValueError, match=message):
        run(folder, *arguments)
    assert not (folder / "out").exists()


def test_folder_without_labels(folder):
    with pytest.raises(ValueError, match="`data` must be a folder with `images`, and `labels` or `masks`"):
        main(["--data", str(folder), "--fractions", "5"])
