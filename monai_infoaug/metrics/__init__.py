"""Metrics of landmarks, of embeddings and of segmentations."""

from monai_infoaug.metrics.collapse import PixelEmbeddingCollapseMetric
from monai_infoaug.metrics.landmarks import MeanRadialError, SuccessDetectionRate, success_detection_rate
from monai_infoaug.metrics.surface_distance import HausdorffDistanceMm

__all__ = [
    "HausdorffDistanceMm",
    "MeanRadialError",
    "PixelEmbeddingCollapseMetric",
    "SuccessDetectionRate",
    "success_detection_rate",
]
