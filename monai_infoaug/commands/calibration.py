"""Settings of the transforms, estimated from the training images of a folder."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import SimpleITK as sitk
import torch
from monai.data import MetaTensor
from monai.data.utils import set_rnd
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, Spacing, SqueezeDim
from monai.utils import convert_to_tensor, ensure_tuple_rep
from numpy.typing import ArrayLike
from torch import Tensor, nn
from tqdm import tqdm

from monai_infoaug._require import refusal
from monai_infoaug.commands.anchor_loss import anchor_losses, fit_curve, loss_cuts
from monai_infoaug.commands.inspection import check_settings, read_image
from monai_infoaug.commands.match import load_network, read_config
from monai_infoaug.data import SimpleITKReader, image_datalist
from monai_infoaug.information import TIERS, assign_tiers, mutual_information
from monai_infoaug.transforms import AssignPixdimd, InformationMap, ModalityPreset, guess_modality
from monai_infoaug.transforms._calibration import VERSION
from monai_infoaug.transforms.tier_intensity import preset

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["calibrate"]

SAMPLES = 20_000  # of an image's foreground, for percentiles and quantiles over all images
PATCH = {2: 33, 3: 11}  # voxels of a patch's side: about a thousand voxels in a patch
PATCHES = 24  # of a tier in an image
BINS = 16  # of a patch: few, since the bias of mutual information grows with their square
DRAWS = 8  # of the change of an image, of which the one that leaves least counts
STRENGTHS = (*(k / 8 for k in range(1, 8)), *(k / 4 for k in range(4, 17)))  # that are tried; 0 is no change
MAX_VOXELS = 2**19  # of an image that is changed; of a larger one a part is
COARSE = {2: 128, 3: 64}  # voxels of the longest axis of an image that is registered
REGISTERED = 4000  # voxels that a registration looks at
CELLS = 5  # of the B-spline's mesh along each axis


class View(NamedTuple):
    """A part of an image with patches of each tier."""

    part: tuple[slice, ...]
    image: Tensor  # (C, *R) in [0, 1]
    centres: list[Tensor]  # for each tier (N, D) voxels of `image`


def calibrate(
    data: str | os.PathLike,
    out: str | os.PathLike = "calibration.json",
    modality: str | None = None,
    pixdim: float | Sequence[float] | None = None,
    working_pixdim: float | Sequence[float] | None = None,
    window: int | Sequence[int] = 9,
    window_mm: float | Sequence[float] | None = None,
    num_bins: int = 32,
    intensity: str = "rich",
    alpha: float = 1.0,
    keep: float = 0.5,
    num_images: int = 20,
    seed: int = 0,
    checkpoint: str | os.PathLike | None = None,
) -> dict[str, Any]:
    """Estimate the settings of the transforms from training images, without labels, and write them with a picture.

    - The range of grey levels: the 0.5 and 99.5 percentile of all images, inside the foreground.
    - The thresholds of the tiers: the tertiles of the information of all images, inside the foreground. With a
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
        pixdim: millimetres a pixel, for PNG and JPEG. None: as the files say.
        working_pixdim: millimetres a pixel that images are resampled to first. None: those of the checkpoint, without
            which they are not.
        window, window_mm, num_bins: see :py:class:`monai_infoaug.transforms.InformationMap`.
        intensity: ``"rich"``, ``"published"`` or ``"cross_contrast"``, see
            :py:class:`monai_infoaug.transforms.RandTierIntensity`.
        alpha: share of the mutual information of corresponding patches at which the way ends, above 0.
        keep: share of the way that is left, in [0, 1): 0 goes it to the end.
        num_images: at most, drawn from the folder, at least 2.
        seed: of what is drawn.
        checkpoint: of a training with a bundle of this package.

    Returns:
        What is in the file.

    Raises:
        ValueError: for an unreadable file or checkpoint, fewer than two images, images that do not go together or have
            no three tiers, or a setting out of range.
        OSError: if ``out`` cannot be written.

    References:
        [1] Tian et al., "What makes for good views for contrastive learning?", NeurIPS 2020, arXiv:2005.10243.
        [2] Quan et al., "Information-guided pixel augmentation for pixel-wise contrastive learning", IEEE TMI 44(1),
        2025, arXiv:2211.07118.
    """
    check_settings(window, window_mm, num_bins, modality, intensity, working_pixdim, seed)
    if not (0 < alpha < math.inf):
        raise refusal("alpha", alpha, "a number above 0")
    if not (0 <= keep < 1):
        raise refusal("keep", keep, "in [0, 1)")
    if not (num_images >= 2):
        raise refusal("images", num_images, "at least 2")
    out = Path(out)
    writable = out.absolute().parent.is_dir() and not out.is_dir() and out.suffix != ".png"
    if not writable:
        raise refusal("out", out, "a file in a folder that exists, and no .png, which the picture is")
    paths = [item["image"] for item in image_datalist(data)]
    if len(paths) <= 1:
        raise refusal("data", f"'{data}' with {len(paths)}", "a folder with at least 2 images")
    if checkpoint is not None:
        config = read_config(checkpoint)
        network = load_network(config, checkpoint).eval()
        modality, working_pixdim = modality or config.get("modality"), working_pixdim or config.get("working_pixdim")
    generator = np.random.RandomState(seed)
    paths = [paths[k] for k in sorted(generator.permutation(len(paths))[:num_images])]

    images = [_read(path, pixdim, working_pixdim) for path in tqdm(paths, "Reading", unit="image", disable=None)]
    for path, image in zip(paths, images, strict=True):
        alike = (len(image), image.ndim) == (len(images[0]), images[0].ndim)
        if not alike:
            raise refusal("data", f"'{path}' of shape {tuple(image.shape)}", "images of as many axes and channels")
    modality = modality or guess_modality(images[0])
    images, foregrounds = zip(*map(ModalityPreset(modality), images), strict=True)
    foregrounds = [foreground.as_tensor() > 0 for foreground in foregrounds]
    drawn = [_drawn(foreground, generator) for foreground in foregrounds]
    levels = _values(images, drawn)
    value_range = tuple(np.quantile(levels, (0.005, 0.995)).tolist())
    if not (value_range[0] < value_range[1]):
        raise refusal("data", f"'{data}' with constant images", "images that show something")
    measure = InformationMap(window, window_mm, num_bins, value_range)
    maps = [measure(image, mask).as_tensor() for image, mask in zip(images, foregrounds, strict=True)]
    information = _values(maps, drawn)
    thresholds, anchors = tuple(np.quantile(information, (1 / 3, 2 / 3)).tolist()), None
    if checkpoint is not None:
        anchors = _anchors(network, images, maps, foregrounds, preset(intensity, 1.0), seed)
        thresholds = loss_cuts(*anchors[:2]) or thresholds

    views = []
    for image, bits, foreground in zip(images, maps, foregrounds, strict=True):
        tiers = assign_tiers(bits, thresholds).where(foreground, len(TIERS))
        views.append(_view(image, tiers, generator))
    corresponding, unrelated = _across(images, views, value_range)
    accepted = "images of one anatomy with low, medium and high information"
    if not bool(np.isfinite(corresponding).all()):
        raise refusal("data", f"'{data}' without patches that correspond", accepted)
    patches = [_tier_patches(view.image, view) for view in views]
    own = _mean([[_bits(p, p, value_range) for p in tiers] for tiers in patches])
    stop = alpha * corresponding + keep * (own - alpha * corresponding).clip(0)
    strengths, curves = _weakened(views, patches, intensity, value_range, own, stop, seed)
    calibration = {
        "version": VERSION,
        "information": {"window": window, "window_mm": window_mm, "num_bins": num_bins, "value_range": value_range},
        "thresholds": thresholds,
        "intensity": {
            "transforms": intensity,
            "strengths": _by_tier(_crossing(strengths, *each) for each in zip(curves.T, stop, strict=True)),
        },
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
            "pixdim": pixdim,
            "working_pixdim": working_pixdim,
            "alpha": alpha,
            "keep": keep,
            "seed": seed,
            "checkpoint": None if checkpoint is None else Path(checkpoint).name,
        },
    }
    out.write_text(json.dumps(calibration, indent=1) + "\n", encoding="utf-8")
    _draw(calibration, levels, information, anchors).savefig(out.with_suffix(".png"), dpi=100)
    return calibration


def _read(
    path: str, pixdim: float | Sequence[float] | None, working_pixdim: float | Sequence[float] | None
) -> MetaTensor:
    """The image (C, *S) of a file, resampled."""
    steps = [
        LoadImaged("image", reader=SimpleITKReader()),
        EnsureChannelFirstd("image"),
        AssignPixdimd("image", pixdim),
    ]
    image = read_image(path, Compose(steps))
    if image.shape[3:] == (1,):  # a radiograph in DICOM is a volume of one slice
        image = SqueezeDim(-1)(image)
    dims = image.ndim - 1
    if working_pixdim is not None:
        image = Spacing(ensure_tuple_rep(working_pixdim, dims), padding_mode="border")(image)
    side = PATCH[dims]
    large = min(image.shape[1:]) >= side
    if not large:
        raise refusal("data", f"'{path}' of shape {tuple(image.shape)}", f"at least {side} voxels a side")
    return image


def _drawn(foreground: Tensor, generator: np.random.RandomState) -> Tensor:
    """Indices of voxels drawn from the foreground (1, *S)."""
    inside = foreground.flatten().nonzero()[:, 0]
    return inside[generator.randint(len(inside), size=SAMPLES)]


def _values(images: Sequence[Tensor], drawn: Sequence[Tensor]) -> np.ndarray:
    """The values of all images at the drawn voxels."""
    return torch.cat([image.flatten(1)[:, index].flatten() for image, index in zip(images, drawn, strict=True)]).numpy()


def _view(image: Tensor, tiers: Tensor, generator: np.random.RandomState) -> View:
    """A part of an image with patches of each tier, drawn by ``tiers`` (1, *S)."""
    sizes = np.array(image.shape[1:])
    sides = np.minimum(sizes, np.ceil(sizes * (MAX_VOXELS / sizes.prod()) ** (1 / len(sizes))).astype(int))
    inside = (tiers[0] < len(TIERS)).nonzero()
    start = inside[generator.randint(len(inside))].numpy() - sides // 2
    start = start.clip(0, sizes - sides)
    part = tuple(slice(a, a + side) for a, side in zip(start.tolist(), sides.tolist(), strict=True))
    radius = PATCH[len(sizes)] // 2
    inner = tiers[0][part][tuple(slice(radius, side - radius) for side in sides)]
    found = [(inner == tier).nonzero() for tier in range(len(TIERS))]
    centres = [radius + places[generator.permutation(len(places))[:PATCHES]] for places in found]
    return View(part, convert_to_tensor(image[(slice(None), *part)], track_meta=False), centres)


def _patches(image: Tensor, centres: Tensor) -> Tensor:
    """The patches (N, C, *P) of an image (C, *S) around voxels (N, D)."""
    side = PATCH[centres.shape[1]]
    for axis in range(1, image.ndim):
        image = image.unfold(axis, side, 1)
    return image[(slice(None), *(centres - side // 2).T)].transpose(0, 1)


def _tier_patches(image: Tensor, view: View) -> list[Tensor]:
    """The patches of each tier of a view, in its image or a changed one."""
    return [_patches(image, centres) for centres in view.centres]


def _bits(first: Tensor, second: Tensor, value_range: tuple[float, float]) -> float:
    """The mean mutual information of patches (N, C, *P); NaN without one."""
    if len(first) == 0:
        return math.nan
    return mutual_information(first.flatten(0, 1), second.flatten(0, 1), BINS, value_range)


def _anchors(
    network: nn.Module,
    images: Sequence[MetaTensor],
    maps: Sequence[Tensor],
    foregrounds: Sequence[Tensor],
    change: Compose,
    seed: int,
) -> np.ndarray:
    """Information, loss and similarity (3, N) of anchors of all images."""
    scans = zip(images, maps, foregrounds, strict=True)
    scans = enumerate(tqdm(scans, "Measuring the loss", len(images), unit="image", disable=None))
    try:
        pairs = [anchor_losses(network, *scan, change, seed + number) for number, scan in scans]
    except (RuntimeError, ValueError) as error:
        shape = tuple(images[0].shape)
        raise ValueError(f"`checkpoint` must be of a network for images of shape {shape}, got {error}.") from error
    return torch.cat([torch.stack(pair) for pair in pairs], 1).double().numpy()


def _across(
    images: Sequence[MetaTensor], views: Sequence[View], value_range: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """For each tier, the mutual information of patches of an image with those of the next one.

    Returns:
        bits of the patches that correspond, and of any two patches.
    """
    rows = np.full((len(views), len(TIERS), 2), math.nan)
    following = [*images[1:], images[0]]
    pairs = zip(rows, views, images, following, strict=True)
    for row, view, image, other in tqdm(pairs, "Registering", len(views), unit="pair", disable=None):
        try:
            with _one_thread():
                transform = _registered(_coarse(image), _coarse(other))
        except RuntimeError:  # nothing to register in one of them, or no overlap
            continue
        grid = _to_itk(image[0])[view.part]
        warped = [sitk.Resample(_to_itk(channel), grid, transform, sitk.sitkLinear, math.nan) for channel in other]
        warped = torch.stack([torch.from_numpy(sitk.GetArrayFromImage(channel).T) for channel in warped])
        for tier, centres in enumerate(view.centres):
            here, there = _patches(view.image, centres), _patches(warped, centres)
            whole = there.flatten(1).isfinite().all(1)
            here, there = here[whole], there[whole]
            row[tier] = [_bits(here, partner, value_range) for partner in (there, there.roll(1, 0))]
    return _mean(rows[..., 0]), _mean(rows[..., 1])


def _weakened(
    views: Sequence[View],
    patches: Sequence[Sequence[Tensor]],
    intensity: str,
    value_range: tuple[float, float],
    own: np.ndarray,
    stop: np.ndarray,
    seed: int,
) -> tuple[list[float], np.ndarray]:
    """The mutual information of patches with their changed selves, from ``own`` until it is at ``stop`` in every tier.

    Returns:
        the strengths that were tried, from 0, and for each (rows) the bits of each tier.
    """
    curves = [own]
    for strength in tqdm(STRENGTHS, "Raising the strength", unit="step", disable=None):
        change, rows = preset(intensity, strength), np.empty((DRAWS, len(views), len(TIERS)))
        for draw, number in np.ndindex(rows.shape[:2]):
            view = views[number]
            set_rnd(change, seed + draw * len(views) + number)  # the same at each strength: the curves are smooth
            image = torch.as_tensor(change(view.image.clone())).clamp(0, 1)
            changed = _tier_patches(image, view)
            rows[draw, number] = [_bits(*pair, value_range) for pair in zip(patches[number], changed, strict=True)]
        curves.append(_mean(rows.min(0)))
        if (curves[-1] <= stop).all():
            break
    return [0.0, *STRENGTHS[: len(curves) - 1]], np.array(curves)


def _mean(rows: ArrayLike) -> np.ndarray:
    """The mean of each column over the rows that have it, or NaN."""
    return np.ma.masked_invalid(rows).mean(0).filled(math.nan)


def _by_tier(values: Iterable[Any]) -> dict[str, Any]:
    return dict(zip(TIERS, values, strict=True))


def _crossing(strengths: Sequence[float], bits: np.ndarray, stop: float) -> float:
    """The strength at which ``bits`` first falls to ``stop``, linear between strengths; the last one if it does not."""
    below = np.flatnonzero(bits <= stop)
    if len(below) == 0:
        return strengths[-1]
    k = max(int(below[0]), 1)
    return round(float(np.interp(stop, bits[[k, k - 1]], np.array(strengths)[[k, k - 1]])), 3)


def _to_itk(image: MetaTensor) -> sitk.Image:
    """An image (*S) in its place in the world, for SimpleITK."""
    dims = image.ndim
    affine = image.affine.numpy()
    spacing = np.linalg.norm(affine[:dims, :dims], axis=0)
    itk = sitk.GetImageFromArray(image.as_tensor().numpy().T)
    itk.SetSpacing(spacing.tolist())
    itk.SetDirection((affine[:dims, :dims] / spacing).ravel().tolist())
    itk.SetOrigin(affine[:dims, -1].tolist())
    return itk


def _coarse(image: MetaTensor) -> sitk.Image:
    """The mean of the channels of an image (C, *S), small enough to be registered in a second or a few."""
    itk = _to_itk(image.mean(0))
    factor = math.ceil(max(itk.GetSize()) / COARSE[itk.GetDimension()])
    sigmas = [factor / 2 * spacing for spacing in itk.GetSpacing()]
    return sitk.Shrink(sitk.SmoothingRecursiveGaussian(itk, sigmas), [factor] * itk.GetDimension())


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let SimpleITK work on one thread: the sums of several differ in rounding, which a registration makes large."""
    usual = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(usual)


