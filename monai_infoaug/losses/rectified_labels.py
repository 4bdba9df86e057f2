"""Learning from a network's own segmentations: all pixels by what they are not, reliable ones by what they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from monai_infoaug.losses.negative_learning import NegativeLearningLoss

__all__ = ["RectifiedLabelLoss"]


class RectifiedLabelLoss(nn.Module):
    """Negative learning from all found labels, plus cross-entropy with the reliable ones [1].

    Negative learning stands wrong labels, cross-entropy learns fast from right ones.

    Args:
        negative: loss of (logits, labels), :py:class:`NegativeLearningLoss` if None.
        weight: of the cross-entropy.
        ignore_index: in ``reliable``, of pixels that are not.

    Shape:
        - logits: (B, C, \\*S).
        - targets: mapping with ``found``, classes (B, 1, \\*S), and ``reliable``, the same with ``ignore_index``
          elsewhere.
        - output: scalar, each part a mean over its own pixels; without a reliable pixel the second part is 0.

    References:
        1. Luo, Chen and Tan, source-free adaptation by rectified pseudo-labels (PR-SFDA), arXiv:2106.12123.
    """

    def __init__(
        self, negative: Callable[[Tensor, Tensor], Tensor] | None = None, weight: float = 1.0, ignore_index: int = -1
    ) -> None:
        super().__init__()
        self.negative = NegativeLearningLoss(ignore_index=ignore_index) if negative is None else negative
        self.weight, self.ignore_index = weight, ignore_index

    def set_epoch(self, epoch: int) -> None:
        """Tell the negative loss the epoch, if it draws by it."""
        getattr(self.negative, "set_epoch", int)(epoch)

    def forward(self, logits: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        """Compare."""
        loss, reliable = self.negative(logits, targets["found"]), targets["reliable"][:, 0].long()
        if self.weight == 0 or not bool((reliable != self.ignore_index).any()):
            return loss
        with torch.autocast(logits.device.type, enabled=False):
            positive = cross_entropy(logits.float(), reliable, ignore_index=self.ignore_index)
        return loss + self.weight * positive
