"""The benchmark of one label map on small pictures: its rows, what it keeps, and its numbers."""

import json
from functools import partial

import numpy as np
import pytest
import SimpleITK as sitk

pytest.importorskip("ignite", reason="bundles need the extra train")
pytest.importorskip("scipy", reason="bundles need the extra train")
from benchmarks import annotate_labels
from benchmarks.annotate_labels import ROWS, main
from monai_infoaug.commands import _label_stages
from monai_infoaug.inferers import _patch_search, label_propagation
from tests.commands.labelled_scenes import TINY, stages_in_process

SMALL = {
    "modality": "xray",
    "spatial_dims": 2,
    "pixdim": 0.5,
    "working_pixdim": 0.5,
    "classes": ["square"],
    "label_bits": None,
    "roi_size": [80, 80],
    "patch_size": 8,
    "window": 5,
}
PRETRAINING = {"features": [8] * 5, "view_size": [64, 64], "num_points": 20, "max_epochs": 1, "batch_size": 2}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Eight pictures of a square, and their labels."""
    for name in ("images", "masks"):
        (tmp_path / "squares" / name).mkdir(parents=True)
    texture = np.random.default_rng(9).normal(0, 20, (80, 80))
    for seed in range(8):
        generator, label = np.random.default_rng(seed), np.zeros((80, 80), np.uint8)
        row, column = 30 + generator.integers(-2, 3, 2)
        label[row : row + 16, column : column + 16] = 1
        image = 80 + 90 * label + np.roll(texture, (row, column), (0, 1)) + generator.normal(0, 4, label.shape)
        for name, array in (("images", image.clip(0, 255).astype(np.uint8)), ("masks", label)):
            sitk.WriteImage(sitk.GetImageFromArray(array), tmp_path / "squares" / name / f"{seed}.png")
    monkeypatch.setitem(annotate_labels.DATASETS, "squares", SMALL)
    monkeypatch.setitem(annotate_labels.PRETRAINING, "squares", ("landmark_pretraining", PRETRAINING))
    monkeypatch.setitem(annotate_labels.REGISTRATION, "squares", {"shrink": (2, 1), "iterations": 2})
    monkeypatch.setattr(annotate_labels, "LabelCarrier", partial(annotate_labels.LabelCarrier, count=30))
    monkeypatch.setattr(label_propagation, "NODES", 2**8)
    monkeypatch.setattr(_patch_search, "SUPPORT", 200)
    monkeypatch.setattr(_patch_search, "REFINED", 40)
    return tmp_path


def run(folder, *more):
    main(["--data", str(folder / "squares"), "--out", str(folder / "out"), "--epochs", "4", "--pool", "3", *more])


@pytest.mark.slow
def test_every_row_is_made_once_and_printed(folder, capsys, monkeypatch):
    runs = []
    monkeypatch.setattr(_label_stages, "run_stage", stages_in_process(runs, **TINY))
    run(folder, "--templates", "1,6", "--rounds", "1")
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [row["row"] for row in last["table"]] == list(ROWS)
    assert last["templates"] == ["1", "6"]
    for row in last["table"]:
        kept = [folder / "out" / "squares" / name / "0" / row["row"] / "result.json" for name in ("1", "6")]
        dice = np.array([json.loads(path.read_text())["dice"] for path in kept])
        assert dice.shape == (2, 2, 1)
        assert row["dice"] == pytest.approx(dice.mean(), abs=1e-4)
        assert row["dice"] > 0.3
    mean = {row["row"]: row["dice"] for row in last["table"]}
    for other in ROWS[:-1]:
        assert last["differences"][f"annotate - {other}"][0] == pytest.approx(mean["annotate"] - mean[other], abs=2e-4)
    learnt = [[item["name"] for item in settings["items"]] for settings in runs]
    assert learnt == [["1"], ["0", "1", "2", "4"], ["6"], ["0", "1", "2", "6"]]  # 3 and 7 are for testing

    before = len(runs)
    run(folder, "--templates", "1,6", "--rounds", "1")
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == last
    assert len(runs) == before
    with pytest.raises(ValueError, match=r"`out` must be new, or of a run with the same settings"):
        run(folder, "--templates", "1", "--rounds", "2")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--rows", "best"), "`rows` must be among copied, unet, .*, got 'best'"),
        (("--templates", "3"), "`templates` must be training cases, such as 0, 1, 2, got '3'"),
        (("--seeds", "0"), "`seeds` must be at least 1, got 0"),
        (("--data", "/nowhere"), "`data` must be a folder hippocampus.*got ./nowhere."),
    ],
)
def test_bad_arguments(folder, arguments, message):
    with pytest.raises(ValueError, match=message):
        run(folder, *arguments)


def test_nothing_is_begun_after_the_minutes(folder, capsys):
    run(folder, "--rows", "copied", "--templates", "1", "--minutes", "0")
    assert "Complete: 0 of 1 seeds." in capsys.readouterr().out
