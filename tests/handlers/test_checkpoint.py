from __future__ import annotations

import copy
import os

import numpy as np
import pytest
import torch
from monai.data import DataLoader
from monai.engines import SupervisedTrainer
from monai.handlers import CheckpointSaver, LrScheduleHandler
from torch import nn

from monai_infoaug.handlers import ResumableCheckpoint, load_weights, read_settings
from monai_infoaug.handlers.checkpoint import read_checkpoint

Events = pytest.importorskip("ignite.engine", reason="trainers need ignite").Events

DATA = [{"image": torch.rand(1, generator=torch.Generator().manual_seed(i)), "label": torch.zeros(1)} for i in range(6)]


def training(path, max_epochs=4, batch_size=2, seed=0, network=None, **kwargs):
    """A trainer whose state is known by its network, and a view of all that it saves."""
    torch.manual_seed(seed)
    network = network or nn.Linear(1, 1)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    trainer = SupervisedTrainer(
        "cpu",
        max_epochs,
        DataLoader(DATA, batch_size=batch_size),
        network,
        optimizer,
        nn.functional.mse_loss,
        decollate=False,
    )
    LrScheduleHandler(scheduler, print_lr=False).attach(trainer)
    saved = {"network": network, "optimizer": optimizer, "lr_scheduler": scheduler}
    ResumableCheckpoint(path, saved, **kwargs).attach(trainer)
    return trainer, saved


def states(saved):
    return copy.deepcopy({name: thing.state_dict() for name, thing in saved.items()})


def assert_same(got, expected):
    torch.testing.assert_close(got["network"], expected["network"], atol=0, rtol=0)
    assert str(got["optimizer"]) == str(expected["optimizer"])
    assert got["lr_scheduler"] == expected["lr_scheduler"]


@pytest.mark.parametrize("stop", [1, 2, 3, 4])
def test_goes_on_where_it_stopped(tmp_path, stop):
    trainer, saved = training(tmp_path / "whole.pt")
    trainer.run()
    first, _ = training(tmp_path / "made" / "parts.pt", max_epochs=stop)
    first.run()
    second, resumed = training(tmp_path / "made" / "parts.pt", seed=1)
    epochs = []
    second.add_event_handler(Events.EPOCH_STARTED, lambda: epochs.append(second.state.epoch))
    second.run()
    assert epochs == list(range(stop + 1, 5))
    assert (second.state.epoch, second.state.iteration) == (4, 12)
    assert_same(states(resumed), states(saved))


@pytest.mark.parametrize(("every", "expected"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (3, [3, 5]), (9, [5])])
def test_saves_every_so_many_epochs_and_at_the_end(tmp_path, every, expected):
    trainer, _ = training(tmp_path / "c.pt", max_epochs=5, every=every)
    seen = []

    @trainer.on(Events.EPOCH_COMPLETED | Events.COMPLETED)
    def look():
        if (tmp_path / "c.pt").exists():
            seen.append(torch.load(tmp_path / "c.pt", weights_only=True)["trainer"]["epoch"])

    trainer.run()
    assert sorted(set(seen)) == expected
    assert os.listdir(tmp_path) == ["c.pt"]


def test_without_resume_the_file_is_overwritten(tmp_path):
    training(tmp_path / "c.pt", max_epochs=3)[0].run()
    trainer, saved = training(tmp_path / "c.pt", max_epochs=1, resume=False)
    trainer.run()
    assert trainer.state.epoch == 1
    assert saved["lr_scheduler"].last_epoch == 1
    assert torch.load(tmp_path / "c.pt", weights_only=True)["trainer"]["epoch"] == 1


def test_a_run_that_ends_within_an_epoch_keeps_the_last_whole_epoch(tmp_path):
    trainer, saved = training(tmp_path / "c.pt")
    kept = {}
    trainer.add_event_handler(Events.EPOCH_COMPLETED(once=2), lambda: kept.update(states(saved)))

    @trainer.on(Events.ITERATION_COMPLETED(once=8))
    def spoil():  # as with `TerminateOnNan`
        nn.init.constant_(saved["network"].weight, torch.nan)
        trainer.terminate()

    trainer.run()
    again, resumed = training(tmp_path / "c.pt", max_epochs=2)
    again.run()
    assert (again.state.epoch, again.state.iteration) == (2, 6)
    assert_same(states(resumed), kept)


def test_epochs_of_another_length(tmp_path):
    """Another batch size or number of processes: whole epochs are still what counts."""
    training(tmp_path / "c.pt", max_epochs=2, batch_size=2)[0].run()
    trainer, _ = training(tmp_path / "c.pt", max_epochs=4, batch_size=1)
    iterations = []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: iterations.append(trainer.state.epoch))
    trainer.run()
    assert iterations == [3] * 6 + [4] * 6


