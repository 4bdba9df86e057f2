"""A trained network with an annotated template, which finds the template's landmarks in other images."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.utils.enums import MetaKeys
from torch import Tensor

from monai_infoaug._require import is_number, naming, refusal
from monai_infoaug.commands._embedding import Embedder
from monai_infoaug.inferers import robust_centre, to_voxels, to_world

__all__ = ["Match", "TemplateMatcher"]


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
class PseudoTemplate:
    """An image whose landmarks nobody has annotated, but which have been found so well that it serves as a template.

    Args:
        path: its file, which has no vote on itself.
        levels: levels of its embedding.
        points: (1, L, D) the landmarks found, in voxels.
    """

    path: Path
    levels: Sequence[Tensor]
    points: Tensor


class TemplateMatcher(Embedder):
    """A network, its preprocessing and the template, ready for any number of images.

    Args:
        checkpoint, template, landmarks, bundle, settings, min_score, max_round_trip, device: see
            :py:func:`monai_infoaug.commands.match.match_images`.

    Attributes:
        labels: names of the L landmarks that the template shows.
        image: the preprocessed template (C, *S).
        points: (1, L, D) landmarks in its voxels.
        others: pseudo-templates, which have a vote on other images; none at first.

    Raises:
        ValueError: for a fault in checkpoint, settings, template or table.
    """

    def __init__(
        self,
        checkpoint: str | os.PathLike,
        template: str | os.PathLike,
        landmarks: str | os.PathLike,
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
        if not Path(template).exists():
            raise refusal("template", f"'{template}'", "an image file")
        super().__init__(checkpoint, bundle, settings, device)
        self.min_score, self.max_round_trip, self.others = min_score, max_round_trip, list[PseudoTemplate]()
        known = self.annotated(template, landmarks)
        self.path, self.image, self.labels = known.path, known.image, known.labels
        self.points, self.levels = known.points, known.levels
        with naming("the bundle's configuration"):  # its settings of the search, on one landmark
            self.search(self.levels, self.points[:, :1], self.levels, self.image)

    def look(self, path: str | os.PathLike) -> tuple[float, np.ndarray]:
        """Mean score of the landmarks in an image, and where (L, D) the template alone finds them, in voxels."""
        image = self.read(path)
        found, scores = self.search(self.levels, self.points, self.embed(image), image)
        return scores.mean().item(), found[0].double().cpu().numpy()

    def add(self, path: str | os.PathLike, points: np.ndarray) -> None:
        """Make an image a template, too, with the landmarks (L, D) that :py:meth:`look` has found in it."""
        known = torch.as_tensor(points, dtype=torch.float32, device=self.device)[None]
        self.others.append(PseudoTemplate(Path(path), self.embed(self.read(path)), known))

    @torch.no_grad()
    def __call__(self, image: MetaTensor, path: str | os.PathLike | None = None) -> Match:
        """Find the landmarks in a preprocessed image (C, *S), which was read from a file.

        With pseudo-templates, all have a vote; on the template, where the landmarks are known, it votes alone.
        """
        levels = self.embed(image)
        found, scores = self.search(self.levels, self.points, levels, image)
        agreed = {}
        if self.others:
            voters = [] if is_same(self.path, path) else [o for o in self.others if not is_same(o.path, path)]
            votes = [(found, scores), *(self.search(o.levels, o.points, levels, image) for o in voters)]
            places, all_scores = map(torch.stack, zip(*votes, strict=True))
            centre = robust_centre(torch.stack([to_world(place, image) for place in places]), all_scores)
            found, scores = to_voxels(centre.points, image), centre.scores
            agreed = {
                "spreads": centre.spreads[0].double().cpu().numpy().round(4),
                "votes": centre.votes[0].cpu().numpy(),
            }
        back, _ = self.search(levels, found, self.levels, self.image)
        trips = (back - self.points).norm(dim=-1)
        low = (trips > self.max_round_trip) | (scores < self.min_score)
        world, score, trip = (x[0].double().cpu().numpy().round(4) for x in (to_world(found, image), scores, trips))
        return Match(world, image.meta.get(MetaKeys.SPACE), score, trip, low[0].cpu().numpy(), **agreed)


def is_same(path: Path, other: str | os.PathLike | None) -> bool:
    """Whether two paths lead to the same file."""
    return other is not None and os.path.realpath(path) == os.path.realpath(other)
