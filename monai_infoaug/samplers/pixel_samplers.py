"""Which pixels a label-based contrast compares: every so many, block by block, or drawn by class and information."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from monai_infoaug._grid import plain
from monai_infoaug._processes import item_generators
from monai_infoaug._require import are_counts, is_count, listed, refusal, require_shares, require_truth
from monai_infoaug._settings import ShowsSettings

__all__ = ["BlockPixels", "DrawnPixels", "StridePixels"]


class _PixelSampler(ShowsSettings, ABC):
    """What the samplers have in common: what they take and give, and the checks of it."""

    def __call__(
        self, labels: Tensor, valid: Tensor | None = None, tiers: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Choose pixels.

        Args:
            labels: (B, 1, *S) class numbers.
            valid: (B, 1, *S) bool, the pixels that may have a part; None: all.
            tiers: (B, 1, *S) with 0, 1 or 2, for a sampler that asks for them.

        Returns:
            Places (B, sets, N): which of an image's pixels, in the order of ``flatten``, are in each of its sets; and
            valid (B, sets, N) bool, whether they have a part.
        """
        if labels.ndim < 3 or labels.shape[1] != 1:
            raise refusal("labels", f"shape {tuple(labels.shape)}", "of shape (B, 1, *S)")
        valid = torch.ones_like(labels, dtype=torch.bool) if valid is None else valid
        if valid.shape != labels.shape or valid.dtype != torch.bool:
            got, accepted = f"{valid.dtype} of shape {tuple(valid.shape)}", f"bool of shape {tuple(labels.shape)}"
            raise refusal("valid", got, accepted)
        labels, valid = (plain(x)[:, 0] for x in (labels, valid))
        places = self._places(labels, valid, tiers)
        there, places = places >= 0, places.clamp_min(0)
        return places, there & valid.flatten(1).gather(1, places.flatten(1)).view_as(places)

    @abstractmethod
    def _places(self, labels: Tensor, valid: Tensor, tiers: Tensor | None) -> Tensor:
        """Places (B, sets, N) in images with labels and valid (B, *S); -1 for none."""


def _require_counts(value: int | Sequence[int], name: str) -> None:
    if not is_count(value, 1) and not are_counts(value, 1):
        raise refusal(name, value, "a whole number of at least 1, or one for each axis")


def _each_axis(value: int | Sequence[int], name: str, dims: int) -> tuple[int, ...]:
    """A value for each of the axes, given one or as many."""
    values = listed(value) or [value] * dims
    if len(values) != dims:
        raise refusal(name, value, f"one number, or one for each of {dims} axes")
    return tuple(values)


def _numbered(labels: Tensor) -> Tensor:
    """The numbers of an image's pixels, S, for images (B, *S)."""
    return torch.arange(labels[0].numel(), device=labels.device).view(labels.shape[1:])


def _shared(weights: Tensor, groups: Tensor, count: int) -> Tensor:
    """Weights (B, N), scaled to a sum of one in each of the ``count`` groups (B, N) of an image."""
    totals = weights.new_zeros(len(groups), count).scatter_add_(1, groups, weights)
    return weights / totals.gather(1, groups).clamp_min(torch.finfo(weights.dtype).tiny)


class StridePixels(_PixelSampler):
    """Every so many pixels along each axis; the similarities shrink by the fourth power of the stride in 2D [1].

    A sampler is called with labels (B, 1, *S) and, if not all pixels may have a part, valid (B, 1, *S) bool. It returns
    places (B, sets, N), which of an image's pixels, in the order of ``flatten``, are in each of its sets, whose pixels
    are compared with each other; and valid (B, sets, N) bool. Embeddings are not asked for, so that no more of them
    need be computed than are compared, see ``EmbeddingHeads``. The other samplers are called alike.

    Args:
        stride: pixels from one to the next, at least 1, one number or one for each axis.

    Raises:
        ValueError: for a stride below 1, or of another number of axes than the image.

    References:
        1. Hu et al., "Semi-supervised contrastive learning for label-efficient medical image segmentation", MICCAI
           2021, arXiv:2109.07407.

    Example:
        >>> places, valid = StridePixels(4)(torch.zeros(1, 1, 10, 9))
        >>> places
        tensor([[[ 0,  4,  8, 36, 40, 44, 72, 76, 80]]])
    """

    def __init__(self, stride: int | Sequence[int]) -> None:
        _require_counts(stride, "stride")
        self.stride = stride

    def _places(self, labels: Tensor, valid: Tensor, tiers: Tensor | None) -> Tensor:  # noqa: ARG002
        steps = _each_axis(self.stride, "stride", labels.ndim - 1)
        chosen = _numbered(labels)[tuple(slice(None, None, step) for step in steps)]
        return chosen.flatten().expand(len(labels), 1, -1)


