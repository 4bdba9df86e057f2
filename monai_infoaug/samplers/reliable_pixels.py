"""Which of a network's own segmentations to learn from: the most confident ones of each class."""

from __future__ import annotations

import torch
from torch import Tensor

from monai_infoaug._require import is_number, refusal, require_ignore_index
from monai_infoaug._settings import ShowsSettings
from monai_infoaug.samplers._pixel_sample import PixelSample

__all__ = ["ReliablePixels"]


class ReliablePixels(ShowsSettings):
    """Chooses the most confident pixels of each class, over all images together [1, 2].

    One threshold for all classes would leave out those that are seldom found or hard. With tiers, the choice is made in
    each tier of information by itself: otherwise the confident pixels are those inside of organs, and few of them are
    where the boundary is. The choice by tier is ours.

    First :py:meth:`update` with the probabilities of all images, then call it with those to label.

    Args:
        share: share of the pixels of a class (and tier) that are chosen, above 0, at most 1.
        at_least: probability below which no pixel is chosen.
        pixels_per_image: number of pixels of each image that the thresholds are estimated from, drawn at random.
        ignore_index: label of the pixels that are not chosen.
        seed: seed of the draws, a non-negative integer.
        over_processes: whether the images are those of all processes, each of which must call :py:meth:`thresholds`, or
            a first image, after its last :py:meth:`update`.

    Raises:
        ValueError: for settings out of range, shapes that do not fit each other, thresholds of no image, and where some
            images come with tiers and others without.

    References:
        1. Zou et al., "Unsupervised domain adaptation for semantic segmentation via class-balanced self-training", ECCV
           2018, arXiv:1810.07911.
        2. Luo, Chen and Tan, source-free adaptation by rectified pseudo-labels (PR-SFDA), arXiv:2106.12123.

    Example:
        >>> reliable = ReliablePixels(share=0.5)
        >>> probabilities = torch.tensor([[0.9, 0.8, 0.7, 0.1], [0.1, 0.2, 0.3, 0.9]])[None]
        >>> reliable.update(probabilities)
        >>> reliable(probabilities)
        tensor([[[ 0,  0, -1,  1]]])
    """

    def __init__(
        self,
        share: float = 0.1,
        at_least: float = 0.5,
        pixels_per_image: int = 65_536,
        ignore_index: int = -1,
        seed: int = 0,
        over_processes: bool = False,
    ) -> None:
        if not is_number(share, 0, 1) or share == 0:
            raise refusal("share", share, "above 0 and at most 1")
        if not is_number(at_least, 0, 1):
            raise refusal("at_least", at_least, "from 0 to 1")
        require_ignore_index(ignore_index)
        self.share, self.at_least, self.ignore_index = share, at_least, ignore_index
        self.pixels_per_image, self.seed, self.over_processes = pixels_per_image, seed, over_processes
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self._sample = PixelSample(self.pixels_per_image, self.seed, self.over_processes)  # confidence, class, tier
        self._kinds: set[tuple[int, int]] = set()  # classes, tiers
        self._thresholds: Tensor | None = None  # of what was counted in so far

    def update(self, probabilities: Tensor, tiers: Tensor | None = None) -> None:
        """Count images in.

        Args:
            probabilities: (B, C, *S), of classes that exclude each other.
            tiers: (B, 1, *S), 0 to 2; None: no distinction.
        """
        confidence, found, tier = self._maps(probabilities, tiers)
        self._sample.add(torch.cat([confidence, found.to(confidence), tier.to(confidence)], 1))
        self._thresholds = None
        self._kinds.add((probabilities.shape[1], 1 if tiers is None else 3))

    def thresholds(self) -> Tensor:
        """The probability from which on a pixel is chosen, by tier and class.

        Returns:
            (1, C) without tiers, (3, C) with them, float32 on the CPU.
        """
        if self._thresholds is None:
            self._thresholds = self._measure()
        return self._thresholds

    def _measure(self) -> Tensor:
        confidence, found, tier = self._sample.pixels().T
        if len(self._kinds) != 1:
            accepted = "all with tiers or all without, of the same classes"
            raise refusal("images", f"(classes, tiers) {self._kinds}", accepted)
        ((classes, tiers),) = self._kinds
        thresholds = torch.full((tiers, classes), self.at_least)
        for t in range(tiers):
            for c in range(classes):
                own = confidence[(found == c) & (tier == t)].sort(descending=True).values
                if len(own):
                    last = own[max(1, round(self.share * len(own))) - 1]
                    thresholds[t, c] = max(self.at_least, last.item())
        return thresholds

    def __call__(self, probabilities: Tensor, tiers: Tensor | None = None) -> Tensor:
        """Choose from images.

        Args:
            probabilities: (B, C, *S), as those that were counted in.
            tiers: (B, 1, *S), 0 to 2, if those came with tiers.

        Returns:
            Labels (B, 1, *S), the most probable class where it is reliable, elsewhere ``ignore_index``.
        """
        thresholds = self.thresholds().to(probabilities.device)
        with_tiers = len(thresholds) > 1
        if (tiers is not None) != with_tiers:
            raise refusal("tiers", type(tiers).__name__, f"as given to `update`: {with_tiers}")
        confidence, found, tier = self._maps(probabilities, tiers)
        return torch.where(confidence >= thresholds[tier, found], found, self.ignore_index)

    @staticmethod
    def _maps(probabilities: Tensor, tiers: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Confidence, class and tier of each pixel, (B, 1, *S) each."""
        shape = tuple(probabilities.shape)
        if len(shape) < 3 or shape[1] < 2:
            raise refusal("probabilities", f"shape {shape}", "of shape (B, C, *S), C > 1")
        confidence, found = probabilities.detach().float().max(1, keepdim=True)
        if tiers is None:
            return confidence, found, torch.zeros_like(found)
        if tiers.shape != found.shape:
            raise refusal("tiers", f"shape {tuple(tiers.shape)}", f"of shape {tuple(found.shape)}")
        return confidence, found, tiers.long()
