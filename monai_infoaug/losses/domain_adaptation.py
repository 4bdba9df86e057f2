"""Learning in two domains: labels in one, a network's own segmentations in the other, contrast of patches in both."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from monai_infoaug._require import is_number, refusal
from monai_infoaug._settings import ShowsSettings
from monai_infoaug.losses.patch_contrast import PatchContrastLoss

__all__ = ["DomainAdaptationLoss"]


class DomainAdaptationLoss(ShowsSettings, nn.Module):
    """Labels of the source, own segmentations of the target, and contrast of patches within and across both [1].

    Args:
        supervised: loss of (logits, labels) for the source.
        own: loss of (logits, targets) for the target, such as ``RectifiedLabelLoss``.
        contrast: contrast of patches.
        own_weight: weight of ``own`` against ``supervised``, at least 0, which leaves the term out.
        contrast_weight: weight of ``contrast``, likewise.

    Shape:
        - output: a pair of logits (M + N, C, *S) and a list of one map of embeddings, of M source images and N
          target images.
        - targets: mapping with ``label`` (M, 1, *S); ``found`` (N, 1, *S), the segmentations that stand for labels
          in the contrast; ``tiers`` (M + N, 1, *S) if the contrast asks for them; and what ``own`` needs.
        - returned: scalar.

    Raises:
        ValueError: for a negative weight, or other than M + N images.

    References:
        1. Liu et al., "Patch-wise contrastive learning for domain adaptation in semantic segmentation",
           arXiv:2104.11056.
    """

    def __init__(
        self,
        supervised: Callable[[Tensor, Tensor], Tensor],
        own: Callable[[Tensor, Mapping[str, Tensor]], Tensor],
        contrast: PatchContrastLoss,
        own_weight: float = 1.0,
        contrast_weight: float = 0.1,
    ) -> None:
        super().__init__()
        weights = (own_weight, contrast_weight)
        if not all(is_number(weight, 0) for weight in weights):
            raise refusal("own_weight and contrast_weight", weights, "at least 0")
        self.supervised, self.own, self.contrast = supervised, own, contrast
        self.own_weight, self.contrast_weight = weights

    def set_epoch(self, epoch: int) -> None:
        """Tell the parts that draw by it the epoch.

        Args:
            epoch: number of the epoch, from 0 on.
        """
        for part in (self.own, self.contrast):
            if hasattr(part, "set_epoch"):
                part.set_epoch(epoch)

    def forward(self, output: tuple[Tensor, list[Tensor]], targets: Mapping[str, Tensor]) -> Tensor:
        """Compare, see Shape.

        Args:
            output: logits and embeddings of the images of both domains.
            targets: labels of the source, and what the network finds in the target.

        Returns:
            The loss, a scalar.
        """
        (logits, (embeddings,)), label, found = output, targets["label"], targets["found"]
        expected = len(label) + len(found)
        if len(logits) != expected:
            raise refusal("output", f"{len(logits)} images", f"of {expected}, as the targets")
        loss = self.supervised(logits[: len(label)], label)
        if self.own_weight:
            loss = loss + self.own_weight * self.own(logits[len(label) :], targets)
        if self.contrast_weight:
            labels = torch.cat([label.long(), found.long()])
            loss = loss + self.contrast_weight * self.contrast(embeddings, labels, targets.get("tiers"))
        return loss
