"""Label maps of many images: carried from templates, found by networks, written once and kept."""

from __future__ import annotations

import errno
import json
import math
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor

pytest.importorskip("ignite", reason="bundles need the extra train")

from monai_infoaug._files import Ledger
from monai_infoaug.bundles import find_bundle
from monai_infoaug.commands import _label_maps
from monai_infoaug.commands._classes import Classes
from monai_infoaug.commands._embedding import Embedder
from monai_infoaug.commands._label_files import read_labels, read_on_grid
from monai_infoaug.commands._label_maps import (
    LabelCarrier,
    LabelPredictor,
    Segmented,
    label_file,
    segment_each,
    segmented,
)
from monai_infoaug.commands._records import key_of
from monai_infoaug.inferers import _patch_search, label_propagation
from tests.commands.scenes import anatomy, save_checkpoint
from tests.examples.bundle_runs import complete, workflow

NUMBERS, BITS = Classes(("a", "b"), (3, 7), False), Classes(("a", "b"), (1, 4), True)
FLAT = {
    "bundle": "landmark_pretraining",
    "modality": "xray",
    "features": [16] * 5,
    "pixdim": 0.5,
    "working_pixdim": 0.5,
}
SOLID = {
    "bundle": "landmark_matching_3d",
    "modality": "mr",
    "local_features": [8, 8],
    "global_features": [8, 8, 8],
    "global_scale": 1,
    "patch_radius": 8,
    "working_pixdim": 1.0,
}


@pytest.fixture(autouse=True)
def few_matches(monkeypatch):
    """Enough for anatomies that are moved as a whole."""
    monkeypatch.setattr(label_propagation, "NODES", 2**9)
    monkeypatch.setattr(_patch_search, "SUPPORT", 300)
    monkeypatch.setattr(_patch_search, "REFINED", 60)


def dice(found: torch.Tensor, truth: torch.Tensor) -> float:
    return (2 * (found & truth).sum() / (found.sum() + truth.sum())).item()


def parts(shape: tuple[int, ...], shift: float = 0.0) -> np.ndarray:
    """(2, *shape): two balls, the second one partly within the first."""
    grid = np.stack(np.meshgrid(*(np.arange(n) - shift for n in shape), indexing="ij"))
    middles = [[0.45 * n for n in shape], [0.6 * n for n in shape]]
    sides = [0.25 * min(shape), 0.18 * min(shape)]
    return np.stack(
        [
            sum((axis - c) ** 2 for axis, c in zip(grid, centre, strict=True)) < side**2
            for centre, side in zip(middles, sides, strict=True)
        ]
    )


