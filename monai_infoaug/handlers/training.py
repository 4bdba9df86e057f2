"""The handlers that every training of the example bundles has."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from monai.handlers import LrScheduleHandler, TensorBoardStatsHandler
from monai.utils import optional_import

from monai_infoaug._processes import rank
from monai_infoaug.handlers.checkpoint import ResumableCheckpoint
from monai_infoaug.handlers.epoch import EpochSetter
from monai_infoaug.handlers.progress import ConsoleProgress

Events, _ = optional_import("ignite.engine", name="Events")

__all__ = ["RaiseOnNonFiniteLoss", "training_handlers"]


def _loss(output: Mapping[str, Any]) -> float:
    return output["loss"].item()


class RaiseOnNonFiniteLoss:
    """Handler that ends a training whose loss is NaN or infinite with an error; its last checkpoint is as it was.

    Args:
        name: name of the training, for the message.

    Raises:
        FloatingPointError: in the iteration that brings such a loss.
    """

    def __init__(self, name: str = "train") -> None:
        self.name = name

    def attach(self, engine: Any) -> None:
        """Attach to a trainer with ``decollate=False``."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Any) -> None:
        """Look at the loss of an iteration."""
        loss, state = _loss(engine.state.output), engine.state
        if not math.isfinite(loss):
            where = f"iteration {state.iteration} (epoch {state.epoch})"
            raise FloatingPointError(f"The loss of `{self.name}` must be finite, got {loss} in {where}.")


class _WorkersLeave:
    """Handler that ends a loader's workers with the training: in a bundle of several stages they would pile up."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def attach(self, engine: Any) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Any) -> None:  # noqa: ARG002
        self.loader._iterator = None  # which owns them; PyTorch has no public name for it


def training_handlers(
    name: str,
    loader: Any,
    states: Mapping[str, Any],
    checkpoint: str | os.PathLike,
    settings: Mapping[str, Any] | None = None,
    summary_writer: Any = None,
    seeded: Sequence[Any] = (),
) -> list[Any]:
    """Handlers that set the epoch, change the learning rate, show and check the loss, and save and resume the training.

    The workers of the loader end with the training. Of several processes the first one alone shows the loss, see
    :py:class:`ConsoleProgress`.

    Args:
        name: name of the training, as the console and TensorBoard show it.
        loader: batches of :py:func:`monai_infoaug.data.seeded_loader`.
        states: what is saved, by name, see :py:class:`ResumableCheckpoint`: the network, the optimizer and
            ``"lr_scheduler"``, which is stepped after each iteration.
        checkpoint: file of the checkpoint.
        settings: plain values that are kept in the checkpoint.
        summary_writer: TensorBoard's ``SummaryWriter``; None: nothing is written.
        seeded: what else is told the epoch with ``set_epoch``, such as ``DrawnPixels``.

    Returns:
        Handlers for ``train_handlers`` of a MONAI trainer with ``decollate=False``, the one that resumes last.

    Raises:
        KeyError: for ``states`` without a ``"lr_scheduler"``.
        ValueError: for ``states`` or ``settings`` that cannot be saved, see :py:class:`ResumableCheckpoint`.
    """
    handlers = [
        EpochSetter([loader.dataset, loader.sampler, *seeded]),
        LrScheduleHandler(states["lr_scheduler"], print_lr=False, epoch_level=False),
        RaiseOnNonFiniteLoss(name),
        _WorkersLeave(loader),
        ConsoleProgress(name, _loss),
    ]
    if rank() == 0 and summary_writer is not None:
        handlers.append(TensorBoardStatsHandler(summary_writer, output_transform=_loss, tag_name=f"{name}_loss"))
    return [*handlers, ResumableCheckpoint(checkpoint, states, settings=settings)]
