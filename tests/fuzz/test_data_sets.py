"""Lists of images of odd folders, against what is in them; cached items, against what the transform makes of them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("hypothesis", reason="fuzz tests need hypothesis")

import SimpleITK as sitk
import torch
from hypothesis import strategies as st
from monai.data import Dataset, MetaTensor
from monai.transforms import Compose, RandScaleIntensity
from torch.utils.data import default_collate

from monai_infoaug.data import (
    LandmarkTable,
    SeededDataset,
    annotated_datalist,
    cached_dataset,
    image_datalist,
    image_name,
    landmark_datalist,
    own_items,
    seeded_loader,
    segmentation_datalist,
    weak_label_datalist,
    write_landmarks,
)
from tests.fuzz.fuzzing import REFUSED, as_numpy, fuzz, odd_values, outcome, seeds

STEMS = st.sampled_from(["a", "b", "c.1", "d e", "é", "1", "2024", "A", "x#y", "[z]", "a,b", "-o", "1e3", "None"])
SUFFIXES = st.sampled_from([".png", ".PNG", ".nii.gz", ".mha", ".txt", "", ".csv"])
FILES = st.sets(st.tuples(STEMS, SUFFIXES), min_size=1, max_size=6)
PICTURE = sitk.GetImageFromArray(np.arange(12, dtype=np.uint8).reshape(3, 4))


def filled(folder, files):
    """A folder with files of these names, and those that are images."""
    folder.mkdir()
    for stem, suffix in files:
        path = folder / f"{stem}{suffix}"
        if suffix.lower() in (".png", ".nii.gz", ".mha"):
            sitk.WriteImage(PICTURE, str(folder / "image.mha"))
            if suffix == ".mha":
                os.replace(folder / "image.mha", path)
            else:
                sitk.WriteImage(PICTURE, str(path))
                os.unlink(folder / "image.mha")
        else:
            path.write_text("text")
    (folder / ".hidden.png").write_text("")
    return sorted(folder / f"{stem}{suffix}" for stem, suffix in files if suffix not in (".txt", "", ".csv"))


@fuzz(data=st.data(), files=FILES)
def test_lists_of_folders(data, files, tmp_path_factory):
    root = tmp_path_factory.mktemp("lists")
    images = filled(root / "images", files)
    found = outcome(lambda: image_datalist(root / "images"))
    assert (found is not REFUSED) == bool(images)
    assert found is REFUSED or [item["image"] for item in found] == list(map(str, images))
    labelled = data.draw(st.sets(st.sampled_from(sorted(files)), max_size=4))
    labels = filled(root / "labels", labelled)
    part = data.draw(st.sampled_from([None, "train", "val", "test"]))
    every = data.draw(st.sampled_from([None, 2, 3]))
    found = outcome(
        lambda: segmentation_datalist(root / "images", root / "labels", part, test_every=every, val_every=every)
    )
    names = [image_name(path) for path in images]
    if found is REFUSED:
        return
    assert len(set(names)) == len(names)
    known = {image_name(path): str(path) for path in labels}
    for item in found:
        assert image_name(item["image"]) == item["name"]
        assert item.get("label") == known.get(item["name"])
    if part is None:
        assert [item["name"] for item in found] == names
    else:
        assert {item["name"] for item in found} <= set(names)


@fuzz(data=st.data(), files=FILES, space=st.sampled_from(["RAS", "LPS"]), many=st.booleans())
def test_lists_with_landmarks(data, files, space, many, tmp_path_factory):
    root = tmp_path_factory.mktemp("lists")
    images = filled(root / "images", files)
    if not images:
        return
    names = [image_name(path) for path in images]
    random = np.random.default_rng(data.draw(seeds))
    shown = sorted(data.draw(st.sets(st.sampled_from(names), min_size=1)))
    points = {name: random.normal(size=(2, 2)).round(3) for name in shown}
    points[shown[0]][0] = np.nan
    scores = {name: random.random(2).round(3) for name in shown}
    table = LandmarkTable(["p", "q"], points, scores, "LPS")
    write_landmarks(root / "table.csv", table)
    call = annotated_datalist if many else landmark_datalist
    found = outcome(lambda: call(root / "images", root / "table.csv", space))
    assert (found is not REFUSED) == (len(set(names)) == len(names) and (many or set(shown) == set(names)))
    if found is REFUSED:
        return
    assert [item["name"] for item in found] == [name for name in names if name in shown]
    for item in found:
        sign = 1 if space == "LPS" else -1
        expected = points[item["name"]] * sign
        assert np.allclose(item["landmarks"], expected, atol=1e-5, equal_nan=True)
        if many:
            assert np.allclose(item["weights"], scores[item["name"]], atol=1e-6)


LISTS = (image_datalist, landmark_datalist, annotated_datalist, segmentation_datalist, weak_label_datalist)


@fuzz(data=st.data(), which=st.sampled_from(LISTS))
def test_odd_arguments_of_lists(data, which, tmp_path_factory):
    root = tmp_path_factory.mktemp("lists")
    filled(root / "images", [("a", ".png"), ("b", ".png")])
    table = LandmarkTable(["p", "q"], {"a": [[1, 2], [3, 4]], "b": [[1, 2], [3, 4]]})
    write_landmarks(root / "table.csv", table)
    with_table = {"images": root / "images", "table": root / "table.csv", "space": "RAS"}
    drawn = {"labelled": 1, "seed": 0}
    good = {
        image_datalist: {"dataset_dir": root / "images", "pattern": "*"},
        landmark_datalist: with_table | {"labels": None},
        annotated_datalist: with_table | drawn | {"min_score": 0.0, "labels": None},
        segmentation_datalist: drawn
        | {"images": root / "images", "labels": root / "images", "part": None}
        | {"test_every": 4, "val_every": 7},
        weak_label_datalist: with_table | {"classes": ["p", "q"]},
    }[which]
    argument = data.draw(st.sampled_from(list(good)))
    outcome(lambda: which(**good | {argument: data.draw(odd_values)}))


ARRAYS = [np.arange(6).reshape(3, 2).astype(">f4"), np.zeros((2, 0)), np.array([True]), np.arange(3, dtype="u2")]
TENSORS = [torch.zeros(2, 3), MetaTensor(torch.ones(1, 2)), torch.ones(2, dtype=torch.bfloat16)]
SIMPLE = [st.integers(-(2**40), 2**40), st.floats(allow_nan=False), st.text(max_size=5), st.booleans(), st.none()]
VALUES = st.one_of(*SIMPLE, st.sampled_from(ARRAYS), st.sampled_from(TENSORS), st.just(Path("no/file")))
ITEMS = st.recursive(
    VALUES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


def same(one, other):
    """Whether two items hold the same; arrays may have become tensors."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, np.ndarray | torch.Tensor):
        return np.array_equal(as_numpy(one), as_numpy(other))
    return one == other


