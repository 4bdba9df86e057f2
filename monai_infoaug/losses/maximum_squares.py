"""Confidence without labels: the maximum-squares loss."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from monai_infoaug._require import is_number, refusal, require_truth
from monai_infoaug._settings import ShowsSettings

__all__ = ["MaximumSquaresLoss"]


class MaximumSquaresLoss(ShowsSettings, nn.Module):
    """Minus half the squared probabilities [1]: it rewards confidence, and its gradient falls where there is little.

    Entropy, too, rewards confidence, but its gradient is largest where the network is all but sure, so that easy pixels
    drown the others.

    Args:
        image_wise: whether the pixels of rare classes weigh more. A pixel of an image of N pixels, n of which are
            found to be of its class, then weighs (N / n)**alpha instead of 1.
        alpha: exponent of that weight, from 0 to 1.

    Shape:
        - logits: (B, C, *S), at least two classes that exclude each other.
        - output: scalar from -1 / 2C (all pixels sure; without ``image_wise``) to -1 / 2C^2, the mean over classes and
          pixels, at least float32 under every autocast.

    Raises:
        ValueError: for ``alpha`` out of range, fewer than two classes, or no pixel.

    References:
        1. Chen et al., "Domain adaptation for semantic segmentation with maximum squares loss", ICCV 2019,
           arXiv:1909.13589.

    Example:
        >>> MaximumSquaresLoss()(torch.zeros(1, 4, 8, 8))  # -1 / 2C^2
        tensor(-0.0312)
    """

    def __init__(self, image_wise: bool = False, alpha: float = 0.2) -> None:
        super().__init__()
        require_truth(image_wise=image_wise)
        if not is_number(alpha, 0, 1):
            raise refusal("alpha", alpha, "from 0 to 1")
        self.image_wise, self.alpha = image_wise, alpha

    def forward(self, logits: Tensor) -> Tensor:
        """Measure confidence, see Shape.

        Args:
            logits: logits of the classes.

        Returns:
            The loss, a scalar.
        """
        shape = tuple(logits.shape)
        if len(shape) < 3 or shape[1] < 2:
            raise refusal("logits", f"shape {shape}", "of shape (B, C, *S), C > 1")
        if 0 in shape:
            raise refusal("logits", f"shape {shape}", "not empty")
        with torch.autocast(logits.device.type, enabled=False):
            squares = logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(1).flatten(2).square().mean(1)
            if self.image_wise:
                found = logits.argmax(1).flatten(1)
                counts = squares.new_zeros(shape[:2]).scatter_add_(1, found, torch.ones_like(squares))
                squares = squares * (squares.shape[1] / counts.gather(1, found)) ** self.alpha
            return -squares.mean() / 2
