"""How much a pixel tells: the Shannon entropy of the grey levels around it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from monai_infoaug.information._arrays import Array, like, to_mask, to_tensor
from monai_infoaug.information._bins import check_bins, to_bins
from monai_infoaug.information._windows import Window, check_windows, reduced, windows_for

__all__ = ["local_entropy"]

FIXED_POINT = 2**24  # count * log2(count) in whole numbers: sums are exact in any order, rounding costs < 1e-7 bits


def local_entropy(
    image: Array,
    window: Window = 9,
    num_bins: int = 32,
    value_range: tuple[float, float] | None = None,
    mask: np.ndarray | Tensor | None = None,
    reduction: str = "mean",
    noise_factor: float | None = None,
) -> Array:
    """Shannon entropy of the grey-level histogram in the window around each pixel, the information quantity of [1].

    The histogram is exact: all pixels of the box that lie in the image and the mask count alike. The time grows with
    the side of the window at most, in 2D and 3D. On the CPU numba is used where it is installed (extra ``fast``), else
    and on other devices torch; both give the same values.

    Args:
        image: (C,H,W) or (C,H,W,D), each channel on its own; finite real numbers.
        window: odd side of the window in voxels, one for all axes or one an axis, no larger than the image. Several
            windows are a sequence of sequences, such as ``((5,), (9,), (17,))``.
        num_bins: number of equal bins over ``value_range``, at least 2.
        value_range: grey levels (low, high); values outside count in the end bins. With ``(0, 255)`` and 256 bins each
            level of an 8-bit image has its own bin. None: the 0.5 and 99.5 percentile inside the mask, for each
            channel.
        mask: (1,*S) or (C,*S), not zero inside. Pixels outside count in no histogram and get 0. None: all is inside.
        reduction: ``"mean"`` or ``"max"`` of the maps of several windows.
        noise_factor: bins are no finer than this many standard deviations of the noise of each channel, as
            :func:`noise_sd` estimates it inside the mask: a channel has the greatest number of equal bins, up to
            ``num_bins`` and at least 2, of which that is so. Positive. None: ``num_bins``, whatever the noise.

    Returns:
        (C,*S) float32, in bits, from 0 (a constant window) to ``log2(num_bins)``, of the kind, device and metadata of
        ``image``.

    Raises:
        ValueError: for a wrong rank, an empty image, NaN or infinity, a window that is even or larger than the image,
            fewer than 2 bins, a range out of order, a mask of another shape or without a voxel, another reduction, or a
            noise factor that is not positive.
        TypeError: if ``image`` or ``mask`` is no array or tensor of real numbers.

    References:
        [1] Quan et al., "IGU-Aug: information-guided unsupervised augmentation and pixel-wise contrastive learning for
        medical image analysis", IEEE TMI 44(1):154-164, 2025, arXiv:2211.07118.

    Example:
        >>> import torch
        >>> edge = torch.tensor([[[0.0, 0.0, 0.0, 1.0, 1.0, 1.0]] * 3])
        >>> local_entropy(edge, window=3, num_bins=2)[0, 1]
        tensor([0.0000, 0.0000, 0.9183, 0.9183, 0.0000, 0.0000])
    """
    check_settings(window, num_bins, value_range, reduction, noise_factor)
    pixels = to_tensor(image, "image")
    windows = windows_for(window, tuple(pixels.shape[1:]))
    bins = to_bins(pixels, to_mask(mask, pixels), num_bins, value_range, noise_factor)
    counts = torch.arange(max(map(math.prod, windows)) + 1, dtype=torch.float64)
    table = (torch.xlogy(counts, counts) * (FIXED_POINT / math.log(2))).round().long()
    entropy_of = (_numba_window_entropy() if bins.device.type == "cpu" else None) or window_entropy
    maps = [entropy_of(bins, sides, num_bins, table[: math.prod(sides) + 1]) / FIXED_POINT for sides in windows]
    return like(reduced(maps, reduction), image)


def check_settings(
    window: Window,
    num_bins: int,
    value_range: tuple[float, float] | None,
    reduction: str = "mean",
    noise_factor: float | None = None,
) -> None:
    """Refuse settings of :func:`local_entropy` that suit no image at all.

    Raises:
        ValueError: for a window that is not odd, fewer than 2 bins, a range out of order, another reduction, or a noise
            factor that is not positive.
    """
    check_windows(window, reduction)
    check_bins(num_bins, value_range, noise_factor)


def window_entropy(bins: Tensor, window: tuple[int, ...], num_bins: int, table: Tensor) -> Tensor:
    """Entropy of the window around each voxel by box sums, bin after bin: exact, on any device, in O(voxels) memory.

    What is summed are the voxels that are *not* in a bin: they take two fast operations on small whole numbers. The
    counts of as many bins as fit are the digits of one number, which is summed and looked up once.

    Args:
        bins: (C,*S) int32, the bin of each voxel; ``num_bins`` outside the mask.
        window: the odd side for each axis of S.
        num_bins: number of bins.
        table: ``count * log2(count)`` for each count up to that of a full window, int64.

    Returns:
        (C,*S) floating point, in bits times the scale of ``table``; 0 outside the mask.
    """
    base = len(table)
    kind = torch.int16 if max(base, num_bins) < 2**15 else torch.int32
    padded = pad(bins.to(kind), [side // 2 for side in reversed(window) for _ in range(2)], value=num_bins)
    table = table.to(bins.device)
    count = box_sums((padded != num_bins).to(kind), window).int()
    digits, sums = max(1, int(math.log(2**15, base))), table.flip(0)
    for _ in range(digits - 1):
        sums = (sums[:, None] + table.flip(0)).flatten()
    levels = [level for level in torch.unique(padded).tolist() if level != num_bins]
    levels += [num_bins + 1] * (-len(levels) % digits)  # a bin without voxels adds nothing
    total, looked_up = torch.zeros_like(count, dtype=table.dtype).flatten(), torch.empty(0).to(table)
    others, more, index = torch.empty_like(padded), torch.empty_like(padded), torch.empty_like(count)
    for first, *rest in zip(*[iter(levels)] * digits, strict=True):
        torch.bitwise_xor(padded, first, out=others).clamp_(max=1)
        for level in rest:
            others.mul_(base).add_(torch.bitwise_xor(padded, level, out=more).clamp_(max=1))
        index.copy_(box_sums(others, window))
        total += torch.index_select(sums, 0, index.flatten(), out=looked_up)
    whole = table.index_select(0, count.flatten()) - total
    return (whole.reshape(bins.shape).double() / count.clamp(min=1)).float() * (bins < num_bins)


def box_sums(values: Tensor, window: tuple[int, ...]) -> Tensor:
    """Sums of (C,*S) over every box that lies inside: sums of 2, 4, ... values make up those of any side."""
    for axis, side in enumerate(window, start=1):
        size, start, width = values.shape[axis] - side + 1, 0, 1
        parts = []
        while width <= side:
            if side & width:
                parts.append(values.narrow(axis, start, size))
                start += width
            if 2 * width <= side:
                length = values.shape[axis] - width
                values = values.narrow(axis, 0, length) + values.narrow(axis, width, length)
            width *= 2
        values = functools.reduce(torch.add, parts)
    return values


@functools.cache
def _numba_window_entropy() -> Callable[..., Tensor] | None:
    """The numba twin of :func:`window_entropy`, None where numba is missing."""
    try:
        from monai_infoaug.information._entropy_numba import window_entropy
    except ImportError:
        return None
    return window_entropy
