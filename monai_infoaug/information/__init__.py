"""How much a pixel tells: functions on arrays and tensors, deterministic, that know no dictionary and no MONAI."""

from monai_infoaug.information.entropy import local_entropy
from monai_infoaug.information.mutual_information import mutual_information
from monai_infoaug.information.noise import noise_sd
from monai_infoaug.information.tiers import TIERS, assign_tiers, load_thresholds, save_thresholds, tier_thresholds

__all__ = [
    "TIERS",
    "assign_tiers",
    "load_thresholds",
    "local_entropy",
    "mutual_information",
    "noise_sd",
    "save_thresholds",
    "tier_thresholds",
]
