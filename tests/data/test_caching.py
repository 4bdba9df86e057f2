from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from multiprocessing.dummy import DummyProcess
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.data import CacheDataset, MetaTensor, NibabelReader, PersistentDataset
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    Lambda,
    Lambdad,
    LoadImaged,
    MapTransform,
    RandScaleIntensityd,
)
from monai.utils import set_determinism

from monai_infoaug.data import SeededDataset, SimpleITKReader, cached_dataset, image_datalist
from monai_infoaug.transforms import InformationMapd, InformationTiersd, ModalityPresetd

READERS = {"SimpleITK": SimpleITKReader, "nibabel": NibabelReader}
CHANGED = RandScaleIntensityd("image", 0.5, prob=1.0)


@pytest.fixture
def images(tmp_path):
    (tmp_path / "images").mkdir()
    generator = np.random.default_rng(0)
    for name in "abc":
        array = np.pad(generator.integers(0, 200, (10, 12, 14), np.int16), 3)
        sitk.WriteImage(sitk.GetImageFromArray(array), tmp_path / "images" / f"{name}.nii.gz")
    return tmp_path / "images"


class Counted(MapTransform):
    """Writes a line for each item that it sees, from whatever process."""

    def __init__(self, log: Path) -> None:
        super().__init__("image")
        self.log = log

    def __call__(self, data):
        with self.log.open("a") as file:
            file.write(f"{Path(data['image'].meta['filename_or_obj']).name}\n")
        return data


def chain(*more, reader="SimpleITK", window=3, bins=32, thresholds=(0.3, 0.6)):
    load = [LoadImaged("image", reader=READERS[reader]()), EnsureChannelFirstd("image")]
    maps = [InformationMapd("image", window=window, num_bins=bins), InformationTiersd(thresholds=thresholds)]
    return Compose([*load, *more, ModalityPresetd("image", modality="mr"), *maps, CHANGED])


def seen(log: Path) -> list[str]:
    return sorted(log.read_text().split()) if log.exists() else []


@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_bar_is_for_terminals(capsys, monkeypatch, is_terminal):
    pytest.importorskip("tqdm", reason="the bar needs tqdm")
    monkeypatch.setattr("sys.stderr.isatty", lambda: is_terminal)
    cached_dataset([1, 2, 3], [float])
    assert ("Loading dataset" in capsys.readouterr().err) == is_terminal


@pytest.mark.parametrize("reader", READERS)
def test_disk_and_memory_serve_the_same(images, tmp_path, reader):
    data = image_datalist(images)
    memory = SeededDataset(cached_dataset(data, chain(reader=reader)))
    disk = SeededDataset(cached_dataset(data, chain(reader=reader), tmp_path / "cache"))
    plain = SeededDataset(CacheDataset(data, chain(reader=reader), progress=False))
    assert isinstance(memory.dataset, CacheDataset)
    assert isinstance(disk.dataset, PersistentDataset)
    for index in range(3):
        assert plain[index].keys() == disk[index].keys() == memory[index].keys()
        for key, value in plain[index].items():
            for other in (disk[index][key], memory[index][key]):
                assert torch.equal(torch.as_tensor(other), torch.as_tensor(value))
                assert isinstance(value, MetaTensor) == isinstance(other, MetaTensor)
        assert torch.equal(disk[index]["image"].affine, plain[index]["image"].affine)
        assert disk[index]["image"].meta["filename_or_obj"] == data[index]["image"]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_everything_is_computed_ahead_once(images, tmp_path, num_workers):
    log, data = tmp_path / "log", image_datalist(images)
    for repeats in (1, 5):
        dataset = cached_dataset(data * repeats, chain(Counted(log)), tmp_path / "cache", num_workers)
        assert seen(log) == ["a.nii.gz", "b.nii.gz", "c.nii.gz"]
        assert len(dataset) == 3 * repeats
        assert dataset[-1]["tiers"].max() == 2
    assert seen(log) == ["a.nii.gz", "b.nii.gz", "c.nii.gz"]


