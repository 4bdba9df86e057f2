"""What does adaptation to another site gain without its labels? ``python -m benchmarks.adaptation --data DIR``.

``DIR`` is ``fundus``, with optic disc crops of two sites: from ``refuge`` with labels to ``drishti_train``; or
``hippocampus``, where the target is every second case after a simulated change of acquisition (bias field, gamma curve,
noise, lower resolution). The target's images are in five folds: a row learns from four of them and reports on the
fifth. The rows:

- ``source``: the network as it has learnt from the source with labels, the bundle segmentation without an
  overlay; ``source_tiers``: the same with intensities that change by tier of information. All other rows but the
  last go on from the former, or from the latter if their name ends in ``_tiers``.
- ``confidence``: the bundle source_free_adaptation [1], its first stage alone; ``source_free``: its second stage alone;
  ``both``: one after the other.
- ``source_free_tiers``: as ``source_free``, with the confident pixels chosen in each tier of information, too.
- ``patches``: the bundle patch_contrast_adaptation [2]; ``patches_tiers``: with the compared patches drawn by tier and
  the confident pixels chosen so, too; ``own_labels``: without contrast of patches.
- ``patches_clicks``: with a click on each class, and on the background, in each image of the target.
- ``oracle``: learns from the target with its labels, as the source's network from its own.

``--reliability FILE`` instead draws where the confident pixels lie and how many of them are right, by tier.

Each training goes on from its last epoch if it was stopped, and each result is kept. After ``--minutes`` no other
one is begun: the table then has the seeds that are complete, or the folds if none is, and the same command goes on.

References:
    1. Luo, Chen and Tan, source-free domain adaptation by rectified pseudo-labels (PR-SFDA), arXiv:2106.12123.
    2. Liu et al., "Patch-wise contrastive learning for domain adaptation in semantic segmentation", arXiv:2104.11056.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: its waiting threads take the loaders' time

import numpy as np
import SimpleITK as sitk
import torch
from monai.transforms import (
    Compose,
    LoadImage,
    RandBiasField,
    RandGaussianNoise,
    SaveImage,
    ScaleIntensityRangePercentiles,
    Spacing,
)

from benchmarks._runs import (
    bundle_config,
    end_of,
    kept_result,
    named,
    print_difference,
    require_positive,
    run_bundle,
    side_by_side,
)
from monai_infoaug._require import refusal
from monai_infoaug.data import image_datalist, image_name
from monai_infoaug.handlers import load_weights
from monai_infoaug.samplers import ReliablePixels

TRAIN, FREE, PATCHES = "segmentation", "source_free_adaptation", "patch_contrast_adaptation"
FOLDS = 5
SHARES = [0.2, 0.4, 0.4]
PAIRS = {  # by the name of the folder: settings of the bundles, and the classes of each region that is reported
    "fundus": (
        {
            "modality": "rgb",
            "in_channels": 3,
            "spatial_dims": 2,
            "pixdim": 1.0,
            "working_pixdim": 2.0,
            "classes": ["rim", "cup"],
            "roi_size": [128, 128],
            "scale_range": 0.35,  # the target's discs are larger; docs/results/adaptation.md says how all was chosen
            "scales": [0.8, 1.0, 1.25],
            "align": 1.0,
            "round_epochs": 1000,  # one round
            "share": 0.5,
        },
        {"disc": [1, 2], "cup": [2]},
    ),
    "hippocampus": ({"classes": ["anterior", "posterior"], "share": 0.5}, {"anterior": [1], "posterior": [2]}),
}
BUDGETS = {  # by the same: settings of all trainings, epochs of the source's and the oracle's, and of adaptation
    "small": {  # two CPU cores
        "fundus": ({"samples_per_epoch": 100, "batch_size": 4}, 24, 8),  # 600 and 200 steps
        "hippocampus": (  # 600 and 400 steps
            {"samples_per_epoch": 50, "batch_size": 2, "working_pixdim": 1.25, "roi_size": [32, 48, 32]},
            24,
            16,
        ),
    },
    "full": dict.fromkeys(PAIRS, ({"samples_per_epoch": 400, "batch_size": 16}, 60, 40)),  # a GPU
}


def row(name: str, epochs: int) -> tuple[str, dict[str, Any]]:
    """Bundle of a row, and its settings, for epochs of adaptation."""
    alone, tiers = {"confidence_epochs": 0, "max_epochs": epochs}, {"by_tier": True}
    rows = {
        "source": (TRAIN, {}),
        "source_tiers": (TRAIN, {"tier_intensity": True}),
        "confidence": (FREE, {"confidence_epochs": 2, "run": ["@train#trainer", "$@confidence#trainer.run()"]}),
        "source_free": (FREE, alone),
        "both": (FREE, {"confidence_epochs": 2, "max_epochs": epochs}),
        "source_free_tiers": (FREE, alone | tiers),
        "patches": (PATCHES, {"max_epochs": epochs}),
        "patches_tiers": (PATCHES, {"max_epochs": epochs, "shares": SHARES} | tiers),
        "patches_clicks": (PATCHES, {"max_epochs": epochs}),
        "own_labels": (PATCHES, {"max_epochs": epochs, "contrast_weight": 0.0}),
        "oracle": (TRAIN, {}),
    }
    if name not in rows:
        raise refusal("rows", repr(name), f"among {', '.join(rows)}")
    return rows[name]


def source_of(name: str) -> str:
    """The row whose network a row goes on from."""
    return "source_tiers" if name.endswith("_tiers") else "source"


def change_acquisition(images: Sequence[str], folder: Path, seed: int = 0) -> None:
    """Write images as another scanner might have taken them."""
    folder.mkdir(parents=True, exist_ok=True)
    scale = ScaleIntensityRangePercentiles(0.5, 99.5, 0, 1, clip=True)  # a few voxels are far brighter than all others
    change = Compose(
        [
            LoadImage(ensure_channel_first=True),
            Spacing(pixdim=(1.0, 1.0, 3.0)),
            scale,
            RandBiasField(degree=2, coeff_range=(-0.4, 0.4), prob=1.0),
            scale,
            lambda image: image**1.8,
            RandGaussianNoise(prob=1.0, std=0.03),
            SaveImage(folder, "", ".nii.gz", separate_folder=False, print_log=False),
        ]
    ).set_random_state(seed)
    for image in images:
        if not (folder / Path(image).name).exists():
            change(image)


class Adaptation:
    """Trainings and their results.

    Args:
        data: folder, see the top of the file.
        settings: settings of the bundles that all rows share.
        regions: classes of each region by name.
        epochs: epochs of the source's training, and of adaptation.
        out: folder of the results.
        until: time from when on no training is begun, None: never.
    """

    def __init__(
        self,
        data: Path,
        settings: Mapping[str, Any],
        regions: Mapping[str, Sequence[int]],
        epochs: tuple[int, int],
        out: Path,
        until: float | None = None,
    ) -> None:
        self.until = until
        self.settings, self.regions, self.epochs, self.out = dict(settings), dict(regions), epochs, out
        if (data / "refuge").is_dir():
            source, target = data / "refuge", data / "drishti_train"
            self.labels = {"source": source / "mask", "target": target / "mask"}
            parts = {"source": image_datalist(source / "image"), "target": image_datalist(target / "image")}
            images = {name: [item["image"] for item in part] for name, part in parts.items()}
        else:
            self.labels = dict.fromkeys(("source", "target"), data / "labels")
            cases = [item["image"] for item in image_datalist(data / "images")]
            images = {"source": cases[::2], "target": cases[1::4]}
            change_acquisition(images["target"], out / "changed")
            images["target"] = [str(out / "changed" / Path(case).name) for case in images["target"]]
        if len(images["target"]) < FOLDS:
            raise refusal("data", f"{len(images['target'])} images", f"at least {FOLDS}")
        self.known = {image_name(item["image"]): item["image"] for item in image_datalist(self.labels["target"])}
        self.source = self._linked("source", images["source"])
        self.folds = []
        for fold in range(FOLDS):
            rest = [image for i, image in enumerate(images["target"]) if i % FOLDS != fold]
            parts = {"learn": rest, "test": images["target"][fold::FOLDS]}
            self.folds.append({name: self._linked(f"fold{fold}_{name}", part) for name, part in parts.items()})

    def _linked(self, name: str, images: Sequence[str]) -> Path:
        folder = self.out / "images" / name
        folder.mkdir(parents=True, exist_ok=True)
        for image in images:
            link = folder / Path(image).name
            if not link.exists():
                link.symlink_to(Path(image).resolve())
        return folder

    def trained_source(self, seed: int, name: str = "source") -> Path:
        """Folder of the source's network, that of the row ``source`` or ``source_tiers``."""
        _, own = row(name, self.epochs[1])
        folder = self.out / name.replace("source", "trained") / str(seed)
        run = partial(self._train, self.source, self.labels["source"], seed, folder, **own)
        kept_result(folder, self.settings | own | {"epochs": self.epochs[0]}, lambda: {"seconds": run()})
        return folder

    def _train(self, images: Path, labels: Path, seed: int, folder: Path, **own: Any) -> float:
        """Seconds of a training with labels."""
        start = time.perf_counter()
        places = {"dataset_dir": str(images), "labels_dir": str(labels), "test_every": None, "val_every": None}
        fixed = {"max_epochs": self.epochs[0], "seed": seed}
        run_bundle(TRAIN, "train", folder=folder, **self.settings, **places, **fixed, **own)
        return time.perf_counter() - start

    def __call__(self, name: str, seed: int, fold: int) -> dict[str, Any] | None:
        """``dice`` of the images of a fold, by name, and ``seconds``; None where time was over."""
        bundle, own = row(name, self.epochs[1])
        _, of_source = row(source_of(name), self.epochs[1])
        wanted = self.settings | of_source | own | {"epochs": self.epochs[0]}  # those of adaptation are in its own
        folder = self.out / name / str(seed) / str(fold)
        return kept_result(folder, wanted, partial(self._make, name, bundle, own, seed, fold, folder), self.until)

    def _make(self, name: str, bundle: str, own: dict[str, Any], seed: int, fold: int, folder: Path) -> dict[str, Any]:
        start, parts = time.perf_counter(), self.folds[fold]
        source = self.trained_source(seed, source_of(name)) / "checkpoint.pt"
        checkpoint = folder / ("confidence.pt" if "run" in own else "checkpoint.pt")
        if name == "oracle":
            self._train(parts["learn"], self.labels["target"], seed, folder)
        elif bundle == TRAIN:
            checkpoint = source
        else:
            places = {"dataset_dir": str(parts["learn"]), "source": str(source)}
            if name == "patches_clicks":
                places["weak_labels"] = str(self._clicks(parts["learn"], seed, folder / "clicks.csv"))
            if bundle == PATCHES:
                places |= {"source_images": str(self.source), "source_labels": str(self.labels["source"])}
            run_bundle(bundle, "train", folder=folder, **self.settings, **own, **places, seed=seed)
        seconds = time.perf_counter() - start
        places = {"dataset_dir": str(parts["test"]), "checkpoint": str(checkpoint), "suffix": self._suffix()}
        run_bundle(FREE, "train", "inference", folder=folder, **self.settings, **places)
        found = {image_name(path): path for path in (folder / "inference").iterdir()}
        return {"dice": {case: self._dice(found[case], case) for case in sorted(found)}, "seconds": seconds}

    def _clicks(self, images: Path, seed: int, file: Path) -> Path:
        """Write a random point of each class in each image."""
        generator, names = np.random.default_rng(seed), ["background", *self.settings["classes"]]
        lines = ["image,landmark,x,y" + (",z,space" if self._suffix() == ".nii.gz" else "")]
        for case in sorted(image_name(path) for path in images.iterdir()):
            label = sitk.ReadImage(self.known[case])
            for kind, name in enumerate(names):
                places = np.argwhere(sitk.GetArrayFromImage(label) == kind)[:, ::-1]
                if len(places):
                    point = label.TransformIndexToPhysicalPoint(generator.choice(places).tolist())
                    lines.append(",".join([case, name, *map(str, point), *["LPS"] * (len(point) == 3)]))
        file.write_text("\n".join(lines), encoding="utf-8")
        return file

    def _suffix(self) -> str:
        return ".png" if self.settings.get("spatial_dims") == 2 else ".nii.gz"

    def _dice(self, path: Path, case: str) -> list[float]:
        """Dice of each region."""
        found, truth = (sitk.ReadImage(p) for p in (path, self.known[case]))
        if found.GetSize() != truth.GetSize():  # the label is on the grid from before the change of acquisition
            found = sitk.Resample(found, truth, interpolator=sitk.sitkNearestNeighbor)
        found, truth = sitk.GetArrayFromImage(found), sitk.GetArrayFromImage(truth)
        both = [(np.isin(found, classes), np.isin(truth, classes)) for classes in self.regions.values()]
        return [float(2 * (f & t).sum() / max(1, f.sum() + t.sum())) for f, t in both]

    def probabilities(self, seed: int) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """What the source's network finds in each image of the target: probabilities, tiers, and the label."""
        free, train = (bundle_config(bundle, self.settings) for bundle in (FREE, TRAIN))
        network = load_weights(free.get_parsed_content("network_def"), self.trained_source(seed) / "checkpoint.pt")
        parts = [(free, "preprocessing_transforms"), (free, "information_transforms"), (train, "label_transforms")]
        steps = [step for config, name in parts for step in config.get_parsed_content(name)]
        transform = Compose([*steps, train.get_parsed_content("label_spacing")])
        items = [item for parts in self.folds for item in image_datalist(parts["test"])]
        network.eval()
        found = []
        for item in items:
            made = transform(item | {"label": self.known[image_name(item["image"])]})
            image, tiers, label = (made[key].as_tensor()[None] for key in ("image", "tiers", "label"))
            with torch.no_grad():
                found.append((network(image).softmax(1), tiers, label))
        return found


