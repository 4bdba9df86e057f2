"""What the functions of this package accept as an image and a mask, and how they give the caller's kind back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from monai_infoaug._require import all_finite, is_number, refusal
from monai_infoaug._versions import WIDER

Array = TypeVar("Array", bound=np.ndarray | Tensor)


def plain_tensor(array: np.ndarray | Tensor, name: str) -> Tensor:
    """The values of ``array``, called ``name`` in errors, as a plain tensor on its device that PyTorch computes with.

    What is of another byte order, order of axes or precision than PyTorch knows, or read only, is copied; unsigned
    types become wider ones. Anything else shares its memory.

    Raises:
        TypeError: if it is no array or tensor of real numbers.

    Example:
        >>> plain_tensor(np.array([1, 65535], ">u2"), "img")
        tensor([    1, 65535], dtype=torch.int32)
    """
    if not isinstance(array, np.ndarray | Tensor):
        raise refusal(name, type(array).__name__, "a NumPy array or a tensor", TypeError)
    if isinstance(array, Tensor):
        tensor = array.detach().as_subclass(Tensor)
        real = not tensor.is_complex()
    else:
        real = array.dtype.kind in "buif"
        tensor = torch.from_numpy(_native(array)) if real else torch.empty(0)
    if not real:
        raise refusal(name, array.dtype, "of real numbers", TypeError)
    return tensor.to(WIDER.get(tensor.dtype, tensor.dtype))


def numbers(values: object, name: str) -> Tensor:
    """Numbers in a tensor, an array or nested sequences, called ``name`` in errors, as a plain tensor.

    Raises:
        TypeError: if they are no real numbers.
        ValueError: for sequences of different lengths.

    Example:
        >>> numbers([[1.5, 2.0]], "landmarks")
        tensor([[1.5000, 2.0000]], dtype=torch.float64)
    """
    if not isinstance(values, Sequence) or isinstance(values, str):
        return plain_tensor(values, name)  # type: ignore[arg-type]
    try:
        return plain_tensor(np.asarray(values), name)
    except ValueError as error:
        raise refusal(name, values, "of sequences of one length") from error


def _native(array: np.ndarray) -> np.ndarray:
    """The array in C order, native byte order, of a type that PyTorch computes with, writable; a copy if it must be."""
    dtype = f"{array.dtype.kind}{min(array.itemsize, 8)}"
    dtype = {"u2": "i4", "u4": "i8", "u8": "f8"}.get(dtype, dtype)
    native = np.asarray(array).astype(dtype, order="C", copy=False).view(dtype)  # long long is a type of its own
    forward = min(native.strides, default=0) >= 0  # an axis of length 1 may run backwards in any order
    return native if native.flags.writeable and forward else native.copy()


def to_tensor(array: np.ndarray | Tensor, name: str) -> Tensor:
    """A plain float64 tensor with the values of a channel-first image ``array``, called ``name`` in errors.

    Raises:
        TypeError: if it is no array or tensor of real numbers.
        ValueError: if it is not channel first with 2 or 3 spatial axes, is empty, or holds NaN or infinity.
    """
    tensor = plain_tensor(array, name).double()
    if tensor.ndim not in (3, 4):
        raise refusal(name, f"shape {tuple(tensor.shape)}", "channel first with 2 or 3 spatial axes")
    if tensor.numel() == 0:
        raise refusal(name, f"shape {tuple(tensor.shape)}", "not empty")
    if not all_finite(tensor):
        raise refusal(name, "NaN or infinity", "finite")
    return tensor


def to_mask(mask: np.ndarray | Tensor | None, image: Tensor) -> Tensor:
    """The mask of a tensor ``image`` (C,*S) as (C,*S) bool, true where ``mask`` is not zero, or everywhere for None.

    Raises:
        ValueError: if the mask is neither (1,*S) nor (C,*S), or selects nothing in a channel.
    """
    if mask is None:
        return torch.ones_like(image, dtype=torch.bool)
    inside = to_tensor(mask, "mask").to(image.device) != 0
    shapes = (1, *image.shape[1:]), tuple(image.shape)
    if tuple(inside.shape) not in shapes:
        raise refusal("mask", f"shape {tuple(inside.shape)}", f"of shape {shapes[0]} or {shapes[1]}")
    if not bool(inside.flatten(1).any(1).all()):
        raise refusal("mask", "no voxel", "true somewhere in each channel")
    return inside.expand_as(image)


def like(result: Tensor, array: Array) -> Array:
    """``result``, same shape and dtype, as the kind that ``array`` is; a MetaTensor passes its metadata on."""
    if isinstance(array, np.ndarray):
        return cast(Array, result.cpu().numpy())
    return cast(Array, torch.empty_like(array, dtype=result.dtype).copy_(result))


def quantile(values: Tensor, q: float) -> float:
    """The ``q``-quantile, linear between ranks, of any number of ``values`` (torch.quantile stops at 2**24)."""
    rank = q * (values.numel() - 1)
    below, above = (values.flatten().kthvalue(int(k) + 1).values.item() for k in (math.floor(rank), math.ceil(rank)))
    return below + (rank - math.floor(rank)) * (above - below)


def are_numbers(values: object, count: int, least: float = -math.inf, most: float = math.inf) -> bool:
    """Whether ``values`` are ``count`` finite numbers from ``least`` to ``most``, in a sequence, array or tensor."""
    values = values.tolist() if isinstance(values, np.ndarray | Tensor) else values
    return isinstance(values, Sequence) and len(values) == count and all(is_number(x, least, most) for x in values)


def is_ordered_pair(pair: Any) -> bool:
    """Whether ``pair`` is two finite numbers, the first no larger than the second."""
    return are_numbers(pair, 2) and bool(pair[0] <= pair[1])
