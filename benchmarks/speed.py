"""Ours and its peers side by side on the same work: ``python -m benchmarks.speed``.

- ``entropy``: the information map of a radiograph, of noise and of a brain volume, 256 bins, against the rank filter of
  scikit-image, which gives the same map; and how its time grows with the pixels.
- ``pairs``: two views of an image with tiers, coordinates and 512 points that correspond, against plain MONAI, see
  :py:func:`monai_pair`; affine and elastic, with the intensities of ``RandTierIntensity("rich")`` and without. Where
  TorchIO, kornia or batchgeneratorsv2 is installed (extra ``bench``), two views of the image alone by what they have.
- ``matching``: 32 landmarks in the embeddings of a volume of 256^3 voxels, against all similarity maps at once; 19
  landmarks by neighbourhoods in the embedding of an image of 512 x 640 pixels, against one after the other.
- ``contrast``: ``PixelSupConLoss`` of 4096 pixels, against pytorch-metric-learning.
- ``embedding``: a step of pixel contrast that compares 1000 voxels a volume, with heads of 256 channels, against the
  same with all voxels embedded.
- ``feeding``: training steps of the bundle landmark_pretraining with all of its transforms in two workers, against the
  same trainer fed with batches that are ready.

Medians of interleaved repeats in one process; the memory is what a call adds to the peak of a process of its own; the
floor is how long a copy of as many bytes takes as ours returns: no way can be faster. One JSON line a row.

With ``--json FILE`` the rows are kept, and compared with those of the run before: ratios of one run with ratios of
another, since seconds of different days say little. It ends with an error where a peer has caught up by a fifth.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: on busy cores its waiting threads take all the time

import numpy as np
import torch
from monai.data import MetaTensor
from monai.networks.nets import BasicUNet
from monai.transforms import (
    CenterSpatialCrop,
    Compose,
    GaussianSmooth,
    LoadImage,
    Rand2DElastic,
    Rand2DElasticd,
    Rand3DElastic,
    Rand3DElasticd,
    RandAffine,
    RandAffined,
    ScaleIntensity,
)
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks._runs import alone, bundle_config, own_megabytes
from benchmarks.pixel_sup_con import PEER, loss_of, pixels
from monai_infoaug._require import refusal
from monai_infoaug.inferers import match_points
from monai_infoaug.information import entropy, local_entropy
from monai_infoaug.losses import PixelSupConLoss
from monai_infoaug.networks import EmbeddingHeads, PixelEmbeddingNet
from monai_infoaug.samplers import DrawnPixels
from monai_infoaug.transforms import (
    InformationMapd,
    InformationTiersd,
    RandPairedViewsd,
    RandTierIntensity,
    intensity_preset,
)

THREADS, POINTS, SHARES, BINS = 2, 512, (0.1, 0.45, 0.45), 256
STRENGTHS = (0.5, 1.0, 0.7)  # of "rich" in the low, medium and high tier
Ways = Mapping[str, Callable[[], Any]]


def has_data(data: Path) -> bool:
    return (data / "ceph" / "train").is_dir() and (data / "afids").is_dir()


def radiograph(data: Path, size: int) -> np.ndarray:
    """The middle (1, size, size) of a real radiograph, 8 bit."""
    image = LoadImage(image_only=True, ensure_channel_first=True)(min((data / "ceph" / "train").glob("*.jpg")))[:1]
    return CenterSpatialCrop(size)(image).numpy().astype(np.uint8)


def brain(data: Path, size: int) -> np.ndarray:
    """The middle (1, size, size, size) of a real volume, 8 bit."""
    image = LoadImage(image_only=True, ensure_channel_first=True)(next((data / "afids").glob("*T1w.nii.gz")))
    return ScaleIntensity(0, BINS - 1)(CenterSpatialCrop(size)(image)).numpy().astype(np.uint8)


def noise(*size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, BINS, (1, *size), np.uint8)


def entropy_cases(data: Path) -> dict[str, Callable[[], Ways]]:
    """Cases of the information map; without the data, noise alone."""

    def ways(make: Callable[[], np.ndarray], window: int, peers: bool = True) -> Ways:
        image = make()
        own = {"ours": lambda: local_entropy(image, window, BINS, (0, BINS - 1))}
        if not peers:
            return own

        def without_numba() -> np.ndarray:
            with mock.patch.object(entropy, "_numba_window_entropy", return_value=None):
                return own["ours"]()

        def rank() -> np.ndarray:
            from skimage.filters.rank import entropy as peer

            return peer(image[0], np.ones((window,) * (image.ndim - 1), np.uint8))[None]

        return own | {"ours without numba": without_numba} | ({"scikit-image": rank} if find_spec("skimage") else {})

    images, volumes = {"noise": partial(noise, 512, 512)}, {"noise 3D": partial(noise, 64, 64, 64)}
    if has_data(data):
        images = {"radiograph": partial(radiograph, data, 512)} | images
        volumes = {"brain": partial(brain, data, 64)} | volumes
    cases = {f"{name}, window {w}": partial(ways, make, w) for name, make in images.items() for w in (9, 33, 65)}
    cases |= {f"{name}, window 9": partial(ways, make, 9) for name, make in volumes.items()}
    sizes = (128, 256, 512, 1024, 2048)
    return cases | {f"noise of {n} x {n}": partial(ways, partial(noise, n, n), 9, False) for n in sizes}


def monai_views(
    item: Mapping[str, MetaTensor], spatial: Callable, intensities: Sequence[Callable] = ()
) -> list[dict[str, MetaTensor]]:
    """Two views with their tiers and coordinates, as a user of plain MONAI makes them.

    One dictionary transform over all keys makes a view. The coordinates go through it as channels.

    Args:
        item: ``image`` and ``tiers``.
        spatial: over ``image``, ``tiers`` and ``coords``.
        intensities: one for each tier, blended by the smoothed masks of the tiers.
    """
    image = item["image"]
    axes = [torch.arange(n, dtype=torch.float32) for n in image.shape[1:]]
    coords = MetaTensor(torch.stack(torch.meshgrid(*axes, indexing="ij")), affine=image.affine)
    views = [spatial({"image": image, "tiers": item["tiers"], "coords": coords}) for _ in range(2)]
    if intensities:
        smooth = GaussianSmooth(RandTierIntensity("rich").sigma)
        for view in views:
            before = view["image"]
            for tier, change in enumerate(intensities):
                weight = smooth((view["tiers"] == tier).float())
                view["image"] = view["image"] + weight * (change(before) - before)
    return views


def monai_pair(views: Sequence[Mapping[str, MetaTensor]], affine: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Points of view 1 and of view 2 (N, D) that correspond, and which of them view 2 shows, by plain MONAI.

    Views that are affine tell by their affine where view 2 shows a point of view 1, in closed form. For others MONAI
    knows of no way: the voxel of view 2 is looked for whose coordinates are nearest.
    """
    masks = [(views[0]["tiers"].as_tensor() == tier).float() for tier in range(3)]
    density = sum(share / mask.sum().clamp_min(1) * mask for share, mask in zip(SHARES, masks, strict=True))
    drawn = torch.multinomial(density.flatten(), POINTS)
    first = torch.stack(torch.unravel_index(drawn, density.shape[1:]), 1).double()
    if affine:
        between = torch.linalg.inv(views[1]["image"].affine) @ views[0]["image"].affine
        dims = first.shape[1]
        second = first @ between[:dims, :dims].T + between[:dims, -1]
        last = torch.tensor(density.shape[1:]) - 1
        return first, second, ((second >= 0) & (second <= last)).all(1)
    wanted, shown = (view["coords"].as_tensor().flatten(1) for view in views)
    nearest = [torch.cdist(part, shown.T).min(1) for part in wanted[:, drawn].T.split(64)]
    second = torch.stack(torch.unravel_index(torch.cat([n.indices for n in nearest]), density.shape[1:]), 1).double()
    return first, second, torch.cat([n.values for n in nearest]) < 1


