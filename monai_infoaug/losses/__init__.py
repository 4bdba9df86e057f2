"""Losses of pixel-wise contrast, with and without labels, of heat maps, and for labels that are missing or wrong."""

from monai_infoaug.losses.consistency import ConsistencyLoss
from monai_infoaug.losses.dense_info_nce import DenseInfoNCELoss
from monai_infoaug.losses.domain_adaptation import DomainAdaptationLoss
from monai_infoaug.losses.heatmap_cross_entropy import HeatmapCrossEntropyLoss
from monai_infoaug.losses.maximum_squares import MaximumSquaresLoss
from monai_infoaug.losses.negative_learning import NegativeLearningLoss
from monai_infoaug.losses.patch_contrast import PatchContrastLoss, label_pyramids
from monai_infoaug.losses.pixel_info_nce import PixelInfoNCELoss
from monai_infoaug.losses.pixel_sup_con import ChosenPixels, PixelSupConLoss
from monai_infoaug.losses.rectified_labels import RectifiedLabelLoss

__all__ = [
    "ChosenPixels",
    "ConsistencyLoss",
    "DenseInfoNCELoss",
    "DomainAdaptationLoss",
    "HeatmapCrossEntropyLoss",
    "MaximumSquaresLoss",
    "NegativeLearningLoss",
    "PatchContrastLoss",
    "PixelInfoNCELoss",
    "PixelSupConLoss",
    "RectifiedLabelLoss",
    "label_pyramids",
]
