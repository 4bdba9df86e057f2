"""Found landmarks as tables, markups and pictures."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.utils import optional_import
from monai.utils.enums import MetaKeys

from monai_infoaug._console import say
from monai_infoaug._files import write_whole
from monai_infoaug._processes import all_gather_interleaved, rank, world_size
from monai_infoaug._require import is_count, is_number, refusal
from monai_infoaug.data import LandmarkTable, image_name, write_landmarks
from monai_infoaug.data._found_landmarks import found_tables, summary_rows, table_text
from monai_infoaug.data._landmark_files import distinct_names
from monai_infoaug.handlers.landmark_pictures import landmark_figure, png_bytes
from monai_infoaug.inferers import to_voxels
from monai_infoaug.metrics import MeanRadialError, success_detection_rate

Events, _ = optional_import("ignite.engine", name="Events")

__all__ = ["LandmarkReport", "summarise_errors"]


def summarise_errors(
    errors: np.ndarray, radii: Sequence[float] = (2.0, 2.5, 3.0, 4.0), labels: Sequence[str] | None = None
) -> str:
    """Summarise radial errors in text: mean radial error and success detection rates, overall and by landmark.

    Args:
        errors: (images, L) in millimetres, NaN where there is no truth, infinite where nothing was found.
        radii: radii of the success detection rates, in millimetres; an error strictly below counts.
        labels: names of the landmarks, by default 0 ... L - 1.

    Returns:
        A table with a line for all landmarks and one for each, those without truth left out.

    Raises:
        ValueError: for another number of labels than of landmarks.

    Example:
        >>> print(summarise_errors(np.array([[1.0, 3.0], [2.0, np.nan]]), radii=[2.5], labels=["sella", "nasion"]))
         landmark  MRE mm  median      SD  SDR 2.5 mm %
              all    2.00    2.00    0.82          66.7
            sella    1.50    1.50    0.50         100.0
           nasion    3.00    3.00    0.00           0.0
    """
    header, *rows = error_rows(errors, radii, labels)
    width = max(9, *(len(name) for name, *_ in rows))
    titles = [f"SDR {r:g} mm %" for r in radii]
    lines = [f"{header[0]:>{width}}  MRE mm  median      SD" + "".join(f"  {title}" for title in titles)]
    for name, _, mean, median, spread, *rates in rows:
        shares = (f"{rate:>{len(title) + 2}.1f}" for rate, title in zip(rates, titles, strict=True))
        lines.append(f"{name:>{width}}{mean:8.2f}{median:8.2f}{spread:8.2f}" + "".join(shares))
    return "\n".join(lines)


def error_rows(
    errors: np.ndarray, radii: Sequence[float] = (2.0, 2.5, 3.0, 4.0), labels: Sequence[str] | None = None
) -> list[list[Any]]:
    """A header, and a row for all landmarks and for each: number of errors, mean, median, deviation, success rates."""
    names = names_of(labels, errors.shape[1])
    rows: list[list[Any]] = [
        ["landmark", "count", "mean_mm", "median_mm", "sd_mm", *(f"within_{r:g}mm_percent" for r in radii)]
    ]
    for name, column in [("all", errors), *zip(names, errors.T, strict=True)]:
        known = column[~np.isnan(column)]
        if known.size:
            rates = success_detection_rate(torch.as_tensor(known, dtype=torch.float64), radii)
            with np.errstate(invalid="ignore"):  # infinite errors have no deviation
                values = [known.mean(), np.median(known), known.std(), *(100 * rates).tolist()]
            rows.append([name, known.size, *(round(float(value), 3) for value in values)])
    return rows


def names_of(labels: Sequence[str] | None, count: int) -> Sequence[str]:
    """The labels of ``count`` landmarks, their numbers if there are none."""
    names = tuple(map(str, range(count))) if labels is None else tuple(labels)
    if len(names) != count:
        raise refusal("labels", f"{len(names)} of them", f"{count} names, one a landmark")
    return names


class LandmarkReport:
    """Handler that writes what an evaluator with a ``LandmarkMatcher`` or a ``HeatmapDetector`` found.

    As ``monai-infoaug match`` does, it writes ``NAME.mrk.json`` an image, which 3D Slicer opens with it, and a picture
    ``NAME.png``; ``landmarks.csv`` has the landmarks of all images, ``confident.csv`` those that are not low, and
    ``summary.csv`` a row an image. Where the true landmarks are known, ``errors.csv`` has the mean radial error and
    success detection rates, overall and by landmark, which are printed, too. A batch of the evaluator must be
    decollated, as it is by default. Of several processes the first writes what all of them found, see ``own_items``;
    they share the folder.

    Args:
        output_dir: folder, made where it is missing.
        radii: radii of the success detection rates, in millimetres.
        num_pictures: of how many images, the first ones, a picture is made; None: of all.
        labels: names of the landmarks, by default 0 ... L - 1.
        min_score: score below which a landmark is low.

    Raises:
        ValueError: for ``num_pictures`` that is no whole number of at least 0, or a ``min_score`` that is no number;
            when it writes, for another number of labels than of landmarks.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike,
        radii: Sequence[float] = (2.0, 2.5, 3.0, 4.0),
        num_pictures: int | None = None,
        labels: Sequence[str] | None = None,
        min_score: float = -1.0,
    ) -> None:
        if num_pictures is not None and not is_count(num_pictures):
            raise refusal("num_pictures", num_pictures, "a whole number of at least 0, or None")
        if not is_number(min_score):
            raise refusal("min_score", min_score, "a number")
        self.labels, self.min_score = labels, min_score
        self.output_dir, self.radii, self.num_pictures = Path(output_dir), tuple(radii), num_pictures
        self.items: list[_Found] = []

    def attach(self, engine: Any) -> None:
        """Attach to an evaluator."""
        engine.add_event_handler(Events.STARTED, lambda _: self.items.clear())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.collect)
        engine.add_event_handler(Events.COMPLETED, self.write)

    def collect(self, engine: Any) -> None:
        """Keep what was found in a batch: ``pred`` of the inferer, ``label`` (L, D) in mm or None."""
        self.output_dir.mkdir(parents=True, exist_ok=True)
        for item in engine.state.output:
            image, truth, number = item["image"], item.get("label"), rank() + world_size() * len(self.items)
            found = {key: item["pred"][key].cpu().numpy() for key in ("landmarks", "world", "scores")}
            errors = None
            if truth is not None:
                truth = torch.as_tensor(truth).cpu()
                errors = torch.as_tensor(MeanRadialError()(item["pred"]["world"].cpu()[None], truth[None]))[0].numpy()
            each = _Found(
                Path(str(image.meta.get("filename_or_obj", f"image_{number}"))),
                found["world"],
                found["scores"],
                found["scores"] < self.min_score,
                image.meta.get(MetaKeys.SPACE),
                errors,
            )
            if self.num_pictures is None or number < self.num_pictures:
                shown = None if truth is None else to_voxels(truth, image).numpy()
                labels = names_of(self.labels, len(each.world))
                title = image_name(each.path) + ("" if errors is None else f": {np.nanmean(errors):.1f} mm")
                array = image.cpu().numpy()
                figure = landmark_figure(array, found["landmarks"], title, labels, each.low, shown)
                each.picture = self.output_dir / f".{number}.png"  # until all names are known
                each.picture.write_bytes(png_bytes(figure, dpi=100))
            self.items.append(each)

    def write(self, engine: Any) -> None:  # noqa: ARG002
        """Write tables, markups and pictures. Each process must call it."""
        self.items = all_gather_interleaved(self.items)
        if rank() > 0:
            return
        labels, names = names_of(self.labels, len(self.items[0].world)), distinct_names([x.path for x in self.items])
        found = {names[each.path]: each for each in self.items}
        for name, each in found.items():
            table = LandmarkTable(labels, {name: each.world}, {name: each.scores}, each.space, None, {name: ~each.low})
            write_landmarks(self.output_dir / f"{name}.mrk.json", table)
            if each.picture is not None:
                each.picture.replace(self.output_dir / f"{name}.png")
        files = found_tables(labels, found, summary_rows(labels, names, found, {}))
        errors = [each.errors for each in self.items if each.errors is not None]
        if len(errors) == len(self.items):
            files["errors.csv"] = table_text(error_rows(np.stack(errors), self.radii, labels))
            say(f"Errors on {len(errors)} images:\n{summarise_errors(np.stack(errors), self.radii, labels)}")
        for file, text in files.items():
            write_whole(self.output_dir / file, text)
        pictures = "NAME.png, " if any(each.picture for each in self.items) else ""
        say(f"Wrote {len(found)} images to {self.output_dir}: NAME.mrk.json, {pictures}{', '.join(files)}.")


@dataclass
class _Found:
    """What was found in an image, as :py:class:`monai_infoaug.data._found_landmarks.FoundLandmarks`."""

    path: Path
    world: np.ndarray
    scores: np.ndarray
    low: np.ndarray
    space: str | None
    errors: np.ndarray | None
    picture: Path | None = None
