"""Several processes under ``torchrun``."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist

__all__ = ["join_processes", "leave_processes"]


def join_processes() -> None:
    """Meet the other processes that ``torchrun`` started; nothing is done where there are none or they met before.

    Tensors that go to ``"cuda"`` go to this process's own GPU from then on. Without GPUs the processes talk by gloo.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")


def leave_processes() -> None:
    """Undo ``join_processes``; nothing is done where the processes have not met."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
