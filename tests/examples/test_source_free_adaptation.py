"""The bundle that adapts without the source's images: what it gains, what it reads, rounds, resuming, bad settings."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.bundle import ConfigWorkflow
from monai.networks.nets import BasicUNet

pytest.importorskip("ignite", reason="bundles need the extra train")
pytest.importorskip("tensorboard", reason="bundles need the extra train")
pytest.importorskip("scipy", reason="bundles need the extra train")

EXAMPLES = Path(__file__).parents[2] / "examples"
DATA = Path(__file__).parents[3] / "shared" / "data"
BUNDLE = "source_free_adaptation"
SMALL = {
    "spatial_dims": 2,
    "modality": "xray",
    "pixdim": 1.0,
    "classes": ["square", "bar"],
    "roi_size": [48, 64],
    "features": [8, 8, 8, 8, 16, 8],
    "draws": 8,
    "batch_size": 4,
    "val_interval": 1,
    "num_workers": 0,
}


def picture(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A noisy picture (64, 48) of a square and of a bar in front of it, and their classes."""
    generator = np.random.default_rng(seed)
    square, bar = np.zeros((2, 64, 48), bool)
    row, column = generator.integers(4, 14, 2)
    square[row : row + 16, column : column + 16] = True
    row, column = generator.integers(28, 40), generator.integers(14, 20)
    bar[row : row + 20, column : column + 8] = True
    return 60 + 80 * square + 60 * bar + generator.normal(0, 10, square.shape), np.where(bar, 2, square)


def write(folder: Path, seeds: range, light: np.ndarray | float = 1.0) -> Path:
    """Pictures in some light, and their labels."""
    for seed in seeds:
        image, classes = picture(seed)
        for name, array in (("images", (light * image).clip(0, 255)), ("labels", classes)):
            (folder / name).mkdir(parents=True, exist_ok=True)
            sitk.WriteImage(sitk.GetImageFromArray(array.astype(np.uint8)), folder / name / f"{seed:03}.png")
    return folder


def run(bundle: str, *names: str, **settings) -> ConfigWorkflow:
    configs = EXAMPLES / bundle / "configs"
    flow = ConfigWorkflow(
        config_file=[str(configs / f"{name}.json") for name in names],
        meta_file=str(configs / "metadata.json"),
        workflow_type="train",
        **{**SMALL, **settings},
    )
    flow.initialize()
    torch.set_num_threads(1)
    flow.run()
    flow.finalize()
    return flow


