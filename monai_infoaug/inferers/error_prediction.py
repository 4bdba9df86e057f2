"""How wrong a landmark may be, in millimetres."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from monai_infoaug._require import is_number, refusal

__all__ = ["ErrorModel"]

TAILS = 4.0  # degrees of freedom of the errors' distribution
STEPS = 500  # of the fit, which has converged long before


class ErrorModel:
    """What the error of a landmark grows with: an error that is not exceeded, mostly, predicted from what is known.

    The scale of an error is the root of a weighted sum of squares of features, all of them in millimetres, so that no
    feature can make an error smaller, and in other units all is the same. The weights are those by which the errors are
    most likely, if they are drawn from Student's distributions of these scales (multiplicative updates as in
    non-negative matrix factorisation [1]). The errors predicted are the scales times the factor below which the wanted
    share of errors were, as in conformal prediction [2].

    Args:
        weights: feature to its weight, at least 0.
        factor: what the scales are multiplied by.

    Raises:
        ValueError: for weights or a factor that are no numbers of at least 0.

    References:
        1. Févotte, Bertin & Durrieu, "Nonnegative matrix factorization with the Itakura-Saito divergence", Neural
           Computation 21(3), 2009.
        2. Lei et al., "Distribution-free predictive inference for regression", Journal of the American Statistical
           Association 113(523), 2018.

    Example:
        >>> spread = torch.rand(1000, generator=torch.Generator().manual_seed(0)) + 1
        >>> errors = spread * torch.randn(1000, 2, generator=torch.Generator().manual_seed(1)).norm(dim=1)
        >>> predicted = ErrorModel.fit({"spread": spread}, errors).predict({"spread": spread})
        >>> f"{(errors <= predicted).float().mean():.2f}"
        '0.90'
    """

    def __init__(self, weights: Mapping[str, float], factor: float = 1.0) -> None:
        if not weights or not all(is_number(weight, 0) for weight in weights.values()):
            raise refusal("weights", weights, "a number of at least 0 a feature")
        if not is_number(factor, 0):
            raise refusal("factor", factor, "a number of at least 0")
        self.weights, self.factor = dict(weights), factor

    @classmethod
    def fit(cls, features: Mapping[str, Tensor], errors: Tensor, share: float = 0.9, dims: int = 2) -> ErrorModel:
        """A model of errors that are known.

        Args:
            features: name to values in millimetres, at least 0, a value an error.
            errors: in millimetres, of any shape; NaN where unknown.
            share: of the errors that are to be within what is predicted.
            dims: spatial dimensions.

        Returns:
            The model, calibrated to these errors.

        Raises:
            ValueError: for features that do not fit the errors, fewer than 10 errors, or a share that is not between 0
                and 1.
        """
        squares, known = _squares(features, errors)
        squared = errors.double().flatten()[known].square()
        typical = squares.mean(0).clamp_min(1e-12)
        weights = squared.mean() / (typical * len(typical))
        for _ in range(STEPS):
            scales = squares @ weights
            downweighted = (TAILS + dims) / (TAILS + squared / scales)
            more, less = squares.T @ (downweighted * squared / scales.square()), dims * squares.T @ (1 / scales)
            weights = weights * (more / less.clamp_min(1e-300)).sqrt()
        model = cls(dict(zip(features, weights.tolist(), strict=True)))
        return model.calibrated(features, errors, share)

    def calibrated(self, features: Mapping[str, Tensor], errors: Tensor, share: float = 0.9) -> ErrorModel:
        """The model with another factor: of these errors the share is within what it predicts.

        Args:
            features: see :py:meth:`fit`.
            errors: see there.
            share: see there.

        Returns:
            A model of the same weights.
        """
        if not (is_number(share, 0, 1) and 0 < share < 1):
            raise refusal("share", share, "a number between 0 and 1")
        _, known = _squares(features, errors)
        scales = ErrorModel(self.weights).predict(features).flatten()[known]
        ratios = (errors.double().flatten()[known] / scales.clamp_min(1e-12)).sort().values
        rank = min(math.ceil(share * (len(ratios) + 1)), len(ratios))
        return ErrorModel(self.weights, ratios[rank - 1].item())

    def predict(self, features: Mapping[str, Tensor]) -> Tensor:
        """Errors in millimetres that are mostly not exceeded, in the shape of the features.

        Args:
            features: as for :py:meth:`fit`; others than the model's are not looked at.

        Returns:
            float64; NaN where a feature is NaN.

        Raises:
            ValueError: if a feature is missing.
        """
        missing = [name for name in self.weights if name not in features]
        if missing:
            raise refusal("features", f"none of {missing}", f"values of {list(self.weights)}")
        parts = (weight * features[name].double().square() for name, weight in self.weights.items())
        total: Tensor = sum(parts, torch.zeros((), dtype=torch.float64))
        return self.factor * total.sqrt()

    def as_json(self) -> dict[str, Any]:
        """The model as plain values, from which ``ErrorModel(**values)`` makes it again."""
        return {"weights": self.weights, "factor": self.factor}


def _squares(features: Mapping[str, Tensor], errors: Tensor) -> tuple[Tensor, Tensor]:
    """Squared features (N, F) of the errors that are known, and which these are."""
    shapes = {name: tuple(values.shape) for name, values in features.items()}
    if not shapes or any(shape != tuple(errors.shape) for shape in shapes.values()):
        raise refusal("features", f"shapes {shapes}", f"values of shape {tuple(errors.shape)} like the errors")
    table = torch.stack([values.double().flatten() for values in features.values()], dim=1)
    known = errors.double().flatten().isfinite() & table.isfinite().all(1)
    if known.sum() < 10:
        raise refusal("errors", f"{int(known.sum())} known ones", "at least 10, with all features")
    return table[known].square(), known
