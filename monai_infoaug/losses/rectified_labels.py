"""Learning from a network's own segmentations: all pixels by what they are not, reliable ones by what they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from monai_infoaug._processes import distributed_mean
from monai_infoaug._require import is_number, refusal, require_ignore_index, require_truth
from monai_infoaug._settings import ShowsSettings
from monai_infoaug.losses.negative_learning import NegativeLearningLoss

__all__ = ["RectifiedLabelLoss"]


class RectifiedLabelLoss(ShowsSettings, nn.Module):
    """Negative learning from all found labels, plus cross-entropy with the reliable ones [1].

    Negative learning stands wrong labels, cross-entropy learns fast from right ones.

    Args:
        negative: loss of (logits, labels), :py:class:`NegativeLearningLoss` if None.
        weight: weight of the cross-entropy, at least 0, which leaves it out.
        ignore_index: label, in ``reliable``, of pixels that are not.
        over_processes: whether the means are those over the pixels of all processes, each of which must call the loss.

    Shape:
        - logits: (B, C, *S).
        - targets: mapping with ``found``, classes (B, 1, *S), and ``reliable``, the same with ``ignore_index``
          elsewhere.
        - output: scalar, each part a mean over its own pixels; without a reliable pixel the second part is 0.

    Raises:
        ValueError: for a negative weight; and see :py:class:`NegativeLearningLoss`.

    References:
        1. Luo, Chen and Tan, source-free adaptation by rectified pseudo-labels (PR-SFDA), arXiv:2106.12123.
    """

    def __init__(
        self,
        negative: Callable[[Tensor, Tensor], Tensor] | None = None,
        weight: float = 1.0,
        ignore_index: int = -1,
        over_processes: bool = False,
    ) -> None:
        super().__init__()
        require_truth(over_processes=over_processes)
        if not is_number(weight, 0):
            raise refusal("weight", weight, "at least 0")
        require_ignore_index(ignore_index)
        default = NegativeLearningLoss(ignore_index=ignore_index, over_processes=over_processes)
        self.negative = default if negative is None else negative
        self.weight, self.ignore_index, self.over_processes = weight, ignore_index, over_processes

    def set_epoch(self, epoch: int) -> None:
        """Tell the negative loss the epoch, if it draws by it.

        Args:
            epoch: number of the epoch, from 0 on.
        """
        if hasattr(self.negative, "set_epoch"):
            self.negative.set_epoch(epoch)

    def forward(self, logits: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        """Compare, see Shape.

        Args:
            logits: logits of the classes.
            targets: found and reliable labels.

        Returns:
            The loss, a scalar.
        """
        loss, reliable = self.negative(logits, targets["found"]), targets["reliable"][:, 0].long()
        if self.weight == 0:
            return loss
        with torch.autocast(logits.device.type, enabled=False):
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            total = cross_entropy(logits, reliable, ignore_index=self.ignore_index, reduction="sum")
        return loss + self.weight * distributed_mean(total, (reliable != self.ignore_index).sum(), self.over_processes)
