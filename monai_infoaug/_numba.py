"""Compiling loops for the CPU, and running them on several threads; needs numba."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any

import numba
import numpy as np
import torch

_compiling = Lock()  # numba looks up types that it has not met in a dictionary that threads must not share


def jit(function: Callable) -> Callable:
    """Compiled, without the lock of the interpreter."""
    # A plain thread pool around nogil, not parallel=True: numba's own threads do not survive a fork.
    try:
        return numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # neither the package's folder nor the user's cache folder can be written to
        return numba.njit(nogil=True)(function)


def over_threads(function: Callable, count: int, *arguments: Any, least: int = 1) -> None:
    """Call ``function(*arguments, start, stop)`` for parts of ``count``, on as many threads as torch may use.

    Args:
        function: compiled function.
        count: number of things to do.
        arguments: other arguments of ``function``.
        least: number of things that are worth a thread.
    """
    # torch counts one thread in a DataLoader worker: workers do not crowd each other
    parts = max(1, min(torch.get_num_threads(), count // least))
    with _compiling:
        function(*arguments, 0, 0)  # finds or makes the code for these types
    if parts == 1:
        return function(*arguments, 0, count)
    cuts = np.linspace(0, count, parts + 1).astype(int).tolist()
    with ThreadPoolExecutor(parts) as pool:
        others = [pool.submit(function, *arguments, *cuts[k : k + 2]) for k in range(1, parts)]
        function(*arguments, *cuts[:2])
        for other in others:
            other.result()
