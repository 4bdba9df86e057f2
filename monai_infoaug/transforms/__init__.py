"""Information maps, tiers, intensity by tier, paired views, heat maps and label channels as MONAI transforms."""

from monai_infoaug.transforms.coordinate_map import CoordinateMap, CoordinateMapD, CoordinateMapd, CoordinateMapDict
from monai_infoaug.transforms.foreground import BodyMask, BodyMaskD, BodyMaskd, BodyMaskDict
from monai_infoaug.transforms.information import (
    InformationMap,
    InformationMapD,
    InformationMapd,
    InformationMapDict,
    InformationTiers,
    InformationTiersD,
    InformationTiersd,
    InformationTiersDict,
)
from monai_infoaug.transforms.intensity_curve import (
    RandIntensityCurve,
    RandIntensityCurveD,
    RandIntensityCurved,
    RandIntensityCurveDict,
)
from monai_infoaug.transforms.intensity_presets import INTENSITY_PRESETS, intensity_preset
from monai_infoaug.transforms.label_channels import LabelChannels, LabelChannelsD, LabelChannelsd, LabelChannelsDict
from monai_infoaug.transforms.landmark_heatmap import (
    LandmarkHeatmap,
    LandmarkHeatmapD,
    LandmarkHeatmapd,
    LandmarkHeatmapDict,
)
from monai_infoaug.transforms.modality import (
    ModalityPreset,
    ModalityPresetD,
    ModalityPresetd,
    ModalityPresetDict,
    guess_modality,
)
from monai_infoaug.transforms.paired_views import (
    RandPairedViews,
    RandPairedViewsD,
    RandPairedViewsd,
    RandPairedViewsDict,
)
from monai_infoaug.transforms.pixdim import AssignPixdim, AssignPixdimD, AssignPixdimd, AssignPixdimDict
from monai_infoaug.transforms.point_labels import PointLabels, PointLabelsD, PointLabelsd, PointLabelsDict
from monai_infoaug.transforms.tier_intensity import (
    RandTierIntensity,
    RandTierIntensityD,
    RandTierIntensityd,
    RandTierIntensityDict,
)

__all__ = [
    "INTENSITY_PRESETS",
    "AssignPixdim",
    "AssignPixdimD",
    "AssignPixdimDict",
    "AssignPixdimd",
    "BodyMask",
    "BodyMaskD",
    "BodyMaskDict",
    "BodyMaskd",
    "CoordinateMap",
    "CoordinateMapD",
    "CoordinateMapDict",
    "CoordinateMapd",
    "InformationMap",
    "InformationMapD",
    "InformationMapDict",
    "InformationMapd",
    "InformationTiers",
    "InformationTiersD",
    "InformationTiersDict",
    "InformationTiersd",
    "LabelChannels",
    "LabelChannelsD",
    "LabelChannelsDict",
    "LabelChannelsd",
    "LandmarkHeatmap",
    "LandmarkHeatmapD",
    "LandmarkHeatmapDict",
    "LandmarkHeatmapd",
    "ModalityPreset",
    "ModalityPresetD",
    "ModalityPresetDict",
    "ModalityPresetd",
    "PointLabels",
    "PointLabelsD",
    "PointLabelsDict",
    "PointLabelsd",
    "RandIntensityCurve",
    "RandIntensityCurveD",
    "RandIntensityCurveDict",
    "RandIntensityCurved",
    "RandPairedViews",
    "RandPairedViewsD",
    "RandPairedViewsDict",
    "RandPairedViewsd",
    "RandTierIntensity",
    "RandTierIntensityD",
    "RandTierIntensityDict",
    "RandTierIntensityd",
    "guess_modality",
    "intensity_preset",
]
