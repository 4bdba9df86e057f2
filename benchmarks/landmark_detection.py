"""What is pre-training worth to a detector? Side by side: ``python -m benchmarks.landmark_detection --data DIR``.

Every detector is the bundle ``landmark_detection``, trained with the same steps and settings, and evaluated on the same
images, seed by seed. The rows:

- ``scratch N``: trained on N labelled images, the template and others drawn by the seed (fewer are a part of more).
- ``pretrained N``: the same, from the pre-training of that seed.
- ``matching``: no detector; what the pre-trained embedding finds by the neighbourhoods of one template's landmarks.
- ``one-shot 1``: the matches of the template in all training images are the labels, without those that are not found
  back in the template; trained from the pre-training.
- ``one-shot 2``, ...: what the detector of the round before finds in the training images are the labels.

No label of a training image but the template's has a part in ``matching`` and the ``one-shot`` rows, and the labels of
the test images are read after all landmarks are found. The seconds are a row's own; those of ``matching`` have the
pre-training.

The folder is that of :py:mod:`benchmarks.landmark_matching`, and so is the pre-training, a policy of it: its results
are taken where they are, and what is missing is trained there. With ``--tune`` the last fifth of the training images
is held out of all training, and tested on.

Each training goes on from its last epoch if it was stopped, and each result is kept.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: its waiting threads take the loaders' time

import numpy as np
import torch
from tqdm import tqdm

from benchmarks import landmark_matching
from benchmarks._landmarks import Cases, common_options, print_end, print_table, summary
from benchmarks._runs import kept_result, named, print_difference, run_bundle, side_by_side
from monai_infoaug._require import refusal
from monai_infoaug.commands.template_matcher import TemplateMatcher
from monai_infoaug.data import LandmarkTable, image_name, read_landmarks, write_landmarks

BUNDLE = "landmark_detection"
BUDGETS = {  # settings of the bundle
    "small": {"max_epochs": 4},  # 200 steps; two CPU cores
    "full": {"max_epochs": 24, "image_size": [512, 608]},  # 1200 steps; a GPU
}
PRETRAINED = ("modality", "pixdim", "origin", "working_pixdim", "features")  # settings to share with the pre-training
MIN_SCORE = 0.5  # of a detector's landmark as a label of the next round


class Detection:
    """Detectors and the landmarks that they find.

    Args:
        cases: images and the template.
        matching: gives the pre-training.
        policy: policy of the pre-training.
        settings: settings of the bundle that all rows share.
        out: folder of the results.
    """

    def __init__(
        self,
        cases: Cases,
        matching: landmark_matching.Matching,
        policy: str,
        settings: Mapping[str, Any],
        out: Path,
    ) -> None:
        self.cases, self.matching, self.policy, self.out = cases, matching, policy, out
        self.shared = {name: matching.settings[name] for name in PRETRAINED if name in matching.settings}
        self.settings = self.shared | {"labels": cases.template["labels"]} | settings

    def __call__(self, name: str, seed: int) -> dict[str, Any]:
        """Result of a row and seed: ``found`` (images, L, D) in mm, and ``seconds``."""
        if name == "matching":
            return self.matching(self.policy, seed)
        settings, (kind, number) = self.settings | {"seed": seed}, name.split()
        if kind == "one-shot":
            settings["min_score"] = MIN_SCORE if int(number) > 1 else 0.0
        else:
            settings["labelled"] = self.labelled(int(number), seed)
        about = {"pretraining": None if kind == "scratch" else self.matching.settings | {"policy": self.policy}}
        folder = self._folder(name, seed)
        return kept_result(folder, settings | about, partial(self._make, kind, int(number), settings, folder))

    def all_of(self, names: Sequence[str], seed: int) -> dict[str, dict[str, Any]]:
        """Results of rows, one after the other: some need those before."""
        return {name: self(name, seed) for name in names}

    def labelled(self, number: int, seed: int) -> list[str]:
        """Names of the labelled images: the template, and others drawn by the seed."""
        own = self.cases.template["name"]
        others = [name for name in map(image_name, self.cases.train) if name != own]
        return [own, *np.random.default_rng(seed).permutation(others).tolist()][:number]

    def _folder(self, name: str, seed: int) -> Path:
        return self.out / name / str(seed)

    def _make(self, kind: str, number: int, settings: dict[str, Any], folder: Path) -> dict[str, Any]:
        start, table = time.perf_counter(), self.cases.table
        if kind == "one-shot":
            table = folder / "labels.csv"
            write_landmarks(table, self._pseudo_labels(number, settings["seed"]))
        pretrained = None if kind == "scratch" else str(self._pretrained(settings["seed"]))
        places = {"dataset_dir": str(self.cases.data), "landmarks": str(table), "pretrained": pretrained}
        labelled = time.perf_counter()
        run_bundle(BUNDLE, "train", folder=folder, **settings, **places)
        trained = time.perf_counter()
        points = self._detected(folder, "test", self.cases.test).points
        seconds = {
            "labels": labelled - start,
            "training": trained - labelled,
            "finding": time.perf_counter() - trained,
        }
        return {"found": [points[image_name(image)].tolist() for image in self.cases.test], "seconds": seconds}

    def _pretrained(self, seed: int) -> Path:
        self.matching(self.policy, seed)
        return self.matching.out / self.policy / str(seed) / "checkpoint.pt"

    def _pseudo_labels(self, round_number: int, seed: int) -> LandmarkTable:
        """Landmarks of all training images, of which those of the template alone are true."""
        if round_number == 1:
            table = self._matched(seed)
        else:
            folder = self._folder(f"one-shot {round_number - 1}", seed)
            table = self._detected(folder, "train", self.cases.train)
        name, landmarks = self.cases.template["name"], self.cases.template["landmarks"]
        sure = np.ones(len(landmarks))
        return replace(table, points=table.points | {name: landmarks}, scores=table.scores | {name: sure})

    def _matched(self, seed: int) -> LandmarkTable:
        """Matches of the template in the training images that are found back in the template."""
        template, device = self.cases.template["image"], "cuda" if torch.cuda.is_available() else "cpu"
        checkpoint = self._pretrained(seed)
        matcher = TemplateMatcher(checkpoint, template, self.cases.table, settings=self.shared, device=device)
        images = tqdm(self.cases.train, "match the training images", disable=None)
        found = {image_name(image): matcher(matcher.read(image)) for image in images}
        points = {name: np.where(match.low[:, None], np.nan, match.world) for name, match in found.items()}
        scores = {name: match.scores for name, match in found.items()}
        return LandmarkTable(matcher.labels, points, scores, "LPS")  # the space of every image that is given a pixdim

    def _detected(self, folder: Path, name: str, images: Sequence[str]) -> LandmarkTable:
        places = {"dataset#data": [{"image": image} for image in images], "results_dir": str(folder / name)}
        places["num_pictures"] = 0
        run_bundle(BUNDLE, "train", "inference", folder=folder, **self.settings, **places)
        return read_landmarks(folder / name / "landmarks.csv").to("LPS")


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and evaluate what is missing, then print the table and a JSON line."""
    parser = common_options(__doc__.split("\n\n")[0], BUDGETS, "runs/landmark_detection")
    parser.add_argument("--labels", default="1,5,25,150", help="numbers of labelled images, or '' (%(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="one-shot trainings (%(default)s)")
    folder = Path("runs/landmark_matching")
    parser.add_argument("--pretrained", type=Path, default=folder, help="--out of landmark_matching (%(default)s)")
    parser.add_argument("--policy", default="full", help="of the pre-training (%(default)s)")
    parser.add_argument("--set-pretraining", nargs="*", default=[], metavar="NAME=JSON", help="what --set was there")
    options = parser.parse_args(arguments)
    start, cases = time.perf_counter(), Cases(options)
    numbers = [int(number) for number in options.labels.split(",") if number]
    if not all(1 <= number <= len(cases.train) for number in numbers):
        raise refusal("labels", options.labels, f"from 1 to {len(cases.train)}, the training images, each")
    pretraining = landmark_matching.settings_of(options, named(options.set_pretraining))
    out = options.pretrained / cases.folder
    matching = landmark_matching.Matching(cases, pretraining, out)
    settings = BUDGETS[options.budget] | {"val_interval": 10**6, "val_images": 1} | named(options.set)
    detection = Detection(cases, matching, options.policy, settings, options.out / cases.folder)
    supervised = [(f"pretrained {number}", f"scratch {number}") for number in numbers]
    one_shot = [(f"one-shot {number}", "matching") for number in range(1, options.rounds + 1)]
    names = [name for pair in supervised for name in reversed(pair)] + ["matching", *(name for name, _ in one_shot)]
    calls = [(names, seed) for seed in range(options.seeds)]
    results = side_by_side(detection.all_of, calls, options.jobs)

    errors = {name: cases.errors([made[name]["found"] for made in results]) for name in names}
    seconds = {name: np.mean([sum(made[name]["seconds"].values()) for made in results]) for name in names}
    table = [summary(name, errors[name], seconds[name]) for name in names]
    print_table(table, "mm")
    differences = {f"{name} - {other}": print_difference(name, other, errors) for name, other in supervised + one_shot}
    minutes = (time.perf_counter() - start) / 60
    print_end("landmark_detection", options, cases, minutes, table=table, differences=differences)


if __name__ == "__main__":
    main()
