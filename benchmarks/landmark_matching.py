"""Does guidance by information help? Policies side by side: ``python -m benchmarks.landmark_matching --data DIR``.

Every policy pre-trains the network of the bundle ``landmark_pretraining`` on the same images, without labels, with the
same spatial changes, steps and seeds. The landmarks of one annotated template are then found in the test images. Only
the intensity changes and the sampling of the points differ:

- ``none``: no intensity change, points anywhere in the foreground (so too for the next four).
- ``weak``: brightness and contrast in the ranges of the published uniform baseline [1].
- ``strong``: brightness and contrast in the published ranges of the medium tier [2].
- ``uniform_S``: gamma curve, bias field, blur and noise (``"rich"``) of strength S, the same everywhere.
- ``best_uniform``: the best S, see below.
- ``entropy_sampling``: ``weak``, and points drawn in proportion to the information to the power 0.3 [2].
- ``tier_sampling``: ``best_uniform``, and points drawn by tier; ``shuffled_sampling``: by the tiers of another image.
- ``tier_intensity``: ``"rich"`` by tier, points anywhere.
- ``full``: ``"rich"`` by tier, and points drawn by tier; ``full_anchor`` and ``full_continuous`` in the other modes.
- ``shuffled``: ``full``, guided by the information of another image.
- ``calibrated``: ``full`` with what ``monai-infoaug calibrate`` finds in the training images.
- ``mochi``, ``unmix``: ``weak`` with mixed hard negatives [3], or with mixed images [4].
- ``copied``, ``daisy``, ``mind``, ``registration``: no network at all, see ``benchmarks/_baselines.py``.

The folder has images in ``train`` and ``test1`` (or another ``--test``), and ``train_landmarks_mm.csv`` and
``test1_landmarks_mm.csv``. The labels of the template alone are read from the former, those of the test images after
all landmarks are found. With ``--tune`` no test image is read: the last fifth of the training images is held out of
training, and tested on, with its labels. What this benchmark compares and the bundle's defaults were chosen so.

Each training goes on from its last epoch if it was stopped, and each result is kept.

References:
    1. Yao et al., "One-shot medical landmark detection", MICCAI 2021, arXiv:2107.04100.
    2. Quan et al., "IGU-Aug: information-guided unsupervised augmentation and pixel-wise contrastive learning for
       medical image analysis", IEEE TMI 44(1):154-164, 2025, arXiv:2211.07118.
    3. Kalantidis et al., "Hard negative mixing for contrastive learning", NeurIPS 2020, arXiv:2010.01028.
    4. Shen et al., "Un-Mix: rethinking image mixtures for unsupervised visual representation learning", AAAI 2022,
       arXiv:2003.05438.
"""

from __future__ import annotations

import argparse
import os
import re
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: its waiting threads take the loaders' time

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Compose, MapTransform, Resize
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks._baselines import CEPHALOGRAM_WAYS
from benchmarks._landmarks import Cases, common_options, print_end, print_table, summary
from benchmarks._runs import bundle_config, kept_result, named, print_difference, run_bundle, side_by_side
from monai_infoaug._require import refusal
from monai_infoaug.commands.calibration import calibrate
from monai_infoaug.handlers import load_weights
from monai_infoaug.inferers import LandmarkMatcher, to_voxels, to_world

BUNDLE = "landmark_pretraining"
BUDGETS = {  # settings of the bundle
    "small": {"batch_size": 2, "max_epochs": 12},  # two CPU cores
    "full": {"max_epochs": 120, "working_pixdim": 0.4, "view_size": [384, 448]},  # a GPU
}
BEST_STRENGTH = 0.25  # of a uniform change, of 0.25, 0.5 and 1 by --tune


def jitter(brightness: Sequence[float], contrast: Sequence[float]) -> dict[str, Any]:
    """Brightness and contrast by factors (low, high), cut to [0, 1], as those of images of 8 bits are."""
    steps = {
        "RandScaleIntensity": {"factors": [factor - 1 for factor in brightness], "prob": 1.0},
        "RandScaleIntensityFixedMean": {"factors": [factor - 1 for factor in contrast], "prob": 1.0},
        "ScaleIntensityRange": {"a_min": 0, "a_max": 1, "b_min": 0, "b_max": 1, "clip": True},
    }
    made = [{"_target_": f"monai.transforms.{name}", **arguments} for name, arguments in steps.items()]
    return {"_target_": "monai.transforms.Compose", "transforms": made}


