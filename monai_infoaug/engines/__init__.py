"""Trainers and evaluators."""

from monai_infoaug.engines.contrastive import ContrastiveTrainer, PairInferer, has_fast_half
from monai_infoaug.engines.label_contrast import LabelContrast, LabelContrastiveTrainer
from monai_infoaug.engines.memory import keep_freed_memory
from monai_infoaug.engines.pretraining import (
    LevelContrast,
    PairMatcher,
    PixelContrastiveTrainer,
    PixelMatchingEvaluator,
)

__all__ = [
    "ContrastiveTrainer",
    "LabelContrast",
    "LabelContrastiveTrainer",
    "LevelContrast",
    "PairInferer",
    "PairMatcher",
    "PixelContrastiveTrainer",
    "PixelMatchingEvaluator",
    "has_fast_half",
    "keep_freed_memory",
]
