"""What makes a segmentation hold at sites it has not seen? ``python -m benchmarks.generalisation --data DIR``.

Every row is an ordinary training with the bundle segmentation at one site, with all labels, the same steps, spatial
changes and seeds. Only the changes of intensity differ:

- ``none``: none.
- ``usual``: MONAI's usual ones, the bundle's default (scale, shift, contrast, noise).
- ``nnunet``: the set of nnU-Net [1], made of MONAI's transforms.
- ``randconv``: random convolutions [2].
- ``uniform``: ``RandTierIntensityd("rich")`` of one strength everywhere: the mean over the foregrounds of ``tiers``.
- ``tiers``: by tier of information, strengths as in the bundle; ``shuffled``: by the tiers of another image.
- ``calibrated``: by tier, with what ``monai-infoaug calibrate`` finds in the training images.
- ``uniform_curves``, ``tiers_curves``, and ``shuffled_curves`` if asked for: the same with curves that rise and fall
  (``"cross_contrast"``).
- ``tiers_apart``, ``shuffled_apart``, if asked for: tiers draw their changes apart, so that grey levels of one tier no
  longer tell those of another.

``DIR`` has some of these folders. Of each, cases are trained on, others of the same site are tested on, and so are:

- ``fundus``: REFUGE, every fourth photograph for testing; unseen: Drishti-GS.
- ``hippocampus``: every fourth volume for testing; unseen: the same after a simulated change of scanner, of four:
  a bias field, a contrast that is partly inverted, Rician noise, slices of 3 mm.
- ``jsrt``: every fourth radiograph for testing; unseen: the same under-exposed, over-exposed, with scattered rays, and
  sharpened by the detector.
- ``acdc``: every second slice; patients from 61 on for testing; unseen: the same, changed as those of the hippocampus,
  with a lower resolution within the slices. Dice is of all these slices of a patient.

With ``--tune`` no test case is read: every fourth training case is held out, and changed by another family of changes,
which has none in common with those that are reported (surface coil, another inverted contrast, ringing and blur;
narrow window, uneven, mostly inverted and blurred radiographs; darker, blurred and uneven photographs, and others of
other colours). What is chosen is chosen so.

Each training goes on from its last epoch if it was stopped, and each result is kept. After ``--minutes`` no other one
is begun: the table of a data set then has the seeds that are complete, and the same command goes on.

References:
    1. Isensee et al., "nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation",
       Nature Methods 18, 2021.
    2. Xu et al., "Robust and generalizable visual representation learning via random convolutions", ICLR 2021,
       arXiv:2007.13003.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: its waiting threads take the loaders' time

import numpy as np
import SimpleITK as sitk
import torch
from monai.transforms import Compose

from benchmarks import _sites
from benchmarks._intensities import drawn_apart, nnunet
from benchmarks._runs import (
    bundle_config,
    kept_result,
    named,
    print_difference,
    require_positive,
    run_bundle,
    side_by_side,
)
from monai_infoaug._require import refusal
from monai_infoaug.commands.calibration import calibrate
from monai_infoaug.data import image_datalist, image_name

BUNDLE, OWN = "segmentation", "own site"
EVERY = 4  # one in so many cases is held out
MEASURED = 20  # training images, for the mean strength


class DataSet(NamedTuple):
    """A site with labels, and what else is tested on.

    Args:
        images, labels: folders.
        settings: of the bundle.
        regions: values of the label map of each region that is reported.
        sites, chosen_on: steps of each simulated change, for reporting and with ``--tune``.
        other: folders of another site, for reporting.
        slices: whether volumes become slices, and the first part of their name is the case.
        first_test: the first case to test on; None: every fourth one.
    """

    images: str
    labels: str
    settings: dict[str, Any]
    regions: dict[str, list[int]]
    sites: Mapping[str, Sequence[Any]]
    chosen_on: Mapping[str, Sequence[Any]]
    other: tuple[str, str] | None = None
    slices: bool = False
    first_test: str | None = None


PICTURE = {"spatial_dims": 2, "window": 9, "batch_size": 4, "samples_per_epoch": 100}
ORGANS = ["right lung", "left lung", "heart", "right clavicle", "left clavicle"]
SETS = {
    "hippocampus": DataSet(
        "hippocampus/images",
        "hippocampus/labels",
        {
            "modality": "mr",
            "working_pixdim": 1.25,
            "roi_size": [32, 48, 32],
            "batch_size": 2,
            "samples_per_epoch": 100,
            "max_epochs": 6,
        },
        {"anterior": [1], "posterior": [2]},
        _sites.SCANNERS,
        _sites.OTHER_SCANNERS,
    ),
    "fundus": DataSet(
        "fundus/refuge/image",
        "fundus/refuge/mask",
        PICTURE
        | {
            "modality": "rgb",
            "in_channels": 3,
            "pixdim": 1.0,
            "working_pixdim": 2.0,
            "classes": ["rim", "cup"],
            "roi_size": [128, 128],
            "scale_range": 0.35,  # discs are larger elsewhere
            "max_epochs": 24,
        },
        {"disc": [1, 2], "cup": [2]},
        {},
        _sites.CAMERAS,
        ("fundus/drishti_train/image", "fundus/drishti_train/mask"),
    ),
    "jsrt": DataSet(
        "jsrt/images",
        "jsrt/masks",
        PICTURE
        | {
            "modality": "xray",
            "pixdim": 0.7,
            "working_pixdim": 2.1,
            "classes": ORGANS,
            "label_bits": [1, 2, 4, 8, 16],
            "roi_size": [160, 160],
            "max_epochs": 16,
        },
        {name: [value for value in range(32) if value & 1 << bit] for bit, name in enumerate(ORGANS)},
        _sites.EXPOSURES,
        _sites.OTHER_EXPOSURES,
    ),
    "acdc": DataSet(
        "acdc/images",
        "acdc/labels",
        PICTURE
        | {
            "modality": "mr",
            "pixdim": 1.5,
            "working_pixdim": 3.0,
            "classes": ["right ventricle", "myocardium", "left ventricle"],
            "roi_size": [112, 112],
            "max_epochs": 20,
        },
        {"right ventricle": [1], "myocardium": [2], "left ventricle": [3]},
        _sites.SLICES,
        _sites.OTHER_SCANNERS,
        slices=True,
        first_test="patient061",
    ),
}
ROWS = ("none", "usual", "nnunet", "randconv", "uniform", "shuffled", "tiers", "calibrated")
ROWS += ("uniform_curves", "tiers_curves")
MORE_ROWS = ("shuffled_curves", "tiers_apart", "shuffled_apart")


def steps_of(name: str, settings: Mapping[str, Any], mean_strength: float, calibration: Path) -> dict[str, Any]:
    """Settings of the bundle for a row.

    Args:
        name: of the row.
        settings: of the bundle, that all rows share.
        mean_strength: of the rows that change everywhere alike.
        calibration: file of the row ``calibrated``.
    """
    own, (change, _, kind) = bundle_config(BUNDLE, settings), name.partition("_")
    strengths = [mean_strength] * 3 if change == "uniform" else own["strengths"]
    intensity: dict[str, Any] = {
        "transforms": {"": "rich", "curves": "cross_contrast"}.get(kind),
        "strengths": strengths,
    }
    if kind == "apart":
        intensity = {"transforms": drawn_apart("rich", strengths)}
    if change == "calibrated":
        intensity = {"file": str(calibration)}
    instead: dict[str, list[dict[str, Any]]] = {
        "none": [],
        "usual": [],
        "nnunet": nnunet(),
        "randconv": [{"_target_": "benchmarks._intensities.RandConvolutiond", "keys": "image"}],
    }
    by_tier = {"_target_": "monai_infoaug.transforms.RandTierIntensityd", "keys": "image", **intensity}
    *usual, _ = own["random_transforms"]  # those of intensity are off where `tier_intensity` is on
    made = {
        "tier_intensity": change != "usual",
        "random_transforms": [*usual, *instead.get(change, [by_tier])],
    }
    information = own["information_transforms"]
    if change == "shuffled":
        made["information_transforms"] = [
            {
                "_target_": "benchmarks.landmark_matching.BorrowedInformationd",
                "keys": "image",
                "images": "$[item['image'] for item in @labelled_datalist]",
                "preprocessing": "$@preprocessing_transforms",
                "information": information,
            }
        ]
    if change == "calibrated":
        measure, split = (each | {"file": str(calibration)} for each in information)
        made["information_transforms"] = [measure | {"window": "$None and @window"}, split]  # the file says it
    return made


class Generalisation:
    """Trainings at one site and their results at all.

    Args:
        data: folder of the data sets.
        name: name of one.
        more: settings of the bundle beside its own.
        tune: whether to test on training cases that are held out.
        out: folder of the results.
        until: time from when on no training is begun, None: never.
    """

    def __init__(
        self, data: Path, name: str, more: Mapping[str, Any], tune: bool, out: Path, until: float | None = None
    ) -> None:
        of_set, self.name, self.out, self.until = SETS[name], name, out, until
        self.settings = of_set.settings | {"val_interval": 10**6, "val_images": 1, "num_workers": 0} | more
        images, labels = (data / folder for folder in of_set[:2])
        if of_set.slices:
            images, labels = (as_slices(folder, out.parent / "slices" / folder.name) for folder in (images, labels))
        self.labels = labels
        self.label_of = {image_name(label): label for label in files_of(labels)}
        files = files_of(images)
        cases = sorted({self._case(file) for file in files})
        test = cases[EVERY - 1 :: EVERY]
        if of_set.first_test is not None:
            test = [case for case in cases if case >= of_set.first_test]
        train = [case for case in cases if case not in test]
        if tune:
            test = train[EVERY - 1 :: EVERY]
            train = [case for case in train if case not in test]
        self.train, self.test = out / "train", out / "test"
        self.where: dict[str, tuple[str, str, str]] = {}  # of each test image: site, case, and name of its label
        for file in files:
            if self._case(file) in train:
                put(self.train / file.name, partial(link, file))
            elif self._case(file) in test:
                self._add(OWN, file, partial(link, file))
                for number, (site, steps) in enumerate((of_set.chosen_on if tune else of_set.sites).items()):
                    seed = len(self.where) + 10**6 * number
                    self._add(site, file, partial(_sites.take_again, file, steps, seed), changed=True)
        if of_set.other is not None and not tune:
            images, labels = (data / folder for folder in of_set.other)
            self.label_of |= {image_name(label): label for label in files_of(labels)}
            for file in files_of(images):
                self._add("other site", file, partial(link, file))

    @property
    def regions(self) -> dict[str, list[int]]:
        return SETS[self.name].regions

    @property
    def calibration(self) -> Path:
        return self.out / "calibration.json"

    def _case(self, file: Path) -> str:
        name = image_name(file)
        return name.partition("_")[0] if SETS[self.name].slices else name

    def _add(self, site: str, file: Path, make: Callable[[Path], None], changed: bool = False) -> None:
        """Put an image among those to test on."""
        name = image_name(file)
        suffix = file.name.removeprefix(name)
        there = f"{site.replace(',', '').replace(' ', '_')}_{name}"
        self.where[there] = site, self._case(file), name
        put(self.test / f"{there}{suffix.replace('.jpg', '.png') if changed else suffix}", make)

    @cached_property
    def mean_strength(self) -> float:
        """Mean strength of the tiers over the foregrounds of some training images."""
        own = bundle_config(BUNDLE, self.settings)
        made = [own.get_parsed_content(f"{name}_transforms") for name in ("preprocessing", "information")]
        transform, counts = Compose([step for steps in made for step in steps]), np.zeros(3)
        files = files_of(self.train)
        for file in files[:: -(-len(files) // MEASURED)]:
            item = transform({"image": str(file)})
            counts += np.bincount(np.asarray(item["tiers"])[np.asarray(item["foreground"]) > 0], minlength=3)
        return round(float(counts @ own["strengths"] / counts.sum()), 3)

    def prepare(self, names: Sequence[str]) -> None:
        """Make what several trainings need, once: several processes would make it twice."""
        if any(name.startswith("uniform") for name in names):
            _ = self.mean_strength
        if "calibrated" in names and not self.calibration.exists():
            settings = {key: self.settings.get(key) for key in ("modality", "pixdim", "working_pixdim")}
            calibrate(self.train, self.calibration, **settings)

    def __call__(self, name: str, seed: int) -> dict[str, Any] | None:
        """``dice`` (cases, regions) of each site, and ``seconds``; None where time was over."""
        strength = self.mean_strength if name.startswith("uniform") else 0.0
        settings = self.settings | steps_of(name, self.settings, strength, self.calibration) | {"seed": seed}
        folder = self.out / name / str(seed)
        return kept_result(folder, settings, partial(self._make, settings, folder), self.until)

    def _make(self, settings: Mapping[str, Any], folder: Path) -> dict[str, Any]:
        start, places = time.perf_counter(), {"labels_dir": str(self.labels), "cache_dir": str(self.out / "cache")}
        run_bundle(BUNDLE, "train", folder=folder, dataset_dir=str(self.train), **settings, **places)
        seconds, results = time.perf_counter() - start, folder / "inference"
        places |= {"dataset_dir": str(self.test), "results_dir": str(results)}
        cached = {"_target_": "monai_infoaug.data.cached_dataset", "cache_dir": "@cache_dir"}  # the same for all rows
        places |= {f"dataset#{key}": value for key, value in cached.items()}
        run_bundle(BUNDLE, "train", "inference", folder=folder, **settings, **places)
        dice = self._dice({image_name(path): path for path in results.iterdir()})
        shutil.rmtree(results)
        return {"dice": dice, "seconds": seconds}

    def _dice(self, found: Mapping[str, Path]) -> dict[str, list[list[float]]]:
        """Dice (cases, regions) of each site: of all images of a case together."""
        counts: dict[str, dict[str, np.ndarray]] = {}
        for name, (site, case, label) in sorted(self.where.items()):
            image, truth = (sitk.GetArrayFromImage(sitk.ReadImage(str(p))) for p in (found[name], self.label_of[label]))
            both = [(np.isin(image, values), np.isin(truth, values)) for values in self.regions.values()]
            of_image = np.array([(2 * (f & t).sum(), f.sum() + t.sum()) for f, t in both])
            counts.setdefault(site, {}).setdefault(case, np.zeros_like(of_image))
            counts[site][case] += of_image
        return {
            site: [np.where(n[:, 1] > 0, n[:, 0] / n[:, 1].clip(1), 1.0).tolist() for n in cases.values()]
            for site, cases in counts.items()
        }


def files_of(folder: Path) -> list[Path]:
    """The images of a folder."""
    return [Path(item["image"]) for item in image_datalist(folder)]


def link(file: Path, to: Path) -> None:
    to.symlink_to(file.resolve())


def put(place: Path, make: Callable[[Path], None]) -> None:
    """Make a file where it is missing."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.exists():
        make(place)


