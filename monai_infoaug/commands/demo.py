"""Pre-train on a real brain in two minutes, then find its points again after a known change.

The T1 template of the brain that ships with nilearn is cut into sagittal slices. An embedding network learns from some
of them, without labels. Then points of slices that it has not seen are searched in changed copies of these slices,
where their true positions are known: by the network before and after training, and by normalised cross-correlation.
"""

from __future__ import annotations

import io
import math
import os
import time
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from monai.data import CacheDataset, DataLoader, Dataset
from monai.handlers import LrScheduleHandler
from monai.transforms import Compose, LoadImage, Rand2DElastic, RandAdjustContrast, RandBiasField, RandGaussianNoise
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import normalize, unfold

from monai_infoaug._console import say
from monai_infoaug._files import Ledger
from monai_infoaug._require import is_count, refusal, require_device
from monai_infoaug.commands._images import require_seed
from monai_infoaug.data import LandmarkTable, SeededDataset
from monai_infoaug.data._found_landmarks import table_text
from monai_infoaug.data.landmarks import landmark_text
from monai_infoaug.engines import PairMatcher, PixelContrastiveTrainer, has_fast_half, keep_freed_memory
from monai_infoaug.handlers import ConsoleProgress, EpochSetter, draw_information, draw_landmarks, draw_tiers
from monai_infoaug.handlers.landmark_pictures import png_bytes
from monai_infoaug.networks import GlobalLocalEmbeddingNet, PixelEmbeddingNet
from monai_infoaug.transforms import InformationMapd, InformationTiersd, RandPairedViewsd, RandTierIntensity

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["PatchEmbedding", "match", "perturbed_pairs", "pretrain", "run_demo", "training_pairs"]

BRAIN = "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"  # 1 mm a voxel, skull removed
TEST_SLICES = (44, 60, 76, 92)  # of one hemisphere: the template's other one is its mirror image
TRAIN_SLICES = tuple(x for x in range(34, 99) if min(abs(x - test) for test in TEST_SLICES) >= 3)
CHANGES, POINTS, CHANGE_SEED = 3, 25, 2025  # changed copies a slice, points a copy
PATCHES = (15, 31, 61)  # sides for cross-correlation, from precise to robust

INFORMATION = [InformationMapd("image", mask_key="brain"), InformationTiersd(mask_key="brain")]


def training_pairs(slices: Sequence[int], seed: int) -> SeededDataset:
    """Slices through information map, tiers and paired views: all that a MONAI pipeline needs for pre-training."""
    views = RandPairedViewsd(
        "image",
        roi_size=(128, 128),
        spatial=Rand2DElastic(
            (32, 32), magnitude_range=(0, 4), prob=1.0, rotate_range=0.3, scale_range=0.1, padding_mode="zeros"
        ),
        intensity=RandTierIntensity("rich"),
        num_points=256,
        shares=(0.1, 0.45, 0.45),
        mask_key="brain",
        outputs=(),
    )
    return SeededDataset(CacheDataset(load_slices(slices), [*INFORMATION, views], progress=False), seed)


def perturbed_pairs(slices: Sequence[int], seed: int) -> list[dict[str, Tensor]]:
    """Slices, changed copies of them, and where points of the one lie in the other; nothing of it depends on training.

    Returns:
        dictionaries with a batch of one: ``image_view1`` the slice, ``image_view2`` its copy, turned by up to 20
        degrees, elastically deformed, with another gamma, a bias field and noise; ``points_view1``, ``points_view2``
        (1, 25, 2) voxels, drawn half from medium and half from high information; ``information`` and ``tiers``.
    """
    turn = Rand2DElastic(
        (32, 32), magnitude_range=(1, 3), prob=1.0, rotate_range=math.radians(20), padding_mode="zeros"
    )
    recolour = Compose(
        [
            RandAdjustContrast(prob=1.0, gamma=(0.6, 1.6)),
            RandBiasField(prob=1.0, coeff_range=(-0.15, 0.15)),
            RandGaussianNoise(prob=1.0, std=0.05),
        ]
    )
    change = RandPairedViewsd(
        "image",
        spatial=(None, turn),
        intensity=(None, recolour),
        num_points=POINTS,
        shares=(0, 0.5, 0.5),
        mask_key="brain",
        outputs=(),
        keep_source=True,
    )
    copies = SeededDataset(Dataset(load_slices(slices) * CHANGES, Compose([*INFORMATION, change])), seed)
    return list(DataLoader(copies, batch_size=1))


