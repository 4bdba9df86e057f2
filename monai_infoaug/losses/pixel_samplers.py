"""Which pixels a label-based contrast compares: every so many, block by block, or drawn by class and information."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from monai_infoaug._require import require

__all__ = ["BlockPixels", "DrawnPixels", "StridePixels"]


def _checked(features: Tensor, labels: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    require(features.ndim >= 3, "features", f"shape {tuple(features.shape)}", "of shape (B, F, *S)")
    wanted = (len(features), 1, *features.shape[2:])
    require(labels.shape == wanted, "labels", f"shape {tuple(labels.shape)}", f"of shape {wanted}")
    valid = torch.ones_like(labels, dtype=torch.bool) if valid is None else valid
    good = valid.shape == wanted and valid.dtype == torch.bool
    require(good, "valid", f"{valid.dtype} of shape {tuple(valid.shape)}", f"bool of shape {wanted}")
    return tuple(x.as_subclass(Tensor) for x in (features, labels, valid))


def _each_axis(value: int | Sequence[int], name: str, dims: int) -> tuple[int, ...]:
    require(np.shape(value) in ((), (dims,)), name, value, f"one number, or one for each of {dims} axes")
    return tuple(np.broadcast_to(value, dims).tolist())


def _shared(weights: Tensor, groups: Tensor) -> Tensor:
    """Weights (B, N), scaled to a sum of one in each of the groups (B, N) of an image."""
    totals = weights.new_zeros(len(groups), int(groups.max()) + 1).scatter_add_(1, groups, weights)
    return weights / totals.gather(1, groups).clamp_min(torch.finfo(weights.dtype).tiny)


class StridePixels:
    """Every so many pixels along each axis; the similarities shrink by the fourth power of the stride in 2D [1].

    Args:
        stride: pixels, one number or one for each axis.

    Raises:
        ValueError: for a stride below 1, or of another number of axes than the features.

    References:
        1. Hu et al., "Semi-supervised contrastive learning for label-efficient medical image segmentation", MICCAI
           2021, arXiv:2109.07407.

    Example:
        >>> features, labels, valid = StridePixels(4)(torch.rand(2, 8, 10, 9), torch.zeros(2, 1, 10, 9))
        >>> features.shape, labels.shape
        (torch.Size([2, 8, 3, 3]), torch.Size([2, 1, 3, 3]))
    """

    def __init__(self, stride: int | Sequence[int]) -> None:
        require(lambda: np.min(stride) >= 1, "stride", stride, "at least 1")
        self.stride = stride

    def __call__(
        self, features: Tensor, labels: Tensor, valid: Tensor | None = None, tiers: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Sample.

        Args:
            features, labels: (B, F, *S) and (B, 1, *S).
            valid: (B, 1, *S) bool, the pixels that may have a part.
            tiers: have no part here.

        Returns:
            Features, labels and valid of the sample, shaped alike.
        """
        maps = _checked(features, labels, valid)
        steps = _each_axis(self.stride, "stride", features.ndim - 2)
        index = (..., *(slice(None, None, step) for step in steps))
        return tuple(x[index] for x in maps)


