"""What is guidance worth with how many points? ``python -m benchmarks.few_points --data DIR``.

A network is pre-trained without labels on pairs of few or many points, which are drawn ``anywhere`` in the foreground,
``by_tier`` of information (the bundle's shares), or ``shuffled``: by the tiers of another image. All else is the same,
intensities change everywhere alike, and each point is contrasted with all cells of the other view.

- ``DIR`` with ``train`` and ``test1``: radiographs, by :py:mod:`benchmarks.landmark_matching` (whose options these
  are): the bundle ``landmark_pretraining``, by the error of the landmarks of one template in the test images.
- ``DIR`` with ``images`` and ``labels``: volumes of the hippocampus, by :py:mod:`benchmarks.annotate_labels`: the
  bundle ``landmark_matching_3d``, by the Dice of the label map of one template, carried to the test cases.

Each training goes on from its last epoch if it was stopped, and each result is kept. After ``--minutes`` no other one
is begun: the table has the numbers of points that are complete, and the same command goes on.
"""

from __future__ import annotations

import json
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._landmarks import Cases, common_options
from benchmarks._runs import bundle_config, named, print_difference, require_positive, side_by_side
from benchmarks.annotate_labels import Data, Rows
from benchmarks.landmark_matching import BUDGETS, Matching, settings_of
from monai_infoaug._require import refusal
from monai_infoaug.data import image_name

WAYS = {"anywhere": "best_uniform", "by_tier": "tier_sampling", "shuffled": "shuffled_sampling"}  # and their policies
TEMPLATE = "115"  # of the radiographs
STRENGTH = 0.7  # of the changes of volumes, everywhere
VOLUMES = "landmark_matching_3d"
DENSE = {"_target_": "monai_infoaug.losses.DenseInfoNCELoss", "temperature": 0.1}  # few points have few negatives


def of_volumes(way: str) -> dict[str, Any]:
    """Settings of the bundle for volumes for a way to draw points."""
    settings: dict[str, Any] = {f"{view}_intensity#strengths": [STRENGTH] * 3 for view in ("template", "query")}
    if way == "anywhere":
        return settings | {"shares": None}
    if way == "by_tier":
        return settings
    information = bundle_config(VOLUMES)["information_transforms"]
    split = next(i for i, step in enumerate(information) if step["_target_"].endswith(".InformationMapd"))
    other = {
        "_target_": "benchmarks.landmark_matching.BorrowedInformationd",
        "keys": ["image", "small"],
        "prefixes": ["", "small_"],
        "images": "$[item['image'] for item in @train#datalist]",
        "preprocessing": "$@preprocessing_transforms",
        "information": information,
    }
    return settings | {"information_transforms": [*information[:split], other]}


class Landmarks:
    """Errors in mm of landmarks in the test images.

    Args:
        options: what the command line says.
        until: time from when on no training is begun.
    """

    unit, digits = " mm", 2

    def __init__(self, options: Namespace, until: float) -> None:
        options.template = options.template or TEMPLATE
        self.cases, self.until = Cases(options), until
        self.settings = settings_of(options, {"loss_function": DENSE} | named(options.set))
        self.out = options.out / "landmarks" / self.cases.folder

    def __call__(self, points: int, way: str, seed: int) -> np.ndarray | None:
        """(images, landmarks), or None where time was over."""
        out = self.out / str(points)
        if time.time() >= self.until and not (out / WAYS[way] / str(seed) / "result.json").exists():
            return None
        made = Matching(self.cases, self.settings | {"num_points": points}, out)(WAYS[way], seed)
        return self.cases.errors([made["found"]])[0]


