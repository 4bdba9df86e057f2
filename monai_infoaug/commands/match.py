"""Find the landmarks of annotated templates in new images: what ``monai-infoaug match`` does."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from monai_infoaug._console import say
from monai_infoaug._files import Ledger
from monai_infoaug._require import reason, refusal, require_counts
from monai_infoaug.commands._images import images_of
from monai_infoaug.commands._match_pictures import draw_match
from monai_infoaug.commands._records import is_full, key_of, stamp_of, warn
from monai_infoaug.commands.template_matcher import Match, Paths, TemplateMatcher, is_same, with_tables
from monai_infoaug.data import LandmarkTable
from monai_infoaug.data._found_landmarks import FOUND_TABLES, found_tables, summary_rows
from monai_infoaug.data._headers import faults_beside
from monai_infoaug.data._landmark_files import distinct_names
from monai_infoaug.data.landmarks import landmark_text
from monai_infoaug.engines import keep_freed_memory
from monai_infoaug.handlers.landmark_pictures import png_bytes

__all__ = ["match_images"]

UNTRAINED = 0.5  # share of low landmarks above which the network has learnt little


def match_images(
    checkpoint: str | os.PathLike,
    template: Paths,
    landmarks: Paths,
    images: Sequence[str | os.PathLike],
    out: str | os.PathLike = "infoaug_match",
    bundle: str | os.PathLike | None = None,
    settings: Mapping[str, Any] | None = None,
    min_score: float = -1.0,
    max_round_trip: float = 3.0,
    device: str = "cpu",
    consensus: int = 0,
    pool: Sequence[str | os.PathLike] | None = None,
) -> dict[str, str]:
    """Find the landmarks of a template in images, and write what was found.

    For each image ``NAME``, ``out`` gets ``NAME.mrk.json``, which 3D Slicer opens with the image, and a picture
    ``NAME.png``; ``landmarks.csv`` has the landmarks of all images, ``confident.csv`` those of them that are not low,
    to train on, ``summary.csv`` a row an image. Files of one name in several folders get the names of these folders
    too. An image that fails is reported, and the others are done.

    Files are written whole or not at all, and the tables follow while the work goes on. After an interruption the same
    call goes on: images that were done with the same checkpoint, template, landmarks and settings are not done again.
    Files of others are not written over, nor are those that were changed since they were written.

    Several templates have a vote each on where a landmark is: :py:func:`monai_infoaug.inferers.robust_centre` of the
    votes counts. With a ``consensus`` of K, the templates' landmarks are first searched in all images of the ``pool``,
    and the K images that score best are templates, too, with the landmarks that were found. With more images, those
    that were done are done again only if others have become templates.

    A landmark is *low*, that is, somebody should look at it, if its match, searched in the template in turn, is not
    found where it came from, or if its score is below ``min_score``. How much that tells of errors on cephalometric
    images is on the page of the bundle ``landmark_pretraining``.

    Args:
        checkpoint: file of a training with a bundle that has a network and preprocessing for matching.
        template: annotated image, several of them, or a folder of such; they need not show the same landmarks.
        landmarks: its table in millimetres, see :py:func:`monai_infoaug.data.landmark_datalist`; of several templates
            one for all, or one each.
        images: files and folders.
        out: folder for the files, made where it is missing.
        bundle: folder of the bundle, or its name in the package; by default the one that the checkpoint names.
            The configuration in a folder may run any code.
        settings: settings of the bundle's ``configs/train.json``, before those of the checkpoint.
        min_score: score below which a landmark is low.
        max_round_trip: voxels of the preprocessed template, above which a landmark is low.
        device: device of the network.
        consensus: number of images that become templates, 0 for none.
        pool: files and folders of the images that may become templates; None: all ``images``.

    Returns:
        Image to the reason why it failed.

    Raises:
        ValueError: before any image is read, for a fault in all that they share: checkpoint, settings, template, table,
            or for a file in ``out`` that is not this function's to write.
        OSError: naming the file, if the disk is full.
    """
    require_counts(0, consensus=consensus)
    paths = images_of("images", images)
    out = Path(out)
    if os.path.realpath(out) in {os.path.realpath(given) for given in images}:
        raise refusal("out", f"'{out}'", "another folder than that of the images, which pictures would be taken for")
    matcher = TemplateMatcher(checkpoint, template, landmarks, bundle, settings, min_score, max_round_trip, device)
    ledger, names = Ledger(out), distinct_names(paths)
    templates, tables = zip(*with_tables(template, landmarks), strict=True)
    read = [checkpoint, *templates, *dict.fromkeys(tables)]
    limits = matcher.min_score, matcher.max_round_trip
    key, inputs = key_of(matcher.config.get(), *limits, *map(Path, read)), [*paths, *read]
    if consensus:
        ledger.require_ours(FOUND_TABLES, inputs)
        _require_writable(out)
        key = _add_templates(matcher, ledger, key, names if pool is None else images_of("pool", pool), consensus)
    found = _found_before(ledger, key, names)
    to_write = [file for name in names.values() if name not in found for file in _files(name)]
    ledger.require_ours([*to_write, *FOUND_TABLES], inputs)
    _require_writable(out)
    for file in (file for name in found for file in _files(name) if not ledger.is_ours(file)):
        warn(f"{out / file} was changed since it was written: it stays so, and the tables do not follow")

    keep_freed_memory()
    before = len(found)
    failures: dict[str, str] = {}
    ahead = [path for path, name in names.items() if name not in found]
    for fault in faults_beside(templates[0], ahead, matcher.config.get("pixdim", 1)) if len(ahead) > 1 else ():
        warn(f"Of the images ahead: {fault}")
    due = 0.0  # when the tables are to be written again
    for path, name in tqdm(names.items(), "Matching", unit="image", disable=None):
        if name in found:
            continue
        try:
            stamp = stamp_of(path)
            image = matcher.read(path)
            match = matcher(image, path)
            markups, picture = _files(name)
            ledger.write(markups, landmark_text(markups, _markups(name, matcher.labels, match)))
            ledger.write(picture, png_bytes(draw_match(image, match, matcher, name), dpi=120))
            ledger.note({"match": key, "image": os.path.abspath(path), "stamp": stamp, "name": name} | match.as_json())
            found[name] = match
        except Exception as error:  # whatever it is, it is this image's, and the others can be done
            if is_full(error):
                raise
            failures[str(path)] = reason(error)
            warn(f"{path}: {failures[str(path)]}")
        if time.monotonic() >= due:  # often, in a twentieth of the time
            start = time.monotonic()
            _write_tables(ledger, names, found, failures, matcher.labels)
            due = time.monotonic() + 20 * (time.monotonic() - start)
    rows = _write_tables(ledger, names, found, failures, matcher.labels)
    _report(out, rows, list(found.values()), before)
    return failures


def _require_writable(out: Path) -> None:
    """Make the folder, and refuse one that cannot be written to."""
    out.mkdir(parents=True, exist_ok=True)
    if not os.access(out, os.W_OK):
        raise refusal("out", f"'{out}'", "a folder that can be written to")


def _add_templates(matcher: TemplateMatcher, ledger: Ledger, key: str, paths: Iterable[Path], count: int) -> str:
    """Make the images in which the template's landmarks score best templates, too; what tells matches of these all.

    What the template scores is kept; an image that fails has no score, and its failure is told later.
    """
    looked = {
        (record["image"], str(record["stamp"])): record for record in ledger.records() if record.get("look") == key
    }
    scored = []
    for path in tqdm(paths, "Choosing", unit="image", disable=None):
        if any(is_same(template.path, path) for template in matcher.templates):
            continue
        with suppress(ValueError, RuntimeError, OSError):
            known = {"look": key, "image": os.path.abspath(path), "stamp": stamp_of(path)}
            record = looked.get((known["image"], str(known["stamp"])))
            if record is None:
                score, points = matcher.look(path)
                record = known | {"score": score, "points": points.tolist()}
                ledger.note(record)
            scored.append((record["score"], path, record))
    best = sorted(scored, key=lambda item: item[0], reverse=True)[:count]
    if len(best) < count:
        warn(f"The consensus is of {len(best)} images beside the template: there are no more.")
    for _, path, record in best:
        matcher.add(path, np.array(record["points"]))
    return key_of(key, *([record["image"], record["stamp"], record["points"]] for *_, record in best))


def _markups(name: str, labels: Sequence[str], match: Match) -> LandmarkTable:
    """A match for 3D Slicer, which shows landmarks that are not low as selected, in another colour."""
    notes = [
        f"round trip {trip:.1f} voxels" + "; low" * bool(low)
        for trip, low in zip(match.round_trips, match.low, strict=True)
    ]
    if match.spreads is not None and match.votes is not None:
        counts = zip(match.votes, match.spreads, strict=True)
        agreed = [f"{n} vote{'s' * bool(n > 1)}, spread {mm:.1f} mm; " for n, mm in counts]
        notes = [text + note for text, note in zip(agreed, notes, strict=True)]
    points, scores, selected = {name: match.world}, {name: match.scores}, {name: ~match.low}
    return LandmarkTable(labels, points, scores, match.space, {name: notes}, selected)


def _files(name: str) -> tuple[str, str]:
    """The files of an image."""
    return f"{name}.mrk.json", f"{name}.png"


def _found_before(ledger: Ledger, key: str, names: Mapping[Path, str]) -> dict[str, Match]:
    """The matches of an earlier run that need not be made again, in the order of the images."""
    kept = {(record["image"], record["name"]): record for record in ledger.records() if record.get("match") == key}
    found = {}
    for path, name in names.items():
        record = kept.get((os.path.abspath(path), name), {})
        if record.get("stamp") == stamp_of(path) and all((ledger.folder / file).is_file() for file in _files(name)):
            found[name] = Match.from_json(record)
    return found


def _write_tables(
    ledger: Ledger,
    names: Mapping[Path, str],
    found: Mapping[str, Match],
    failures: Mapping[str, str],
    labels: Sequence[str],
) -> list[tuple[str, str, str, str, str]]:
    """Write the tables of all images that are done, and return the rows of the summary."""
    rows = summary_rows(labels, names, found, failures)
    in_order = {name: found[name] for name in names.values() if name in found}
    for file, text in found_tables(labels, in_order, rows).items():
        ledger.write(file, text)
    return rows


def _report(out: Path, rows: Sequence[tuple[str, str, str, str, str]], found: Sequence[Match], before: int) -> None:
    """Print the summary."""
    width = max(5, *(len(row[0]) for row in rows))
    say(f"{'image':{width}}  mean score  low landmarks")
    for name, _, score, low, failure in rows:
        say(f"{name:{width}}  {score or 'failed':>10}  {failure or low}")
    if found and np.mean([match.low for match in found]) > UNTRAINED:
        say("Most landmarks are low: the network is hardly trained, or the images show something else.")
    earlier = f", {before} of them before," if before else ""
    written = f"NAME.mrk.json, NAME.png, {', '.join(FOUND_TABLES)}"
    say(f"Wrote {len(found)} of {len(rows)} images{earlier} to {out}: {written}.")
