"""How far a training or an inference is, for whoever waits for it or reads its log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from statistics import fmean
from typing import Any

from monai.utils import optional_import

from monai_infoaug._console import say
from monai_infoaug._processes import rank

Events, _ = optional_import("ignite.engine", name="Events")
ProgressBar, _ = optional_import("ignite.handlers", name="ProgressBar")

__all__ = ["ConsoleProgress"]

LINES = 10  # of an inference in a log


class ConsoleProgress:
    """Handler that shows how far an engine is: by a bar on a terminal, and by lines that a log keeps.

    A training says a line an epoch, ``train: epoch 3/55, loss 5.12, 12 min left``, with the mean of the loss and with
    metrics where it has some; the time left is by the epochs of this run. What has no loss, such as an inference, says
    ten lines in all, ``detect: 15/150``, and none on a terminal, where the bar tells.

    Args:
        name: what the lines and the bar begin with.
        loss: takes the output of an iteration to its loss. None: there is none.
    """

    def __init__(self, name: str, loss: Callable[[Any], float] | None = None) -> None:
        self.name, self.loss = name, loss
        self.losses: list[float] = []  # of the epoch
        self.starts: list[float] = []  # seconds, of the epochs of this run

    def attach(self, engine: Any) -> None:
        """Attach to an engine; of several processes the first one alone tells."""
        if rank() > 0:
            return
        ProgressBar(desc=self.name, disable=None).attach(engine)  # None: unless it is on a terminal
        if self.loss is None:
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._tell_iteration)
            return
        loss = self.loss
        engine.add_event_handler(Events.STARTED, self.starts.clear)
        engine.add_event_handler(Events.EPOCH_STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, lambda: self.losses.append(loss(engine.state.output)))
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._tell_epoch)

    def _tell_iteration(self, engine: Any) -> None:
        done, total = engine.state.iteration, engine.state.epoch_length
        if done * LINES // total > (done - 1) * LINES // total and not sys.stderr.isatty():
            say(f"{self.name}: {done}/{total}")

    def _begin(self) -> None:
        self.losses.clear()
        self.starts.append(time.perf_counter())

    def _tell_epoch(self, engine: Any) -> None:
        state = engine.state
        parts = [f"epoch {state.epoch}/{state.max_epochs}", f"loss {fmean(self.losses):.4g}"]
        parts += [f"{name} {value:.4g}" for name, value in state.metrics.items() if isinstance(value, float)]
        an_epoch = (time.perf_counter() - self.starts[0]) / len(self.starts)
        if state.epoch < state.max_epochs:
            parts.append(f"{_duration(an_epoch * (state.max_epochs - state.epoch))} left")
        say(f"{self.name}: {', '.join(parts)}")


def _duration(seconds: float) -> str:
    """Seconds in words.

    Example:
        >>> [_duration(seconds) for seconds in (8.4, 61, 7300)]
        ['8 s', '1 min', '2 h 2 min']
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
