"""Entries of a cache on disk are whole or not there, and damage is seen."""

from __future__ import annotations

import gc
import os
import random
import signal
import tempfile
import time
import warnings
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, RandFlip, Transform

from monai_infoaug._require import reason
from monai_infoaug.data import cached_dataset
from monai_infoaug.data.caching import _read

ITEMS = [float(i) for i in range(6)]


class Fill(Transform):
    """A tensor full of the item, after a while, and what has been computed so far, in a file."""

    def __init__(self, size: int, seconds: float = 0.0, log: str | None = None) -> None:
        self.size, self.seconds, self.log = size, seconds, log

    def __call__(self, item):
        time.sleep(self.seconds)
        if self.log is not None:
            with open(self.log, "a") as file:
                file.write(f"{item:.0f}\n")
        return torch.full((1, self.size), item)


def served(cache, size=10, workers=0, seconds=0.0, log=None):
    return cached_dataset(ITEMS, Compose([Fill(size, seconds, log), RandFlip(0.0)]), cache, workers)


def assert_right(dataset):
    for item, value in zip(ITEMS, dataset, strict=True):
        assert (value == item).all()


@pytest.mark.slow
def test_no_bit_goes_wrong_unseen(tmp_path):
    values = {"image": MetaTensor(torch.arange(5.0), meta={"shape": np.ones(2)}), "name": "a", "folder": Path("b")}
    cached_dataset([values], Compose([RandFlip(0.0)]), tmp_path / "cache")
    (file,) = (tmp_path / "cache").iterdir()
    whole, seen = file.read_bytes(), 0
    assert _read(file)["folder"] == Path("b")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for place in range(0, len(whole), 3):
            file.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
            try:
                found = _read(file)
            except Exception:
                seen += 1
            else:  # it was in what nobody reads
                assert torch.equal(found["image"], values["image"])
                assert found["image"].meta["shape"].tolist() == [1, 1]
                assert (found["name"], found["folder"]) == ("a", Path("b"))
    assert seen > 170


@pytest.mark.parametrize("damage", ["flipped", "truncated", "empty", "foreign", "gone"])
def test_a_damaged_entry_is_made_anew(tmp_path, damage):
    dataset = served(tmp_path, 1000)
    file = sorted(tmp_path.iterdir())[2]
    whole = file.read_bytes()
    content = {
        "flipped": whole[:2000] + bytes([whole[2000] ^ 4]) + whole[2001:],
        "truncated": whole[:-500],
        "empty": b"",
        "foreign": b"PK something else",
        "gone": None,
    }[damage]
    for again in (lambda: dataset, lambda: served(tmp_path, 1000)):
        if content is None:
            file.unlink()
        else:
            file.write_bytes(content)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert_right(again())
        if damage == "flipped":
            assert [f"Corrupt cache file, which is made anew: {file} (" in str(each.message) for each in caught] == [
                True
            ]
        assert_right(dataset)
        assert len(list(tmp_path.iterdir())) == len(ITEMS)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_full_disk_is_named_and_leaves_nothing_half_written(tmp_path, workers, full_disk, monkeypatch):
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.2)  # that long workers are waited for
    with full_disk(5000), pytest.raises(OSError, match="`cache_dir` must be a folder with room") as caught:
        served(tmp_path / "cache", 5000, workers)
    accepted = "must be a folder with room that can be written to, got "
    assert reason(caught.value) == f"`cache_dir` {accepted}'{tmp_path / 'cache'}' (File too large)."
    del caught
    gc.collect()  # the workers, which the error holds
    assert list((tmp_path / "cache").iterdir()) == []
    assert_right(served(tmp_path / "cache", 5000, workers))


def test_other_files_of_the_folder_stay(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    dataset = served(tmp_path)
    dataset.set_data(ITEMS[1:])
    assert [float(value.mean()) for value in dataset] == ITEMS[1:]
    assert (tmp_path / "mine.txt").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 1 + len(ITEMS)


def fill(cache: Path, temporary: Path) -> None:
    torch.set_num_threads(1)  # OpenMP's threads do not come along with a fork
    tempfile.tempdir = str(temporary)
    assert_right(served(cache, 1_000_000, 0, 0.02, str(temporary.parent / "log")))


def run(cache: Path, temporary: Path, new_process: BaseContext) -> BaseProcess:
    """A process that fills a cache, with a folder for temporary files."""
    process = new_process.Process(target=fill, args=(cache, temporary))
    process.start()
    return process


@pytest.mark.slow
def test_two_processes_at_once(tmp_path, new_process):
    (tmp_path / "temporary").mkdir()
    processes = [run(tmp_path / "cache", tmp_path / "temporary", new_process) for _ in range(2)]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(list((tmp_path / "cache").glob("*.pt"))) == len(list((tmp_path / "cache").iterdir())) == len(ITEMS)
    assert_right(served(tmp_path / "cache", 1_000_000, 0, 0.02, str(tmp_path / "log")))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_killed_while_it_fills_it_goes_on_and_leaves_nothing(tmp_path, new_process):
    cache, temporary = tmp_path / "cache", tmp_path / "temporary"
    temporary.mkdir()
    process = run(cache, temporary, new_process)
    while not (cache.exists() and list(cache.glob("*.partial"))) and process.is_alive():
        time.sleep(0.001)
    time.sleep(random.uniform(0, 0.002))
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    done = len(list(cache.glob("*.pt")))
    computed = len((tmp_path / "log").read_text().split())
    assert done < len(ITEMS)
    assert_right(served(cache, 1_000_000, 0, 0.02, str(tmp_path / "log")))
    assert len((tmp_path / "log").read_text().split()) == computed + len(ITEMS) - done
    assert len(list(cache.iterdir())) == len(list(cache.glob("*.pt"))) == len(ITEMS)
    assert list(temporary.iterdir()) == []


def test_what_others_are_writing_is_let_alone(tmp_path):
    from monai_infoaug.data.caching import MACHINE

    theirs = [
        f"a.pt.{MACHINE}-{os.getpid()}-1.partial",
        "b.pt.elsewhere-99999999-1.partial",
        f"c.pt.{MACHINE}-x-1.partial",
    ]
    for name in (*theirs, f"d.pt.{MACHINE}-99999999-1.partial"):
        (tmp_path / name).write_text("half")
    served(tmp_path)
    assert sorted(file.name for file in tmp_path.glob("*.partial")) == sorted(theirs)


def test_nothing_is_left_in_the_folder_for_temporary_files(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    assert_right(served(tmp_path / "cache"))
