"""Pictures with two organs for the tests of label maps, and trainings that run in the test's own process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from monai_infoaug.commands._classes import Classes
from monai_infoaug.commands._label_files import label_bytes, read_on_grid
from tests.examples.bundle_runs import complete, workflow

BITS, NUMBERS = Classes(("square", "bar"), (1, 2), True), Classes(("square", "bar"), (4, 9), False)
TINY = {
    "features": [8, 8, 8, 8, 16, 8],
    "samples_per_epoch": 8,
    "max_epochs": 4,
    "learning_rate": 0.01,
    "num_workers": 0,
}


def scene(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture (36, 40) of a bright square and a dark bar somewhere in it, and its masks (2, 36, 40)."""
    generator = np.random.default_rng(seed)
    masks = np.zeros((2, 36, 40), bool)
    row, column = generator.integers(2, 14), generator.integers(2, 24)
    masks[0, row : row + 12, column : column + 12] = True
    row = generator.integers(28, 32)
    masks[1, row : row + 4, 4:34] = True
    image = 120 + 90 * masks[0] - 90 * masks[1]
    return (image + generator.normal(0, 8, image.shape)).clip(0, 255).astype(np.uint8), masks


def truth(path: Path, classes: Classes) -> torch.Tensor:
    """The label map (1, x, y) of an image of :py:func:`scene`, whose file is named by the seed."""
    return classes.labels(torch.tensor(scene(int(path.stem))[1].swapaxes(1, 2)))


def annotated(file: Path, path: Path, classes: Classes) -> Path:
    """The file with the label map of such an image."""
    file.write_bytes(label_bytes(truth(path, classes), read_on_grid(path), ".png"))
    return file


def dice(found: torch.Tensor, expected: torch.Tensor) -> float:
    return (2 * (found & expected).sum() / (found.sum() + expected.sum())).item()


def stages_in_process(runs: list[dict[str, Any]], **changed: Any) -> Callable[..., bool]:
    """What takes the place of ``run_stage``: notes the settings in ``runs``, changes some, and runs the bundle here."""

    def run_stage(folder, bundle, settings, configs, inputs, progress):
        made_of = str([str(settings), [Path(path).read_bytes() for path in inputs]])
        done = Path(folder, "done.txt")
        if done.exists():
            if done.read_text() == made_of:
                return False
            Path(folder, "checkpoint.pt").unlink()
        content = json.loads(Path(folder, "datalist.json").read_text())
        runs.append({**settings, "items": content["training"]})
        if progress:
            progress(0.5)
        given = settings | changed | {"output_dir": str(folder), "bundle_root": str(folder)}
        complete(workflow(bundle, *configs, **given))
        done.write_text(made_of)
        return True

    return run_stage
