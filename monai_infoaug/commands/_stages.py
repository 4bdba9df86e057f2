"""Stages of a command that are runs of our bundles, each in a folder from which an expert goes on by hand."""

from __future__ import annotations

import ctypes
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from monai_infoaug._console import Failure, say
from monai_infoaug._files import digest_of, write_whole
from monai_infoaug._require import refusal
from monai_infoaug.bundles import copy_bundle
from monai_infoaug.commands._plan import Plan

SECONDS = 0.5  # between two looks at a stage's log
TAIL = 4096  # bytes of a log that are looked at
LINES = 10  # of a stage in a log
COUNT = re.compile(rb"^\w+: (?:epoch )?(\d+)/(\d+)", re.MULTILINE)  # of `ConsoleProgress`
ENVIRONMENT = {  # else big tensors map and unmap memory all the time, and waiting threads take the loaders' time
    "MALLOC_MMAP_THRESHOLD_": "1000000000",
    "MALLOC_TRIM_THRESHOLD_": "1000000000",
    "OMP_WAIT_POLICY": "PASSIVE",
}


class StagesBar:
    """One progress bar over stages whose seconds are planned; in a log instead ten lines a stage at most.

    Args:
        seconds: name of each stage to the seconds that it is planned to take.
    """

    def __init__(self, seconds: Mapping[str, float]) -> None:
        self.seconds, self.done = dict(seconds), dict.fromkeys(seconds, 0.0)
        self.start, self.said = time.perf_counter(), dict.fromkeys(seconds, 0)
        form = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left"
        self.bar = tqdm(total=sum(self.seconds.values()), bar_format=form, disable=None)

    def __call__(self, stage: str, share: float) -> None:
        """Show which share of a stage is done."""
        if stage in self.seconds:
            ahead = self.seconds[stage] * min(share, 1.0) - self.done[stage]
            if ahead > 0:
                self.done[stage] += ahead
                self.bar.update(ahead)
            if self.bar.disable and (lines := int(LINES * min(share, 1.0))) > self.said[stage]:
                self.said[stage] = lines
                elapsed = tqdm.format_interval(time.perf_counter() - self.start)
                say(f"{stage}: {min(share, 1.0):.0%}, {elapsed} since the start")
        self.bar.set_description_str(stage, refresh=True)

    def close(self) -> None:
        """Leave the bar as it is."""
        self.bar.close()


