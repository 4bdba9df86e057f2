"""Say which images to annotate: what ``monai-infoaug advise`` does."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from monai_infoaug._console import printable, say
from monai_infoaug._files import Ledger, write_whole
from monai_infoaug._require import reason, refusal, require_counts
from monai_infoaug.commands._contact_sheet import draw_sheet
from monai_infoaug.commands._embedding import Embedded, Embedder
from monai_infoaug.commands._images import images_of, require_seed
from monai_infoaug.commands._plan import begun_plan, make_plan
from monai_infoaug.commands._records import is_full, key_of, stamp_of, warn
from monai_infoaug.commands._stages import StagesBar, pretrained
from monai_infoaug.commands._survey import link_images, survey_images
from monai_infoaug.commands.template_matcher import Paths, TemplateMatcher, is_same, with_tables
from monai_infoaug.data._found_landmarks import table_text
from monai_infoaug.data._landmark_files import distinct_names
from monai_infoaug.engines import keep_freed_memory
from monai_infoaug.handlers.landmark_pictures import png_bytes
from monai_infoaug.inferers.template_choice import ChosenTemplates, choose_templates, salient_points

__all__ = ["advise_images"]

FILES = ("advice.csv", "advice.png")
CANDIDATES, ASKED = 24, 10  # images that are rated, and images that they are rated by
POINTS = 60  # of a candidate
NEAR = 3.0  # voxels within which a point has come back
SHOWN = 12  # candidates in the picture and in the summary, at least


@dataclass(frozen=True)
class Rating:
    """How well the points of an image are found in the Q images that are asked; NaN in itself.

    Args:
        scores: (Q,) mean scores.
        returned: (Q,) shares of the points that, searched back, come to within 3 voxels of where they came from.
    """

    scores: list[float]
    returned: list[float]


def advise_images(
    checkpoint: str | os.PathLike | None,
    images: Sequence[str | os.PathLike],
    number: int = 1,
    templates: Paths = (),
    landmarks: Paths | None = None,
    out: str | os.PathLike = "infoaug_advice",
    settings: Mapping[str, Any] | None = None,
    bundle: str | os.PathLike | None = None,
    device: str = "cpu",
    seed: int = 0,
    minutes: float = 15.0,
) -> list[Path]:
    """Say which images to annotate, so that landmarks or labels are found best in the others.

    At most 24 images are candidates, and 10 others are asked, or the same ones where there are not as many. Points of a
    candidate where its embedding changes are searched in each image that is asked: how well they are found, before
    anything is annotated, tells how well landmarks will be. With templates and landmarks given, the points of a
    candidate are the landmarks that the templates find in it. The candidates are ranked by
    :py:func:`monai_infoaug.inferers.choose_templates`: each is the one to annotate next, once those before it are.

    ``out`` gets ``advice.csv``, a row a candidate, and ``advice.png`` with the first ones. After an interruption the
    same call goes on.

    Args:
        checkpoint: file of a training with a bundle that has a network and preprocessing for matching. None: the
            images are pre-trained on, in ``out/stages``, by a plan in ``out/plan.json``.
        images: files and folders.
        number: how many images are to be annotated.
        templates: images that are annotated already.
        landmarks: their tables in millimetres, as ``monai-infoaug match`` takes them; None where
            labels have been annotated.
        out: folder for the files, made where it is missing.
        settings: settings of the bundle's ``configs/train.json``, before those of the checkpoint.
        bundle: folder of the bundle, or its name in the package; by default the one that the checkpoint names.
            The configuration in a folder may run any code.
        device: device of the network.
        seed: of the draw of candidates and of images that are asked.
        minutes: how long to pre-train without a checkpoint, about.

    Returns:
        The images to annotate, the best first.

    Raises:
        ValueError: before any image is read, for a fault in the arguments, or for a file in ``out`` that is not this
            function's to write; for fewer than two images that can be read.
        OSError: naming the file, if the disk is full.
    """
    require_counts(number=number)
    require_seed(seed)
    given = [templates] if isinstance(templates, str | os.PathLike) else list(templates)
    if landmarks is not None and not given:
        raise refusal("landmarks", f"{landmarks} without templates", "given with `templates`")
    paths, out = images_of("images", images), Path(out)
    if os.path.realpath(out) in {os.path.realpath(place) for place in images}:
        raise refusal("out", f"'{out}'", "another folder than that of the images, which pictures would be taken for")
    annotated = images_of("templates", given) if given else []
    tables = [] if landmarks is None else list(dict.fromkeys(table for _, table in with_tables(given, landmarks)))
    if checkpoint is None:
        checkpoint = _pretrained(paths, annotated, out, dict(settings or {}), minutes, device, seed)
    embedder = (
        Embedder(checkpoint, bundle, settings, device)
        if landmarks is None
        else TemplateMatcher(checkpoint, given, landmarks, bundle, settings, device=device)
    )
    ledger = Ledger(out)
    ledger.require_ours(FILES, [*paths, *annotated, *tables, checkpoint])
    out.mkdir(parents=True, exist_ok=True)

    keep_freed_memory()
    order = [paths[i] for i in np.random.default_rng(seed).permutation(len(paths))]
    order = [path for path in order if not any(is_same(template, path) for template in annotated)]
    asked, failed = ask(embedder, order)
    ahead = [path for path in order if path not in failed]
    ahead.sort(key=lambda path: any(path == each.path for each in asked))  # those that are not asked come first
    files = [stamp_of(each.path) for each in asked]
    read = map(Path, [checkpoint, *annotated, *tables])
    key = key_of(embedder.config.get(), files, POINTS, NEAR, *read)
    rated = _rate_all(embedder, ledger, key, annotated, ahead, asked)
    done = list(rated)
    scores = torch.tensor([rated[path].scores for path in done])
    known = [row for row, path in enumerate(done) if path in annotated]
    if len(known) == len(done) or not scores.isfinite().any():
        raise refusal("images", "none that can be compared", "at least two that can be read")
    ranked = choose_templates(scores, given=known)
    names = distinct_names(done)
    rows = _rows(ranked, done, names, rated)
    text = table_text([["rank", "image", "file", "score", "come_back", "reached", "gain"], *rows])
    ledger.write(FILES[0], text)
    best = [done[row] for row in ranked.rows.tolist()]
    shown = best[: max(number, SHOWN)]
    captions = [f"{rank}. {name}: {float(score):.3f}" for rank, name, _, score, *_ in rows[: len(shown)]]
    ledger.write(FILES[1], png_bytes(draw_sheet([embedder.read(path) for path in shown], captions, number), dpi=100))
    _report(rows, out, number, f"{len(rows)} of {len(paths)} images in {len(asked)} others")
    return best[:number]


def _pretrained(
    paths: Sequence[Path],
    annotated: Sequence[Path],
    out: Path,
    settings: Mapping[str, Any],
    minutes: float,
    device: str,
    seed: int,
) -> Path:
    """The checkpoint of a pre-training on the images, by a plan that stays when more of them come."""
    frame: dict[str, Any] = {"pixdim": settings.get("pixdim"), "origin": settings.get("origin", 0.0)}
    survey = survey_images(distinct_names(paths), [path for path in paths if path in annotated], **frame)
    for path, why in survey.left_out.items():
        warn(f"{path}: left out: {why}")
    asked = frame | {"minutes": minutes, "device": device, "seed": seed}
    plan = begun_plan(None, out, survey, **asked) or make_plan(survey, [], [], **asked)
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / "plan.json", plan.as_text())
    bar = StagesBar({"pretraining": 60 * plan.stages["pretraining"]["minutes"]})
    try:
        return pretrained(plan, link_images(survey.names, out / "stages" / "images"), bar)
    finally:
        bar.close()


def ask(embedder: Embedder, paths: Iterable[Path]) -> tuple[list[Embedded], set[Path]]:
    """The first images that can be embedded, as many as are asked, and those that cannot."""
    asked, failed = list[Embedded](), set[Path]()
    for path in paths:
        if len(asked) == ASKED:
            break
        try:
            image = embedder.read(path)
            asked.append(Embedded(path, image, embedder.embed(image)))
        except (ValueError, RuntimeError, OSError) as error:
            failed.add(path)
            warn(f"{path}: {reason(error)}")
    return asked, failed


def _rate_all(
    embedder: Embedder,
    ledger: Ledger,
    key: str,
    annotated: Sequence[Path],
    ahead: Sequence[Path],
    asked: Sequence[Embedded],
) -> dict[Path, Rating]:
    """Rate templates and as many candidates as there are to be; those that fail are told, and others take their place.

    What was rated before is not rated again.
    """
    records = [record for record in ledger.records() if record.get("advice") == key]
    before = {(record["image"], str(record["stamp"])): record for record in records}
    rated = dict[Path, Rating]()
    count = len(annotated) + min(CANDIDATES, len(ahead))
    with tqdm(total=count, desc="Comparing", unit="image", disable=None) as bar:
        for path in (*annotated, *ahead):
            if len(rated) == count:
                break
            try:
                known = {"advice": key, "image": os.path.abspath(path), "stamp": stamp_of(path)}
                record = before.get((known["image"], str(known["stamp"])))
                if record is None:
                    record = known | vars(rate(embedder, path, asked))
                    ledger.note(record)
                rated[path] = Rating(record["scores"], record["returned"])
                bar.update()
            except (ValueError, RuntimeError, OSError) as error:
                if is_full(error):
                    raise
                warn(f"{path}: {reason(error)}")
    return rated


def rate(embedder: Embedder, path: Path, asked: Sequence[Embedded]) -> Rating:
    """Search the points of an image in those that are asked, and back."""
    image = embedder.read(path)
    levels = embedder.embed(image)
    points = _points(embedder, path, levels)
    scores, returned = [], []
    for each in asked:
        if is_same(each.path, path):
            scores.append(np.nan)
            returned.append(np.nan)
            continue
        found, score = embedder.search(levels, points, each.levels, each.image)
        back, _ = embedder.search(each.levels, found, levels, image)
        trips = (back - points).norm(dim=-1)
        scores.append(score.nanmean().item())
        returned.append((trips[~trips.isnan()] <= NEAR).float().mean().item())
    return Rating(scores, returned)


def _points(embedder: Embedder, path: Path, levels: Sequence[Tensor]) -> Tensor:
    """Points (1, N, D) of an image that stand for what will be annotated in it."""
    if not isinstance(embedder, TemplateMatcher):
        return salient_points(levels, embedder.strides, POINTS, embedder.config.get("level_weights"))
    annotated = [template.points for template in embedder.templates if is_same(template.path, path)]
    return annotated[0] if annotated else torch.as_tensor(embedder.look(path)[1]).float()[None].to(embedder.device)


def _rows(
    ranked: ChosenTemplates, paths: Sequence[Path], names: Mapping[Path, str], rated: Mapping[Path, Rating]
) -> list[tuple[Any, ...]]:
    """Rows of the table: rank, name, file, mean score, share of points that come back, what is reached, its gain."""
    rows = []
    for rank, (row, score, reached, gain) in enumerate(zip(*(each.tolist() for each in ranked), strict=True), 1):
        path = paths[row]
        returned = torch.tensor(rated[path].returned).nanmean().item()
        numbers = [f"{value:.4f}" for value in (score, returned, reached, gain)]
        rows.append((rank, names[path], printable(str(path)), *numbers))
    return rows


def _report(rows: Sequence[tuple[Any, ...]], out: Path, number: int, compared: str) -> None:
    """Print the first rows of the table."""
    shown = rows[: max(number, SHOWN)]
    width = max(5, *(len(row[1]) for row in shown))
    say(f"Searched points of {compared}.")
    say(f"rank  {'image':{width}}  score  come back  reached")
    for rank, name, _, score, back, reached, _ in shown:
        say(f"{rank:>4}  {name:{width}}  {float(score):.3f}  {float(back):9.0%}  {float(reached):7.3f}")
    say(f"Annotate {'the first' if number == 1 else f'the first {number}'}. Wrote {', '.join(FILES)} to {out}.")
