"""How far is the bundle segmentation from nnU-Net at equal time? ``python -m benchmarks.nnunet --data DIR``.

Both learn from the same labelled cases for as many minutes on this machine, and are tested on the same cases:

- ``nnunet``: nnU-Net 2 [1] as it plans for the labelled cases, all of which it learns from. Only its length is ours: as
  many epochs as the minutes allow, within which its learning rate falls to zero.
- ``nnunet_pretrained``: the same, a third of the minutes spent on ``monai-infoaug pretrain`` before, with all training
  images and without labels.
- ``ours``: the row ``scratch`` of ``benchmarks.label_efficiency``, with as many epochs as the minutes allow.

The time of a step is measured before. It is not counted, nor are planning, preprocessing, caching and inference. The
folder is one of volumes that ``benchmarks.label_efficiency`` knows. Each result is kept, and the same command goes on.
It needs the extra ``nnunet`` and the package ``nnunetv2``.

References:
    1. Isensee et al., "nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation",
       Nature Methods 18, 2021.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from monai.metrics import compute_dice, compute_hausdorff_distance
from monai.networks.utils import one_hot

from benchmarks._runs import alone, end_of, kept_result, named, print_difference, require_positive, run_bundle
from benchmarks.label_efficiency import BUDGETS, BUNDLE, DATASETS, SPLIT, Segmentation, print_table, summary
from monai_infoaug._require import refusal
from monai_infoaug.commands.export import export_weights
from monai_infoaug.commands.pretrain import pretrain_network
from monai_infoaug.data import image_name, segmentation_datalist

ROWS = ("nnunet", "nnunet_pretrained", "ours")
DATASET, CONFIGURATION = "Dataset001_Cases", "3d_fullres"
STEPS = 10  # an epoch of nnU-Net and of its pre-training
PRETRAINING = 1 / 3  # of the minutes


class Comparison:
    """Results of the rows.

    Args:
        data: folder with ``images`` and ``labels``.
        settings: of the bundle.
        minutes: of each training.
        out: folder of the results.
        until: time from when on no training is begun, None: never.
    """

    def __init__(
        self, data: Path, settings: Mapping[str, Any], minutes: float, out: Path, until: float | None = None
    ) -> None:
        self.data, self.settings, self.minutes, self.out, self.until = data, dict(settings), minutes, out, until
        every = {name: SPLIT[name] for name in ("test_every", "val_every")}
        self.cases = partial(segmentation_datalist, data / "images", data / "labels", **every)

    def __call__(self, row: str, labelled: int, seed: int) -> dict[str, Any] | None:
        """``dice`` and ``hausdorff`` (cases, classes) of a row, ``seconds`` and ``steps``; None where time was over."""
        folder = self.out / row / str(labelled) / str(seed)
        about = self.settings | {"minutes": self.minutes, "labelled": labelled, "seed": seed}
        make = partial(self._ours, labelled, seed, folder)
        if row != "ours":
            make = partial(self._nnunet, PRETRAINING if row == "nnunet_pretrained" else 0, labelled, seed, folder)
        return kept_result(folder, about, make, self.until)

    def _ours(self, labelled: int, seed: int, folder: Path) -> dict[str, Any]:
        places = {"dataset_dir": str(self.data / "images"), "labels_dir": str(self.data / "labels")}
        given = self.settings | {"labelled": labelled, "seed": seed, **places}

        def run(epochs: int) -> None:
            run_bundle(BUNDLE, "train", folder=folder / f"{epochs}_timed", **given | {"max_epochs": epochs})

        epochs = epochs_within(60 * self.minutes, run)
        made = Segmentation(self.data, self.settings | {"max_epochs": epochs}, 0, folder)
        steps = epochs * -(-self.settings["samples_per_epoch"] // self.settings["batch_size"])
        return (made("scratch", labelled, seed) or {}) | {"steps": steps}

    def _nnunet(self, share: float, labelled: int, seed: int, folder: Path) -> dict[str, Any]:
        known = self.cases(part="train", labelled=labelled, seed=seed)
        tested = self.cases(part="test")
        write_dataset(folder / "raw", [item for item in known if "label" in item], self.settings["classes"])
        images = [Path(item["image"]) for item in known]
        queries = [Path(item["image"]) for item in tested]
        made = alone(partial(train_nnunet, folder, images, queries, self.minutes, share, seed))
        measured = [self._measured(Path(item["label"]), folder / "found") for item in tested]
        return made | {key: [each[key] for each in measured] for key in ("dice", "hausdorff")}

    def _measured(self, label: Path, found: Path) -> dict[str, list[float]]:
        """``dice`` and ``hausdorff``, 95 % and in mm, of each class."""
        truth, mask = (sitk.ReadImage(file) for file in (label, found / f"{image_name(label)}.nii.gz"))
        number, spacing = 1 + len(self.settings["classes"]), truth.GetSpacing()[::-1]
        y, pred = (
            one_hot(torch.tensor(sitk.GetArrayFromImage(each).astype(int))[None, None], number)
            for each in (truth, mask)
        )
        dice = compute_dice(pred, y, include_background=False)
        distance = compute_hausdorff_distance(pred, y, percentile=95, spacing=spacing)
        return {"dice": dice[0].tolist(), "hausdorff": distance[0].tolist()}


def timed(call: Callable[..., Any], *arguments: Any) -> float:
    """Seconds of a call."""
    start = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - start


def epochs_within(seconds: float, run: Callable[[int], Any]) -> int:
    """How many epochs take so long, at least one, by what two of them take longer than one."""
    one, two = (timed(run, epochs) for epochs in (1, 2))
    return max(1, int(seconds / max(two - one, 0.01)))


def write_dataset(raw: Path, items: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> None:
    """Labelled volumes as nnU-Net wants them."""
    folder = raw / DATASET
    for kind in ("imagesTr", "labelsTr"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for item in items:
        name = image_name(item["image"])
        sitk.WriteImage(sitk.ReadImage(item["image"]), folder / "imagesTr" / f"{name}_0000.nii.gz")
        sitk.WriteImage(sitk.ReadImage(item["label"]), folder / "labelsTr" / f"{name}.nii.gz")
    labels = {"background": 0} | {name: value for value, name in enumerate(classes, 1)}
    about = {"channel_names": {"0": "MRI"}, "labels": labels, "numTraining": len(items), "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(about), encoding="utf-8")


def train_nnunet(
    folder: Path, images: Sequence[Path], tested: Sequence[Path], minutes: float, share: float, seed: int
) -> dict[str, Any]:
    """Let nnU-Net plan and train in this process, and segment images in ``found``.

    Args:
        folder: of the run, with the data set in ``raw``.
        images: that are pre-trained with.
        tested: images that are segmented.
        minutes: of all trainings.
        share: of the minutes, for pre-training.
        seed: of all trainings.

    Returns:
        ``seconds`` of training, and ``steps`` of nnU-Net.
    """
    os.environ |= {f"nnUNet_{name}": str(folder / name) for name in ("raw", "preprocessed", "results")}
    subprocess.run(
        ["nnUNetv2_plan_and_preprocess", "-d", "1", "-c", CONFIGURATION, "-np", "1", "-npfp", "1"], check=True
    )
    os.environ |= {"nnUNet_compile": "f", "nnUNet_n_proc_DA": "0"}
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    preprocessed, device = folder / "preprocessed" / DATASET, torch.device("cpu")
    plans = preprocessed / "nnUNetPlans.json"

    def trainer(epochs: int) -> Any:
        torch.manual_seed(seed)
        np.random.seed(seed)  # which nnU-Net draws from
        told = json.loads(plans.read_text(encoding="utf-8")) | {"continue_training": False}
        about = json.loads((preprocessed / "dataset.json").read_text(encoding="utf-8"))
        made = nnUNetTrainer(told, CONFIGURATION, "all", about, device=device)
        made.num_epochs, made.num_iterations_per_epoch, made.num_val_iterations_per_epoch = epochs, STEPS, 1
        made.disable_checkpointing = True
        made.initialize()
        return made

    seconds, weights = 0.0, None
    if share:
        run = partial(pretrain_network, images, plans, CONFIGURATION, iterations=STEPS, seed=seed, num_workers=0)
        measured = lambda epochs: run(out=folder / f"{epochs}_timed", epochs=epochs)  # noqa: E731
        epochs = epochs_within(60 * minutes * share, measured)
        seconds = timed(partial(run, out=folder / "pretraining", epochs=epochs))
        weights = folder / "pretrained.pth"
        export_weights(folder / "pretraining" / "checkpoint.pt", "nnunet", weights)
    epochs = epochs_within(60 * minutes * (1 - share), lambda epochs: trainer(epochs).run_training())
    training = trainer(epochs)
    if weights is not None:
        load_pretrained_weights(training.network, str(weights))
    seconds += timed(training.run_training)

    training.set_deep_supervision_enabled(False)
    predictor = nnUNetPredictor(device=device, perform_everything_on_device=False, allow_tqdm=False)
    state, mirrored = training.network.state_dict(), training.inference_allowed_mirroring_axes
    managers = training.plans_manager, training.configuration_manager
    predictor.manual_initialization(
        training.network, *managers, [state], training.dataset_json, "nnUNetTrainer", mirrored
    )
    (folder / "found").mkdir(exist_ok=True)
    out = [str(folder / "found" / image_name(path)) for path in tested]
    predictor.predict_from_files_sequential([[str(path)] for path in tested], out)
    return {"seconds": seconds, "steps": epochs * STEPS}


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and evaluate what is missing, then print the table and a JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with images and labels, see above")
    parser.add_argument("--numbers", default="7", help="how many cases are labelled: 7,13 (%(default)s)")
    parser.add_argument("--minutes-of-training", type=float, default=10, metavar="MINUTES", help="(%(default)s)")
    parser.add_argument("--seeds", type=int, default=1, help="trainings of a row (%(default)s)")
    parser.add_argument("--rows", default=",".join(ROWS), help="separated by commas (%(default)s)")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=JSON", help="other settings of the bundle")
    parser.add_argument("--minutes", type=float, help="begin no training after so many (110)")
    parser.add_argument("--out", type=Path, default=Path("runs/nnunet"), help="results (%(default)s)")
    options = parser.parse_args(arguments)
    require_positive(options, "seeds")
    if not options.minutes_of_training > 0:
        raise refusal("minutes_of_training", options.minutes_of_training, "above 0")
    name, rows = options.data.resolve().name, options.rows.split(",")
    if DATASETS.get(name, {}).get("spatial_dims") != 3:
        raise refusal("data", f"'{options.data}'", "a folder of volumes: hippocampus")
    for row in rows:
        if row not in ROWS:
            raise refusal("rows", repr(row), f"among {', '.join(ROWS)}")
    settings = DATASETS[name] | BUDGETS["small"][0] | SPLIT | named(options.set)
    numbers, until = [int(number) for number in options.numbers.split(",")], end_of(options.minutes, "small")
    run = Comparison(options.data.resolve(), settings, options.minutes_of_training, options.out.resolve() / name, until)
    calls = [(row, number, seed) for seed in range(options.seeds) for number in numbers for row in rows]
    made = {call: run(*call) for call in calls}
    seeds = [s for s in range(options.seeds) if all(made[row, number, s] for number in numbers for row in rows)]
    if len(seeds) < options.seeds:
        print(f"Complete: {len(seeds)} of {options.seeds} seeds. Run the same command again to go on.")
    if not seeds:
        return
    table, differences = [], {}
    for number in numbers:
        results = {row: [made[row, number, seed] for seed in seeds] for row in rows}
        for row in rows:
            steps = round(np.mean([result["steps"] for result in results[row]]))
            table.append(summary(row, number, results[row], settings["classes"]) | {"steps": steps})
    print_table(table)
    for number in numbers:
        dice = {row: np.array([made[row, number, seed]["dice"] for seed in seeds]) for row in rows}
        for other in rows[1:]:
            differences[f"{number}: {other} - {rows[0]}"] = print_difference(other, rows[0], dice, "", 4)
    print(json.dumps({"benchmark": "nnunet", "data": name, "table": table, "differences": differences}))


if __name__ == "__main__":
    main()
