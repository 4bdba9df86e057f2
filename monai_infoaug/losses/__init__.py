"""Losses of pixel-wise contrast, and of heat maps."""

from monai_infoaug.losses.dense_info_nce import DenseInfoNCELoss
from monai_infoaug.losses.heatmap_cross_entropy import HeatmapCrossEntropyLoss
from monai_infoaug.losses.pixel_info_nce import PixelInfoNCELoss

__all__ = ["DenseInfoNCELoss", "HeatmapCrossEntropyLoss", "PixelInfoNCELoss"]
