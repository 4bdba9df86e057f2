"""Time of the information map against scikit-image: ``python -m benchmarks.local_entropy``.

One 512 x 512 8-bit image and 256 bins, the whole call from array to array; medians of interleaved repeats.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: on busy cores its waiting threads take all the time

import numpy as np
import torch
from monai.transforms import CenterSpatialCrop, LoadImage

from monai_infoaug.information import entropy, local_entropy

SIZE, BINS, WINDOWS, REPEATS, THREADS = 512, 256, (9, 33, 65), 7, 2
DATA = Path(__file__).parents[2] / "shared" / "data" / "ceph" / "train"


def main() -> None:
    """Print a table and a JSON line: seconds, and how many times faster than scikit-image."""
    torch.set_num_threads(THREADS)
    name, image = load()
    print(f"{name}, {SIZE} x {SIZE}, {BINS} bins, {THREADS} threads, median of {REPEATS}")
    rows = [measure(image, window) for window in WINDOWS]
    columns = list(rows[0])
    print(" ".join(f"{column:>14}" for column in columns))
    for row in rows:
        print(" ".join(f"{row[column]:14.4g}" for column in columns))
    print(json.dumps({"benchmark": "local_entropy", "image": name, "bins": BINS, "threads": THREADS, "rows": rows}))


def load() -> tuple[str, np.ndarray]:
    """The middle of a real radiograph, or noise where there is none."""
    file = min(DATA.glob("*.jpg"), default=None)
    if file is None:
        return "noise", np.random.RandomState(0).randint(0, BINS, (1, SIZE, SIZE)).astype(np.uint8)
    image = LoadImage(image_only=True, ensure_channel_first=True)(file)[:1]
    return file.name, CenterSpatialCrop(SIZE)(image).numpy().astype(np.uint8)


def measure(image: np.ndarray, window: int) -> dict[str, float]:
    """Seconds of each way that is installed, all checked to give the same map."""
    ways = {"torch": lambda: torch_entropy(image, window)}
    if entropy._numba_window_entropy():
        ways["numba"] = lambda: local_entropy(image, window, BINS, (0, BINS - 1))
    try:
        from skimage.filters import rank
    except ImportError:
        pass
    else:
        ways["skimage"] = lambda: rank.entropy(image[0], np.ones((window, window), np.uint8))[None]
    maps = [way() for way in ways.values()]  # also compiles
    for other in maps[1:]:
        np.testing.assert_allclose(other, maps[0], atol=1e-5)
    times: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(REPEATS):
        for way, run in ways.items():
            times[way].append(seconds(run))
    row = {"window": window} | {way: statistics.median(taken) for way, taken in times.items()}
    return row | {
        f"{way}_ratio": row["skimage"] / row[way] for way in ("numba", "torch") if {way, "skimage"} <= set(row)
    }


def torch_entropy(image: np.ndarray, window: int) -> np.ndarray:
    """The map without numba."""
    with mock.patch.object(entropy, "_numba_window_entropy", lambda: None):
        return local_entropy(image, window, BINS, (0, BINS - 1))


def seconds(run: Callable[[], object]) -> float:
    """Time of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
