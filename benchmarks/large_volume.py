"""Does a large volume fit into memory? ``python -m benchmarks.large_volume``.

The bundle landmark_matching_3d trains on a phantom of so many voxels and then finds five landmarks in it: all of
preprocessing, information maps, pairs of views and training steps; loading, embedding and matching of template and
query. Each of the two runs in a process of its own, whose highest memory is printed; the found landmarks lie where they
were, since template and query are the same. One JSON line a row; Linux only.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from benchmarks._runs import alone, named, own_megabytes, run_bundle
from monai_infoaug._require import refusal
from monai_infoaug.data import LandmarkTable, read_landmarks, write_landmarks

BUNDLE = "landmark_matching_3d"
LANDMARKS = np.array([[0.4, 0.5, 0.5], [0.45, 0.4, 0.45], [0.5, 0.55, 0.6], [0.55, 0.45, 0.4], [0.6, 0.6, 0.55]])


def write_phantom(folder: Path, size: Sequence[int]) -> None:
    """A cylinder of smooth tissue with noise, in Hounsfield units at 1 mm, and landmarks in it."""
    generator = np.random.default_rng(0)
    coarse = sitk.GetImageFromArray(generator.normal(0, 150, (11, 11, 11)).astype(np.float32))
    coarse.SetSpacing([(n - 1) / 10 for n in size])
    tissue = sitk.Resample(coarse, list(size), sitk.Transform(), sitk.sitkBSpline)
    array = sitk.GetArrayViewFromImage(tissue)
    (folder / "images").mkdir()
    y, x = np.ogrid[-1 : 1 : size[1] * 1j, -1 : 1 : size[0] * 1j]
    body, scan = x**2 + (1.3 * y) ** 2 < 0.7, np.full(array.shape, -1000, np.int16)
    for plane, values in zip(scan, array, strict=True):
        plane[body] = (values + generator.normal(0, 20, values.shape))[body]
    sitk.WriteImage(sitk.GetImageFromArray(scan), folder / "images" / "scan.nii.gz")
    points = LANDMARKS * (np.array(size) - 1)
    write_landmarks(folder / "landmarks.csv", LandmarkTable(tuple("abcde"), {"scan": points}, space="LPS"))


def run(folder: Path, threads: int, settings: dict[str, Any], *configs: str) -> dict[str, float]:
    """Seconds and highest memory of a run."""
    torch.set_num_threads(threads)
    start = time.perf_counter()
    run_bundle(BUNDLE, "train", *configs, folder=folder / "out", **settings)
    return {"seconds": time.perf_counter() - start, "gigabytes": own_megabytes("VmHWM") * 2**20 / 1e9}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a JSON line for the training and one for the search."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--size", default="512,512,400", help="voxels along x, y and z (%(default)s)")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=JSON", help="other settings of the bundle")
    options = parser.parse_args(arguments)
    numbers = options.size.split(",")
    if len(numbers) != 3 or not all(number.isdecimal() and int(number) >= 32 for number in numbers):
        raise refusal("size", options.size, "three numbers of voxels, at least 32")
    size = [int(number) for number in numbers]
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_phantom(folder, size)
        settings = {"dataset_dir": str(folder / "images"), "modality": "ct", "num_workers": 0, "repeats": 3}
        settings |= {"max_epochs": 1, "val_interval": 10**6} | named(options.set)
        table = folder / "landmarks.csv"
        known = {"template": str(folder / "images" / "scan.nii.gz"), "template_landmarks": str(table)}
        threads = torch.get_num_threads()
        row = {"benchmark": "large_volume", "size": size}
        print(json.dumps(row | {"run": "train"} | alone(partial(run, folder, threads, settings))), flush=True)
        matched = alone(partial(run, folder, threads, settings | known, "inference"))
        found, truth = (
            read_landmarks(path).to("RAS").points["scan"]
            for path in (folder / "out" / "inference" / "landmarks.csv", table)
        )
        errors = np.linalg.norm(found - truth, axis=1)
        print(json.dumps(row | {"run": "match"} | matched | {"largest_error_mm": float(errors.max())}))


if __name__ == "__main__":
    main()
