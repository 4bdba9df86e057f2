"""Whether the embeddings of an image's pixels collapse."""

from __future__ import annotations

from typing import Any

import torch
from monai.metrics import CumulativeIterationMetric
from monai.utils import convert_to_tensor
from torch import Tensor

from monai_infoaug._require import all_finite, is_count, refusal

__all__ = ["PixelEmbeddingCollapseMetric"]


class PixelEmbeddingCollapseMetric(CumulativeIterationMetric):
    """Score by effective rank [1] of the pixels of each image, as a metric that MONAI's engines take.

    That of MONAI's ``EmbeddingCollapseMetric``, which is new in its version 1.6. It is in [0, 1]: 0 where the pixels'
    embeddings fill all dimensions alike, 1 where they all are the same. ``aggregate`` is its mean over images.

    Args:
        channel_dim: dimension of the F channels: 1 for maps (B, F, *S), -1 for sampled points (B, N, F).

    Shape:
        - y_pred: (B, F, *S) or (B, N, F), at least two pixels; ``y`` is not looked at.
        - returned by the call: scores (B, 1).

    Raises:
        ValueError: for too few dimensions or pixels, NaN or inf.

    References:
        1. Roy and Vetterli, "The effective rank: a measure of effective dimensionality", EUSIPCO 2007.

    Example:
        >>> metric = PixelEmbeddingCollapseMetric(channel_dim=-1)
        >>> scores = metric(torch.eye(8)[:1] * torch.arange(1.0, 9)[:, None, None] + torch.zeros(8, 8, 8))
        >>> round(metric.aggregate().item(), 3)
        1.0
    """

    def __init__(self, channel_dim: int = 1) -> None:
        super().__init__()
        if not is_count(channel_dim, -1) or channel_dim not in (1, -1):
            raise refusal("channel_dim", channel_dim, "1 for (B, F, *S) or -1 for (B, N, F)")
        self.channel_dim = channel_dim

    def _compute_tensor(self, y_pred: Tensor, y: Tensor | None = None, **kwargs: Any) -> Tensor:  # noqa: ARG002
        if y_pred.ndim < 3:
            raise refusal("y_pred", f"shape {tuple(y_pred.shape)}", "of shape (B, F, *S) or (B, N, F)")
        images = convert_to_tensor(y_pred, track_meta=False).movedim(self.channel_dim, -1).flatten(1, -2).float()
        if images.shape[1] < 2:
            raise refusal("y_pred", f"shape {tuple(y_pred.shape)}", "of at least two pixels")
        if not all_finite(images):
            raise refusal("y_pred", "NaN or infinity", "finite")
        values = torch.linalg.svdvals(images - images.mean(1, keepdim=True))
        shares = values / values.sum(1, keepdim=True).clamp_min(torch.finfo(values.dtype).tiny)
        rank = torch.special.entr(shares).sum(1, keepdim=True).exp()
        # rows about their mean sum to zero, hence have a rank of one less
        scores: Tensor = 1 - rank / min(images.shape[1] - 1, images.shape[2])
        return scores.clamp(0, 1).masked_fill(~values.any(1, keepdim=True), 1.0)

    def aggregate(self) -> Tensor:
        """Mean score over all images of all processes.

        Returns:
            A scalar.

        Raises:
            ValueError: before any image.
        """
        scores: Tensor | None = self.get_buffer()  # type: ignore[no-untyped-call]
        if scores is None:
            raise refusal("metric", "no data", "called with embeddings before it is aggregated")
        return scores.mean()
