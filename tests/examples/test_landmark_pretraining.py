"""The bundle from end to end on small pictures, and its errors."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.bundle import ConfigWorkflow

from monai_infoaug.data import LandmarkTable, read_landmarks, write_landmarks
from monai_infoaug.handlers import read_settings
from tests.examples.bundle_runs import complete, fault, workflow

pytest.importorskip("ignite", reason="bundles need the extra train")

from monai_infoaug.commands.match import match_images

Image = pytest.importorskip("PIL.Image", reason="the pictures are made with Pillow")

SMALL = {
    "pixdim": 0.5,
    "working_pixdim": 0.5,
    "view_size": [64, 64],
    "features": [8] * 5,
    "batch_size": 2,
    "num_points": 50,
    "max_epochs": 1,
    "val_interval": 1,
    "val_images": 1,
    "num_workers": 0,
}


def smooth_picture(seed: int) -> np.ndarray:
    coarse = Image.fromarray(np.random.default_rng(seed).integers(0, 255, (9, 8), np.uint8))
    return np.asarray(coarse.resize((64, 72), Image.Resampling.BICUBIC))


@pytest.fixture
def folder(tmp_path):
    """Three pictures, one corner of each a landmark at (10, 8) mm, and its table."""
    (tmp_path / "images").mkdir()
    for i in range(3):
        Image.fromarray(smooth_picture(i)).save(tmp_path / "images" / f"{i}.png")
    points = {str(i): [[10.0, 8.0], [20.5, 30.25]] for i in range(3)}
    write_landmarks(tmp_path / "table.csv", LandmarkTable("01", points))
    return tmp_path


def run(folder: Path, *names: str, **settings) -> ConfigWorkflow:
    places = {"dataset_dir": str(folder / "images"), "output_dir": str(folder / "out")}
    return complete(workflow("landmark_pretraining", *names, **{**places, **SMALL, **settings}))


def template(folder: Path) -> dict[str, str]:
    table = str(folder / "table.csv")
    return {"template": str(folder / "images" / "0.png"), "template_landmarks": table}


def test_train_evaluate_infer(folder):
    run(folder, "train")
    checkpoint = folder / "out" / "checkpoint.pt"
    assert torch.load(checkpoint, weights_only=True)["trainer"]["epoch"] == 1
    assert list((folder / "out" / "events").iterdir())
    longer = run(folder, "train", max_epochs=2)  # goes on where the first one ended
    assert longer.parser.get_parsed_content("train#trainer").state.iteration == 2
    assert torch.load(checkpoint, weights_only=True)["trainer"]["epoch"] == 2

    there = {"evaluation_dir": str(folder / "images"), "landmarks": str(folder / "table.csv"), **template(folder)}
    run(folder, "train", "evaluate", **there)
    evaluation = folder / "out" / "evaluation"
    found = read_landmarks(evaluation / "landmarks.csv").points
    assert list(found) == ["1", "2"]  # the template is not scored
    assert len((evaluation / "mean_radial_error_mm_raw.csv").read_text().splitlines()) == 3
    truth = read_landmarks(folder / "table.csv").points
    errors = [np.linalg.norm(found[name] - truth[name], axis=1) for name in found]
    overall = (evaluation / "errors.csv").read_text().splitlines()[1].split(",")
    assert overall[0] == "all"
    assert float(overall[2]) == pytest.approx(np.mean(errors), abs=0.001)
    assert (evaluation / "1.png").stat().st_size > 1000
    assert (evaluation / "metrics.csv").exists()

    run(folder, "train", "inference", kind="infer", **template(folder))
    with open(folder / "out" / "inference" / "landmarks.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    assert all(-1 <= float(row["score"]) <= 1 for row in rows)
    again = read_landmarks(folder / "out" / "inference" / "landmarks.csv").points
    np.testing.assert_allclose(again["1"], found["1"], atol=1e-4)
    # the template finds itself, to a cell or so
    np.testing.assert_allclose(again["0"], [[10.0, 8.0], [20.5, 30.25]], atol=1.5)

    with pytest.raises(RuntimeError) as caught:  # by whatever name
        run(folder, "train", "evaluate", **there | {"template": str(folder / "out" / ".." / "images")})
    assert "`dataset` must be one for each of the 1 processes, got 0 items" in fault(caught.value)


@pytest.mark.slow
def test_settings_in_the_checkpoint_make_the_network_again(folder):
    run(folder, "train", features=[8, 8, 8, 8, 16])
    checkpoint = folder / "out" / "checkpoint.pt"
    settings = read_settings(checkpoint)
    assert settings == {
        "bundle": "landmark_pretraining",
        "modality": "xray",
        "in_channels": 1,
        "pixdim": 0.5,
        "working_pixdim": 0.5,
        "features": [8, 8, 8, 8, 16],
        "network_scales": [1, 2],
        "level_weights": None,
        "patch_radius": 16,
    }
    assert not match_images(
        checkpoint,
        folder / "images" / "0.png",
        folder / "table.csv",
        [folder / "images"],
        folder / "m",
        settings={"pixdim": 0.5},
    )


def test_volumetric_formats_slicer_tables_and_masks(folder):
    """2D NIfTI files say their millimetres; Slicer's tables are in LPS, MONAI's affines in RAS; MR has air around."""
    truth = {}
    for i in range(3):
        (folder / "images" / f"{i}.png").unlink()
        pixels = np.pad(smooth_picture(i)[:60, :52] // 2 + 100, [(4, 4), (6, 6)])
        image = sitk.GetImageFromArray(pixels)
        image.SetSpacing([0.5, 0.5])
        image.SetOrigin([-7.0, 3.0])
        sitk.WriteImage(image, folder / "images" / f"{i}.nii.gz")
        truth[str(i)] = [image.TransformIndexToPhysicalPoint(index) for index in ((20, 16), (41, 50))]
        write_landmarks(
            folder / f"{i}.mrk.json", LandmarkTable(["chin", "sella"], {str(i): truth[str(i)]}, space="LPS")
        )
    mr = {"pixdim": None, "modality": "mr", "level_weights": [1, 1, 1, 1, 1, 0]}
    run(folder, "train", **mr)
    places = {"template": str(folder / "images" / "0.nii.gz"), "template_landmarks": str(folder / "0.mrk.json")}
    there = {"evaluation_dir": str(folder / "images"), "landmarks": str(folder), **places}
    run(folder, "train", "evaluate", **there, **mr)
    found = read_landmarks(folder / "out" / "evaluation" / "landmarks.csv")
    assert list(found.points) == ["1", "2"]
    copied = Path(places["template"]).rename(folder / "0.nii.gz")
    (folder / "images" / "3.nii.gz").write_bytes(copied.read_bytes())
    (folder / "3.mrk.json").write_bytes((folder / "0.mrk.json").read_bytes())
    run(folder, "train", "evaluate", **there | {"template": str(copied)}, **mr)
    found = read_landmarks(folder / "out" / "evaluation" / "landmarks.csv")
    assert found.labels == ("chin", "sella")
    assert found.space == "RAS"
    np.testing.assert_allclose(found.to("LPS").points["3"], truth["0"], atol=1.5)
    lines = (folder / "out" / "evaluation" / "errors.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines[1:]] == ["all", "chin", "sella"]


@pytest.mark.slow
def test_colour(folder):
    for i in range(3):
        picture = Image.merge("RGB", [Image.fromarray(smooth_picture(10 * i + c)) for c in range(3)])
        picture.save(folder / "images" / f"{i}.png")
    run(folder, "train", modality="rgb", in_channels=3)
    (folder / "out" / "checkpoint.pt").unlink()
    with pytest.raises(RuntimeError) as caught:
        run(folder, "train", modality="rgb")  # one channel by default
    assert "`in_channels` must be 3 for modality 'rgb', got 1" in fault(caught.value)


@pytest.mark.slow
def test_training_reads_no_landmark(folder, monkeypatch):
    (folder / "table.csv").write_text("not a table")
    monkeypatch.setattr("monai_infoaug.data.landmarks.read_landmarks", None)
    run(folder, "train")
    assert (folder / "out" / "checkpoint.pt").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dataset_dir": "/nowhere"}, "`dataset_dir` must be a folder or an image file, got '/nowhere'"),
        ({"pixdim": "wide"}, "`pixdim` must be"),
        ({"pixdim": -1}, "`pixdim` must be"),
        ({"modality": "sonar"}, "`modality` must be"),
        ({"local_net#strides": [3]}, "`strides` must be"),
        ({"loss_function#temperature": 0}, "`temperature` must be"),
        ({"validate#pair#num_points": -1}, "`num_points` must be"),
    ],
)
def test_bad_settings(folder, settings, message):
    with pytest.raises(RuntimeError) as caught:
        run(folder, "train", **settings)
    assert message in fault(caught.value)
    assert not (folder / "out" / "checkpoint.pt").exists()


def test_folder_without_images(folder):
    for picture in (folder / "images").iterdir():
        picture.unlink()
    with pytest.raises(RuntimeError) as caught:
        run(folder, "train")
    assert "`dataset_dir` must be a folder with images" in fault(caught.value)


def test_unreadable_image_is_named(folder):
    (folder / "images" / "1.png").write_text("no picture")
    with pytest.raises(RuntimeError) as caught:
        run(folder, "train")
    assert "1.png" in fault(caught.value)


def test_checkpoint_of_another_network(folder):
    run(folder, "train")
    with pytest.raises(RuntimeError) as caught:
        run(folder, "train", "inference", kind="infer", **template(folder), **{"local_net#embedding_dim": 5})
    assert "checkpoint.pt` must be a checkpoint of this" in fault(caught.value)
    with pytest.raises(RuntimeError) as caught:
        run(folder, "train", max_epochs=2, **{"local_net#embedding_dim": 5})
    assert "checkpoint.pt` must be a checkpoint of this training" in fault(caught.value)


@pytest.mark.slow
def test_template_landmark_outside(folder):
    run(folder, "train")
    write_landmarks(folder / "table.csv", LandmarkTable("0", {"0": [[10.0, 80.0]]}))
    with pytest.raises(RuntimeError) as caught:
        run(folder, "train", "inference", kind="infer", **template(folder))
    assert "`landmarks` must be inside of the image" in fault(caught.value)


def test_a_calibration_is_given_alone(tmp_path):
    settings = {"window": 5, "window_mm": None, "num_bins": 16, "value_range": [0, 1]}
    settings |= {"reduction": "mean", "noise_factor": None}
    intensity = {"transforms": "rich", "strengths": {"low": 0, "medium": 1.5, "high": 1}}
    content = {"version": 2, "information": settings, "thresholds": [1, 2], "intensity": intensity}
    (tmp_path / "found.json").write_text(json.dumps(content))

    def parsed(name: str, **given):
        given |= {"dataset_dir": str(tmp_path), "calibration": str(tmp_path / "found.json")}
        return workflow("landmark_pretraining", "train", **given).parser.get_parsed_content(name)

    assert set(parsed("intensity").transforms) == {"medium", "high"}
    assert parsed("information_transforms#0").transform.window == 5
    with pytest.raises(RuntimeError) as error:
        parsed("intensity", strengths=[1, 1, 1])
    assert "`strengths` must be None beside `file`" in fault(error.value)
