"""Handlers for a running training."""

from monai_infoaug.handlers.checkpoint import ResumableCheckpoint, load_weights, read_settings
from monai_infoaug.handlers.class_metrics import ClassMetricsSaver
from monai_infoaug.handlers.epoch import EpochSetter
from monai_infoaug.handlers.landmark_pictures import draw_landmarks
from monai_infoaug.handlers.landmark_report import LandmarkReport, summarise_errors
from monai_infoaug.handlers.maps import (
    CHANGE_COLOURS,
    INFORMATION_COLOURS,
    TIER_COLOURS,
    draw_change,
    draw_information,
    draw_tiers,
)
from monai_infoaug.handlers.pictures import PairPictureHandler, draw_pair
from monai_infoaug.handlers.progress import ConsoleProgress
from monai_infoaug.handlers.training import RaiseOnNonFiniteLoss, training_handlers

__all__ = [
    "CHANGE_COLOURS",
    "INFORMATION_COLOURS",
    "TIER_COLOURS",
    "ClassMetricsSaver",
    "ConsoleProgress",
    "EpochSetter",
    "LandmarkReport",
    "PairPictureHandler",
    "RaiseOnNonFiniteLoss",
    "ResumableCheckpoint",
    "draw_change",
    "draw_information",
    "draw_landmarks",
    "draw_pair",
    "draw_tiers",
    "load_weights",
    "read_settings",
    "summarise_errors",
    "training_handlers",
]
