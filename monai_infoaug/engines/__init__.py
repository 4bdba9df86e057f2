"""Trainers and evaluators."""

from monai_infoaug.engines.memory import keep_freed_memory
from monai_infoaug.engines.pretraining import (
    LevelContrast,
    PairInferer,
    PairMatcher,
    PixelContrastiveTrainer,
    PixelMatchingEvaluator,
    has_fast_half,
)

__all__ = [
    "LevelContrast",
    "PairInferer",
    "PairMatcher",
    "PixelContrastiveTrainer",
    "PixelMatchingEvaluator",
    "has_fast_half",
    "keep_freed_memory",
]
