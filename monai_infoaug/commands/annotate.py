"""Annotate a folder of images from one annotated image: what ``monai-infoaug annotate`` does."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from monai.utils.enums import MetaKeys
from tqdm import tqdm

from monai_infoaug._console import printable, say
from monai_infoaug._files import RECORD, Ledger, write_whole
from monai_infoaug._require import refusal
from monai_infoaug.commands._annotated import Annotation, write_annotations
from monai_infoaug.commands._embedding import Embedder
from monai_infoaug.commands._images import distinct_names, images_of, read_image
from monai_infoaug.commands._plan import FEWEST, Plan, make_plan, read_plan
from monai_infoaug.commands._stages import StagesBar, run_command, run_stage
from monai_infoaug.commands._survey import Survey, link_images, survey_images
from monai_infoaug.commands.template_matcher import Match, Paths, is_same, with_tables
from monai_infoaug.data import LandmarkTable, image_name, landmark_datalist, read_landmarks
from monai_infoaug.data._places import if_turned, outside
from monai_infoaug.data.landmarks import landmark_text

__all__ = ["annotate_images"]

MIN_SCORE = 0.5  # of a detector's landmark as a label of the next round


@dataclass(frozen=True)
class Sure:
    """Landmarks of an image that somebody has annotated.

    Args:
        path: image.
        table: its table.
        name: its name among all images.
    """

    path: Path
    table: Path
    name: str

    def landmarks(self, space: str, labels: Sequence[str] | None = None) -> tuple[list[str], np.ndarray]:
        """Names of the landmarks, and (L, D) millimetres, NaN where it lacks one."""
        item = landmark_datalist(self.path, self.table, space)[0]
        known = dict(zip(item["labels"], np.asarray(item["landmarks"], float), strict=True))
        missing = np.full(np.asarray(item["landmarks"]).shape[1], np.nan)
        names = list(known) if labels is None else list(labels)
        return names, np.array([known.get(label, missing) for label in names])


def annotate_images(
    images: Sequence[str | os.PathLike],
    template: Paths,
    landmarks: Paths,
    out: str | os.PathLike = "infoaug_annotated",
    pixdim: float | list[float] | None = None,
    origin: float | list[float] = 0.0,
    minutes: float = 60.0,
    plan: str | os.PathLike | None = None,
    dry_run: bool = False,
    corrected: str | os.PathLike | None = None,
    device: str = "cpu",
    seed: int = 0,
) -> dict[str, str]:
    """Annotate images from one that is annotated, or from a few.

    All images are read, and a plan is made of what suits them, ``plan.json``, which may be edited and given again. Then
    come the stages, each a run of a bundle or command in a folder of its own below ``stages``, where its exact command
    is: pre-training without labels; matching of the templates, with a consensus of images that match well; in 2D two
    rounds of a detector, the first one trained on the matches, the second one on what the first one has found; and
    prediction. ``out`` gets for each image ``NAME.mrk.json`` for 3D Slicer and a picture ``NAME.png``, and over all
    ``landmarks.csv`` and the page ``review.html``, on which the images that need a look come first.

    After an interruption the same call goes on. With more images it annotates these with the networks that are there,
    with more templates, or corrected ones, it learns again from the matching on.

    Args:
        images: files and folders; those that cannot be read or are unlike the others are left out, with a line each.
        template: annotated image, several of them, or a folder of such, among the images or elsewhere.
        landmarks: table in millimetres, see :py:func:`monai_infoaug.data.landmark_datalist`: one for all or one each.
        out: folder for the files, made where it is missing.
        pixdim: millimetres a pixel, for PNG and JPEG, which do not say it.
        origin: millimetres of the first pixel's centre, with ``pixdim``.
        minutes: how long the stages are to take on this machine, about.
        plan: file of a plan; None: that in ``out``, or else one is made.
        dry_run: whether to stop once the plan is written and shown.
        corrected: folder with files ``NAME.mrk.json`` or ``NAME.fcsv`` of images that somebody has corrected, which
            become templates.
        device: where the networks are: cpu, cuda, cuda:1, ...
        seed: of all that is drawn.

    Returns:
        Image to the reason why it was left out.

    Raises:
        ValueError: for what is wrong with the arguments, templates or tables, before anything is computed.
        RuntimeError: if a stage fails; its log is named.
        OSError: naming the file, if the disk is full.
    """
    pairs = [(Path(path), Path(table)) for path, table in with_tables(template, landmarks)]
    paths = images_of("images", images)
    paths += [path for path, _ in pairs if not any(is_same(path, other) for other in paths)]
    names = distinct_names(paths)
    pairs += _corrected(corrected, names)
    out = Path(out)
    if os.path.realpath(out) in {os.path.realpath(given) for given in images}:
        raise refusal("out", f"'{out}'", "another folder than that of the images, which pictures would be taken for")
    known = [Sure(path, table, next(names[p] for p in paths if is_same(path, p))) for path, table in pairs]
    known = list({each.name: each for each in known}.values())  # what was corrected counts
    for each in known:
        _require_inside(each, pixdim, origin)
    survey = survey_images(
        names, [path for path in paths if names[path] in {each.name for each in known}], pixdim, origin
    )
    for path, why in survey.left_out.items():
        _warn(f"{path}: left out: {why}")
    if len(survey.names) < FEWEST:
        _warn(f"{len(survey.names)} images are few: below {FEWEST} there is little to learn from.")
    labels = list(dict.fromkeys(label for each in known for label in each.landmarks("RAS")[0]))
    out.mkdir(parents=True, exist_ok=True)
    ledger, file = Ledger(out), out / "plan.json" if plan is None else Path(plan)
    if plan is not None or file.exists():
        made = read_plan(file, survey)
    else:
        made = make_plan(survey, ["landmarks"], labels, minutes, pixdim, origin, device, seed)
    write_whole(out / "plan.json", made.as_text())
    _show(made, survey, out)
    if not dry_run:
        _Work(made, survey, known, labels, out).run(ledger)
    return {str(path): why for path, why in survey.left_out.items()}


def _corrected(
    folder: str | os.PathLike | None, names: Mapping[Path, str]
) -> list[tuple[Path, Path]]:
    """Images that were corrected, with the files.

    Raises:
        ValueError: for a folder that does not exist, or without a file of an image.
    """
    if folder is None:
        return []
    files = {image_name(file): file for file in sorted(Path(folder).glob("*")) if file.suffix in (".json", ".fcsv")}
    found = [(path, files[name]) for path, name in names.items() if name in files]
    if not found:
        raise refusal("corrected", f"'{folder}'", "a folder with files NAME.mrk.json or NAME.fcsv of the images")
    return found


def _require_inside(given: Sure, pixdim: float | list[float] | None, origin: float | list[float]) -> None:
    """Refuse landmarks that lie outside of their template.

    Raises:
        ValueError: saying which, and what they may be.
    """
    if pixdim is None and given.path.suffix.lower() in (".png", ".jpg", ".jpeg", ".bmp"):
        return  # `survey_images` says what is missing
    image, _ = read_image(given.path, pixdim, origin)
    labels, world = given.landmarks(image.meta.get(MetaKeys.SPACE) or "RAS")
    shown = np.isfinite(world).all(1)
    if not shown.any():
        raise refusal("landmarks", f"'{given.table}' without one of '{given.path}'", "a table of the template")
    if world.shape[1] != image.ndim - 1:
        raise refusal("landmarks", f"{world.shape[1]} coordinates in '{given.table}'", f"{image.ndim - 1} a landmark")
    _, out = outside(world[shown], image)
    if out.any():
        pixels = bool((world[shown] >= 0).all() and (world[shown] <= image.shape[1:]).all()) and pixdim not in (None, 1)
        hint = "; they lie inside as pixels: multiply them by the millimetres of a pixel" if pixels else ""
        which = [label for label, is_out in zip(np.array(labels)[shown], out, strict=True) if is_out]
        some = ", ".join(which[:3]) + ", ..." * (len(which) > 3)
        got = f"{len(which)} of {shown.sum()} outside of '{given.path}' ({some})"
        raise refusal("landmarks", f"{got}{if_turned(world[shown], image)}{hint}", "millimetres inside of the template")


def _warn(line: str) -> None:
    with suppress(OSError):  # nobody reads it any more
        tqdm.write(printable(line), file=sys.stderr)


def _show(plan: Plan, survey: Survey, out: Path) -> None:
    rows = list(plan.rows(survey))
    wide = [max(len(row[i]) for row in rows) for i in (0, 1)]
    for name, value, why in rows:
        say(f"{name:{wide[0]}}  {value:{wide[1]}}  {why}")
    say(f"Wrote {out / 'plan.json'}: edit it and give it as --plan to do otherwise.")


class _Work:
    """The stages of a plan for landmarks.

    Args:
        plan: what is to be done.
        survey: the images.
        known: those that somebody has annotated.
        labels: names of the landmarks.
        out: folder.
    """

    def __init__(self, plan: Plan, survey: Survey, known: Sequence[Sure], labels: Sequence[str], out: Path) -> None:
        self.plan, self.survey, self.known, self.labels = plan, survey, known, list(labels)
        self.out, self.folder = out, Path(os.path.abspath(out)) / "stages"
        self.names = survey.names
        self.bar = StagesBar({name: 60 * stage["minutes"] for name, stage in plan.stages.items()})

    def run(self, ledger: Ledger) -> None:
        """Run what is missing, and write what was found."""
        self.images = link_images(self.names, self.folder / "images")
        checkpoint = self._pretrained()
        matched = self._matched(checkpoint)
        rounds = [name for name in self.plan.stages if name.startswith("round")]
        found: list[LandmarkTable] = []
        for name in rounds:
            table = self._labels_of(name, matched, found)
            self._train(name, table, checkpoint)
            found.append(self._detected(name))
        annotations = [self._annotation(path, name, matched, found) for path, name in self.names.items()]
        given = {"pixdim": self.plan.pixdim, "origin": self.plan.origin}
        embedder = Embedder(checkpoint, settings=given, device=self.plan.device)
        self.bar.close()
        write_annotations(annotations, self.labels, ledger, embedder, [f"Templates: {', '.join(self._templates())}."])
        say(f"Annotated {len(annotations)} images in {self.out}: look at {self.out / 'review.html'} first.")

    def _templates(self) -> list[str]:
        return [each.name for each in self.known]

    def _progress(self, stage: str) -> Callable[[float], None]:
        return lambda share: self.bar(stage, share)

    def _pretrained(self) -> Path:
        settings = self.plan.settings("pretraining") | {"dataset_dir": str(self.images)}
        folder = self.folder / "1_pretraining"
        run_stage(folder, self.plan.stages["pretraining"]["bundle"], settings, progress=self._progress("pretraining"))
        self.bar("pretraining", 1.0)
        return folder / "checkpoint.pt"

    def _pool(self) -> list[str]:
        """Names of the images that are learnt from: the same ones when more images come."""
        file = self.folder / "pool.json"
        with suppress(OSError, ValueError):
            return json.loads(file.read_text(encoding="utf-8"))
        sure = [each.name for each in self.known]
        others = [name for name in self.names.values() if name not in sure]
        drawn = np.random.default_rng(self.plan.seed).permutation(others)[: self.plan.pool].tolist()
        write_whole(file, json.dumps(sorted(sure + drawn)))
        return sorted(sure + drawn)

    def _matched(self, checkpoint: Path) -> dict[str, Match]:
        """Matches of the templates in the images that are learnt from."""
        folder, pool = self.folder / "2_matching", self._pool()
        there = {name: path for path, name in self.names.items() if name in {*pool, *(k.name for k in self.known)}}
        images = link_images({path: name for name, path in there.items()}, self.folder / "pool")
        folder.mkdir(exist_ok=True)
        command = ["python", "-m", "monai_infoaug", "match", str(images), "--checkpoint", str(checkpoint)]
        for each in self.known:
            command += ["--template", os.path.abspath(each.path), "--landmarks", os.path.abspath(each.table)]
        command += ["--out", str(folder / "found"), "--consensus", str(min(self.plan.consensus, len(there) - 1))]
        if self.plan.pixdim is not None:
            command += [f"--pixdim={json.dumps(self.plan.pixdim)}", f"--origin={json.dumps(self.plan.origin)}"]
        command += ["--device", self.plan.device]
        records = folder / "found" / RECORD

        def share() -> float:
            text = records.read_text(encoding="utf-8") if records.exists() else ""
            return (text.count('"look"') + 3 * text.count('"match"')) / 4 / len(there)

        try:
            run_command(folder, "match", command, folder, self._progress("matching"), share)
        except RuntimeError:
            if not list((folder / "found").glob("*.mrk.json")):
                raise
        self.bar("matching", 1.0)
        found = {}
        for record in Ledger(folder / "found").records():
            if "match" in record:
                found[record["name"]] = Match.from_json(record)
        return found

    def _labels_of(self, stage: str, matched: Mapping[str, Match], found: Sequence[LandmarkTable]) -> Path:
        """Table that a round learns from: what somebody has annotated, and what was found in the other images."""
        if found:
            points, scores = dict(found[-1].points), dict(found[-1].scores or {})
            space = found[-1].space
        else:
            points = {name: np.where(match.low[:, None], np.nan, match.world) for name, match in matched.items()}
            scores = {name: match.scores for name, match in matched.items()}
            space = next(iter(matched.values())).space
        for each in self.known:
            _, points[each.name] = each.landmarks(space or "RAS", self.labels)
            scores[each.name] = np.ones(len(self.labels))
        pool = [name for name in self._pool() if name in points]
        table = LandmarkTable(
            self.labels, {name: points[name] for name in pool}, {name: scores[name] for name in pool}, space
        )
        folder = self._round(stage)
        folder.mkdir(exist_ok=True)
        write_whole(folder / "labels.csv", landmark_text("labels.csv", table))
        return folder / "labels.csv"

    def _round(self, stage: str) -> Path:
        return self.folder / f"{list(self.plan.stages).index(stage) + 1}_{stage}"

    def _train(self, stage: str, table: Path, checkpoint: Path) -> None:
        settings = self.plan.settings(stage) | {
            "dataset_dir": str(self.images),
            "landmarks": str(table),
            "pretrained": str(checkpoint),
            "min_score": 0.0 if stage == "round1" else MIN_SCORE,
        }
        run_stage(self._round(stage), "landmark_detection", settings, inputs=[table], progress=self._progress(stage))
        self.bar(stage, 1.0)

    def _detected(self, stage: str) -> LandmarkTable:
        """What a round's detector finds in all images; those that it was shown before are not looked at again."""
        folder = self._round(stage)
        made_by = (folder / "train.done.json").read_text(encoding="utf-8")
        tables: list[LandmarkTable] = []
        number = 1
        while (place := folder / f"found{number}").exists():
            mark = place / "made_by.json"
            if (
                mark.exists()
                and mark.read_text(encoding="utf-8") == made_by
                and (place / "inference.done.json").exists()
            ):
                tables.append(read_landmarks(place / "landmarks_mm.csv"))
            number += 1
        known = {name for table in tables for name in table.points}
        ahead = [name for name in self.names.values() if name not in known]
        if ahead:
            items = [{"image": str(self.images / _link(self.images, name))} for name in ahead]
            own = {"labels": self.labels, "checkpoint": str(folder / "checkpoint.pt"), "results_dir": str(place)}
            wanted = {"modality", "in_channels", "pixdim", "origin", "working_pixdim", "device"}
            shared = {key: value for key, value in self.plan.shared.items() if key in wanted}
            run_stage(
                place,
                "landmark_detection",
                shared | own | {"dataset#data": items},
                ["inference"],
                progress=self._progress("prediction"),
            )
            write_whole(place / "made_by.json", made_by)
            tables.append(read_landmarks(place / "landmarks_mm.csv"))
        self.bar("prediction", 1.0)
        points = {name: values for table in tables for name, values in table.points.items()}
        scores = {name: values for table in tables for name, values in (table.scores or {}).items()}
        return LandmarkTable(tables[0].labels, points, scores, tables[0].space)

    def _annotation(
        self, path: Path, name: str, matched: Mapping[str, Match], found: Sequence[LandmarkTable]
    ) -> Annotation:
        """What is known of an image."""
        match = matched.get(name)
        sure = next((each for each in self.known if each.name == name), None)
        if found:
            space = found[-1].space
            world, scores = found[-1].points[name], (found[-1].scores or {})[name]
        else:
            if match is None:
                return Annotation(name, path, None, None, np.empty((0, self.plan.dims)), np.empty(0), sure is not None)
            space, world, scores = match.space, match.world, match.scores
        if sure is not None:
            world = sure.landmarks(space or "RAS", self.labels)[1]
        earlier = found[-2].points.get(name) if len(found) > 1 else None
        return Annotation(name, path, space, match, world, scores, sure is not None, earlier)


def _link(folder: Path, name: str) -> str:
    return next(file.name for file in folder.iterdir() if image_name(file) == name)
