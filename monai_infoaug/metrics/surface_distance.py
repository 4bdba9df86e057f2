"""Distances between surfaces in millimetres."""

from __future__ import annotations

from typing import Any

from monai.data import MetaTensor
from monai.metrics import HausdorffDistanceMetric
from torch import Tensor

from monai_infoaug._require import is_number, refusal

__all__ = ["HausdorffDistanceMm"]


class HausdorffDistanceMm(HausdorffDistanceMetric):
    """MONAI's Hausdorff distance in millimetres: the spacing of each image is that of the affine of its truth.

    With it ``IgniteMetricHandler(HausdorffDistanceMm(percentile=95), ...)`` reports what is published, also where
    the images of a folder differ in their spacing. MONAI computes the distances with scipy.

    Args:
        args: settings of ``monai.metrics.HausdorffDistanceMetric``.
        kwargs: settings of it by name, such as ``percentile=95``.

    Shape:
        - y_pred, y: lists of one-hot tensors (C, *S), or (1, C, *S); y MetaTensors.

    Raises:
        TypeError: for a truth without an affine.
        ValueError: for a percentile out of range, and several images in one tensor, whose affines it cannot have.

    Example:
        >>> import torch
        >>> square = torch.zeros(1, 16, 16)
        >>> square[:, 4:8, 4:8] = 1
        >>> metric = HausdorffDistanceMm(include_background=True)
        >>> affine = torch.diag(torch.tensor([0.5, 0.5, 1.0]))
        >>> float(metric([square.roll(2, 1)], [MetaTensor(square, affine=affine)]))
        1.0
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.percentile is not None and not is_number(self.percentile, 0, 100):
            raise refusal("percentile", self.percentile, "a number from 0 to 100, or None")

    def _compute_tensor(self, y_pred: Tensor, y: Tensor | None = None, **kwargs: Any) -> Tensor:
        if not isinstance(y, MetaTensor):
            raise refusal("y", type(y).__name__, "MetaTensors, which know their spacing", TypeError)
        if len(y) != 1:
            raise refusal("y", f"{len(y)} images in one tensor", "a list of images")
        return super()._compute_tensor(y_pred, y, spacing=y.pixdim[: y.ndim - 2].tolist(), **kwargs)
