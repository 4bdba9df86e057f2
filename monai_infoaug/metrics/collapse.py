"""Whether the embeddings of an image's pixels collapse."""

from __future__ import annotations

from typing import Any

import torch
from monai.metrics import CumulativeIterationMetric, EmbeddingCollapseMetric
from monai.utils import convert_to_tensor
from torch import Tensor

from monai_infoaug._require import all_finite, is_count, refusal

__all__ = ["PixelEmbeddingCollapseMetric"]


class PixelEmbeddingCollapseMetric(CumulativeIterationMetric):
    """MONAI's ``EmbeddingCollapseMetric`` of the pixels of each image, as a metric that MONAI's engines take.

    The score by effective rank is in [0, 1]: 0 where the pixels' embeddings fill all dimensions alike, 1 where they all
    lie on a line. ``aggregate`` is its mean over images.

    Args:
        channel_dim: dimension of the F channels: 1 for maps (B, F, *S), -1 for sampled points (B, N, F).

    Shape:
        - y_pred: (B, F, *S) or (B, N, F), at least two pixels; ``y`` is not looked at.
        - returned by the call: scores (B, 1).

    Raises:
        ValueError: for too few dimensions or pixels, NaN or inf.

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
        self.collapse = EmbeddingCollapseMetric(include_indicators=["effective_rank"])

    def _compute_tensor(self, y_pred: Tensor, y: Tensor | None = None, **kwargs: Any) -> Tensor:  # noqa: ARG002
        if y_pred.ndim < 3:
            raise refusal("y_pred", f"shape {tuple(y_pred.shape)}", "of shape (B, F, *S) or (B, N, F)")
        images = convert_to_tensor(y_pred, track_meta=False).movedim(self.channel_dim, -1).flatten(1, -2).float()
        if images.shape[1] < 2:
            raise refusal("y_pred", f"shape {tuple(y_pred.shape)}", "of at least two pixels")
        if not all_finite(images):
            raise refusal("y_pred", "NaN or infinity", "finite")
        scores = (self.collapse(pixels)["effective_rank_score"] for pixels in images)
        return torch.stack([torch.as_tensor(score) for score in scores])[:, None]

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