@fuzz(
    items=st.lists(ITEMS.filter(lambda item: item is not None), min_size=1, max_size=4),
    on_disk=st.booleans(),
    seed=st.integers(0, 9),
)
def test_a_cached_item_is_what_was_computed(items, on_disk, seed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache") / "items"
    computed, transform = [], Compose([identity])
    for _ in range(2 if on_disk else 1):
        dataset = outcome(lambda: cached_dataset(items, transform, folder if on_disk else None))
        assert dataset is not REFUSED
        computed.append([dataset[i] for i in range(len(items))])
    assert all(same(items, each) for each in computed)
    if on_disk:
        entry = sorted(folder.glob("*.pt"))[seed % len(list(folder.glob("*.pt")))]
        content = bytearray(entry.read_bytes())
        content[(seed * 7919) % len(content)] ^= 1
        entry.write_bytes(content[: len(content) - seed % 2 * 5])
        again = outcome(lambda: cached_dataset(items, transform, folder))
        assert all(same(item, outcome(lambda i=i: again[i])) for i, item in enumerate(items))
        shutil.rmtree(folder)


def identity(item):
    return item


@fuzz(data=st.data(), seed=st.integers(0, 2**32 - 1), epoch=st.integers(0, 1000), size=st.integers(1, 7))
def test_the_randomness_of_an_item_is_its_own(data, seed, epoch, size):
    made = [SeededDataset(Dataset([torch.ones(1, 2, 2)] * size, RandScaleIntensity(0.5, 1.0)), seed) for _ in range(2)]
    for dataset in made:
        dataset.set_epoch(epoch)
    order = data.draw(st.permutations(range(size)))
    first = {i: made[0][i].mean().item() for i in order}
    assert [made[1][i].mean().item() for i in range(size)] == [first[i] for i in range(size)]
    assert len(set(first.values())) == size
    assert list(own_items(made[0])) == list(range(size))


@fuzz(data=st.data(), argument=st.sampled_from(["batch_size", "seed", "num_workers", "draws"]))
def test_odd_arguments_of_a_loader(data, argument):
    dataset = Dataset([torch.ones(1, 2, 2)] * 3, RandScaleIntensity(0.5, 1.0))
    value = data.draw(odd_values)
    if argument == "num_workers" and isinstance(value, int | np.integer) and value > 0:
        value = 0  # no processes
    loader = outcome(lambda: seeded_loader(dataset, **{"batch_size": 2, argument: value}, collate_fn=default_collate))
    if loader is not REFUSED:
        assert sum(len(batch) for batch in loader) > 0
