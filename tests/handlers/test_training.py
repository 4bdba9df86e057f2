from __future__ import annotations

from multiprocessing import active_children

import pytest
import torch
from monai.data import Dataset
from monai.engines import SupervisedTrainer
from monai.transforms import RandGaussianNoised
from torch.nn.functional import mse_loss

from monai_infoaug.data import seeded_loader
from monai_infoaug.handlers import read_settings, training_handlers

pytest.importorskip("ignite", reason="trainers need ignite")


class Writer:
    """In place of TensorBoard's."""

    def __init__(self):
        self.values = {}

    def add_scalar(self, tag, value, step):
        self.values.setdefault(tag, []).append((step, value))

    def flush(self):
        pass


def train(folder, epochs, writer=None, bad=None, workers=0):
    torch.manual_seed(0)
    items = [{"image": torch.full((1, 4, 4), float(i)), "label": torch.ones(1, 4, 4)} for i in range(5)]
    loader = seeded_loader(
        Dataset(items, RandGaussianNoised("image", prob=1.0)), batch_size=2, seed=3, num_workers=workers
    )
    if bad is not None:
        items[0]["label"] = torch.full((1, 4, 4), bad)
    network = torch.nn.Conv2d(1, 1, 1)
    optimizer = torch.optim.SGD(network.parameters(), 0.01)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.5, total_iters=6)
    states = {"network": network, "optimizer": optimizer, "lr_scheduler": scheduler}
    handlers = training_handlers("stage", loader, states, folder / "checkpoint.pt", {"width": 1}, writer)
    trainer = SupervisedTrainer(
        "cpu", epochs, loader, network, optimizer, mse_loss, train_handlers=handlers, decollate=False
    )
    trainer.run()
    return network.state_dict(), optimizer.param_groups[0]["lr"], trainer.state


def test_a_training_that_was_stopped_ends_as_one_that_ran_through(tmp_path):
    whole, rate, state = train(tmp_path / "whole", 3)
    train(tmp_path / "parts", 1)
    parts, rate_of_parts, state_of_parts = train(tmp_path / "parts", 3)
    torch.testing.assert_close(parts, whole, rtol=0, atol=0)
    assert state.iteration == state_of_parts.iteration == 6
    assert rate == rate_of_parts == pytest.approx(0.005)
    assert read_settings(tmp_path / "whole" / "checkpoint.pt") == {"width": 1}


def test_workers_stay_from_epoch_to_epoch_and_end_with_the_training(tmp_path):
    class Watching(Writer):
        def flush(self):
            at_work.append({process.pid for process in active_children()} - before)

    at_work, before = [], {process.pid for process in active_children()}
    _, _, state = train(tmp_path, 3, Watching(), workers=1)
    assert len(set.union(*at_work)) == 1
    assert state.dataloader.num_workers == 1
    assert {process.pid for process in active_children()} <= before


def test_loss_is_shown(tmp_path, capsys):
    writer = Writer()
    train(tmp_path, 2, writer)
    assert [step for step, _ in writer.values["stage_loss"]] == [1, 2, 3, 4]
    assert [line.partition(",")[0] for line in capsys.readouterr().out.splitlines()] == [
        f"stage: epoch {i}/2" for i in (1, 2)
    ]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_ends_the_training(tmp_path, bad):
    train(tmp_path, 1)
    good = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["network"]
    with pytest.raises(FloatingPointError, match=rf"loss of `stage` must be finite, got {bad} in iteration [34] "):
        train(tmp_path, 3, bad=bad)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["network"].keys() == good.keys()
    torch.testing.assert_close(torch.load(tmp_path / "checkpoint.pt", weights_only=True)["network"], good)


def test_scheduler_is_needed(tmp_path):
    with pytest.raises(KeyError, match="lr_scheduler"):
        training_handlers("stage", seeded_loader(Dataset([0], RandGaussianNoised("x")), 1), {}, tmp_path / "c.pt")
