"""Memory habits of a training on the CPU."""

from __future__ import annotations

import ctypes
import sys

from monai_infoaug._require import is_count, refusal

__all__ = ["keep_freed_memory"]


def keep_freed_memory(threshold: int = 2**30) -> bool:
    """Let the C library keep freed memory for the next tensor instead of giving it back to the system each time.

    By default glibc maps big blocks anew for every tensor and unmaps them at once; a training step on the CPU can
    spend half of its time so. This is a setting of the whole process, the same as the environment variables
    ``MALLOC_MMAP_THRESHOLD_`` and ``MALLOC_TRIM_THRESHOLD_``.

    Args:
        threshold: blocks up to this size in bytes are kept, at most 2 GiB - 1.

    Returns:
        Whether the setting was taken; False where the C library is not glibc.

    Raises:
        ValueError: for a threshold out of range.
    """
    if not is_count(threshold, 1) or threshold >= 2**31:
        raise refusal("threshold", threshold, f"from 1 to {2**31 - 1} bytes")
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    trim_threshold, mmap_threshold = -1, -3  # numbers of glibc's malloc.h
    return mallopt is not None and all(mallopt(option, threshold) for option in (trim_threshold, mmap_threshold))
