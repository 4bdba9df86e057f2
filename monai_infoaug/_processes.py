"""Which of how many processes this is, under ``torchrun`` or alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_gather

__all__ = ["gathered", "generators", "in_turn", "joined", "mean_of", "number_of_processes", "own_rank"]

T = TypeVar("T")


def _several() -> bool:
    return dist.is_available() and dist.is_initialized()


def number_of_processes() -> int:
    """1 without a process group."""
    return dist.get_world_size() if _several() else 1


def own_rank() -> int:
    """0 without a process group."""
    return dist.get_rank() if _several() else 0


def generators(count: int, *seed: int) -> list[torch.Generator]:
    """A generator for each item of a batch: the one that it would have in one process, see ``seeded_loader``.

    Args:
        count: items of this process.
        seed: of the batch, non-negative integers.
    """
    ranks, rank = number_of_processes(), own_rank()
    states = (np.random.SeedSequence((*seed, ranks * item + rank)).generate_state(1) for item in range(count))
    return [torch.Generator().manual_seed(int(state[0])) for state in states]


def gathered(values: Tensor) -> Tensor:
    """Values (N, ...) of all processes, one after the other; N may differ. Each process must call it."""
    parts = [values] * number_of_processes()
    if len(parts) > 1:
        dist.all_gather_object(parts, values)
    return torch.cat(parts)


def in_turn(own: Sequence[T]) -> list[T]:
    """Items of all processes in the order of one process, where each has every n-th of them. Each must call it."""
    parts: list[Any] = [own] * number_of_processes()
    if len(parts) > 1:
        dist.all_gather_object(parts, own)
    return [part[i] for i in range(max(map(len, parts))) for part in parts if i < len(part)]


def joined(values: Tensor, axis: int = 0) -> Tensor:
    """Values of all processes, one after the other along an axis, with gradients; all of one shape."""
    return torch.cat(all_gather(values.contiguous()), axis) if number_of_processes() > 1 else values


def mean_of(total: Tensor, count: Tensor, over_processes: bool) -> Tensor:
    """Mean of losses; 0 where there is none.

    Args:
        total: sum of the losses of this process.
        count: how many there are, or the sum of their weights.
        over_processes: return what, averaged over the processes as DistributedDataParallel does it, is the mean of what
            all of them counted. Each process must call it then.
    """
    ranks = number_of_processes() if over_processes else 1
    if ranks > 1:
        count = count.to(torch.float64, copy=True)  # the sum over the processes takes its place
        dist.all_reduce(count)
    return total * ranks / torch.where(count > 0, count, 1).to(total)
