"""Which of how many processes this is, under ``torchrun`` or alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Sequence
from multiprocessing.dummy import DummyProcess
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import DataParallel
from torch.nn.parallel import DistributedDataParallel

__all__ = [
    "all_gather_cat",
    "all_gather_interleaved",
    "all_gather_ragged",
    "distributed_mean",
    "item_generators",
    "rank",
    "unwrapped",
    "wait_for_pools",
    "world_size",
]

T = TypeVar("T")


def _several() -> bool:
    return dist.is_available() and dist.is_initialized()


def world_size() -> int:
    """Number of processes, 1 without a process group."""
    return dist.get_world_size() if _several() else 1


def rank() -> int:
    """Which of the processes this is, 0 without a process group."""
    return dist.get_rank() if _several() else 0


def unwrapped(network: Any) -> Any:
    """What is in DataParallel, DistributedDataParallel or what ``torch.compile`` gives, or in several of them.

    Args:
        network: network; anything else is given back.

    Returns:
        The network itself, whose state has names without those of the wrappers.
    """
    while isinstance(network, DataParallel | DistributedDataParallel) or hasattr(network, "_orig_mod"):
        network = network._orig_mod if hasattr(network, "_orig_mod") else network.module
    return network


def item_generators(count: int, *seed: int) -> list[torch.Generator]:
    """A generator for each item of a batch: the one that it would have in one process, see ``seeded_loader``.

    Args:
        count: number of items of this process.
        seed: seed of the batch, non-negative integers.

    Returns:
        Generators on the CPU.
    """
    numbers = (rank() + world_size() * item for item in range(count))
    states = (np.random.SeedSequence((*seed, number)).generate_state(1) for number in numbers)
    return [torch.Generator().manual_seed(int(state[0])) for state in states]


class _AllGather(torch.autograd.Function):
    """The values of each process, whose gradient is the sum of what it is in all processes."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> tuple[Tensor, ...]:  # noqa: ARG004
        parts = [torch.empty_like(values) for _ in range(world_size())]
        dist.all_gather(parts, values)
        return tuple(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ARG004
        total = torch.stack(gradients)
        dist.all_reduce(total)
        return total[rank()]


def all_gather_cat(values: Tensor, axis: int = 0) -> Tensor:
    """Gather with gradients what has one shape in all processes. Each process must call it.

    Args:
        values: values of this process.
        axis: where to join them.

    Returns:
        Values of all processes, one process after the other along the axis.
    """
    return torch.cat(_AllGather.apply(values.contiguous()), axis) if world_size() > 1 else values


def all_gather_ragged(values: Tensor) -> Tensor:
    """Gather without gradients what may differ in length. Each process must call it.

    Args:
        values: (N, ...) values of this process.

    Returns:
        Values of all processes, one process after the other.
    """
    parts = [values] * world_size()
    if len(parts) > 1:
        dist.all_gather_object(parts, values)
    return torch.cat(parts)


def all_gather_interleaved(items: Sequence[T]) -> list[T]:
    """Gather the items of processes that have every n-th each, see ``own_items``. Each process must call it.

    Args:
        items: items of this process.

    Returns:
        Items of all processes in the order of one process.
    """
    parts: list[Any] = [items] * world_size()
    if len(parts) > 1:
        dist.all_gather_object(parts, items)
    return [part[i] for i in range(max(map(len, parts))) for part in parts if i < len(part)]


def distributed_mean(total: Tensor, count: Tensor, over_processes: bool) -> Tensor:
    """Mean of losses; 0 where there is none.

    Args:
        total: sum of the losses of this process.
        count: number of losses, or the sum of their weights.
        over_processes: whether to return what, averaged over the processes as DistributedDataParallel does it, is the
            mean of what all of them counted. Each process must call it then.

    Returns:
        The mean, a scalar with gradients.
    """
    ranks = world_size() if over_processes else 1
    if ranks > 1:
        count = count.to(torch.float64, copy=True)  # the sum over the processes takes its place
        dist.all_reduce(count)
    return total * ranks / torch.where(count > 0, count, 1).to(total)


def wait_for_pools(apart_from: Collection[threading.Thread] = (), seconds: float = 20.0) -> None:
    """Wait for the threads of pools that an error has stopped: Python aborts if it ends while they are in C++.

    Args:
        apart_from: threads of pools that somebody else may go on with.
        seconds: of waiting at most.
    """
    end = time.monotonic() + seconds
    for thread in threading.enumerate():
        if isinstance(thread, DummyProcess) and thread not in apart_from:
            thread.join(max(0.0, end - time.monotonic()))
