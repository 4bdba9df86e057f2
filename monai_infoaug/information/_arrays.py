"""What the functions of this package accept as an image and a mask, and how they give the caller's kind back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from monai_infoaug._require import all_finite, is_number, refusal

Array = TypeVar("Array", bound=np.ndarray | Tensor)


def to_tensor(array: np.ndarray | Tensor, name: str) -> Tensor:
    """A plain float64 tensor with the values of a channel-first image ``array``, called ``name`` in errors.

    Raises:
        TypeError: if it is no array or tensor of real numbers.
        ValueError: if it is not channel first with 2 or 3 spatial axes, is empty, or holds NaN or infinity.
    """
    if not isinstance(array, np.ndarray | Tensor):
        raise refusal(name, type(array).__name__, "a NumPy array or a tensor", TypeError)
    real = array.dtype.kind in "buif" if isinstance(array, np.ndarray) else not array.is_complex()
    if not real:
        raise refusal(name, array.dtype, "of real numbers", TypeError)
    if array.ndim not in (3, 4):
        raise refusal(name, f"shape {tuple(array.shape)}", "channel first with 2 or 3 spatial axes")
    if 0 in array.shape:
        raise refusal(name, f"shape {tuple(array.shape)}", "not empty")
    if isinstance(array, np.ndarray):  # astype also undoes byte orders and strides that torch does not know
        tensor = torch.from_numpy(array.astype(np.float64))
    else:
        tensor = array.detach().as_subclass(Tensor).double()
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
