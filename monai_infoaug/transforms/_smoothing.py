"""Separable smoothing of images."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from monai.networks.layers import separable_filtering
from torch import Tensor

from monai_infoaug.transforms._twins import compiled

REACH = 4.5  # standard deviations: what lies beyond weighs less than 1e-5


def filtered(image: Tensor, kernels: Sequence[Tensor]) -> Tensor:
    """An image (C, *S) filtered along each axis by a symmetric kernel of odd length; zero outside."""
    fast = compiled("_smoothing_numba", image.device)
    if not fast:
        return separable_filtering(image[None], list(kernels))[0]
    for axis, kernel in enumerate(kernels, 1):
        image = fast.filtered(image, axis, kernel)
    return image


def smoothed(image: Tensor, sigma: float) -> Tensor:
    """Gaussian smoothing of (C, *S), normalised at the border, so that maps that sum to one still do."""
    fast = compiled("_smoothing_numba", image.device)
    for axis, size in enumerate(image.shape[1:], 1):
        if fast:
            reach = min(math.ceil(REACH * sigma), size - 1)
            steps = torch.arange(-reach, reach + 1, dtype=image.dtype)
            kernel = torch.exp(-0.5 * (steps / sigma) ** 2)
            weight = fast.filtered(torch.ones(1, size, dtype=image.dtype), 1, kernel)
            image = fast.filtered(image, axis, kernel).div_(weight.view(-1, *[1] * (image.ndim - axis - 1)))
        else:
            index = torch.arange(size, device=image.device, dtype=image.dtype)
            kernel = torch.softmax(-0.5 * ((index[:, None] - index) / sigma) ** 2, dim=1)
            kernel = kernel.masked_fill(kernel < 1e-10, 0)  # products of denormal numbers take 20 times as long
            image = (image.movedim(axis, -1) @ kernel.T).movedim(-1, axis)
    return image