def test_goes_on_after_it_was_killed(images, tmp_path):
    log, data, cache = tmp_path / "log", image_datalist(images), tmp_path / "cache"
    whole = cached_dataset(data, chain(Counted(log)), cache)
    first, second, third = sorted(cache.iterdir())
    first.unlink()
    second.write_bytes(second.read_bytes()[:-100])  # MONAI moves it there, which may be a copy
    log.unlink()
    again = cached_dataset(data, chain(Counted(log)), cache)
    assert len(seen(log)) == 2
    assert sorted(cache.iterdir()) == [first, second, third]
    for index in range(3):
        assert torch.equal(again[index]["information"], whole[index]["information"])


def test_a_file_of_an_unsafe_object_is_not_run(images, tmp_path):
    class Unsafe:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "run"),)

    data, cache = image_datalist(images), tmp_path / "cache"
    cached_dataset(data, chain(), cache)
    for file in cache.iterdir():
        torch.save(Unsafe(), file)
    with pytest.warns(UserWarning, match="Corrupt cache file"):
        dataset = cached_dataset(data, chain(), cache)[0]
    assert dataset["tiers"].max() == 2
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "changed",
    [{"window": 5}, {"bins": 16}, {"thresholds": (0.2, 0.7)}, {"thresholds": (0.3, 0.7)}, {"reader": "nibabel"}],
    ids=str,
)
def test_every_setting_makes_items_of_its_own(images, tmp_path, changed):
    data, cache = image_datalist(images), tmp_path / "cache"
    cached_dataset(data, chain(), cache)
    other = cached_dataset(data, chain(**changed), cache)
    assert len(list(cache.iterdir())) == 6
    set_determinism(0)
    expected = chain(**changed).set_random_state(0)(data[0])["tiers"]
    assert torch.equal(other[0]["tiers"], expected)


def test_a_changed_file_is_read_again(images, tmp_path):
    data, cache = image_datalist(images), tmp_path / "cache"
    before = cached_dataset(data, chain(), cache)[1]["information"]
    image = sitk.ReadImage(images / "b.nii.gz")
    sitk.WriteImage(sitk.Clamp(image, upperBound=50), images / "b.nii.gz")
    assert not torch.equal(cached_dataset(data, chain(), cache)[1]["information"], before)
    assert len(list(cache.iterdir())) == 4


@pytest.mark.slow
def test_another_run_finds_the_same_items(images, tmp_path):
    """Keys do not hang on the process: not on the order of sets, not on where objects lie."""
    lines = [
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])",
        "from tests.data.test_caching import chain, cached_dataset, image_datalist",
        "cached_dataset(image_datalist(sys.argv[2]), chain(), sys.argv[3])",
    ]
    cache = tmp_path / "cache"
    cached_dataset(image_datalist(images), chain(), cache)
    arguments = [sys.executable, "-c", "\n".join(lines), str(Path(__file__).parents[2]), str(images), str(cache)]
    subprocess.run(arguments, check=True, env=os.environ | {"PYTHONHASHSEED": "7"})
    assert len(list(cache.iterdir())) == 3


def test_bad_arguments(images, tmp_path):
    data = image_datalist(images)
    with pytest.raises(ValueError, match="`cache_dir` must be a folder, or None, got the file"):
        cached_dataset(data, chain(), data[0]["image"])
    with pytest.raises(ValueError, match="`transform` must be picklable up to the first random transform"):
        cached_dataset(data, chain(Lambdad("image", lambda image: image)), tmp_path / "cache")


def test_arrays_of_any_byte_order_and_numbers_of_workers(tmp_path):
    item = {"a": np.arange(3.0).astype(">f4"), "b": [(np.array([1, 2], ">i2"), "text")]}
    for _ in range(2):
        found = cached_dataset([item], Compose([unchanged]), tmp_path / "cache")[0]
        assert found["a"].tolist() == [0, 1, 2]
        assert found["b"][0][0].tolist() == [1, 2]
        assert found["b"][0][1] == "text"
    with pytest.raises(ValueError, match=r"`num_workers` must be a whole number of at least 0, got 1\.5"):
        cached_dataset([item], Compose([unchanged]), num_workers=1.5)


def unchanged(item):
    return item


def test_a_data_set_that_fails_leaves_no_thread_behind():
    def compute(item):
        time.sleep(item)
        return 1 / item

    with pytest.raises(RuntimeError, match="applying transform"):
        cached_dataset([0.0, 0.3, 0.4, 0.5], Compose([Lambda(compute)]), num_workers=2)
    assert not [thread for thread in threading.enumerate() if isinstance(thread, DummyProcess)]
