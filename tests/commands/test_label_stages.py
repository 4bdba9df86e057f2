"""Rounds of segmentation networks: what each learns from, what it segments, and what is not done twice."""

from __future__ import annotations

from pathlib import Path

import pytest
import SimpleITK as sitk
import torch

pytest.importorskip("ignite", reason="bundles need the extra train")
pytest.importorskip("tensorboard", reason="bundles need the extra train")
pytest.importorskip("scipy", reason="bundles need the extra train")

from monai_infoaug.commands import _label_stages
from monai_infoaug.commands._label_files import read_labels, read_on_grid
from monai_infoaug.commands._label_maps import label_file, segment_each, segmented
from monai_infoaug.commands._label_stages import Round, learn_in_rounds
from tests.commands.labelled_scenes import BITS, NUMBERS, TINY, annotated, dice, scene, stages_in_process, truth

SETTINGS = TINY | {
    "spatial_dims": 2,
    "modality": "xray",
    "pixdim": 0.5,
    "working_pixdim": 0.5,
    "roi_size": [32, 32],
}


@pytest.fixture
def images(tmp_path) -> dict[Path, str]:
    (tmp_path / "images").mkdir()
    for seed in range(5):
        sitk.WriteImage(sitk.GetImageFromArray(scene(seed)[0]), tmp_path / "images" / f"{seed}.png")
    return {path: f"of_{path.stem}" for path in sorted((tmp_path / "images").iterdir())}


@pytest.fixture
def trained(monkeypatch) -> list[dict]:
    """Settings of the bundles that are run, in this process instead of another one."""
    runs: list[dict] = []
    monkeypatch.setattr(_label_stages, "run_stage", stages_in_process(runs))
    return runs


@pytest.mark.slow
@pytest.mark.parametrize("classes", [BITS, NUMBERS])
def test_a_round_learns_from_what_the_one_before_has_found(tmp_path, images, trained, classes):
    first = next(iter(images))
    sure = {images[first]: annotated(tmp_path / "label.png", first, classes)}
    rounds = [Round(tmp_path / f"{number}_round", SETTINGS) for number in (1, 2)]
    told: dict[str, list[float]] = {}
    note = lambda stage, share: told.setdefault(stage, []).append(share)  # noqa: E731
    found, failures = learn_in_rounds(rounds, images, sure, None, classes, progress=note)
    assert failures == {}
    assert list(found) == list(images.values())
    for path, name in images.items():
        label = read_labels(label_file(rounds[1].folder, name, path))
        for mask, its in zip(classes.masks(label), classes.masks(truth(path, classes)), strict=True):
            assert dice(mask, its) > 0.6
    assert not label_file(rounds[0].folder, images[first], first).exists()

    names = [[item["name"] for item in settings["items"]] for settings in trained]
    assert names == [[images[first]], sorted(images.values())]
    used = {item["name"]: Path(item["label"]) for item in trained[1]["items"]}
    for path, name in images.items():
        kept = sure.get(name) or label_file(rounds[0].folder, name, path)
        expected = classes.masks(read_labels(kept))
        assert torch.equal(classes.labels(expected, classes.numbers), read_labels(used[name]).as_tensor().long())
    assert "init_checkpoint" not in trained[0]
    assert trained[1]["init_checkpoint"] == str(rounds[0].folder / "checkpoint.pt")
    for stage in ("1_round", "2_round"):
        assert told[stage] == sorted(told[stage])
        assert (told[stage][0], told[stage][-1]) == (pytest.approx(0.45), pytest.approx(1))

    before = len(trained)
    more = scene(7)[0]
    sitk.WriteImage(sitk.GetImageFromArray(more), tmp_path / "images" / "7.png")
    images[tmp_path / "images" / "7.png"] = "of_7"
    assert learn_in_rounds(rounds, images, sure, None, classes, progress=note)[0].keys() == {*images.values()}
    assert len(trained) == before
    assert label_file(rounds[1].folder, "of_7", "7.png").exists()

    other = list(images)[2]
    sure[images[other]] = annotated(tmp_path / "other.png", other, classes)
    learn_in_rounds(rounds, images, sure, None, classes, progress=note)
    assert [[item["name"] for item in settings["items"]] for settings in trained[before:]] == [
        ["of_0", "of_2"],
        sorted(images.values()),
    ]


def test_the_first_round_learns_from_some_of_what_was_carried(tmp_path, images, trained):
    first = next(iter(images))

    def carry(path):
        grid = read_on_grid(path, 0.5)
        masks = NUMBERS.masks(truth(path, NUMBERS))
        return segmented(NUMBERS, masks, torch.ones(grid.shape), grid)

    segment_each(carry, images, tmp_path / "carried", "key")
    sure = {images[first]: annotated(tmp_path / "label.png", first, NUMBERS)}
    each = Round(tmp_path / "round", SETTINGS | {"max_epochs": 1})
    learn_in_rounds([each], images, sure, tmp_path / "carried", NUMBERS, pool=2, progress=lambda *_: None)
    items = trained[0]["items"]
    assert [item["name"] for item in items] == ["of_0", "of_1", "of_3"]
    assert trained[0]["classes"] == ["square", "bar"]
    assert trained[0]["val_interval"] == 2


def test_label_maps_are_carried_once_and_again_from_others(tmp_path, images, monkeypatch):
    added: list[tuple[str, str]] = []
    seen: list[str] = []

    class Carrier:
        def __init__(self, embedder, classes):
            assert embedder == (tmp_path / "c.pt", {"pixdim": 0.5}, "cpu")
            added.clear()

        def add(self, path, labels):
            added.append((path.stem, labels.stem))

        def __call__(self, path):
            seen.append(path.stem)
            grid = read_on_grid(path, 0.5)
            return segmented(BITS, BITS.masks(truth(path, BITS)), torch.ones(grid.shape), grid)

    monkeypatch.setattr(_label_stages, "LabelCarrier", Carrier)
    monkeypatch.setattr(_label_stages, "Embedder", lambda path, settings, device: (path, settings, device))
    (tmp_path / "c.pt").write_bytes(b"1")
    sure = {"of_1": annotated(tmp_path / "label.png", list(images)[1], BITS)}

    def carry() -> None:
        found, failures = _label_stages.carry_labels_to(
            tmp_path / "carried", tmp_path / "c.pt", images, sure, BITS, {"pixdim": 0.5}
        )
        assert list(found) == list(images.values())
        assert failures == {}

    carry()
    assert added == [("1", "label")]
    carry()
    assert seen == ["0", "1", "2", "3", "4"]
    sure["of_3"] = annotated(tmp_path / "other.png", list(images)[3], BITS)
    carry()
    assert added == [("1", "label"), ("3", "other")]
    assert len(seen) == 10
    (tmp_path / "c.pt").write_bytes(b"2")
    carry()
    assert len(seen) == 15