def written(path: Path, array: np.ndarray, like: sitk.Image | None = None) -> Path:
    """A file of an array whose axis 0 is x."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    if like is not None:
        image.CopyInformation(like)
    sitk.WriteImage(image, path)
    return path


@pytest.mark.parametrize("classes", [NUMBERS, BITS])
def test_labels_are_carried_to_a_picture_that_is_moved(tmp_path, classes):
    shape, shift = (80, 72), 6
    for name, moved in (("a", 0), ("b", shift)):
        written(tmp_path / f"{name}.png", anatomy(shape, moved, noise=0.01, seed=moved))
        masks = torch.tensor(parts(shape, moved))
        written(tmp_path / f"label_{name}.png", classes.labels(masks)[0].numpy().astype(np.uint8))
    checkpoint = save_checkpoint(tmp_path / "c.pt", find_bundle("landmark_pretraining"), FLAT)
    carrier = LabelCarrier(Embedder(checkpoint), classes, count=60)
    carrier.add(tmp_path / "a.png", tmp_path / "label_a.png")
    found = carrier(tmp_path / "b.png")
    truth = classes.masks(read_labels(tmp_path / "label_b.png"))
    for mask, its in zip(classes.masks(found.labels), truth, strict=True):
        assert dice(mask, its) > 0.9
    assert found.confidence.shape == found.labels.shape == (1, *shape)
    assert 0.5 < min(found.sure) <= max(found.sure) <= 1

    own = carrier(tmp_path / "a.png")
    assert torch.equal(own.labels, read_labels(tmp_path / "label_a.png").as_tensor().long())
    assert own.confidence.min() == 1
    assert own.sure == [1.0, 1.0]


def test_labels_are_carried_between_turned_anisotropic_volumes(tmp_path):
    """The same anatomy on two grids that are turned against each other; one voxel is not as long as wide."""
    whole = sitk.GetImageFromArray(anatomy((40, 40, 40)).T)
    truth = sitk.GetImageFromArray(BITS.labels(torch.tensor(parts((40, 40, 40))))[0].numpy().astype(np.uint8).T)
    for number, (name, sides, angle) in enumerate((("a", (1.0, 1.0, 1.6), 0.0), ("b", (1.3, 1.0, 1.0), 0.2))):
        grid = sitk.Image([round(40 / side) for side in sides], sitk.sitkUInt8)
        grid.SetSpacing(sides)
        turn = sitk.Euler3DTransform((19.5, 19.5, 19.5), angle, 0.0, angle / 2)
        grid.SetDirection(turn.GetMatrix())
        grid.SetOrigin(turn.TransformPoint((number, 0.0, 0.0)))
        sitk.WriteImage(sitk.Resample(whole, grid, sitk.Transform(), sitk.sitkLinear), tmp_path / f"{name}.nii.gz")
        label = sitk.Resample(truth, grid, sitk.Transform(), sitk.sitkNearestNeighbor)
        sitk.WriteImage(label, tmp_path / f"label_{name}.nii.gz")
    torch.manual_seed(0)
    config = ConfigParser()
    config.read_config(find_bundle("landmark_matching_3d") / "configs" / "train.json")
    config.update({name: value for name, value in SOLID.items() if name != "bundle"})
    state = config.get_parsed_content("network_def").state_dict()
    torch.save({"network": state, "settings": SOLID}, tmp_path / "c.pt")
    carrier = LabelCarrier(Embedder(tmp_path / "c.pt"), BITS, count=60)
    carrier.add(tmp_path / "a.nii.gz", tmp_path / "label_a.nii.gz")
    found = carrier(tmp_path / "b.nii.gz")
    assert found.labels.shape == read_on_grid(tmp_path / "b.nii.gz").shape
    for mask, its in zip(BITS.masks(found.labels), BITS.masks(read_labels(tmp_path / "label_b.nii.gz")), strict=True):
        assert dice(mask, its) > 0.8


@pytest.mark.parametrize("bits", [[1, 2], None])
def test_networks_segment_as_the_bundle_does(tmp_path, bits):
    """The mean of the logits of two of them, on the pixels of the file."""
    (tmp_path / "images").mkdir()
    for seed in range(2):
        written(tmp_path / "images" / f"{seed}.png", anatomy((60, 44), seed, noise=0.1, seed=seed))
    settings = {"spatial_dims": 2, "modality": "xray", "pixdim": 0.5, "working_pixdim": 0.8, "roi_size": [32, 32]}
    settings |= {"features": [8, 8, 8, 8, 16, 8], "classes": ["a", "b"], "label_bits": bits}
    config = ConfigParser()
    config.read_config(find_bundle("segmentation") / "configs" / "train.json")
    config.update(settings)
    checkpoints = []
    for seed in range(2):
        torch.manual_seed(seed)
        network = config.get_parsed_content("network_def", instantiate=True)
        config.parse(reset=True)
        checkpoints.append(str(tmp_path / f"{seed}.pt"))
        kept = {"bundle": "segmentation", **settings}
        torch.save({"network": network.state_dict(), "settings": kept}, checkpoints[-1])
    places = {"dataset_dir": str(tmp_path / "images"), "results_dir": str(tmp_path / "found"), "num_workers": 0}
    complete(workflow("segmentation", "inference", **settings, **places, checkpoints=checkpoints))
    classes = Classes(("a", "b"), (1, 2), bits is not None)
    predict = LabelPredictor(checkpoints, classes)
    for path in sorted((tmp_path / "images").iterdir()):
        found = predict(path)
        expected = read_labels(tmp_path / "found" / path.name).as_tensor()
        assert (found.labels == expected).double().mean() > 0.999
        assert len(expected.unique()) > 1
        assert 1 / 3 < found.confidence.min() < found.confidence.max() <= 1
        assert found.confidence.shape == found.labels.shape


def test_the_confidence_of_a_class_is_the_mean_where_it_is():
    masks = torch.tensor([[[True, True, False]], [[False, False, False]]])
    sure = torch.tensor([[[0.5, 0.7, 0.9]], [[0.8, 0.6, 0.4]]])
    found = segmented(BITS, masks, sure, MetaTensor(torch.zeros(1, 1, 3)))
    assert found.labels.tolist() == [[[1, 1, 0]]]
    torch.testing.assert_close(found.confidence, torch.tensor([[[0.5, 0.6, 0.4]]]))
    assert found.sure[0] == pytest.approx(0.6)
    assert math.isnan(found.sure[1])


class Thresholds:
    """Segments by brightness, and counts the images."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __call__(self, path: Path) -> Segmented:
        self.seen.append(path.stem)
        grid = read_on_grid(path, 0.5)
        return segmented(NUMBERS, torch.cat([grid > 100, grid > 200]), torch.full(grid.shape, 0.75), grid)