def as_slices(volumes: Path, folder: Path) -> Path:
    """The folder with the slices of volumes, made where they are missing."""
    done = folder.with_suffix(".done")
    if not done.exists():
        folder.mkdir(parents=True, exist_ok=True)
        for volume in files_of(volumes):
            _sites.write_slices(volume, folder)
        done.touch()
    return folder


def values_of(results: Sequence[Mapping[str, Any]], sites: Sequence[str]) -> np.ndarray:
    """Dice (seeds, cases, regions of all sites); sites have cases in common, or there is one."""
    return np.concatenate([[result["dice"][site] for result in results] for site in sites], axis=2)


def report(name: str, made: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Print the table and the differences of a data set, and return them.

    Args:
        name: that of the data set.
        made: results of each row, one a seed.
    """
    first = next(iter(made.values()))[0]["dice"]
    parts = {"own": [OWN], "unseen": [site for site in first if site != OWN]}
    dice = {part: {row: values_of(made[row], sites) for row in made} for part, sites in parts.items()}
    table, regions = [], len(SETS[name].regions)
    print(f"\n{name:18}{'own site':>10}{'unseen':>9}{'SD':>8}{'s':>6}   " + ", ".join(parts["unseen"]))
    for row, results in made.items():
        own, unseen = (dice[part][row].mean((1, 2)) for part in parts)
        by_site = dice["unseen"][row].mean((0, 1)).reshape(-1, regions)
        table.append(
            {
                "row": row,
                "own": round(float(own.mean()), 4),
                "unseen": round(float(unseen.mean()), 4),
                "sd_of_seeds": round(float(unseen.std(ddof=1)), 4) if len(unseen) > 1 else None,
                "by_site": dict(zip(parts["unseen"], by_site.mean(1).round(4).tolist(), strict=True)),
                "unseen_by_region": dict(zip(SETS[name].regions, by_site.mean(0).round(4).tolist(), strict=True)),
                "seconds": round(float(np.mean([result["seconds"] for result in results]))),
            }
        )
        last = table[-1]
        spread = "" if last["sd_of_seeds"] is None else f"{last['sd_of_seeds']:.4f}"
        sites = ", ".join(f"{value:.3f}" for value in last["by_site"].values())
        print(f"{row:18}{last['own']:10.4f}{last['unseen']:9.4f}{spread:>8}{last['seconds']:6}   {sites}")
    pairs = [(row, "usual") for row in made if row != "usual"]
    for curves in ("", "_curves", "_apart"):
        pairs += [(f"tiers{curves}", f"{control}{curves}") for control in ("uniform", "shuffled")]
    pairs += [("calibrated", "tiers"), ("tiers_curves", "tiers")]
    differences = {}
    for part, values in dice.items():
        print(f"{part}:")
        for row, other in pairs:
            if {row, other} <= set(made):
                differences[f"{part}: {row} - {other}"] = print_difference(row, other, values, "", 4)
    seeds, cases, _ = next(iter(dice["unseen"].values())).shape
    print(f"{seeds} seeds x {cases} unseen cases")
    return {"table": table, "differences": differences}


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and evaluate what is missing, then print the tables and a JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with folders of data sets, see above")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of a row (%(default)s)")
    parser.add_argument("--sets", default=",".join(SETS), help="separated by commas (%(default)s)")
    parser.add_argument("--rows", default=",".join(ROWS), help="separated by commas (%(default)s)")
    parser.add_argument("--tune", action="store_true", help="test on training cases that are held out instead")
    parser.add_argument("--out", type=Path, default=Path("runs/generalisation"), help="results (%(default)s)")
    jobs = 1 if torch.cuda.is_available() else 2
    parser.add_argument("--jobs", type=int, default=jobs, help="trainings side by side (%(default)s)")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=JSON", help="other settings of the bundle")
    parser.add_argument("--minutes", type=float, default=140, help="begin no training after so many (%(default)s)")
    options = parser.parse_args(arguments)
    require_positive(options, "seeds", "jobs")
    names, sets = options.rows.split(","), options.sets.split(",")
    for argument, given, known in (("rows", names, ROWS + MORE_ROWS), ("sets", sets, tuple(SETS))):
        for name in given:
            if name not in known:
                raise refusal(argument, repr(name), f"among {', '.join(known)}")
    for name in sets:
        if not (options.data / SETS[name].images).is_dir():
            raise refusal("data", f"'{options.data}'", f"a folder with {SETS[name].images}")
    start, about = time.perf_counter(), {"benchmark": "generalisation", "tune": options.tune}
    until, reports = time.time() + 60 * options.minutes, {}
    runs = {}
    for name in sets:
        out = options.out / name / ("tune" if options.tune else "test")
        runs[name] = Generalisation(options.data, name, named(options.set), options.tune, out, until)
        runs[name].prepare(names)
    calls = [(runs[name], row, seed) for seed in range(options.seeds) for name in sets for row in names]
    made = dict(
        zip(((run.name, *rest) for run, *rest in calls), side_by_side(result, calls, options.jobs), strict=True)
    )
    for name in sets:
        seeds = [seed for seed in range(options.seeds) if all(made[name, row, seed] for row in names)]
        if len(seeds) < options.seeds:
            print(f"{name}, complete: {len(seeds)} of {options.seeds} seeds. Run the same command again to go on.")
        if seeds:
            reports[name] = report(name, {row: [made[name, row, seed] for seed in seeds] for row in names})
    print(f"\n{(time.perf_counter() - start) / 60:.1f} minutes.")
    print(json.dumps(about | reports))


def result(run: Generalisation, name: str, seed: int) -> dict[str, Any] | None:
    return run(name, seed)


if __name__ == "__main__":
    main()
