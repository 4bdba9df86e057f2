"""The stages of label maps: those of templates are carried to all images, and networks learn from what was carried."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai_infoaug._files import digest_of, write_whole
from monai_infoaug.commands._classes import Classes
from monai_infoaug.commands._embedding import Embedder
from monai_infoaug.commands._label_files import label_bytes, label_suffix, read_labels
from monai_infoaug.commands._label_maps import LabelCarrier, LabelPredictor, label_file, segment_each
from monai_infoaug.commands._records import key_of
from monai_infoaug.commands._stages import run_stage

DATALIST = "datalist.json"  # of a round, in the form of the Medical Segmentation Decathlon
TRAINING = 0.9  # of a round's time; the rest is to segment


@dataclass(frozen=True)
class Round:
    """A training on label maps and what it is to segment.

    Args:
        folder: of the stage.
        settings: of the bundle ``segmentation``.
        overlay: method of the bundle, None for the U-Net alone.
    """

    folder: Path
    settings: Mapping[str, Any]
    overlay: str | None = None


def carry_labels_to(
    folder: str | os.PathLike,
    checkpoint: str | os.PathLike,
    images: Mapping[Path, str],
    sure: Mapping[str, Path],
    classes: Classes,
    settings: Mapping[str, Any] | None = None,
    device: str = "cpu",
    progress: Callable[[float], None] | None = None,
) -> tuple[dict[str, list[float]], dict[Path, str]]:
    """Carry label maps to images by a network that has learnt without labels.

    Args:
        folder: of the stage.
        checkpoint: of a training with a bundle that has a network for matching.
        images: each image to its name, with those whose label maps are carried.
        sure: name to label map of these.
        classes: of the label maps.
        settings: of the checkpoint's bundle, such as ``pixdim`` and ``origin``.
        device: of the network.
        progress: is told the share of the images that are done.

    Returns:
        What :py:func:`monai_infoaug.commands._label_maps.segment_each` returns.

    Raises:
        ValueError: for a faulty checkpoint, image or label map of those that are carried.
        OSError: naming the file, if the disk is full.
    """
    carrier = LabelCarrier(Embedder(checkpoint, settings=settings, device=device), classes)
    templates = {path: sure[name] for path, name in images.items() if name in sure}
    for path, labels in templates.items():
        carrier.add(path, labels)
    files = [file for pair in sorted(templates.items()) for file in pair]
    key = key_of(Path(checkpoint), *files, classes.as_text(), dict(settings or {}))
    return segment_each(carrier, images, folder, key, progress)


def learn_in_rounds(
    rounds: Sequence[Round],
    images: Mapping[Path, str],
    sure: Mapping[str, Path],
    carried: str | os.PathLike | None,
    classes: Classes,
    pool: int = 80,
    device: str = "cpu",
    progress: Callable[[str, float], None] | None = None,
) -> tuple[dict[str, list[float]], dict[Path, str]]:
    """Train networks of the bundle ``segmentation`` one after the other, each on what the one before it has found.

    The label maps of the first round are those that are sure and those that were carried. Each round segments the
    images that have no sure label map, the last one all images, into ``labels`` of its folder, with ``confidence``
    beside. A round that was done stays so when there are more images, which are segmented, too; with other sure label
    maps it begins anew.

    Args:
        rounds: at least one.
        images: each image to its name.
        sure: name to label map, of the images that have one.
        carried: folder of :py:func:`segment_each` for the first round. None: it learns from what is sure alone.
        classes: of the label maps.
        pool: images without a sure label map that a round learns from, at most.
        device: of the networks.
        progress: is told the folder's name and the share of the round that is done.

    Returns:
        Of the last round what :py:func:`segment_each` returns.

    Raises:
        ValueError: for a round that was begun with other settings.
        RuntimeError: if a training fails.
        OSError: naming the file, if the disk is full.
    """
    files = {name: path for path, name in images.items()}
    others = [name for name in sorted(files.keys() - sure.keys()) if _is_carried(carried, name, files[name])]
    step = max(1, len(others) / max(1, pool))
    chosen = [others[int(step * number)] for number in range(min(pool, len(others)))]
    before, checkpoint = None if carried is None else Path(carried), None
    found, failures = dict[str, list[float]](), dict[Path, str]()
    for number, each in enumerate(rounds):
        datalist = _datalist_of(each.folder, files, sure, before, chosen, classes)
        checkpoint = _train(each, datalist, classes, checkpoint, _part(progress, each, 0.0, TRAINING))
        due = images
        if number + 1 < len(rounds):  # what the next one learns from, or has learnt from before there were more images
            names = _begun(rounds[number + 1].folder, sure) or chosen
            due = {files[name]: name for name in names if name in files and name not in sure}
        predict, key = LabelPredictor([checkpoint], classes, device), key_of(checkpoint, classes.as_text())
        tell = _part(progress, each, TRAINING, 1 - TRAINING)
        found, failures = segment_each(predict, due, each.folder, key, tell)
        before = each.folder
    return found, failures


def _is_carried(carried: str | os.PathLike | None, name: str, image: Path) -> bool:
    return carried is None or label_file(carried, name, image).is_file()


def _made_of(sure: Mapping[str, Path]) -> dict[str, str]:
    return {name: digest_of(sure[name]) for name in sorted(sure)}


def _begun(folder: Path, sure: Mapping[str, Path]) -> list[str]:
    """Names of the images that a round learns from, if it was begun with the same sure label maps."""
    with suppress(OSError, ValueError):
        content = json.loads(Path(folder, DATALIST).read_text(encoding="utf-8"))
        if content["sure"] == _made_of(sure):
            return [item["name"] for item in content["training"]]
    return []


def _part(
    progress: Callable[[str, float], None] | None, each: Round, start: float, length: float
) -> Callable[[float], None] | None:
    """What is told the share of a part of a round, and tells that of the round."""
    return None if progress is None else lambda share: progress(each.folder.name, start + length * share)


def _datalist_of(
    folder: Path,
    files: Mapping[str, Path],
    sure: Mapping[str, Path],
    before: Path | None,
    chosen: Sequence[str],
    classes: Classes,
) -> Path:
    """MONAI's data list of what a round learns from: the images with which it was begun, if there are more by now."""
    names = sorted(name for name in _begun(folder, sure) or [*sure, *chosen] if name in files)
    labels = {name: sure.get(name) or (before and label_file(before, name, files[name])) for name in names}
    folder.mkdir(parents=True, exist_ok=True)
    items = []
    for name, path in labels.items():
        if path is not None and path.is_file():
            label = str(_in_numbers(path, classes, label_file(folder, name, files[name], "numbered")))
            items.append({"image": os.path.abspath(files[name]), "name": name, "label": label})
    file = Path(os.path.abspath(folder), DATALIST)
    write_whole(file, json.dumps({"sure": _made_of(sure), "training": items}, indent=1))
    return file