def _registered(fixed: sitk.Image, moving: sitk.Image) -> sitk.Transform:
    """From points of ``fixed`` to those of ``moving``: affine, then a B-spline, by Mattes' mutual information."""
    dims = fixed.GetDimension()

    def method(*shrink: int) -> sitk.ImageRegistrationMethod:
        registration = sitk.ImageRegistrationMethod()
        registration.SetMetricAsMattesMutualInformation(32)
        shares = [min(1.0, REGISTERED * n**dims / math.prod(fixed.GetSize())) for n in shrink]
        registration.SetMetricSamplingStrategy(registration.RANDOM)
        registration.SetMetricSamplingPercentagePerLevel(shares, seed=1)
        registration.SetInterpolator(sitk.sitkLinear)
        registration.SetShrinkFactorsPerLevel(shrink)
        registration.SetSmoothingSigmasPerLevel([n / 2 if n > 1 else 0 for n in shrink])
        registration.SetSmoothingSigmasAreSpecifiedInPhysicalUnits(False)
        return registration

    moments = sitk.CenteredTransformInitializerFilter.MOMENTS
    affine = sitk.AffineTransform(sitk.CenteredTransformInitializer(fixed, moving, sitk.AffineTransform(dims), moments))
    registration = method(4, 2, 1)
    registration.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-4, 100, relaxationFactor=0.7)
    registration.SetOptimizerScalesFromPhysicalShift()
    registration.SetInitialTransform(affine, inPlace=True)
    registration.Execute(fixed, moving)
    spline = sitk.BSplineTransformInitializer(fixed, [CELLS] * dims)
    registration = method(2, 1)
    registration.SetMovingInitialTransform(affine)
    registration.SetInitialTransformAsBSpline(spline, inPlace=True, scaleFactors=[1, 1])
    registration.SetOptimizerAsLBFGSB(
        gradientConvergenceTolerance=1e-5, numberOfIterations=30, maximumNumberOfFunctionEvaluations=40
    )
    registration.Execute(fixed, moving)
    return sitk.CompositeTransform([affine, spline])


