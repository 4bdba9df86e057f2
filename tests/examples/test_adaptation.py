"""The bundles that adapt to images of another site: what they gain, what they read, rounds, resuming, bad settings."""

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

from tests.examples.bundle_runs import DATA, EXAMPLES, complete, fault, workflow

pytest.importorskip("ignite", reason="bundles need the extra train")
pytest.importorskip("tensorboard", reason="bundles need the extra train")
pytest.importorskip("scipy", reason="bundles need the extra train")

FREE, PATCHES = "source_free_adaptation", "patch_contrast_adaptation"
SMALL = {
    "amp": False,  # the gains are asserted, and bfloat16 differs from machine to machine
    "spatial_dims": 2,
    "modality": "xray",
    "pixdim": 1.0,
    "classes": ["square", "bar"],
    "roi_size": [48, 64],
    "features": [8, 8, 8, 8, 16, 8],
    "samples_per_epoch": 8,
    "batch_size": 4,
    "val_interval": 1,
    "num_workers": 0,
}


every = pytest.mark.parametrize("bundle", [FREE, PATCHES])


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
    return complete(workflow(bundle, *names, **{**SMALL, **settings}))


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Evenly lit pictures, their labels, and a network that has learnt from them."""
    folder = write(tmp_path_factory.mktemp("source"), range(12))
    settings = {"max_epochs": 12, "samples_per_epoch": 32, "learning_rate": 0.01, "test_every": None}
    places = {"dataset_dir": str(folder / "images"), "labels_dir": str(folder / "labels")}
    run("segmentation", "train", **settings, **places, output_dir=str(folder / "out"))
    return folder


@pytest.fixture(scope="module")
def untrained(tmp_path_factory) -> Path:
    """The same with a network that has learnt nothing, where that is enough."""
    folder = write(tmp_path_factory.mktemp("untrained"), range(4))
    (folder / "out").mkdir()
    network = BasicUNet(2, 1, 3, features=SMALL["features"])
    torch.save({"network": network.state_dict()}, folder / "out" / "checkpoint.pt")
    return folder


def known(folder: Path) -> dict[str, dict[str, str]]:
    """What each bundle may know of the source."""
    source = {"source": str(folder / "out" / "checkpoint.pt")}
    return {
        FREE: source,
        PATCHES: source | {"source_images": str(folder / "images"), "source_labels": str(folder / "labels")},
    }


@pytest.fixture
def given(trained) -> dict[str, dict[str, str]]:
    return known(trained)


@pytest.fixture
def given_untrained(untrained) -> dict[str, dict[str, str]]:
    return known(untrained)


@pytest.fixture
def target(tmp_path) -> Path:
    """Pictures that get darker from top to bottom, and their labels."""
    return write(tmp_path, range(100, 106), light=np.linspace(1, 0.28, 64)[:, None])


def places(target: Path) -> dict[str, str]:
    return {"dataset_dir": str(target / "images"), "output_dir": str(target / "out")}


def dice(target: Path, checkpoint: str) -> float:
    where = places(target) | {"evaluation_dir": str(target / "images"), "evaluation_labels": str(target / "labels")}
    run(FREE, "train", "evaluate", **where, checkpoint=checkpoint)
    with open(target / "out" / "evaluation" / "mean_dice_raw.csv", newline="") as file:
        return float(np.mean([float(row["mean"]) for row in csv.DictReader(file)]))


@pytest.mark.slow
@pytest.mark.parametrize(("bundle", "guided"), [(FREE, False), (FREE, True), (PATCHES, True)])
def test_adapts_to_another_light(given, target, bundle, guided):
    settings = {"samples_per_epoch": 32, "max_epochs": 4, "learning_rate": 0.003, "by_tier": guided}
    settings |= {"confidence_epochs": 0} if bundle == FREE else {"shares": [0.2, 0.4, 0.4] if guided else None}
    flow = run(bundle, "train", **places(target), **settings, **given[bundle])
    assert flow.parser.get_parsed_content("train#reliable").thresholds().shape == ((3 if guided else 1), 3)
    before, after = dice(target, given[FREE]["source"]), dice(target, str(target / "out" / "checkpoint.pt"))
    assert 0.5 < before < 0.9
    assert after > before + 0.03


@pytest.mark.slow
@every
def test_classes_have_the_expected_shares_in_what_is_learnt_from(given, target, bundle):
    settings = {"align": 1.0, "class_shares": [1, 3], "max_epochs": 1, "samples_per_epoch": 16} | given[bundle]
    parser = run(bundle, "train", **places(target), **settings).parser
    labels, shares = parser.get_parsed_content("train#labels"), torch.zeros(3, dtype=torch.float64)
    for batch in parser.get_parsed_content("train#measured"):
        shares += labels._segment(batch, "cpu")[0].double().mean((0, 2, 3))
    assert (shares[2] / shares[1]).item() == pytest.approx(3, abs=0.01)


@pytest.mark.slow
@every
def test_segmentations_are_on_the_grid_of_the_image(given, target, bundle):
    run(bundle, "train", "inference", **places(target), checkpoint=given[FREE]["source"], suffix=".png")
    shares = []
    for path in sorted((target / "labels").iterdir()):
        truth, found = (sitk.GetArrayFromImage(sitk.ReadImage(p)) for p in (path, target / "out/inference" / path.name))
        assert found.shape == truth.shape
        shares.append((found == truth).mean())
    assert np.mean(shares) > 0.9
    assert len(list((target / "out" / "inference").iterdir())) == 6


@pytest.mark.slow
@every
def test_no_label_of_the_target_is_read(given_untrained, target, bundle):
    """None is there; without the source, nothing in the configuration speaks of its images or of any label."""
    for path in (target / "labels").iterdir():
        path.unlink()
    (target / "labels").rmdir()
    run(bundle, "train", **places(target), **given_untrained[bundle], max_epochs=1, amp=True)
    stages = {"confidence.pt", "checkpoint.pt"} if bundle == FREE else {"checkpoint.pt"}
    assert {path.name for path in (target / "out").glob("*.pt")} == stages
    config = json.loads((EXAMPLES / FREE / "configs" / "train.json").read_text())
    loaders = [step for step in config["preprocessing_transforms"] if step["_target_"].endswith("LoadImaged")]
    assert [step["keys"] for step in loaders] == ["image"]
    assert str(config).count("LoadImaged") == 1
    assert not {"source_images", "labels_dir", "evaluation_labels"} & set(config)


@pytest.mark.slow
def test_labels_of_the_source_are_learnt_from(given, target):
    """Where they have one class less, the network unlearns it."""
    where = {"source_labels": str(target / "without")}
    (target / "without").mkdir()
    for path in sorted(Path(given[PATCHES]["source_labels"]).iterdir()):
        label = sitk.ReadImage(path)
        sitk.WriteImage(label * sitk.Cast(label != 2, label.GetPixelID()), target / "without" / path.name)
    settings = {"samples_per_epoch": 32, "max_epochs": 4, "learning_rate": 0.003, "own_weight": 0.0}
    run(PATCHES, "train", **places(target), **{**given[PATCHES], **where}, **settings)
    run(PATCHES, "train", "inference", **places(target), suffix=".png")
    found = [sitk.GetArrayFromImage(sitk.ReadImage(path)) for path in (target / "out" / "inference").iterdir()]
    assert (np.array(found) == 1).mean() > 0.03
    assert (np.array(found) == 2).mean() < 0.01


@pytest.mark.slow
def test_weak_labels_of_the_target_are_kept_to(given_untrained, target):
    """Clicks at their places after all spatial changes, and no class that an image is said not to show."""
    lines = ["image,landmark,x,y"]
    for path in sorted((target / "labels").iterdir())[:3]:
        rows, columns = np.nonzero(sitk.GetArrayFromImage(sitk.ReadImage(path)) == 2)
        lines.append(f"{path.stem},bar,{columns.mean()},{rows.mean()}")
        lines.append(f"{path.stem},background,1,1")
    lines += [f"{path.stem},square,," for path in sorted((target / "labels").iterdir())[3:]]
    (target / "weak.csv").write_text("\n".join(lines))
    settings = {"weak_labels": str(target / "weak.csv"), "max_epochs": 1, "samples_per_epoch": 24}
    flow = run(PATCHES, "train", **places(target), **given_untrained[PATCHES], **settings)
    parser, seen = flow.parser, set()
    for batch in parser.get_parsed_content("train#dataloader"):
        _, targets = parser.get_parsed_content("train#labels")(batch, "cpu")
        known = batch["known"].as_tensor()
        for labels in targets.values():
            assert torch.equal(labels[known > 0], known[known > 0] - 1)
        assert not (targets["found"][~batch["shown"][:, 2]] == 2).any()
        seen |= set(known.unique().tolist())
    assert seen == {0, 1, 3}


@pytest.mark.slow
@every
def test_every_stage_goes_on_where_it_was_stopped(given, target, bundle):
    settings = places(target) | given[bundle] | {"max_epochs": 4}
    stages, longer = (["confidence", "train"], {"confidence_epochs": 2}) if bundle == FREE else (["train"], {})
    whole = run(bundle, "train", **{**settings, **longer, "output_dir": str(target / "whole")})
    begun = [f"$@{stage}#trainer.run()" for stage in stages]
    if bundle == FREE:
        run(bundle, "train", **settings, **longer, **{"confidence#trainer#max_epochs": 1, "run": begun[:1]})
    for epochs in (1, 3):  # stopped within the first round, and within the second one
        run(bundle, "train", **settings, **longer, **{"train#trainer#max_epochs": epochs})
    parts = run(bundle, "train", **settings, **longer)
    states = [flow.parser.get_parsed_content("network_def").state_dict() for flow in (whole, parts)]
    torch.testing.assert_close(*states, atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "fundus").exists(), reason="the fundus photographs are not at hand")
@every
def test_photographs(tmp_path, bundle):
    """RGB in JPEG, another resolution than that of the files."""
    for name in ("image", "mask"):
        (tmp_path / name).mkdir()
        for path in sorted((DATA / "fundus" / "drishti_train" / name).iterdir())[:4]:
            (tmp_path / name / path.name).symlink_to(path)
    network = BasicUNet(2, 3, 3, features=SMALL["features"])
    torch.save({"network": network.state_dict()}, tmp_path / "source.pt")
    settings = {"modality": "rgb", "in_channels": 3, "working_pixdim": 4.0, "roi_size": [64, 64]}
    where = {"dataset_dir": str(tmp_path / "image"), "output_dir": str(tmp_path / "out")}
    given = {"source": str(tmp_path / "source.pt"), "max_epochs": 1}
    if bundle == PATCHES:
        given |= {"source_images": str(tmp_path / "image"), "source_labels": str(tmp_path / "mask")}
    run(bundle, "train", **where, **settings, **given)
    run(bundle, "train", "inference", **where, **settings, suffix=".png")
    run(bundle, "train", "evaluate", **where, **settings, evaluation_labels=str(tmp_path / "mask"))
    for path in (tmp_path / "out" / "inference").iterdir():
        assert sitk.ReadImage(path).GetSize() == (256, 256)
    assert len((tmp_path / "out" / "evaluation" / "mean_dice_raw.csv").read_text().splitlines()) == 5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dataset_dir": "/nowhere"}, "`dataset_dir` must be a folder or an image file, got '/nowhere'"),
        ({"source": "/nowhere.pt"}, "`/nowhere.pt` must be a readable checkpoint of weights"),
        ({"features": [8] * 6}, "must be a checkpoint of this BasicUNet"),
        ({"classes": ["square"]}, "must be a checkpoint of this BasicUNet"),
        ({"share": 2}, "`share` must be above 0 and at most 1, got 2"),
        ({"sampling": "all"}, "`sampling` must be 'uniform' or 'rank', got 'all'"),
        ({"round_epochs": 0}, "epochs` must be a whole number of at least 1, got 0"),
        ({"modality": "sonar"}, "`modality` must be"),
    ],
)
@every
def test_bad_settings(given_untrained, target, bundle, settings, message):
    with pytest.raises(RuntimeError) as caught:
        run(bundle, "train", **{**places(target), **given_untrained[bundle], **settings})
    assert message in fault(caught.value)
    assert not list((target / "out").glob("*.pt"))  # no stage has begun


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source_images": "/nowhere"}, "`images` must be a folder or an image file, got '/nowhere'"),
        ({"source_labels": "/nowhere"}, "`labels` must be a folder or an image file, got '/nowhere'"),
        ({"patch_size": 6}, "`patch_size` must be a multiple of 4"),
        ({"alike": 0.1}, "`negative and positive` must be overlaps in order"),
        ({"contrast_weight": -1}, "`own_weight and contrast_weight` must be at least 0"),
        ({"shares": [1, 1, 1]}, "`shares` must"),
        ({"weak_labels": "/nowhere.csv"}, "/nowhere.csv: [Errno 2] No such file or directory"),
        ({"click_radius": -1, "weak_labels": "/nowhere.csv"}, "must be"),
    ],
)
def test_bad_settings_of_patches(given_untrained, target, settings, message):
    with pytest.raises(RuntimeError) as caught:
        run(PATCHES, "train", **{**places(target), **given_untrained[PATCHES], **settings})
    assert message in fault(caught.value)
    assert not list((target / "out").glob("*.pt"))