def load_slices(indices: Sequence[int]) -> list[dict[str, Tensor]]:
    """Sagittal slices (1, 192, 160) of the brain in [0, 1], 1 mm a voxel, and where the brain is."""
    try:
        path = files("nilearn") / BRAIN
    except ModuleNotFoundError as error:
        raise ImportError("The brain comes with nilearn, which is missing: pip install monai_infoaug[demo]") from error
    if not path.is_file():
        raise refusal("nilearn", f"one without {BRAIN}", "a version that ships the MNI152 template")
    volume = LoadImage()(str(path)).as_tensor()[:, 21:213, :160] / 255
    return [{"image": volume[None, x], "brain": volume[None, x] > 0} for x in indices]


def pretrain(network: nn.Module, pairs: SeededDataset, epochs: int, device: str = "cpu") -> None:
    """Train the network on pairs of views, in place."""
    loader = DataLoader(pairs, batch_size=8, shuffle=True, num_workers=2, persistent_workers=True)
    optimizer = torch.optim.AdamW(network.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=epochs * len(loader))
    rate = LrScheduleHandler(schedule, print_lr=False, epoch_level=False)  # type: ignore[arg-type]  # torch's old name
    handlers = [EpochSetter([pairs]), rate, ConsoleProgress("pre-training", lambda output: output["loss"].item())]
    PixelContrastiveTrainer(
        device, epochs, loader, network, optimizer, amp=has_fast_half(device), train_handlers=handlers
    ).run()