def pair_cases(data: Path) -> dict[str, Callable[[], Ways]]:
    """Cases of the paired views."""

    def ways(make: Callable[[], np.ndarray], size: tuple[int, ...], elastic: bool, intensity: bool) -> Ways:
        dims = len(size)
        item: Any = {"image": MetaTensor(torch.from_numpy(make()).float() / (BINS - 1))}
        item = Compose([InformationMapd("image"), InformationTiersd()])(item)
        rotation = 0.26 if dims == 2 else [0.26] * 3
        change = {"prob": 1.0, "rotate_range": rotation, "scale_range": [0.15] * dims, "padding_mode": "zeros"}
        kinds: tuple[Callable, Callable] = (RandAffine, RandAffined)
        if elastic:
            kinds = (Rand2DElastic, Rand2DElasticd) if dims == 2 else (Rand3DElastic, Rand3DElasticd)
            smooth = {"spacing": (40, 40)} if dims == 2 else {"sigma_range": (4, 6)}
            change |= {**smooth, "magnitude_range": (2, 6) if dims == 2 else (50, 100)}
        pair = RandPairedViewsd(
            ["image", "tiers"],
            roi_size=size,
            spatial=kinds[0](**change),
            intensity=RandTierIntensity("rich", strengths=STRENGTHS) if intensity else None,
            num_points=POINTS,
            shares=SHARES,
            outputs="coords",
        )
        modes = ["bilinear", "nearest", "bilinear"]
        spatial = kinds[1](keys=["image", "tiers", "coords"], spatial_size=size, mode=modes, **change)
        changes = [intensity_preset("rich", strength) for strength in STRENGTHS] if intensity else []
        views = partial(monai_views, item, spatial, changes)
        ways = {"ours": lambda: pair(item), "MONAI": lambda: monai_pair(views(), not elastic)}
        if elastic:
            ways["MONAI, without points"] = views
        return ways | other_views(item["image"].as_tensor(), size, elastic, intensity)

    makes = {"384 x 384": (partial(radiograph, data, 640), (384,) * 2), "96^3": (partial(brain, data, 128), (96,) * 3)}
    return {
        f"{name}{', elastic' if elastic else ''}{', with intensities' if intensity else ''}": partial(
            ways, *make, elastic, intensity
        )
        for name, make in makes.items()
        for elastic in (False, True)
        for intensity in (False, True)
    }


