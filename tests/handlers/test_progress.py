from __future__ import annotations

import re

import pytest

pytest.importorskip("ignite", reason="engines need ignite")
from ignite.engine import Engine, Events

from monai_infoaug.handlers import ConsoleProgress, progress


class Clock:
    """Each iteration takes ten seconds."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def engine_with(handler: ConsoleProgress, clock: Clock) -> Engine:
    def step(engine, batch):
        clock.now += 10
        engine.state.metrics["dice"] = batch / 10
        return {"loss": batch}

    engine = Engine(step)
    handler.attach(engine)
    return engine


def test_a_training_says_a_line_an_epoch(clock, capsys):
    engine_with(ConsoleProgress("train", lambda output: output["loss"]), clock).run([1.0, 2.0, 6.0], max_epochs=5)
    said = capsys.readouterr()
    left = ["2 min", "2 min", "1 min", "30 s"]
    lines = [f"train: epoch {i}/5, loss 3, dice 0.6, {time} left" for i, time in enumerate(left, 1)]
    assert said.out.splitlines() == [*lines, "train: epoch 5/5, loss 3, dice 0.6"]
    assert said.err == ""  # a bar is for terminals


def test_the_time_left_is_by_the_epochs_of_this_run(clock, capsys):
    engine = engine_with(ConsoleProgress("train", lambda output: output["loss"]), clock)

    @engine.on(Events.STARTED)
    def resume(engine):
        engine.state.epoch = 7

    engine.run([1.0, 2.0], max_epochs=10)
    assert capsys.readouterr().out.splitlines()[0] == "train: epoch 8/10, loss 1.5, dice 0.2, 40 s left"


@pytest.mark.parametrize(("number", "lines"), [(3, 3), (10, 10), (57, 10)])
def test_an_inference_says_ten_lines_at_most(clock, capsys, number, lines):
    engine_with(ConsoleProgress("detect"), clock).run(range(number))
    said = capsys.readouterr().out.splitlines()
    assert len(said) == lines
    assert all(re.fullmatch(rf"detect: \d+/{number}", line) for line in said)
    assert said[-1] == f"detect: {number}/{number}"


def test_on_a_terminal_there_is_a_bar(clock, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    engine_with(ConsoleProgress("detect"), clock).run(range(20))
    said = capsys.readouterr()
    assert "19/20" in said.err
    assert said.out == ""