@pytest.mark.parametrize("metric", [0.1, np.float64(0.1), np.float32(0.5), torch.tensor(0.25)])
def test_best_metric_is_kept_whatever_its_type(tmp_path, metric):
    trainer, _ = training(tmp_path / "c.pt")
    trainer.add_event_handler(
        Events.STARTED, lambda: vars(trainer.state).update(best_metric=metric, best_metric_epoch=2)
    )
    trainer.run()
    again, _ = training(tmp_path / "c.pt")
    again.run()
    assert again.state.best_metric == metric
    assert again.state.best_metric_epoch == 2


def test_one_process_of_several_writes(tmp_path):
    trainer, _ = training(tmp_path / "c.pt")
    trainer.state.rank = 1
    trainer.run()
    assert os.listdir(tmp_path) == []


def test_a_kill_while_writing_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    training(tmp_path / "c.pt", max_epochs=1)[0].run()
    before = (tmp_path / "c.pt").read_bytes()

    def die_half_way(obj, file):
        file.write(before[:100])
        raise KeyboardInterrupt

    monkeypatch.setattr("torch.save", die_half_way)
    with pytest.raises(KeyboardInterrupt):
        training(tmp_path / "c.pt", max_epochs=2)[0].run()
    assert (tmp_path / "c.pt").read_bytes() == before
    monkeypatch.undo()
    trainer, _ = training(tmp_path / "c.pt", max_epochs=2)
    trainer.run()
    assert trainer.state.epoch == 2
    assert os.listdir(tmp_path) == ["c.pt"]


def test_on_a_full_disk_the_last_checkpoint_stays_and_the_training_goes_on_from_it(tmp_path, full_disk):
    whole, saved = training(tmp_path / "whole.pt")
    whole.run()
    training(tmp_path / "c.pt", max_epochs=2)[0].run()
    before = (tmp_path / "c.pt").read_bytes()
    with full_disk(), pytest.raises(OSError, match=r"File too large: '.*c\.pt'"):
        training(tmp_path / "c.pt")[0].run()
    assert sorted(os.listdir(tmp_path)) == ["c.pt", "whole.pt"]
    assert (tmp_path / "c.pt").read_bytes() == before
    again, resumed = training(tmp_path / "c.pt")
    again.run()
    assert_same(states(resumed), states(saved))


class Evil:
    def __reduce__(self):
        return os.mkdir, ("evil",)


