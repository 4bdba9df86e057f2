"""Sums over the similarities of many pixels with many others, whose matrix never exists as a whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import softplus

from monai_infoaug._versions import is_compiling

ENTRIES = 2**21  # of the similarity matrix that exist at once
NONE = -1e30  # in place of the similarity of what does not count; finite, so that no gradient is NaN

Fill = Callable[[Tensor, slice, slice], Tensor]  # of a piece of the similarities, its sets and its rows


class Comparison:
    """Who is compared with whom: pixels, the rows, with other pixels, the columns, in B sets.

    The sums are made in pieces, and their gradients from similarities that are made again: memory grows with the number
    of pixels N, not with N^2.

    Args:
        classes: labels (B, N) of the rows.
        others: labels (B, M) of the columns.
        valid: (B, M) bool, whether a column has a part.
        itself: (B, N), which column a row itself is, so that it is no positive; None: it may be one, or is no column.
        negatives: number of columns that may be negatives; those from there on are positives alone.

    The methods take the features of both, rows (B, N, F), divided by the temperature, and columns (B, M, F).
    """

    def __init__(self, classes: Tensor, others: Tensor, valid: Tensor, itself: Tensor | None, negatives: int) -> None:
        self.classes, self.others, self.valid, self.itself, self.negatives = classes, others, valid, itself, negatives
        self.left_out = None if not is_compiling() and valid.all() else ~valid

    def positives(self, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Number of positives of each row, and the sum of their similarities: its product with the sum of its class."""
        index, size = _numbered(torch.cat([self.classes, self.others], 1))
        sets, split = torch.arange(len(rows), device=rows.device)[:, None], self.classes.shape[1]
        index = index + size * sets
        mine, theirs = index[:, :split], index[:, split:]
        kept = columns * self.valid[..., None]
        sums = columns.new_zeros(len(rows) * size, columns.shape[2]).index_add(0, theirs.flatten(), kept.flatten(0, 1))
        number = theirs.new_zeros(len(sums)).index_add(0, theirs.flatten(), self.valid.flatten().long())[mine]
        total = (rows * sums[mine]).sum(-1)
        if self.itself is not None:
            number = number - 1
            total = total - (rows * columns.gather(1, self.itself[..., None].expand_as(rows))).sum(-1)
        return number, total

    def log_sum_exp(self, rows: Tensor, columns: Tensor, kept: str) -> Tensor:
        """(B, N) log of the sum of exp of the similarities with all, or with those of the same or another class.

        Args:
            rows: features.
            columns: features.
            kept: "all", "same" or "other".
        """
        return _log_sum_exp(rows, columns, partial(self._fill, kept, NONE))

    def sum_softplus(self, rows: Tensor, columns: Tensor, level: Tensor) -> Tensor:
        """(B, N) sum over the positives of ``log(1 + exp(level - s))``, with ``level`` (B, N)."""
        return _sum_softplus(rows, columns, level, partial(self._fill, "same", -NONE))

    def _fill(self, kept: str, value: float, similarity: Tensor, at: slice, part: slice) -> Tensor:
        """Put a value in place of the similarities of a piece that are not kept."""
        if self.left_out is not None:
            similarity.masked_fill_(self.left_out[at, None], value)
        if kept != "other" and self.itself is not None:
            similarity.scatter_(2, self.itself[at, part, None], value)
        begin = self.negatives if kept == "all" else 0
        if begin < similarity.shape[2]:
            same = self.classes[at, part, None] == self.others[at, None, begin:]
            similarity[..., begin:].masked_fill_(same if kept == "other" else ~same, value)
        if kept == "other":
            similarity[..., self.negatives :] = value
        return similarity


def those(wanted: Tensor) -> Tensor:
    """Numbers of what is wanted of (N,); of all in a compiled graph, whose shapes may depend on no value."""
    if is_compiling():
        return torch.arange(len(wanted), device=wanted.device)
    return wanted.nonzero().squeeze(1)


def _numbered(labels: Tensor) -> tuple[Tensor, int]:
    """Labels (B, N) as numbers from 0 on, the same for the same label of a set, and how many there may be."""
    if not is_compiling():
        known, numbers = torch.unique(labels, return_inverse=True)
        return numbers, len(known)
    values, order = labels.sort(1)
    new = torch.cat([torch.zeros_like(order[:, :1]), (values[:, 1:] != values[:, :-1]).long()], 1)
    return torch.empty_like(order).scatter(1, order, new.cumsum(1)), labels.shape[1]


def _pieces(rows: Tensor, columns: Tensor) -> Iterator[tuple[slice, slice]]:
    """Sets and rows, a limited number of similarities at once."""
    width = max(1, ENTRIES // columns.shape[1])
    sets = max(1, width // rows.shape[1])
    for at in range(0, len(rows), sets):
        for start in range(0, rows.shape[1], width):
            yield slice(at, at + sets), slice(start, start + width)


class _LogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, columns: Tensor, fill: Fill) -> Tensor:
        result = rows.new_empty(rows.shape[:2])
        for at, part in _pieces(rows, columns):
            result[at, part] = fill(rows[at, part] @ columns[at].mT, at, part).logsumexp(-1)
        ctx.save_for_backward(rows, columns, result)
        ctx.fill = fill
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        rows, columns, result = ctx.saved_tensors
        to_rows, to_columns = torch.empty_like(rows), torch.zeros_like(columns)
        for at, part in _pieces(rows, columns):
            weight = ctx.fill(rows[at, part] @ columns[at].mT, at, part)
            weight.sub_(result[at, part, None]).exp_().mul_(gradient[at, part, None])
            to_rows[at, part] = weight @ columns[at]
            to_columns[at] += weight.mT @ rows[at, part]
        return to_rows, to_columns, None


class _SumSoftplus(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, columns: Tensor, level: Tensor, fill: Fill) -> Tensor:
        result = torch.empty_like(level)
        for at, part in _pieces(rows, columns):
            similarity = fill(rows[at, part] @ columns[at].mT, at, part)
            result[at, part] = softplus(level[at, part, None] - similarity).sum(-1)
        ctx.save_for_backward(rows, columns, level)
        ctx.fill = fill
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        rows, columns, level = ctx.saved_tensors
        to_rows, to_columns, to_level = torch.empty_like(rows), torch.zeros_like(columns), torch.empty_like(level)
        for at, part in _pieces(rows, columns):
            weight = ctx.fill(rows[at, part] @ columns[at].mT, at, part)
            weight.sub_(level[at, part, None]).neg_().sigmoid_().mul_(gradient[at, part, None])
            to_level[at, part] = weight.sum(-1)
            to_rows[at, part] = -weight @ columns[at]
            to_columns[at] -= weight.mT @ rows[at, part]
        return to_rows, to_columns, to_level, None


_log_sum_exp: Callable[..., Tensor] = _LogSumExp.apply
_sum_softplus: Callable[..., Tensor] = _SumSoftplus.apply
