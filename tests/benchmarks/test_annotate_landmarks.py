"""The benchmark of annotated folders on small pictures, with stand-ins for what is trained."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ignite", reason="bundles need the extra train")
pytest.importorskip("PIL", reason="the pictures are made with Pillow")
from PIL import Image

from benchmarks import annotate_landmarks
from benchmarks.annotate_landmarks import called_absent, crop, main, trust, worth_of_advice
from monai_infoaug.bundles import find_bundle
from monai_infoaug.commands._images import images_of
from monai_infoaug.data import LandmarkTable, image_name, write_landmarks
from tests.commands.scenes import save_checkpoint

TRUTH = np.array([[9.0, 8.0], [20.5, 30.25]])  # of all test images


@pytest.fixture
def calls(monkeypatch):
    """What is called. The template alone is 3 mm off, the consensus 2, and what is annotated 1."""
    made = []

    def table(path, images, error):
        path.parent.mkdir(parents=True, exist_ok=True)
        names = [image_name(image) for image in images]
        write_landmarks(path, LandmarkTable("01", {name: TRUTH + np.array([error, 0]) for name in names}, space="LPS"))
        return names

    def annotate(images, template, landmarks, out, **own):
        made.append(("annotate", [image_name(path) for path in template], own.get("checkpoint"), own["seed"]))
        rest = images_of("images", images)
        for number, error in ((1, 0.5), (2, 1.5)):
            table(out / "stages" / f"{number}_round{number}" / f"found{len(rest)}" / "landmarks.csv", rest, error)
        rows = [f"{image_name(path)},{label},{2 - i},{i}" for path in rest for i, label in enumerate("01")]
        (out / "landmarks.csv").write_text("\n".join(["image,landmark,error_mm,absent", *rows]))

    def match(checkpoint, template, landmarks, images, out, settings, consensus, pool):
        made.append(("match", checkpoint, consensus))
        table(out / "landmarks.csv", images, 2.0 if consensus else 3.0)

    def advise(checkpoint, images, number, **own):
        made.append(("advise", checkpoint, number))
        return [Path("3.png"), Path("4.png")][:number]

    for name, stand_in in (("annotate", annotate), ("match", match), ("advise", advise)):
        monkeypatch.setattr(annotate_landmarks, f"{name}_images", stand_in)
    return made


def run(data, *more):
    main(["--data", str(data), "--out", str(data.parent / "out"), "--pixdim", "0.5", "--origin", "0", *more])


def test_every_set_is_annotated_once_and_printed(data, calls, capsys):
    given = ("--templates", "1,2+3,advised+advised", "--seeds", "2")
    run(data, *given)
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    errors = {"template": 3.0, "consensus": 2.0, "annotate": 1.0}
    sets = ("1", "2+3", "advised+advised")
    assert [row["row"] for row in last["table"]] == [f"{name} {row}" for name in sets for row in errors]
    assert [row["mre"] for row in last["table"]] == list(errors.values()) * 3
    assert last["differences"]["2+3 annotate - 2+3 consensus"][0] == pytest.approx(-1)
    assert last["trust"]["1"] == {"kept": 100.0, "large_in_worst_tenth": 0.0, "large": 0, "absent": 50.0}
    first = data.parent / "out" / "small" / "test1"
    own = [first / str(seed) / "1/annotated/stages/1_pretraining/checkpoint.pt" for seed in (0, 1)]
    annotated = [call[1:] for call in calls if call[0] == "annotate"]
    expected = [(["1"], None), (["2", "3"], "own"), (["3", "4"], "own")]
    assert annotated[::2] == annotated[1::2]  # the training images, and then the test images, too
    assert annotated[::2] == [(names, kept and own[seed], seed) for names, kept in expected for seed in (0, 1)]
    assert [call[1:] for call in calls if call[0] == "advise"] == [(path, 2) for path in own]
    assert {call[1] for call in calls if call[0] == "match"} == {*own}

    calls.clear()
    run(data, *given)
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["table"] == last["table"]
    assert {call[0] for call in calls} == {"advise"}  # which keeps what it knows itself


def test_landmarks_that_are_cut_off_are_to_be_called_absent(data, calls, capsys, monkeypatch):
    monkeypatch.setattr(annotate_landmarks, "CUT_OFF", 1)
    run(data, "--templates", "1,2+3", "--seeds", "2", "--cropped")
    trusted = json.loads(capsys.readouterr().out.splitlines()[-1])["trust"]
    kept = [json.loads(file.read_text()) for file in data.parent.glob("out/small/test1/*/1/cropped/result.json")]
    cut_off = np.array([result["cut_off"] for result in kept])  # (seeds, images, L); the second one is called absent
    assert (cut_off.sum(-1) == 1).all()
    for name in ("1", "2+3"):
        assert trusted[name]["absent_cut_off"] == pytest.approx(100 * cut_off[..., 1].mean())
        assert trusted[name]["absent_others"] == pytest.approx(100 * cut_off[..., 0].mean())
    assert len([call for call in calls if call[0] == "annotate"]) == 2 * 2 * 3


@pytest.mark.parametrize("edge", range(4))
def test_the_landmarks_next_to_an_edge_are_cut_off(tmp_path, edge):
    generator = np.random.default_rng(0)
    pixels = np.stack([3 + 4 * generator.permutation(9) for _ in range(2)], 1)
    points = 0.5 * pixels + 0.25  # mm
    image = np.zeros((50, 40), np.uint8)
    image[pixels[:, 1], pixels[:, 0]] = range(1, 10)
    Image.fromarray(image).save(tmp_path / "image.png")
    gone = crop(str(tmp_path / "image.png"), tmp_path / "cut.png", points, [edge], 0.5, 0.25)
    left = np.asarray(Image.open(tmp_path / "cut.png"))
    assert set(left.ravel()) - {0} == {*(np.flatnonzero(~gone) + 1)}
    outwards = points[:, edge // 2] * (-1, 1)[edge % 2]
    assert set(np.flatnonzero(gone)) == {*outwards.argsort()[-3:]}
    assert called_absent(gone, ~gone) == {"cut_off": 0.0, "others": 100.0}


@pytest.mark.parametrize("edges", [[1, 0], [0, 1]])
def test_enough_of_an_image_is_left(tmp_path, edges):
    points = np.array([[x, 10.0] for x in (4, 9, 12, 28, 30)])  # without three at the right, a fourth is left
    Image.new("L", (40, 20)).save(tmp_path / "image.png")
    gone = crop(str(tmp_path / "image.png"), tmp_path / "cut.png", points, edges, 1.0, 0.0)
    assert gone.tolist() == [True, True, True, False, False]
    with Image.open(tmp_path / "cut.png") as picture:
        assert picture.size == (20, 20)


def test_the_worth_of_advice_is_that_of_matches_between_test_images(data, calls, capsys, monkeypatch):
    for name in "56":  # further test images, as good as the others
        shutil.copy(data / "test1" / "7.png", data / "test1" / f"{name}.png")
    write_landmarks(data / "test1_landmarks_mm.csv", LandmarkTable("01", dict.fromkeys("5678", TRUTH)))
    settings = {"bundle": "landmark_pretraining", "modality": "xray", "features": [8] * 5, "working_pixdim": 0.5}
    usual = annotate_landmarks.annotate_images

    def annotate(images, template, landmarks, out, **own):
        usual(images, template, landmarks, out, **own)
        place = out / "stages" / "1_pretraining" / "checkpoint.pt"
        place.parent.mkdir(parents=True, exist_ok=True)
        save_checkpoint(place, find_bundle("landmark_pretraining"), settings | {"patch_radius": 4})

    monkeypatch.setattr(annotate_landmarks, "annotate_images", annotate)
    run(data, "--templates", "1", "--seeds", "1", "--advice")
    (worth,) = json.loads(capsys.readouterr().out.splitlines()[-1])["advice"]
    kept = json.loads((data.parent / "out" / "small" / "test1" / "0" / "worth_of_advice" / "result.json").read_text())
    errors = np.array(kept["errors"])  # of 5, 6, 7, and 8, which alone is another picture
    assert errors[3] > errors[:3].max()
    assert worth["candidates"] == 4
    assert worth["mean"] == pytest.approx(errors.mean())
    assert worth["random_above_best"] == pytest.approx(errors.mean() - errors.min(), abs=1e-6)


def test_the_best_of_those_that_are_drawn_has_nothing_above_it():
    errors = np.random.default_rng(0).random(30)
    worth = worth_of_advice(errors, -errors)
    assert worth["advised_above_best"] == 0
    assert worth["rank_correlation"] == pytest.approx(1)
    best = np.mean([np.random.default_rng(i).permutation(errors)[:16].min() for i in range(2000)])
    assert worth["random_above_best"] == pytest.approx(errors.mean() - best, abs=0.02)
    assert worth_of_advice(errors, errors)["advised_above_best"] > 0.7


def test_errors_that_were_expected():
    errors = np.arange(20.0).reshape(1, 10, 2)
    found = trust(errors, errors + np.where(errors < 5, -0.1, 0.1), errors > 18)
    assert found == {"kept": 75.0, "large_in_worst_tenth": pytest.approx(100 * 2 / 14), "large": 14, "absent": 5.0}