@pytest.mark.parametrize(
    "content", ["truncated", b"", b"no checkpoint", [1, 2], Evil(), {"network": {}}, {1: 2, "a": 3}]
)
def test_unreadable_and_foreign_files_are_named(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "c.pt"
    if content == "truncated":
        training(path, max_epochs=1)[0].run()
        content = path.read_bytes()[:-200]
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    before = path.read_bytes()
    trainer, saved = training(path)
    fresh = states(saved)
    with pytest.raises(ValueError, match=r"`.*c\.pt` must be a"):
        trainer.run()
    assert_same(states(saved), fresh)
    assert path.read_bytes() == before
    with pytest.raises(ValueError, match=r"`.*c\.pt` must be a") as caught:
        load_weights(nn.Linear(1, 1), path)
    assert "weights_only" not in str(caught.value)  # PyTorch's advice to trust the file
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize(
    ("name", "state"),
    [
        ("network", 3),
        ("network", {"weight": torch.ones(2, 2)}),
        ("optimizer", 3),
        ("optimizer", {}),
        ("optimizer", {"state": {}, "param_groups": []}),
        ("lr_scheduler", 3),  # PyTorch's schedulers take every dictionary
    ],
)
def test_state_of_another_kind_is_named(tmp_path, name, state):
    path = tmp_path / "c.pt"
    training(path, max_epochs=1)[0].run()
    torch.save(torch.load(path, weights_only=True) | {name: state}, path)
    with pytest.raises(ValueError, match=rf"`.*c\.pt` must be a checkpoint of this training, got another `{name}`"):
        training(path)[0].run()


def test_checkpoint_of_another_network_or_training(tmp_path):
    path = tmp_path / "c.pt"
    training(path, max_epochs=1)[0].run()
    with pytest.raises(ValueError, match=r"`.*c\.pt` must be a checkpoint of this training, got another `network`"):
        training(path, network=nn.Linear(1, 3))[0].run()
    trainer, saved = training(tmp_path / "none.pt")
    ResumableCheckpoint(path, {"net": saved["network"]}).attach(trainer)
    with pytest.raises(
        ValueError, match=r"`.*c\.pt` must be a checkpoint of \['net', 'trainer'\], got one of \['network"
    ):
        trainer.run()


SETTINGS = {"bundle": "mine", "pixdim": None, "sizes": [1, 2.5, [True]], "in_channels": 3}


def test_settings_are_kept_and_do_not_bind(tmp_path):
    training(tmp_path / "c.pt", max_epochs=1, settings=SETTINGS)[0].run()
    assert read_settings(tmp_path / "c.pt") == SETTINGS
    trainer, _ = training(tmp_path / "c.pt", max_epochs=2, settings={"bundle": "other"})
    trainer.run()
    assert trainer.state.iteration == 6  # it went on
    assert read_settings(tmp_path / "c.pt") == {"bundle": "other"}


def test_a_checkpoint_without_settings_goes_on(tmp_path):
    path = tmp_path / "c.pt"
    training(path, max_epochs=1)[0].run()
    states = torch.load(path, weights_only=True)
    del states["settings"]
    torch.save(states, path)
    assert read_settings(path) == {}
    trainer, _ = training(path, max_epochs=2)
    trainer.run()
    assert trainer.state.iteration == 6


@pytest.mark.parametrize("value", ["$import os", "@network", "%other", ["a", ["$b"]], {"_target_": "x"}, torch.ones(1)])
def test_what_would_be_evaluated_is_refused(tmp_path, value):
    message = r"must be names with numbers, strings that do not start with \$, @ or %.*, got bad="
    with pytest.raises(ValueError, match=f"`settings` {message}"):
        training(tmp_path / "c.pt", settings={"good": 1, "bad": value})
    torch.save({"network": {}, "settings": {"good": 1, "bad": value}}, tmp_path / "c.pt")
    with pytest.raises(ValueError, match=f"`settings of .*c.pt` {message}"):
        read_settings(tmp_path / "c.pt")


def test_settings_that_are_no_dictionary(tmp_path):
    torch.save({"network": {}, "settings": [1]}, tmp_path / "c.pt")
    with pytest.raises(ValueError, match=r"`settings of .*c.pt` must be a dictionary, got list"):
        read_settings(tmp_path / "c.pt")


@pytest.mark.parametrize(
    "arguments",
    [
        ({"settings": nn.Linear(1, 1)},),
        ({},),
        ({"trainer": nn.Linear(1, 1)},),
        ({"network": nn.Linear(1, 1)}, 0),
        ({"network": nn.Linear(1, 1)}, "2"),
    ],
)
def test_bad_arguments(tmp_path, arguments):
    with pytest.raises(ValueError, match=r"`save_dict` must be objects by name|`every` must be .* at least 1, got"):
        ResumableCheckpoint(tmp_path / "c.pt", *arguments)


def test_load_weights_from_every_kind_of_file(tmp_path):
    trainer, saved = training(tmp_path / "ours.pt", max_epochs=1)
    CheckpointSaver(str(tmp_path), {"network": saved["network"]}, save_final=True, final_filename="monai.pt").attach(
        trainer
    )
    trainer.run()
    torch.save(saved["network"].state_dict(), tmp_path / "bare.pt")
    for name in ("ours.pt", "monai.pt", "bare.pt"):
        network = nn.Linear(1, 1)
        assert load_weights(network, tmp_path / name) is network
        torch.testing.assert_close(network.state_dict(), saved["network"].state_dict(), atol=0, rtol=0)
    torch.save({"model": saved["network"].state_dict()}, tmp_path / "other.pt")
    torch.testing.assert_close(load_weights(nn.Linear(1, 1), tmp_path / "other.pt", key="model").weight, network.weight)


def test_one_reading_serves_settings_and_weights(tmp_path, monkeypatch):
    trainer, saved = training(tmp_path / "c.pt", max_epochs=1, settings=SETTINGS)
    trainer.run()
    checkpoint, network = read_checkpoint(tmp_path / "c.pt"), nn.Linear(1, 1)
    monkeypatch.setattr(torch, "load", None)
    assert read_settings(tmp_path / "c.pt", checkpoint) == SETTINGS
    load_weights(network, tmp_path / "c.pt", checkpoint=checkpoint)
    torch.testing.assert_close(network.state_dict(), saved["network"].state_dict(), atol=0, rtol=0)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (
            nn.Linear(1, 2),
            r"must be a checkpoint of this Linear, got .* 2 entries differ, such as \['weight', 'bias'\]",
        ),
        (nn.Linear(1, 1, bias=False), r"1 entries differ, such as \['bias'\]"),
        (nn.Sequential(nn.Linear(1, 1)), r"must be a checkpoint of this Sequential, .* 4 entries differ"),
    ],
)
def test_weights_of_another_network_change_nothing(tmp_path, network, message):
    training(tmp_path / "c.pt", max_epochs=1)[0].run()
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(ValueError, match=rf"`.*c\.pt` .*{message}"):
        load_weights(network, tmp_path / "c.pt")
    torch.testing.assert_close(network.state_dict(), before)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"`.*none\.pt` must be a readable checkpoint"):
        load_weights(nn.Linear(1, 1), tmp_path / "none.pt")
    with pytest.raises(ValueError, match="must be a readable checkpoint"):
        load_weights(nn.Linear(1, 1), tmp_path)
