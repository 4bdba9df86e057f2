"""Which information map finds the patches that share most with the same place in another image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import SimpleITK as sitk
import torch
from monai.data import MetaTensor
from monai.utils import convert_to_tensor
from torch import Tensor

from monai_infoaug.commands._strengths import draw_part, of_corresponding, view_of
from monai_infoaug.information import TIERS, assign_tiers, tier_thresholds
from monai_infoaug.transforms import InformationMap

WINDOWS: tuple[Any, ...] = (9, 5, 17, ((5,), (9,), (17,)))  # that are compared, as far as they fit into the images
NUM_BINS = (32, 16, 64)
SHARES = (0.1, 0.45, 0.45)  # of the points that trainings draw from the (low, medium, high) tier
SAMPLES = 20_000  # of an image, for quantiles over all of them
PATCHES = 96  # of a tier in an image
MARGIN = 1.05  # how many times as much as the first a map must share to be taken instead: less may be chance


class Scene(NamedTuple):
    """What maps are compared on."""

    images: Sequence[MetaTensor]  # (C, *S) in [0, 1]
    foregrounds: Sequence[Tensor]  # (1, *S) bool
    transforms: Sequence[sitk.Transform | None]  # of each image to the next
    value_range: tuple[float, float]  # of the bins
    seed: int  # of parts and patches


def choose_map(
    scene: Scene, window: Any, window_mm: Any, num_bins: int | None
) -> tuple[InformationMap, list[dict[str, Any]]]:
    """The map of which drawn points share most with the same place in another image.

    Args:
        scene: what the maps are compared on.
        window: side of the window, which is kept. None: it is chosen, unless there is a ``window_mm``.
        window_mm: the same in millimetres.
        num_bins: number of bins, which is kept. None: it is chosen.

    Returns:
        The map, and the bits that each map shares that was compared with others.
    """
    least = min(min(image.shape[1:]) for image in scene.images)
    chosen = window is None and window_mm is None
    windows = [each for each in WINDOWS if np.max(each) <= least] if chosen else [window]
    compared: list[dict[str, Any]] = []

    def made(window: Any, bins: int) -> InformationMap:
        return InformationMap(window if window_mm is None else None, window_mm, bins, scene.value_range)

    def bits(window: Any, bins: int) -> float:
        known = [each["shared"] for each in compared if (each["window"], each["num_bins"]) == (window, bins)]
        if not known:
            known = [shared_bits(scene, made(window, bins))]
            compared.append({"window": window, "num_bins": bins, "shared": known[0]})
        return known[0]

    window, bins = search(bits, windows, NUM_BINS if num_bins is None else [num_bins])
    return made(window, bins), compared


def search(value: Callable[[Any, int], float], windows: Sequence[Any], num_bins: Sequence[int]) -> tuple[Any, int]:
    """The best window at the first number of bins, then the best number of bins in it; the first if none is clearly so.

    Example:
        >>> search(lambda window, bins: 100 - abs(window - 4) - 20 * (bins == 16), [9, 7, 5], [32, 16, 64])
        (9, 32)
        >>> search(lambda window, bins: 100 - 5 * abs(window - 4) + bins, [9, 7, 5], [32, 16, 64])
        (5, 64)
    """

    def best(values: Sequence[Any], of: Callable[[Any], float]) -> Any:
        if len(values) == 1:
            return values[0]
        found = max(values, key=of)
        return found if of(found) > MARGIN * of(values[0]) else values[0]

    window = best(windows, lambda each: value(each, num_bins[0]))
    return window, best(num_bins, lambda each: value(window, each))


def shared_bits(scene: Scene, measure: InformationMap) -> float:
    """Mutual information of patches with the same place in the next image, in bits.

    The mean over the tiers by the points that are drawn from each; a tier without a patch has 0. Of a large image a
    part is measured.
    """
    parts, maps, known = [], [], []
    for number, (image, foreground) in enumerate(zip(scene.images, scene.foregrounds, strict=True)):
        generator = np.random.RandomState((scene.seed + number) % 2**32)  # the same part for each map
        part = draw_part(foreground, generator)
        inside = foreground[(slice(None), *part)]
        bits = convert_to_tensor(measure(image[(slice(None), *part)], inside), track_meta=False)
        parts.append((part, inside, generator))
        maps.append(bits)
        known.append(bits[inside][generator.randint(int(inside.sum()), size=SAMPLES)])
    thresholds = tier_thresholds(torch.cat(known)[None, None])
    views = [
        view_of(image, part, assign_tiers(bits, thresholds).where(inside, len(TIERS)), generator, PATCHES)
        for image, bits, (part, inside, generator) in zip(scene.images, maps, parts, strict=True)
    ]
    corresponding, _ = of_corresponding(scene.images, views, scene.transforms, scene.value_range)
    return round(float(np.nan_to_num(corresponding) @ SHARES), 4)
