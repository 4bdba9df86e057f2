"""Settings of the transforms, estimated from the training images of a folder."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose
from monai.utils import convert_to_tensor
from torch import Tensor, nn
from tqdm import tqdm

from monai_infoaug._files import ledger_for
from monai_infoaug._require import is_count, is_number, refusal
from monai_infoaug.bundles import load_network, read_config
from monai_infoaug.commands._calibration_picture import draw_calibration
from monai_infoaug.commands._images import read_image, require_measurable, resampling
from monai_infoaug.commands._map_choice import Scene, choose_map
from monai_infoaug.commands._steps import run
from monai_infoaug.commands._strengths import (
    PATCH,
    crossing,
    draw_view,
    of_corresponding,
    of_themselves,
    to_next,
    weakened,
)
from monai_infoaug.commands.anchor_loss import anchor_losses, loss_cuts
from monai_infoaug.data import image_datalist
from monai_infoaug.data._headers import faults_beside
from monai_infoaug.handlers.checkpoint import read_checkpoint
from monai_infoaug.handlers.landmark_pictures import png_bytes
from monai_infoaug.information import TIERS, assign_tiers, tier_thresholds
from monai_infoaug.information._windows import windows_for
from monai_infoaug.transforms import ModalityPreset, guess_modality, intensity_preset
from monai_infoaug.transforms._calibration import VERSION

__all__ = ["calibrate"]

SETTINGS = ("window", "window_mm", "num_bins", "value_range", "reduction", "noise_factor")  # of the information map
SAMPLES = 20_000  # of an image's foreground, for percentiles and quantiles over all images


def calibrate(
    data: str | os.PathLike,
    out: str | os.PathLike = "calibration.json",
    modality: str | None = None,
    pixdim: float | Sequence[float] | None = None,
    working_pixdim: float | Sequence[float] | None = None,
    window: int | Sequence[int] | None = None,
    window_mm: float | Sequence[float] | None = None,
    num_bins: int | None = None,
    intensity: str = "rich",
    alpha: float = 1.0,
    keep: float = 0.5,
    num_images: int = 20,
    seed: int = 0,
    checkpoint: str | os.PathLike | None = None,
) -> dict[str, Any]:
    """Estimate the settings of the transforms from training images, without labels, and write them with a picture.

    - The range of grey levels: the 0.5 and 99.5 percentile of all images, inside the foreground.
    - The window and the number of bins of the information map, if they are not given: a few windows are compared,
      also several at once, then a few numbers of bins. Taken is what sends the points, drawn by tier, to the patches
      that share most with the same place in another image, by mutual information; 9 voxels and 32 bins, unless another
      is 5 % better.
    - The thresholds of the tiers: the tertiles of what all images tell inside the foreground. With a
      ``checkpoint``: where the smooth curve of its loss over the information crosses the mean loss [2]; the tertiles
      again if it does not cross it exactly twice.
    - How strong the change of each tier may be, by the InfoMin principle [1]: it is raised step by step, and the mutual
      information of patches with their changed selves falls, at the end to ``alpha`` times that of corresponding
      patches of different images. The share ``keep`` of this way is left, as short trainings want. Of several random
      changes of an image the one that leaves least counts, as strengths are ends of ranges. Patches that correspond are
      found by registration, affine and then by a B-spline, of each image to the next.

    :py:class:`monai_infoaug.transforms.InformationMap`, :py:class:`monai_infoaug.transforms.InformationTiers` and
    :py:class:`monai_infoaug.transforms.RandTierIntensity` take the file.

    Args:
        data: folder of training images, 2D or 3D.
        out: JSON file; the picture has its name and the suffix ``.png``.
        modality: see :py:class:`monai_infoaug.transforms.ModalityPresetd`. None: that of the checkpoint, or guessed
            from the first image.
        pixdim: millimetres a pixel, for PNG and JPEG. None: that of the checkpoint, or as the files say.
        working_pixdim: millimetres a pixel that images are resampled to first. None: those of the checkpoint, without
            which they are not.
        window: odd side of the window in voxels, see :py:class:`monai_infoaug.transforms.InformationMap`. None: it is
            chosen.
        window_mm: side of the window in millimetres, instead of ``window``.
        num_bins: number of grey-level bins. None: it is chosen.
        intensity: ``"rich"``, ``"published"`` or ``"cross_contrast"``, see
            :py:class:`monai_infoaug.transforms.RandTierIntensity`.
        alpha: share of the mutual information of corresponding patches at which the way ends, above 0.
        keep: share of the way that is left, in [0, 1): 0 goes it to the end.
        num_images: number of images, at least 2, that are drawn from the folder, which may have fewer.
        seed: seed of what is drawn.
        checkpoint: file of a training with a bundle of this package.

    Returns:
        What is in the file.

    Raises:
        ValueError: for an unreadable file or checkpoint, fewer than two images, images that do not go together or have
            no three tiers, a setting out of range, or an ``out`` that is there and was not written by this function,
            or was changed since.
        OSError: if ``out`` cannot be written; what was there before is then as it was.

    References:
        [1] Tian et al., "What makes for good views for contrastive learning?", NeurIPS 2020, arXiv:2005.10243.
        [2] Quan et al., "IGU-Aug: information-guided unsupervised augmentation and pixel-wise contrastive learning for
        medical image analysis", IEEE TMI 44(1):154-164, 2025, arXiv:2211.07118.
    """
    require_measurable(window, window_mm, num_bins, modality, intensity, working_pixdim, seed)
    if not is_number(alpha) or alpha <= 0:
        raise refusal("alpha", alpha, "a number above 0")
    if not is_number(keep, 0) or keep >= 1:
        raise refusal("keep", keep, "in [0, 1)")
    if not is_count(num_images, 2):
        raise refusal("images", num_images, "at least 2")
    out = Path(out)
    if out.is_dir() or not out.absolute().parent.is_dir() or out.suffix.lower() == ".png":
        raise refusal("out", out, "a file in a folder that exists, and no .png, which the picture is")
    paths = [item["image"] for item in image_datalist(data)]
    (ledger, name), (beside, picture) = ledger_for(out), ledger_for(out.with_suffix(".png"))
    if os.path.realpath(data) in map(os.path.realpath, (ledger.folder, beside.folder)):
        raise refusal("out", f"'{out}'", "in another folder than the images, which its picture would be taken for")
    for folder, file in ((ledger, name), (beside, picture)):
        folder.require_ours([file], [*paths, *([] if checkpoint is None else [checkpoint])])
    if len(paths) < 2:
        raise refusal("data", f"'{data}' with {len(paths)}", "a folder with at least 2 images")
    if checkpoint is not None:
        states = read_checkpoint(checkpoint)
        config = read_config(checkpoint, states=states)
        network = load_network(config, checkpoint, states).eval()
        modality, working_pixdim = modality or config.get("modality"), working_pixdim or config.get("working_pixdim")
        pixdim = config.get("pixdim") if pixdim is None else pixdim
    generator = np.random.RandomState(seed)
    paths = [paths[k] for k in sorted(generator.permutation(len(paths))[:num_images])]
    is_in_pixels = pixdim is None and working_pixdim is None and window_mm is None
    for fault in faults_beside(paths[0], paths, pixdim=1 if is_in_pixels else pixdim):
        raise fault

    images = _read(paths, pixdim, working_pixdim)
    modality = modality or guess_modality(images[0])
    images, foregrounds = _scaled(images, modality)
    drawn = [_drawn(foreground, generator) for foreground in foregrounds]
    levels = _values(images, drawn)
    low, high = np.quantile(levels, (0.005, 0.995)).tolist()
    if not low < high:
        raise refusal("data", f"'{data}' with constant images", "images that show something")
    for image in images if window_mm is None else ():
        windows_for(window or 1, tuple(image.shape[1:]))  # refuses one that does not fit before the work
    transforms = to_next(images)
    scene = Scene(images, foregrounds, transforms, (low, high), seed)
    measure, compared = choose_map(scene, window, window_mm, num_bins)
    scans = zip(images, foregrounds, strict=True)
    maps = [convert_to_tensor(measure(image, foreground), track_meta=False) for image, foreground in scans]
    information, anchors = _values(maps, drawn), None
    t1, t2 = tier_thresholds(information[None, None])
    if checkpoint is not None:
        anchors = _anchors(network, images, maps, foregrounds, intensity_preset(intensity), seed)
        t1, t2 = loss_cuts(*anchors[:2]) or (t1, t2)

    views = []
    for image, bits, foreground in zip(images, maps, foregrounds, strict=True):
        tiers = assign_tiers(bits, (t1, t2)).where(foreground, len(TIERS))
        views.append(draw_view(image, tiers, generator))
    corresponding, unrelated = of_corresponding(images, views, transforms, (low, high))
    if not np.isfinite(corresponding).all():
        accepted = "images of one anatomy with low, medium and high information"
        raise refusal("data", f"'{data}' without patches that correspond", accepted)
    own = of_themselves(views, (low, high))
    stop = alpha * corresponding + keep * (own - alpha * corresponding).clip(0)
    strengths, curves = weakened(views, intensity, (low, high), own, stop, seed)
    calibration = {
        "version": VERSION,
        "information": {name: getattr(measure, name) for name in SETTINGS},
        "thresholds": (t1, t2),
        "intensity": {
            "transforms": intensity,
            "strengths": _by_tier(crossing(strengths, *each) for each in zip(curves.T, stop, strict=True)),
        },
        "compared_maps": compared,
        "mutual_information": {
            "strength": strengths,
            "changed": _by_tier(curves.T.tolist()),
            "stop": _by_tier(stop.tolist()),
            "corresponding": _by_tier(corresponding.tolist()),
            "unrelated": _by_tier(unrelated.tolist()),
        },
        "made_from": {
            "images": [Path(path).name for path in paths],
            "modality": modality,
            "pixdim": _sides(images[0]) if pixdim is working_pixdim is None else pixdim,
            "working_pixdim": working_pixdim,
            "alpha": alpha,
            "keep": keep,
            "seed": seed,
            "checkpoint": None if checkpoint is None else Path(checkpoint).name,
        },
    }
    figure = draw_calibration(calibration, levels, information, anchors)
    beside.write(picture, png_bytes(figure, dpi=100))
    ledger.write(name, json.dumps(calibration, indent=1) + "\n")
    return calibration


def _sides(image: MetaTensor) -> list[float]:
    """Millimetres a voxel of an image (C, *S)."""
    return [round(float(side), 6) for side in image.pixdim[: image.ndim - 1]]


def _read(
    paths: Sequence[str], pixdim: float | Sequence[float] | None, working_pixdim: float | Sequence[float] | None
) -> list[MetaTensor]:
    """The images (C, *S) of files, resampled, all with as many axes and channels."""
    images: list[MetaTensor] = []
    for path in tqdm(paths, "Reading", unit="image", disable=None):
        image, _ = read_image(path, pixdim)
        dims = image.ndim - 1
        if working_pixdim is not None:
            image = run([resampling(image, working_pixdim)], {"image": image})["image"]
        got = f"'{path}' of shape {tuple(image.shape)}"
        if min(image.shape[1:]) < PATCH[dims]:
            raise refusal("data", got, f"at least {PATCH[dims]} voxels a side")
        if images and (len(image), dims) != (len(images[0]), images[0].ndim - 1):
            raise refusal("data", got, "images of as many axes and channels")
        images.append(image)
    return images


def _scaled(images: Sequence[MetaTensor], modality: str) -> tuple[list[MetaTensor], list[Tensor]]:
    """The images in [0, 1], and their foregrounds (1, *S) bool."""
    scale = ModalityPreset(modality)
    pairs = [scale(image) for image in images]
    foregrounds = [convert_to_tensor(foreground, track_meta=False) > 0 for _, foreground in pairs]
    return [cast(MetaTensor, image) for image, _ in pairs], foregrounds


def _drawn(foreground: Tensor, generator: np.random.RandomState) -> Tensor:
    """Indices of voxels drawn from the foreground (1, *S)."""
    inside = foreground.flatten().nonzero()[:, 0]
    return inside[generator.randint(len(inside), size=SAMPLES)]


def _values(images: Sequence[Tensor], drawn: Sequence[Tensor]) -> np.ndarray:
    """The values of all images at the drawn voxels."""
    return torch.cat([image.flatten(1)[:, index].flatten() for image, index in zip(images, drawn, strict=True)]).numpy()


def _anchors(
    network: nn.Module,
    images: Sequence[MetaTensor],
    maps: Sequence[Tensor],
    foregrounds: Sequence[Tensor],
    change: Compose,
    seed: int,
) -> np.ndarray:
    """Information, loss and similarity (3, N) of anchors of all images."""
    try:
        with torch.no_grad():
            network(images[0].as_tensor()[None])
    except (RuntimeError, ValueError) as error:
        shape = tuple(images[0].shape)
        raise refusal("checkpoint", error, f"of a network for images of shape {shape}") from error
    scans = tqdm(list(zip(images, maps, foregrounds, strict=True)), "Measuring the loss", unit="image", disable=None)
    found = [
        torch.stack(anchor_losses(network, image, bits, foreground, change, seed + number))
        for number, (image, bits, foreground) in enumerate(scans)
    ]
    return torch.cat(found, 1).double().numpy()


def _by_tier(values: Iterable[Any]) -> dict[str, Any]:
    return dict(zip(TIERS, values, strict=True))