def policy(name: str, out: Path) -> dict[str, Any]:
    """Settings of the bundle for a policy; ``out`` has the calibration file, or will have it."""
    anywhere = {"shares": None}
    weak = jitter((0.85, 1.15), (0.75, 1.25))
    policies = {
        "none": {"intensity": None, **anywhere},
        "weak": {"intensity": weak, **anywhere},
        "strong": {"intensity": jitter((0.505, 1.997), (0.340, 2.329)), **anywhere},
        "best_uniform": {"strengths": [BEST_STRENGTH] * 3, **anywhere},
        "entropy_sampling": {"intensity": weak, "gamma": 0.3, **anywhere},
        "tier_sampling": {"strengths": [BEST_STRENGTH] * 3},
        "shuffled_sampling": {"strengths": [BEST_STRENGTH] * 3, "information_transforms": [borrowed()]},
        "tier_intensity": anywhere,
        "full": {},
        "full_anchor": {"intensity#mode": "anchor"},
        "full_continuous": {"intensity#mode": "continuous", "strengths": None, "intensity#weights": [0.1, 0.3]},
        "shuffled": {"information_transforms": [borrowed()]},
        "calibrated": {"calibration": str(out / "calibration.json")},
        "mochi": {
            "intensity": weak,
            "loss_function": {"_target_": "benchmarks._mixing.HardNegativeMixingLoss", "temperature": 0.1},
            **anywhere,
        },
        "unmix": {
            "intensity": weak,
            "train#dataloader#collate_fn": {
                "_target_": "benchmarks._mixing.MixedCollate",
                "prefixes": ["local_", "global_"],
            },
            "train#inferer#_target_": "benchmarks._mixing.MixedInferer",
            **anywhere,
        },
    }
    kind, _, strength = name.partition("_")
    if kind == "uniform":
        if not re.fullmatch(r"\d*\.?\d+", strength):
            raise refusal("policies", repr(name), "with a number of at least 0 for S")
        return {"strengths": [float(strength)] * 3, **anywhere}
    known = policies | {way: {} for way in CEPHALOGRAM_WAYS}
    if name not in known:
        raise refusal("policies", repr(name), f"among {', '.join(known)} and uniform_S")
    return known[name]


def borrowed() -> dict[str, Any]:
    return {
        "_target_": "benchmarks.landmark_matching.BorrowedInformationd",
        "keys": "image",
        "images": "$[item['image'] for item in @train#dataset#data]",
        "preprocessing": "$@preprocessing_transforms",
        "information": bundle_config(BUNDLE)["information_transforms"],
    }


class BorrowedInformationd(MapTransform):
    """Information and tiers of the next image of a list, brought to the size of the one at hand.

    Args:
        keys: keys of the images, first the one whose path is in the list.
        images: paths.
        preprocessing: what makes an image.
        information: what makes its information and tiers.
        prefixes: what the names of the information and tiers of each key begin with.
    """

    def __init__(
        self,
        keys: KeysCollection,
        images: Sequence[str],
        preprocessing: Sequence[Any],
        information: Sequence[Any],
        prefixes: Sequence[str] = ("",),
    ) -> None:
        super().__init__(keys)
        images = [str(Path(image).resolve()) for image in images]
        self.next = dict(zip(images, [*images[1:], images[0]], strict=True))
        self.make = Compose([*preprocessing, *information])
        self.prefixes = tuple(prefixes)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        out = dict(data)
        image = out[self.first_key(out)]
        other = self.make({"image": self.next[str(Path(image.meta["filename_or_obj"]).resolve())]})
        for key, prefix in zip(self.keys, self.prefixes, strict=True):
            image = out[key]
            smooth = "bilinear" if image.ndim == 3 else "trilinear"
            for name, mode in ((f"{prefix}information", smooth), (f"{prefix}tiers", "nearest")):
                resized = Resize(image.shape[1:], mode=mode)(other[name].as_tensor())
                out[name] = MetaTensor(resized.to(other[name].dtype), meta=dict(image.meta))
        return out


