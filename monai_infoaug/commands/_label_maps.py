"""Label maps of many images, carried from templates or found by trained networks, and the files that they are in."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from monai.data import MetaTensor
from monai.transforms import Compose
from torch import Tensor
from torch.nn import functional as F

from monai_infoaug._files import Ledger
from monai_infoaug._grid import plain
from monai_infoaug._require import reason
from monai_infoaug.bundles import read_config
from monai_infoaug.commands._classes import Classes
from monai_infoaug.commands._embedding import Embedder
from monai_infoaug.commands._label_files import (
    label_bytes,
    label_suffix,
    onto_grid,
    percent,
    read_labels,
    read_on_grid,
)
from monai_infoaug.commands._records import is_full, stamp_of
from monai_infoaug.handlers import load_weights
from monai_infoaug.inferers import DenseMap, carry_labels, map_densely

PARTS = ("labels", "confidence")  # folders of a stage
RADIUS = 16.0  # voxels of a patch where a checkpoint says none


@dataclass(frozen=True, eq=False)
class Segmented:
    """What an image shows.

    Args:
        labels: (1, *S) label map on the image's own grid, with the values of the files.
        confidence: (1, *S) in [0, 1], of the class there of which it is least.
        sure: of each of the K classes the mean confidence where it is, NaN where it is nowhere.
        grid: the image (C, *S).
    """

    labels: Tensor
    confidence: Tensor
    sure: list[float]
    grid: MetaTensor


def segmented(classes: Classes, masks: Tensor, sure: Tensor, grid: MetaTensor) -> Segmented:
    """A segmentation of masks (K, *S) and their confidence, (K, *S) or (1, *S)."""
    parts = sure.expand(len(masks), *sure.shape[1:])
    means = [float(part[mask].mean()) if mask.any() else math.nan for part, mask in zip(parts, masks, strict=True)]
    return Segmented(classes.labels(masks), sure.amin(0, keepdim=True), means, grid)


class LabelCarrier:
    """Templates with their label maps, which are carried to other images by maps of many matches.

    Args:
        embedder: network and preprocessing.
        classes: those of the label maps.
        count, neighbours: see :py:func:`monai_infoaug.inferers.map_densely`.
    """

    def __init__(self, embedder: Embedder, classes: Classes, count: int = 600, neighbours: int = 24) -> None:
        self.embedder, self.classes, self.count, self.neighbours = embedder, classes, count, neighbours
        self.pixdim, self.origin = embedder.config.get("pixdim"), embedder.config.get("origin", 0.0)
        self.templates: dict[str, tuple[MetaTensor, Sequence[Tensor], MetaTensor]] = {}

    def add(self, path: str | os.PathLike, labels: str | os.PathLike) -> None:
        """Make an image a template, with the file of its label map.

        Raises:
            ValueError: naming a file that is no image or label map.
        """
        image = self.embedder.read(path)
        label = read_labels(labels, self.pixdim, self.origin)
        self.templates[os.path.realpath(path)] = image, self.embedder.embed(image), label

    @torch.no_grad()
    def __call__(self, path: str | os.PathLike) -> Segmented:
        """The label map of an image: that of a template is its own, others are carried from all templates."""
        grid = read_on_grid(path, self.pixdim, self.origin)
        own = self.templates.get(os.path.realpath(path))
        if own is not None:
            known = self.classes.masks(onto_grid(own[2], grid))
            return segmented(self.classes, known, torch.ones_like(known, dtype=torch.float32), grid)
        image = self.embedder.read(path)
        levels = self.embedder.embed(image)
        images, _, labels = map(list, zip(*self.templates.values(), strict=True))
        maps = [self._map(levels, image, its, template) for template, its, _ in self.templates.values()]
        masks: list[Tensor] = []
        sure: list[Tensor] = []
        for parts in zip(*(self._parts(label) for label in labels), strict=True):
            found, confidence = carry_labels(maps, parts, images, image, grid)
            masks.append(found > 0 if self.classes.are_bits else self.classes.masks(found))
            sure.append(confidence)
        return segmented(self.classes, torch.cat(masks), torch.cat(sure), grid)

    def _parts(self, label: MetaTensor) -> list[MetaTensor]:
        """Label maps that are carried each by itself: of classes that may overlap, all of them are."""
        if not self.classes.are_bits:
            return [label]
        return [MetaTensor(mask[None].byte(), affine=label.affine) for mask in self.classes.masks(label)]

    def _map(self, levels: Sequence[Tensor], image: Tensor, its: Sequence[Tensor], template: Tensor) -> DenseMap:
        config = self.embedder.config
        return map_densely(
            levels,
            its,
            self.embedder.strides,
            image.shape[1:],
            template.shape[1:],
            config.get("level_weights"),
            config.get("patch_radius") or RADIUS,
            self.count,
            self.neighbours,
        )


class LabelPredictor:
    """Trained networks of the bundle ``segmentation``, which segment together: the mean of their logits decides.

    Args:
        checkpoints: files of trainings with the same settings of the data.
        classes: what they have learnt.
        device: of the networks.

    Raises:
        ValueError: for checkpoints that cannot be read or are of another bundle.
    """

    def __init__(self, checkpoints: Sequence[str | os.PathLike], classes: Classes, device: str = "cpu") -> None:
        config = read_config(checkpoints[0], "segmentation")
        self.classes, self.device, self.pixdim = classes, device, config.get("pixdim")
        self.preprocess = Compose(config.get_parsed_content("preprocessing_transforms"))
        self.inverse, self.inferer = (config.get_parsed_content(name) for name in ("inverse", "inferer"))
        network = config.get_parsed_content("network_def")
        self.networks = [load_weights(deepcopy(network), path).to(device).eval() for path in checkpoints]

    @torch.no_grad()
    def __call__(self, path: str | os.PathLike) -> Segmented:
        """Segment an image on its own grid."""
        grid = read_on_grid(path, self.pixdim)
        item = self.preprocess({"image": os.fspath(path)})
        image = item["image"].to(self.device)[None]
        logits = sum(self.inferer(image, network) for network in self.networks)[0] / len(self.networks)
        item["pred"] = MetaTensor(plain(logits).float().cpu(), meta=item["image"].meta)
        found = plain(self.inverse(item)["pred"])
        if self.classes.are_bits:
            shares = found.sigmoid()
            masks, sure = found >= 0, torch.maximum(shares, 1 - shares)
        else:
            shares = found.softmax(0)
            masks, sure = F.one_hot(shares.argmax(0), len(shares)).movedim(-1, 0)[1:] > 0, shares.amax(0, keepdim=True)
        return segmented(self.classes, masks, sure, grid)


def segment_each(
    make: Callable[[Path], Segmented],
    images: Mapping[Path, str],
    folder: str | os.PathLike,
    key: str,
    progress: Callable[[float], None] | None = None,
) -> tuple[dict[str, list[float]], dict[Path, str]]:
    """Write label maps of images with their confidence: ``labels/NAME`` and, in per cent, ``confidence/NAME``.

    Both are on the grid of the image, NIfTI or PNG, and written whole or not at all. Called again, it makes what is not
    there yet, or was made by another key or of another image.

    Args:
        make: makes them, such as :py:class:`LabelCarrier` and :py:class:`LabelPredictor`.
        images: each image to its name.
        folder: where they are written, made where it is missing.
        key: what tells whether a label map would come out as before, of ``key_of``.
        progress: is told the share of the images that are done.

    Returns:
        Name to the mean confidence of each class, NaN for one that is nowhere; and image to the reason why it failed.

    Raises:
        OSError: naming the file, if the disk is full.
    """
    folder = Path(folder)
    for part in PARTS:
        (folder / part).mkdir(parents=True, exist_ok=True)
    ledger, found, failures = Ledger(folder), dict[str, list[float]](), dict[Path, str]()
    kept = {(record["image"], record["name"]): record for record in ledger.records() if record.get("segmented") == key}
    for number, (path, name) in enumerate(images.items()):
        files = [str(label_file("", name, path, part)) for part in PARTS]
        try:
            made_of = {"image": os.path.abspath(path), "name": name, "stamp": stamp_of(path)}
            record = kept.get((made_of["image"], name), {})
            if record.get("stamp") != made_of["stamp"] or not all(map(ledger.is_ours, files)):
                made = make(path)
                for file, values in zip(files, (made.labels, percent(made.confidence)), strict=True):
                    ledger.write(file, label_bytes(values, made.grid, label_suffix(path)))
                record = made_of | {"segmented": key, "sure": made.sure}
                ledger.note(record)
            found[name] = record["sure"]
        except Exception as error:  # whatever it is, it is this image's, and the others can be done
            if is_full(error):
                raise
            failures[path] = reason(error)
        if progress is not None:
            progress((number + 1) / len(images))
    return found, failures


def label_file(folder: str | os.PathLike, name: str, image: str | os.PathLike, part: str = "labels") -> Path:
    """Where :py:func:`segment_each` writes the label map of an image, or its confidence."""
    return Path(folder, part, f"{name}{label_suffix(image)}")
