"""Where a landmark has to lie by the others."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from monai_infoaug._require import refusal

__all__ = ["LandmarkLayout", "LayoutPlaces"]

PRIOR = 10  # images that what is expected of any layout counts as much as
BEND, REACH = 0.05, 0.5  # expected bends of a layout, and how far they reach, in its radii
TURN, AWAY = 0.3, 10.0  # expected linear change, without unit, and shift, in radii
NOISE, START = 0.01, 0.2  # of a landmark that was found well, and of any one at first, in radii
ABSENT = 1e4  # noise in radii of a landmark that was not found
TOLERATED = 3.0  # standard deviations from where the others say that make a landmark an outlier by half
ITERATIONS, ROUNDS = 12, 5  # of the robust fit to an image, and of expectation and maximisation over the images


class LayoutPlaces(NamedTuple):
    """Where the landmarks of images have to lie by the others of the image.

    Args:
        points: (B, L, D) most likely places in millimetres.
        covariances: (B, L, D, D) how uncertain they are, in square millimetres.
        distances: (B, L) millimetres to where the landmarks were found; NaN where they were not.
    """

    points: Tensor
    covariances: Tensor
    distances: Tensor


class LandmarkLayout:
    """How the landmarks of a kind of image lie to each other, learnt from where they were found, right or wrong.

    An image's landmarks are the mean ones, changed by an affine map, and bent. The bends are a Gaussian process whose
    covariance is learnt by expectation and maximisation [1] from a smooth one, so that a single image, or none, is
    enough. Each landmark is predicted from all others of its image, as in leave-one-out cross-validation [2]. Those
    that lie far from where the others say, or that are missing, say little themselves.

    Args:
        template: (L, D) landmarks of a template in millimetres.
        found: (N, L, D) the landmarks in other images, in millimetres; NaN where one was not found.

    Attributes:
        mean: (L, D) mean landmarks in millimetres.
        covariance: (L * D, L * D) of the bends, in square millimetres.

    Raises:
        ValueError: for landmarks of another shape, or a template's that are not finite.

    References:
        1. Dempster, Laird & Rubin, "Maximum likelihood from incomplete data via the EM algorithm", Journal of the Royal
           Statistical Society B 39(1), 1977.
        2. Rasmussen & Williams, "Gaussian processes for machine learning", MIT Press 2006, section 5.4.2.

    Example:
        >>> template = torch.tensor([[0.0, 0.0], [40.0, 0.0], [0.0, 40.0], [40.0, 40.0], [20.0, 20.0]])
        >>> found = template + 7
        >>> found[4] = torch.tensor([90.0, 10.0])  # wrong
        >>> LandmarkLayout(template, found[None]).predict(found[None]).points[0, 4].round()
        tensor([27., 27.], dtype=torch.float64)
    """

    def __init__(self, template: Tensor, found: Tensor) -> None:
        self.mean = torch.as_tensor(template).double().cpu()
        if self.mean.ndim != 2 or self.mean.shape[-1] not in (2, 3) or not self.mean.isfinite().all():
            raise refusal("template", f"shape {tuple(self.mean.shape)}", "(L, 2) or (L, 3), finite")
        places = self._checked(found)
        middle = self.mean.mean(0)
        radius = (self.mean - middle).square().sum(1).mean().sqrt().item() or 1.0  # mm; of one landmark none is known
        self.radius, self.axes = radius, torch.eye(self.mean.shape[1], dtype=torch.float64)
        affine = torch.cat([TURN * (self.mean - middle), torch.full_like(self.mean[:, :1], AWAY * radius)], dim=1)
        self._affine = torch.kron(affine @ affine.T, self.axes)
        far = torch.cdist(self.mean, self.mean) / (REACH * radius)
        smooth = torch.kron((BEND * radius) ** 2 * (-far.square() / 2).exp(), self.axes)
        self.covariance, count = smooth, len(places)
        for _ in range(ROUNDS if count else 0):
            _, away, inverse = self._fit(places)
            bends = (self.covariance @ inverse @ away[..., None])[..., 0]
            unsure = self.covariance - self.covariance @ inverse @ self.covariance
            square = bends.T @ bends + unsure.sum(0)
            self.covariance = (PRIOR * smooth + square) / (PRIOR + count)
            self.mean = self.mean + bends.sum(0).reshape(self.mean.shape) / (1 + count)

    def predict(self, found: Tensor) -> LayoutPlaces:
        """Where the landmarks have to lie.

        Args:
            found: (B, L, D) where those of images were found, in millimetres; NaN where one was not.

        Returns:
            The places by all others, float64.

        Raises:
            ValueError: for landmarks of another shape.
        """
        places = self._checked(found)
        noise, away, inverse = self._fit(places)
        apart, spread = self._without_each(noise, away, inverse)
        known = self.mean + away.reshape(places.shape)
        distances = apart.norm(dim=-1).masked_fill(places.isnan().any(-1), torch.nan)
        return LayoutPlaces(known - apart, spread, distances)

    def _checked(self, found: Tensor) -> Tensor:
        places = torch.as_tensor(found).double().cpu()
        if places.ndim != 3 or places.shape[1:] != self.mean.shape:
            raise refusal("found", f"shape {tuple(places.shape)}", f"(N, {', '.join(map(str, self.mean.shape))})")
        return places

    def _fit(self, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Noise (B, L) of landmarks in mm, offsets (B, L * D) from the mean, and inverse of the covariance of these."""
        missing = places.isnan().any(-1)
        away = (places - self.mean).masked_fill(missing[..., None], 0.0).flatten(1)
        least = NOISE * self.radius
        noise = torch.full(missing.shape, START * self.radius, dtype=torch.float64)
        for step in range(ITERATIONS + 1):
            noise = noise.masked_fill(missing, ABSENT * self.radius)
            own = noise.square().repeat_interleave(len(self.axes), 1)
            inverse = torch.linalg.inv(self._affine + self.covariance + torch.diag_embed(own))
            if step < ITERATIONS:
                apart, spread = self._without_each(noise, away, inverse)
                square = apart.square().mean(-1)
                expected = torch.linalg.solve(spread + least**2 * self.axes, apart[..., None])[..., 0]
                surprise = (apart * expected).mean(-1)
                # what is no surprise is a bend; what is one is noise
                noise = (least**2 + square * surprise / (surprise + TOLERATED**2)).sqrt()
        return noise, away, inverse

    def _without_each(self, noise: Tensor, away: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
        """How far (B, L, D) landmarks lie from where the others say, and the covariances (B, L, D, D) of that place."""
        count, dims = self.mean.shape
        blocks = inverse.reshape(-1, count, dims, count, dims).diagonal(dim1=1, dim2=3).movedim(-1, 1)
        spread = torch.linalg.inv(blocks)
        scaled = (inverse @ away[..., None]).reshape(-1, count, dims, 1)
        return (spread @ scaled)[..., 0], spread - noise.square()[..., None, None] * self.axes
