"""A baseline of single-source generalisation: random convolutions, which keep shapes and change texture."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import MAX_SEED, convert_to_dst_type, convert_to_tensor
from torch.nn import functional


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
    """A random transform that draws something else from a seed: tiers of equal seeds then change independently.

    Args:
        transform: array transform.
        number: which of such transforms.
    """

    def __init__(self, transform: Any, number: int) -> None:
        super().__init__(1.0)
        self.transform, self.number = transform, number

    def set_random_state(self, seed: int | None = None, state: Any = None) -> Apart:
        if seed is not None:
            seed = (seed + 7919 * self.number) % MAX_SEED
        self.transform.set_random_state(seed, state)
        return self

    def __call__(self, image: Any) -> Any:
        return self.transform(image)
