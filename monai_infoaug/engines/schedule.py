"""The learning rate of a training: up, then down to nearly nothing."""

from __future__ import annotations

from collections.abc import Sequence

from torch.optim import Optimizer
from torch.optim.lr_scheduler import OneCycleLR

from monai_infoaug._require import is_count, is_number, listed, refusal

__all__ = ["OneCycle"]


class OneCycle(OneCycleLR):
    """PyTorch's ``OneCycleLR`` with a short warm-up, for trainings of any length, however short.

    PyTorch's divides by zero where the warm-up is a single step, as with 9 iterations.

    Args:
        optimizer: optimizer of the training.
        max_lr: highest learning rate, or one for each group of parameters.
        total_steps: iterations of the training, and one more, since it is stepped after the last one, too.
        pct_start: share of the steps on which the rate goes up.

    Raises:
        ValueError: for a rate that is no number above 0, ``total_steps`` that are no whole number of at least 1, or a
            share that is not from 0 to 1.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], momentum=0.9)
        >>> schedule = OneCycle(optimizer, max_lr=1.0, total_steps=10)
        >>> rates = []
        >>> for _ in range(9):
        ...     rates.append(round(optimizer.param_groups[0]["lr"], 2))
        ...     optimizer.step()
        ...     schedule.step()
        >>> rates
        [1.0, 0.97, 0.88, 0.75, 0.59, 0.41, 0.25, 0.12, 0.03]
    """

    def __init__(
        self, optimizer: Optimizer, max_lr: float | Sequence[float], total_steps: int, pct_start: float = 0.1
    ) -> None:
        if not isinstance(optimizer, Optimizer):
            raise refusal("optimizer", type(optimizer).__name__, "an optimizer of PyTorch's", TypeError)
        peaks = listed(max_lr) or [max_lr]
        fits = len(peaks) == len(optimizer.param_groups) or not listed(max_lr)
        if not fits or not all(is_number(rate) and rate > 0 for rate in peaks):
            raise refusal("max_lr", max_lr, "a number above 0, or one for each group of parameters")
        if not is_count(total_steps, 1):
            raise refusal("total_steps", total_steps, "a whole number of at least 1: epochs * batches + 1")
        if not is_number(pct_start, 0, 1):
            raise refusal("pct_start", pct_start, "from 0 to 1")
        if pct_start * total_steps == 1:
            pct_start -= 1e-9  # it begins at the highest rate, as with a step less
        rates = peaks if listed(max_lr) else float(max_lr)  # type: ignore[arg-type]
        super().__init__(optimizer, rates, int(total_steps), pct_start=float(pct_start))