class PatchEmbedding(nn.Module):
    """Normalised cross-correlation as an embedding network: it is the cosine of two patches less their means.

    Args:
        size: odd side of the patches, which are zero beyond the border.

    Shape:
        (B, 1, H, W) to a list of one level (B, size * size, H, W).
    """

    strides = (1,)

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, image: Tensor) -> list[Tensor]:
        """The one level, of unit length."""
        patches = unfold(image, self.size, padding=self.size // 2)
        patches -= patches.mean(1, keepdim=True)  # in place: large patches fill a gigabyte
        return [normalize(patches, dim=1, out=patches).unflatten(2, image.shape[2:])]


@torch.no_grad()
def match(network: nn.Module, pairs: Sequence[dict[str, Tensor]], device: str = "cpu") -> Tensor:
    """Where the network sees the points of view 1 in view 2: (pairs, points, 2) in voxels."""
    network, matcher = network.to(device).eval(), PairMatcher()
    found = []
    for pair in pairs:
        view1, view2, points = (pair[name].to(device) for name in ("image_view1", "image_view2", "points_view1"))
        found.append(matcher((view1, view2, points), network)["landmarks"].cpu())
    return torch.cat(found)


def run_demo(
    out: str | os.PathLike = "infoaug_demo", seed: int = 0, epochs: int = 40, device: str = "cpu"
) -> dict[str, Tensor]:
    """Pre-train, match, print a table, and write it as ``demo.csv``, and a picture ``demo.png``.

    To play with there are ``checkpoint.pt``, a slice with its changed copies in ``slices``, and ``landmarks.csv``.

    Args:
        out: folder for the files, made where it is missing.
        seed: seed of the network's weights and the training pairs; the changed copies have their own, fixed one.
        epochs: passes over the training slices.
        device: device of the network.

    Returns:
        Name of each method to its errors (points,) in mm.

    Raises:
        ValueError: for a negative seed, no epoch, a device that is not there, or a file in ``out`` that this function
            has not written, or that was changed since.
        ImportError: without nilearn.
        OSError: if ``out`` cannot be made, or written to.
    """
    require_seed(seed)
    if not is_count(epochs, 1):
        raise refusal("epochs", epochs, "at least 1")
    require_device(device)
    out, ledger = Path(out), Ledger(out)
    slices = ["slices/slice.png", *(f"slices/changed_{i + 1}.png" for i in range(CHANGES))]
    ledger.require_ours(["demo.csv", "demo.png", "checkpoint.pt", "landmarks.csv", *slices])
    (out / "slices").mkdir(parents=True, exist_ok=True)
    if not os.access(out, os.W_OK):
        raise refusal("out", out, "a folder that can be written to")

    keep_freed_memory()
    pairs = perturbed_pairs(TEST_SLICES, CHANGE_SEED)
    training = training_pairs(TRAIN_SLICES, seed)
    say(
        f"MNI152 T1 template: {len(training)} slices to train on; {len(TEST_SLICES)} others, each changed in "
        f"{CHANGES} ways, with {POINTS} points to find in each copy."
    )
    torch.manual_seed(seed)
    network = PixelEmbeddingNet(spatial_dims=2).to(device)
    found = {"untrained network": match(network, pairs, device)}
    for size in PATCHES:
        found[f"cross-correlation, {size} x {size}"] = match(PatchEmbedding(size), pairs, device)
    start = time.perf_counter()
    pretrain(network, training, epochs, device)
    seconds = time.perf_counter() - start
    found["trained network"] = match(network, pairs, device)

    distances = {name: (f - torch.cat([p["points_view2"] for p in pairs])).norm(dim=-1) for name, f in found.items()}
    errors = {name: distance[distance.isfinite()] for name, distance in distances.items()}  # a voxel is 1 mm
    untrained, *patches, trained = errors
    best = min(patches, key=lambda name: float(errors[name].mean()))
    report(errors, ledger)
    figure = draw(pairs[-1], {name: found[name][-1] for name in (untrained, best, trained)})
    ledger.write("demo.png", png_bytes(figure, dpi=100))
    ratios = [float(errors[trained].mean() / errors[name].mean()) for name in (untrained, best)]
    ledger.write("checkpoint.pt", checkpoint_of(network))
    copies = [pairs[len(TEST_SLICES) * i] for i in range(CHANGES)]
    for name, image in zip(slices, [copies[0]["image_view1"], *(copy["image_view2"] for copy in copies)], strict=True):
        ledger.write(name, picture_of(image[0, 0]))
    points = copies[0]["points_view1"][0].double().numpy() * (1, -1) + (0, copies[0]["image"].shape[-1] - 1)
    ledger.write("landmarks.csv", landmark_text("landmarks.csv", LandmarkTable(range(POINTS), {"slice": points})))
    say(
        f"The trained network's mean error is {ratios[0]:.2f} of the untrained one's and {ratios[1]:.2f} of the best "
        f"cross-correlation's.\nTrained for {seconds:.0f} s, seed {seed}; seed of the changes {CHANGE_SEED}. "
        f"Wrote {out / 'demo.csv'} and {out / 'demo.png'}.\n"
        f"To play with:\n"
        f"  monai-infoaug match {out / 'slices'} --checkpoint {out / 'checkpoint.pt'} --template {out / slices[0]} "
        f"--landmarks {out / 'landmarks.csv'} --pixdim 1\n"
        f"  monai-infoaug inspect {out / slices[0]} --modality mr --pixdim 1"
    )
    return errors


def checkpoint_of(network: nn.Module) -> bytes:
    """The network as a checkpoint of the bundle ``landmark_pretraining``."""
    states = GlobalLocalEmbeddingNet([network], [1]).cpu().state_dict()
    settings = {"bundle": "landmark_pretraining", "modality": "mr", "network_scales": [1], "patch_radius": None}
    content = io.BytesIO()
    torch.save({"network": states, "settings": settings}, content)
    return content.getvalue()


def picture_of(image: Tensor) -> bytes:
    """A slice (W, H) in [0, 1] as a PNG file, the head upright."""
    content = io.BytesIO()
    Image.fromarray((255 * image.clamp(0, 1)).byte().flip(1).T.numpy()).save(content, format="PNG")
    return content.getvalue()


def report(errors: dict[str, Tensor], ledger: Ledger) -> None:
    """Print a table of errors in mm, a row a method, and write it as ``demo.csv``."""
    rows = [
        (name, *(round(float(x), 3) for x in (e.mean(), e.median(), 100 * (e < 2).double().mean())))
        for name, e in errors.items()
    ]
    ledger.write("demo.csv", table_text([("method", "mean_mm", "median_mm", "within_2mm_percent"), *rows]))
    say(f"\n{'':28}{'mean mm':>9}{'median mm':>12}{'within 2 mm':>14}")
    for name, mean, median, share in rows:
        say(f"{name:28}{mean:9.2f}{median:12.2f}{share:12.0f} %")
    say("")


def draw(pair: dict[str, Tensor], found: dict[str, Tensor]) -> Figure:
    """The template with its points, information and tiers; below, what each method found in the changed copy."""
    from matplotlib.figure import Figure

    def plane(name: str) -> np.ndarray:
        return pair[name][0, 0].numpy()

    figure = Figure(figsize=(9, 5.7), layout="constrained")
    (template, information, tiers), searched = figure.subplots(2, 3)
    points, truth = pair["points_view1"][0].numpy(), pair["points_view2"][0].numpy()
    draw_landmarks(template, plane("image_view1"), points)
    template.set_title(f"template, {len(points)} points")
    draw_information(information, plane("information"), plane("brain"))
    information.set_title("information")
    draw_tiers(tiers, plane("tiers"), plane("brain"))
    tiers.set_title("tiers")
    for axes, (name, positions) in zip(searched, found.items(), strict=True):
        draw_landmarks(axes, plane("image_view2"), positions.numpy(), truth)
        error = np.nanmean(np.linalg.norm(positions.numpy() - truth, axis=-1))
        axes.set_title(f"{name}: {error:.1f} mm", fontsize=10)
    figure.supxlabel("changed copy: circles are the true positions, crosses the found ones", fontsize=10)
    for axes in (template, information, tiers, *searched):
        axes.invert_yaxis()
        axes.axis("off")
    return figure
