"""What the benchmarks of landmarks in a folder of images share: options, images, and tables."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks._runs import require_positive
from monai_infoaug._require import refusal
from monai_infoaug.data import image_datalist, landmark_datalist
from monai_infoaug.metrics import success_detection_rate

RADII = (2.0, 2.5, 3.0, 4.0)  # mm
HELD_OUT = 5  # one in so many training images, the last ones


def common_options(description: str, budgets: Iterable[str], out: str) -> argparse.ArgumentParser:
    """Options that the benchmarks share; ``out`` is where the results go by default."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, required=True, help="folder with images and tables, see above")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of a row (%(default)s)")
    parser.add_argument("--budget", choices=budgets, default="small")
    parser.add_argument("--test", default="test1", help="name of the test images (%(default)s)")
    parser.add_argument("--tune", action="store_true", help="test on training images that are held out instead")
    parser.add_argument("--template", default="115", help="training image whose landmarks are known (%(default)s)")
    parser.add_argument("--pixdim", type=float, default=0.3, help="mm a pixel of the images (%(default)s)")
    parser.add_argument("--origin", type=float, default=0.1, help="mm of the first pixel's centre (%(default)s)")
    parser.add_argument("--working-pixdim", type=float, help="mm to work at; default: of the budget, or 0.625")
    parser.add_argument("--out", type=Path, default=Path(out), help="results (%(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="trainings side by side, on CPU (%(default)s)")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=JSON", help="other settings of the bundle")
    return parser


class Cases:
    """Images to learn from and to test on, and the one annotated template.

    Args:
        options: what the command line says.

    Attributes:
        train, test: paths; with ``--tune`` the first and the last of the training images.
        data, table: folder of the training images, and their landmarks.
        template: item of :py:func:`monai_infoaug.data.landmark_datalist`.
        folder: where results go, within that of ``--out``.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        require_positive(options, "seeds", "jobs")
        tested = "train" if options.tune else options.test
        self.data, self.table = options.data / "train", options.data / "train_landmarks_mm.csv"
        self._tested = options.data / tested, options.data / f"{tested}_landmarks_mm.csv"
        self.train = [item["image"] for item in image_datalist(self.data)]
        path = next((image for image in self.train if Path(image).stem == options.template), None)
        if path is None:
            raise refusal("template", repr(options.template), f"the name of an image of '{self.data}'")
        (self.template,) = landmark_datalist(path, self.table, "LPS")
        if options.tune:
            first = len(self.train) - len(self.train) // HELD_OUT
            self.test, self.train = [image for image in self.train[first:] if image != path], self.train[:first]
        else:
            self.test = [item["image"] for item in image_datalist(self._tested[0])]
        self.folder = Path(options.budget, "tune" if options.tune else options.test)

    @property
    def tested_table(self) -> Path:
        """Table of the test images."""
        return self._tested[1]

    @cached_property
    def truth(self) -> np.ndarray:
        """Landmarks (images, L, D) of the test images, which are not read before."""
        items = landmark_datalist(*self._tested, "LPS", self.template["labels"])
        known = {item["image"]: item["landmarks"] for item in items}
        return np.stack([known[image] for image in self.test])

    def errors(self, found: Sequence[Any]) -> np.ndarray:
        """Errors (seeds, images, L) in mm of landmarks (seeds, images, L, D)."""
        return np.linalg.norm(np.asarray(found) - self.truth, axis=-1)


def summary(name: str, errors: np.ndarray, seconds: float) -> dict[str, Any]:
    """A row of the table: errors (seeds, images, landmarks) in mm."""
    means = errors.mean((1, 2))
    rates = success_detection_rate(torch.from_numpy(errors), RADII)
    return {
        "row": name,
        "seeds": len(errors),
        "mre": round(float(means.mean()), 3),
        "sd_of_seeds": round(float(means.std(ddof=1)), 3) if len(means) > 1 else None,
        "median": round(float(np.median(errors)), 3),
        "sdr": [round(100 * float(rate), 1) for rate in rates],
        "seconds": round(seconds),
    }


def print_table(rows: Iterable[Mapping[str, Any]], title: str) -> None:
    print(f"\n{title:26}{'MRE':>7}{'SD':>6}{'median':>8}" + "".join(f"{f'<{radius:g}':>7}" for radius in RADII))
    for row in rows:
        spread = "" if row["sd_of_seeds"] is None else f"{row['sd_of_seeds']:.2f}"
        rates = "".join(f"{rate:7.1f}" for rate in row["sdr"])
        print(f"{row['row']:26}{row['mre']:7.2f}{spread:>6}{row['median']:8.2f}{rates}{row['seconds']:8.0f} s")


def print_end(benchmark: str, options: argparse.Namespace, cases: Cases, minutes: float, **results: Any) -> None:
    """Print how much was measured, and the JSON line."""
    size = f"{options.seeds} seeds x {len(cases.test)} images x {len(cases.template['labels'])} landmarks"
    print(f"\n{size}; {minutes:.1f} minutes.")
    tested = "held-out training images" if options.tune else options.test
    about = {"benchmark": benchmark, "budget": options.budget, "tested_on": tested}
    print(json.dumps(about | {"threads": torch.get_num_threads()} | results))