@pytest.fixture
def images(tmp_path) -> dict[Path, str]:
    """Two pictures and a broken one."""
    (tmp_path / "images").mkdir()
    for seed in range(2):
        array = np.random.default_rng(seed).integers(0, 256, (12, 10), np.uint8)
        written(tmp_path / "images" / f"{seed}.png", array)
    (tmp_path / "images" / "bad.png").write_bytes(b"")
    return {path: f"of_{path.stem}" for path in sorted((tmp_path / "images").iterdir())}


def test_each_is_written_once_and_made_again_when_it_is_another(tmp_path, images):
    make, told = Thresholds(), []
    found, failures = segment_each(make, images, tmp_path / "out", "key", told.append)
    assert [path.name for path in failures] == ["bad.png"]
    assert found == {"of_0": [0.75, 0.75], "of_1": [0.75, 0.75]}
    assert told == [pytest.approx(n / 3) for n in (1, 2, 3)]
    for path in list(images)[:2]:
        grey = read_labels(path).as_tensor()
        label = read_labels(label_file(tmp_path / "out", images[path], path)).as_tensor()
        assert torch.equal(label, 3.0 * (grey > 100) + 4.0 * (grey > 200))
        sure = read_labels(label_file(tmp_path / "out", images[path], path, "confidence")).as_tensor()
        assert sure.unique().tolist() == [75]

    assert segment_each(make, images, tmp_path / "out", "key")[0] == found
    assert make.seen == ["0", "1", "bad", "bad"]
    first = next(iter(images))
    written(first, np.full((12, 10), 150, np.uint8))
    label_file(tmp_path / "out", "of_1", "1.png", "confidence").unlink()
    segment_each(make, images, tmp_path / "out", "key")
    assert make.seen[4:] == ["0", "1", "bad"]
    segment_each(make, images, tmp_path / "out", "another")
    assert make.seen[7:] == ["0", "1", "bad"]


def test_a_kill_loses_one_image_and_what_somebody_has_corrected_stays(tmp_path, images, monkeypatch):
    def killed(ledger, record, note=Ledger.note):
        if record.get("name") == "of_1":
            raise KeyboardInterrupt
        note(ledger, record)

    monkeypatch.setattr(Ledger, "note", killed)
    make = Thresholds()
    with pytest.raises(KeyboardInterrupt):
        segment_each(make, images, tmp_path / "out", "key")
    monkeypatch.undo()
    segment_each(make, images, tmp_path / "out", "key")
    assert make.seen == ["0", "1", "1", "bad"]
    corrected = label_file(tmp_path / "out", "of_0", "0.png")
    corrected.write_bytes(b"mine")
    _, failures = segment_each(make, images, tmp_path / "out", "key")
    assert "which is somebody else's, or was changed since" in failures[next(iter(images))]
    assert corrected.read_bytes() == b"mine"


def test_a_full_disk_is_said(tmp_path, images, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "label")

    monkeypatch.setattr(_label_maps.Ledger, "write", full)
    with pytest.raises(OSError, match="No space left"):
        segment_each(Thresholds(), images, tmp_path / "out", "key")


def test_a_key_is_of_values_and_of_contents(tmp_path):
    file = tmp_path / "a"
    file.write_text("1")
    first = key_of(file, [1, "b"])
    assert first == key_of(file, [1, "b"]) != key_of(file, [2, "b"])
    file.write_text("2")
    assert key_of(file, [1, "b"]) != first
    assert json.loads(json.dumps(first)) == first
