"""The picture of docs/howto/slicer.md: ``python docs/figures/slicer_round.py DIR``, a quarter of an hour.

The made-up patients of ``annotated_folder.py`` are annotated from one of them. Of the others, the one with the lowest
score is corrected, by the truth, which is known here, and the folder is annotated again. DIR gets all of it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from annotated_folder import TEMPLATE, command, keep, make_patients
from matplotlib.image import imread

from monai_infoaug.data import LandmarkTable, read_landmarks, write_landmarks


def main(place: Path) -> None:
    """Make all of it."""
    images, out, corrected = place / "patients", place / "annotated", place / "corrected"
    truth = make_patients(images)
    markups = place / f"{TEMPLATE}.mrk.json"
    write_landmarks(markups, LandmarkTable(truth.labels, {TEMPLATE: truth.points[TEMPLATE]}))
    given = [images, "--template", images / f"{TEMPLATE}.png", "--landmarks", markups, "--pixdim", "1"]
    given += ["--minutes", "3", "--out", out]
    command("annotate", *given)
    found = {name: read_landmarks(out / f"{name}.mrk.json") for name in truth.points if name != TEMPLATE}
    worst = min(found, key=lambda name: np.nanmin(found[name].scores[name]))
    corrected.mkdir()
    right = LandmarkTable(truth.labels, {worst: truth.points[worst]})
    write_landmarks(corrected / f"{worst}.mrk.json", right)
    draw(images, truth, worst, found[worst].points[worst][:, :2], place / "slicer.png")
    before = errors(out, truth, (TEMPLATE, worst))
    command("annotate", *given, "--corrected", corrected)
    after = errors(out, truth, (TEMPLATE, worst))
    print(f"{worst} corrected: {before:.2f} mm mean error of the others before, {after:.2f} mm after")


def draw(images: Path, truth: LandmarkTable, worst: str, found: np.ndarray, picture: Path) -> None:
    """The template with its markups, and an image with those that were found, and then corrected."""
    figure, axes = plt.subplots(1, 3, figsize=(9.5, 3.2), layout="constrained")
    panels = (
        ("markups in", TEMPLATE, truth.points[TEMPLATE], []),
        ("results out", worst, found, []),
        ("corrections back", worst, truth.points[worst], found),
    )
    for axis, (title, name, places, moved) in zip(axes, panels, strict=True):
        axis.imshow(imread(images / f"{name}.png"), cmap="gray")
        axis.scatter(*places.T, s=28, c="tab:orange", edgecolors="white")
        for label, (x, y) in zip(truth.labels, places, strict=True):
            axis.annotate(label, (x, y), (4, 4), textcoords="offset points", color="white", size=8)
        for start, end in zip(moved, places, strict=False):
            axis.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": "tab:red"})
        axis.set_title(f"{title}: {name}.mrk.json", size=9)
        axis.axis("off")
    figure.savefig(picture, dpi=130)
    keep(picture, "slicer")


def errors(out: Path, truth: LandmarkTable, without: tuple[str, ...]) -> float:
    """Mean error in millimetres of all but some images."""
    found = read_landmarks(out / "landmarks.csv")
    names = [name for name in truth.points if name not in without]
    return float(np.mean([np.linalg.norm(found.points[name] - truth.points[name], axis=1) for name in names]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