def reliability(
    found: Sequence[tuple[torch.Tensor, torch.Tensor, torch.Tensor]], by_tier: bool
) -> list[dict[str, float | str]]:
    """How many pixels are in each tier, and of those that are chosen; and how many of either are right."""
    reliable = ReliablePixels(share=0.1)
    for probabilities, tiers, _ in found:
        reliable.update(probabilities, tiers if by_tier else None)
    counts = np.zeros((3, 4))
    for probabilities, tiers, label in found:
        right = probabilities.argmax(1, keepdim=True) == label
        chosen = reliable(probabilities, tiers if by_tier else None) >= 0
        for tier in range(3):
            kinds = (torch.ones_like(right), right, chosen, chosen & right)
            counts[tier] += [int(((tiers == tier) & kind).sum()) for kind in kinds]
    pixels, _, chosen, _ = counts.sum(0).clip(1)
    return [
        {
            "chosen": "by class and tier" if by_tier else "by class",
            "tier": name,
            "pixels": count[0] / pixels,
            "right": count[1] / max(1, count[0]),
            "of_the_chosen": count[2] / chosen,
            "chosen_right": count[3] / max(1, count[2]),
        }
        for name, count in zip(("low", "medium", "high"), counts, strict=True)
    ]


def draw_reliability(rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Bars by tier: share of the pixels and of the chosen ones, and how many of either are right."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    names = ("all pixels", "confident, by class", "confident, by class and tier")
    titles = {"share of the tier": ("pixels", "of_the_chosen"), "right": ("right", "chosen_right")}
    for axis, (title, (of_all, of_chosen)) in zip(axes, titles.items(), strict=True):
        parts = ((of_all, rows[:3]), (of_chosen, rows[:3]), (of_chosen, rows[3:]))
        for i, (label, (key, part)) in enumerate(zip(names, parts, strict=True)):
            axis.bar(np.arange(3) + 0.27 * (i - 1), [r[key] for r in part], 0.25, label=label)
        axis.set_xticks(range(3), [r["tier"] for r in rows[:3]])
        axis.set_xlabel("tier of information")
        axis.set_title(title)
        axis.set_ylim(0, 1.02)
    axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(file, dpi=120)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and evaluate what is missing, then print the table and a JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder named fundus or hippocampus, see above")
    parser.add_argument("--seeds", type=int, default=1, help="trainings of a row and fold (%(default)s)")
    parser.add_argument("--budget", choices=BUDGETS, default="small")
    parser.add_argument(
        "--rows",
        default="source,source_tiers,source_free,source_free_tiers,patches,patches_tiers,oracle",
        help="separated by commas (%(default)s)",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/adaptation"), help="results (%(default)s)")
    jobs = 1 if torch.cuda.is_available() else 2
    parser.add_argument("--jobs", type=int, default=jobs, help="trainings side by side (%(default)s)")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=JSON", help="other settings of the bundles")
    parser.add_argument("--minutes", type=float, help="begin no training after so many; default: 110 if small")
    parser.add_argument("--epochs", type=int, nargs=2, help="of the source's training and of adaptation")
    parser.add_argument("--reliability", type=Path, metavar="FILE", help="draw where confident pixels lie, and stop")
    options = parser.parse_args(arguments)
    require_positive(options, "seeds", "jobs")
    data, names, start = options.data.resolve(), options.rows.split(","), time.perf_counter()
    if not data.is_dir() or data.name not in PAIRS:
        raise refusal("data", f"'{options.data}'", f"a folder named {' or '.join(PAIRS)}")
    shared, train_epochs, epochs = BUDGETS[options.budget][data.name]
    settings, regions = PAIRS[data.name]
    settings = settings | shared | {"val_interval": 10**6, "val_images": 1} | named(options.set)
    train_epochs, epochs = options.epochs or (train_epochs, epochs)
    for name in names:
        row(name, epochs)  # before any work is lost
    out, until = options.out / data.name / options.budget, end_of(options.minutes, options.budget)
    adaptation = Adaptation(data, settings, regions, (train_epochs, epochs), out, until)
    about = {"benchmark": "adaptation", "data": data.name, "budget": options.budget}
    if options.reliability is not None:
        found = adaptation.probabilities(seed=0)
        rows = [each for by_tier in (False, True) for each in reliability(found, by_tier)]
        print(f"{'confident pixels':20}{'tier':>8}{'of all':>9}{'right':>8}{'of these':>10}{'right':>8}")
        for r in rows:
            values = f"{r['pixels']:9.3f}{r['right']:8.3f}{r['of_the_chosen']:10.3f}{r['chosen_right']:8.3f}"
            print(f"{r['chosen']:20}{r['tier']:>8}{values}")
        draw_reliability(rows, options.reliability)
        print(json.dumps(about | {"reliability": rows}))
        return
    sources = sorted(set(map(source_of, names)))
    side_by_side(adaptation.trained_source, [(s, name) for s in range(options.seeds) for name in sources], options.jobs)
    calls = [(name, seed, fold) for seed in range(options.seeds) for fold in range(FOLDS) for name in names]
    results = dict(zip(calls, side_by_side(adaptation, calls, options.jobs), strict=True))
    done = {call[1:] for call in calls} - {call[1:] for call in calls if results[call] is None}
    seeds = [seed for seed in range(options.seeds) if all((seed, fold) in done for fold in range(FOLDS))] or [0]
    folds = [fold for fold in range(FOLDS) if (seeds[0], fold) in done]
    if len(done) < options.seeds * FOLDS:
        print(f"Complete: {len(done)} of {options.seeds * FOLDS} folds. Run the same command again to go on.")
    if not folds:
        return
    made = {name: [[results[name, seed, fold] for fold in folds] for seed in seeds] for name in names}
    dice = {
        name: np.array([[value for each in of_seed for value in each["dice"].values()] for of_seed in made[name]])
        for name in names
    }

    low, high = (dice[name].mean() if name in dice else None for name in ("source", "oracle"))
    table = []
    print(f"\n{'':20}{'Dice':>8}{'gap closed':>12}{'s':>7}   Dice by region")
    for name in names:
        by_region = dict(zip(regions, dice[name].mean((0, 1)).round(4).tolist(), strict=True))
        closed = None if None in (low, high) else float((dice[name].mean() - low) / (high - low))
        seconds = round(float(np.mean([each["seconds"] for of_seed in made[name] for each in of_seed])))
        mean = round(float(dice[name].mean()), 4)
        table.append({"row": name, "dice": mean, "gap_closed": closed, "seconds": seconds, "by_region": by_region})
        share = "" if closed is None else f"{100 * closed:.0f} %"
        parts = ", ".join(f"{region} {value:.3f}" for region, value in by_region.items())
        print(f"{name:20}{mean:8.4f}{share:>12}{seconds:7}   {parts}")
    print()
    pairs = [(name, "source") for name in names if name != "source"]
    pairs += [(f"{name}_tiers", other) for name in ("source_free", "patches") for other in (name, "source_tiers")]
    pairs += [("patches", "own_labels"), ("patches_clicks", "patches")]
    differences = {}
    for name, other in pairs:
        if {name, other} <= set(names):
            differences[f"{name} - {other}"] = print_difference(name, other, dice, "", 4)
    minutes = (time.perf_counter() - start) / 60
    print(f"\n{len(seeds)} seeds x {dice[names[0]].shape[1]} images in {len(folds)} folds; {minutes:.1f} minutes.")
    print(json.dumps(about | {"table": table, "differences": differences}))


if __name__ == "__main__":
    main()
