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
- ``tier_sampling``: ``best_uniform``, and points drawn by tier.
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
    2. Quan et al., "Information-guided pixel augmentation for pixel-wise contrastive learning", IEEE TMI 44(1), 2025,
       arXiv:2211.07118.
    3. Kalantidis et al., "Hard negative mixing for contrastive learning", NeurIPS 2020, arXiv:2010.01028.
    4. Shen et al., "Un-Mix: rethinking image mixtures for unsupervised visual representation learning", AAAI 2022,
       arXiv:2003.05438.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: its waiting threads take the loaders' time

import numpy as np
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.data import MetaTensor
from monai.transforms import Compose, MapTransform, Resize
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks._baselines import CEPHALOGRAM_WAYS
from monai_infoaug._require import require
from monai_infoaug.bundles import find_bundle
from monai_infoaug.calibration import calibrate
from monai_infoaug.data import image_datalist, landmark_datalist
from monai_infoaug.handlers import load_weights
from monai_infoaug.inferers import LandmarkMatcher, to_voxels, to_world
from monai_infoaug.metrics import SuccessDetectionRate

BUNDLE = "landmark_pretraining"
CONFIG = find_bundle(BUNDLE) / "configs" / "train.json"
BUDGETS = {  # settings of the bundle
    "small": {"max_epochs": 16},  # two CPU cores
    "full": {"max_epochs": 120, "working_pixdim": 0.4, "view_size": [384, 448]},  # a GPU
}
BEST_STRENGTH = 1.0  # of a uniform change, by --tune
RADII = (2.0, 2.5, 3.0, 4.0)  # mm
DRAWS = 10_000  # of the bootstrap
HELD_OUT = 5  # one in so many training images, the last ones


def jitter(brightness: Sequence[float], contrast: Sequence[float]) -> dict[str, Any]:
    """Brightness and contrast by factors (low, high), cut to [0, 1], as those of images of 8 bits are."""
    steps = {
        "RandScaleIntensity": {"factors": [factor - 1 for factor in brightness], "prob": 1.0},
        "RandScaleIntensityFixedMean": {"factors": [factor - 1 for factor in contrast], "prob": 1.0},
        "ScaleIntensityRange": {"a_min": 0, "a_max": 1, "b_min": 0, "b_max": 1, "clip": True},
    }
    made = [{"_target_": f"monai.transforms.{name}", **arguments} for name, arguments in steps.items()]
    return {"_target_": "monai.transforms.Compose", "transforms": made}


def rich(strengths: Sequence[float] | None = None, mode: str = "blend") -> dict[str, Any]:
    return {
        "_target_": "monai_infoaug.transforms.RandTierIntensity",
        "transforms": "rich",
        "strengths": strengths,
        "mode": mode,
    }