def run_stage(
    folder: str | os.PathLike,
    bundle: str,
    settings: Mapping[str, Any],
    configs: Sequence[str] = ("train",),
    inputs: Sequence[str | os.PathLike] = (),
    progress: Callable[[float], None] | None = None,
) -> bool:
    """Run a bundle in a process of its own, as a user would: from a copy of it, by a command that is written beside.

    ``folder`` gets the bundle's copy ``bundle``, the settings ``NAME.json`` of MONAI's ``--args_file``, the command
    ``NAME.sh``, the output of the run ``NAME.log``, and ``NAME.done.json`` once it has ended well; NAME is that of the
    last of the ``configs``. Killed and called again, a training goes on from its last checkpoint; with inputs of other
    content it begins anew.

    Args:
        folder: folder of the stage, which need not exist.
        bundle: name of a bundle of the package.
        settings: of the bundle, plain values; ``output_dir`` is ``folder`` if they do not say another one.
        configs: names of files in its ``configs``.
        inputs: files and folders on which the result depends, such as labels.
        progress: is told the share that is done, after each epoch of a training.

    Returns:
        Whether there was something to do.

    Raises:
        ValueError: if the stage was begun with other settings.
        RuntimeError: with the last line of its output, if the bundle fails.
        OSError: naming the file, if the disk is full.
    """
    folder = Path(os.path.abspath(folder))
    name, place = configs[-1], folder / "bundle"
    own = {"config_file": [f"configs/{each}.json" for each in configs], "bundle_root": str(folder)}
    arguments = {**own, "output_dir": str(folder), **settings}
    made_of = {"settings": arguments, "inputs": [digest_of(path) for path in inputs]}
    made_of = json.loads(json.dumps(made_of))
    if _content(folder / f"{name}.done.json") == made_of:
        return False
    begun = _content(folder / f"{name}.begun.json") or made_of
    if begun["settings"] != made_of["settings"]:
        raise refusal("plan", f"other settings than '{folder}' was begun with", "the same, or another `out`")
    if begun["inputs"] != made_of["inputs"]:
        for file in folder.glob("checkpoint*"):
            file.unlink()
        shutil.rmtree(folder / "events", ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    if not (place / "configs").is_dir():
        copy_bundle(bundle, place)
    write_whole(folder / f"{name}.json", json.dumps(arguments, indent=2) + "\n")
    write_whole(folder / f"{name}.begun.json", json.dumps(made_of))
    command = ["python", "-m", "monai.bundle", "run", "--args_file", f"../{name}.json"]
    run_command(folder, name, command, place, progress)
    write_whole(folder / f"{name}.done.json", json.dumps(made_of))
    return True


def pretrained(plan: Plan, images: Path, bar: StagesBar) -> Path:
    """Pre-train on a folder of images by the stage of a plan, beside the folder, if that is not done yet.

    Args:
        plan: has a stage ``pretraining``.
        images: folder of the images.
        bar: is told the share that is done.

    Returns:
        The checkpoint.
    """
    folder, stage = images.parent / "1_pretraining", plan.stages["pretraining"]
    settings = plan.settings("pretraining") | {"dataset_dir": str(images)}
    run_stage(folder, stage["bundle"], settings, progress=lambda share: bar("pretraining", share))
    bar("pretraining", 1.0)
    return folder / "checkpoint.pt"


def run_command(
    folder: Path,
    name: str,
    command: Sequence[str],
    place: Path,
    progress: Callable[[float], None] | None = None,
    share: Callable[[], float] | None = None,
    accepted: Sequence[int] = (0,),
) -> None:
    """Run a Python program in a process that ends with this one; ``NAME.sh`` is the command, ``NAME.log`` its output.

    Args:
        folder: folder of the two files.
        name: their name.
        command: program and arguments, the first one "python".
        place: working folder.
        progress: is told the share that is done.
        share: says it; None: the last counts in the log do.
        accepted: exit statuses that are no failure.

    Raises:
        RuntimeError: with the last line of the output, if the program fails.
        OSError: naming the file, if the disk is full.
    """
    log, within = folder / f"{name}.log", os.path.relpath(place, folder)
    write_whole(folder / f"{name}.sh", f'#!/bin/sh\ncd "$(dirname "$0")/{within}" && {shlex.join(command)}\n')
    with open(log, "ab") as file, _process(command, place, file) as process:
        while process.poll() is None:
            time.sleep(SECONDS)
            done = share() if share is not None else _share(log)
            if progress is not None and done is not None:
                progress(done)
    if process.returncode not in accepted:
        raise Failure(f"`{name}.sh` in '{folder}' ended with: {last_line(log)}; '{log}' has all of it.")


def _content(file: Path) -> Any:
    """What a JSON file says; None if there is none."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


@contextmanager
def _process(command: Sequence[str], place: Path, log: Any) -> Iterator[subprocess.Popen]:
    """A process that ends with this one, even if that is killed: the next one would write into the same folder."""
    environment = ENVIRONMENT | os.environ | {"PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, *command[1:]],
        cwd=place,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        preexec_fn=_end_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509  # calls one C function
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _share(log: Path) -> float | None:
    """The share of its iterations that a run has done, by its log."""
    with open(log, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
        found = deque(COUNT.finditer(file.read()), 1)
    if not found:
        return None
    done, total = map(int, found[0].groups())
    return done / total


def last_line(log: Path) -> str:
    """What a process said last."""
    lines = log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n").splitlines()
    said = [line for line in lines if line.strip()]
    return next((line for line in reversed(said) if line.startswith("error: ")), said[-1] if said else "nothing")
