"""Annotated images as files: markups, pictures, a table and the page to look at."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from monai_infoaug._files import Ledger
from monai_infoaug.commands._embedding import Embedder
from monai_infoaug.commands._judgement import Found, judge
from monai_infoaug.commands._pictures import png_bytes
from monai_infoaug.commands._review import Reviewed, draw_reviewed, review_card, review_page
from monai_infoaug.data import LandmarkTable
from monai_infoaug.data._grids import Grid
from monai_infoaug.data.landmarks import landmark_text
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
        earlier: (L, D) what the detector of the round before has found.
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
    earlier: np.ndarray


def write_annotations(
    annotations: Sequence[Annotation],
    labels: Sequence[str],
    ledger: Ledger,
    embedder: Embedder,
    detected: bool,
    notes: Sequence[str],
) -> None:
    """Write what was found in images, with how wrong it may be; images whose files are as they would be stay.

    Args:
        annotations: of all images.
        labels: names of the L landmarks.
        ledger: of the folder.
        embedder: reads images.
        detected: whether a detector has found the landmarks, not matching.
        notes: lines about the data set, for the page.
    """
    errors, absent = _judged(annotations, detected, float(embedder.config.get("working_pixdim")))
    kept = {record["card"]["name"]: record for record in ledger.records() if "card" in record}
    cards = []
    for each, its_errors, its_absent in zip(tqdm(annotations, "Writing", disable=None), errors, absent, strict=True):
        world = np.where(its_absent[:, None], np.nan, each.world)
        remarks = [_remark(error, gone, each.sure) for error, gone in zip(its_errors, its_absent, strict=True)]
        selected = ~(its_absent | np.isnan(world).any(1))
        scores = np.nan_to_num(each.scores.clip(-1, 1), nan=0.0)
        table = LandmarkTable(
            labels, {each.name: world}, {each.name: scores}, each.space, {each.name: remarks}, {each.name: selected}
        )
        markups, picture = f"{each.name}.mrk.json", f"{each.name}.png"
        text = landmark_text(markups, table)
        key = hashlib.sha256(text.encode()).hexdigest()
        record = kept.get(each.name)
        if record is None or record["key"] != key or not (ledger.folder / picture).is_file():
            image = embedder.read(each.path)
            points = to_voxels(torch.as_tensor(world), image).numpy()
            seen = Reviewed(each.name, str(each.path), image, points, its_errors, its_absent, each.sure)
            if not (ledger.folder / markups).exists() or ledger.is_ours(markups):
                ledger.write(markups, text)
            ledger.write(picture, png_bytes(draw_reviewed(seen, labels, {}), dpi=100))
            record = {"card": review_card(seen, labels, {}), "key": key}
            ledger.note(record)
        cards.append(record["card"])
    ledger.write(TABLE, _table(annotations, labels, errors, absent))
    ledger.write(PAGE, review_page(cards, labels, {}, f"Review of {ledger.folder.name}", notes))


def _judged(annotations: Sequence[Annotation], detected: bool, voxel: float) -> tuple[np.ndarray, np.ndarray]:
    """Errors (N, L) in millimetres that 90 % of such landmarks are within, and which (N, L) are absent."""
    names = ("world", "scores", "matches", "spreads", "earlier", "sure")
    world, scores, matches, spreads, earlier, sure = (
        np.array([getattr(a, name) for a in annotations]) for name in names
    )
    found = Found(world, scores, detected, matches if detected else None, spreads, earlier if detected else None)
    errors, absent = judge(found, world[sure.argmax()], voxel, [each.grid for each in annotations])
    missing = np.isnan(world).any(-1)  # what somebody has annotated is right, and what not is absent
    return np.where(sure[:, None] | missing, np.nan, errors), np.where(sure[:, None], missing, absent | missing)


def _remark(error: float, absent: bool, sure: bool) -> str:
    if sure:
        return "annotated"
    return "absent" if absent else f"90 % of such are within {error:.1f} mm"


def _table(annotations: Sequence[Annotation], labels: Sequence[str], errors: np.ndarray, absent: np.ndarray) -> str:
    """All landmarks, a line each, as :py:func:`monai_infoaug.data.read_landmarks` reads them."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    axes = "xyz"[: annotations[0].world.shape[1]]
    writer.writerow(["image", "landmark", *axes, "score", "space", "error_mm", "absent"])
    for each, its_errors, its_absent in zip(annotations, errors, absent, strict=True):
        scores = np.nan_to_num(each.scores)
        for label, place, score, error, gone in zip(labels, each.world, scores, its_errors, its_absent, strict=True):
            cells = [""] * len(axes) if gone or np.isnan(place).any() else place.round(4).tolist()
            expected = "" if np.isnan(error) else f"{error:.2f}"
            writer.writerow([each.name, label, *cells, f"{score:.4f}", each.space, expected, int(gone)])
    return text.getvalue()
