"""Consistency: what a mean of the network's earlier states finds in an image is learnt from a changed one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.utils import optional_import
from torch import Tensor, nn

from monai_infoaug._processes import unwrapped
from monai_infoaug._require import is_number, refusal, require_shares, require_truth
from monai_infoaug.engines._batch import entry
from monai_infoaug.engines.precision import half_precision
from monai_infoaug.transforms._sampling import sampling_density

EMAHandler, _ = optional_import("ignite.handlers", name="EMAHandler")

__all__ = ["MeanTeacher"]


class MeanTeacher:
    r"""Labels from a mean teacher: ``prepare_batch`` of MONAI's ``SupervisedTrainer``, and a handler.

    The teacher [1] is the exponential moving average of the network that is trained. It segments each image as it is,
    and the network learns what the teacher is sure of from the same image with other intensities [2, 3].

    Give it as ``prepare_batch``, or as ``prepare`` to :py:class:`SourceAndTarget`, and among ``train_handlers``, and
    its state to the checkpoint.

    Args:
        network: the one that is trained.
        decay: share of the teacher that an iteration leaves as it is, from 0 to 1, 1 excluded.
        threshold: probability from which on the teacher is sure, from 0 to 1; with ``overlapping`` classes of a class
            or of its absence.
        shares: how much the pixels of the low, medium and high tier count together, each at least 0; they sum to one.
            None: all pixels count alike.
        overlapping: whether a pixel may be of several classes, or of none.
        key: image (B, C, \*S) that the teacher segments.
        changed_key: the same with other intensities, at the same places.
        tiers_key: tiers (B, 1, \*S) of its pixels, for ``shares``.
        amp: whether the teacher computes in bfloat16.

    Attributes:
        teacher: the mean network.

    A batch becomes the changed image and the targets of ``ConsistencyLoss``: ``found``, the teacher's classes as one
    channel each (B, K, \*S), and ``weight`` (B, 1 or K, \*S), 0 where the teacher is not sure. Weights have a mean of
    one where it is sure everywhere.

    Raises:
        ValueError: for numbers out of range, naming them.
        KeyError: naming what a batch lacks.

    References:
        1. Tarvainen & Valpola, "Mean teachers are better role models", NeurIPS 2017, arXiv:1703.01780.
        2. Sohn et al., "FixMatch: simplifying semi-supervised learning with consistency and confidence", NeurIPS 2020,
           arXiv:2001.07685.
        3. Yang et al., "Revisiting weak-to-strong consistency in semi-supervised semantic segmentation", CVPR 2023,
           arXiv:2208.09910.
    """

    def __init__(
        self,
        network: nn.Module,
        decay: float = 0.99,
        threshold: float = 0.95,
        shares: Sequence[float] | None = None,
        overlapping: bool = False,
        key: str = "image",
        changed_key: str = "changed",
        tiers_key: str = "tiers",
        amp: bool = False,
    ) -> None:
        require_truth(overlapping=overlapping, amp=amp)
        if not is_number(decay, 0, 1) or decay == 1:
            raise refusal("decay", decay, "from 0 to 1, 1 excluded")
        if not is_number(threshold, 0, 1):
            raise refusal("threshold", threshold, "a probability")
        require_shares(shares)
        self.shares = None if shares is None else tuple(shares)
        self.average = EMAHandler(unwrapped(network), momentum=1 - decay)
        self.teacher = self.average.ema_model.eval()
        self.threshold, self.overlapping, self.amp = threshold, overlapping, amp
        self.key, self.changed_key, self.tiers_key = key, changed_key, tiers_key

    def attach(self, engine: Any) -> None:
        """Attach to a trainer: the teacher follows after each iteration."""
        self.average.attach(engine)

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
        image = entry(batch, self.key, device, non_blocking)
        with torch.no_grad(), half_precision(device, self.amp):
            logits = self.teacher(image).float()
        if self.overlapping:
            probabilities = logits.sigmoid()
            found, confidence = probabilities > 0.5, torch.maximum(probabilities, 1 - probabilities)
        else:
            confidence, classes = logits.softmax(1).max(1, keepdim=True)
            found = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, classes, True)
        weight = (confidence >= self.threshold).float()
        if self.shares is not None:
            weight = weight * self._of_tiers(entry(batch, self.tiers_key, device, non_blocking))
        changed = entry(batch, self.changed_key, device, non_blocking, **kwargs)
        return changed, {"found": found.float(), "weight": weight}

    def _of_tiers(self, tiers: Tensor) -> Tensor:
        """Weights (B, 1, *S) of pixels, of mean one, of which each tier that there is has its share."""
        flat = tiers.flatten()
        return (flat.numel() * sampling_density(flat, {"tiers": flat[None]}, self.shares, None)).view_as(tiers)

    def state_dict(self) -> dict[str, Tensor]:
        """The teacher."""
        return self.teacher.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take up the teacher of a training that was stopped."""
        self.teacher.load_state_dict(state)
