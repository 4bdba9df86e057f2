"""What the benchmarks that train bundles share: settings, kept results, trainings side by side, paired intervals."""

from __future__ import annotations

import ctypes
import gc
import json
import signal
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from monai.bundle import ConfigParser, ConfigWorkflow

from monai_infoaug._require import refusal
from monai_infoaug.bundles import find_bundle

DRAWS = 10_000  # of the bootstrap
T = TypeVar("T")


def named(values: Iterable[str]) -> dict[str, Any]:
    """Settings given as ``NAME=JSON``."""
    return {name: json.loads(value) for name, _, value in (item.partition("=") for item in values)}


def require_positive(options: Namespace, *names: str) -> None:
    """Refuse options of the command line below 1."""
    for name in names:
        if getattr(options, name) < 1:
            raise refusal(name, getattr(options, name), "at least 1")


def side_by_side(make: Callable[..., T], calls: Sequence[tuple], jobs: int) -> list[T]:
    """Results of calls, some at a time, each in a process with its share of the threads."""
    if jobs == 1:
        return [make(*call) for call in calls]
    threads = max(1, torch.get_num_threads() // jobs)
    with ProcessPoolExecutor(jobs, get_context("spawn"), _begin, (threads,)) as pool:
        return list(pool.map(make, *zip(*calls, strict=True)))  # what waits is given up when one fails


def _begin(threads: int) -> None:
    """Begin a process that ends with its parent, even if that is killed: the next run would share its folders."""
    torch.set_num_threads(threads)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def alone(call: Callable[[], T]) -> T:
    """Result of a call in a process of its own."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(call).result()


def forget_peak() -> None:
    """Let the highest memory of this process be what it has now; Linux only."""
    Path("/proc/self/clear_refs").write_text("5")


def own_megabytes(name: str) -> float:
    """Memory of this process: "VmRSS", what it has, or "VmHWM", what it had at most; Linux only."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[name].split()[0]) / 1024


def end_of(minutes: float | None, budget: str) -> float | None:
    """When no training is begun any more, as ``time.time``: a small budget ends within two hours anywhere."""
    minutes = 110 if minutes is None and budget == "small" else minutes
    return None if minutes is None else time.time() + 60 * minutes


def bundle_config(bundle: str, settings: Mapping[str, Any] | None = None) -> ConfigParser:
    """The training configuration of a bundle of the package, with some settings changed, ready to be parsed."""
    parser = ConfigParser()
    parser.read_config(find_bundle(bundle) / "configs" / "train.json")
    parser.update(dict(settings or {}))
    parser.get_parsed_content("imports")
    return parser


def run_bundle(bundle: str, *configs: str, folder: Path, **settings: Any) -> None:
    """Run a bundle of the package, with files of its ``configs``; ``folder`` gets what it writes.

    Settings of other methods and bundles may be among those that several rows share, and are left out.
    """
    threads = torch.get_num_threads()
    files = [find_bundle(bundle) / "configs" / f"{name}.json" for name in configs]
    others = {key for file in find_bundle(bundle).parent.glob("*/configs/*.json") for key in _names(file)}
    others -= {key for file in files for key in _names(file)}
    settings = {key: value for key, value in settings.items() if key not in others}
    flow = ConfigWorkflow(
        [*map(str, files)], workflow_type="train", **settings, output_dir=str(folder), bundle_root=str(folder)
    )
    flow.initialize()
    flow.run()
    flow.finalize()
    torch.set_num_threads(threads)
    del flow
    gc.collect()  # the loaders' workers, each with its images, end with them


def _names(config: Path) -> Iterable[str]:
    return json.loads(config.read_text(encoding="utf-8"))


def kept_result(
    folder: Path, settings: Mapping[str, Any], make: Callable[[], dict[str, Any]], until: float | None = None
) -> dict[str, Any] | None:
    """The result in a folder, made if it is not there yet.

    Args:
        folder: folder of the result and of what comes with it.
        settings: all that the result depends on.
        make: what makes it.
        until: time, as that of ``time.time``, from when on nothing is begun; what is not there is then None.

    Raises:
        ValueError: for a folder of other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = json.loads(json.dumps(settings))
    kept, result = folder / "settings.json", folder / "result.json"
    if not kept.exists():
        kept.write_text(json.dumps(wanted, indent=1), encoding="utf-8")
    if json.loads(kept.read_text(encoding="utf-8")) != wanted:
        raise refusal("out", f"'{folder}' of other settings", "new, or of a run with the same settings")
    if not result.exists():
        if until is not None and time.time() >= until:
            return None
        part = result.with_suffix(".part")
        part.write_text(json.dumps(make()), encoding="utf-8")
        part.replace(result)
    return json.loads(result.read_text(encoding="utf-8"))


def paired_interval(values: np.ndarray, others: np.ndarray, seed: int = 0) -> tuple[float, float, float]:
    """How much larger the mean is than another one, with its 95 % interval by a bootstrap over the images.

    Args:
        values: (seeds, images, landmarks or classes).
        others: the same of another row.
        seed: seed of the bootstrap.

    Returns:
        Difference of the means, its 2.5 and its 97.5 percentile.
    """
    difference = values.mean((0, 2)) - others.mean((0, 2))
    drawn = np.random.default_rng(seed).integers(len(difference), size=(DRAWS, len(difference)))
    low, high = np.percentile(difference[drawn].mean(1), (2.5, 97.5))
    return float(difference.mean()), float(low), float(high)


def print_difference(
    name: str, other: str, values: Mapping[str, np.ndarray], unit: str = " mm", digits: int = 2
) -> tuple[float, float, float]:
    """Print and return the :py:func:`paired_interval` of two rows."""
    difference, low, high = paired_interval(values[name], values[other])
    share = 100 * difference / values[other].mean()
    print(f"{name} - {other}: {difference:+.{digits}f}{unit} ({low:+.{digits}f} to {high:+.{digits}f}), {share:+.0f} %")
    return difference, low, high
