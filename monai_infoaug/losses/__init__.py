"""Losses of pixel-wise contrast."""

from monai_infoaug.losses.dense_info_nce import DenseInfoNCELoss
from monai_infoaug.losses.pixel_info_nce import PixelInfoNCELoss

__all__ = ["DenseInfoNCELoss", "PixelInfoNCELoss"]
