"""What the fuzz tests share: odd values and images, and the two outcomes that are allowed, right or refused by name."""

from __future__ import annotations

import math
import re
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor

from monai_infoaug._versions import WIDER

REFUSED = object()
LONGEST = 10.0  # seconds of computing
CLEAR = re.compile(r"`[^`]+`")  # every refusal names what it is about
calls = {"right": 0, "refused": 0}

common = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None, "print_blob": False}
settings.register_profile("short", max_examples=40, derandomize=True, **common)
settings.register_profile("long", max_examples=400, **common)

odd_numbers = st.sampled_from([-1, 0, 1, 2, 3, 7, 1.5, 2.0, -0.5, 1e30, math.nan, math.inf, -math.inf, 1e-30])
odd_values = st.one_of(
    odd_numbers,
    st.sampled_from(
        [None, True, False, "", "x", "3", "nan", b"x", [], (), {}, [1], [0.5, -1], [1, 2], (3, 3), (1, 2, 3)]
    ),
    st.sampled_from([[None], ["a", "b"], [1.5, 2.5], [[1], [1, 2]], [math.nan] * 2, np.array([1, 2]), np.float32(0.5)]),
    st.sampled_from([np.int64(3), np.bool_(True), torch.tensor(3), torch.tensor([0.1, 0.2]), 1j, range(3), object()]),
    st.integers(-10, 9),  # small: a network may be built with them
    st.floats(-10, 10),
)
seeds = st.integers(0, 2**31)

KINDS = ("?", "u1", "i1", "<u2", ">u2", ">i2", "i4", ">i4", "i8", "f2", "f4", ">f4", "f8", ">f8", "g", "c8", "U2", "O")
TENSORS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int64, torch.bfloat16, torch.float16, *WIDER)
LAYOUTS = ("as it is", "Fortran", "reversed", "strided", "read-only", "broadcast")
CONTENTS = ("noise", "noise", "levels", "constant", "huge", "tiny", "negative", "nan", "inf")


def fuzz(**strategies: st.SearchStrategy) -> Callable[[Callable], Callable]:
    """Hypothesis's ``given``, with the profile ``long`` if the command line names it, else the short one of CI."""
    name = "long" if settings.get_current_profile_name() == "long" else "short"
    return lambda test: settings.get_profile(name)(given(**strategies)(test))


def outcome(call: Callable[[], Any], also_clear: tuple[str, ...] = ()) -> Any:
    """What a call gives, or ``REFUSED`` if it raises an error that names what it is about, or has one of other texts.

    Raises:
        AssertionError: for any other error, and a call that takes longer than 10 s.
    """
    try:
        with warnings.catch_warnings(), limited():
            warnings.simplefilter("ignore")  # a warning is one of the answers
            result = call()
    except (ValueError, TypeError, KeyError, OSError) as error:
        clear = CLEAR.search(str(error)) or any(text in str(error) for text in also_clear)
        if not clear and not (isinstance(error, OSError) and error.filename is not None):
            raise AssertionError(f"a raw error: {type(error).__name__}: {error}") from error
        result = REFUSED
    calls["refused" if result is REFUSED else "right"] += 1
    return result


@contextmanager
def limited() -> Iterator[None]:
    """Raise AssertionError in what computes for too long."""

    def stop(*_: object) -> None:
        raise AssertionError(f"a call that takes longer than {LONGEST:g} s")

    if not hasattr(signal, "SIGPROF"):  # not POSIX
        start = time.process_time()
        yield
        assert time.process_time() - start < LONGEST
        return
    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, LONGEST)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def finite(values: np.ndarray) -> bool:
    """Whether an image is one of finite real numbers."""
    return values.dtype.kind in "buif" and bool(np.isfinite(values).all())


@st.composite
def odd_images(draw: st.DrawFn, dims: tuple[int, ...] = (2, 2, 3), channels: int = 3, least: int = 1, most: int = 9):
    """An image (C, *S) of any type, layout, container and content, and its values as float64 in NumPy's own way."""
    shape = draw(st.tuples(st.integers(1, channels), *[st.integers(least, most)] * draw(st.sampled_from(dims))))
    random, content = np.random.default_rng(draw(seeds)), draw(st.sampled_from(CONTENTS))
    values = random.normal(size=shape) * 50
    values = {
        "levels": np.floor(values / 30),
        "constant": np.full(shape, values.flat[0].round()),
        "huge": values * 1e30,
        "tiny": values * 1e-30,
        "negative": -np.abs(values) - 1,
    }.get(content, values)
    if content in ("nan", "inf"):
        values.flat[random.integers(values.size)] = float(content)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if draw(st.booleans()):
            return _tensor(draw, values)
        kind = draw(st.sampled_from(KINDS))
        array = np.array(values, dtype=object if kind == "O" else None).astype(kind)
    if draw(st.integers(0, 30)) == 0:
        array = array[:, :0]
    layout = draw(st.sampled_from(LAYOUTS))
    array = {
        "Fortran": lambda: np.asfortranarray(array),
        "reversed": lambda: array[..., ::-1],
        "strided": lambda: np.repeat(array, 2, -1)[..., ::2],
        "broadcast": lambda: np.broadcast_to(array[:1], array.shape),
    }.get(layout, array.copy)()
    if layout == "read-only":
        array.flags.writeable = False
    return array, array.astype(np.float64) if array.dtype.kind in "buif" else array


def _tensor(draw: st.DrawFn, values: np.ndarray) -> tuple[torch.Tensor, np.ndarray]:
    kind = draw(st.sampled_from([*TENSORS, torch.float32, torch.float32, torch.float64]))
    if not kind.is_floating_point:
        values = np.nan_to_num(values).clip(*(0, 1) if kind == torch.bool else (-(2**31), 2**31))
    tensor = torch.from_numpy(values).to(kind)
    if draw(st.booleans()):
        tensor = tensor.mT.contiguous().mT
    known = tensor.double().numpy()
    if draw(st.booleans()):
        affine = np.diag([*draw(st.sampled_from([(1, 1, 1), (0.5, 2, 3), (-1, 1, 0.1)])), 1.0])
        tensor = MetaTensor(tensor, affine=affine)
    return tensor, known


def as_numpy(values: Any) -> np.ndarray:
    """An array or tensor as float64."""
    if isinstance(values, torch.Tensor):
        return values.detach().as_subclass(torch.Tensor).double().numpy()
    return np.asarray(values).astype(np.float64)
