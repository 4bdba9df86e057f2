"""A training that is made longer, or gets another batch size: its learning rate is that of the new length."""

from __future__ import annotations

import warnings

import pytest
import torch
from monai.data import DataLoader
from monai.engines import SupervisedTrainer
from monai.handlers import LrScheduleHandler
from monai.optimizers import WarmupCosineSchedule
from torch import nn
from torch.optim import lr_scheduler as schedules

from monai_infoaug.engines import OneCycle
from monai_infoaug.handlers import ResumableCheckpoint

Events = pytest.importorskip("ignite.engine", reason="trainers need ignite").Events

DATA = [{"image": torch.rand(1, generator=torch.Generator().manual_seed(i)), "label": torch.zeros(1)} for i in range(4)]


def sequential(optimizer, steps):
    parts = [schedules.LinearLR(optimizer, 0.1, total_iters=2), schedules.CosineAnnealingLR(optimizer, T_max=steps)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # which PyTorch's own composition gives
        return schedules.SequentialLR(optimizer, parts, milestones=[2])


def chained(optimizer, steps):
    parts = [schedules.LinearLR(optimizer, 0.1, total_iters=3), schedules.PolynomialLR(optimizer, total_iters=steps)]
    return schedules.ChainedScheduler(parts)


SCHEDULES = {
    "OneCycle": lambda optimizer, steps: OneCycle(optimizer, 0.1, steps + 1),
    "OneCycleLR": lambda optimizer, steps: schedules.OneCycleLR(optimizer, 0.1, steps + 1),
    "cosine": lambda optimizer, steps: schedules.CosineAnnealingLR(optimizer, T_max=steps),
    "polynomial": lambda optimizer, steps: schedules.PolynomialLR(optimizer, total_iters=steps, power=2),
    "MONAI's warm-up": lambda optimizer, steps: WarmupCosineSchedule(optimizer, warmup_steps=2, t_total=steps),
    "milestones": lambda optimizer, steps: schedules.MultiStepLR(optimizer, [steps // 2]),
    "sequential": sequential,
    "chained": chained,
}


def train(path, schedule, epochs, batch_size=2, by_epoch=False, ends=None):
    """Learning rates and momenta of the iterations, and the trainer, which ends after ``ends`` epochs."""
    torch.manual_seed(0)
    network, loader = nn.Linear(1, 1), DataLoader(DATA, batch_size=batch_size)
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    scheduler = SCHEDULES[schedule](optimizer, epochs * (1 if by_epoch else len(loader)))
    trainer = SupervisedTrainer("cpu", epochs, loader, network, optimizer, nn.functional.mse_loss, decollate=False)
    LrScheduleHandler(scheduler, print_lr=False, epoch_level=by_epoch).attach(trainer)
    saved = {"network": network, "lr_scheduler": scheduler, "optimizer": optimizer}
    ResumableCheckpoint(path, saved).attach(trainer)
    rates = []
    trainer.add_event_handler(
        Events.ITERATION_STARTED, lambda: rates.append(tuple(optimizer.param_groups[0][n] for n in ("lr", "momentum")))
    )
    if ends is not None:
        trainer.add_event_handler(Events.EPOCH_COMPLETED(once=ends), trainer.terminate)
    trainer.run()
    return rates, trainer


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("by_epoch", [False, True])
def test_longer(tmp_path, schedule, by_epoch):
    expected, _ = train(tmp_path / "long.pt", schedule, 6, by_epoch=by_epoch)
    train(tmp_path / "c.pt", schedule, 3, by_epoch=by_epoch)  # to its end
    rates, trainer = train(tmp_path / "c.pt", schedule, 6, by_epoch=by_epoch, ends=5)  # and then stopped and resumed
    rates += train(tmp_path / "c.pt", schedule, 6, by_epoch=by_epoch)[0]
    assert rates == expected[6:]
    assert len(set(expected)) > 1
    assert trainer.state.iteration == 10


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (1, 4)])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_another_batch_size(tmp_path, schedule, before, after):
    train(tmp_path / "c.pt", schedule, 4, before, ends=2)
    rates, trainer = train(tmp_path / "c.pt", schedule, 4, after)
    assert rates == train(tmp_path / "all.pt", schedule, 4, after)[0][len(DATA) // after * 2 :]
    assert trainer.state.epoch == 4


def test_another_batch_size_and_length_with_as_many_steps(tmp_path):
    train(tmp_path / "c.pt", "OneCycle", 2, 1, ends=1)
    rates, trainer = train(tmp_path / "c.pt", "OneCycle", 4, 2)
    assert rates == train(tmp_path / "all.pt", "OneCycle", 4, 2)[0][2:]
    assert trainer.state.iteration == 8


@pytest.mark.parametrize("by_epoch", [False, True])
def test_a_batch_of_all_that_becomes_several(tmp_path, by_epoch):
    """Epochs and iterations were the same then: the length says which of them the schedule counts."""
    train(tmp_path / "c.pt", "OneCycle", 4, 4, by_epoch, ends=2)
    rates, _ = train(tmp_path / "c.pt", "OneCycle", 4, 2, by_epoch)
    assert rates == train(tmp_path / "all.pt", "OneCycle", 4, 2, by_epoch)[0][4:]


def test_shorter_than_it_was_is_over(tmp_path):
    train(tmp_path / "c.pt", "OneCycle", 4)
    before = (tmp_path / "c.pt").read_bytes()
    rates, trainer = train(tmp_path / "c.pt", "OneCycle", 2)
    assert rates == []
    assert trainer.state.epoch == 4
    assert (tmp_path / "c.pt").read_bytes() == before


def test_a_schedule_of_the_loss_keeps_what_it_has_seen(tmp_path):
    network = nn.Linear(1, 1)
    for best in (0.5, 9.0):
        optimizer = torch.optim.SGD(network.parameters(), 0.1)
        scheduler = schedules.ReduceLROnPlateau(optimizer, patience=0)
        trainer = SupervisedTrainer("cpu", 2 if best == 9.0 else 1, DataLoader(DATA), network, optimizer, nn.MSELoss())
        trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda _, s=scheduler, loss=best: s.step(loss))
        ResumableCheckpoint(tmp_path / "c.pt", {"lr_scheduler": scheduler, "optimizer": optimizer}).attach(trainer)
        trainer.run()
    assert scheduler.best == 0.5
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01)
