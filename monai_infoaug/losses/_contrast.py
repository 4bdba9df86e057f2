"""What the losses that contrast corresponding points have in common."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from monai_infoaug._processes import distributed_mean
from monai_infoaug._require import is_number, refusal, require_truth
from monai_infoaug._settings import ShowsSettings


class PointContrast(ShowsSettings, nn.Module):
    """Settings of a contrast, and the checks of what every call brings.

    Args:
        temperature: divisor of the cosine similarities, above 0.
        radius: distance within which nothing is a negative, at least 0.
        symmetric: whether to take the mean of both directions.
        over_processes: whether the mean is that over the points of all processes.

    Raises:
        ValueError: for a temperature or radius out of range.
    """

    def __init__(
        self, temperature: float = 0.1, radius: float = 0.0, symmetric: bool = True, over_processes: bool = False
    ) -> None:
        super().__init__()
        require_truth(symmetric=symmetric, over_processes=over_processes)
        if not is_number(temperature) or temperature <= 0:
            raise refusal("temperature", temperature, "a finite number above 0")
        self.radius = _checked(radius)
        self.temperature, self.symmetric, self.over_processes = temperature, symmetric, over_processes

    def _mean(self, losses: Tensor, used: Tensor) -> Tensor:
        """Mean over the points that are used."""
        return distributed_mean((losses * used).sum(), used.sum(), self.over_processes)

    def _radius(self, radius: float | None) -> float:
        """The radius of a call, that of the constructor if None."""
        return self.radius if radius is None else _checked(radius)

    def _used(self, valid: Tensor | None, *points: Tensor) -> Tensor:
        """(B, N) bool: the points (B, N, D) that are finite in all views, and ``valid`` unless that is None."""
        used = torch.cat(points, dim=-1).isfinite().all(-1)
        if valid is None:
            return used
        if valid.shape != used.shape or valid.dtype != torch.bool:
            raise refusal("valid", f"{valid.dtype} of shape {tuple(valid.shape)}", f"bool of shape {tuple(used.shape)}")
        return used & valid


def _checked(radius: float) -> float:
    if not is_number(radius, 0):
        raise refusal("radius", radius, "a finite number of at least 0")
    return radius
