"""Annotated images as files: markups, pictures, a table and the page to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor
from tqdm import tqdm

from monai_infoaug._files import Ledger, digest_of
from monai_infoaug._grid import plain
from monai_infoaug.commands._classes import Classes
from monai_infoaug.commands._embedding import Embedder
from monai_infoaug.commands._judgement import Found, judge
from monai_infoaug.commands._label_files import read_labels, read_on_grid
from monai_infoaug.commands._label_maps import label_file
from monai_infoaug.commands._records import key_of, stamp_of
from monai_infoaug.commands._review import Reviewed, draw_reviewed, review_card, review_page
from monai_infoaug.commands._survey import Survey
from monai_infoaug.data import LandmarkTable
from monai_infoaug.data._found_landmarks import table_text
from monai_infoaug.data._grids import Grid
from monai_infoaug.data.landmarks import landmark_text
from monai_infoaug.handlers.landmark_pictures import png_bytes
from monai_infoaug.inferers import to_voxels

PAGE, TABLE = "review.html", "landmarks.csv"


@dataclass(frozen=True, eq=False)
class Annotation:
    """What was found in an image.

    Args:
        name: what its files are called, without suffix.
        path: the image.
        space: how its axes run, "RAS" or "LPS".
        grid: where its voxels lie.
        world: (L, D) landmarks in millimetres; NaN, here and below, where nothing is known.
        scores: (L,) how sure the last stage is of them.
        sure: whether somebody has annotated it.
        matches: (L, D) what the templates and pseudo-templates agree on.
        spreads: (L,) millimetres between their votes.
        detected: whether detectors have found it; else the matches are all there is.
    """

    name: str
    path: Path
    space: str
    grid: Grid
    world: np.ndarray
    scores: np.ndarray
    sure: bool
    matches: np.ndarray
    spreads: np.ndarray
    detected: bool


@dataclass(frozen=True, eq=False)
class LabelMaps:
    """Label maps of images.

    Args:
        folder: of :py:func:`monai_infoaug.commands._label_maps.segment_each`.
        classes: of the label maps.
        found: name to the mean confidence of each class, of the images that were segmented.
        sure: name to label map, of the images that somebody has annotated.
    """

    folder: Path
    classes: Classes
    found: Mapping[str, Sequence[float]]
    sure: Mapping[str, Path]

    def of(self, name: str, path: Path, embedder: Embedder) -> tuple[MetaTensor | None, Tensor | None]:
        """Masks (K, *S) of an image on its own grid, and their confidence (1, *S); None where nothing was found."""
        frame = embedder.config.get("pixdim"), embedder.config.get("origin", 0.0)
        file = self.sure.get(name) or (label_file(self.folder, name, path) if name in self.found else None)
        if file is None:
            return None, None
        labels = read_labels(file, *frame)
        masks = MetaTensor(self.classes.masks(labels).byte(), meta=labels.meta)
        if name in self.sure:
            return masks, None
        return masks, plain(read_on_grid(label_file(self.folder, name, path, "confidence"), *frame)).float() / 100


def write_annotations(
    survey: Survey,
    annotations: Sequence[Annotation] | None,
    maps: LabelMaps | None,
    labels: Sequence[str],
    ledger: Ledger,
    embedder: Embedder,
    notes: Sequence[str],
) -> None:
    """Write what was found in images, with how wrong it may be; images whose files are as they would be stay.

    Args:
        survey: all images.
        annotations: their landmarks, in the same order; None without.
        maps: their label maps; None without.
        labels: names of the L landmarks.
        ledger: of the folder.
        embedder: reads images.
        notes: lines about the data set, for the page.
    """
    kept = {record["card"]["name"]: record for record in ledger.records() if "card" in record}
    classes = {} if maps is None else dict(zip(maps.classes.values, maps.classes.names, strict=True))
    judged = {}
    if annotations is not None:
        judged = _judged(annotations, float(embedder.config.get("working_pixdim")))
        ledger.write(TABLE, _table(annotations, labels, judged))
    known = {each.name: each for each in annotations or ()}
    cards = []
    for path, name in tqdm(survey.names.items(), "Writing", unit="image", disable=None):
        markups, picture = f"{name}.mrk.json", f"{name}.png"
        text = _markups(known[name], labels, *judged[name]) if known else ""
        made_of: list[Any] = [text, labels, classes, stamp_of(path)]
        if maps is not None:
            file = maps.sure.get(name) or label_file(maps.folder, name, path)
            made_of.append(digest_of(file) if file.is_file() else None)
        key = key_of(*made_of)
        record = kept.get(name)
        if record is None or record["key"] != key or not (ledger.folder / picture).is_file():
            image = embedder.read(path)
            seen = Reviewed(name, str(path), image)
            if known:
                errors, absent = judged[name]
                world = torch.as_tensor(np.where(absent[:, None], np.nan, known[name].world))
                points = to_voxels(world, image).numpy()
                seen = replace(seen, points=points, errors=errors, absent=absent, sure=known[name].sure)
                if not (ledger.folder / markups).exists() or ledger.is_ours(markups):
                    ledger.write(markups, text)
            if maps is not None:
                masks, confidence = maps.of(name, path, embedder)
                seen = replace(seen, labels=masks, confidence=confidence, sure=seen.sure or name in maps.sure)
            ledger.write(picture, png_bytes(draw_reviewed(seen, labels, classes), dpi=100))
            record = {"card": review_card(seen, labels, classes), "key": key}
            ledger.note(record)
        cards.append(record["card"])
    ledger.write(PAGE, review_page(cards, labels, classes, f"Review of {ledger.folder.name}", notes))


def _markups(each: Annotation, labels: Sequence[str], errors: np.ndarray, absent: np.ndarray) -> str:
    """What 3D Slicer opens."""
    world = np.where(absent[:, None], np.nan, each.world)
    remarks = [_remark(error, gone, each.sure) for error, gone in zip(errors, absent, strict=True)]
    scores = np.nan_to_num(each.scores.clip(-1, 1), nan=0.0)
    shown = ~np.isnan(world).any(1)
    table = LandmarkTable(
        labels, {each.name: world}, {each.name: scores}, each.space, {each.name: remarks}, {each.name: shown}
    )
    return landmark_text(f"{each.name}.mrk.json", table)


def _judged(annotations: Sequence[Annotation], voxel: float) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Name to errors (L,) in millimetres that 90 % of such landmarks are within, and which (L,) are absent."""
    world, scores, matches, spreads, sure = (
        np.array([getattr(each, name) for each in annotations])
        for name in ("world", "scores", "matches", "spreads", "sure")
    )
    detected = annotations[0].detected
    found = Found(world, scores, detected, matches if detected else None, spreads)
    errors, absent = judge(found, world[sure.argmax()], voxel, [each.grid for each in annotations])
    missing = np.isnan(world).any(-1)  # what somebody has annotated is right, and what not is absent
    errors = np.where(sure[:, None] | missing, np.nan, errors)
    absent = np.where(sure[:, None], missing, absent | missing)
    return {each.name: (error, gone) for each, error, gone in zip(annotations, errors, absent, strict=True)}


def _remark(error: float, absent: bool, sure: bool) -> str:
    if sure:
        return "annotated"
    return "absent" if absent else f"90 % of such are within {error:.1f} mm"


def _table(
    annotations: Sequence[Annotation], labels: Sequence[str], judged: Mapping[str, tuple[np.ndarray, np.ndarray]]
) -> str:
    """All landmarks, a line each, as :py:func:`monai_infoaug.data.read_landmarks` reads them."""
    axes = "xyz"[: annotations[0].world.shape[1]]
    rows = [["image", "landmark", *axes, "score", "space", "error_mm", "absent"]]
    for each in annotations:
        errors, absent = judged[each.name]
        scores = np.nan_to_num(each.scores)
        for label, place, score, error, gone in zip(labels, each.world, scores, errors, absent, strict=True):
            cells = [""] * len(axes) if gone or np.isnan(place).any() else place.round(4).tolist()
            expected = "" if np.isnan(error) else f"{error:.2f}"
            rows.append([each.name, label, *cells, f"{score:.4f}", each.space, expected, int(gone)])
    return table_text(rows)
