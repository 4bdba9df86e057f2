"""The pictures of docs/howto/annotate.md: ``python docs/figures/annotated_folder.py DIR``, a quarter of an hour.

DIR gets a folder of 30 made-up patients: sagittal slices of the MNI152 T1 template, each turned, deformed and exposed
in its own way, as PNG files with 1 mm a pixel. On one of them six points are annotated. Then come the commands of the
page, the errors against the truth, which is known here, and the pictures, beside the page.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from monai.transforms import (
    Compose,
    LoadImage,
    Rand2DElasticd,
    RandAdjustContrastd,
    RandBiasFieldd,
    RandGaussianNoised,
    ScaleIntensityRanged,
)
from PIL import Image

from monai_infoaug.data import LandmarkTable, read_landmarks, write_landmarks

PICTURES = Path(__file__).parents[1] / "howto" / "pictures"
BRAIN = files("nilearn") / "datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
POINTS = {  # y and z in millimetres of the template's midsagittal plane
    "genu": (33, 4),
    "splenium": (-42, 14),
    "AC": (2, -4),
    "PC": (-25, -2),
    "pons": (-16, -32),
    "fastigium": (-47, -32),
}
NUMBER, TEMPLATE = 30, "patient00"


def make_patients(folder: Path) -> LandmarkTable:
    """Write the images, and return where the points lie in them."""
    volume = LoadImage()(BRAIN).as_tensor()[:, 21:213, :160].flip(2)  # z downwards, as the rows of a picture
    places = np.array([(y + 113, 159 - (z + 72)) for y, z in POINTS.values()], float)
    grid = np.stack(np.meshgrid(np.arange(192.0), np.arange(160.0), indexing="ij"))
    change = Compose(
        [
            Rand2DElasticd(
                ["image", "grid"],
                (32, 32),
                (1, 4),
                prob=1.0,
                rotate_range=0.2,
                scale_range=0.1,
                translate_range=6,
                padding_mode=["zeros", "border"],
            ),
            ScaleIntensityRanged("image", 0, 255, 0, 1, clip=True),
            RandAdjustContrastd("image", prob=1.0, gamma=(0.6, 1.6)),
            RandBiasFieldd("image", prob=1.0, coeff_range=(-0.15, 0.15)),
            RandGaussianNoised("image", prob=1.0, std=0.03),
        ]
    ).set_random_state(0)
    folder.mkdir(parents=True)
    truth, slices = {}, np.random.default_rng(0).integers(95, 101, NUMBER)
    for number, x in enumerate(slices):
        name = f"patient{number:02}"
        item = change({"image": volume[None, x], "grid": grid})
        picture = (255 * np.asarray(item["image"])[0].clip(0, 1)).astype(np.uint8)
        sitk.WriteImage(sitk.GetImageFromArray(picture.T), folder / f"{name}.png")
        shown = np.asarray(item["grid"])  # the place of the template that each pixel shows
        distances = np.linalg.norm(shown[:, None] - places.T[:, :, None, None], axis=0)
        nearest = [np.unravel_index(distance.argmin(), distance.shape) for distance in distances]
        truth[name] = np.array(nearest, float)
    return LandmarkTable(list(POINTS), truth, space="LPS")


def command(*words: str | Path) -> None:
    """Run a command of ours."""
    print("$ monai-infoaug", *words)
    subprocess.run([sys.executable, "-m", "monai_infoaug", *map(str, words)], check=True)


def main(place: Path) -> None:
    """Make all of it."""
    images, out, advice = place / "patients", place / "annotated", place / "advice"
    truth = make_patients(images)
    write_landmarks(place / f"{TEMPLATE}.mrk.json", LandmarkTable(truth.labels, {TEMPLATE: truth.points[TEMPLATE]}))
    command("advise", images, "--pixdim", "1", "--minutes", "4", "--out", advice)
    template = images / f"{TEMPLATE}.png"
    given = ["--template", template, "--landmarks", place / f"{TEMPLATE}.mrk.json", "--pixdim", "1"]
    checkpoint = advice / "stages" / "1_pretraining" / "checkpoint.pt"
    command("annotate", images, *given, "--checkpoint", checkpoint, "--minutes", "7", "--out", out)
    found = read_landmarks(out / "landmarks.csv")
    others = [name for name in truth.points if name != TEMPLATE]
    errors = np.array([np.linalg.norm(found.points[name] - truth.points[name], axis=1) for name in others])
    print(f"{errors.mean():.2f} mm mean, {np.median(errors):.2f} median, {100 * (errors < 2).mean():.0f} % within 2 mm")
    keep(advice / "advice.png", "advice")
    keep(out / "patient07.png", "annotated")
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is not None:
        screen = [f"--screenshot={place / 'review.png'}", "--window-size=1100,760", "--hide-scrollbars"]
        run = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000", *screen]
        subprocess.run([*run, (out / "review.html").resolve().as_uri()], check=True)
        keep(place / "review.png", "review")


def keep(picture: Path, name: str) -> None:
    """Put a picture beside the page, small enough for it."""
    image = Image.open(picture).convert("RGB")
    image.thumbnail((900, 900))
    PICTURES.mkdir(exist_ok=True)
    image.quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(
        PICTURES / f"{name}.png", optimize=True
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
