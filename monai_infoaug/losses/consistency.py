"""Labels of some images, and what a teacher finds in the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from monai_infoaug._require import is_number, refusal, require_truth
from monai_infoaug._settings import ShowsSettings

__all__ = ["ConsistencyLoss"]


class ConsistencyLoss(ShowsSettings, nn.Module):
    """A loss of labelled images, and weighted cross-entropy with what a teacher finds in images without labels [1].

    Args:
        supervised: loss of (logits, labels) for the labelled images.
        weight: weight of the cross-entropy, at least 0.
        overlapping: whether a pixel may be of several classes, or of none.

    Shape:
        - logits: (M + N, K, *S) of M images with labels and N without.
        - targets: mapping with ``label`` (M, ...), as ``supervised`` takes it; ``found`` (N, K, *S), 0 or 1; ``weight``
          (N, 1 or K, *S), of each pixel.
        - output: scalar; the cross-entropy is a mean over all pixels, so that it counts more as the teacher is sure of
          more.

    Raises:
        ValueError: for a negative weight, or other than M + N images.

    References:
        1. Sohn et al., "FixMatch: simplifying semi-supervised learning with consistency and confidence", NeurIPS 2020,
           arXiv:2001.07685.
    """

    def __init__(
        self, supervised: Callable[[Tensor, Tensor], Tensor], weight: float = 1.0, overlapping: bool = False
    ) -> None:
        super().__init__()
        require_truth(overlapping=overlapping)
        if not is_number(weight, 0):
            raise refusal("weight", weight, "at least 0")
        self.supervised, self.weight, self.overlapping = supervised, weight, overlapping

    def forward(self, logits: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        """Compare, see Shape.

        Args:
            logits: logits of all images.
            targets: labels, and what the teacher finds.

        Returns:
            The loss, a scalar.
        """
        label, found = targets["label"], targets["found"]
        expected = len(label) + len(found)
        if len(logits) != expected:
            raise refusal("logits", f"{len(logits)} images", f"of {expected}, as the targets")
        loss, others = self.supervised(logits[: len(label)], label), logits[len(label) :]
        with torch.autocast(logits.device.type, enabled=False):
            others = others.to(torch.promote_types(others.dtype, torch.float32))
            if self.overlapping:
                entropy = binary_cross_entropy_with_logits(others, found.to(others), reduction="none")
            else:
                entropy = -(found * others.log_softmax(1)).sum(1, keepdim=True)
            return loss + self.weight * (targets["weight"] * entropy).mean()
