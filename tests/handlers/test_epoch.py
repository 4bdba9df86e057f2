from __future__ import annotations

import pytest

from monai_infoaug.handlers import EpochSetter

Engine = pytest.importorskip("ignite.engine", reason="trainers need ignite").Engine


class Recorder:
    def __init__(self) -> None:
        self.epochs: list[int] = []

    def set_epoch(self, epoch: int) -> None:
        self.epochs.append(epoch)


def test_every_target_hears_of_every_epoch_before_its_first_batch():
    dataset, sampler = Recorder(), Recorder()
    heard = []
    engine = Engine(lambda engine, batch: heard.append(tuple(dataset.epochs)))
    EpochSetter([dataset, sampler]).attach(engine)
    engine.run([0], max_epochs=3)
    assert dataset.epochs == sampler.epochs == [1, 2, 3]
    assert heard == [(1,), (1, 2), (1, 2, 3)]


def test_a_resumed_run_goes_on_counting():
    dataset = Recorder()
    engine = Engine(lambda engine, batch: None)
    EpochSetter([dataset]).attach(engine)
    engine.load_state_dict({"epoch": 4, "epoch_length": 1, "max_epochs": 6})
    engine.run([0])
    assert dataset.epochs == [5, 6]


def test_target_without_epochs():
    with pytest.raises(TypeError, match="`targets` must be objects with `set_epoch`, got list"):
        EpochSetter([Recorder(), [1, 2]])
