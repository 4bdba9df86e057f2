"""The bundle from end to end on small pictures: labels, a warm start, one-shot rounds, and its errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.bundle import ConfigParser, ConfigWorkflow

from monai_infoaug.data import LandmarkTable, read_landmarks, write_landmarks
from monai_infoaug.handlers import read_settings
from tests.examples.bundle_runs import EXAMPLES, complete, fault, workflow

pytest.importorskip("ignite", reason="bundles need the extra train")
pytest.importorskip("tensorboard", reason="bundles need the extra train")
pytest.importorskip("matplotlib", reason="bundles need the extra train")

from monai_infoaug.commands.match import match_images

LABELS, PIXDIM = ("ring", "disc"), 0.5
SMALL = {
    "pixdim": PIXDIM,
    "working_pixdim": PIXDIM,
    "labels": list(LABELS),
    "image_size": [64, 72],
    "features": [8] * 5,
    "batch_size": 4,
    "samples_per_epoch": 8,
    "max_epochs": 1,
    "val_interval": 1,
    "val_images": 1,
    "num_workers": 0,
}
LEARN = {"samples_per_epoch": 96, "learning_rate": 0.01}


def picture(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A noisy picture (72, 64) with a ring and a disc, and their centres (2, 2) in pixels, x first."""
    generator = np.random.default_rng(seed)
    centres = generator.uniform([16, 16], [48, 56], (2, 2))
    while np.linalg.norm(centres[0] - centres[1]) < 18:
        centres = generator.uniform([16, 16], [48, 56], (2, 2))
    y, x = np.mgrid[:72, :64]
    distance = [np.hypot(x - cx, y - cy) for cx, cy in centres]
    shapes = 120 * np.exp(-((distance[0] - 6) ** 2) / 3) + 120 * (distance[1] < 5)
    return (60 + shapes + generator.normal(0, 4, shapes.shape)).clip(0, 255).astype(np.uint8), centres


@pytest.fixture
def folder(tmp_path):
    """Four pictures to learn from, three others, and the tables of both."""
    for name, seeds in (("images", range(4)), ("others", range(4, 7))):
        (tmp_path / name).mkdir()
        points = {}
        for seed in seeds:
            pixels, centres = picture(seed)
            sitk.WriteImage(sitk.GetImageFromArray(pixels), tmp_path / name / f"{seed}.png")
            points[str(seed)] = PIXDIM * centres
        write_landmarks(tmp_path / f"{name}.csv", LandmarkTable(LABELS, points))
    return tmp_path


def run(folder: Path, *names: str, **settings) -> ConfigWorkflow:
    names_of = {"dataset_dir": "images", "landmarks": "images.csv", "output_dir": "out"}
    places = {key: str(folder / name) for key, name in names_of.items()}
    return complete(workflow("landmark_detection", *names, **{**places, **SMALL, **settings}))


def pretrained(folder: Path, **settings) -> str:
    """A checkpoint of the bundle `landmark_pretraining`, not trained at all."""
    config, path = ConfigParser(), folder / "pretrained.pt"
    config.read_config(EXAMPLES / "landmark_pretraining" / "configs" / "train.json")
    kept = {"features": SMALL["features"], "working_pixdim": PIXDIM}
    config.update(kept | settings)
    torch.manual_seed(1)
    network = config.get_parsed_content("network_def")
    torch.save({"network": network.state_dict(), "settings": {"bundle": "landmark_pretraining", **kept}}, path)
    return str(path)


def test_images_beyond_those_of_an_epoch_are_seen_too(folder):
    places = {"dataset_dir": str(folder / "images"), "landmarks": str(folder / "images.csv")}
    flow = workflow("landmark_detection", "train", **places, **SMALL | {"samples_per_epoch": 2, "batch_size": 2})
    loader, seen = flow.parser.get_parsed_content("train#dataloader"), set()
    for epoch in range(12):
        loader.sampler.set_epoch(epoch)
        epoch_of = set(loader.sampler)
        assert len(epoch_of) == 2
        seen |= epoch_of
    assert seen == set(range(4))


