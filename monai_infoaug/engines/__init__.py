"""Trainers and evaluators."""

from monai_infoaug.engines.contrastive import ContrastiveTrainer, PairInferer
from monai_infoaug.engines.domains import SourceAndTarget
from monai_infoaug.engines.label_contrast import LabelContrast, LabelContrastiveTrainer
from monai_infoaug.engines.mean_teacher import MeanTeacher
from monai_infoaug.engines.memory import keep_freed_memory
from monai_infoaug.engines.precision import HalfPrecisionInferer, half_precision, has_fast_half
from monai_infoaug.engines.pretraining import (
    LevelContrast,
    PairMatcher,
    PixelContrastiveTrainer,
    PixelMatchingEvaluator,
)
from monai_infoaug.engines.processes import join_processes, leave_processes
from monai_infoaug.engines.schedule import OneCycle
from monai_infoaug.engines.self_labels import SelfTrainingLabels

__all__ = [
    "ContrastiveTrainer",
    "HalfPrecisionInferer",
    "LabelContrast",
    "LabelContrastiveTrainer",
    "LevelContrast",
    "MeanTeacher",
    "OneCycle",
    "PairInferer",
    "PairMatcher",
    "PixelContrastiveTrainer",
    "PixelMatchingEvaluator",
    "SelfTrainingLabels",
    "SourceAndTarget",
    "half_precision",
    "has_fast_half",
    "join_processes",
    "keep_freed_memory",
    "leave_processes",
]
