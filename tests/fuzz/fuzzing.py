"""What the fuzz tests share: odd values, and the only two outcomes that are allowed, right or refused by name."""

from __future__ import annotations

import math
import re
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

REFUSED = object()
LONGEST = 10.0  # seconds
CLEAR = re.compile(r"`[^`]+`")  # every refusal names what it is about
calls = {"right": 0, "refused": 0}

odd_numbers = st.sampled_from([-1, 0, 1, 2, 3, 7, 1.5, 2.0, -0.5, 1e30, math.nan, math.inf, -math.inf, 1e-30])
odd_values = st.one_of(
    odd_numbers,
    st.sampled_from(
        [None, True, False, "", "x", "3", "nan", b"x", [], (), {}, [1], [0.5, -1], [1, 2], (3, 3), (1, 2, 3)]
    ),
    st.sampled_from([[None], ["a", "b"], [1.5, 2.5], [[1], [1, 2]], [math.nan] * 2, np.array([1, 2]), np.float32(0.5)]),
    st.sampled_from([np.int64(3), np.bool_(True), torch.tensor(3), torch.tensor([0.1, 0.2]), 1j, range(3), object()]),
    st.integers(-10, 200),
    st.floats(-10, 10),
)


def outcome(call: Callable[[], Any], also_clear: tuple[str, ...] = ()) -> Any:
    """What a call gives, or ``REFUSED`` if it raises an error that names what it is about, or has one of other texts.

    Raises:
        AssertionError: for any other error, and a call that takes longer than 10 s.
    """
    start = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a warning is one of the answers
            result = call()
    except (ValueError, TypeError, KeyError, OSError) as error:
        if not CLEAR.search(str(error)) and not any(text in str(error) for text in also_clear):
            raise AssertionError(f"a raw error: {type(error).__name__}: {error}") from error
        result = REFUSED
    assert time.perf_counter() - start < LONGEST
    calls["refused" if result is REFUSED else "right"] += 1
    return result
