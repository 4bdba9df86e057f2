"""Pre-train on a real brain in two minutes, then find points of it again after a known change.

A T1 template of the brain that ships with nilearn is cut into sagittal slices. An embedding network learns from some of
them, without labels. On slices that it has not seen, points are searched in a changed copy of the slice, whose true
positions are known: by the untrained network, the trained network, and normalised cross-correlation.
"""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import torch
from ignite.engine import Events
from ignite.handlers import ProgressBar
from monai.data import CacheDataset, DataLoader, Dataset
from monai.handlers import LrScheduleHandler
from monai.transforms import (
    Compose,
    LoadImage,
    Rand2DElastic,
    RandAdjustContrast,
    RandBiasField,
    RandGaussianNoise,
)
from torch import Tensor, nn
from torch.nn.functional import normalize, unfold

from monai_infoaug._require import require
from monai_infoaug.data import SeededDataset
from monai_infoaug.engines import PairMatcher, PixelContrastiveTrainer
from monai_infoaug.engines.memory import keep_freed_memory
from monai_infoaug.handlers import EpochSetter
from monai_infoaug.networks import PixelEmbeddingNet
from monai_infoaug.transforms import InformationMapd, InformationTiersd, RandPairedViewsd, RandTierIntensity

__all__ = ["PatchEmbedding", "perturbed_pairs", "run_demo"]

BRAIN = "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"  # 1 mm, skull removed, in nilearn's wheel
TEST_SLICES = (44, 60, 76, 92)  # of one hemisphere: the template's other one is its mirror image
TRAIN_SLICES = [x for x in range(34, 99) if min(abs(x - test) for test in TEST_SLICES) >= 3]
PERTURBATION_SEED, DRAWS, POINTS = 2025, 3, 25
PATCHES = (11, 21, 31)  # sides of the patches of the cross-correlation


def load_slices(indices: Sequence[int]) -> list[dict[str, Tensor]]:
    """Sagittal slices (1, 192, 160) of the brain, scaled to [0, 1], and the mask of the brain."""
    path = files("nilearn") / BRAIN
    require(path.is_file(), "nilearn", f"a version without {BRAIN}", "a version that ships the MNI152 template")
    volume = LoadImage()(path).as_tensor()[:, 21:213, :160] / 255
    return [{"image": volume[None, x], "brain": volume[None, x] > 0} for x in indices]


INFORMATION = [InformationMapd("image", mask_key="brain"), InformationTiersd(mask_key="brain")]


def training_pairs(seed: int) -> SeededDataset:
    """Pairs of views for the training: information, tiers, views."""
    views = RandPairedViewsd(
        "image",
        roi_size=(128, 128),
        spatial=Rand2DElastic(
            prob=1.0, spacing=(32, 32), magnitude_range=(0, 4), rotate_range=0.3, scale_range=0.1, padding_mode="zeros"
        ),
        intensity=RandTierIntensity("rich"),
        num_points=256,
        shares=(0.1, 0.45, 0.45),
        mask_key="brain",
        outputs=(),
    )
    return SeededDataset(CacheDataset(load_slices(TRAIN_SLICES), Compose([*INFORMATION, views]), progress=False), seed)


def perturbed_pairs(slices: Sequence[int] = TEST_SLICES) -> list[dict[str, Tensor]]:
    """Slices (``image_view1``), changed copies (``image_view2``) and where 25 points of the one lie in the other.

    Fixed here, before and independent of any training.
    """
    change = RandPairedViewsd(
        "image",
        spatial=(
            None,
            Rand2DElastic(
                (32, 32), magnitude_range=(1, 3), prob=1.0, rotate_range=math.radians(20), padding_mode="zeros"
            ),
        ),
        intensity=(
            None,
            Compose(
                [
                    RandAdjustContrast(prob=1.0, gamma=(0.6, 1.6)),
                    RandBiasField(prob=1.0, coeff_range=(-0.15, 0.15)),
                    RandGaussianNoise(prob=1.0, std=0.05),
                ]
            ),
        ),
        num_points=POINTS,
        shares=(0, 0.5, 0.5),
        mask_key="brain",
        keep_source=True,
        outputs=(),
    )
    dataset = SeededDataset(Dataset(load_slices(slices) * DRAWS, Compose([*INFORMATION, change])), PERTURBATION_SEED)
    return list(DataLoader(dataset, batch_size=1))


class PatchEmbedding(nn.Module):
    """Normalised cross-correlation as an embedding network: the cosine of two patches less their means.

    Args:
        size: odd side of the patches.

    Shape:
        (B, 1, H, W) to a list of one level (B, size * size, H, W).
    """

    strides = (1,)

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, image: Tensor) -> list[Tensor]:
        patches = unfold(image, self.size, padding=self.size // 2)
        return [normalize(patches - patches.mean(1, keepdim=True), dim=1).unflatten(2, image.shape[2:])]


def train(network: nn.Module, pairs: SeededDataset, epochs: int, device: str) -> None:
    """Pre-train the network in place."""
    loader = DataLoader(
        pairs, batch_size=BATCH, shuffle=True, num_workers=WORKERS, persistent_workers=WORKERS > 0, drop_last=True
    )
    optimizer = torch.optim.AdamW(network.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=LR, total_steps=epochs * len(loader))
    handlers = [EpochSetter([pairs]), LrScheduleHandler(schedule, print_lr=False, epoch_level=False)]
    trainer = PixelContrastiveTrainer(device, epochs, loader, network, optimizer, train_handlers=handlers, **TRAINER)
    bar = ProgressBar(desc="Pre-training", mininterval=0.1 if sys.stderr.isatty() else 10)
    bar.attach(
        trainer,
        event_name=Events.EPOCH_COMPLETED,
        closing_event_name=Events.COMPLETED,
        output_transform=lambda output: {"loss": output["loss"]},
    )
    trainer.run()
    del loader


BATCH, WORKERS, LR = 8, 1, 3e-3
TRAINER = {}


@torch.no_grad()
def match(network: nn.Module, pairs: Sequence[dict[str, Tensor]], device: str = "cpu") -> Tensor:
    """Where the network sees the points of view 1 in view 2, (pairs, points, 2) in voxels."""
    network, matcher = network.to(device).eval(), PairMatcher()
    inputs = [[pair[name].to(device) for name in ("image_view1", "image_view2", "points_view1")] for pair in pairs]
    return torch.cat([matcher(views, network)["landmarks"].cpu() for views in inputs])
