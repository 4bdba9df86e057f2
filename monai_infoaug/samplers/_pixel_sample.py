"""Pixels of many images, drawn at random, that something is estimated from."""

from __future__ import annotations

import torch
from torch import Tensor

from monai_infoaug._processes import gathered, generators, number_of_processes
from monai_infoaug._require import refusal


class PixelSample:
    """Values of pixels, as one process would have drawn them.

    Args:
        number: pixels an image, at least 1.
        seed: of the draws.
        over_processes: the images are those of all processes.

    Raises:
        ValueError: for a number below 1, and pixels of no image.
    """

    def __init__(self, number: int, seed: int, over_processes: bool) -> None:
        if not (number >= 1):
            raise refusal("number", number, "at least 1")
        self.number, self.seed, self.over_processes = number, seed, over_processes
        self.parts: list[Tensor] = []

    def add(self, maps: Tensor) -> None:
        """Draw from images (B, K, \\*S)."""
        draws = generators(len(maps), self.seed, number_of_processes() * len(self.parts))
        for image, generator in zip(maps.flatten(2), draws, strict=True):
            drawn = torch.randperm(image.shape[1], generator=generator)[: self.number]
            self.parts.append(image[:, drawn.to(image.device)].T.cpu())

    def pixels(self) -> Tensor:
        """All that were drawn, (N, K); with ``over_processes`` each process must call it."""
        if len(self.parts) == 0:
            raise refusal("images", "none", "given to `update` first")
        own = torch.cat(self.parts)
        return gathered(own) if self.over_processes else own