def distances(table: Path, truth: Path) -> np.ndarray:
    found, true = read_landmarks(table).points, read_landmarks(truth).points
    assert found.keys() == true.keys()
    return np.array([np.linalg.norm(found[name] - true[name], axis=1) for name in true]) / PIXDIM


@pytest.mark.slow
def test_learns_landmarks_and_finds_them_in_other_pictures(folder):
    there = {"evaluation_dir": str(folder / "others"), "landmarks": str(folder / "others.csv")}
    run(folder, "train", **LEARN)
    run(folder, "train", "evaluate", **there)
    assert np.median(distances(folder / "out" / "evaluation" / "landmarks.csv", folder / "others.csv")) < 1.5
    lines = (folder / "out" / "evaluation" / "errors.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines[1:]] == ["all", *LABELS]

    run(folder, "train", "inference", dataset_dir=str(folder / "others"))
    again = read_landmarks(folder / "out" / "inference" / "landmarks.csv")
    assert again.labels == LABELS
    assert all((scores >= 0).all() and (scores <= 1).all() for scores in again.scores.values())
    evaluated = read_landmarks(folder / "out" / "evaluation" / "landmarks.csv")
    for name, points in evaluated.points.items():
        np.testing.assert_allclose(again.points[name], points, atol=1e-4)


@pytest.mark.parametrize("labelled", [None, 1, ["1", "3"]])
def test_budget_does_not_depend_on_the_number_of_labelled_images(folder, labelled):
    flow = run(folder, "train", labelled=labelled, max_epochs=2)
    trainer = flow.parser.get_parsed_content("train#trainer")
    assert trainer.state.iteration == 2 * SMALL["samples_per_epoch"] // SMALL["batch_size"]
    names = {item["name"] for item in flow.parser.get_parsed_content("train#dataset#data")}
    assert len(names) == {None: 4, 1: 1}.get(labelled if not isinstance(labelled, list) else 0, 2)
    items = [flow.parser.get_parsed_content("train#dataloader").dataset[i] for i in (0, 4)]  # the same image
    assert not torch.equal(items[0]["image"], items[1]["image"])
    assert items[0]["image"].shape == (1, 64, 72)
    assert items[0]["label"].shape == (2, 32, 36)


@pytest.mark.slow
def test_goes_on_where_it_was_stopped(folder):
    whole = run(folder, "train", max_epochs=2, output_dir=str(folder / "whole"))
    run(folder, "train", max_epochs=2, **{"train#trainer#max_epochs": 1})
    resumed = run(folder, "train", max_epochs=2)
    states = [flow.parser.get_parsed_content("network_def").state_dict() for flow in (whole, resumed)]
    assert resumed.parser.get_parsed_content("train#trainer").state.iteration == 4
    torch.testing.assert_close(*states, atol=1e-5, rtol=0)
    assert read_settings(folder / "out" / "checkpoint.pt") == {
        "bundle": "landmark_detection",
        "modality": "xray",
        "in_channels": 1,
        "pixdim": PIXDIM,
        "working_pixdim": PIXDIM,
        "features": [8] * 5,
        "image_size": SMALL["image_size"],
        "labels": list(LABELS),
    }


@pytest.mark.slow
def test_goes_on_longer_and_with_another_batch_size(folder):
    for number, settings in enumerate([{}, {}, {"batch_size": 2}, {"batch_size": 8}], start=1):
        flow = run(folder, "train", max_epochs=number, **settings)
        assert flow.parser.get_parsed_content("train#trainer").state.epoch == number
    flow = run(folder, "train", max_epochs=9, batch_size=8, output_dir=str(folder / "nine"))  # iterations
    assert flow.parser.get_parsed_content("train#trainer").state.iteration == 9


def test_warm_start(folder):
    """Without a step the trunk is that of the checkpoint, and it learns at a rate of its own."""
    path = pretrained(folder)
    config = ConfigParser()
    config.read_config(EXAMPLES / "landmark_detection" / "configs" / "train.json")
    there = {"dataset_dir": str(folder / "images"), "landmarks": str(folder / "images.csv"), "pretrained": path}
    config.update({**SMALL, **there, "trunk_factor": 0.25, "learning_rate": 0.04})
    config.get_parsed_content("imports")
    network, optimizer = (config.get_parsed_content(name) for name in ("network_def", "optimizer"))
    state = torch.load(path, weights_only=True)["network"]
    torch.testing.assert_close(dict(network.trunk.state_dict()), dict(state))
    trunk, heads = optimizer.param_groups
    assert [group["lr"] for group in optimizer.param_groups] == [0.01, 0.04]
    assert {id(p) for p in trunk["params"]} == {id(p) for p in network.trunk.parameters()}
    assert {id(p) for p in heads["params"]} == {id(p) for p in network.heads.parameters()}
    assert config.get_parsed_content("lr_scheduler")
    assert trunk["max_lr"] == 0.01
    assert heads["max_lr"] == 0.04


@pytest.mark.slow
def test_one_shot_rounds(folder):
    """One annotated picture, matches of it in the others, a detector trained on them, its landmarks, the next one."""
    path, one = pretrained(folder), folder / "images" / "0.png"
    failures = match_images(
        path, one, folder / "images.csv", [folder / "images"], folder / "matches", settings={"pixdim": PIXDIM}
    )
    assert not failures
    table, used = folder / "matches" / "confident.csv", []
    for number in (1, 2):
        out = str(folder / f"round{number}")
        flow = run(folder, "train", landmarks=str(table), output_dir=out, pretrained=path, min_score=0.1 * (number - 1))
        used.append(flow.parser.get_parsed_content("train#datalist"))
        run(folder, "train", "inference", output_dir=out)
        table = Path(out) / "inference" / "landmarks.csv"
    matched = read_landmarks(folder / "matches" / "confident.csv")
    detected = read_landmarks(folder / "round1" / "inference" / "landmarks.csv")
    for source, items, floor in ((matched, used[0], 0.0), (detected, used[1], 0.1)):
        for item in items:
            np.testing.assert_allclose(item["landmarks"], source.points[item["name"]], atol=1e-4)
            scores = source.scores[item["name"]]
            np.testing.assert_allclose(item["weights"], np.where(scores < floor, 0, scores.clip(0, 1)), atol=1e-6)
    assert len(used[1]) == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dataset_dir": "/nowhere"}, "`images` must be a folder or an image file, got '/nowhere'"),
        ({"landmarks": "/nowhere.csv"}, "`path` must be a readable landmark file in UTF-8, got /nowhere.csv"),
        ({"labels": ["ring", "chin"]}, "`labels` must be in the table"),
        ({"labelled": 9}, "`labelled` must be from 1 to 4, the images with landmarks, or a share in (0, 1], got 9"),
        ({"labelled": ["7"]}, "`labelled` must be a number, a share, or a list of images with landmarks"),
        ({"pretrained": "/nowhere.pt"}, "`/nowhere.pt` must be a readable checkpoint of weights"),
        ({"sigma": 0}, "`sigma` must be"),
        ({"detector#radius": 0}, "`radius` must be"),
        ({"modality": "sonar"}, "`modality` must be"),
    ],
)
def test_bad_settings(folder, settings, message):
    with pytest.raises(RuntimeError) as caught:
        run(folder, "train", **settings)
    assert message in fault(caught.value)
    assert not (folder / "out" / "checkpoint.pt").exists()


def test_checkpoints_of_other_networks(folder):
    with pytest.raises(RuntimeError) as caught:
        run(folder, "train", pretrained=pretrained(folder, features=[8, 8, 8, 8, 16]))
    assert "pretrained.pt` must be a checkpoint of this GlobalLocalEmbeddingNet" in fault(caught.value)
    run(folder, "train")
    checkpoint = folder / "out" / "checkpoint.pt"
    with pytest.raises(ValueError, match=r"a checkpoint of an embedding network .*, got one of a LandmarkHeatmapNet"):
        match_images(checkpoint, folder / "images" / "0.png", folder / "images.csv", [folder / "images"], folder / "m")
