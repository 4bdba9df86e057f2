"""What is pre-training worth to a segmentation with few labels? ``python -m benchmarks.label_efficiency --data DIR``.

All rows are trainings with the bundle segmentation, most with one of its overlays. Each is fine-tuned with the same
steps and settings on the same labelled cases, seed by seed, and evaluated on the same test cases by Dice and the 95 %
Hausdorff distance. The rows:

- ``scratch``: no pre-training, and MONAI's usual intensity changes (scale, shift, contrast, noise), as in all rows;
  ``tiers``: with changes by tier of information in their place; ``uniform``: with those of the medium tier everywhere;
  ``scratch_long``: with four times the steps.
- ``scratch_short``, ``label_efficient_short``, ``label_efficient_guided_short``: a third of the steps of fine-tuning,
  compared with each other.
- ``label_efficient``: the overlay of that name [1]; ``label_efficient_guided``: the compared pixels are drawn by tier
  of information within each class; ``label_efficient_cross``: they are also compared with those of another image.
- ``label_efficient_round``: another round, which goes on from ``label_efficient``. What ``scratch``,
  ``label_efficient`` and ``label_efficient_guided`` find on average takes the place of labels where there are none;
  ``label_efficient_round_contrast``: the same, with pre-training before fine-tuning; ``scratch_round``: without any
  contrast, from ``scratch`` and its segmentations alone.
- ``global``: the encoder alone, without labels (SimCLR).
- ``local_contrast``: the overlay of that name [2], blocks; ``local_contrast_stride``: every so many voxels;
  ``local_contrast_drawn``: as many voxels at random; ``local_contrast_guided``: by tier of information.
- ``segmenter_mask``, ``segmenter_linear``: a vision transformer in the place of ``scratch``'s U-Net, the overlay
  segmenter [4], with either decoder and its own learning rate.
- ``attention``: the overlay attention_guided [3], whose first stage is a coarse network with the steps of
  fine-tuning; ``attention_uniform``: with views whose intensities change everywhere as in the medium tier;
  ``attention_tuned``: the encoder is fine-tuned with the decoder; ``attention_alone``: the same without contrast.
- ``consistency``: the overlay of that name [5, 6]: what a mean of earlier states finds in all training images is learnt
  from the same with other intensities; ``consistency_guided``: with each tier's share of that loss;
  ``consistency_uniform``: changed everywhere alike, in the mean of the tiers' strengths; ``consistency_shuffled``: by
  the tiers of another image; ``consistency_usual``: MONAI's usual changes. ``scratch_double``: twice the steps of
  ``scratch``, in which time ``consistency`` takes one.

The folder has ``images`` and ``labels`` (or ``masks``). Every fourth case is for testing and every seventh of
the others is left out; the labelled ones are drawn from the rest by the seed. No other label of the training cases is
read, and those of the test cases after the training.

Each training goes on from its last epoch if it was stopped, and each result is kept. After ``--minutes`` no other
one is begun: the table then has the seeds that are complete, and the same command goes on.

References:
    1. Zhao et al., "Contrastive learning for label efficient semantic segmentation", ICCV 2021, arXiv:2012.06985.
    2. Hu et al., "Semi-supervised contrastive learning for label-efficient medical image segmentation", MICCAI 2021,
       arXiv:2109.07407.
    3. Lee et al., "Attention-guided supervised contrastive learning for semantic segmentation", arXiv:2106.01596.
    4. Strudel et al., "Segmenter: transformer for semantic segmentation", ICCV 2021, arXiv:2105.05633.
    5. Tarvainen & Valpola, "Mean teachers are better role models", NeurIPS 2017, arXiv:1703.01780.
    6. Sohn et al., "FixMatch: simplifying semi-supervised learning with consistency and confidence", NeurIPS 2020,
       arXiv:2001.07685.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: its waiting threads take the loaders' time

import numpy as np
import torch

from benchmarks._runs import (
    end_of,
    kept_result,
    named,
    paired_interval,
    print_difference,
    require_positive,
    run_bundle,
    side_by_side,
)
from monai_infoaug._require import refusal

BUNDLE = "segmentation"
EFFICIENT, LOCAL, ATTENTION, SEGMENTER = "label_efficient", "local_contrast", "attention_guided", "segmenter"
CONSISTENCY = "consistency"
SHARES = [0.2, 0.4, 0.4]
DATASETS = {  # by the name of the folder
    "hippocampus": {
        "modality": "mr",
        "spatial_dims": 3,
        "pixdim": None,
        "working_pixdim": 1.0,
        "classes": ["anterior", "posterior"],
        "label_bits": None,
        "roi_size": [40, 56, 40],
        "patch_size": 8,  # of a transformer
        "window": 5,
    },
    "jsrt": {
        "modality": "xray",
        "spatial_dims": 2,
        "pixdim": 0.7,
        "working_pixdim": 1.4,
        "classes": ["right lung", "left lung", "heart", "right clavicle", "left clavicle"],
        "label_bits": [1, 2, 4, 8, 16],
        "roi_size": [256, 256],
        "window": 9,
    },
}
BUDGETS = {  # settings of the bundle, and epochs of their pre-training
    "small": ({"samples_per_epoch": 100, "batch_size": 2, "max_epochs": 6}, 3),  # 300 and 150 steps; two CPU cores
    "full": ({"samples_per_epoch": 400, "batch_size": 8, "max_epochs": 100}, 50),  # a GPU
}
SPLIT = {"test_every": 4, "val_every": 7, "val_interval": 10**6, "val_images": 1}  # nothing is chosen in training


ROUNDS = {  # rows whose segmentations are averaged; a round goes on from the last of them
    "scratch_round": ["scratch"],
    "label_efficient_round": ["scratch", "label_efficient_guided", "label_efficient"],
}
ROUNDS["label_efficient_round_contrast"] = ROUNDS["label_efficient_round"]
SHARED = {  # the file of a stage that is the same for several rows of a seed, and settings that do not matter to it
    LOCAL: ("global.pt", {"sampler", "labelled", "local_epochs"}),
    EFFICIENT: ("pretrain.pt", {"max_epochs"}),
}
MEAN_STRENGTH = 0.73  # of the bundle's strengths, with thirds of the pixels in each tier
BORROWED = {
    "_target_": "benchmarks.landmark_matching.BorrowedInformationd",
    "keys": "image",
    "images": "$[item['image'] for item in @datalist]",
    "preprocessing": "$@preprocessing_transforms",
    "information": "$@information_transforms",
}
USUAL = {  # as the bundle changes labelled images, in one transform
    "_target_": "monai.transforms.Compose",
    "transforms": [
        {"_target_": "monai.transforms.RandScaleIntensityd", "keys": "changed", "prob": 0.5, "factors": 0.25},
        {"_target_": "monai.transforms.RandShiftIntensityd", "keys": "changed", "prob": 0.5, "offsets": 0.1},
        {"_target_": "monai.transforms.RandAdjustContrastd", "keys": "changed", "prob": 0.5, "gamma": [0.7, 1.5]},
        {"_target_": "monai.transforms.RandGaussianNoised", "keys": "changed", "prob": 0.5, "std": 0.05},
    ],
}
UNLABELLED = "$[item for item in @datalist if 'label' not in item]"  # of the training cases


def row(name: str, epochs: int, max_epochs: int) -> tuple[str | None, dict[str, Any]]:
    """Overlay of a row, and its settings, for epochs of pre-training and of fine-tuning."""
    samplers = "monai_infoaug.samplers."
    drawn = {"_target_": f"{samplers}DrawnPixels", "pixels_per_image": 1000, "seed": "@seed"}
    pretrain, short = {"pretrain_epochs": epochs}, {"max_epochs": max(1, max_epochs // 3)}
    local = {"global_epochs": epochs, "local_epochs": epochs}
    attention = {"contrast_epochs": epochs, "coarse_epochs": "@max_epochs"}
    rows = {
        "scratch": (None, {}),
        "scratch_double": (None, {"max_epochs": 2 * max_epochs}),
        "scratch_long": (None, {"max_epochs": 4 * max_epochs}),
        "scratch_short": (None, short),
        "scratch_round": (None, {}),
        "tiers": (None, {"tier_intensity": True}),
        "uniform": (None, {"tier_intensity": True, "strengths": [1.0, 1.0, 1.0]}),
        "label_efficient": (EFFICIENT, pretrain),
        "label_efficient_guided": (EFFICIENT, pretrain | {"shares": SHARES}),
        "label_efficient_short": (EFFICIENT, pretrain | short),
        "label_efficient_guided_short": (EFFICIENT, pretrain | short | {"shares": SHARES}),
        "label_efficient_cross": (EFFICIENT, pretrain | {"scope": "cross"}),
        "label_efficient_round": (None, {}),
        "label_efficient_round_contrast": (EFFICIENT, pretrain),
        "global": (LOCAL, local | {"local_epochs": 0}),
        "local_contrast": (LOCAL, local),
        "local_contrast_stride": (LOCAL, local | {"sampler": {"_target_": f"{samplers}StridePixels", "stride": 4}}),
        "local_contrast_drawn": (LOCAL, local | {"sampler": drawn}),
        "local_contrast_guided": (LOCAL, local | {"sampler": drawn | {"shares": SHARES}}),
        "segmenter_mask": (SEGMENTER, {"decoder": "mask"}),
        "segmenter_linear": (SEGMENTER, {"decoder": "linear"}),
        "attention": (ATTENTION, attention),
        "attention_uniform": (ATTENTION, attention | {"intensity#strengths": [1.0, 1.0, 1.0]}),
        "attention_tuned": (ATTENTION, attention | {"frozen": False}),
        "consistency": (CONSISTENCY, {}),
        "consistency_guided": (CONSISTENCY, {"shares": SHARES}),
        "consistency_uniform": (CONSISTENCY, {"strengths": [MEAN_STRENGTH] * 3}),
        "consistency_shuffled": (CONSISTENCY, {"unlabelled#information_transforms": [BORROWED]}),
        "consistency_usual": (CONSISTENCY, {"unlabelled#intensity": USUAL}),
        "attention_alone": (ATTENTION, attention | {"frozen": False, "contrast_epochs": 0}),
    }
    if name not in rows:
        raise refusal("rows", repr(name), f"among {', '.join(rows)}")
    return rows[name]


class Segmentation:
    """Trainings and their results.

    Args:
        data: folder with ``images`` and ``labels`` or ``masks``.
        settings: settings of the bundle that all rows share.
        epochs: epochs of each stage of pre-training.
        out: folder of the results.
        until: time from when on no training is begun, None: never.
    """

    def __init__(
        self, data: Path, settings: Mapping[str, Any], epochs: int, out: Path, until: float | None = None
    ) -> None:
        labels = next((data / name for name in ("labels", "masks") if (data / name).is_dir()), None)
        if labels is None:
            raise refusal("data", f"'{data}'", "a folder with `images`, and `labels` or `masks`")
        self.settings, self.epochs, self.out, self.until = dict(settings), epochs, out, until
        self.places = {"dataset_dir": str(data / "images"), "labels_dir": str(labels)}

    def __call__(self, name: str, labelled: float | int, seed: int) -> dict[str, Any] | None:
        """``dice`` and ``hausdorff`` (cases, classes) of a row, and ``seconds``; None where time was over."""
        if not all(self(other, labelled, seed) for other in ROUNDS.get(name, [])):
            return None
        overlay, own = row(name, self.epochs, self.settings["max_epochs"])
        settings = self.settings | own | {"labelled": labelled, "seed": seed}
        folder = self._folder(name, labelled, seed)
        return kept_result(folder, settings, partial(self._make, name, overlay, settings, folder), self.until)

    def all_of(self, names: Sequence[str], labelled: float | int, seed: int) -> dict[str, dict[str, Any] | None]:
        """Results of rows, one after the other: a round needs the row before it."""
        return {name: self(name, labelled, seed) for name in names}

    def _folder(self, name: str, labelled: float | int, seed: int) -> Path:
        return self.out / name / str(labelled) / str(seed)

    def _make(self, name: str, overlay: str | None, settings: dict[str, Any], folder: Path) -> dict[str, Any]:
        configs = ["train"] if overlay is None else ["train", overlay]
        run, more = partial(run_bundle, BUNDLE, *configs, **settings, **self.places), {}
        start = time.perf_counter()
        if overlay in SHARED and name not in ROUNDS:
            self._share(*SHARED[overlay], settings, folder)
        if name in ROUNDS:
            folders = [self._folder(other, settings["labelled"], settings["seed"]) for other in ROUNDS[name]]
            checkpoints = [str(made / "checkpoint.pt") for made in folders]
            more = {"init_checkpoint": checkpoints[-1], "pseudo_labels": str(folder / "labels")}
            of_round = {"results_dir": more["pseudo_labels"], "checkpoints": checkpoints, "dataset#data": UNLABELLED}
            run("inference", folder=folder, **of_round)
        run(folder=folder, **more)
        seconds = time.perf_counter() - start
        run("evaluate", folder=folder)
        tables = {"dice": "mean_dice", "hausdorff": "hausdorff_95_mm"}
        found = {key: read_table(folder / "evaluation" / f"{table}_raw.csv") for key, table in tables.items()}
        return found | {"seconds": seconds}

    def _share(self, stage: str, other: set[str], settings: Mapping[str, Any], folder: Path) -> None:
        """Copy a stage from a row with the same settings but for ``other`` ones."""

        def of_stage(folder: Path) -> dict[str, Any]:
            kept = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
            return {key: value for key, value in kept.items() if key not in other}

        for made in self.out.glob(f"*/*/{settings['seed']}/{stage}"):
            of_round = made.parts[-4] in ROUNDS  # by other labels
            if not of_round and of_stage(made.parent) == of_stage(folder) and not (folder / stage).exists():
                shutil.copy(made, folder)


def read_table(path: Path) -> list[list[float]]:
    """Values (cases, classes) of a table that ``ClassMetricsSaver`` wrote."""
    with path.open(newline="", encoding="utf-8") as file:
        return [[float(row[key]) for key in row if key not in ("filename", "mean")] for row in csv.DictReader(file)]


def summary(name: str, labelled: float | int, results: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> dict:
    """A row of the table; a class that was not found at all has no distance."""
    dice = np.array([result["dice"] for result in results])  # (seeds, cases, classes)
    distance = np.array([result["hausdorff"] for result in results])
    means = dice.mean((1, 2))
    return {
        "row": name,
        "labelled": labelled,
        "dice": round(float(means.mean()), 4),
        "sd_of_seeds": round(float(means.std(ddof=1)), 4) if len(means) > 1 else None,
        "dice_by_class": dict(zip(classes, dice.mean((0, 1)).round(4).tolist(), strict=True)),
        "hausdorff_95_mm": round(float(distance[np.isfinite(distance)].mean()), 3),
        "not_found": int((~np.isfinite(distance)).sum()),
        "seconds": round(float(np.mean([result["seconds"] for result in results]))),
    }


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    print(f"\n{'':26}{'labelled':>9}{'Dice':>8}{'SD':>8}{'HD95 mm':>9}{'s':>7}   Dice by class")
    for r in rows:
        spread = "" if r["sd_of_seeds"] is None else f"{r['sd_of_seeds']:.4f}"
        parts = ", ".join(f"{name} {value:.3f}" for name, value in r["dice_by_class"].items())
        print(
            f"{r['row']:26}{r['labelled']:>9}{r['dice']:8.4f}{spread:>8}{r['hausdorff_95_mm']:9.2f}{r['seconds']:7}"
            f"   {parts}"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and evaluate what is missing, then print the table and a JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with images and labels, see above")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of a row (%(default)s)")
    parser.add_argument("--budget", choices=BUDGETS, default="small")
    parser.add_argument("--fractions", default="", help="per cent of the training cases that are labelled: 5,10")
    parser.add_argument("--numbers", default="", help="or how many are: 5,10,20")
    parser.add_argument(
        "--rows",
        default="scratch,label_efficient,label_efficient_guided,label_efficient_round,local_contrast_drawn,"
        "local_contrast_guided,scratch_short,label_efficient_short,label_efficient_guided_short",
        help="separated by commas (%(default)s)",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/label_efficiency"), help="results (%(default)s)")
    jobs = 1 if torch.cuda.is_available() else 2
    parser.add_argument("--jobs", type=int, default=jobs, help="trainings side by side (%(default)s)")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=JSON", help="other settings of the bundle")
    parser.add_argument("--minutes", type=float, help="begin no training after so many; default: 110 if small")
    parser.add_argument("--epochs", type=int, help="of each stage of pre-training; default: of the budget")
    options = parser.parse_args(arguments)
    require_positive(options, "seeds", "jobs")
    shares = [float(share) / 100 for share in options.fractions.split(",") if share]
    amounts = [*shares, *(int(number) for number in options.numbers.split(",") if number)]
    if not amounts:
        raise refusal("fractions", repr(options.fractions), "per cent, or `numbers` given")
    start, names = time.perf_counter(), options.rows.split(",")
    settings, epochs = BUDGETS[options.budget]
    settings = DATASETS.get(options.data.resolve().name, {}) | settings | SPLIT
    settings |= named(options.set)
    epochs = epochs if options.epochs is None else options.epochs
    for name in names:
        row(name, epochs, settings["max_epochs"])  # before any work is lost
    out = options.out / options.data.resolve().name / options.budget
    segmentation = Segmentation(options.data, settings, epochs, out, end_of(options.minutes, options.budget))
    if "classes" not in settings:
        raise refusal("set", options.set, f"with `classes` for a folder that is none of {list(DATASETS)}")
    calls = [(names, amount, seed) for seed in range(options.seeds) for amount in amounts]
    rounds = zip(calls, side_by_side(segmentation.all_of, calls, options.jobs), strict=True)
    results = {(name, *call[1:]): made[name] for call, made in rounds for name in names}
    seeds = [s for s in range(options.seeds) if all(results[name, amount, s] for name in names for amount in amounts)]
    if len(seeds) < options.seeds:
        print(f"Complete: {len(seeds)} of {options.seeds} seeds. Run the same command again to go on.")
    if not seeds:
        return

    table, differences = [], {}
    for amount in amounts:
        made = {name: [results[name, amount, seed] for seed in seeds] for name in names}
        table += [summary(name, amount, made[name], settings["classes"]) for name in names]
    print_table(table)
    for amount in amounts:
        print(f"\nDice, labelled: {amount}")
        dice = {n: np.array([results[n, amount, seed]["dice"] for seed in seeds]) for n in names}
        pairs = [(name, "scratch_short" if name.endswith("_short") else names[0]) for name in names[1:]]
        pairs += [(f"{n}_guided", f"{n}{end}") for n in ("label_efficient", "local_contrast") for end in ("", "_drawn")]
        pairs += [("label_efficient_guided_short", "label_efficient_short"), ("scratch_short", "scratch")]
        for name, other in pairs:
            if name != other and {name, other} <= set(names):
                differences[f"{amount}: {name} - {other}"] = print_difference(name, other, dice, "", 4)
                for i, kind in enumerate(settings["classes"]):
                    gain, low, high = paired_interval(dice[name][..., i : i + 1], dice[other][..., i : i + 1])
                    print(f"    {kind}: {gain:+.4f} ({low:+.4f} to {high:+.4f})")
                    differences[f"{amount}: {name} - {other}, {kind}"] = (gain, low, high)
    minutes = (time.perf_counter() - start) / 60
    print(f"\n{len(seeds)} seeds x {len(next(iter(dice.values()))[0])} cases; {minutes:.1f} minutes.")
    about = {"benchmark": "label_efficiency", "data": options.data.resolve().name, "budget": options.budget}
    print(json.dumps(about | {"table": table, "differences": differences}))


if __name__ == "__main__":
    main()
