"""Which recipe to take: by how many images are annotated, as the tables of results say it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from monai_infoaug._require import is_count, is_number, refusal

__all__ = ["Advice", "choose_recipe"]

TASKS = ("landmarks", "segmentation")


@dataclass(frozen=True)
class Advice:
    """What to take.

    Attributes:
        take: the recipe.
        rows: what the tables of results say of it: the gain over the plain training, with its interval.
        page: of the documentation, with the table.
        commands: what to type, with words in capitals for what :func:`inputs_of` explains.
        not_taken: a line for each other recipe, its row, and why it is not taken.
    """

    take: str
    rows: Sequence[str]
    page: str
    commands: Sequence[str]
    not_taken: Sequence[str]


def choose_recipe(
    task: str,
    labels: int,
    unlabelled: int = 0,
    other_site: bool = False,
    volumes: bool = False,
    minutes: float | None = None,
) -> Advice:
    """The recipe that the tables of results speak for; where they speak for none, the plain training.

    What is measured with the same number of annotated images counts, or else with the next larger one.

    Args:
        task: "landmarks" or "segmentation".
        labels: how many images are annotated.
        unlabelled: how many are not; of the other site, if there is one.
        other_site: whether images come from another site or scanner than those that are annotated.
        volumes: whether images are volumes.
        minutes: that the trainings may take on two CPU cores; None: any time.

    Returns:
        What to take, and why.

    Raises:
        ValueError: for values out of range, or landmarks of another site, for which nothing is measured.

    Example:
        >>> choose_recipe("segmentation", labels=5).take
        'the U-Net alone, for long'
    """
    if task not in TASKS:
        raise refusal("task", repr(task), " or ".join(TASKS))
    if not is_count(labels, 1):
        raise refusal("labels", labels, "a whole number of at least 1; `monai-infoaug advise` says which to annotate")
    if not is_count(unlabelled):
        raise refusal("unlabelled", unlabelled, "a whole number of at least 0")
    if minutes is not None and not (is_number(minutes, 0) and minutes > 0):
        raise refusal("minutes", minutes, "a number above 0")
    if other_site and task == "landmarks":
        raise refusal("other_site", "it with landmarks", "given with segmentation: nothing else is measured")
    table = json.loads((files("monai_infoaug.bundles") / "advice.json").read_text(encoding="utf-8"))
    situation = {"task": task, "volumes": bool(volumes), "other_site": bool(other_site)}
    chosen, not_taken = None, []
    for entry in table:
        low, high = entry["labels"]
        if not situation.items() <= entry.items() or (high and not low <= labels <= high):
            continue
        why_not = entry["why_not"]
        if labels < low:
            why_not = why_not or f"wants {low} annotated images or more"
        if unlabelled < entry["unlabelled"]:
            why_not = why_not or f"wants {entry['unlabelled']} images without labels or more"
        if minutes is not None and minutes < entry["minutes"]:
            why_not = why_not or f"takes some {entry['minutes']:g} minutes"
        if why_not:
            not_taken.append(f"{entry['take']}: {why_not} ({'; '.join(entry['rows'])})")
        elif chosen is None:
            chosen = entry
    assert chosen is not None, "the plain training is always there"
    return Advice(chosen["take"], chosen["rows"], chosen["page"], chosen["commands"], not_taken)
