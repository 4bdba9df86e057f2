"""The page on which somebody looks at an annotated data set, what needs a look first."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any
from urllib.parse import quote

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from monai_infoaug.commands._pictures import data_url
from monai_infoaug.commands._review_pictures import COLOURS, UNSURE, Picture, Reviewed, draw_reviewed, picture_of

__all__ = ["Reviewed", "draw_reviewed", "review_card", "review_page"]

MAX_BYTES = 44_000  # of an image's picture, and as many of its overlay, as they are in the page
QUALITIES = (85, 75, 65, 55)  # of JPEG, the first that is small enough


def review_card(reviewed: Reviewed, labels: Sequence[str], classes: Mapping[int, str]) -> dict[str, Any]:
    """What the page holds of an image, some 40 kB of plain values that JSON takes.

    Args:
        reviewed: the image.
        labels: names of its L landmarks; none where there is a label map alone.
        classes: values of the label map, 0 apart, and their names; of masks, names in their order. None without.

    Example:
        >>> from monai.data import MetaTensor
        >>> image = MetaTensor(torch.rand(1, 40, 30), affine=torch.tensor([[-1.0, 0, 0], [0, -1, 0], [0, 0, 1]]))
        >>> seen = Reviewed("001", "scans/001.png", image, np.array([[20.0, 10.0]]), np.array([2.5]), np.array([False]))
        >>> card = review_card(seen, ["sella"], {})
        >>> card["size"], card["points"][0]["error"], card["points"][0]["at"]
        ([40, 30], 2.5, [[20.0, 10.0]])
    """
    address = "./" + quote(os.fsencode(reviewed.name))  # of its files, which lie beside the page
    card: dict[str, Any] = {"name": reviewed.name, "file": reviewed.file, "note": reviewed.note, "sure": reviewed.sure}
    card["files"] = [address + end for end, has in ((".mrk.json", labels), (".nii.gz", classes)) if has]
    card |= {"picture": None, "overlay": None, "points": [], "absent": [], "classes": [], "missing": []}
    if reviewed.image is None:
        return card
    picture = picture_of(reviewed, classes)
    card["picture"] = _bounded((255 * picture.pixels).round().to(torch.uint8), QUALITIES)
    card["overlay"] = None if picture.overlay is None else _bounded(picture.overlay)
    card["size"] = [*picture.pixels.shape[1:]]
    card["points"], card["absent"] = _points(reviewed, picture, len(labels))
    views = picture.views[len(labels) :]
    for i, (confidence, view) in enumerate(zip(picture.confidence, views, strict=True)):
        if view is not None:
            card["classes"].append({"i": i, "confidence": _short(confidence, 3), "view": _box(view)})
        elif reviewed.labels is not None:
            card["missing"].append(i)
    card["slices"] = reviewed.image.ndim == 4
    return card


def _points(reviewed: Reviewed, picture: Picture, count: int) -> tuple[list[dict[str, Any]], list[int]]:
    """The landmarks that an image shows, and which it does not."""
    if reviewed.points is None:
        return [], []
    errors = [None] * count if reviewed.errors is None else reviewed.errors.tolist()
    absent = [False] * count if reviewed.absent is None else reviewed.absent.tolist()
    shown = [
        {
            "i": i,
            "error": _short(error, 2),
            "mm": _short(picture.scale[i], 4),
            "at": [[_short(x, 2) for x in mark] for mark in picture.marks[i]],
            "view": _box(picture.views[i]),
        }
        for i, error in enumerate(errors)
        if picture.marks[i] and not absent[i]
    ]
    return shown, sorted(set(range(count)) - {point["i"] for point in shown})


def review_page(
    cards: Sequence[Mapping[str, Any]],
    labels: Sequence[str],
    classes: Mapping[int, str],
    title: str,
    notes: Sequence[str] = (),
    limit: float | None = None,
    least: float | None = None,
) -> str:
    """A page that a browser opens without a server or a network: every image, what needs a look first.

    Args:
        cards: of :func:`review_card`, of the same landmarks and classes.
        labels: names of the landmarks.
        classes: values of the label map, and their names.
        title: what the page is called.
        notes: lines that belong to the data set, such as how it was annotated.
        limit: millimetres of expected error above which a landmark needs a look, as the page opens. None: a tenth of
            all landmarks does.
        least: confidence below which a class needs a look. None: a tenth of all does.

    Returns:
        HTML.
    """
    guessed = [card for card in cards if not card["sure"]]
    errors = [point["error"] for card in guessed for point in card["points"] if point["error"] is not None]
    sure = [each["confidence"] for card in guessed for each in card["classes"] if each["confidence"] is not None]
    if limit is None:
        limit = round(float(np.quantile(errors, 0.9)), 1) if errors else 4.0
    if least is None:
        least = round(float(np.quantile(sure, 0.1)), 2) if sure else UNSURE
    page = {
        "title": title,
        "notes": list(notes),
        "labels": list(labels),
        "classes": list(classes.values()),
        "colours": ["#" + COLOURS[i % len(COLOURS)] for i in range(len(classes))],
        "limit": limit,
        "least": least,
        "largest": max(errors, default=0.0),
        "cards": sorted(cards, key=lambda card: _need(card, limit, least), reverse=True),
    }
    template = files("monai_infoaug.commands").joinpath("review.html").read_text(encoding="utf-8")
    return template.replace("@page", json.dumps(page, allow_nan=False).replace("<", "\\u003c"), 1)


def _need(card: Mapping[str, Any], limit: float, least: float) -> float:
    """How much an image needs a look: above 1 if anything in it is worse than it may be.

    What could not be read comes first, and last what a person has annotated. A landmark that is absent counts 1.
    """
    if card["picture"] is None:
        return math.inf
    if card["sure"]:
        return -1.0
    needs = [1.0] if card["absent"] or card["missing"] else [0.0]
    needs += [point["error"] / max(limit, 1e-6) for point in card["points"] if point["error"] is not None]
    doubts = [1 - each["confidence"] for each in card["classes"] if each["confidence"] is not None]
    return max([*needs, *(doubt / max(1 - least, 1e-6) for doubt in doubts)])


def _short(value: float | None, digits: int) -> float | None:
    """A number for the page; None where it is not known."""
    return None if value is None or not math.isfinite(value) else round(value, digits)


def _box(view: Sequence[float] | None) -> list[float] | None:
    return None if view is None else [round(x, 2) for x in view]


def _bounded(picture: Tensor, qualities: Sequence[int | None] = (None,)) -> str:
    """A picture (C, X, Y) uint8 as a data URL of at most ``MAX_BYTES``, coarser and smaller until it is."""
    while True:
        for quality in qualities:
            url = data_url(picture, quality)
            if len(url) <= MAX_BYTES or max(picture.shape[1:]) <= 32:
                return url
        size = [math.ceil(0.7 * n) for n in picture.shape[1:]]
        mode = "nearest-exact" if quality is None else "area"  # what is transparent has no colour to mix in
        picture = interpolate(picture[None].float(), size, mode=mode)[0].round().to(torch.uint8)
