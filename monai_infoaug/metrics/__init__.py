"""Metrics of landmarks and of embeddings."""

from monai_infoaug.metrics.collapse import PixelEmbeddingCollapseMetric
from monai_infoaug.metrics.landmarks import MeanRadialError, SuccessDetectionRate

__all__ = ["MeanRadialError", "PixelEmbeddingCollapseMetric", "SuccessDetectionRate"]