class Labels:
    """Dice of the carried labels of the test cases.

    Args:
        options: what the command line says.
        until: time from when on no training is begun.
    """

    unit, digits = "", 4

    def __init__(self, options: Namespace, until: float) -> None:
        self.data, self.until = Data(options.data.resolve()), until
        if options.tune:
            self.data.test = self.data.train[3::4]
            self.data.train = [image for image in self.data.train if image not in self.data.test]
        known = {image_name(path): path for path in self.data.train}
        name = options.template or list(known)[5 % len(known)]
        if name not in known:
            raise refusal("template", repr(name), f"a training case, such as {', '.join(list(known)[:3])}")
        self.template, self.settings = known[name], named(options.set)
        self.out = options.out / self.data.name / ("tune" if options.tune else "test")

    def __call__(self, points: int, way: str, seed: int) -> np.ndarray | None:
        """(cases, classes), or None where time was over."""
        settings = {"pretraining": of_volumes(way) | self.settings | {"num_points": points}}
        rows = Rows(self.data, self.template, seed, self.out / str(points) / way, settings)
        made = rows("propagation", self.until)
        return None if made is None else np.array(made["dice"])


def report(values: Mapping[tuple[int, str], np.ndarray], unit: str, digits: int) -> dict[str, Any]:
    """Print and return a row for each number of points and way, and what guidance is worth.

    Args:
        values: (seeds, cases, landmarks or classes) of each.
        unit: of the values.
        digits: of the differences.
    """
    table, differences = [], {}
    print(f"\n{'points':>6}  {'drawn':10}{'mean':>9}{'SD':>8}")
    for (points, way), each in values.items():
        means = each.mean((1, 2))
        spread = float(means.std(ddof=1)) if len(means) > 1 else None
        table.append({"points": points, "way": way, "mean": float(means.mean()), "sd_of_seeds": spread})
        print(f"{points:6}  {way:10}{means.mean():9.4f}{'' if spread is None else f'{spread:.4f}':>8}")
    for points in dict.fromkeys(points for points, _ in values):
        print(f"\n{points} points:")
        of_points = {way: each for (number, way), each in values.items() if number == points}
        for other in of_points:
            if "by_tier" in of_points and other != "by_tier":
                gain = print_difference("by_tier", other, of_points, unit, digits)
                differences[f"{points}: by_tier - {other}"] = gain
    return {"table": table, "differences": differences}


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and test what is missing, then print the table and a JSON line."""
    parser = common_options(__doc__.split("\n\n")[0], BUDGETS, "runs/few_points")
    parser.add_argument("--points", default="4,16,64,400", help="numbers, separated by commas (%(default)s)")
    parser.add_argument("--ways", default=",".join(WAYS), help="separated by commas (%(default)s)")
    parser.add_argument("--minutes", type=float, default=110, help="begin no training after so many (%(default)s)")
    parser.set_defaults(template=None)
    options = parser.parse_args(arguments)
    require_positive(options, "seeds", "jobs")
    ways, numbers = options.ways.split(","), [int(number) for number in options.points.split(",")]
    for way in ways:
        if way not in WAYS:
            raise refusal("ways", repr(way), f"among {', '.join(WAYS)}")
    if min(numbers) < 1:
        raise refusal("points", options.points, "numbers of at least 1")
    start, until = time.perf_counter(), time.time() + 60 * options.minutes
    volumes = (options.data / "images").is_dir()
    measure = Labels(options, until) if volumes else Landmarks(options, until)
    calls = [(points, way, seed) for seed in range(options.seeds) for points in numbers for way in ways]
    made = dict(zip(calls, side_by_side(measure, calls, options.jobs), strict=True))
    values = {}
    for points in numbers:
        seeds = [s for s in range(options.seeds) if all(made[points, way, s] is not None for way in ways)]
        if len(seeds) < options.seeds:
            print(f"{points} points, complete: {len(seeds)} of {options.seeds} seeds. Run the same command to go on.")
        if seeds:
            values |= {(points, way): np.stack([made[points, way, seed] for seed in seeds]) for way in ways}
    about = {"benchmark": "few_points", "data": Path(options.data).resolve().name, "tune": options.tune}
    results = report(values, measure.unit, measure.digits) if values else {}
    print(f"\n{(time.perf_counter() - start) / 60:.1f} minutes.")
    print(json.dumps(about | {"seeds": options.seeds} | results))


if __name__ == "__main__":
    main()
