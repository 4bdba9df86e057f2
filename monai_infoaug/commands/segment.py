"""Segment a folder of images of which a few have label maps: what ``monai-infoaug segment`` does."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_infoaug._console import printable, say
from monai_infoaug._files import Ledger, write_whole
from monai_infoaug._require import is_number, refusal, require_device
from monai_infoaug.commands._classes import Classes, find_classes
from monai_infoaug.commands._images import images_of, require_seed
from monai_infoaug.commands._label_files import label_suffix
from monai_infoaug.commands._label_finals import corrected_files, labels_of, require_label_of, write_label_maps
from monai_infoaug.commands._label_plan import epochs_for, segmentation_settings
from monai_infoaug.commands._label_stages import Round, learn_in_rounds
from monai_infoaug.commands._plan import Plan, begun_plan
from monai_infoaug.commands._stages import StagesBar
from monai_infoaug.commands._step_time import seconds_of_step
from monai_infoaug.commands._survey import Survey, survey_images
from monai_infoaug.data._found_landmarks import table_text
from monai_infoaug.data._landmark_files import distinct_names, some
from monai_infoaug.engines import keep_freed_memory

__all__ = ["segment_images"]

TABLES = ("classes.json", "labels.csv")
MOST_FOR_A_ROUND = {2: 20, 3: 10}  # label maps, by axes, with more of which a round gains nothing by our tables
POOL = 80  # images that a round learns from, beside those with label maps
FIRST = 0.5  # of the minutes, if there is a round


def segment_images(
    images: Sequence[str | os.PathLike],
    labels: str | os.PathLike,
    out: str | os.PathLike = "infoaug_segment",
    names: Sequence[str] | Mapping[str, int] | str | os.PathLike | None = None,
    pixdim: float | Sequence[float] | None = None,
    minutes: float = 60.0,
    plan: str | os.PathLike | None = None,
    device: str = "cpu",
    seed: int = 0,
    dry_run: bool = False,
) -> dict[str, str]:
    """Learn from the label maps of a few images, and segment all of them.

    For each image ``NAME``, ``out`` gets its label map on its own grid, ``NAME.nii.gz`` or for a picture ``NAME.png``,
    with the values of the given ones; these are kept as they are. ``labels.csv`` has a row an image, those first that
    should be looked at, ``classes.json`` the names of the classes, ``plan.json`` what was decided, ``stages`` the
    trainings with their commands.

    A U-Net learns from all label maps; none is kept back. Where they are few and other images have none, a second round
    goes on from it and learns from what it has found in these, too. After an interruption the same call goes on. With
    more images, those that were segmented are not segmented again.

    Args:
        images: files and folders.
        labels: folder of label maps with the names of their images, or one such file.
        out: folder for the files, made where it is missing.
        names: of the classes, in the order of their values; or name to value; or a JSON file with either. None: as
            files beside the label maps say, or their values.
        pixdim: millimetres a pixel, for formats that do not say it.
        minutes: how long all is to take on this machine, about.
        plan: file of a plan; None: that in ``out``, if it was made for the same, or else one is made.
        device: device of the networks.
        seed: of all that is drawn.
        dry_run: stop at the plan.

    Returns:
        Image to the reason why it failed.

    Raises:
        ValueError: before anything is trained, for arguments that are out of range, label maps that are faulty or of
            none of the images, or a file in ``out`` that is not this function's to write.
        RuntimeError: if a training fails.
        OSError: naming the file, if the disk is full.
    """
    require_device(device)
    require_seed(seed)
    if not (is_number(minutes) and minutes > 0):
        raise refusal("minutes", minutes, "a number above 0")
    named, out = distinct_names(images_of("images", images)), Path(out)
    if os.path.realpath(out) in {os.path.realpath(given) for given in (*images, labels)}:
        raise refusal("out", f"'{out}'", "another folder than those of the images and of the label maps")
    files = images_of("labels", [labels])
    sure = labels_of(named, files)
    if unused := sorted(str(file) for file in {*files} - {*sure.values()}):
        say(f"{some(unused)}: passed over, of none of the images.", sys.stderr)
    survey = survey_images(named, [path for path, name in named.items() if name in sure], pixdim)
    classes = find_classes(sure.values(), names)
    for path, name in survey.names.items():
        if name in sure:
            require_label_of(path, sure[name], pixdim)
    ledger = Ledger(out)
    finals = {name: f"{name}{label_suffix(path)}" for path, name in survey.names.items()}
    corrected = corrected_files(ledger, finals.values())
    ledger.require_ours(
        [*TABLES, *(file for file in finals.values() if file not in corrected)], [*named, *sure.values()]
    )
    asked: dict[str, Any] = {"minutes": minutes, "pixdim": pixdim, "device": device, "seed": seed}
    made = begun_plan(plan, out, survey, "training", **asked) or make_plan(survey, len(sure), **asked)
    say(f"Classes: {classes}. Label maps: {len(sure)} of {len(survey.names)} images.")
    for row in made.rows(survey):
        say("{:16}{:24}{}".format(*row))
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / "plan.json", made.as_text())  # whoever edits it there is not refused
    say(f"Wrote {out / 'plan.json'}: edit it and give it as --plan to do otherwise.")
    if dry_run:
        return {}
    ledger.write("classes.json", classes.as_text())

    keep_freed_memory()
    rounds = [
        Round(out / "stages" / f"{number}_{name}", made.stages[name]["settings"])
        for number, name in enumerate(made.stages, 1)
    ]
    planned = [60 * stage["minutes"] for stage in made.stages.values()]
    bar = StagesBar(dict(zip((each.folder.name for each in rounds), planned, strict=True)))
    try:
        found, failed = learn_in_rounds(rounds, survey.names, sure, None, classes, POOL, device, bar)
    finally:
        bar.close()
    write_label_maps(ledger, survey.names, sure, rounds[-1].folder, found, pixdim)
    failures = {str(image): why for image, why in (survey.left_out | failed).items()}
    ledger.write("labels.csv", _table(named, sure, found, failures, classes))
    for file, why in failures.items():
        say(f"{file}: {why}", sys.stderr)
    say(f"Wrote {len(found)} label maps to {out}, {len(sure)} of them as they were given; {', '.join(TABLES)}.")
    return failures


def make_plan(
    survey: Survey,
    count: int,
    minutes: float,
    pixdim: float | Sequence[float] | None = None,
    device: str = "cpu",
    seed: int = 0,
) -> Plan:
    """Decide how to learn from so many label maps."""
    sides: Any = list(pixdim) if isinstance(pixdim, Sequence) else pixdim
    plan = Plan(survey.dims, survey.channels, survey.modality, sides, 0.0, 1.0, minutes, device, seed, 0, POOL)
    settings = segmentation_settings(plan.shared, survey.extent, survey.pixdim)
    plan.working_pixdim = settings["working_pixdim"]
    few = count < len(survey.names) and count <= MOST_FOR_A_ROUND[survey.dims]
    seconds = seconds_of_step("segmentation", settings, device)
    for name, share in {"training": FIRST, "round": 1 - FIRST}.items() if few else {"training": 1.0}.items():
        own = settings | epochs_for(settings, share * minutes, seconds)
        steps = own["max_epochs"] * own["samples_per_epoch"] / own["batch_size"]
        planned = round(max(share * minutes, steps * seconds / 60), 1)  # more than its share by the fewest epochs
        plan.stages[name] = {"bundle": "segmentation", "settings": own, "minutes": planned}
    return plan


def _table(
    images: Mapping[Path, str],
    sure: Mapping[str, Path],
    found: Mapping[str, Sequence[float]],
    failures: Mapping[str, str],
    classes: Classes,
) -> str:
    """A row an image: what failed first, then what is least confident; what was given comes last."""
    rows = []
    for path, name in images.items():
        given, values = name in sure, found.get(name, ())
        shares = ["" if given or value != value else f"{value:.3f}" for value in values] or [""] * len(classes.names)
        least = min((float(share) for share in shares if share), default=2.0 if given else -1.0)
        why = failures.get(str(path), "")
        rows.append((least, [name, printable(str(path)), "given" * given, *shares, printable(why)]))
    header = ["image", "file", "label_map", *(f"confidence {name}" for name in classes.names), "failure"]
    return table_text([header, *(row for _, row in sorted(rows, key=lambda row: row[0]))])
