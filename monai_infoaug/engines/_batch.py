"""Entries of a batch, or an error that says what it lacks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from monai.utils import convert_to_tensor
from torch import Tensor


def entry(
    batch: Mapping[str, Any],
    key: str,
    device: torch.device,
    non_blocking: bool = False,
    source: str = "",
    **kwargs: Any,
) -> Tensor:
    """A value of a batch as a tensor without metadata on a device.

    Args:
        batch: values by name.
        key: name of the value.
        device: where it goes.
        non_blocking: see ``torch.Tensor.to``.
        source: where the value comes from, for the message.
        kwargs: further arguments of ``torch.Tensor.to``.

    Returns:
        The tensor.

    Raises:
        KeyError: naming what the batch lacks, and what it has.
    """
    if key not in batch:
        raise KeyError(f"The batch lacks `{key}`{source}; it has {sorted(batch)}.")
    return convert_to_tensor(batch[key], track_meta=False).to(device=device, non_blocking=non_blocking, **kwargs)