class BlockPixels:
    """Blocks in place of images, so that a pixel is compared within its block [1].

    No pixel is left out: what a last block has beyond the border is not valid.

    Args:
        size: pixels of a block, one number or one for each axis.

    Raises:
        ValueError: for a size below 1, or of another number of axes than the features.

    References:
        1. Hu et al., "Semi-supervised contrastive learning for label-efficient medical image segmentation", MICCAI
           2021, arXiv:2109.07407.

    Example:
        >>> features, labels, valid = BlockPixels(4)(torch.rand(2, 8, 10, 9), torch.zeros(2, 1, 10, 9))
        >>> features.shape, int(valid.sum())
        (torch.Size([18, 8, 4, 4]), 180)
    """

    def __init__(self, size: int | Sequence[int] = 16) -> None:
        require(lambda: np.min(size) >= 1, "size", size, "at least 1")
        self.size = size

    def __call__(
        self, features: Tensor, labels: Tensor, valid: Tensor | None = None, tiers: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Sample.

        Args:
            features, labels: (B, F, *S) and (B, 1, *S).
            valid: (B, 1, *S) bool, the pixels that may have a part.
            tiers: have no part here.

        Returns:
            Features, labels and valid of the blocks, (B * blocks, ..., *size), image by image.
        """
        size = _each_axis(self.size, "size", features.ndim - 2)
        return tuple(self._divided(x, size) for x in _checked(features, labels, valid))

    @staticmethod
    def _divided(x: Tensor, size: Sequence[int]) -> Tensor:
        more = [-length % step for length, step in zip(x.shape[2:], size, strict=True)]
        x = pad(x, [side for width in reversed(more) for side in (0, width)])
        for axis, step in enumerate(size):  # (B, F, *S) to (B, F, number, size, number, size, ...)
            x = x.unflatten(2 + 2 * axis, (-1, step))
        numbers = range(2, x.ndim, 2)
        return x.permute(0, *numbers, 1, *(number + 1 for number in numbers)).flatten(0, len(size))


class DrawnPixels:
    """Pixels drawn at random without replacement, in each image the same number.

    What decides a pixel's chance: its class (all classes of an image get the same share), its tier of information
    (the guidance of [1], here for pixels with labels), both, or nothing.

    Args:
        number: of pixels to draw from each image; where there are fewer, the rest is not valid.
        balanced: share the draws equally among the classes that an image shows.
        shares: of the (low, medium, high) tier in the draws, not negative, summing to one; tiers that are not there are
            left out and the rest scaled up. With ``balanced``, so in each class.

    Raises:
        ValueError: for a number below 1, shares that do not sum to one, or no tiers where there are shares.

    References:
        1. Quan et al., "Information-guided pixel augmentation for pixel-wise contrastive learning", IEEE TMI 44(1),
           2025, arXiv:2211.07118.

    Example:
        >>> labels = torch.tensor([[[[0] * 98 + [1, 2]]]])
        >>> features, labels, valid = DrawnPixels(3, balanced=True)(torch.rand(1, 8, 1, 100), labels)
        >>> features.shape, labels.shape
        (torch.Size([1, 8, 3]), torch.Size([1, 1, 3]))
    """

    def __init__(self, number: int, balanced: bool = False, shares: Sequence[float] | None = None) -> None:
        require(lambda: number >= 1, "number", number, "at least 1")
        good = shares is None or (len(shares) == 3 and min(shares) >= 0 and np.isclose(sum(shares), 1))
        require(good, "shares", shares, "three shares (low, medium, high), not negative, that sum to one")
        self.number, self.balanced, self.shares = number, balanced, shares

    def __call__(
        self, features: Tensor, labels: Tensor, valid: Tensor | None = None, tiers: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Sample.

        Args:
            features, labels: (B, F, *S) and (B, 1, *S).
            valid: (B, 1, *S) bool, the pixels that may be drawn.
            tiers: (B, 1, *S), 0, 1 or 2.

        Returns:
            Features (B, F, number), labels and valid (B, 1, number) of the sample.
        """
        features, labels, valid = (x.flatten(2) for x in _checked(features, labels, valid))
        classes = labels.unique(return_inverse=True)[1][:, 0]
        density = valid[:, 0].to(torch.float32)
        if self.shares is not None:
            tiers = self._tiers(tiers, density)
            density = _shared(density, 3 * classes + tiers if self.balanced else tiers)
            density = density * density.new_tensor(self.shares)[tiers]
        if self.balanced:
            density = _shared(density, classes)
        # the largest of log density + Gumbel noise are a draw without replacement
        noise = -torch.empty_like(density).exponential_().log()
        count = min(self.number, density.shape[1])
        keys, index = (density.log() + noise).topk(count, dim=1)
        drawn = [x.gather(2, index[:, None].expand(-1, x.shape[1], -1)) for x in (features, labels)]
        drawn.append((keys > -torch.inf)[:, None])
        return tuple(pad(x, (0, self.number - count)) for x in drawn)

    @staticmethod
    def _tiers(tiers: Tensor | None, like: Tensor) -> Tensor:
        require(tiers is not None, "tiers", None, "given where there are `shares`")
        tiers = tiers.as_subclass(Tensor).flatten(1).to(like.device, torch.long)
        require(tiers.shape == like.shape, "tiers", f"shape {tuple(tiers.shape)}", f"{tuple(like.shape)}, flattened")
        require(bool(((tiers >= 0) & (tiers < 3)).all()), "tiers", "others", "0, 1 or 2")
        return tiers
