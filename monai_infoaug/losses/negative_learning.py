"""Learning from labels that may be wrong: which class a pixel is not."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from monai_infoaug._processes import distributed_mean, item_generators
from monai_infoaug._require import is_count, is_one_of, refusal, require_ignore_index, require_truth
from monai_infoaug._settings import ShowsSettings

__all__ = ["NegativeLearningLoss"]


class NegativeLearningLoss(ShowsSettings, nn.Module):
    """-log(1 - p) of a class that a pixel is said not to be [1]: a wrong label seldom makes a wrong complement.

    The complement is drawn anew in each call, among the classes other than the label:

    - "uniform": each with the same probability;
    - "rank": with a probability that grows linearly from the most to the least probable one, so that classes the
      network takes for possible are seldom denied. This is ours: how [2] draws by rank is not published where we could
      read.

    Args:
        sampling: how the complement is drawn, "uniform" or "rank".
        ignore_index: label of pixels that have no part.
        seed: seed of the draws, a non-negative integer; with ``set_epoch`` at the start of each epoch, a training that
            was stopped and goes on draws as one that ran through.
        over_processes: whether the mean is that over the pixels of all processes, each of which must call the loss.

    Shape:
        - logits: (B, C, *S), at least two classes that exclude each other.
        - labels: (B, 1, *S), classes from 0 to C - 1, or ``ignore_index``.
        - output: scalar, mean over the pixels that have a part, at least float32 under every autocast; 0 without any.

    Raises:
        ValueError: for settings out of range, shapes that do not fit each other, or a label out of range.

    References:
        1. Kim et al., "NLNL: negative learning for noisy labels", ICCV 2019, arXiv:1908.07387.
        2. Luo, Chen and Tan, source-free adaptation by rectified pseudo-labels (PR-SFDA), arXiv:2106.12123.

    Example:
        >>> logits, labels = torch.zeros(1, 4, 8, 8), torch.zeros(1, 1, 8, 8)
        >>> NegativeLearningLoss()(logits, labels)  # -log(1 - 1/4)
        tensor(0.2877)
    """

    def __init__(
        self, sampling: str = "uniform", ignore_index: int = -1, seed: int = 0, over_processes: bool = False
    ) -> None:
        super().__init__()
        require_truth(over_processes=over_processes)
        if not is_one_of(sampling, ("uniform", "rank")):
            raise refusal("sampling", repr(sampling), "'uniform' or 'rank'")
        if not is_count(seed):
            raise refusal("seed", seed, "a non-negative integer")
        require_ignore_index(ignore_index)
        self.sampling, self.ignore_index, self.seed = sampling, ignore_index, seed
        self.over_processes = over_processes
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Draw from now on as an epoch does from its start.

        Args:
            epoch: number of the epoch, from 0 on.
        """
        if not is_count(epoch):
            raise refusal("epoch", epoch, "a whole number of at least 0")
        self.epoch, self.draws = epoch, 0

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Compare, see Shape.

        Args:
            logits: logits of the classes.
            labels: what the pixels are said to be.

        Returns:
            The loss, a scalar.
        """
        shape = tuple(logits.shape)
        if len(shape) < 3 or shape[1] < 2:
            raise refusal("logits", f"shape {shape}", "of shape (B, C, *S), C > 1")
        wanted = (shape[0], 1, *shape[2:])
        if labels.shape != wanted:
            raise refusal("labels", f"shape {tuple(labels.shape)}", f"of shape {wanted}")
        with torch.autocast(logits.device.type, enabled=False):
            rows = logits.to(torch.promote_types(logits.dtype, torch.float32)).movedim(1, -1).flatten(0, -2)
            images = item_generators(shape[0], self.seed, self.epoch, self.draws)
            self.draws += 1
            drawn = torch.cat([torch.rand(logits[0, 0].numel(), generator=each) for each in images]).to(rows.device)
            labels = labels.flatten().long()
            known = labels != self.ignore_index
            places = known.nonzero().squeeze(1)
            if not len(places):
                return distributed_mean(rows.nan_to_num(0, 0, 0).sum() * 0, known.sum(), self.over_processes)
            rows, labels, drawn = rows[places], labels[places], drawn[places]
            if ((labels < 0) | (labels >= shape[1])).any():
                raise refusal("labels", f"from {labels.min()} to {labels.max()}", f"from 0 to {shape[1] - 1}")
            denied = one_hot(self._complements(rows.detach(), labels, drawn), shape[1]).bool()
            # log(1 - p), without a difference of nearly equal numbers
            losses = rows.logsumexp(1) - rows.masked_fill(denied, -torch.inf).logsumexp(1)
            return distributed_mean(losses.sum(), known.sum(), self.over_processes)

    def _complements(self, rows: Tensor, labels: Tensor, drawn: Tensor) -> Tensor:
        """A class other than the label for each row of logits, by a number from 0 to 1 for each."""
        if self.sampling == "uniform":
            weights = torch.ones_like(rows)
        else:
            weights = rows.argsort(1, descending=True).argsort(1).to(rows) + 1
        weights = weights.scatter(1, labels[:, None], 0)
        below = weights.cumsum(1)
        chosen = (below <= drawn.to(below)[:, None] * below[:, -1:]).sum(1)
        return chosen.clamp(max=rows.shape[1] - 1 - (labels == rows.shape[1] - 1).long())  # rounding
