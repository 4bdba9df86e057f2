"""What is one label map worth? ``python -m benchmarks.annotate_labels --data DIR``.

One training image, the template, has a label map, and all others have none. Rows, by Dice on the same test cases:

- ``copied``: the template's label map, the images' millimetres laid on each other.
- ``unet``: the bundle segmentation, trained on the template alone with MONAI's usual changes of intensity, and turned,
  scaled and cropped at random, for as many steps as ``annotate`` in all of its rounds.
- ``bspline``: the template's label map carried by B-spline registration, SimpleITK, by mutual information.
- ``propagation``: carried by a network that has learnt from the training images without labels, as the second stage of
  ``monai-infoaug annotate --labels`` does; no training on labels.
- ``annotate``: rounds of the bundle segmentation on the template's label map and those that were carried to training
  images, as the stages after it do in volumes.

The folder has ``images`` and ``labels`` (or ``masks``). Every fourth case is for testing; no network sees its image,
and no label but the templates' is read in training. The pre-training of a seed serves all templates.

Each result is kept. After ``--minutes`` no other one is begun: the table then has the templates and seeds that are
complete, and the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from monai.data import MetaTensor

from benchmarks._baselines import register
from benchmarks._runs import end_of, kept_result, named, print_difference, require_positive, run_bundle
from benchmarks.label_efficiency import DATASETS
from monai_infoaug._require import refusal
from monai_infoaug.commands._classes import Classes
from monai_infoaug.commands._embedding import Embedder
from monai_infoaug.commands._label_files import onto_grid, read_labels, read_on_grid
from monai_infoaug.commands._label_maps import LabelCarrier, LabelPredictor, segment_each
from monai_infoaug.commands._label_stages import Round, learn_in_rounds
from monai_infoaug.commands._records import key_of
from monai_infoaug.commands._survey import link_images
from monai_infoaug.data import image_name

ROWS = ("copied", "unet", "bspline", "propagation", "annotate")
PRETRAINING: dict[str, tuple[str, dict[str, Any]]] = {  # by the name of the folder
    "jsrt": ("landmark_pretraining", {"batch_size": 2, "max_epochs": 5}),
    # as `annotate` plans it: volumes of few voxels are worked at twice as finely
    "hippocampus": (
        "landmark_matching_3d",
        {"working_pixdim": 0.5, "global_scale": 2, "num_points": 300, "max_epochs": 6},
    ),
}
GRIDS = sitk.CenteredTransformInitializerFilter.GEOMETRY
REGISTRATION: dict[str, dict[str, Any]] = {  # as that of radiographs in `_baselines`; finer where there are few voxels
    "jsrt": {"centring": GRIDS, "shares": (0.5, 0.5), "cell": 60, "shrink": (8, 4, 2), "iterations": 50},
    # of the hippocampi, by six training cases and three templates: with `coarse` (4, 2, 1) or (2, 1) the Dice is lower
    # by .006 and .004
    "hippocampus": {
        "centring": GRIDS,
        "coarse": (4, 2),
        "shares": (0.5, 0.5),
        "cell": 10,
        "shrink": (2, 1),
        "iterations": 20,
    },
}
SHARED = ("modality", "pixdim", "working_pixdim")
POOL = 60  # training images that label maps are carried to


class Data:
    """Images with their label maps, split by case.

    Args:
        folder: with ``images``, and ``labels`` or ``masks``.
    """

    def __init__(self, folder: Path) -> None:
        labels = next((folder / name for name in ("labels", "masks") if (folder / name).is_dir()), None)
        if labels is None or folder.name not in DATASETS:
            accepted = f"a folder {' or '.join(DATASETS)} with `images`, and `labels` or `masks`"
            raise refusal("data", f"'{folder}'", accepted)
        self.name = folder.name
        self.settings = {name: value for name, value in DATASETS[folder.name].items() if name != "patch_size"}
        images = sorted((folder / "images").iterdir())
        self.test = images[3::4]
        self.train = [image for image in images if image not in self.test]
        self.labels = {image: labels / image.name for image in images}
        names, bits = self.settings["classes"], self.settings["label_bits"]
        self.classes = Classes(tuple(names), tuple(bits or range(1, len(names) + 1)), bits is not None)

    def read(self, image: Path) -> MetaTensor:
        return read_on_grid(image, self.settings["pixdim"])

    def label(self, image: Path) -> MetaTensor:
        return read_labels(self.labels[image], self.settings["pixdim"])

    def dice(self, image: Path, found: torch.Tensor) -> list[float]:
        """Of each class; 1 where a class is neither there nor found."""
        masks, truth = self.classes.masks(found).flatten(1), self.classes.masks(self.label(image)).flatten(1)
        both, either = (masks & truth).sum(1), masks.sum(1) + truth.sum(1)
        return torch.where(either > 0, 2 * both / either.clamp_min(1), 1.0).tolist()


class Rows:
    """Results of the rows for one template and one seed.

    Args:
        data: images and label maps.
        template: training image whose label map is known.
        seed: of the trainings.
        out: folder of the results.
        settings: ``epochs`` of a round, number of ``rounds``, ``pool`` of images, settings of the ``pretraining``.
    """

    def __init__(self, data: Data, template: Path, seed: int, out: Path, settings: Mapping[str, Any]) -> None:
        self.data, self.template, self.seed, self.settings = data, template, seed, settings
        self.pretrained = out / "pretraining" / str(seed)
        self.folder = out / image_name(template) / str(seed)

    def __call__(self, row: str, until: float | None) -> dict[str, Any] | None:
        """``dice`` (cases, classes) of a row and its ``seconds``; None where time was over."""
        own: dict[str, Callable[[], Callable[[Path], torch.Tensor]]] = {
            "copied": lambda: self._copied,
            "unet": self._unet,
            "bspline": lambda: self._registered,
            "propagation": lambda: lambda path: self._carrier(path).labels,
            "annotate": self._annotated,
        }
        made_of = {"row": row, "template": self.template.name, "seed": self.seed, **self.settings}
        return kept_result(self.folder / row, made_of, partial(self._make, own[row]), until)

    def _make(self, start: Callable[[], Callable[[Path], torch.Tensor]]) -> dict[str, Any]:
        begun = time.perf_counter()
        segment = start()
        trained = time.perf_counter() - begun
        dice = [self.data.dice(path, segment(path)) for path in self.data.test]
        return {"dice": dice, "training": trained, "seconds": time.perf_counter() - begun}

    def _copied(self, path: Path) -> torch.Tensor:
        """The middles of the grids on each other."""
        label, grid = self.data.label(self.template).clone(), self.data.read(path)
        dims = grid.ndim - 1
        middles = [
            image.affine[:dims, :dims] @ ((torch.tensor(image.shape[1:]).double() - 1) / 2) + image.affine[:dims, -1]
            for image in (label, grid)
        ]
        label.affine[:dims, -1] += middles[1] - middles[0]
        return onto_grid(label, grid)

    def _registered(self, path: Path) -> torch.Tensor:
        fixed, moving = (sitk.GetImageFromArray(self.data.read(each)[0].numpy().T) for each in (path, self.template))
        label = sitk.GetImageFromArray(self.data.label(self.template)[0].numpy().T)
        for image in (fixed, moving, label):
            image.SetSpacing(self.data.read(path).pixdim.tolist()[: image.GetDimension()])
        *_, (_, transform) = register(
            *(sitk.Cast(image, sitk.sitkFloat32) for image in (fixed, moving)), **REGISTRATION[self.data.name]
        )
        found = sitk.Resample(label, fixed, transform, sitk.sitkNearestNeighbor)
        return torch.from_numpy(sitk.GetArrayFromImage(found).T.copy())[None]

    def _unet(self) -> Callable[[Path], torch.Tensor]:
        """As many steps as all rounds of the row annotate have."""
        return self._learn("unet", [self.template], None, 1, self.settings["rounds"] * self.settings["epochs"])

    def _learn(
        self, row: str, images: Sequence[Path], carried: Path | None, rounds: int, epochs: int
    ) -> Callable[[Path], torch.Tensor]:
        """What segments an image by a network that has learnt in rounds."""
        names, sure = {path: image_name(path) for path in images}, image_name(self.template)
        folders = [self.folder / row / f"{number}_round" for number in range(1, rounds + 1)]
        stages = [Round(folder, self._segmentation(epochs)) for folder in folders]
        learn_in_rounds(stages, names, {sure: self.data.labels[self.template]}, carried, self.data.classes)
        predict = LabelPredictor([folders[-1] / "checkpoint.pt"], self.data.classes)
        return lambda path: predict(path).labels

    def _segmentation(self, epochs: int) -> dict[str, Any]:
        """Settings of the bundle segmentation."""
        own = self.data.settings | {"seed": self.seed, "num_workers": 0, "max_epochs": epochs}
        return {name: value for name, value in own.items() if name not in ("classes", "label_bits")}

    @cached_property
    def _carrier(self) -> LabelCarrier:
        bundle, own = PRETRAINING[self.data.name]
        checkpoint = self.pretrained / "checkpoint.pt"
        shared = {name: self.data.settings[name] for name in SHARED} | own | self.settings["pretraining"]
        if not (self.pretrained / "done").exists():
            images = link_images({path: image_name(path) for path in self.data.train}, self.pretrained / "images")
            given = {"seed": self.seed, "num_workers": 0, "val_interval": 10**6, "dataset_dir": str(images)}
            run_bundle(bundle, "train", folder=self.pretrained, **shared, **given)
            (self.pretrained / "done").touch()
        carrier = LabelCarrier(
            Embedder(checkpoint, settings={"pixdim": self.data.settings["pixdim"]}), self.data.classes
        )
        carrier.add(self.template, self.data.labels[self.template])
        return carrier

    def _annotated(self) -> Callable[[Path], torch.Tensor]:
        others = [path for path in self.data.train if path != self.template]
        count = self.settings["pool"]
        pool = others[:: max(1, len(others) // count)][:count]
        images, carried = [self.template, *pool], self.folder / "annotate" / "carried"
        names = {path: image_name(path) for path in images}
        segment_each(self._carrier, names, carried, key_of(self.pretrained / "checkpoint.pt"))
        return self._learn("annotate", images, carried, self.settings["rounds"], self.settings["epochs"])


def print_table(found: Mapping[str, np.ndarray], seconds: Mapping[str, float], classes: Sequence[str]) -> list[dict]:
    """Print a row each, and return them."""
    table = []
    print(f"\n{'':14}{'Dice':>8}{'SD of templates':>17}{'training s':>12}   Dice by class")
    for row, dice in found.items():  # (templates, seeds, cases, classes)
        means, parts = dice.mean((1, 2, 3)), dict(zip(classes, dice.mean((0, 1, 2)).round(4).tolist(), strict=True))
        spread = float(means.std(ddof=1)) if len(means) > 1 else float("nan")
        text = ", ".join(f"{name} {value:.3f}" for name, value in parts.items())
        print(f"{row:14}{means.mean():8.4f}{spread:17.4f}{seconds[row]:12.0f}   {text}")
        table.append({"row": row, "dice": round(float(means.mean()), 4), "by_class": parts, "training": seconds[row]})
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    """Make what is missing, then print the table and a JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, required=True, help=f"folder: {', '.join(DATASETS)}, see above")
    parser.add_argument("--templates", default="", help="names, separated by commas (three of the training cases)")
    parser.add_argument("--seeds", type=int, default=1, help="trainings of a row (%(default)s)")
    parser.add_argument("--rows", default=",".join(ROWS), help="separated by commas (%(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="rounds of the row annotate (%(default)s)")
    parser.add_argument("--epochs", type=int, default=12, help="of 50 steps, of a round and of unet (%(default)s)")
    parser.add_argument("--pool", type=int, default=POOL, help="images that label maps are carried to (%(default)s)")
    parser.add_argument("--test", type=int, help="take so many of the test cases (all)")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=JSON", help="settings of the pre-training")
    parser.add_argument("--minutes", type=float, help="begin no row after so many (110)")
    parser.add_argument("--out", type=Path, default=Path("runs/annotate_labels"), help="results (%(default)s)")
    options = parser.parse_args(arguments)
    require_positive(options, "seeds", "rounds", "epochs", "pool")
    rows = options.rows.split(",")
    for row in rows:
        if row not in ROWS:
            raise refusal("rows", repr(row), f"among {', '.join(ROWS)}")
    data, until = Data(options.data.resolve()), end_of(options.minutes, "small")
    known = {image_name(path): path for path in data.train}
    names = options.templates.split(",") if options.templates else list(known)[5 :: len(known) // 3][:3]
    for name in names:
        if name not in known:
            raise refusal("templates", repr(name), f"training cases, such as {', '.join(list(known)[:3])}")
    data.test = data.test[: options.test]
    settings = {
        "epochs": options.epochs,
        "rounds": options.rounds,
        "pool": options.pool,
        "test": len(data.test),
        "pretraining": named(options.set),
    }
    results = {
        (name, seed, row): Rows(data, known[name], seed, options.out / data.name, settings)(row, until)
        for seed in range(options.seeds)
        for name in names
        for row in rows
    }
    seeds = [s for s in range(options.seeds) if all(results[name, s, row] for name in names for row in rows)]
    if len(seeds) < options.seeds:
        print(f"Complete: {len(seeds)} of {options.seeds} seeds. Run the same command again to go on.")
    if not seeds:
        return
    made: dict[str, Any] = {row: [[results[name, seed, row] for seed in seeds] for name in names] for row in rows}
    found = {row: np.array([[each["dice"] for each in own] for own in made[row]]) for row in rows}
    seconds = {row: float(np.mean([[each["training"] for each in own] for own in made[row]])) for row in rows}
    table = print_table(found, seconds, data.classes.names)
    flat = {row: dice.reshape(-1, *dice.shape[2:]) for row, dice in found.items()}
    pairs = [(rows[-1], other) for other in rows[:-1]]
    differences = {f"{row} - {other}": print_difference(row, other, flat, "", 4) for row, other in pairs}
    about = {"benchmark": "annotate_labels", "data": data.name, "templates": names, "seeds": len(seeds)}
    print(json.dumps(about | {"table": table, "differences": differences}))


if __name__ == "__main__":
    main()
