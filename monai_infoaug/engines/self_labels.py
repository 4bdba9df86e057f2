"""Rounds of learning from images without labels: an earlier state of the network says what they show."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from typing import Any

import torch
from monai.utils import optional_import
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad

from monai_infoaug._processes import unwrapped
from monai_infoaug._require import is_count, is_number, refusal, require_truth
from monai_infoaug.engines._batch import entry
from monai_infoaug.engines.precision import half_precision
from monai_infoaug.samplers import DistributionAlignment, ReliablePixels

Events, _ = optional_import("ignite.engine", name="Events")

__all__ = ["SelfTrainingLabels"]


class SelfTrainingLabels:
    r"""Labels from the network of the round before: ``prepare_batch`` of MONAI's ``SupervisedTrainer``, and a handler.

    At the start of a round the network is copied. Until the next one the copy segments each image as it is, and the
    network learns these labels from the same image with other intensities.

    Give it as ``prepare_batch`` and among ``train_handlers``, and its state to the checkpoint, so that a round that was
    stopped goes on with its own copy.

    Args:
        network: the one that is trained.
        loader: batches of all images, whose reliable pixels are measured in at the start of a round.
        reliable: which pixels are reliable.
        epochs: number of epochs of a round.
        key: image (B, C, \*S) that is segmented.
        changed_key: the same with other intensities, at the same places.
        tiers_key: tiers (B, 1, \*S) of its pixels; None: ``reliable`` makes no distinction.
        known_key: what is known of the classes (B, 1, \*S), the class plus 1 or 0, see
            :py:class:`monai_infoaug.transforms.PointLabels`; it stands above what the copy finds. None: nothing.
        shown_key: which classes (B, K) an image may show; others are not found in it. None: all.
        scales: sizes, relative to its own, at which the copy segments an image; the mean of the log-probabilities
            decides. Shrunk images are padded to their old size by repeating the border. For sites with objects of
            other sizes than those that the network knows; give such labels one round, since their errors add up.
        alignment: alignment of how often the copy finds each class, before the reliable pixels are chosen; None: none.
        amp: whether the copy computes in bfloat16.

    A batch becomes the changed image and the targets of ``RectifiedLabelLoss``: ``found``, classes (B, 1, \*S), and
    ``reliable``, the same where they are.

    Raises:
        ValueError: for rounds without an epoch, or scales that are none or no numbers above 0.
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
        known_key: str | None = None,
        shown_key: str | None = None,
        scales: Sequence[float] = (1.0,),
        alignment: DistributionAlignment | None = None,
        amp: bool = False,
    ) -> None:
        require_truth(amp=amp)
        if not is_count(epochs, 1):
            raise refusal("epochs", epochs, "a whole number of at least 1")
        if not isinstance(scales, Sequence) or not scales or not all(is_number(s) and s > 0 for s in scales):
            raise refusal("scales", scales, "numbers above 0")
        self.network, self.loader, self.reliable, self.epochs = network, loader, reliable, epochs
        self.key, self.changed_key, self.tiers_key = key, changed_key, tiers_key
        self.known_key, self.shown_key = known_key, shown_key
        self.scales, self.alignment, self.amp = tuple(scales), alignment, amp
        self.copy = copy.deepcopy(unwrapped(network)).eval().requires_grad_(False)
        self.measured = False

    def attach(self, engine: Any) -> None:
        """Attach to a trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self.begin)

    def begin(self, engine: Any) -> None:
        """Begin a round, if one begins in this epoch."""
        new = (engine.state.epoch - 1) % self.epochs == 0
        if new:
            self.copy.load_state_dict(unwrapped(self.network).state_dict())
        if new or not self.measured:  # or the training goes on within a round
            if self.alignment is not None:  # a pass of its own: all probabilities may be too many to keep
                self.alignment.reset()
                for batch in self.loader:
                    self.alignment.update(self._found(batch, engine.state.device))
            self.reliable.reset()
            for batch in self.loader:
                self.reliable.update(*self._segment(batch, engine.state.device))
            self.measured = True

    def __call__(
        self, batch: Mapping[str, Any], device: torch.device, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Segment a batch.

        Args:
            batch: values by name.
            device: where the tensors go.
            non_blocking: see ``torch.Tensor.to``.
            kwargs: further arguments of ``torch.Tensor.to``, for the images.

        Returns:
            The changed images and the targets.
        """
        probabilities, tiers = self._segment(batch, device, non_blocking)
        targets = {"found": probabilities.argmax(1, keepdim=True), "reliable": self.reliable(probabilities, tiers)}
        if self.known_key is not None:
            known = entry(batch, self.known_key, device, non_blocking).long()
            targets = {name: torch.where(known > 0, known - 1, labels) for name, labels in targets.items()}
        return entry(batch, self.changed_key, device, non_blocking, **kwargs), targets

    def _segment(
        self, batch: Mapping[str, Any], device: torch.device, non_blocking: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Probabilities to learn from, and tiers."""
        found = self._found(batch, device, non_blocking)
        tiers = None if self.tiers_key is None else entry(batch, self.tiers_key, device, non_blocking)
        return found if self.alignment is None else self.alignment(found), tiers

    def _found(self, batch: Mapping[str, Any], device: torch.device, non_blocking: bool = False) -> Tensor:
        """Probabilities by the copy."""
        image = entry(batch, self.key, device, non_blocking)
        with torch.no_grad(), half_precision(device, self.amp):
            logits = reduce(torch.add, (self._logits(image, scale) for scale in self.scales))
        if self.shown_key is not None:
            shown = entry(batch, self.shown_key, device, non_blocking).bool()
            logits = logits.masked_fill(~shown.view(*shown.shape, *[1] * (logits.ndim - 2)), -torch.inf)
        return (logits / len(self.scales)).softmax(1)

    def _logits(self, image: Tensor, scale: float) -> Tensor:
        """Log-probabilities of the image at a scale, in its own size."""
        mode, size = ("bilinear", "trilinear")[image.ndim - 4], image.shape[2:]
        scaled = [max(1, round(scale * length)) for length in size]
        rests = [max(0, length - short) for length, short in zip(size, scaled, strict=True)]
        before = [rest // 2 for rest in rests]
        widths = [width for rest, half in zip(rests, before, strict=True) for width in (rest - half, half)]
        if scale != 1:
            image = pad(interpolate(image, scaled, mode=mode), widths[::-1], mode="replicate")
        found = self.copy(image).float().log_softmax(1)
        for axis, (start, length) in enumerate(zip(before, scaled, strict=True), 2):
            found = found.narrow(axis, start, length)
        return found if scale == 1 else interpolate(found, size, mode=mode)

    def state_dict(self) -> dict[str, Tensor]:
        """The copy."""
        return self.copy.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take up the copy of a round that was stopped."""
        self.copy.load_state_dict(state)
        self.measured = False
