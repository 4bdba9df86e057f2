"""Metrics of landmarks and of embeddings."""

from monai_infoaug.metrics.collapse import EmbeddingCollapseMetric
from monai_infoaug.metrics.landmarks import MeanRadialError, SuccessDetectionRate

__all__ = ["EmbeddingCollapseMetric", "MeanRadialError", "SuccessDetectionRate"]
