"""Tell data sets and samplers which epoch it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monai.utils import optional_import

from monai_infoaug._require import refusal

Events, _ = optional_import("ignite.engine", name="Events")

__all__ = ["EpochSetter"]


class EpochSetter:
    """Handler that calls ``set_epoch(epoch)`` at the start of every epoch, counted from 1.

    With a ``SeededDataset`` and a ``DistributedSampler`` an epoch's order and pairs are then the same whether the
    training ran through or was resumed.

    Args:
        targets: data sets and samplers with a ``set_epoch`` method.

    Raises:
        TypeError: for one without.
    """

    def __init__(self, targets: Sequence[Any]) -> None:
        for target in targets:
            if not hasattr(target, "set_epoch"):
                raise refusal("targets", type(target).__name__, "objects with `set_epoch`", TypeError)
        self.targets = targets

    def attach(self, engine: Any) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Any) -> None:
        """Tell the epoch."""
        for target in self.targets:
            target.set_epoch(engine.state.epoch)
