"""Time and memory of the label-based contrast against its peer: ``python -m benchmarks.pixel_sup_con``.

Loss and gradient of N pixels of 64 features and 4 classes, all compared with all: the forms of ``PixelSupConLoss``, and
``SupConLoss`` of pytorch-metric-learning, which is its form "all". Times are medians of interleaved repeats in one
process, above 8192 pixels of one call; memory is what the call adds to the peak of a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: on busy cores its waiting threads take all the time

import torch
from torch import Tensor

from benchmarks._runs import alone, forget_peak, own_megabytes
from monai_infoaug.losses import PixelSupConLoss
from monai_infoaug.losses.pixel_sup_con import DENOMINATORS

FEATURES, CLASSES, TEMPERATURE, REPEATS, THREADS, PEER = 64, 4, 0.1, 5, 2, "pytorch-metric-learning"
PEER_LIMIT = 8192  # pixels: its memory grows with their square


def pixels(number: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(1, FEATURES, number, generator=generator)
    return features, torch.randint(0, CLASSES, (1, 1, number), generator=generator)


def loss_of(way: str, features: Tensor, labels: Tensor) -> Tensor:
    if way == PEER:
        from pytorch_metric_learning.losses import SupConLoss

        return SupConLoss(TEMPERATURE)(features[0].T, labels[0, 0])
    return PixelSupConLoss(TEMPERATURE, denominator=way)(features, labels)


def run(way: str, number: int) -> float:
    """Value of the loss; its gradient is found, too."""
    features, labels = pixels(number)
    value = loss_of(way, features.requires_grad_(), labels)
    value.backward()
    return float(value.detach())


def timed(way: str, number: int) -> tuple[float, float]:
    """Value of the loss, and seconds."""
    start = time.perf_counter()
    return run(way, number), time.perf_counter() - start


def measured(way: str, number: int) -> tuple[float, float, float]:
    """Value of the loss, seconds, and the megabytes that the call takes at most."""
    torch.set_num_threads(THREADS)
    run(way, 64)  # loads what is needed
    forget_peak()
    before = own_megabytes("VmHWM")
    return *timed(way, number), own_megabytes("VmHWM") - before


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table and a JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--pixels", type=int, nargs="+", default=[1024, 4096, 16384, 65536], help="%(default)s")
    options = parser.parse_args(arguments)
    torch.set_num_threads(THREADS)
    peers = [PEER] if find_spec("pytorch_metric_learning") else []
    print(f"{THREADS} threads, median of {REPEATS}\n{'pixels':>8} {'way':26}{'loss':>10}{'s':>9}{'MB':>9}{'faster':>8}")
    rows = []
    for number in options.pixels:
        ways = [*DENOMINATORS, *(peers if number <= PEER_LIMIT else [])]
        repeats = 1 + REPEATS if number <= PEER_LIMIT else 0  # else it takes long: once, with the memory, is enough
        rounds = [{way: timed(way, number)[1] for way in ways} for _ in range(repeats)][1:]
        medians = {way: statistics.median(each[way] for each in rounds) for way in ways if rounds}
        for way in ways:
            value, seconds, megabytes = alone(partial(measured, way, number))
            row = {"pixels": number, "way": way, "loss": value, "seconds": medians.get(way, seconds)}
            row["megabytes"] = megabytes
            row["times_faster"] = medians[PEER] / row["seconds"] if PEER in medians else None
            faster = "" if row["times_faster"] is None else f"{row['times_faster']:.1f}"
            numbers = f"{value:10.4f}{row['seconds']:9.3f}{megabytes:9.0f}{faster:>8}"
            print(f"{number:8} {way:26}{numbers}", flush=True)
            rows.append(row)
        if PEER in ways:
            torch.testing.assert_close(rows[-1]["loss"], rows[-len(ways)]["loss"], rtol=1e-3, atol=0)
    print(json.dumps({"benchmark": "pixel_sup_con", "threads": THREADS, "features": FEATURES, "rows": rows}))


if __name__ == "__main__":
    main()
