"""How many of its dimensions an embedding uses."""

from __future__ import annotations

import torch
from monai.metrics import CumulativeIterationMetric
from monai.utils import convert_to_tensor
from torch import Tensor

from monai_infoaug._require import require

__all__ = ["EmbeddingCollapseMetric"]


class EmbeddingCollapseMetric(CumulativeIterationMetric):
    """Effective rank of the embeddings of all pixels, RankMe [1]: near 1 when collapsed, at most F.

    The exponential of the entropy of the singular values, divided by their sum, of the matrix whose rows are all
    embeddings seen since ``reset``; as in [1] the mean is not subtracted. Embeddings that are all the same give 1,
    embeddings that fill every direction alike give F. The Gram matrix of each batch is summed in double precision, so
    that the memory is F x F however many pixels come.

    Args:
        channel_dim: dimension of the F channels: 1 for maps (B, F, *S), -1 for sampled points (B, N, F).
        relative: divide by F.

    Shape:
        - y_pred: (B, F, *S) or (B, N, F), one level of a network at a time; ``y`` is not looked at.
        - returned by the call: Gram matrices (1, F, F).

    Raises:
        ValueError: for too few dimensions, NaN or inf.

    References:
        1. Garrido et al., "RankMe: assessing the downstream performance of pretrained self-supervised representations
           by their rank", ICML 2023.

    Example:
        >>> metric = EmbeddingCollapseMetric()
        >>> gram = metric(torch.ones(2, 8, 16, 16))
        >>> round(metric.aggregate().item(), 3)
        1.0
    """

    def __init__(self, channel_dim: int = 1, relative: bool = False) -> None:
        super().__init__()
        require(channel_dim in (1, -1), "channel_dim", channel_dim, "1 for (B, F, *S) or -1 for (B, N, F)")
        self.channel_dim, self.relative = channel_dim, relative

    def _compute_tensor(self, y_pred: Tensor, y: Tensor | None = None) -> Tensor:
        require(y_pred.ndim >= 3, "y_pred", f"shape {tuple(y_pred.shape)}", "of shape (B, F, *S) or (B, N, F)")
        rows = convert_to_tensor(y_pred, track_meta=False).movedim(self.channel_dim, -1).flatten(0, -2).double()
        require(bool(rows.isfinite().all()), "y_pred", "NaN or infinity", "finite")
        return (rows.mT @ rows)[None]

    def extend(self, *data: Tensor) -> None:
        """Add Gram matrices (B, F, F) to the sum, in place of the list that MONAI's metrics keep."""
        total = data[0].sum(0)
        if self._buffers is not None:
            total = total + self._buffers[0][0]
            self._buffers = None
        self.append(total)

    def aggregate(self) -> Tensor:
        """Effective rank over all processes."""
        grams = self.get_buffer()
        require(grams is not None, "metric", "no data", "called with embeddings before it is aggregated")
        singular_values = torch.linalg.eigvalsh(grams.sum(0)).clamp_min(0).sqrt()
        shares = singular_values / singular_values.sum().clamp_min(torch.finfo(grams.dtype).tiny)
        rank = torch.special.entr(shares).sum().exp()
        return rank / len(shares) if self.relative else rank