def policy(name: str, out: Path) -> dict[str, Any]:
    """Settings of the bundle for a policy; ``out`` has the calibration file, or will have it."""
    anywhere = {"shares": None}
    weak = jitter((0.85, 1.15), (0.75, 1.25))
    policies = {
        "none": {"intensity": None, **anywhere},
        "weak": {"intensity": weak, **anywhere},
        "strong": {"intensity": jitter((0.505, 1.997), (0.340, 2.329)), **anywhere},
        "best_uniform": {"intensity": rich([BEST_STRENGTH] * 3), **anywhere},
        "entropy_sampling": {"intensity": weak, "gamma": 0.3, **anywhere},
        "tier_sampling": {"intensity": rich([BEST_STRENGTH] * 3)},
        "tier_intensity": anywhere,
        "full": {},
        "full_anchor": {"intensity": rich(mode="anchor")},
        "full_continuous": {"intensity": rich(mode="continuous")},
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
        require(lambda: 0 <= float(strength) < np.inf, "policies", repr(name), "with a number of at least 0 for S")
        return {"intensity": rich([float(strength)] * 3), **anywhere}
    known = policies | {way: {} for way in CEPHALOGRAM_WAYS}
    require(name in known, "policies", repr(name), f"among {', '.join(known)} and uniform_S")
    return known[name]


def borrowed() -> dict[str, Any]:
    parser = ConfigParser()
    parser.read_config(CONFIG)
    return {
        "_target_": "benchmarks.landmark_matching.BorrowedInformationd",
        "keys": "image",
        "images": "$[item['image'] for item in @train#dataset#data]",
        "preprocessing": "$@preprocessing_transforms",
        "information": parser["information_transforms"],
    }


class BorrowedInformationd(MapTransform):
    """Information and tiers of the next image of a list, brought to the size of the one at hand.

    Args:
        keys: of the image.
        images: paths.
        preprocessing, information: what makes an image, and of it information and tiers.
    """

    def __init__(
        self, keys: str, images: Sequence[str], preprocessing: Sequence[Any], information: Sequence[Any]
    ) -> None:
        super().__init__(keys)
        images = [str(Path(image).resolve()) for image in images]
        self.next = dict(zip(images, [*images[1:], images[0]], strict=True))
        self.make = Compose([*preprocessing, *information])

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        out = dict(data)
        image = out[self.first_key(out)]
        other = self.make({"image": self.next[str(Path(image.meta["filename_or_obj"]).resolve())]})
        for name, mode in (("information", "bilinear"), ("tiers", "nearest")):
            resized = Resize(image.shape[1:], mode=mode)(other[name].as_tensor())
            out[name] = MetaTensor(resized.to(other[name].dtype), meta=dict(image.meta))
        return out


class Matching:
    """Trainings and the landmarks that they find.

    Args:
        train: training images.
        template: item of :py:func:`monai_infoaug.data.landmark_datalist`, the only label that there is.
        images: to find the landmarks in.
        settings: of the bundle, shared by all policies.
        out: folder of the results.
    """

    def __init__(
        self,
        train: Sequence[str],
        template: Mapping[str, Any],
        images: Sequence[str],
        settings: Mapping[str, Any],
        out: Path,
    ) -> None:
        self.train, self.template, self.images, self.out = train, template, images, out
        self.settings = dict(settings)

    def __call__(self, name: str, seed: int) -> dict[str, Any]:
        """Results of a policy and seed: ``found`` (images, L, D) in mm, ``alone`` likewise without neighbourhoods.

        What does not learn has no seed.
        """
        seed = 0 if name in CEPHALOGRAM_WAYS else seed
        folder = self.out / name / str(seed)
        folder.mkdir(parents=True, exist_ok=True)
        settings = self.settings | policy(name, self.out) | {"seed": seed}
        wanted = json.loads(json.dumps(settings))
        kept, result = folder / "settings.json", folder / "result.json"
        if not kept.exists():
            kept.write_text(json.dumps(wanted, indent=1), encoding="utf-8")
        same = json.loads(kept.read_text(encoding="utf-8")) == wanted
        require(same, "out", f"'{folder}' of other settings", "new, or of a run with the same settings")
        if not result.exists():
            start = time.perf_counter()
            if name not in CEPHALOGRAM_WAYS:
                if settings.get("calibration"):
                    self._calibrate(Path(settings["calibration"]))
                self._train(settings, folder)
            trained = time.perf_counter()
            found = self._match(name, settings, folder / "checkpoint.pt")
            seconds = {"training": trained - start, "matching": time.perf_counter() - trained}
            part = result.with_suffix(".part")
            part.write_text(json.dumps(found | {"seconds": seconds}), encoding="utf-8")
            part.replace(result)
        return json.loads(result.read_text(encoding="utf-8"))

    def _calibrate(self, file: Path) -> None:
        folder = self.out / "training images"
        if not file.exists():
            folder.mkdir(exist_ok=True)
            for image in map(Path, self.train):
                link = folder / image.name
                if not link.exists():
                    link.symlink_to(image.resolve())
            calibrate(folder, file, **{name: self.settings[name] for name in ("modality", "pixdim", "working_pixdim")})

    def _train(self, settings: Mapping[str, Any], folder: Path) -> None:
        threads = torch.get_num_threads()
        data = {"train#dataset#data": [{"image": image} for image in self.train]}
        flow = ConfigWorkflow(
            str(CONFIG), workflow_type="train", **settings, **data, output_dir=str(folder), bundle_root=str(folder)
        )
        flow.initialize()
        flow.run()
        flow.finalize()
        torch.set_num_threads(threads)

    def _match(self, name: str, settings: Mapping[str, Any], checkpoint: Path) -> dict[str, Any]:
        parser = ConfigParser()
        parser.read_config(CONFIG)
        parser.update(dict(settings))
        parser.get_parsed_content("imports")
        preprocess = Compose(parser.get_parsed_content("preprocessing_transforms"))
        template = preprocess({"image": self.template["image"]})["image"]
        points = torch.from_numpy(self.template["landmarks"])
        if name in CEPHALOGRAM_WAYS:
            ways = dict.fromkeys(("found", "alone"), self._without_learning(name, template, points))
        else:
            device = parser.get_parsed_content("device")
            network = load_weights(parser.get_parsed_content("network_def"), checkpoint).to(device).eval()
            ways = {
                row: partial(self._matched, network, device, matcher)
                for row, neighbourhood in (("found", parser["neighbourhood"]), ("alone", None))
                for matcher in [LandmarkMatcher(template, points, True, parser["level_weights"], None, neighbourhood)]
            }
        found: dict[str, list] = {row: [] for row in ways}
        for path in tqdm(self.images, f"match {name}", disable=None):
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


def paired_interval(errors: np.ndarray, others: np.ndarray, seed: int = 0) -> tuple[float, float, float]:
    """How much larger the mean error is than another one, with its 95 % interval by a bootstrap over the images.

    Args:
        errors, others: (seeds, images, landmarks).
        seed: of the bootstrap.

    Returns:
        Difference of the means, its 2.5 and its 97.5 percentile.
    """
    difference = errors.mean((0, 2)) - others.mean((0, 2))
    drawn = np.random.default_rng(seed).integers(len(difference), size=(DRAWS, len(difference)))
    low, high = np.percentile(difference[drawn].mean(1), (2.5, 97.5))
    return float(difference.mean()), float(low), float(high)


def summary(name: str, errors: np.ndarray, seconds: float) -> dict[str, Any]:
    """A row of the table: errors (seeds, images, landmarks) in mm."""
    means = errors.mean((1, 2))
    rates = SuccessDetectionRate(RADII)
    rates(torch.from_numpy(errors)[..., None].flatten(0, 1), torch.zeros(*errors.shape, 1).flatten(0, 1))
    return {
        "policy": name,
        "seeds": len(errors),
        "mre": round(float(means.mean()), 3),
        "sd_of_seeds": round(float(means.std(ddof=1)), 3) if len(means) > 1 else None,
        "median": round(float(np.median(errors)), 3),
        "sdr": [round(100 * float(rate), 1) for rate in rates.aggregate()],
        "seconds": round(seconds),
    }


def print_table(rows: Iterable[Mapping[str, Any]], title: str) -> None:
    print(f"\n{title:26}{'MRE':>7}{'SD':>6}{'median':>8}" + "".join(f"{f'<{radius:g}':>7}" for radius in RADII))
    for row in rows:
        spread = "" if row["sd_of_seeds"] is None else f"{row['sd_of_seeds']:.2f}"
        rates = "".join(f"{rate:7.1f}" for rate in row["sdr"])
        print(f"{row['policy']:26}{row['mre']:7.2f}{spread:>6}{row['median']:8.2f}{rates}{row['seconds']:8.0f} s")


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and match what is missing, then print the tables and a JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with images and tables, see above")
    parser.add_argument("--policies", default="weak,best_uniform,shuffled,full", help="separated by commas")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of a policy (%(default)s)")
    parser.add_argument("--budget", choices=BUDGETS, default="small")
    parser.add_argument("--test", default="test1", help="name of the test images (%(default)s)")
    parser.add_argument("--tune", action="store_true", help="test on training images that are held out instead")
    parser.add_argument("--template", default="115", help="training image whose landmarks are known (%(default)s)")
    parser.add_argument("--pixdim", type=float, default=0.3, help="mm a pixel of the images (%(default)s)")
    parser.add_argument("--origin", type=float, default=0.1, help="mm of the first pixel's centre (%(default)s)")
    parser.add_argument("--working-pixdim", type=float, help="mm to work at; default: of the budget, or 0.625")
    parser.add_argument("--out", type=Path, default=Path("runs/landmark_matching"), help="results (%(default)s)")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=JSON", help="other settings of the bundle")
    options = parser.parse_args(arguments)
    settings = {"modality": "xray", "pixdim": options.pixdim, "origin": options.origin, "working_pixdim": 0.625}
    settings |= BUDGETS[options.budget] | {"val_interval": 10**6}  # its validation would choose nothing
    settings |= {name: json.loads(value) for name, _, value in (item.partition("=") for item in options.set)}
    if options.working_pixdim:
        settings["working_pixdim"] = options.working_pixdim
    names, start = options.policies.split(","), time.perf_counter()

    train = [item["image"] for item in image_datalist(options.data / "train")]
    (template,) = (image for image in train if Path(image).stem == options.template)
    table = options.data / "train_landmarks_mm.csv"
    (known,) = landmark_datalist(template, table, "LPS")
    if options.tune:
        first = len(train) - len(train) // HELD_OUT
        images, train = [image for image in train[first:] if image != template], train[:first]
    else:
        images = [item["image"] for item in image_datalist(options.data / options.test)]
    out = options.out / options.budget / ("tune" if options.tune else options.test)
    out.mkdir(parents=True, exist_ok=True)
    for name in names:
        policy(name, out)  # a name that is wrong, before the work
    matching = Matching(train, known, images, settings, out)
    results = {}
    for seed in range(options.seeds):
        for name in names:
            results[name, seed] = matching(name, seed)

    folder = options.data / ("train" if options.tune else options.test)
    table = table if options.tune else options.data / f"{options.test}_landmarks_mm.csv"
    labelled = {item["image"]: item for item in landmark_datalist(folder, table, "LPS", known["labels"])}
    truth = np.stack([labelled[image]["landmarks"] for image in images])
    tables, pairs = {}, {}
    for row, title in (("found", "by neighbourhoods, mm"), ("alone", "each landmark alone, mm")):
        errors = {
            name: np.stack([np.linalg.norm(results[name, seed][row] - truth, axis=-1) for seed in range(options.seeds)])
            for name in names
        }
        seconds = {
            name: np.mean([sum(results[name, seed]["seconds"].values()) for seed in range(options.seeds)])
            for name in names
        }
        tables[row] = [summary(name, errors[name], seconds[name]) for name in names]
        print_table(tables[row], title)
        last = names[-1]
        pairs[row] = {name: paired_interval(errors[last], errors[name]) for name in names[:-1]}
        for name, (difference, low, high) in pairs[row].items():
            share = 100 * difference / errors[name].mean()
            print(f"{last} - {name}: {difference:+.2f} mm ({low:+.2f} to {high:+.2f}), {share:+.0f} %")
    minutes = (time.perf_counter() - start) / 60
    print(f"\n{options.seeds} seeds x {len(images)} images x {len(known['labels'])} landmarks; {minutes:.1f} minutes.")
    print(
        json.dumps(
            {
                "benchmark": "landmark_matching",
                "budget": options.budget,
                "tested_on": "held-out training images" if options.tune else options.test,
                "threads": torch.get_num_threads(),
                "tables": tables,
                "differences": pairs,
            }
        )
    )


if __name__ == "__main__":
    main()
