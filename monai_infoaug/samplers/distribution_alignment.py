"""How often a network finds each class in images of another site, brought to how often it should."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from monai_infoaug._require import all_finite, is_number, listed, refusal
from monai_infoaug._settings import ShowsSettings
from monai_infoaug.samplers._pixel_sample import PixelSample

__all__ = ["DistributionAlignment"]


class DistributionAlignment(ShowsSettings):
    """Brings the shares of the classes in the foreground to expected ones, over all images together [1].

    A network expects the shares that the classes had where it learnt, and finds too little of a structure that is
    larger elsewhere. So each class but the first has its probability multiplied by a factor, the same in all pixels,
    such that the mean probabilities have the expected shares. That a pixel is no background stays as probable as it
    was: how much background there is says only how far images reach around the structures. Aligning within the
    foreground is ours.

    First :py:meth:`update` with the probabilities of all images, then call it with those to align.

    Args:
        strength: from 0, the shares as they were found, to 1, the expected ones; in between on a logarithmic scale.
        shares: expected shares of the classes but the first, above 0, in any unit; None: all alike.
        pixels_per_image: number of pixels of each image that the factors are estimated from, drawn at random.
        seed: seed of the draws, a non-negative integer.
        over_processes: whether the images are those of all processes, each of which must call :py:meth:`factors`, or a
            first image, after its last :py:meth:`update`.

    Raises:
        ValueError: for settings out of range, probabilities of other shapes or numbers of classes than of the images
            before or of ``shares``, and factors of no image or of probabilities that are not finite.

    References:
        1. Berthelot et al., "ReMixMatch: semi-supervised learning with distribution alignment and augmentation
           anchoring", ICLR 2020, arXiv:1911.09785.

    Example:
        >>> alignment = DistributionAlignment()
        >>> probabilities = torch.tensor([[0.5, 0.0, 0.5], [0.4, 0.7, 0.4], [0.1, 0.3, 0.1]])[None]
        >>> alignment.update(probabilities)
        >>> aligned = alignment(probabilities)
        >>> aligned.mean(-1)
        tensor([[0.3333, 0.3333, 0.3333]])
        >>> aligned[0, :, 1]
        tensor([0.0000, 0.4330, 0.5670])
    """

    def __init__(
        self,
        strength: float = 1.0,
        shares: Sequence[float] | None = None,
        pixels_per_image: int = 16_384,
        seed: int = 0,
        over_processes: bool = False,
    ) -> None:
        if not is_number(strength, 0, 1):
            raise refusal("strength", strength, "from 0 to 1")
        if shares is not None and not _all_above_0(shares):
            raise refusal("shares", shares, "above 0")
        self.strength, self.shares, self.pixels_per_image = strength, shares, pixels_per_image
        self.seed, self.over_processes = seed, over_processes
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self._sample = PixelSample(self.pixels_per_image, self.seed, self.over_processes)
        self._factors: Tensor | None = None  # of what was counted in so far

    def update(self, probabilities: Tensor) -> None:
        """Count images in.

        Args:
            probabilities: (B, C, *S), of classes that exclude each other, the first the background.
        """
        self._check(probabilities)
        self._sample.add(probabilities[:, 1:].detach())
        self._factors = None

    def factors(self) -> Tensor:
        """By what each class but the first is multiplied.

        Returns:
            (C - 1,) float64 on the CPU, with a geometric mean of 1. Images of background alone leave open what the
            shares are: all are 1 then.
        """
        if self._factors is None:
            self._factors = self._measure()
        return self._factors

    def _measure(self) -> Tensor:
        pixels = self._sample.pixels().double()
        if not all_finite(pixels):
            raise refusal("probabilities", "NaN or infinite ones", "finite")
        if not pixels.any():
            return torch.ones_like(pixels[0])
        weights = pixels.sum(1) / pixels.sum()
        logits = pixels.clamp_min(1e-12).log()
        found = torch.einsum("n,nc->c", weights, logits.softmax(1)).log()
        expected = torch.zeros_like(found) if self.shares is None else torch.tensor(self.shares).to(found).log()
        wanted = ((1 - self.strength) * found + self.strength * expected).softmax(0)
        bias = torch.zeros_like(found, requires_grad=True)
        optimizer = torch.optim.LBFGS([bias], max_iter=200, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

        def distance() -> Tensor:  # convex; its gradient is how far the shares are from the wanted ones
            optimizer.zero_grad()
            value = weights @ (logits + bias).logsumexp(1) - wanted @ bias
            torch.autograd.backward(value)
            return value

        optimizer.step(distance)  # type: ignore[no-untyped-call]
        return (bias - bias.mean()).exp().detach()

    def __call__(self, probabilities: Tensor) -> Tensor:
        """Scale probabilities.

        Args:
            probabilities: (B, C, *S), as those that were counted in.

        Returns:
            (B, C, *S) float32, with the expected shares.
        """
        self._check(probabilities)
        probabilities = probabilities.detach().float()
        background, classes = probabilities[:, :1], probabilities[:, 1:]
        factors = self.factors().to(classes).view(-1, *[1] * (probabilities.ndim - 2))
        scaled = classes * factors
        total = classes.sum(1, keepdim=True) / scaled.sum(1, keepdim=True).clamp_min(1e-30)
        return torch.cat([background, scaled * total], 1)

    def _check(self, probabilities: Tensor) -> None:
        shape = tuple(probabilities.shape)
        known = [pixels.shape[1] + 1 for pixels in self._sample.parts[:1]]
        classes = (known[0] if known else None) if self.shares is None else len(self.shares) + 1
        if len(shape) < 3 or shape[1] < 2 or classes not in (None, shape[1]):
            raise refusal("probabilities", f"shape {shape}", f"of shape (B, C, *S), C = {classes or 'at least 2'}")


def _all_above_0(values: Sequence[float]) -> bool:
    return len(listed(values)) > 0 and all(is_number(value) and value > 0 for value in listed(values))
