"""MONAI's lazy operations, applied before anything looks at the voxels."""

from __future__ import annotations

from typing import TypeVar

from monai.data import MetaTensor
from monai.transforms.lazy.functional import apply_pending

T = TypeVar("T")


def up_to_date(data: T) -> T:
    """``data`` with its pending lazy operations applied, to a copy: ``apply_pending`` empties the list of its input."""
    return apply_pending(data.clone())[0] if isinstance(data, MetaTensor) and data.has_pending_operations else data
