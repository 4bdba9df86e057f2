"""Learning from two domains at once: images with labels of one, images without of the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from monai.utils import optional_import
from torch import Tensor

from monai_infoaug.engines._batch import entry

Events, _ = optional_import("ignite.engine", name="Events")

__all__ = ["SourceAndTarget"]


class SourceAndTarget:
    """Labelled images before those of each batch: ``prepare_batch`` of MONAI's ``SupervisedTrainer``, and a handler.

    Give it as ``prepare_batch`` and among ``train_handlers``, after the one that tells ``loader`` the epoch, so that
    both domains are seen in the same order by a training that ran through and one that was stopped.

    Args:
        loader: batches with labels, as many an epoch as the trainer's, which are those of the other domain.
        prepare: ``prepare_batch`` of the trainer's batches, such as :py:class:`SelfLabels`, with a mapping as target.
        key, label_key: image (B, C, \\*S) and label (B, 1, \\*S) in ``loader``.
        tiers_key: tiers (B, 1, \\*S) in both; None: there are none.

    A batch becomes the images of both domains, those with labels first, and the targets of ``prepare`` with ``label``
    for the first ones and, if asked for, ``tiers`` for all.

    Raises:
        KeyError: naming what a batch lacks.
        RuntimeError: if ``loader`` has fewer batches an epoch than the trainer's.
    """

    def __init__(
        self,
        loader: Iterable[Mapping[str, Any]],
        prepare: Callable[..., tuple[Tensor, Mapping[str, Tensor]]],
        key: str = "image",
        label_key: str = "label",
        tiers_key: str | None = None,
    ) -> None:
        self.loader, self.prepare = loader, prepare
        self.key, self.label_key, self.tiers_key = key, label_key, tiers_key
        self.batches: Iterator[Mapping[str, Any]] = iter(())

    def attach(self, engine: Any) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self.begin)

    def begin(self, engine: Any = None) -> None:
        """Begin an epoch of the labelled images."""
        self.batches = iter(self.loader)

    def __call__(
        self, batch: Mapping[str, Any], device: torch.device, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        images, targets = self.prepare(batch, device, non_blocking, **kwargs)
        labelled = next(self.batches, None)
        if labelled is None:
            raise RuntimeError("`loader` must have as many batches an epoch as that of the trainer, got fewer.")
        targets = dict(targets) | {"label": entry(labelled, self.label_key, device, non_blocking)}
        if self.tiers_key is not None:
            tiers = [entry(each, self.tiers_key, device, non_blocking) for each in (labelled, batch)]
            targets["tiers"] = torch.cat(tiers)
        return torch.cat([entry(labelled, self.key, device, non_blocking, **kwargs), images]), targets
