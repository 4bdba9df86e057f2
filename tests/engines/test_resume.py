"""A training that is really killed ends with the same weights, bit by bit, as one that ran through."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from monai.data import Dataset
from monai.handlers import LrScheduleHandler
from monai.transforms import Compose, RandAffine
from torch.utils.data import DataLoader, DistributedSampler

from monai_infoaug.data import SeededDataset
from monai_infoaug.engines import PixelContrastiveTrainer
from monai_infoaug.handlers import EpochSetter, ResumableCheckpoint
from monai_infoaug.networks import PixelEmbeddingNet
from monai_infoaug.transforms import RandPairedViewsd

Events = pytest.importorskip("ignite.engine", reason="trainers need ignite").Events

EPOCHS = 8


def make_training(path: Path, num_workers: int = 0) -> tuple[PixelContrastiveTrainer, torch.nn.Module]:
    torch.set_num_threads(1)  # OpenMP's do not come along with a fork, and with more of them sums are rounded otherwise
    torch.manual_seed(0)
    network = PixelEmbeddingNet(features=(4, 6), embedding_dim=4, strides=(2, 4))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=3)
    items = [{"image": torch.rand(1, 20, 20, generator=torch.Generator().manual_seed(i))} for i in range(6)]
    views = RandPairedViewsd(num_points=8, roi_size=16, spatial=RandAffine(prob=1, rotate_range=0.3))
    dataset = SeededDataset(Dataset(items, Compose([views])), seed=1)
    sampler = DistributedSampler(dataset, num_replicas=1, rank=0, shuffle=True, seed=2)
    loader = DataLoader(dataset, 2, sampler=sampler, num_workers=num_workers, persistent_workers=num_workers > 0)
    trainer = PixelContrastiveTrainer("cpu", EPOCHS, loader, network, optimizer, max_grad_norm=1.0)
    EpochSetter([dataset, sampler]).attach(trainer)
    LrScheduleHandler(scheduler, print_lr=False).attach(trainer)
    ResumableCheckpoint(path, {"network": network, "optimizer": optimizer, "lr_scheduler": scheduler}).attach(trainer)
    return trainer, network


def run_slowly(path: Path) -> None:
    trainer, _ = make_training(path)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: time.sleep(0.1))
    trainer.run()


def die_while_writing(path: Path) -> None:
    """Kill this very process when half of the second checkpoint is in its file."""
    trainer, _ = make_training(path)
    save, calls = torch.save, []

    def save_half(states, file):
        save(states, file)
        calls.append(file)
        if len(calls) == 2:
            file.truncate(file.tell() // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    torch.save = save_half
    trainer.run()


def epoch_of(path: Path) -> int:
    return torch.load(path, weights_only=True)["trainer"]["epoch"] if path.exists() else 0


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_killed_twice_and_resumed_equals_the_run_without_a_break(tmp_path, new_process, threads):
    def begin(run: Callable[[Path], None], path: Path) -> BaseProcess:
        process = new_process.Process(target=run, args=(path,))
        process.start()
        return process

    whole, expected = make_training(tmp_path / "whole.pt")
    seen = []
    whole.add_event_handler(Events.ITERATION_COMPLETED, lambda: seen.extend(whole.state.batch["image_view1"]))
    whole.run()
    flat = torch.stack(seen).flatten(1)
    assert len(flat) == 6 * EPOCHS
    assert torch.cdist(flat, flat).fill_diagonal_(1).min() > 0.1

    path = tmp_path / "killed.pt"
    process = begin(run_slowly, path)
    while epoch_of(path) < 2 and process.is_alive():
        time.sleep(0.01)
    time.sleep(random.uniform(0, 0.3))  # anywhere in an epoch of 0.3 s
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    stopped = epoch_of(path)
    assert 2 <= stopped < EPOCHS - 2

    process = begin(die_while_writing, path)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert epoch_of(path) == stopped + 1
    assert len(list(tmp_path.glob("killed.pt*"))) == 2

    resumed, network = make_training(path, num_workers=1)  # who serves the items makes no difference
    resumed.run()
    assert (resumed.state.epoch, resumed.state.iteration) == (EPOCHS, 3 * EPOCHS)
    for (name, value), other in zip(expected.state_dict().items(), network.state_dict().values(), strict=True):
        assert torch.equal(value, other), name
    one, other = (torch.load(p, weights_only=True) for p in (tmp_path / "whole.pt", path))
    assert one["trainer"] == other["trainer"]
    assert one["lr_scheduler"] == other["lr_scheduler"]
    torch.testing.assert_close(one["optimizer"], other["optimizer"], atol=0, rtol=0)
