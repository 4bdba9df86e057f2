"""The folders of docs/howto/first_hour.md, and how good its results are.

``python docs/figures/first_hour.py make DATA DIR`` writes them into DIR: from the cephalograms of the ISBI 2015
challenge, as DATA has them in ``ceph/train`` (0.3 mm a pixel) with ``ceph/train_landmarks_mm.csv``, twelve DICOM
radiographs and the landmarks of one as 3D Slicer saves them; from the task Hippocampus of the Medical Segmentation
Decathlon, in ``hippocampus/images`` and ``labels``, thirty volumes and six label maps. ``... score DATA DIR`` says,
when the commands of the page have run in DIR, how far their results are from the truth.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from monai_infoaug.data import LandmarkTable, read_landmarks, write_landmarks

NAMES = [
    "sella",
    "nasion",
    "orbitale",
    "porion",
    "subspinale",
    "supramentale",
    "pogonion",
    "menton",
    "gnathion",
    "gonion",
    "lower_incisor",
    "upper_incisor",
    "upper_lip",
    "lower_lip",
    "subnasale",
    "soft_pogonion",
    "posterior_nasal_spine",
    "anterior_nasal_spine",
    "articulare",
]
IMAGES, TEMPLATE, SPACING, FIRST = 12, "005", 0.3, 0.1  # mm of a pixel, and of the first one's centre
VOLUMES, EVERY = 30, 5


def true_landmarks(data: Path) -> LandmarkTable:
    """The landmarks of all radiographs, in millimetres from the centre of the first pixel."""
    table = read_landmarks(data / "ceph" / "train_landmarks_mm.csv")
    points = {name: place - FIRST for name, place in table.points.items()}
    return LandmarkTable(NAMES, points, space="LPS")


def make(data: Path, folder: Path) -> None:
    """Write the folders."""
    for name in ("xrays", "volumes", "labels"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(sorted((data / "ceph" / "train").glob("*.jpg"))[:IMAGES]):
        image = sitk.Cast(sitk.ReadImage(path), sitk.sitkUInt16) * 16
        image.SetSpacing((SPACING, SPACING))
        tags = {
            "0008|0016": "1.2.840.10008.5.1.4.1.1.1.1",  # digital X-ray, for presentation
            "0008|0018": f"1.2.826.0.1.3680043.8.498.3{number}",
            "0008|0060": "DX",
            "0010|0020": path.stem,
            "0018|1164": f"{SPACING}\\{SPACING}",
            "0020|000d": f"1.2.826.0.1.3680043.8.498.1{number}",
            "0020|000e": f"1.2.826.0.1.3680043.8.498.2{number}",
            "0028|0004": "MONOCHROME2",
            "0028|0030": f"{SPACING}\\{SPACING}",
        }
        for tag, value in tags.items():
            image.SetMetaData(tag, value)
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetFileName(folder / "xrays" / f"{path.stem}.dcm")
        writer.Execute(image)
    table = true_landmarks(data)
    one = LandmarkTable(table.labels, {TEMPLATE: table.points[TEMPLATE]}, space=table.space)
    write_landmarks(folder / f"{TEMPLATE}.mrk.json", one)
    for number, path in enumerate(sorted((data / "hippocampus" / "images").glob("*.nii.gz"))[:VOLUMES]):
        shutil.copy(path, folder / "volumes")
        if number % EVERY == 0:
            shutil.copy(data / "hippocampus" / "labels" / path.name, folder / "labels")


def score(data: Path, folder: Path) -> None:
    """Print the errors of what was found, but for what was given."""
    truth = true_landmarks(data)
    for name in ("annotated", "found"):
        found = read_landmarks(folder / name / "landmarks.csv").to("LPS")
        order = [found.labels.index(label) for label in NAMES]
        errors = np.concatenate(
            [
                np.linalg.norm(points[order] - truth.points[image], axis=1)
                for image, points in found.points.items()
                if image != TEMPLATE
            ]
        )
        text = f"{np.nanmean(errors):.1f} mm, median {np.nanmedian(errors):.1f} mm"
        print(f"{name}: {np.isfinite(errors).sum()} landmarks, mean error {text}")
    dice = []
    for path in sorted((folder / "segmented").glob("*.nii.gz")):
        if not (folder / "labels" / path.name).exists():
            files = path, data / "hippocampus" / "labels" / path.name
            ours, true = (sitk.GetArrayFromImage(sitk.ReadImage(file)) for file in files)
            pairs = [(ours == value, true == value) for value in (1, 2)]
            dice.append([2 * (one & other).sum() / (one.sum() + other.sum()) for one, other in pairs])
    print(f"segmented: {len(dice)} volumes, Dice {np.mean(dice, 0).round(3).tolist()}")


if __name__ == "__main__":
    {"make": make, "score": score}[sys.argv[1]](*map(Path, sys.argv[2:]))
