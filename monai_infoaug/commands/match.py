"""Find the landmarks of one annotated template in new images: what ``monai-infoaug match`` does."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from monai_infoaug._require import reason, refusal
from monai_infoaug.commands._match_pictures import draw_match
from monai_infoaug.commands.template_matcher import Match, TemplateMatcher
from monai_infoaug.data import LandmarkTable, image_datalist, image_name, write_landmarks
from monai_infoaug.engines import keep_freed_memory

__all__ = ["match_images"]


def match_images(
    checkpoint: str | os.PathLike,
    template: str | os.PathLike,
    landmarks: str | os.PathLike,
    images: Sequence[str | os.PathLike],
    out: str | os.PathLike = "infoaug_match",
    bundle: str | os.PathLike | None = None,
    settings: Mapping[str, Any] | None = None,
    min_score: float = -1.0,
    max_round_trip: float = 3.0,
    device: str = "cpu",
) -> dict[str, str]:
    """Find the landmarks of a template in images, and write what was found.

    For each image ``NAME``, ``out`` gets ``NAME.mrk.json``, which 3D Slicer opens with the image, and a picture
    ``NAME.png``; ``landmarks.csv`` has the landmarks of all images, ``confident.csv`` those of them that are not low,
    to train on, ``summary.csv`` a row an image. Files of one name in several folders get the names of these folders
    too. An image that fails is reported, and the others are done.

    A landmark is *low*, that is, somebody should look at it, if its match, searched in the template in turn, is not
    found where it came from, or if its score is below ``min_score``. How much that tells of errors on cephalometric
    images is on the page of the bundle ``landmark_pretraining``.

    Args:
        checkpoint: file of a training with a bundle that has a network and preprocessing for matching.
        template: annotated image.
        landmarks: its table in millimetres, see :py:func:`monai_infoaug.data.landmark_datalist`.
        images: files and folders.
        out: folder for the files, made where it is missing.
        bundle: folder of the bundle, or its name in the package; by default the one that the checkpoint names.
            The configuration in a folder may run any code.
        settings: settings of the bundle's ``configs/train.json``, before those of the checkpoint.
        min_score: score below which a landmark is low.
        max_round_trip: voxels of the preprocessed template, above which a landmark is low.
        device: device of the network.

    Returns:
        Image to the reason why it failed.

    Raises:
        ValueError: before any image is read, for a fault in all that they share: checkpoint, settings, template, table.
    """
    for given in images:
        if not Path(given).exists():
            raise refusal("images", f"'{given}'", "files and folders")
    paths = list(dict.fromkeys(Path(item["image"]) for given in images for item in image_datalist(given)))
    if len(paths) == 0:
        raise refusal("images", "none", "files and folders")
    matcher = TemplateMatcher(checkpoint, template, landmarks, bundle, settings, min_score, max_round_trip, device)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    if not os.access(out, os.W_OK):
        raise refusal("out", f"'{out}'", "a folder that can be written to")

    keep_freed_memory()
    found: dict[str, Match] = {}
    failures: dict[str, str] = {}
    names = distinct_names(paths)
    for path, name in tqdm(names.items(), "Matching", unit="image", disable=None):
        try:
            image = matcher.read(path)
            match = matcher(image)
            write_landmarks(out / f"{name}.mrk.json", _markups(name, matcher.labels, match))
            draw_match(image, match, matcher, name).savefig(out / f"{name}.png", dpi=120)
            found[name] = match
        except Exception as error:  # whatever it is, it is this image's, and the others can be done
            failures[str(path)] = reason(error)
            tqdm.write(f"{path}: {failures[str(path)]}", file=sys.stderr)
    _report(out, names, found, failures, matcher.labels)
    return failures


def distinct_names(paths: Sequence[Path]) -> dict[Path, str]:
    """Name of each image: without folder, or with all below the common one where two files have the same name.

    Example:
        >>> list(distinct_names([Path("scans/1/t1.nii.gz"), Path("scans/2/t1.nii.gz")]).values())
        ['1_t1', '2_t1']
    """
    root = Path(os.path.commonpath([path.absolute().parent for path in paths]))
    within = [path.absolute().relative_to(root) for path in paths]
    for names in (
        [image_name(path) for path in within],
        ["_".join([*path.parts[:-1], image_name(path)]) for path in within],
        ["_".join(path.parts) for path in within],
        [f"{number}_{path.name}" for number, path in enumerate(within)],
    ):
        if len(set(names)) == len(names):
            break
    return dict(zip(paths, names, strict=True))


def _markups(name: str, labels: Sequence[str], match: Match) -> LandmarkTable:
    """A match for 3D Slicer, which shows landmarks that are not low as selected, in another colour."""
    notes = [
        f"round trip {trip:.1f} voxels" + "; low" * bool(low)
        for trip, low in zip(match.round_trips, match.low, strict=True)
    ]
    points, scores, selected = {name: match.world}, {name: match.scores}, {name: ~match.low}
    return LandmarkTable(labels, points, scores, match.space, {name: notes}, selected)


def _report(
    out: Path, names: Mapping[Path, str], found: Mapping[str, Match], failures: Mapping[str, str], labels: Sequence[str]
) -> None:
    """Write and print the tables of all images."""
    rows: list[tuple[str, str, str, str, str]] = []
    for path, name in names.items():
        match, failure = found.get(name), failures.get(str(path), "")
        score = "" if match is None else f"{match.scores.mean():.3f}"
        low = [] if match is None else [label for label, is_low in zip(labels, match.low, strict=True) if is_low]
        rows.append((name, str(path), score, " ".join(low), failure))
    with open(out / "summary.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["image", "file", "mean_score", "low", "failure"], *rows])
    if found:
        spaces = {match.space for match in found.values()}
        points, scores = ({name: getattr(m, kind) for name, m in found.items()} for kind in ("world", "scores"))
        table = LandmarkTable(labels, points, scores, spaces.pop() if len(spaces) == 1 else None)
        write_landmarks(out / "landmarks.csv", table)
        sure = {name: np.where(match.low[:, None], np.nan, match.world) for name, match in found.items()}
        write_landmarks(out / "confident.csv", replace(table, points=sure))
    width = max(5, *(len(row[0]) for row in rows))
    print(f"{'image':{width}}  mean score  low landmarks")
    for name, _, score, low_ones, failure in rows:
        print(f"{name:{width}}  {score or 'failed':>10}  {failure or low_ones}")
    tables = "NAME.mrk.json, NAME.png, landmarks.csv, confident.csv, summary.csv"
    print(f"Wrote {len(found)} of {len(rows)} images to {out}: {tables}.")