class Matching:
    """Trainings and the landmarks that they find.

    Args:
        cases: images to learn from, the template, and the images to find its landmarks in.
        settings: settings of the bundle that all policies share.
        out: folder of the results.
    """

    def __init__(self, cases: Cases, settings: Mapping[str, Any], out: Path) -> None:
        self.cases, self.settings, self.out = cases, dict(settings), out

    def __call__(self, name: str, seed: int) -> dict[str, Any]:
        """Results of a policy and seed: ``found`` (images, L, D) in mm, ``alone`` likewise without neighbourhoods.

        What does not learn has no seed.
        """
        seed = 0 if name in CEPHALOGRAM_WAYS else seed
        settings = self.settings | policy(name, self.out) | {"seed": seed}
        folder = self.out / name / str(seed)
        return kept_result(folder, settings, partial(self._make, name, settings, folder))

    def _make(self, name: str, settings: Mapping[str, Any], folder: Path) -> dict[str, Any]:
        start = time.perf_counter()
        if name not in CEPHALOGRAM_WAYS:
            if settings.get("calibration"):
                self.calibrate()
            data = {"train#dataset#data": [{"image": image} for image in self.cases.train]}
            run_bundle(BUNDLE, "train", folder=folder, **settings, **data)
        trained = time.perf_counter()
        found = self._match(name, settings, folder / "checkpoint.pt")
        return found | {"seconds": {"training": trained - start, "matching": time.perf_counter() - trained}}

    def calibrate(self) -> None:
        """Make the calibration file of the training images if it is not there yet."""
        file, folder = self.out / "calibration.json", self.out / "training images"
        if not file.exists():
            folder.mkdir(exist_ok=True)
            for image in map(Path, self.cases.train):
                link = folder / image.name
                if not link.exists():
                    link.symlink_to(image.resolve())
            calibrate(folder, file, **{name: self.settings[name] for name in ("modality", "pixdim", "working_pixdim")})

    def _match(self, name: str, settings: Mapping[str, Any], checkpoint: Path) -> dict[str, Any]:
        parser = bundle_config(BUNDLE, settings)
        preprocess = Compose(parser.get_parsed_content("preprocessing_transforms"))
        template = preprocess({"image": self.cases.template["image"]})["image"]
        points = torch.from_numpy(self.cases.template["landmarks"])
        if name in CEPHALOGRAM_WAYS:
            ways = dict.fromkeys(("found", "alone"), self._without_learning(name, template, points))
        else:
            device = parser.get_parsed_content("device")
            network = load_weights(parser.get_parsed_content("network_def"), checkpoint).to(device).eval()
            ways = {
                row: partial(self._matched, network, device, matcher)
                for row, patch_radius in (("found", parser["patch_radius"]), ("alone", None))
                for matcher in [LandmarkMatcher(template, points, True, parser["level_weights"], None, patch_radius)]
            }
        found: dict[str, list] = {row: [] for row in ways}
        for path in tqdm(self.cases.test, f"match {name}", disable=None):
            image = preprocess({"image": path})["image"]
            places = {way: way(image).tolist() for way in set(ways.values())}
            for row, way in ways.items():
                found[row].append(places[way])
        return found

    @staticmethod
    def _matched(network: nn.Module, device: torch.device, matcher: LandmarkMatcher, image: MetaTensor) -> Tensor:
        return matcher(image[None].to(device), network)["world"][0]

    @staticmethod
    def _without_learning(name: str, template: MetaTensor, points: Tensor) -> Callable[[MetaTensor], Tensor]:
        (voxels,), way = to_voxels(points[None], template), CEPHALOGRAM_WAYS[name]
        return lambda image: to_world(way(template, image, voxels)[None].to(voxels), image)[0]


def settings_of(options: argparse.Namespace, more: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the bundle that all policies share."""
    settings = {"modality": "xray", "pixdim": options.pixdim, "origin": options.origin, "working_pixdim": 0.625}
    settings |= BUDGETS[options.budget] | {"val_interval": 10**6} | more  # its validation would choose nothing
    return settings | ({"working_pixdim": options.working_pixdim} if options.working_pixdim else {})


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and match what is missing, then print the tables and a JSON line."""
    parser = common_options(__doc__.split("\n\n")[0], BUDGETS, "runs/landmark_matching")
    parser.add_argument("--policies", default="weak,best_uniform,shuffled,full", help="separated by commas")
    options = parser.parse_args(arguments)
    names, start = options.policies.split(","), time.perf_counter()
    cases = Cases(options)
    out = options.out / cases.folder
    out.mkdir(parents=True, exist_ok=True)
    for name in names:
        policy(name, out)  # a name that is wrong, before the work
    matching = Matching(cases, settings_of(options, named(options.set)), out)
    if "calibrated" in names:
        matching.calibrate()  # once, not by several processes
    calls = [(name, seed) for seed in range(options.seeds) for name in names]
    results: dict[str, list] = {name: [] for name in names}
    for (name, _), made in zip(calls, side_by_side(matching, calls, options.jobs), strict=True):
        results[name].append(made)

    tables, pairs = {}, {}
    seconds = {name: np.mean([sum(made["seconds"].values()) for made in results[name]]) for name in names}
    for row, title in (("found", "by neighbourhoods, mm"), ("alone", "each landmark alone, mm")):
        errors = {name: cases.errors([made[row] for made in results[name]]) for name in names}
        tables[row] = [summary(name, errors[name], seconds[name]) for name in names]
        print_table(tables[row], title)
        pairs[row] = {name: print_difference(names[-1], name, errors) for name in names[:-1]}
    minutes = (time.perf_counter() - start) / 60
    print_end("landmark_matching", options, cases, minutes, tables=tables, differences=pairs)


if __name__ == "__main__":
    main()
