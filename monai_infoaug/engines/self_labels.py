"""Rounds of learning from images without labels: an earlier state of the network says what they show."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from monai.utils import optional_import
from torch import Tensor, nn

from monai_infoaug._require import require
from monai_infoaug.engines._batch import entry
from monai_infoaug.engines.precision import half_precision
from monai_infoaug.losses import ReliablePixels

Events, _ = optional_import("ignite.engine", name="Events")

__all__ = ["SelfLabels"]


class SelfLabels:
    """Labels from the network of the round before: ``prepare_batch`` of MONAI's ``SupervisedTrainer``, and a handler.

    At the start of a round the network is copied. Until the next one the copy segments each image as it is, and the
    network learns these labels from the same image with other intensities.

    Give it as ``prepare_batch`` and among ``train_handlers``, and its state to the checkpoint, so that a round that was
    stopped goes on with its own copy.

    Args:
        network: the one that is trained.
        loader: batches of all images, whose reliable pixels are measured in at the start of a round.
        reliable: which pixels are.
        epochs: of a round.
        key: image (B, C, \\*S) that is segmented.
        changed_key: the same with other intensities, at the same places.
        tiers_key: tiers (B, 1, \\*S) of its pixels; None: ``reliable`` makes no distinction.
        amp: whether the copy computes in bfloat16.

    A batch becomes the changed image and the targets of ``RectifiedLabelLoss``: ``found``, classes (B, 1, \\*S), and
    ``reliable``, the same where they are.

    Raises:
        ValueError: for rounds without an epoch.
        KeyError: naming what a batch lacks.
    """

    def __init__(
        self,
        network: nn.Module,
        loader: Iterable[Mapping[str, Any]],
        reliable: ReliablePixels,
        epochs: int,
        key: str = "image",
        changed_key: str = "changed",
        tiers_key: str | None = None,
        amp: bool = False,
    ) -> None:
        require(lambda: epochs >= 1, "epochs", epochs, "at least 1")
        self.network, self.loader, self.reliable, self.epochs = network, loader, reliable, epochs
        self.key, self.changed_key, self.tiers_key, self.amp = key, changed_key, tiers_key, amp
        self.copy = copy.deepcopy(self._own()).eval().requires_grad_(False)
        self.measured = False

    def attach(self, engine: Any) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self.begin)

    def begin(self, engine: Any) -> None:
        """Begin a round, if one begins in this epoch."""
        new = (engine.state.epoch - 1) % self.epochs == 0
        if new:
            self.copy.load_state_dict(self._own().state_dict())
        if new or not self.measured:  # or the training goes on within a round
            self.reliable.reset()
            for batch in self.loader:
                self.reliable.update(*self._segment(batch, engine.state.device))
            self.measured = True

    def __call__(
        self, batch: Mapping[str, Any], device: torch.device, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        probabilities, tiers = self._segment(batch, device, non_blocking)
        found = probabilities.argmax(1, keepdim=True)
        changed = entry(batch, self.changed_key, device, non_blocking, **kwargs)
        return changed, {"found": found, "reliable": self.reliable(probabilities, tiers)}

    def _own(self) -> nn.Module:
        """The network inside of DistributedDataParallel or its like."""
        return getattr(self.network, "module", self.network)

    def _segment(
        self, batch: Mapping[str, Any], device: torch.device, non_blocking: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Probabilities by the copy, and tiers."""
        with torch.no_grad(), half_precision(device, self.amp):
            logits = self.copy(entry(batch, self.key, device, non_blocking))
        tiers = None if self.tiers_key is None else entry(batch, self.tiers_key, device, non_blocking)
        return logits.float().softmax(1), tiers

    def state_dict(self) -> dict[str, Tensor]:
        """The copy."""
        return self.copy.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take up the copy of a round that was stopped."""
        self.copy.load_state_dict(state)
        self.measured = False
