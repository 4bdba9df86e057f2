"""The stages for landmarks: matching by consensus, and detectors that learn from what was found before."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from monai_infoaug._console import Failure
from monai_infoaug._files import Ledger, write_whole
from monai_infoaug.commands._annotated import Annotation
from monai_infoaug.commands._plan import Plan
from monai_infoaug.commands._records import stamp_of
from monai_infoaug.commands._stages import last_line, run_command, run_stage
from monai_infoaug.commands._survey import Survey, link_images
from monai_infoaug.commands.template_matcher import Match
from monai_infoaug.data import LandmarkTable, image_name, landmark_datalist, read_landmarks
from monai_infoaug.data.landmarks import landmark_text

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


def mean_of_rounds(tables: Sequence[LandmarkTable]) -> LandmarkTable:
    """The means of what the detectors of some rounds have found, which are nearer than each of them."""
    points, scores = (
        {name: np.mean([values[name] for values in each], axis=0) for name in each[0]}
        for each in ([table.points for table in tables], [table.scores or {} for table in tables])
    )
    return LandmarkTable(tables[0].labels, points, scores or None, tables[0].space)


class LandmarkStages:
    """The stages for landmarks, after the pre-training.

    Args:
        plan: what is to be done.
        survey: the images.
        images: folder with a link a name to each; the stages' folders lie beside.
        known: what somebody has annotated.
        labels: names of the L landmarks.
        bar: is told the stage and the share of it that is done.
    """

    def __init__(
        self,
        plan: Plan,
        survey: Survey,
        images: Path,
        known: Sequence[Sure],
        labels: Sequence[str],
        bar: Any,
    ) -> None:
        self.plan, self.survey, self.names, self.images, self.known = plan, survey, survey.names, images, known
        self.labels, self.bar, self.folder = list(labels), bar, images.parent

    def run(self, checkpoint: Path) -> list[Annotation]:
        """Run what is missing.

        Args:
            checkpoint: of the pre-training.

        Returns:
            What was found in each image.
        """
        matched = self._matched(checkpoint)
        found: list[LandmarkTable] = []
        for name in self._rounds():
            self._train(name, self._labels_of(name, matched, found), checkpoint)
            found.append(self._detected(name))
        found += [mean_of_rounds(found)] if found else []
        spaces = {space: [table.to(space) for table in found] for space in {*self.survey.spaces.values()}}
        return [
            self._annotation(path, name, matched, spaces[self.survey.spaces[path]]) for path, name in self.names.items()
        ]

    def _rounds(self) -> list[str]:
        return [name for name in self.plan.stages if name.startswith("round")]

    def _progress(self, stage: str) -> Callable[[float], None]:
        return lambda share: self.bar(stage, share)

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
        folder, pool = self.folder / "2_matching", {*self._pool(), *(each.name for each in self.known)}
        learnt_from = link_images({path: name for path, name in self.names.items() if name in pool}, folder / "pool")
        images = learnt_from if self._rounds() else self.images  # a detector finds the landmarks of all others
        sought = [name for name in self.names.values() if name in pool or not self._rounds()]
        command = ["python", "-m", "monai_infoaug", "match", str(images), "--checkpoint", str(checkpoint)]
        for each in self.known:
            command += ["--template", os.path.abspath(each.path), "--landmarks", os.path.abspath(each.table)]
        command += ["--consensus", str(min(self.plan.consensus, len(pool) - 1)), "--pool", str(learnt_from)]
        if self.plan.pixdim is not None:
            command += [f"--pixdim={json.dumps(self.plan.pixdim)}", f"--origin={json.dumps(self.plan.origin)}"]
        command += ["--out", str(folder / "found"), "--device", self.plan.device]
        ledger, summary = Ledger(folder / "found"), folder / "found" / "summary.csv"

        def share() -> float:
            kinds = [kind for record in ledger.records() for kind in ("look", "match") if kind in record]
            return (kinds.count("look") / len(pool) + 3 * kinds.count("match") / len(sought)) / 4

        run_command(folder, "match", command, folder, self._progress("matching"), share, accepted=(0, 1))
        rows = list(csv.DictReader(summary.read_text(encoding="utf-8").splitlines())) if summary.exists() else []
        if {row["image"] for row in rows} < {*sought}:  # an image may fail, but not what all of them share
            raise Failure(f"`match.sh` in '{folder}' ended with: {last_line(folder / 'match.log')}")
        self.bar("matching", 1.0)
        found = {record["name"]: Match.from_json(record) for record in ledger.records() if "match" in record}
        return {row["image"]: found[row["image"]] for row in rows if not row["failure"]}

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
        images = {name: [os.path.abspath(path), stamp_of(path)] for path, name in self.names.items()}
        tables: dict[str, LandmarkTable] = {}  # name to that in which the image is as it is now
        number = 1
        while (place := folder / f"found{number}").exists():
            with suppress(OSError, ValueError):
                mark = json.loads((place / "made_by.json").read_text(encoding="utf-8"))
                if mark.get("training") == made_by and (place / "inference.done.json").exists():
                    table = read_landmarks(place / "landmarks.csv")
                    tables |= {name: table for name, image in mark["images"].items() if images.get(name) == image}
            number += 1
        ahead = [name for name in self.names.values() if name not in tables]
        rounds = self._rounds()
        done, every = rounds.index(stage) / len(rounds), 1 / len(rounds)  # of the stage that has them all
        if ahead:
            links = {image_name(link): str(link) for link in self.images.iterdir()}
            items = [{"image": links[name]} for name in ahead]
            own = {"labels": self.labels, "output_dir": str(folder), "results_dir": str(place), "num_pictures": 0}
            wanted = {"modality", "in_channels", "pixdim", "origin", "working_pixdim", "device"}
            shared = {key: value for key, value in self.plan.shared.items() if key in wanted}
            run_stage(
                place,
                "landmark_detection",
                shared | own | {"dataset#data": items},
                ["inference"],
                progress=lambda share: self.bar("prediction", done + every * share),
            )
            shown = {name: images[name] for name in ahead}
            write_whole(place / "made_by.json", json.dumps({"training": made_by, "images": shown}))
            tables |= dict.fromkeys(ahead, read_landmarks(place / "landmarks.csv"))
        self.bar("prediction", done + every)
        points = {name: table.points[name] for name, table in tables.items()}
        scores = {name: (table.scores or {})[name] for name, table in tables.items()}
        first = next(iter(tables.values()))
        return LandmarkTable(first.labels, points, scores, first.space)

    def _annotation(
        self, path: Path, name: str, matched: Mapping[str, Match], tables: Sequence[LandmarkTable]
    ) -> Annotation:
        """What is known of an image, in its own frame, by what the rounds have found, and the mean of that."""
        grid, space, nothing = self.survey.grids[path], self.survey.spaces[path], np.full(len(self.labels), np.nan)
        nowhere = np.full((len(self.labels), self.plan.dims), np.nan)
        match = matched.get(name)
        matches = nowhere if match is None else match.world
        spreads = nothing if match is None or match.spreads is None else match.spreads
        if tables:
            world, scores = tables[-1].points[name], (tables[-1].scores or {})[name]
        else:
            world, scores = matches, nothing if match is None else match.scores
        sure = next((each for each in self.known if each.name == name), None)
        if sure is not None:
            world = sure.landmarks(space, self.labels)[1]
        return Annotation(
            name, path, space, grid, world, scores, sure is not None, matches, spreads, detected=bool(tables)
        )
