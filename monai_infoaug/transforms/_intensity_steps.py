"""MONAI's random intensity transforms as steps: drawn first, by the transforms themselves, then applied in few passes.

So the chains of all tiers, which start from one random state, share the noise, and the steps work in place on one copy
of the image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from monai.data.utils import set_rnd
from monai.networks.layers import gaussian_1d
from monai.transforms import (
    Compose,
    RandAdjustContrast,
    RandBiasField,
    RandGaussianNoise,
    RandGaussianSmooth,
    RandomizableTransform,
    RandScaleIntensity,
    RandScaleIntensityFixedMean,
)
from monai.utils import MAX_SEED, convert_to_tensor
from numpy.polynomial.legendre import legvander
from torch import Tensor

from monai_infoaug._require import refusal
from monai_infoaug.transforms._smoothing import filtered
from monai_infoaug.transforms.intensity_curve import RandIntensityCurve

Step = Callable[[Tensor], Tensor]  # of a float32 image, which it may overwrite


def changed_by(transforms: Sequence[Callable], seed: int, x: Tensor) -> Iterator[Tensor]:
    """An image (C, *S) as each of several transforms changes it, all from one seed.

    Raises:
        TypeError: if a transform gives no array back.
        ValueError: if it gives one of another shape.
    """
    for transform, steps in zip(transforms, draw_steps(transforms, seed, x), strict=True):
        if steps is None:
            yield _run(transform, seed, x)
            continue
        out = x.to(torch.float32, copy=True)
        for step in steps:
            out = step(out)
        yield out.to(x.dtype)


def _run(transform: Callable, seed: int, x: Tensor) -> Tensor:
    set_rnd(transform, seed)
    out = transform(x.clone())
    if not isinstance(out, np.ndarray | Tensor):
        raise refusal("transforms", f"a {type(out).__name__}", "functions from array to array", TypeError)
    out = convert_to_tensor(out, dtype=x.dtype, device=x.device, track_meta=False)
    if out.shape != x.shape:
        raise refusal("transforms", f"{tuple(x.shape)} -> {tuple(out.shape)}", "intensity transforms")
    return out


def draw_steps(chains: Sequence[Any], seed: int, like: Tensor) -> list[list[Step] | None]:
    """What each chain draws for an image, all of them from one seed; None for one with a transform that has no steps.

    Args:
        chains: transforms, or flat compositions of them.
        seed: seed of each.
        like: (C, *S), of which shape and device count.
    """
    generator = np.random.RandomState(seed)  # seeded anew for each transform: a new one takes a hundred times as long
    normals: dict[int, dict[bool, Tensor]] = {}
    return [_drawn(chain, seed, generator, like, normals) for chain in chains]


def _drawn(
    chain: Any, seed: int, generator: np.random.RandomState, like: Tensor, normals: dict[int, dict[bool, Tensor]]
) -> list[Step] | None:
    stages, seeds = [chain], [seed]
    if type(chain) is Compose:  # which seeds its transforms so
        generator.seed(seed)
        stages = list(chain.transforms)
        seeds = [int(generator.randint(MAX_SEED, dtype="uint32")) for _ in stages]
    if not all(map(_is_known, stages)):
        return None
    steps = []
    for stage, own_seed in zip(stages, seeds, strict=True):
        generator.seed(own_seed)
        stage.set_random_state(state=generator)
        steps.append(READERS[type(stage)](stage, like, normals.setdefault(own_seed, {})))
    return [step for step in steps if step]


def _is_known(stage: Any) -> bool:
    """Whether a transform is exactly one of those whose steps are here, in its usual form."""
    usual = {"invert_image": False, "retain_stats": False, "channel_wise": False, "fixed_mean": True}
    usual["preserve_range"] = False
    return type(stage) in READERS and all(getattr(stage, name, value) == value for name, value in usual.items())


def _gamma(stage: RandAdjustContrast, *_: Any) -> Step | None:
    stage.randomize()
    return partial(_apply_gamma, gamma=stage.gamma_value) if stage._do_transform else None


def _apply_gamma(x: Tensor, gamma: float) -> Tensor:
    low, high = x.aminmax()
    x = x.sub_(low).div_(high - low + 1e-7)
    power = x.log_().mul_(gamma).exp_() if gamma > 0 else x.pow_(gamma)  # the former is three times as fast
    return power.mul_(high - low).add_(low)


def _curve(stage: RandIntensityCurve, *_: Any) -> Step | None:
    stage.randomize()
    return stage.apply if stage._do_transform else None


def _scale(stage: RandScaleIntensity, *_: Any) -> Step | None:
    stage.randomize()
    return partial(torch.Tensor.mul_, other=1 + stage.factor) if stage._do_transform else None


def _scale_around_mean(stage: RandScaleIntensityFixedMean, *_: Any) -> Step | None:
    stage.randomize()
    return partial(_apply_around_mean, factor=1 + stage.factor) if stage._do_transform else None


def _apply_around_mean(x: Tensor, factor: float) -> Tensor:
    mean = x.mean()
    return x.sub_(mean).mul_(factor).add_(mean)


def _bias(stage: RandBiasField, like: Tensor, *_: Any) -> Step | None:
    stage.randomize(like.shape[1:])
    return partial(_apply_bias, degree=stage.degree, drawn=stage._coeff) if stage._do_transform else None


def _apply_bias(x: Tensor, degree: int, drawn: Sequence[float]) -> Tensor:
    """Multiply by the exponential of a polynomial, a sum of products of Legendre polynomials of each axis."""
    shape = x.shape[1:]
    coefficients = np.zeros((degree + 1,) * len(shape))
    powers = np.indices(coefficients.shape)  # those of MONAI, in its order
    kept = powers[0] >= powers[1] if len(shape) == 2 else powers.sum(0) <= degree
    coefficients[kept] = drawn
    field = torch.as_tensor(coefficients, dtype=x.dtype, device=x.device)
    for size in shape:  # the first axis goes, and comes back as the last
        basis = legvander(np.linspace(-1, 1, size), degree)
        field = torch.tensordot(field, torch.as_tensor(basis, dtype=x.dtype, device=x.device), ([0], [1]))
    return x.mul_(field.exp_())


def _blur(stage: RandGaussianSmooth, like: Tensor, *_: Any) -> Step | None:
    stage.randomize()
    if not stage._do_transform:
        return None
    sigmas = (stage.x, stage.y, stage.z)[: like.ndim - 1]
    kernels = [gaussian_1d(torch.tensor(sigma, device=like.device), approx=stage.approx) for sigma in sigmas]
    return partial(filtered, kernels=kernels)


def _noise(stage: RandGaussianNoise, like: Tensor, normals: dict[bool, Tensor]) -> Step | None:
    RandomizableTransform.randomize(stage, None)
    if not stage._do_transform:
        return None
    std = stage.R.uniform(0, stage.std) if stage.sample_std else stage.std
    if stage.sample_std not in normals:  # with the same draws before
        values = stage.R.standard_normal(like.shape).astype(np.float32)
        normals[stage.sample_std] = torch.from_numpy(values).to(like.device)
    return partial(_apply_noise, mean=stage.mean, std=std, normals=normals[stage.sample_std])


def _apply_noise(x: Tensor, mean: float, std: float, normals: Tensor) -> Tensor:
    return x.add_(normals, alpha=std).add_(mean)


READERS: dict[type, Callable[..., Step | None]] = {
    RandAdjustContrast: _gamma,
    RandBiasField: _bias,
    RandGaussianNoise: _noise,
    RandGaussianSmooth: _blur,
    RandIntensityCurve: _curve,
    RandScaleIntensity: _scale,
    RandScaleIntensityFixedMean: _scale_around_mean,
}
