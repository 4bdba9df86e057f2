"""A trained network with annotated templates, which finds their landmarks in other images."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from monai.data import MetaTensor
from monai.utils.enums import MetaKeys
from torch import Tensor

from monai_infoaug._require import is_number, naming, refusal
from monai_infoaug.commands._embedding import Embedded, Embedder, Template
from monai_infoaug.data import image_datalist
from monai_infoaug.inferers import robust_centre, to_voxels, to_world
from monai_infoaug.inferers.votes import Consensus

__all__ = ["Match", "TemplateMatcher"]

Paths: TypeAlias = str | os.PathLike | Sequence[str | os.PathLike]


@dataclass(frozen=True, eq=False)
class Match:
    """The L landmarks of the template in one image.

    Args:
        world: (L, D) positions in millimetres of the image's affine.
        space: how its axes run, "RAS" or "LPS", if the image says so.
        scores: (L,) mean cosines of the embeddings, in [-1, 1].
        round_trips: (L,) voxels between a landmark of the template and where its match is found in the template.
        low: (L,) whether somebody should look at it.
        spreads: (L,) mean distance in millimetres of the votes from the positions; None without a consensus.
        votes: (L,) number of votes; None without a consensus.
    """

    world: np.ndarray
    space: str | None
    scores: np.ndarray
    round_trips: np.ndarray
    low: np.ndarray
    spreads: np.ndarray | None = None
    votes: np.ndarray | None = None

    def as_json(self) -> dict[str, Any]:
        """The match as plain values."""
        return {
            field: value.tolist() if isinstance(value, np.ndarray) else value
            for field, value in vars(self).items()
            if value is not None or field == "space"
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Match:
        """The match that :py:meth:`as_json` has written, exactly."""
        given = {field.name: values[field.name] for field in fields(cls) if field.name in values}
        plain: dict[str, Any] = {k: np.array(v) if isinstance(v, list) else v for k, v in given.items()}
        return cls(**plain)


@dataclass(frozen=True, eq=False)
class Voter(Embedded):
    """An image with landmarks, annotated or found so well that it serves as a template.

    Args:
        path, image, levels: see :py:class:`monai_infoaug.commands._embedding.Embedded`.
        points: (1, L, D) landmarks in its voxels, NaN for those that it does not show.
    """

    points: Tensor


class TemplateMatcher(Embedder):
    """A network, its preprocessing and the templates, ready for any number of images.

    Args:
        checkpoint, template, landmarks, bundle, settings, min_score, max_round_trip, device: see
            :py:func:`monai_infoaug.commands.match.match_images`.

    Attributes:
        labels: names of the L landmarks that the templates show.
        templates: the annotated ones; each has a vote on every landmark that it shows.
        others: pseudo-templates, which have a vote on other images; none at first.

    Raises:
        ValueError: for a fault in checkpoint, settings, template or table.
    """

    def __init__(
        self,
        checkpoint: str | os.PathLike,
        template: Paths,
        landmarks: Paths,
        bundle: str | os.PathLike | None = None,
        settings: Mapping[str, Any] | None = None,
        min_score: float = -1.0,
        max_round_trip: float = 3.0,
        device: str = "cpu",
    ) -> None:
        if not is_number(min_score, -1, 1):
            raise refusal("min_score", min_score, "a cosine, from -1 to 1")
        if not is_number(max_round_trip) or max_round_trip <= 0:
            raise refusal("max_round_trip", max_round_trip, "above 0, in voxels")
        given = with_tables(template, landmarks)
        super().__init__(checkpoint, bundle, settings, device)
        self.min_score, self.max_round_trip, self.others = min_score, max_round_trip, list[Voter]()
        known = [self.annotated(path, table) for path, table in given]
        self.labels = list(dict.fromkeys(label for each in known for label in each.labels))
        self.templates = [Voter(each.path, each.image, each.levels, self._in_order(each)) for each in known]
        first = known[0]
        with naming("the bundle's configuration"):  # its settings of the search, on one landmark
            self.search(first.levels, first.points[:, :1], first.levels, first.image)

    def _in_order(self, template: Template) -> Tensor:
        """Landmarks (1, L, D) of a template, NaN where it lacks one that others show."""
        points = template.points.new_full((1, len(self.labels), template.points.shape[-1]), torch.nan)
        points[:, [self.labels.index(label) for label in template.labels]] = template.points
        return points

    def look(self, path: str | os.PathLike) -> tuple[float, np.ndarray]:
        """Mean score of the landmarks in an image, and where (L, D) the templates alone find them, in voxels."""
        image = self.read(path)
        found, _ = self._agreed(self.templates, self.embed(image), image)
        return found.scores.mean().item(), to_voxels(found.points, image)[0].double().cpu().numpy()

    def add(self, path: str | os.PathLike, points: np.ndarray) -> None:
        """Make an image a template, too, with the landmarks (L, D) that :py:meth:`look` has found in it."""
        known = torch.as_tensor(points, dtype=torch.float32, device=self.device)[None]
        image = self.read(path)
        self.others.append(Voter(Path(path), image, self.embed(image), known))

    def _agreed(
        self, voters: Sequence[Voter], levels: Sequence[Tensor], image: MetaTensor
    ) -> tuple[Consensus, list[Voter]]:
        """What voters agree on in an image (C, *S), of which these are the levels, and the voters, the best first."""
        votes = [self.search(voter.levels, voter.points, levels, image) for voter in voters]
        places, scores = map(torch.stack, zip(*votes, strict=True))
        order = scores.nanmean((1, 2)).argsort(descending=True)
        agreed = robust_centre(torch.stack([to_world(place, image) for place in places]), scores)
        return agreed, [voters[i] for i in order.tolist()]

    @torch.no_grad()
    def __call__(self, image: MetaTensor, path: str | os.PathLike | None = None) -> Match:
        """Find the landmarks in a preprocessed image (C, *S), which was read from a file.

        All templates have a vote; on landmarks of a template, which are known, it votes alone.
        """
        embedded = [voter.levels for voter in (*self.templates, *self.others) if is_same(voter.path, path)]
        levels = embedded[0] if embedded else self.embed(image)
        itself = [voter for voter in self.templates if is_same(voter.path, path)]
        voters = [*self.templates, *(voter for voter in self.others if not is_same(voter.path, path))]
        if itself:
            unknown = itself[0].points.isnan()
            others = [replace(each, points=torch.where(unknown, each.points, torch.nan)) for each in voters]
            voters = [itself[0], *(each for each in others if bool(each.points.isfinite().any()))]
        agreed, order = self._agreed(voters, levels, image)
        found, scores = to_voxels(agreed.points, image), agreed.scores
        known = [*itself, *self.templates] if itself else [voter for voter in order if voter in self.templates]
        trips = self._round_trips(found, levels, known)
        low = (trips > self.max_round_trip) | (scores < self.min_score)
        world, score, trip = (x[0].double().cpu().numpy().round(4) for x in (agreed.points, scores, trips))
        match = Match(world, image.meta.get(MetaKeys.SPACE), score, trip, low[0].cpu().numpy())
        if len(self.templates) + len(self.others) == 1:
            return match
        return replace(
            match, spreads=agreed.spreads[0].double().cpu().numpy().round(4), votes=agreed.votes[0].cpu().numpy()
        )

    def _round_trips(self, found: Tensor, levels: Sequence[Tensor], templates: Sequence[Voter]) -> Tensor:
        """How far landmarks (1, L, D) are from where they came from, when the first template with each is searched."""
        trips = found.new_full(found.shape[:2], torch.nan)
        for template in templates:
            here = trips.isnan() & template.points.isfinite().all(-1)
            if bool(here.any()):
                sought = torch.where(here[..., None], found, torch.nan)
                back, _ = self.search(levels, sought, template.levels, template.image)
                trips = torch.where(here, (back - template.points).norm(dim=-1), trips)
        return trips.nan_to_num(torch.inf)


def templates_of(template: Paths) -> list[Path]:
    """The annotated images: one, several, or those of folders.

    Raises:
        ValueError: naming what does not exist, and for none.
    """
    given = [template] if isinstance(template, str | os.PathLike) else list(template)
    for path in given:
        if not Path(path).exists():
            raise refusal("template", f"'{path}'", "an image file")
    if not given:
        raise refusal("template", "none", "an image file")
    return [Path(item["image"]) for path in given for item in image_datalist(path)]


def with_tables(
    template: str | os.PathLike | Sequence[str | os.PathLike],
    landmarks: str | os.PathLike | Sequence[str | os.PathLike],
) -> list[tuple[Path, str | os.PathLike]]:
    """Templates, each with its table of landmarks.

    Args:
        template: annotated image, or several of them, or a folder of such.
        landmarks: one table for all, or one each.

    Raises:
        ValueError: for templates that do not exist or are none, or another number of tables.
    """
    paths = templates_of(template)
    tables = [landmarks] if isinstance(landmarks, str | os.PathLike) else list(landmarks)
    if len(tables) not in (1, len(paths)):
        raise refusal("landmarks", f"{len(tables)} tables for {len(paths)} templates", "one for all, or one each")
    if len(tables) == 1 and len(paths) > 1 and str(tables[0]).lower().endswith((".fcsv", ".mrk.json")):
        raise refusal("landmarks", f"'{tables[0]}' for {len(paths)} templates", "a .csv for all, or a file each")
    return list(zip(paths, tables * (len(paths) if len(tables) == 1 else 1), strict=True))


def is_same(path: Path, other: str | os.PathLike | None) -> bool:
    """Whether two paths lead to the same file."""
    return other is not None and os.path.realpath(path) == os.path.realpath(other)
