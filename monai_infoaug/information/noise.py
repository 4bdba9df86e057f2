"""How noisy an image is: what is finer than its noise tells nothing."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from monai_infoaug.information._arrays import quantile, to_mask, to_tensor

__all__ = ["noise_sd"]

NORMAL_MAD = 0.6745  # median of the absolute value of a standard normal variable


def noise_sd(image: np.ndarray | Tensor, mask: np.ndarray | Tensor | None = None) -> Tensor:
    """Standard deviation of white noise in each channel of an image, estimated from the image alone.

    The second difference along every axis, of [1] in 2D, leaves noise and little of the structure; its median absolute
    value, as in [2], ignores the edges that it does leave. Counted is where the 3 voxels along each axis are inside the
    mask and are not all equal: black around an object, or saturated, there is no noise to measure. Axes of fewer than 3
    voxels are left out.

    Noise that a scanner or JPEG has smoothed is taken for less than it is, fine texture for noise.

    Args:
        image: (C,H,W) or (C,H,W,D), finite real numbers.
        mask: (1,*S) or (C,*S), not zero inside. None: all is inside.

    Returns:
        (C,) float64, in grey levels; 0 where nothing can be counted.

    Raises:
        ValueError: for a wrong rank, an empty image, NaN or infinity, a mask of another shape or without a voxel.
        TypeError: if ``image`` or ``mask`` is no array or tensor of real numbers.

    References:
        [1] Immerkær, "Fast noise variance estimation", Computer Vision and Image Understanding 64(2), 1996.
        [2] Donoho, Johnstone, "Ideal spatial adaptation by wavelet shrinkage", Biometrika 81(3), 1994.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> ramp = torch.linspace(0, 100, 128).expand(1, 128, 128)
        >>> [round(float(noise_sd(ramp + sd * torch.randn(1, 128, 128))), 1) for sd in (1, 5)]
        [1.0, 5.0]
    """
    pixels = to_tensor(image, "image")
    return sd_inside(pixels, to_mask(mask, pixels))


def sd_inside(pixels: Tensor, inside: Tensor) -> Tensor:
    """:func:`noise_sd` of an image (C,*S) in a mask of that shape, both checked."""
    detail = low = high = pixels
    gain = 1.0
    for axis in (axis for axis in range(1, pixels.ndim) if pixels.shape[axis] >= 3):
        before, here, after = _threes(detail, axis)
        detail = before - 2 * here + after
        low, high = (torch.stack(_threes(low, axis)).amin(0), torch.stack(_threes(high, axis)).amax(0))
        inside = torch.stack(_threes(inside, axis)).all(0)
        gain *= 6**0.5
    counted = inside & (low < high)
    found = [quantile(each[here].abs(), 0.5) if here.any() else 0.0 for each, here in zip(detail, counted, strict=True)]
    return pixels.new_tensor(found) / (NORMAL_MAD * gain)


def _threes(voxels: Tensor, axis: int) -> tuple[Tensor, Tensor, Tensor]:
    """Each voxel's neighbour before, itself and its neighbour after, for those that have both along an axis."""
    size = voxels.shape[axis] - 2
    return voxels.narrow(axis, 0, size), voxels.narrow(axis, 1, size), voxels.narrow(axis, 2, size)