class BlockPixels(_PixelSampler):
    """Blocks in place of images, so that a pixel is compared within its block [1].

    No pixel is left out: what a last block has beyond the border is not valid. Each block is a set.

    Args:
        size: pixels along the side of a block, at least 1, one number or one for each axis.

    Raises:
        ValueError: for a size below 1, or of another number of axes than the image.

    References:
        1. Hu et al., "Semi-supervised contrastive learning for label-efficient medical image segmentation", MICCAI
           2021, arXiv:2109.07407.

    Example:
        >>> places, valid = BlockPixels(4)(torch.zeros(2, 1, 10, 9))
        >>> places.shape, int(valid.sum())
        (torch.Size([2, 9, 16]), 180)
    """

    def __init__(self, size: int | Sequence[int] = 16) -> None:
        _require_counts(size, "size")
        self.size = size

    def _places(self, labels: Tensor, valid: Tensor, tiers: Tensor | None) -> Tensor:  # noqa: ARG002
        size = _each_axis(self.size, "size", labels.ndim - 1)
        more = [-length % step for length, step in zip(labels.shape[1:], size, strict=True)]
        blocks = pad(_numbered(labels), [side for width in reversed(more) for side in (0, width)], value=-1)
        for axis, step in enumerate(size):  # S to (count, size, count, size, ...)
            blocks = torch.unflatten(blocks, 2 * axis, (-1, step))
        counts = range(0, blocks.ndim, 2)
        blocks = blocks.permute(*counts, *(axis + 1 for axis in counts))
        return blocks.reshape(-1, math.prod(size)).expand(len(labels), -1, -1)


class DrawnPixels(_PixelSampler):
    """Pixels drawn at random without replacement, in each image the same number.

    What decides a pixel's chance: its class (all classes of an image get the same share), its tier of information
    (the guidance of [1], here for pixels with labels), both, or nothing. An image has one set, of ``pixels_per_image``
    pixels.

    Args:
        pixels_per_image: number of pixels to draw from each image; where there are fewer, the rest is not valid.
        balanced: whether to share the draws equally among the classes that an image shows.
        shares: shares of the (low, medium, high) tier in the draws, not negative, summing to one; tiers that are not
            there are left out and the rest scaled up. With ``balanced``, so in each class.
        seed: seed of the draws, a non-negative integer; with ``set_epoch`` at the start of each epoch, a training that
            was stopped and goes on draws as one that ran through.

    Raises:
        ValueError: for less than one pixel, shares that do not sum to one, a negative seed, or no tiers where there are
            shares.

    References:
        1. Quan et al., "IGU-Aug: information-guided unsupervised augmentation and pixel-wise contrastive learning for
           medical image analysis", IEEE TMI 44(1):154-164, 2025, arXiv:2211.07118.

    Example:
        >>> labels = torch.tensor([[[[0] * 98 + [1, 2]]]])
        >>> places, valid = DrawnPixels(3, balanced=True)(labels)
        >>> places.shape
        torch.Size([1, 1, 3])
    """

    def __init__(
        self, pixels_per_image: int, balanced: bool = False, shares: Sequence[float] | None = None, seed: int = 0
    ) -> None:
        require_truth(balanced=balanced)
        if not is_count(pixels_per_image, 1):
            raise refusal("pixels_per_image", pixels_per_image, "a whole number of at least 1")
        require_shares(shares)
        if not is_count(seed):
            raise refusal("seed", seed, "a non-negative integer")
        self.pixels_per_image, self.balanced, self.shares, self.seed = pixels_per_image, balanced, shares, seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Draw from now on as an epoch does from its start.

        Args:
            epoch: number of the epoch, from 0 on.
        """
        if not is_count(epoch):
            raise refusal("epoch", epoch, "a whole number of at least 0")
        self.epoch, self.draws = epoch, 0

    def _places(self, labels: Tensor, valid: Tensor, tiers: Tensor | None) -> Tensor:
        density = valid.flatten(1).to(torch.float32)
        classes, count = torch.zeros_like(density, dtype=torch.long), 1
        if self.balanced:
            known, classes = torch.unique(labels.flatten(1), return_inverse=True)
            count = len(known)
        if self.shares is not None:
            tiers = self._tiers(tiers, density)
            density = _shared(density, 3 * classes + tiers, 3 * count)
            density = density * density.new_tensor(self.shares)[tiers]
        if self.balanced:
            density = _shared(density, classes, count)
        # the largest of log density + Gumbel noise are a draw without replacement
        images = item_generators(len(density), self.seed, self.epoch, self.draws)
        self.draws += 1
        noise = torch.stack([torch.empty(density.shape[1]).exponential_(generator=each) for each in images])
        noise = -noise.log().to(density)
        keys, places = (density.log() + noise).topk(min(self.pixels_per_image, density.shape[1]), dim=1)
        rest = self.pixels_per_image - places.shape[1]
        return pad(places.masked_fill(keys == -torch.inf, -1), (0, rest), value=-1)[:, None]

    @staticmethod
    def _tiers(tiers: Tensor | None, like: Tensor) -> Tensor:
        """Checked tiers (B, N), on the device of ``like`` (B, N)."""
        if tiers is None:
            raise refusal("tiers", None, "given where there are `shares`")
        if tiers.ndim < 2 or tiers.flatten(1).shape != like.shape:
            raise refusal("tiers", f"shape {tuple(tiers.shape)}", f"{tuple(like.shape)}, flattened")
        tiers = plain(tiers).flatten(1).to(like.device, torch.long)
        if ((tiers < 0) | (tiers > 2)).any():
            raise refusal("tiers", f"from {tiers.min()} to {tiers.max()}", "0, 1 or 2")
        return tiers