def _train(
    each: Round,
    datalist: Path,
    classes: Classes,
    init_checkpoint: Path | None,
    progress: Callable[[float], None] | None,
) -> Path:
    """Train a round on a data list; its checkpoint."""
    reader = {"_target_": "monai.data.load_decathlon_datalist", "data_list_file_path": str(datalist)}
    own: dict[str, Any] = {"labelled_datalist": reader, "validate#datalist": "$@labelled_datalist[:1]", "val_images": 1}
    own["val_interval"] = each.settings["max_epochs"] + 1  # never: there are no labels to spare
    if init_checkpoint is not None:
        own["init_checkpoint"] = os.path.abspath(init_checkpoint)
    configs = ["train"] if each.overlay is None else ["train", each.overlay]
    labels = [Path(item["label"]) for item in json.loads(datalist.read_text(encoding="utf-8"))["training"]]
    settings = {**each.settings, **classes.settings, **own}
    inputs = [datalist, *labels, *([] if init_checkpoint is None else [init_checkpoint])]
    run_stage(each.folder, "segmentation", settings, configs, inputs, progress)
    return each.folder / "checkpoint.pt"


def _in_numbers(path: Path, classes: Classes, file: Path) -> Path:
    """A label map with the numbers that the bundle has for the classes: itself, or a file that is written for that."""
    if classes.numbers == classes.values:
        return Path(os.path.abspath(path))
    labels = read_labels(path)
    file.parent.mkdir(exist_ok=True)
    content = label_bytes(classes.labels(classes.masks(labels), classes.numbers), labels, label_suffix(file))
    if not file.exists() or file.read_bytes() != content:
        write_whole(file, content)
    return Path(os.path.abspath(file))
