"""Pre-train the network of an nnU-Net plan by contrast of pixels: what ``monai-infoaug pretrain`` does."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    LoadImaged,
    NormalizeIntensityd,
    RandAffine,
    RandSpatialCropd,
    SelectItemsd,
    Spacingd,
)
from monai.utils import set_determinism

from monai_infoaug._console import say
from monai_infoaug._require import is_number, refusal, require_counts, require_device
from monai_infoaug.commands._images import images_of, require_seed
from monai_infoaug.data import SimpleITKReader, cached_dataset, image_name, seeded_loader
from monai_infoaug.data._headers import faults
from monai_infoaug.engines import OneCycle, PixelContrastiveTrainer, has_fast_half, keep_freed_memory
from monai_infoaug.handlers import training_handlers
from monai_infoaug.networks import NnunetPlan
from monai_infoaug.transforms import (
    InformationMapd,
    InformationTiersd,
    ModalityPresetd,
    RandPairedViewsd,
    RandTierIntensity,
)

__all__ = ["pretrain_network"]

CHANNEL = re.compile(r"(.+)_\d{4}")  # name of an image of nnU-Net without its ending
SHARES = (0.1, 0.45, 0.45)  # of the points, by tier
NUM_POINTS = 400
ROTATION, SCALE = 0.26, 0.15
THICK = 3.0  # slices that are more than so much thicker than pixels turn in their plane alone, as in nnU-Net
REACH = 4  # voxels on either side in which information is measured, along the axis of the smallest ones


def pretrain_network(
    images: Sequence[str | os.PathLike],
    plans: str | os.PathLike,
    configuration: str = "3d_fullres",
    out: str | os.PathLike = "infoaug_pretrained",
    modality: str | None = None,
    epochs: int = 40,
    iterations: int = 250,
    batch_size: int | None = None,
    learning_rate: float = 0.001,
    num_workers: int = 2,
    device: str = "cpu",
    seed: int = 0,
) -> Path:
    """Pre-train the network that nnU-Net has planned, without labels.

    Images are resampled to the spacing of the plan, and patches of its size are standardised as nnU-Net standardises
    images: what is left of the difference, the network's own normalisation takes away. After an interruption the same
    call goes on.

    Args:
        images: files and folders; the channels of a case are files ``CASE_0000``, ``CASE_0001``, ...
        plans: ``nnUNetPlans.json``.
        configuration: of the plan.
        out: folder for ``checkpoint.pt`` and for what is kept of the images, ``cache``, made where it is missing.
        modality: how images are scaled, see ``ModalityPreset``; None: as the plan's normalisation says.
        epochs: number of epochs.
        iterations: batches an epoch.
        batch_size: pairs of views a batch; None: half of the plan's patches, which takes the memory that it planned.
        learning_rate: the highest one.
        num_workers: processes that make the pairs.
        device: device of the network.
        seed: of all that is drawn.

    Returns:
        The checkpoint, for ``monai-infoaug export``.

    Raises:
        ValueError: before anything is trained, for arguments out of range, or images that do not go with the plan.
        ImportError: without the package that has nnU-Net's networks.
    """
    require_device(device)
    require_seed(seed)
    require_counts(epochs=epochs, iterations=iterations)
    require_counts(0, num_workers=num_workers)
    if not (is_number(learning_rate) and learning_rate > 0):
        raise refusal("learning_rate", learning_rate, "a number above 0")
    plan, out = NnunetPlan(plans, configuration), Path(out)
    pairs = max(1, plan.batch_size // 2) if batch_size is None else batch_size
    require_counts(batch_size=pairs)
    transform = pair_transform(plan, modality or guessed_modality(plan))
    items = cases_of(images_of("images", images), plan)
    set_determinism(seed)
    keep_freed_memory()
    network = plan.embedding_network().to(device)
    say(f"Pre-training {configuration} on {len(items)} images, in patches of {list(plan.patch_size)} voxels.")
    out.mkdir(parents=True, exist_ok=True)
    draws = iterations * pairs
    dataset = cached_dataset(items * -(-draws // len(items)), transform, out / "cache", num_workers)
    loader = seeded_loader(dataset, pairs, seed, num_workers, draws)
    optimizer = torch.optim.AdamW(network.parameters(), learning_rate, weight_decay=1e-4)
    schedule = OneCycle(optimizer, learning_rate, epochs * len(loader) + 1)
    states = {"network": network, "optimizer": optimizer, "lr_scheduler": schedule}
    settings = {"plans": plan.as_text(), "configuration": configuration}
    checkpoint = out / "checkpoint.pt"
    trainer = PixelContrastiveTrainer(
        device,
        epochs,
        loader,
        network,
        optimizer,
        max_grad_norm=5.0,
        amp=has_fast_half(device),
        train_handlers=training_handlers("pretrain", loader, states, checkpoint, settings),
    )
    trainer.run()
    say(f"Wrote {checkpoint}; for nnU-Net: monai-infoaug export {checkpoint} --to nnunet")
    return checkpoint


def guessed_modality(plan: NnunetPlan) -> str:
    """How images are scaled that nnU-Net normalises so."""
    if "CTNormalization" in plan.schemes:
        return "ct"
    if "RGBTo01Normalization" in plan.schemes:
        return "rgb"
    return "mr" if len(plan.axes) == 3 else "xray"


def cases_of(paths: Sequence[Path], plan: NnunetPlan) -> list[dict[str, Any]]:
    """Images as a data list: a file a case, or the files of its channels in order.

    Raises:
        ValueError: for files that cannot be read, or with other axes or channels than the plan has.
    """
    groups: dict[tuple[Path, str], list[str]] = {}
    for path in sorted(paths):
        name = image_name(path)
        numbered = CHANNEL.fullmatch(name)
        groups.setdefault((path.parent, numbered[1] if numbered else name), []).append(str(path))
    channels = len(plan.schemes)
    for (_, case), files in groups.items():
        if len(files) not in (1, channels):
            raise refusal("images", f"{len(files)} files of {case}", f"one file a case, or {channels}, one a channel")
    items = [{"image": files[0] if len(files) == 1 else files} for files in groups.values()]
    for fault in faults(items, len(plan.axes), {"image": channels}, 1, ", which the plan says"):
        raise fault
    return items


def pair_transform(plan: NnunetPlan, modality: str) -> Compose:
    """From a file to two views of a patch, standardised."""
    least, most = min(plan.spacing), max(plan.spacing)
    thick = most > THICK * least
    turned = [ROTATION if not thick or side == most else 0.0 for side in plan.spacing]
    window = [2 * int(REACH * least / side) + 1 for side in plan.spacing]
    views = ["image_view1", "image_view2"]
    return Compose(
        [
            LoadImaged("image", reader=SimpleITKReader),
            EnsureChannelFirstd("image"),
            Spacingd("image", pixdim=plan.spacing, padding_mode="border"),
            ModalityPresetd("image", modality),
            InformationMapd("image", window=window, mask_key="foreground"),
            InformationTiersd("information", mask_key="foreground"),
            RandSpatialCropd(
                ["image", "foreground", "information", "tiers"],
                roi_size=[int(1.4 * side) for side in plan.patch_size],
                random_size=False,
            ),
            RandPairedViewsd(
                "image",
                spatial=RandAffine(
                    prob=1.0,
                    rotate_range=turned if len(turned) == 3 else ROTATION,
                    scale_range=[SCALE] * len(turned),
                    translate_range=[side / 20 for side in plan.patch_size],
                    spatial_size=plan.patch_size,
                    padding_mode="zeros",
                ),
                intensity=RandTierIntensity("rich"),
                num_points=NUM_POINTS,
                shares=SHARES,
                mask_key="foreground",
                outputs=(),
                track_meta=False,
            ),
            NormalizeIntensityd(views, channel_wise=True),
            SelectItemsd([*views, "points_view1", "points_view2", "points_valid"]),
        ]
    )
