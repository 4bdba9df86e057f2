"""Tables of the landmarks that were found in images."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from monai_infoaug._console import printable
from monai_infoaug.data.landmarks import LandmarkTable, landmark_text

FOUND_TABLES = ("landmarks.csv", "confident.csv", "summary.csv")


class FoundLandmarks(Protocol):
    """The L landmarks of one image."""

    @property
    def world(self) -> np.ndarray:
        """(L, D) positions in millimetres, NaN where none was found."""

    @property
    def scores(self) -> np.ndarray:
        """(L,) how sure each is."""

    @property
    def low(self) -> np.ndarray:
        """(L,) whether somebody should look at it."""

    @property
    def space(self) -> str | None:
        """How the axes run, "RAS" or "LPS", if the image says so."""


def summary_rows(
    labels: Sequence[str], names: Mapping[Path, str], found: Mapping[str, FoundLandmarks], failures: Mapping[str, str]
) -> list[tuple[str, str, str, str, str]]:
    """A row an image that is done: name, file, mean score, labels that are low, and why it failed.

    Args:
        labels: names of the landmarks.
        names: image to its name, in the order of the rows.
        found: by name.
        failures: image to the reason why it failed.
    """
    rows = []
    for path, name in names.items():
        each, failure = found.get(name), failures.get(str(path), "")
        if each is None and not failure:  # not yet
            continue
        score = "" if each is None else f"{each.scores.mean():.3f}"
        low = [] if each is None else [label for label, is_low in zip(labels, each.low, strict=True) if is_low]
        rows.append((name, printable(str(path)), score, "; ".join(low), printable(failure)))
    return rows


def found_tables(
    labels: Sequence[str], found: Mapping[str, FoundLandmarks], summary: Iterable[Sequence[str]]
) -> dict[str, str]:
    """What the tables hold: all landmarks, those that are not low, and a summary; the last alone if there are none.

    Args:
        labels: names of the landmarks.
        found: by name of the image.
        summary: see :py:func:`summary_rows`.

    Returns:
        Name of each file to its text.
    """
    everything, confident, summarised = FOUND_TABLES
    header = ["image", "file", "mean_score", "low", "failure"]
    texts = {summarised: table_text([header, *summary])}
    if found:
        spaces = {each.space for each in found.values()}
        points, scores = ({name: getattr(each, kind) for name, each in found.items()} for kind in ("world", "scores"))
        table = LandmarkTable(labels, points, scores, spaces.pop() if len(spaces) == 1 else None)
        sure = {name: np.where(each.low[:, None], np.nan, each.world) for name, each in found.items()}
        texts[everything] = landmark_text(everything, table)
        texts[confident] = landmark_text(confident, replace(table, points=sure))
    return texts


def table_text(rows: Iterable[Iterable[Any]]) -> str:
    r"""Rows as comma-separated values.

    Example:
        >>> table_text([["landmark", "mean_mm"], ["spine, anterior", 1.5]])
        'landmark,mean_mm\r\n"spine, anterior",1.5\r\n'
    """
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue()
