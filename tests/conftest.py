"""A GPU where there is one, and always a simulated one, which tells tensors of the host from tensors of the device.

And a disk that is full, and further processes.
"""

from __future__ import annotations

import gc
import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from multiprocessing import get_context
from multiprocessing.context import BaseContext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map_only

from tests.versions import TORCH

if "PYTEST_XDIST_WORKER" in os.environ:  # a process a core, each with one thread
    torch.set_num_threads(1)

GPU, HOST = torch.device("cuda", 0), torch.device("cpu")
MAY_MIX = (Tensor.copy_, Tensor.__getitem__, Tensor.data.__set__, torch._has_compatible_shallow_copy_type)


class SimulatedGPU(TorchFunctionMode):
    """Within it `.to("cuda")` moves tensors to a GPU: memory that this class knows; it is still computed on the CPU.

    As with CUDA, an operation may mix tensors of both only if those of the host are single numbers, NumPy reads those
    of the host alone, and each reports its device.
    """

    def __init__(self) -> None:
        super().__init__()
        self.memory: dict[int, torch.UntypedStorage] = {}  # kept, so that no address serves twice

    def holds(self, tensor: Tensor) -> bool:
        """Whether a tensor, or what it is a view of, is on the GPU."""
        return tensor.untyped_storage()._cdata in self.memory

    def moved(self, tensor: Tensor, target: bool, inputs: list[Tensor]) -> Tensor:
        """An operation's output on the GPU, or on the host."""
        storage = tensor.untyped_storage()
        if target == self.holds(tensor):
            return tensor
        if not target or any(storage._cdata == each.untyped_storage()._cdata for each in inputs):
            return self.moved(tensor.clone(), target, [])
        self.memory[storage._cdata] = storage
        return tensor

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        inputs = [each for each in tree_flatten((args, kwargs))[0] if isinstance(each, Tensor)]
        held = [self.holds(tensor) for tensor in inputs]
        if func == Tensor.device.__get__:
            return GPU if held[0] else HOST
        if func == Tensor.is_cuda.__get__:
            return held[0]
        if func in (Tensor.numpy, Tensor.__array__) and held[0]:
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        moves = func in (Tensor.to, Tensor.type_as)
        if any(held) and not moves and func not in MAY_MIX:
            strays = [tuple(each.shape) for each, there in zip(inputs, held, strict=True) if each.ndim and not there]
            if strays:
                raise RuntimeError(f"{func.__name__}: tensors on cuda:0, and on the host of shape {strays}")

        named = [each for each in (*args, *kwargs.values()) if isinstance(each, torch.device)]
        named += [torch.device(each) for each in (kwargs.get("device"), *args[1:] * moves) if isinstance(each, str)]
        if func in (Tensor.cpu, Tensor.cuda):
            target, func, args = func is Tensor.cuda, Tensor.clone, args[:1]
        elif named:
            target = named[0].type == "cuda"
            args = tuple(HOST if isinstance(each, (torch.device, str)) else each for each in args)
            kwargs = {name: HOST if name == "device" else value for name, value in kwargs.items()}
        else:
            target = held[-1] if moves else held[0] if func in MAY_MIX else any(held)
        return tree_map_only(Tensor, lambda tensor: self.moved(tensor, target, inputs), func(*args, **kwargs))


def pytest_collection_finish() -> None:
    """Leave what is there before the first test, modules and thousands of tests, out of every collection of garbage."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def root_logger() -> Iterator[None]:
    """A bundle's `logging.conf` gives the root logger a handler, and pytest closes its stream when the test ends."""
    root = logging.getLogger()
    level = root.level
    yield
    root.setLevel(level)
    for handler in [each for each in root.handlers if type(each) is logging.StreamHandler]:
        root.removeHandler(handler)


@pytest.fixture
def threads() -> Iterator[None]:
    """Lets a test change how many threads PyTorch has."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


no_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


@pytest.fixture(params=["simulated", pytest.param("cuda", marks=no_gpu)])
def gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AbstractContextManager:
    """A context in which the device "cuda" is there; make all tensors within it."""
    monkeypatch.setattr("monai_infoaug.information.entropy._numba_window_entropy", lambda: None)  # it is for the CPU
    if request.param == "cuda":
        return nullcontext()
    if TORCH < (2, 3):
        pytest.skip("an old PyTorch hides some functions from the simulation")
    monkeypatch.setattr(torch, "from_numpy", torch.as_tensor)  # which the mode sees
    return SimulatedGPU()


@pytest.fixture
def full_disk() -> Callable[..., AbstractContextManager[None]]:
    """A context in which a limit of some bytes a file stands in for a full disk.

    It must end before the test does: pytest may write to a file, too.
    """
    resource = pytest.importorskip("resource", reason="the limit of a file's size is one of Unix")

    @contextmanager
    def full(size: int = 1000) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return full


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """Port for processes to meet at, another one each time."""

    def new() -> int:
        with socket.socket() as free:
            free.bind(("localhost", 0))
            return free.getsockname()[1]

    return new


def _with_one_thread(rank: int, function: Callable, *args: Any) -> None:
    torch.set_num_threads(1)  # OpenMP's threads do not come along with a fork
    function(rank, *args)


@pytest.fixture(scope="session")
def new_process() -> BaseContext:
    """How further processes are begun: a fork need not import PyTorch and MONAI again; CUDA forbids it."""
    return get_context("fork" if sys.platform == "linux" and not torch.cuda.is_available() else "spawn")


@pytest.fixture(scope="session")
def in_two_processes(new_process: BaseContext) -> Callable[..., None]:
    """Call a function with ranks 0 and 1 and the same further arguments, each in a process of its own."""
    method = new_process.get_start_method()

    def call(function: Callable, *args: Any) -> None:
        torch.multiprocessing.start_processes(_with_one_thread, (function, *args), nprocs=2, start_method=method)

    return call


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The processes of pytest-xdist have to find the same tests: no address may be part of a name."""
    odd = [item.nodeid for item in items if " at 0x" in item.nodeid]
    if odd:
        raise pytest.UsageError(f"names of tests that differ from run to run: {odd[:3]}")
