"""Handlers for a running training."""

from monai_infoaug.handlers.checkpoint import ResumableCheckpoint, load_weights, read_settings
from monai_infoaug.handlers.class_metrics import ClassMetricsSaver
from monai_infoaug.handlers.epoch import EpochSetter
from monai_infoaug.handlers.landmark_report import LandmarkReport, draw_landmarks, summarise_errors
from monai_infoaug.handlers.pictures import PairPictureHandler, draw_pair
from monai_infoaug.handlers.progress import ConsoleProgress
from monai_infoaug.handlers.training import RaiseOnNonFiniteLoss, training_handlers

__all__ = [
    "ClassMetricsSaver",
    "ConsoleProgress",
    "EpochSetter",
    "LandmarkReport",
    "PairPictureHandler",
    "RaiseOnNonFiniteLoss",
    "ResumableCheckpoint",
    "draw_landmarks",
    "draw_pair",
    "load_weights",
    "read_settings",
    "summarise_errors",
    "training_handlers",
]
