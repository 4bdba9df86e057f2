from __future__ import annotations

import numpy as np
import pytest
import torch

numba = pytest.importorskip("numba", reason="compiled loops need numba")

from monai_infoaug import _numba  # noqa: E402


def test_kernel_compiles_where_no_cache_can_be_written(monkeypatch):
    def njit(cache=False, real=numba.njit, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return real(**options)

    monkeypatch.setattr(numba, "njit", njit)
    assert _numba.jit(lambda x: x + 1)(1) == 2


def test_each_part_is_done_once_on_the_threads_there_are(monkeypatch):
    done, parts = np.zeros(1000, int), []

    def work(out, start, stop):
        out[start:stop] += 1
        parts.append(stop - start)

    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    for least, expected in ((1, [0, 333, 333, 334]), (400, [0, 500, 500]), (10**6, [0, 1000])):
        _numba.over_threads(work, len(done), done, least=least)
        assert sorted(parts) == expected
        assert (done == 1).all()
        done[:] = 0
        parts.clear()


def test_a_failure_in_any_part_is_raised(monkeypatch):
    def work(start, stop):
        if start:
            raise ZeroDivisionError

    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    with pytest.raises(ZeroDivisionError):
        _numba.over_threads(work, 10)
