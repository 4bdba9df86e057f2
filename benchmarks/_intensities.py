"""Changes of intensity that tiers are compared with: random convolutions, nnU-Net's, and tiers drawn apart."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import MAX_SEED, convert_to_dst_type, convert_to_tensor
from torch.nn import functional

from monai_infoaug.information import TIERS


class RandConvolutiond(RandomizableTransform, MapTransform):
    """Mix an image with itself after a random convolution (RandConv [1], with mixing).

    Args:
        keys: keys of the images (C, *S).
        sizes: odd sides of the kernel, of which one is drawn.
        prob: probability of any change.

    References:
        1. Xu et al., "Robust and generalizable visual representation learning via random convolutions", ICLR 2021,
           arXiv:2007.13003.
    """

    def __init__(self, keys: KeysCollection, sizes: Sequence[int] = (1, 3, 5, 7), prob: float = 0.5) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)
        self.sizes = tuple(sizes)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        out = dict(data)
        self.randomize(None)
        if not self._do_transform:
            return out
        size, share = int(self.R.choice(self.sizes)), self.R.uniform()
        for key in self.key_iterator(out):
            image = convert_to_tensor(out[key], dtype=torch.float32, track_meta=False)
            channels, dims = len(image), image.ndim - 1
            scale = (channels * size**dims) ** -0.5  # keeps the variance of independent pixels
            kernel = torch.from_numpy(self.R.normal(0, scale, (channels, channels, *[size] * dims))).to(image)
            padded = functional.pad(image[None], [size // 2] * 2 * dims, mode="replicate")
            convolved = (functional.conv2d if dims == 2 else functional.conv3d)(padded, kernel)[0]
            out[key] = convert_to_dst_type(share * image + (1 - share) * convolved, out[key])[0]
        return out


class Apart(RandomizableTransform):
    """An array transform that draws something else from a seed, so that tiers with one seed change independently.

    Args:
        transform: array transform.
        number: which of such transforms.
    """

    def __init__(self, transform: Any, number: int) -> None:
        super().__init__(1.0)
        self.transform, self.number = transform, number

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> Apart:
        self.transform.set_random_state(None if seed is None else (seed + 7919 * self.number) % MAX_SEED, state)
        return self

    def __call__(self, image: Any) -> Any:
        return self.transform(image)


def drawn_apart(preset: str, strengths: Sequence[float]) -> dict[str, Any]:
    """The transform of each tier, as a bundle has it, for tiers that draw their changes apart."""
    target = "monai_infoaug.transforms.intensity_preset"
    changes = [{"_target_": target, "name": preset, "strength": strength} for strength in strengths]
    apart = {"_target_": "benchmarks._intensities.Apart"}
    return {t: apart | {"transform": changes[k], "number": k} for k, t in enumerate(TIERS) if strengths[k] > 0}


def nnunet() -> list[dict[str, Any]]:
    """nnU-Net's changes of intensity, in its order and with its probabilities, for images in [0, 1].

    Its noise is of images of unit standard deviation; that of images in [0, 1] is near a quarter.
    """
    sigma = {f"sigma_{axis}": [0.5, 1.0] for axis in "xyz"}
    linear = {"upsample_mode": "$'trilinear' if @spatial_dims == 3 else 'bilinear'"}
    gamma = {"gamma": [0.7, 1.5], "retain_stats": True}
    steps: list[tuple[str, float, dict[str, Any]]] = [
        ("RandGaussianNoised", 0.1, {"std": 0.08}),
        ("RandGaussianSmoothd", 0.2, sigma),
        ("RandScaleIntensityd", 0.15, {"factors": 0.25}),
        ("RandScaleIntensityFixedMeand", 0.15, {"factors": 0.25, "preserve_range": True}),
        ("RandSimulateLowResolutiond", 0.25, {"zoom_range": [0.5, 1.0]} | linear),
        ("RandAdjustContrastd", 0.1, gamma | {"invert_image": True}),
        ("RandAdjustContrastd", 0.3, gamma),
    ]
    return [{"_target_": f"monai.transforms.{name}", "keys": "image", "prob": p, **more} for name, p, more in steps]
