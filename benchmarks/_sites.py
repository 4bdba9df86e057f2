"""Images as other sites might have taken them: two families of changes, which have no change in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from monai.transforms import (
    Compose,
    GaussianSmooth,
    GibbsNoise,
    RandBiasField,
    RandGaussianNoise,
    RandRicianNoise,
    ScaleIntensityRangePercentiles,
)
from torch import Tensor

Change = Callable[[Tensor], Tensor]  # of an image (C, *S) in [0, 1]


def curve(*heights: float) -> Change:
    """Grey levels by a curve through heights at equal distances."""
    knots = np.linspace(0, 1, len(heights))
    return lambda image: torch.from_numpy(np.interp(np.asarray(image), knots, heights)).to(image)


def gains(*factors: float) -> Change:
    """Each channel by a factor."""
    return lambda image: image * torch.tensor(factors).view(-1, *[1] * (image.ndim - 1))


def ramp(least: float) -> Change:
    """Darker along the last axis, as far from a surface coil."""
    return lambda image: image * torch.linspace(1, least, image.shape[-1])


def low_resolution(*factors: float) -> Change:
    """Fewer samples along the axes, by these factors, on the grid from before."""

    def lowered(image: Tensor) -> Tensor:
        mode = "trilinear" if image.ndim == 4 else "bilinear"
        size = [max(2, round(length * factor)) for length, factor in zip(image.shape[1:], factors, strict=True)]
        small = torch.nn.functional.interpolate(image[None], size, mode="area")
        return torch.nn.functional.interpolate(small, image.shape[1:], mode=mode)[0]

    return lowered


def sharpened(amount: float) -> Change:
    """Edges enhanced, as detectors do it."""
    return lambda image: (1 + amount) * image - amount * torch.as_tensor(GaussianSmooth(3.0)(image))


def veil(least: float) -> Change:
    """Scattered rays, which follow what is shown on a large scale and add to it."""
    return lambda image: least * image + (1 - least) * torch.as_tensor(GaussianSmooth(60.0)(image))


RESCALE = ScaleIntensityRangePercentiles(0.5, 99.5, 0, 1, clip=True)
BIAS = RandBiasField(degree=3, coeff_range=(-0.6, 0.6), prob=1.0)
PARTLY_INVERTED, OTHERWISE_INVERTED = curve(0, 0.65, 1, 0.85, 0.6), curve(0, 0.6, 0.15, 0.5, 1)
RICIAN = RandRicianNoise(1.0, std=0.2, sample_std=False)
SCANNERS: dict[str, Sequence[Any]] = {  # what is reported on
    "bias field": [BIAS],
    "contrast": [PARTLY_INVERTED],
    "noise": [RICIAN],
    "thick slices": [low_resolution(1 / 3, 1, 1)],
}
OTHER_SCANNERS: dict[str, Sequence[Any]] = {  # what is chosen on
    "surface coil": [ramp(0.1)],
    "other contrast": [OTHERWISE_INVERTED],
    "ringing": [GibbsNoise(0.8)],
    "blurred": [GaussianSmooth(1.5)],
}
SLICES = {name: SCANNERS[name] for name in ("bias field", "contrast", "noise")}
SLICES["low resolution"] = [low_resolution(0.3, 0.3)]
EXPOSURES: dict[str, Sequence[Any]] = {
    "under-exposed": [curve(*np.linspace(0, 1, 33) ** 2.5), RandGaussianNoise(1.0, std=0.06, sample_std=False)],
    "over-exposed": [curve(*np.linspace(0, 1, 33) ** 0.4)],
    "scattered rays": [veil(0.4)],
    "sharpened": [sharpened(2.0)],
}
OTHER_EXPOSURES: dict[str, Sequence[Any]] = {
    "narrow window": [curve(0, 0, 0.5, 1, 1)],
    "uneven": [ramp(0.4)],
    "mostly inverted": [curve(0, 1, 0.7, 0.45, 0.2)],
    "blurred": [GaussianSmooth(2.0)],
}
CAMERAS: dict[str, Sequence[Any]] = {  # chosen on; another site is reported on
    "darker": [curve(*np.linspace(0, 1, 33) ** 1.7)],
    "other colours": [gains(0.75, 1.0, 1.3)],
    "blurred": [GaussianSmooth(2.5)],
    "uneven": [ramp(0.4)],
}


def take_again(path: Path, steps: Sequence[Any], seed: int, to: Path) -> None:
    """Write an image as another site might have taken it, on its own grid."""
    image = sitk.ReadImage(str(path))
    array, axis = sitk.GetArrayFromImage(image).astype(np.float32), image.GetDimension()
    planes = np.moveaxis(array, axis, 0) if array.ndim > axis else array[None]
    change = Compose([RESCALE if len(planes) == 1 else lambda x: x / 255, *steps]).set_random_state(seed)
    changed = torch.as_tensor(change(torch.from_numpy(planes.copy()))).clamp(0, 1).numpy() * 255
    out = np.moveaxis(changed, 0, axis) if array.ndim > axis else changed[0]
    made = sitk.GetImageFromArray(out.round().astype(np.uint8), isVector=array.ndim > axis)
    made.CopyInformation(image)
    part = to.parent.parent / f"part_{to.name}"  # not among the images
    sitk.WriteImage(made, str(part))
    part.replace(to)


def write_slices(volume: Path, folder: Path) -> None:
    """Write every second slice of a volume of 8 bits as a picture."""
    name, array = volume.name.partition(".")[0], sitk.GetArrayFromImage(sitk.ReadImage(str(volume)))
    for number in range(0, len(array), 2):
        sitk.WriteImage(sitk.GetImageFromArray(array[number].astype(np.uint8)), str(folder / f"{name}_{number:02}.png"))