def other_views(image: Tensor, size: Sequence[int], elastic: bool, intensity: bool) -> Ways:
    """Two views of the image alone by the other packages that have such a change."""
    ways: dict[str, Callable[[], Any]] = {}
    plain = not elastic and not intensity
    if find_spec("kornia") and image.ndim == 3 and plain:
        from kornia.augmentation import RandomAffine

        kornia = RandomAffine(15.0, scale=(0.85, 1.15), p=1.0)
        ways["kornia, image alone"] = lambda: [kornia(image[None]) for _ in range(2)]
    if find_spec("torchio") and image.ndim == 4 and plain:
        import torchio

        affine = torchio.RandomAffine(scales=0.15, degrees=15)
        ways["TorchIO, image alone"] = lambda: [affine(image) for _ in range(2)]
    if find_spec("batchgeneratorsv2"):
        chain = batchgenerators_chain(size, elastic, intensity)
        ways["batchgeneratorsv2, image alone"] = lambda: [chain(image=image) for _ in range(2)]
    return ways


def batchgenerators_chain(size: Sequence[int], elastic: bool, intensity: bool) -> Callable:
    """What comes nearest in batchgeneratorsv2, with a gradient of brightness for the bias field."""
    from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
    from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
    from batchgeneratorsv2.transforms.local.brightness_gradient import BrightnessGradientAdditiveTransform
    from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
    from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
    from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
    from batchgeneratorsv2.transforms.utils.random import RandomTransform

    turn = {"p_rotation": 1, "rotation": (-0.26, 0.26), "p_scaling": 1, "scaling": (0.85, 1.15)}
    spatial = SpatialTransform(tuple(size), [n // 2 for n in size], False, p_elastic_deform=float(elastic), **turn)
    gamma = GammaTransform((0.6, 1.8), 0, synchronize_channels=True, p_per_channel=1, p_retain_stats=0)
    half = [BrightnessGradientAdditiveTransform(scale=(50, 100), max_strength=0.3)]
    half += [GaussianBlurTransform((0.25, 1.5)), GaussianNoiseTransform((0, 0.0025))]
    return ComposeTransforms([spatial, gamma, *(RandomTransform(each, 0.5) for each in half)][: 5 if intensity else 1])


def matching_cases(data: Path) -> dict[str, Callable[[], Ways]]:  # noqa: ARG001
    """Cases of the search for landmarks."""

    def ways(size: int, landmarks: int) -> Ways:
        generator = torch.Generator().manual_seed(0)
        drawn = [torch.randn(1, f, *[size // s] * 3, generator=generator) for s, f in ((1, 8), (4, 16))]
        levels = [normalize(level, dim=1) for level in drawn]  # as the networks' are
        points = (size - 1) * torch.rand(1, landmarks, 3, generator=generator)
        find = partial(match_points, levels, points, levels, (1, 4), (size,) * 3)
        return {"ours": find, "all maps at once": partial(find, chunk=landmarks)}

    def by_neighbourhoods(size: tuple[int, int], landmarks: int) -> Ways:
        torch.manual_seed(0)
        image = torch.nn.functional.avg_pool2d(torch.rand(1, 1, *size), 9, 1, 4)
        network = PixelEmbeddingNet().eval()
        with torch.no_grad():
            template, query = network(image), network(image.roll((7, -5), (2, 3)))
        points = 40 + (torch.tensor(size) - 81) * torch.rand(1, landmarks, 2)

        def find(points: Tensor) -> Any:
            return match_points(template, points, query, network.strides, size, patch_radius=16)

        one_by_one = [point[None, None] for point in points[0]]
        return {"ours": lambda: find(points), "one by one": lambda: [find(point) for point in one_by_one]}

    cases = {f"32 landmarks in {size}^3": partial(ways, size, 32) for size in (128, 256)}
    return cases | {"19 landmarks by neighbourhoods, 512 x 640": partial(by_neighbourhoods, (512, 640), 19)}


def contrast_cases(data: Path) -> dict[str, Callable[[], Ways]]:  # noqa: ARG001
    """Cases of the contrast by labels."""

    def run(way: str, number: int) -> None:
        features, labels = pixels(number)
        loss_of(way, features.requires_grad_(), labels).backward()

    peers = {PEER: partial(run, PEER, 4096)} if find_spec("pytorch_metric_learning") else {}
    return {"4096 pixels": lambda: {"ours": partial(run, "all", 4096)} | peers}


def embedding_cases(data: Path) -> dict[str, Callable[[], Ways]]:  # noqa: ARG001
    """Cases of pixel contrast that compares few of the pixels."""

    def ways() -> Ways:
        unet = BasicUNet(3, features=(16, 16, 32, 64, 128, 16))
        heads = EmbeddingHeads(unet, "upcat_1", 256, spatial_size=(32,) * 3, hidden=(256, 256), normalized=False)
        image, labels = torch.rand(2, 1, 40, 56, 40), torch.randint(0, 3, (2, 1, 40, 56, 40))
        loss = PixelSupConLoss(sampler=DrawnPixels(1000, balanced=True))

        def chosen() -> None:
            [pixels] = loss.choose([labels], [None])
            loss(heads(image, places=[pixels.places])[0], pixels).backward()

        return {"ours": chosen, "all embedded": lambda: loss(heads(image)[0], labels).backward()}

    return {"2 volumes of 40 x 56 x 40": ways}


def feeding_cases(data: Path) -> dict[str, Callable[[], Ways]]:
    """Cases of a training that is fed."""

    def ways(steps: int = 25) -> Ways:
        torch.set_num_threads(max(1, torch.get_num_threads() - 1))  # as the bundle does, for its workers
        with TemporaryDirectory() as folder:
            settings = {"dataset_dir": str(data / "ceph" / "train"), "output_dir": folder}
            settings |= {"pixdim": 0.3, "batch_size": 2}
            settings |= {"train#trainer#train_handlers": [], "max_epochs": 10**6}
            config = bundle_config("landmark_pretraining", settings)
            trainer, loader = (config.get_parsed_content(f"train#{name}") for name in ("trainer", "dataloader"))
        ready = list(islice(loader, 5))

        def fed() -> Any:
            while True:
                yield from loader

        def train(batches: Any) -> None:
            trainer.network.train()
            for batch in islice(batches, steps):
                trainer._iteration(trainer, batch)

        return {"ours": partial(train, fed()), "ready batches": partial(train, cycle(ready))}

    return {"25 steps of 2 images": ways}


SECTIONS: dict[str, tuple[Callable[[Path], dict[str, Callable[[], Ways]]], int, bool]] = {  # repeats, and memory
    "entropy": (entropy_cases, 7, False),
    "pairs": (pair_cases, 9, True),
    "matching": (matching_cases, 3, True),
    "contrast": (contrast_cases, 5, True),
    "embedding": (embedding_cases, 5, True),
    "feeding": (feeding_cases, 5, False),
}


def medians(ways: Ways, repeats: int) -> dict[str, float]:
    """Seconds of each way, after a first call of each."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for index in range(1 + repeats):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if index:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(taken) for name, taken in times.items()}


def megabytes(section: str, case: str, way: str, data: Path) -> float:
    """What a second call adds to the peak of this process; Linux only."""
    torch.set_num_threads(THREADS)
    call = SECTIONS[section][0](data)[case]()[way]
    call()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = own_megabytes("VmRSS")
    call()
    return own_megabytes("VmHWM") - before


def floor(result: Any) -> float:
    """Seconds of a copy of as many bytes as there are in a result of arrays, however nested."""
    parts, size = [result], 0
    while parts:
        part = parts.pop()
        size += part.nbytes if hasattr(part, "nbytes") else 0
        parts += part.values() if isinstance(part, Mapping) else part if isinstance(part, (list, tuple)) else ()
    source, target = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
    return medians({"copy": partial(np.copyto, target, source)}, 9)["copy"]


def slower(rows: Mapping[str, Any], before: Mapping[str, Any], by: float = 1.2) -> list[str]:
    """What was this many times faster than a peer before, relative to what it is now, by name of row and peer."""
    pairs = [(name, peer, ratio) for name, row in rows.items() for peer, ratio in row["ratio"].items()]
    earlier = {(name, peer): ratio for name, row in before.items() for peer, ratio in row["ratio"].items()}
    return [
        f"{name}: {ratio:.2f} times {peer}, was {earlier[name, peer]:.2f}"
        for name, peer, ratio in pairs
        if earlier.get((name, peer), 0) > by * ratio
    ]


def measure(section: str, case: str, data: Path) -> dict[str, Any]:
    """A row: seconds and MB of each way, and how many times slower than ours it is."""
    cases, repeats, memory = SECTIONS[section]
    threads = torch.get_num_threads()
    ways = cases(data)[case]()
    seconds = medians(ways, repeats)
    torch.set_num_threads(threads)
    row: dict[str, Any] = {"benchmark": "speed", "section": section, "case": case, "seconds": seconds}
    row["floor"] = floor(ways["ours"]())
    row["ratio"] = {name: taken / seconds["ours"] for name, taken in seconds.items() if name != "ours"}
    if memory and Path("/proc/self/clear_refs").exists():
        row["megabytes"] = {way: alone(partial(megabytes, section, case, way, data)) for way in seconds}
    return row


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line for people and a JSON line for each row."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data", help="%(default)s")
    parser.add_argument("--sections", default=",".join(SECTIONS), help="separated by commas (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the rows, and compare with those kept before")
    options = parser.parse_args(arguments)
    names = options.sections.split(",")
    for name in names:
        if name not in SECTIONS:
            raise refusal("sections", repr(name), f"among {', '.join(SECTIONS)}")
    if {"pairs", "feeding"} & set(names) and not has_data(options.data):
        raise refusal("data", f"'{options.data}'", "a folder with `ceph/train` and `afids`")
    before = json.loads(options.json.read_text(encoding="utf-8")) if options.json and options.json.exists() else {}
    rows: dict[str, Any] = {}
    torch.set_num_threads(THREADS)
    for section in names:
        for case in SECTIONS[section][0](options.data):
            rows[f"{section}, {case}"] = row = measure(section, case, options.data)
            parts = [f"{name} {taken:.4g} s" for name, taken in row["seconds"].items()]
            parts += [f"{ratio:.1f} times {name}" for name, ratio in row["ratio"].items()]
            parts += [f"{name} {size:.0f} MB" for name, size in row.get("megabytes", {}).items()]
            parts += [f"floor {row['floor']:.2g} s"]
            print(f"{section}, {case}: {'; '.join(parts)}")
            print(json.dumps(row), flush=True)
            if options.json:  # what is slower does not become what the next run is compared with
                kept = {name: each for name, each in rows.items() if not slower({name: each}, before)}
                options.json.write_text(json.dumps(before | kept, indent=1), encoding="utf-8")
    if found := slower(rows, before):
        raise SystemExit("\n".join(["slower than before:", *found]))


if __name__ == "__main__":
    main()
