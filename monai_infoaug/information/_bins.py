"""Grey levels as the bins of a histogram."""

from __future__ import annotations

import torch
from torch import Tensor

from monai_infoaug._require import is_count, is_number, refusal
from monai_infoaug.information._arrays import is_ordered_pair, quantile
from monai_infoaug.information.noise import sd_inside


def check_bins(num_bins: int, value_range: tuple[float, float] | None, noise_factor: float | None = None) -> None:
    """Refuse bins that suit no image at all.

    Raises:
        ValueError: for fewer than 2 bins, a range out of order, or a noise factor that is not positive.
    """
    if not is_count(num_bins, 2):
        raise refusal("num_bins", num_bins, "a whole number of at least 2")
    if value_range is not None and (not is_ordered_pair(value_range) or value_range[0] == value_range[1]):
        raise refusal("value_range", value_range, "None or finite (low, high) with low < high")
    if noise_factor is not None and not (is_number(noise_factor) and noise_factor > 0):
        raise refusal("noise_factor", noise_factor, "None or a positive number")


def to_bins(
    pixels: Tensor,
    inside: Tensor,
    num_bins: int,
    value_range: tuple[float, float] | None,
    noise_factor: float | None = None,
) -> Tensor:
    """The int32 bin of each pixel of an image (C,*S), ``num_bins`` outside the mask of that shape.

    With a ``noise_factor`` a bin is at least that many standard deviations of the noise wide, unless two are.
    """
    broadcast = (-1, *[1] * (pixels.ndim - 1))
    if value_range is None:
        levels = [channel[mask] for channel, mask in zip(pixels, inside, strict=True)]
        low, high = (pixels.new_tensor([quantile(v, q) for v in levels]).view(broadcast) for q in (0.005, 0.995))
    else:
        low, high = (pixels.new_tensor(end).view(broadcast) for end in value_range)
    count = pixels.new_tensor(num_bins).view(broadcast)
    if noise_factor is not None:
        finest = noise_factor * sd_inside(pixels, inside).view(broadcast)
        # without noise as many as may be
        count = torch.where(finest > 0, (high - low) / finest, count).floor().clamp(2, num_bins)
    # in this order whole numbers fall exactly on the edges of bins
    position = (pixels - low) * count / (high - low)
    position = position.nan_to_num(nan=0)  # 0 / 0 where all percentiles are one value
    return position.clamp(min=0).minimum(count - 1).int().masked_fill(~inside, num_bins)
