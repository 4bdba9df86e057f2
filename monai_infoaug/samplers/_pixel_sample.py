"""Pixels of many images, drawn at random, that something is estimated from."""

from __future__ import annotations

import torch
from torch import Tensor

from monai_infoaug._processes import all_gather_ragged, item_generators, world_size
from monai_infoaug._require import is_count, refusal, require_truth


class PixelSample:
    """Values of some pixels of each image; several processes draw them as one would have.

    Args:
        pixels_per_image: number of pixels to draw from each image, at least 1; all of an image that has fewer.
        seed: seed of the draws, a non-negative integer.
        over_processes: whether the images are those of all processes.

    Raises:
        ValueError: for settings out of range, and pixels of no image.
    """

    def __init__(self, pixels_per_image: int, seed: int, over_processes: bool) -> None:
        require_truth(over_processes=over_processes)
        if not is_count(pixels_per_image, 1):
            raise refusal("pixels_per_image", pixels_per_image, "a whole number of at least 1")
        if not is_count(seed):
            raise refusal("seed", seed, "a non-negative integer")
        self.pixels_per_image, self.seed, self.over_processes = pixels_per_image, seed, over_processes
        self.parts: list[Tensor] = []

    def add(self, maps: Tensor) -> None:
        """Draw from images (B, K, *S)."""
        draws = item_generators(len(maps), self.seed, world_size() * len(self.parts))
        for image, generator in zip(maps.flatten(2), draws, strict=True):
            drawn = torch.randperm(image.shape[1], generator=generator)[: self.pixels_per_image]
            self.parts.append(image[:, drawn.to(image.device)].T.cpu())

    def pixels(self) -> Tensor:
        """All that were drawn, (N, K); with ``over_processes`` each process must call it."""
        if not self.parts:
            raise refusal("images", "none", "given to `update` first")
        own = torch.cat(self.parts)
        return all_gather_ragged(own) if self.over_processes else own
