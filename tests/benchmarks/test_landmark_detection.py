"""The benchmark of detectors on small pictures: its rows, what it may read, and what it keeps."""

import json
import shutil
from functools import partial

import numpy as np
import pytest
import torch

pytest.importorskip("ignite", reason="bundles need the extra train")
pytest.importorskip("PIL", reason="the pictures are made with Pillow")
from benchmarks import landmark_detection, landmark_matching
from benchmarks.landmark_detection import main
from monai_infoaug.commands.template_matcher import TemplateMatcher
from monai_infoaug.data import read_landmarks

NETWORK = {"features": [8] * 5, "batch_size": 2, "max_epochs": 1, "num_workers": 0}
PRETRAINING = NETWORK | {
    "view_size": [64, 64],
    "num_points": 20,
    "learning_rate": 0.1,
    "val_images": 1,
    "amp": False,
}
DETECTION = NETWORK | {"image_size": [64, 72], "samples_per_epoch": 4, "amp": False}
TEMPLATE = [[10.0, 8.0], [20.0, 30.0]]  # its landmarks


def run(data, *more, out="out"):
    there = data.parent / out
    spacing = ["--pixdim", "0.5", "--origin", "0", "--working-pixdim", "0.5"]
    given = ["--data", str(data), "--template", "1", "--out", str(there), "--pretrained", str(there / "matching")]
    for option, settings in (("--set", DETECTION), ("--set-pretraining", PRETRAINING)):
        given += [option, *(f"{name}={json.dumps(value)}" for name, value in settings.items())]
    main([*given, *spacing, *more])


def folder_of(data, name, out="out", tested="test1"):
    return data.parent / out / ("matching" if name == "full" else "") / "small" / tested / name / "0"


def kept(data, name, file="result.json", **where):
    return json.loads((folder_of(data, name, **where) / file).read_text())


def weights(data, name, **where):
    return torch.load(folder_of(data, name, **where) / "checkpoint.pt", weights_only=True)["network"]


def test_every_row_is_trained_once_and_printed(data, capsys, monkeypatch):
    rows = ["scratch 1", "pretrained 1", "scratch 2", "pretrained 2", "matching", "one-shot 1"]
    arguments = ("--labels", "1,2", "--rounds", "1", "--seeds", "1")
    # of matches by a network that has hardly learnt, some are to be learnt from
    monkeypatch.setattr(landmark_detection, "TemplateMatcher", partial(TemplateMatcher, max_round_trip=1e6))
    run(data, *arguments)
    printed = capsys.readouterr().out
    last = json.loads(printed.splitlines()[-1])
    assert [row["row"] for row in last["table"]] == rows
    assert all(0 < row["mre"] < 40 and len(row["sdr"]) == 4 for row in last["table"])
    for difference in ("pretrained 1 - scratch 1", "pretrained 2 - scratch 2", "one-shot 1 - matching"):
        name, _, other = difference.partition(" - ")
        mean = {row["row"]: row["mre"] for row in last["table"]}
        assert last["differences"][difference][0] == pytest.approx(mean[name] - mean[other], abs=2e-3)
        assert f"{difference}: " in printed
    start, detectors = weights(data, "full"), {name: weights(data, name) for name in rows if name != "matching"}
    for name, trunk in detectors.items():
        far = max((trunk[f"trunk.{key}"] - value).abs().max().item() for key, value in start.items())
        # two steps change less than this, and the pre-training has changed far more
        assert (far < 0.02) == (not name.startswith("scratch"))
    assert len({sum(value.sum().item() for value in each.values()) for each in detectors.values()}) == len(detectors)
    assert kept(data, "scratch 2", "settings.json")["labelled"][0] == "1"
    assert kept(data, "pretrained 2", "settings.json")["features"] == [8] * 5

    for module in (landmark_detection, landmark_matching):
        monkeypatch.setattr(module, "run_bundle", None)
    run(data, *arguments)
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == last
    with pytest.raises(ValueError, match="of other settings"):
        run(data, *arguments, "--pixdim", "0.6")


def test_only_the_template_is_read_of_the_training_labels_and_no_test_label_before_the_end(data, write_table):
    arguments = ("--labels", "", "--rounds", "1", "--seeds", "1")
    run(data, *arguments)
    (data / "test1_landmarks_mm.csv").unlink()
    for out, points in (("alone", TEMPLATE), ("moved", [[12.0, 9.0], [20.0, 30.0]])):
        write_table(data, "train", ["1"], points)  # no other training image has a label
        folder_of(data, "full", out=out).mkdir(parents=True)
        for file in ("checkpoint.pt", "settings.json"):  # of a training without labels: it need not be done again
            shutil.copy(folder_of(data, "full") / file, folder_of(data, "full", out=out))
        with pytest.raises((OSError, ValueError), match="test1_landmarks"):
            run(data, *arguments, out=out)
        same = out == "alone"  # the template's own label matters
        assert (kept(data, "full", out=out)["found"] == kept(data, "full")["found"]) == same
        states = [weights(data, "one-shot 1", out=there).values() for there in ("out", out)]
        assert all(map(torch.equal, *states)) == same


def test_rounds_learn_from_what_was_found_in_the_training_images(data, capsys):
    for path in (data / "test1").iterdir():
        path.unlink()
    (data / "test1_landmarks_mm.csv").unlink()
    run(data, "--labels", "", "--rounds", "2", "--seeds", "1", "--tune")
    assert "1 seeds x 1 images" in capsys.readouterr().out
    rounds = [folder_of(data, f"one-shot {i}", tested="tune") for i in (1, 2)]
    first, second = (read_landmarks(folder / "labels.csv") for folder in rounds)
    detected = read_landmarks(rounds[0] / "train" / "landmarks.csv")
    for table in (first, second):
        assert set(table.points) == {"0", "1", "2", "3"}  # the last fifth is held out
        np.testing.assert_allclose(table.points["1"], TEMPLATE)
        assert table.scores["1"].tolist() == [1, 1]
    for name in ("0", "2", "3"):
        np.testing.assert_array_equal(second.points[name], detected.points[name])
        np.testing.assert_array_equal(second.scores[name], detected.scores[name])
        assert not np.array_equal(first.points[name], detected.points[name])
    assert [kept(data, f"one-shot {i}", "settings.json", tested="tune")["min_score"] for i in (1, 2)] == [0, 0.5]


@pytest.mark.parametrize("labels", ["0", "1,6"])
def test_bad_numbers_of_labels_are_named(data, labels):
    with pytest.raises(ValueError, match="`labels` must be from 1 to 5"):
        run(data, "--labels", labels)
    assert not (data.parent / "out").exists()
