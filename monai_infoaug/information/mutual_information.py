"""How much one image tells about another: the mutual information of their grey levels."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from monai_infoaug._require import refusal
from monai_infoaug.information._arrays import to_mask, to_tensor
from monai_infoaug.information._bins import check_bins, to_bins

__all__ = ["mutual_information"]


def mutual_information(
    first: np.ndarray | Tensor,
    second: np.ndarray | Tensor,
    num_bins: int = 32,
    value_range: tuple[float, float] | None = None,
    mask: np.ndarray | Tensor | None = None,
) -> float:
    """Mutual information of the joint grey-level histogram of two aligned images, ``H(a) + H(b) - H(a, b)`` [1].

    It is symmetric, the entropy of the histogram for equal images, 0 if one image is constant, and the same after any
    one-to-one change of grey levels, as long as each level keeps a bin of its own.

    The estimate is that of the histogram, not corrected: with N pixels, independent images of which K_a and K_b bins
    occur give about ``(K_a - 1) (K_b - 1) / (2 N ln 2)`` bits instead of 0 [2], 0.7 bits for 32 bins and 1000 pixels.
    Small patches want few bins.

    Args:
        first: (C,*S), two or three spatial axes, finite real numbers. Each channel on its own; many patches may come as
            channels.
        second: as ``first``, of its shape.
        num_bins: number of equal bins over ``value_range``, at least 2.
        value_range: grey levels (low, high) of both images; values outside count in the end bins. None: the 0.5 and
            99.5 percentile inside the mask, for each channel of each image.
        mask: (1,*S) or (C,*S), not zero inside. Pixels outside do not count. None: all is inside.

    Returns:
        The mean over the channels, in bits, from 0 to ``log2(num_bins)``.

    Raises:
        ValueError: for a wrong rank, an empty image, NaN or infinity, two shapes, fewer than 2 bins, a range out of
            order, a mask of another shape or without a voxel.
        TypeError: if an image or the mask is no array or tensor of real numbers.

    References:
        [1] Maes et al., "Multimodality image registration by maximization of mutual information", IEEE TMI 16(2), 1997.
        [2] Moddemeijer, "On estimation of entropy and mutual information of continuous distributions", Signal
        Processing 16(3), 1989.

    Example:
        >>> import torch
        >>> image = torch.tensor([[[0.0, 0.0, 1.0, 1.0]] * 2])
        >>> mutual_information(image, 1 - image, num_bins=2)
        1.0
        >>> mutual_information(image, torch.tensor([[[0.0, 1.0, 0.0, 1.0]] * 2]), num_bins=2)
        0.0
    """
    check_bins(num_bins, value_range)
    images = [to_tensor(first, "first"), to_tensor(second, "second")]
    shapes = [tuple(image.shape) for image in images]
    if shapes[0] != shapes[1]:
        raise refusal("second", f"shape {shapes[1]}", f"of the shape {shapes[0]} of `first`")
    inside = to_mask(mask, images[0])
    index = torch.arange(len(inside), device=inside.device).reshape(-1, *[1] * (inside.ndim - 1))
    for image in images:
        index = index * num_bins + to_bins(image.to(inside.device), inside, num_bins, value_range)
    counts = index[inside].bincount(minlength=len(inside) * num_bins**2)
    joint = counts.reshape(-1, num_bins, num_bins) / inside.flatten(1).sum(1)[:, None, None].double()
    bits = _entropy(joint.sum(1)) + _entropy(joint.sum(2)) - _entropy(joint.flatten(1))
    return float(bits.clamp(min=0).mean())


def _entropy(shares: Tensor) -> Tensor:
    """Bits of each row of shares that sum to one."""
    return -torch.xlogy(shares, shares).sum(1) / math.log(2)
