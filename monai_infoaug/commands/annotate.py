"""Annotate a folder of images from one annotated image: what ``monai-infoaug annotate`` does."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from monai.utils.enums import MetaKeys

from monai_infoaug._console import say
from monai_infoaug._files import RECORD, Ledger, write_whole
from monai_infoaug._require import WITHOUT_MILLIMETRES, refusal
from monai_infoaug.commands._annotated import LabelMaps, write_annotations
from monai_infoaug.commands._classes import Classes, find_classes
from monai_infoaug.commands._embedding import Embedder
from monai_infoaug.commands._images import images_of, read_image
from monai_infoaug.commands._label_finals import labels_of, require_label_of, write_label_maps
from monai_infoaug.commands._label_stages import Round, carry_labels_to, learn_in_rounds
from monai_infoaug.commands._landmark_stages import LandmarkStages, Sure
from monai_infoaug.commands._plan import FEWEST, Plan, begun_plan, make_plan
from monai_infoaug.commands._records import warn
from monai_infoaug.commands._stages import StagesBar, pretrained
from monai_infoaug.commands._survey import Survey, link_images, survey_images
from monai_infoaug.commands.template_matcher import Paths, is_same, templates_of, with_tables
from monai_infoaug.data._landmark_files import by_name, distinct_names
from monai_infoaug.data._places import if_turned, outside
from monai_infoaug.data.datalists import images_below
from monai_infoaug.data.simpleitk_reader import has_image_suffix
from monai_infoaug.handlers.checkpoint import read_checkpoint

__all__ = ["annotate_images"]


def annotate_images(
    images: Sequence[str | os.PathLike],
    template: Paths,
    landmarks: Paths | None = None,
    out: str | os.PathLike = "infoaug_annotated",
    labels: Paths | None = None,
    names: Sequence[str] | Mapping[str, int] | str | os.PathLike | None = None,
    pixdim: float | list[float] | None = None,
    origin: float | list[float] = 0.0,
    minutes: float = 60.0,
    plan: str | os.PathLike | None = None,
    dry_run: bool = False,
    corrected: str | os.PathLike | None = None,
    checkpoint: str | os.PathLike | None = None,
    device: str = "cpu",
    seed: int = 0,
) -> dict[str, str]:
    """Annotate images from one that is annotated, or from a few.

    All images are read, and a plan is made of what suits them, ``plan.json``, which may be edited and given again. Then
    come the stages, each in a folder of its own below ``stages``, where the exact commands of bundles are. First
    pre-training without labels. For landmarks then matching of the templates, with a consensus of images that match
    well; in 2D two rounds of a detector, the first one trained on the matches, the second one on what the first one has
    found; and prediction. For label maps, those of the templates are carried to all images; in 3D two rounds of a
    segmentation network learn from them. ``out`` gets for each image ``NAME.mrk.json`` for 3D Slicer, ``NAME.nii.gz``
    on the image's own grid, and a picture ``NAME.png``, and over all ``landmarks.csv``, ``classes.json`` and the page
    ``review.html``, on which the images that need a look come first.

    After an interruption the same call goes on. With more images it annotates these with the networks that are there,
    with more templates, or corrected ones, it learns again from the matching on.

    Args:
        images: files and folders; those that cannot be read or are unlike the others are left out, with a line each.
        template: annotated image, several of them, or a folder of such, among the images or elsewhere.
        landmarks: table in millimetres, see :py:func:`monai_infoaug.data.landmark_datalist`: one for all or one each.
            None: label maps alone.
        out: folder for the files, made where it is missing.
        labels: label maps of the templates, with their names, or a folder with such; one of any name for one template.
            None: landmarks alone.
        names: of the classes, in the order of their values; or name to value; or a JSON file with either. None: as
            files beside the label maps say, or their values.
        pixdim: millimetres a pixel, for PNG and JPEG, which do not say it.
        origin: millimetres of the first pixel's centre, with ``pixdim``.
        minutes: how long the stages are to take on this machine, about.
        plan: file of a plan; None: that in ``out``, if it was made for the same, or else one is made.
        dry_run: whether to stop once the plan is written and shown.
        corrected: folder with files ``NAME.mrk.json``, ``NAME.fcsv`` and label maps of images that somebody has
            corrected, which become templates; of a command's own folder, those that were changed since.
        checkpoint: file of a pre-training on such images, as that of ``monai-infoaug advise``; None: there is a stage
            for it.
        device: where the networks are: cpu, cuda, cuda:1, ...
        seed: of all that is drawn.

    Returns:
        Image to the reason why it was left out.

    Raises:
        ValueError: for what is wrong with the arguments, templates or tables, before anything is computed.
        RuntimeError: if a stage fails; its log is named.
        OSError: naming the file, if the disk is full.
    """
    paths, templates = images_of("images", images), templates_of(template)
    paths += [path for path in templates if not any(is_same(path, other) for other in paths)]
    named, out = distinct_names(paths), Path(out)
    if os.path.realpath(out) in {os.path.realpath(given) for given in images}:
        raise refusal("out", f"'{out}'", "another folder than that of the images, which pictures would be taken for")
    own = {path: next(named[other] for other in paths if is_same(path, other)) for path in templates}
    pairs = with_tables(templates, landmarks) if landmarks else []
    known = [Sure(Path(path), Path(table), own[Path(path)]) for path, table in pairs]
    sure = _label_maps(own, labels)
    if not (known or sure):
        raise refusal("landmarks", "none, and no `labels`", "a table, or label maps")
    points, maps = _corrected(corrected, named, bool(known), bool(sure))
    known = list({each.name: each for each in (*known, *points)}.values())  # what was corrected counts
    sure |= maps
    for each in known:
        _require_inside(each, pixdim, origin)
    annotated = {each.name for each in known} | sure.keys()
    survey = survey_images(named, [path for path in paths if named[path] in annotated], pixdim, origin)
    for path, why in survey.left_out.items():
        warn(f"{path}: left out: {why}")
    if len(survey.names) < FEWEST:
        warn(f"{len(survey.names)} images are few: below {FEWEST} there is little to learn from.")
    for path, name in survey.names.items():
        if name in sure:
            require_label_of(path, sure[name], pixdim)
    classes = find_classes(sure.values(), names) if sure else None
    words = list(dict.fromkeys(label for each in known for label in each.landmarks("RAS")[0]))
    out.mkdir(parents=True, exist_ok=True)
    if checkpoint is not None:
        read_checkpoint(checkpoint)
    kinds = ["landmarks"] * bool(known) + ["labels"] * bool(sure)
    asked: dict[str, Any] = {"minutes": minutes, "pixdim": pixdim, "origin": origin, "device": device, "seed": seed}
    made = begun_plan(plan, out, survey, **asked)
    if made is None:
        made = make_plan(survey, kinds, words, **asked, pretrained=checkpoint is not None)
    made.require_asked(out / "plan.json", kinds=kinds, landmarks=words if made.landmarks is not None else None)
    write_whole(out / "plan.json", made.as_text())
    _show(made, survey, out)
    if not dry_run:
        _run(made, survey, known, words, sure, classes, checkpoint, Ledger(out))
    return {str(path): why for path, why in survey.left_out.items()}


def _label_maps(templates: Mapping[Path, str], labels: Paths | None) -> dict[str, Path]:
    """Name of each template to its label map.

    Raises:
        ValueError: for label maps that do not exist or are of none of the templates.
    """
    given = [labels] if isinstance(labels, str | os.PathLike) else list(labels or ())
    if not given:
        return {}
    files = images_of("labels", given)
    if len(files) == len(templates) == 1:
        return {next(iter(templates.values())): files[0]}
    return labels_of(templates, files)


def _corrected(
    folder: str | os.PathLike | None, names: Mapping[Path, str], landmarks: bool, labels: bool
) -> tuple[list[Sure], dict[str, Path]]:
    """What was corrected: landmarks, and label maps by name; not what a command has written and nobody changed.

    Raises:
        ValueError: for a folder that does not exist, or without a file of an image, or with two of one image.
    """
    if folder is None:
        return [], {}
    ledger, files = Ledger(folder), sorted(Path(folder).glob("*"))
    theirs = [file for file in files if not ledger.is_ours(file.name)]
    shown = theirs if (ledger.folder / RECORD).exists() else images_below(Path(folder))  # below are stages, else
    named = partial(by_name, argument="corrected", accepted="a folder with one file of a kind an image")
    marked = named(file for file in theirs if file.suffix in (".json", ".fcsv")) if landmarks else {}
    mapped = named(file for file in shown if has_image_suffix(file)) if labels else {}
    points = [Sure(path, marked[name], name) for path, name in names.items() if name in marked]
    maps = {name: mapped[name] for name in names.values() if name in mapped}
    if not points and not maps:
        kinds = "NAME.mrk.json or NAME.fcsv" if landmarks else "NAME.nii.gz"
        raise refusal("corrected", f"'{folder}'", f"a folder with files {kinds} of the images that you have changed")
    return points, maps


def _require_inside(given: Sure, pixdim: float | list[float] | None, origin: float | list[float]) -> None:
    """Refuse landmarks that lie outside of their template.

    Raises:
        ValueError: saying which, and what they may be.
    """
    if pixdim is None and given.path.name.lower().endswith(WITHOUT_MILLIMETRES):
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


def _show(plan: Plan, survey: Survey, out: Path) -> None:
    rows = list(plan.rows(survey))
    wide = [max(len(row[i]) for row in rows) for i in (0, 1)]
    for name, value, why in rows:
        say(f"{name:{wide[0]}}  {value:{wide[1]}}  {why}")
    say(f"Wrote {out / 'plan.json'}: edit it and give it as --plan to do otherwise.")


def _run(
    plan: Plan,
    survey: Survey,
    known: Sequence[Sure],
    words: Sequence[str],
    sure: Mapping[str, Path],
    classes: Classes | None,
    checkpoint: str | os.PathLike | None,
    ledger: Ledger,
) -> None:
    """Run the stages that are missing, and write what was found."""
    folder = Path(os.path.abspath(ledger.folder)) / "stages"
    images = link_images(survey.names, folder / "images")
    bar = StagesBar({name: 60 * stage["minutes"] for name, stage in plan.stages.items()})
    try:
        trained = pretrained(plan, images, bar) if checkpoint is None else Path(os.path.abspath(checkpoint))
        given = {"pixdim": plan.pixdim, "origin": plan.origin}
        embedder = Embedder(trained, settings=given, device=plan.device)
        found = LandmarkStages(plan, survey, images, known, words, bar).run(trained) if known else None
        maps = None if classes is None else _segment(plan, survey, folder, trained, sure, classes, bar)
    finally:
        bar.close()
    if maps is not None:
        write_label_maps(ledger, survey.names, sure, maps.folder, maps.found, plan.pixdim, plan.origin, ".nii.gz")
        ledger.write("classes.json", maps.classes.as_text())
    templates = sorted({each.name for each in known} | sure.keys())
    write_annotations(survey, found, maps, words, ledger, embedder, [f"Templates: {', '.join(templates)}."])
    say(f"Annotated {len(survey.names)} images in {ledger.folder}: look at {ledger.folder / 'review.html'} first.")


def _segment(
    plan: Plan,
    survey: Survey,
    folder: Path,
    checkpoint: Path,
    sure: Mapping[str, Path],
    classes: Classes,
    bar: StagesBar,
) -> LabelMaps:
    """Carry the label maps of the templates to all images, and learn from them, if the plan has rounds for that."""
    places = {name: folder / f"{number}_{name}" for number, name in enumerate(plan.stages, 1)}
    given = {"pixdim": plan.pixdim, "origin": plan.origin}
    tell = partial(bar, "carrying")
    found, failures = carry_labels_to(
        places["carrying"], checkpoint, survey.names, sure, classes, given, plan.device, tell
    )
    stages = {name: stage for name, stage in plan.stages.items() if stage["bundle"] == "segmentation"}
    rounds = [Round(places[name], stage["settings"]) for name, stage in stages.items()]
    if rounds:
        found, failures = learn_in_rounds(
            rounds,
            survey.names,
            sure,
            places["carrying"],
            classes,
            plan.pool,
            plan.device,
            lambda stage, share: bar(stage.partition("_")[2], share),
        )
    for path, why in failures.items():
        warn(f"{path}: {why}")
    return LabelMaps(rounds[-1].folder if rounds else places["carrying"], classes, found, sure)
