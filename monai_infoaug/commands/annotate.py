"""Annotate a folder of images from one annotated image: what ``monai-infoaug annotate`` does."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from monai.utils.enums import MetaKeys
from tqdm import tqdm

from monai_infoaug._console import printable, say
from monai_infoaug._files import Ledger, write_whole
from monai_infoaug._require import refusal
from monai_infoaug.commands._annotated import write_annotations
from monai_infoaug.commands._embedding import Embedder
from monai_infoaug.commands._images import distinct_names, images_of, read_image
from monai_infoaug.commands._landmark_stages import LandmarkStages, Sure
from monai_infoaug.commands._plan import FEWEST, Plan, make_plan, read_plan
from monai_infoaug.commands._stages import StagesBar, run_stage
from monai_infoaug.commands._survey import Survey, link_images, survey_images
from monai_infoaug.commands.template_matcher import Paths, is_same, with_tables
from monai_infoaug.data import image_name
from monai_infoaug.data._places import if_turned, outside

__all__ = ["annotate_images"]


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
        _run(made, survey, known, labels, ledger)
    return {str(path): why for path, why in survey.left_out.items()}


def _corrected(folder: str | os.PathLike | None, names: Mapping[Path, str]) -> list[tuple[Path, Path]]:
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


def _run(plan: Plan, survey: Survey, known: Sequence[Sure], labels: Sequence[str], ledger: Ledger) -> None:
    """Run the stages that are missing, and write what was found."""
    folder = Path(os.path.abspath(ledger.folder)) / "stages"
    images = link_images(survey.names, folder / "images")
    bar = StagesBar({name: 60 * stage["minutes"] for name, stage in plan.stages.items()})
    try:
        settings = plan.settings("pretraining") | {"dataset_dir": str(images)}
        place, bundle = folder / "1_pretraining", plan.stages["pretraining"]["bundle"]
        run_stage(place, bundle, settings, progress=lambda share: bar("pretraining", share))
        bar("pretraining", 1.0)
        found = LandmarkStages(plan, survey, images, known, labels, bar).run(place / "checkpoint.pt")
    finally:
        bar.close()
    embedder = Embedder(
        place / "checkpoint.pt", settings={"pixdim": plan.pixdim, "origin": plan.origin}, device=plan.device
    )
    notes = [f"Templates: {', '.join(each.name for each in known)}."]
    detected = any(name.startswith("round") for name in plan.stages)
    write_annotations(found, labels, ledger, embedder, detected, notes)
    say(f"Annotated {len(found)} images in {ledger.folder}: look at {ledger.folder / 'review.html'} first.")