@pytest.fixture(autouse=True)
def threads():
    """Bundles take all cores; other tests compare bits."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> str:
    """A network that has learnt from evenly lit pictures, which are gone."""
    folder = write(tmp_path_factory.mktemp("source"), range(12))
    settings = {"max_epochs": 12, "draws": 32, "learning_rate": 0.01, "pretrain_epochs": 0, "test_every": None}
    places = {"dataset_dir": str(folder / "images"), "labels_dir": str(folder / "labels")}
    run("label_efficient_segmentation", "train", **settings, **places, output_dir=str(folder / "out"))
    for path in [*(folder / "images").iterdir(), *(folder / "labels").iterdir()]:
        path.unlink()
    return str(folder / "out" / "checkpoint.pt")


@pytest.fixture
def target(tmp_path) -> Path:
    """Pictures that get darker from top to bottom, and their labels."""
    return write(tmp_path, range(100, 112), light=np.linspace(1, 0.28, 64)[:, None])


def places(target: Path) -> dict[str, str]:
    return {"dataset_dir": str(target / "images"), "output_dir": str(target / "out")}


def dice(target: Path, checkpoint: str) -> float:
    where = places(target) | {"evaluation_dir": str(target / "images"), "evaluation_labels": str(target / "labels")}
    run(BUNDLE, "train", "evaluate", **where, checkpoint=checkpoint)
    with open(target / "out" / "evaluation" / "mean_dice_raw.csv", newline="") as file:
        return float(np.mean([float(row["mean"]) for row in csv.DictReader(file)]))


@pytest.mark.parametrize("by_tier", [False, True])
def test_adapts_to_another_light(source, target, by_tier):
    settings = {"confidence_epochs": 0, "draws": 32, "learning_rate": 0.003, "by_tier": by_tier}
    flow = run(BUNDLE, "train", **places(target), **settings, source=source)
    assert flow.parser.get_parsed_content("train#reliable").thresholds().shape == ((3 if by_tier else 1), 3)
    before, after = dice(target, source), dice(target, str(target / "out" / "checkpoint.pt"))
    assert 0.5 < before < 0.9 and after > before + 0.03


def test_segmentations_are_on_the_grid_of_the_image(source, target):
    run(BUNDLE, "train", "inference", **places(target), checkpoint=source, suffix=".png")
    shares = []
    for path in sorted((target / "labels").iterdir()):
        truth, found = (sitk.GetArrayFromImage(sitk.ReadImage(p)) for p in (path, target / "out/inference" / path.name))
        assert found.shape == truth.shape
        shares.append((found == truth).mean())
    assert np.mean(shares) > 0.9 and len(list((target / "out" / "inference").iterdir())) == 12


def test_no_source_image_and_no_label_is_read(source, target):
    """Neither is there, and nothing in the configuration speaks of them."""
    for path in (target / "labels").iterdir():
        path.unlink()
    (target / "labels").rmdir()
    assert not list(Path(source).parents[1].glob("*/*.png"))
    run(BUNDLE, "train", **places(target), source=source, max_epochs=1)
    assert {path.name for path in (target / "out").glob("*.pt")} == {"confidence.pt", "checkpoint.pt"}
    config = json.loads((EXAMPLES / BUNDLE / "configs" / "train.json").read_text())
    loaders = [step for step in config["preprocessing_transforms"] if step["_target_"].endswith("LoadImaged")]
    assert [step["keys"] for step in loaders] == ["image"] and str(config).count("LoadImaged") == 1
    assert not {"labels_dir", "evaluation_labels"} & set(config)


def test_every_stage_goes_on_where_it_was_stopped(source, target):
    settings = places(target) | {"source": source, "confidence_epochs": 2, "max_epochs": 4}
    whole = run(BUNDLE, "train", **settings | {"output_dir": str(target / "whole")})
    begun = ["$@confidence#trainer.run()", "$@train#trainer.run()"]
    run(BUNDLE, "train", **settings, **{"confidence#trainer#max_epochs": 1, "run": begun[:1]})
    for epochs in (1, 3):  # stopped within the first round, and within the second one
        run(BUNDLE, "train", **settings, **{"train#trainer#max_epochs": epochs})
    parts = run(BUNDLE, "train", **settings)
    states = [flow.parser.get_parsed_content("network_def").state_dict() for flow in (whole, parts)]
    torch.testing.assert_close(*states, atol=1e-5, rtol=0)


@pytest.mark.skipif(not (DATA / "fundus").exists(), reason="the fundus photographs are not at hand")
def test_photographs(tmp_path):
    """RGB in JPEG, another resolution than that of the files."""
    for name in ("image", "mask"):
        (tmp_path / name).mkdir()
        for path in sorted((DATA / "fundus" / "drishti_train" / name).iterdir())[:4]:
            (tmp_path / name / path.name).symlink_to(path)
    network = BasicUNet(2, 3, 3, features=SMALL["features"])
    torch.save({"network": network.state_dict()}, tmp_path / "source.pt")
    settings = {"modality": "rgb", "in_channels": 3, "working_pixdim": 4.0, "roi_size": [64, 64]}
    where = {"dataset_dir": str(tmp_path / "image"), "output_dir": str(tmp_path / "out")}
    run(BUNDLE, "train", **where, **settings, source=str(tmp_path / "source.pt"), max_epochs=1)
    run(BUNDLE, "train", "inference", **where, **settings, suffix=".png")
    run(BUNDLE, "train", "evaluate", **where, **settings, evaluation_labels=str(tmp_path / "mask"))
    for path in (tmp_path / "out" / "inference").iterdir():
        assert sitk.ReadImage(path).GetSize() == (256, 256)
    assert len((tmp_path / "out" / "evaluation" / "mean_dice_raw.csv").read_text().splitlines()) == 5


def fault(error: BaseException) -> str:
    """The whole chain of errors: MONAI wraps them."""
    return f"{error} {fault(error.__cause__)}" if error.__cause__ else str(error)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dataset_dir": "/nowhere"}, "`dataset_dir` must be a folder or an image file, got '/nowhere'"),
        ({"source": "/nowhere.pt"}, "`/nowhere.pt` must be a readable checkpoint of weights"),
        ({"features": [8] * 6}, "must be a checkpoint of this BasicUNet"),
        ({"classes": ["square"]}, "must be a checkpoint of this BasicUNet"),
        ({"share": 2}, "`share` must be above 0 and at most 1, got 2"),
        ({"sampling": "all"}, "`sampling` must be 'uniform' or 'rank', got 'all'"),
        ({"round_epochs": 0}, "`epochs` must be at least 1, got 0"),
        ({"modality": "sonar"}, "`modality` must be"),
    ],
)
def test_bad_settings(source, target, settings, message):
    with pytest.raises(Exception) as caught:
        run(BUNDLE, "train", **{**places(target), "source": source, **settings})
    assert message in fault(caught.value)
    assert not list((target / "out").glob("*.pt"))  # no stage has begun
