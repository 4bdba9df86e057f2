"""Grey levels as the bins of a histogram."""

from __future__ import annotations

from torch import Tensor

from monai_infoaug._require import is_count, refusal
from monai_infoaug.information._arrays import is_ordered_pair, quantile


def check_bins(num_bins: int, value_range: tuple[float, float] | None) -> None:
    """Refuse bins that suit no image at all.

    Raises:
        ValueError: for fewer than 2 bins or a range out of order.
    """
    if not is_count(num_bins, 2):
        raise refusal("num_bins", num_bins, "a whole number of at least 2")
    if value_range is not None and (not is_ordered_pair(value_range) or value_range[0] == value_range[1]):
        raise refusal("value_range", value_range, "None or finite (low, high) with low < high")


def to_bins(pixels: Tensor, inside: Tensor, num_bins: int, value_range: tuple[float, float] | None) -> Tensor:
    """The int32 bin of each pixel of an image (C,*S), ``num_bins`` outside the mask of that shape."""
    if value_range is None:
        levels = [channel[mask] for channel, mask in zip(pixels, inside, strict=True)]
        ends = pixels.new_tensor([[quantile(values, q) for values in levels] for q in (0.005, 0.995)])
        low, high = ends.reshape(2, -1, *[1] * (pixels.ndim - 1))
    else:
        low, high = value_range
    # in this order whole numbers fall exactly on the edges of bins
    position: Tensor = (pixels - low) * num_bins / (high - low)
    position = position.nan_to_num(nan=0)  # 0 / 0 where all percentiles are one value
    return position.clamp(0, num_bins - 1).int().masked_fill(~inside, num_bins)