def _draw(
    calibration: dict[str, Any], levels: np.ndarray, information: np.ndarray, anchors: np.ndarray | None
) -> Figure:
    """Histograms with their cuts, mutual information against strength with the stops, anchors against information."""
    from matplotlib.figure import Figure

    panels = 3 if anchors is None else 5
    figure = Figure(figsize=(5 * panels, 4.5), layout="constrained")
    grey, bits, curves, *more = figure.subplots(1, panels)
    grey.hist(levels, 128, color="0.7")
    grey.set(title="range of grey levels", xlabel="grey level in the foreground", yticks=[])
    bits.hist(information, 128, color="0.7")
    bits.set(title="tiers", xlabel="information in the foreground (bits)", yticks=[])
    for axes, cuts in ((grey, calibration["information"]["value_range"]), (bits, calibration["thresholds"])):
        for cut in cuts:
            axes.axvline(cut, color="black")
            axes.annotate(f" {cut:.3g}", (cut, 0.98), xycoords=("data", "axes fraction"), va="top")
    shared, strengths = calibration["mutual_information"], calibration["intensity"]["strengths"]
    for colour, name in enumerate(TIERS):
        strength, bits = shared["strength"], shared["changed"][name]
        reached = bits[-1] <= shared["stop"][name]
        label = f"{name}: {strengths[name]:.3g}" + ("" if reached else ", stop not reached")
        curves.plot(strength, bits, color=f"C{colour}", label=label)
        curves.plot(strengths[name], np.interp(strengths[name], strength, bits), "o", color=f"C{colour}")
        for level, style in (("stop", "--"), ("unrelated", ":")):
            curves.axhline(shared[level][name], color=f"C{colour}", linestyle=style, linewidth=1)
    curves.plot([], [], "k--", linewidth=1, label="stop")
    curves.plot([], [], "k:", linewidth=1, label="any two patches")
    title = f"strength of '{calibration['intensity']['transforms']}'"
    curves.set(title=title, xlabel="strength", ylabel="mutual information with the original (bits)", ylim=(0, None))
    curves.legend()
    if anchors is not None:
        for axes, values in zip(more, anchors[1:], strict=True):
            grid = np.linspace(*np.quantile(anchors[0], (0.01, 0.99)), 200)
            axes.hexbin(anchors[0], values, gridsize=60, bins="log", cmap="Greys", linewidths=0)
            axes.plot(grid, fit_curve(anchors[0], values)(grid), label="smooth curve")
            axes.axhline(values.mean(), color="black", linestyle="--", linewidth=1, label="mean")
            for cut in calibration["thresholds"]:
                axes.axvline(cut, color="black", linewidth=1)
            axes.set(xlabel="information (bits)")
            axes.legend()
        found = "crosses its mean" if loss_cuts(*anchors[:2]) else "does not cross its mean twice: tertiles"
        more[0].set(title=f"loss {found}", ylabel="loss of an anchor")
        more[1].set(title="similarity of the two views", ylabel="cosine of an anchor's embeddings")
    return figure
