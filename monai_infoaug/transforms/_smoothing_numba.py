"""Filtering along an axis on the CPU: the fast twin of convolutions in ``_smoothing.py``."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from monai_infoaug._numba import jit, over_threads

LINE = 1024  # values that stay in the fastest cache
LINES_PER_THREAD = 256  # fewer are not worth one


@jit
def _lines(values, kernel, stride, out, start, stop):
    """Lines ``start`` to ``stop`` of ``out`` (m): weighted sums of ``values`` (m + n) that are ``stride`` apart.

    ``kernel`` is symmetric, of length 4 j + 1.
    """
    middle = len(kernel) // 2
    for at in range(start * LINE, min(stop * LINE, len(out)), LINE):
        line = out[at : at + LINE]
        size, centre, weight = len(line), values[at + middle * stride :], kernel[middle]
        for i in range(size):
            line[i] = weight * centre[i]
        for k in range(0, middle, 2):  # two pairs at once: the line is read and written less often
            one, two, last = kernel[k], kernel[k + 1], 2 * middle - k
            a, b = values[at + k * stride :][:size], values[at + last * stride :][:size]
            c, d = values[at + (k + 1) * stride :][:size], values[at + (last - 1) * stride :][:size]
            for i in range(size):
                line[i] += one * (a[i] + b[i]) + two * (c[i] + d[i])


def filtered(image: Tensor, axis: int, kernel: Tensor) -> Tensor:
    """An image (C, *S) filtered along an axis by a symmetric kernel of odd length; zero outside."""
    kernel = pad(kernel, [len(kernel) // 2 % 2] * 2).to(image)
    padded = pad(image, [0, 0] * (image.ndim - 1 - axis) + [len(kernel) // 2] * 2)
    stride = padded.stride(axis)
    out = torch.empty_like(padded)  # also of what lies between the lines, so that those may be of any length
    filled = out.view(-1)[: out.numel() - (len(kernel) - 1) * stride]
    arrays = padded.view(-1).numpy(), kernel.numpy(), stride, filled.numpy()
    over_threads(_lines, -(-len(filled) // LINE), *arrays, least=LINES_PER_THREAD)
    return out.narrow(axis, 0, image.shape[axis])
