"""Radial errors of landmarks, and how often they are small."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.metrics import CumulativeIterationMetric
from monai.utils import MetricReduction, convert_to_tensor, ensure_tuple
from torch import Tensor

from monai_infoaug._require import is_number, is_one_of, listed, refusal

__all__ = ["MeanRadialError", "SuccessDetectionRate", "success_detection_rate"]

_REDUCED_DIMS: dict[str, tuple[int, ...]] = {"none": (), "mean": (0, 1), "mean_batch": (0,), "mean_channel": (1,)}


def success_detection_rate(errors: Tensor, radii: Sequence[float], dim: Sequence[int] | None = None) -> Tensor:
    """Fraction of the landmarks that were found within (strictly nearer than) each radius.

    Args:
        errors: radial errors of any shape; NaN for a landmark without truth, which is left out, and infinite for one
            that was not found, which is a miss.
        radii: R radii in the unit of the errors.
        dim: dimensions to take the fraction over, counted from 0; None: all. Over none, each landmark is a fraction.

    Returns:
        Fractions from 0 to 1, of the errors' type, in the shape of the other dimensions and R; NaN over no landmark.

    Raises:
        ValueError: for radii that are no numbers.

    Example:
        >>> success_detection_rate(torch.tensor([[1.0, 3.0], [2.0, torch.nan]]), [2, 4])
        tensor([0.3333, 1.0000])
    """
    if not listed(radii) or not all(map(is_number, listed(radii))):
        raise refusal("radii", radii, "numbers")
    errors = errors.to(torch.promote_types(errors.dtype, torch.float16))  # of whole numbers, too
    errors, dim = errors[..., None], tuple(range(errors.ndim) if dim is None else dim)
    found = (errors < errors.new_tensor(listed(radii))).to(errors).masked_fill(errors.isnan(), torch.nan)
    return _nanmean(found, dim)


def _nanmean(values: Tensor, dim: tuple[int, ...]) -> Tensor:
    return values.nanmean(dim=dim) if dim else values  # PyTorch takes no dimension for all of them


class _RadialErrorMetric(CumulativeIterationMetric):
    """Keeps the radial errors (B, L) of all images: NaN for a landmark without truth, inf without prediction."""

    def __init__(self, spacing: float | Sequence[float] | None, reduction: MetricReduction | str) -> None:
        super().__init__()
        self.spacing, self.reduction = ensure_tuple(1.0 if spacing is None else spacing), self._checked(reduction)
        if not self.spacing or not all(is_number(s) and s > 0 for s in self.spacing):
            raise refusal("spacing", spacing, "finite and above 0")

    @staticmethod
    def _checked(reduction: MetricReduction | str) -> str:
        if not is_one_of(reduction, _REDUCED_DIMS):
            raise refusal("reduction", reduction, f"one of {tuple(_REDUCED_DIMS)}")
        return str(reduction)

    def _compute_tensor(self, y_pred: Tensor, y: Tensor | None = None, **kwargs: Any) -> Tensor:  # noqa: ARG002
        if not isinstance(y, Tensor):
            raise refusal("y", type(y).__name__, "a tensor of shape (B, L, D)", error=TypeError)
        if y.ndim != 3:
            raise refusal("y", f"shape {tuple(y.shape)}", "of shape (B, L, D)")
        if y_pred.shape != y.shape:
            raise refusal("y_pred", f"shape {tuple(y_pred.shape)}", f"of shape {tuple(y.shape)} like `y`")
        dims = y.shape[-1]
        if len(self.spacing) not in (1, dims):
            raise refusal("spacing", self.spacing, f"one number or {dims}, one for each dimension")
        if y.isinf().any():
            raise refusal("y", "infinity", "finite, or NaN for a missing landmark")
        y_pred, y = (convert_to_tensor(t, track_meta=False) for t in (y_pred, y))
        # whole-number coordinates and half precision are too coarse to multiply with a spacing
        y = y.to(torch.promote_types(y.dtype, torch.float32))
        error: Tensor = torch.linalg.vector_norm((y_pred - y) * y.new_tensor(self.spacing), dim=-1)
        return error.nan_to_num(nan=torch.inf, posinf=torch.inf).masked_fill(y.isnan().any(-1), torch.nan)

    def _dim(self, reduction: MetricReduction | str | None) -> tuple[int, ...]:
        """Dimensions of (B, L) to reduce."""
        return _REDUCED_DIMS[self.reduction if reduction is None else self._checked(reduction)]

    def _errors(self) -> Tensor:
        errors: Tensor | None = self.get_buffer()  # type: ignore[no-untyped-call]
        if errors is None:
            raise refusal("metric", "no data", "called with predictions before it is aggregated")
        return errors


class MeanRadialError(_RadialErrorMetric):
    """Mean Euclidean distance between predicted and true landmarks.

    A landmark without truth (a NaN coordinate in ``y``) is left out. A landmark with truth but without prediction (NaN
    or infinity in ``y_pred``) has an infinite error, and so has the mean: an average over the easy landmarks that were
    found would flatter. ``aggregate("mean_batch")`` shows which landmark it is. The mean over no landmark is NaN.

    With the default reduction ``aggregate`` gives one number, so that a MONAI engine can take
    ``IgniteMetricHandler(MeanRadialError(...), output_transform=...)`` as its key metric; smaller is better, hence
    give the engine ``metric_cmp_fn=lambda current, best: current < best``.

    Args:
        spacing: millimetres a voxel, one number or one for each of the D dimensions, if the coordinates are in
            voxels. None if they are in millimetres.
        reduction: what ``aggregate`` returns: ``"mean"`` over all landmarks of all images, each with the same weight,
            ``"mean_batch"`` (L,) by landmark, ``"mean_channel"`` (B,) by image, or ``"none"`` (B, L).

    Shape:
        - y_pred, y: (B, L, D), or lists of B tensors (L, D).
        - returned by the call: errors (B, L).

    Raises:
        ValueError: for a spacing or reduction out of range, shapes that do not fit, or an infinite truth.

    Example:
        >>> metric = MeanRadialError(spacing=0.5)
        >>> errors = metric(torch.tensor([[[3.0, 4.0], [8.0, 8.0]]]), torch.tensor([[[0.0, 0.0], [8.0, 2.0]]]))
        >>> metric.aggregate(), metric.aggregate("mean_batch")
        (tensor(2.7500), tensor([2.5000, 3.0000]))
    """

    def __init__(
        self, spacing: float | Sequence[float] | None = None, reduction: MetricReduction | str = MetricReduction.MEAN
    ) -> None:
        super().__init__(spacing, reduction)

    def aggregate(self, reduction: MetricReduction | str | None = None) -> Tensor:
        """Mean error over all processes.

        Args:
            reduction: replaces that of the constructor.

        Returns:
            Means, of the shape that the reduction says.

        Raises:
            ValueError: before any prediction.
        """
        return _nanmean(self._errors(), self._dim(reduction))


class SuccessDetectionRate(_RadialErrorMetric):
    """:py:func:`success_detection_rate` as a metric: the fraction found within (strictly nearer than) each radius.

    A landmark without truth (a NaN coordinate in ``y``) is left out; one without prediction (NaN or infinity in
    ``y_pred``) is a miss. The rate of no landmark is NaN. A MONAI engine can have the rate of a single radius as its
    key metric.

    Args:
        radii: R radii in millimetres, or one.
        spacing: millimetres a voxel, one number or one for each of the D dimensions, if the coordinates are in
            voxels. None if they are in millimetres.
        reduction: what ``aggregate`` returns, fractions from 0 to 1: ``"mean"`` (R,) over all landmarks of all
            images, ``"mean_batch"`` (L, R) by landmark, ``"mean_channel"`` (B, R) by image, or ``"none"`` (B, L, R).

    Shape:
        - y_pred, y: (B, L, D), or lists of B tensors (L, D).
        - returned by the call: errors (B, L).

    Raises:
        ValueError: for radii, a spacing or a reduction out of range, shapes that do not fit, or an infinite truth.

    Example:
        >>> metric = SuccessDetectionRate(radii=(2, 4), spacing=0.5)
        >>> errors = metric(torch.tensor([[[3.0, 4.0], [8.0, 8.0]]]), torch.tensor([[[0.0, 0.0], [8.0, 5.0]]]))
        >>> metric.aggregate()
        tensor([0.5000, 1.0000])
    """

    def __init__(
        self,
        radii: float | Sequence[float] = (2, 2.5, 3, 4),
        spacing: float | Sequence[float] | None = None,
        reduction: MetricReduction | str = MetricReduction.MEAN,
    ) -> None:
        super().__init__(spacing, reduction)
        self.radii = ensure_tuple(radii)
        if not self.radii or not all(is_number(radius) and radius > 0 for radius in self.radii):
            raise refusal("radii", radii, "numbers above 0")

    def aggregate(self, reduction: MetricReduction | str | None = None) -> Tensor:
        """Fraction for each radius over all processes.

        Args:
            reduction: replaces that of the constructor.

        Returns:
            Fractions, of the shape that the reduction says.

        Raises:
            ValueError: before any prediction.
        """
        return success_detection_rate(self._errors(), self.radii, self._dim(reduction))
