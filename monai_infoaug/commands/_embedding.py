"""A trained network with its preprocessing: what reads, embeds and searches images for the commands."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose
from monai.utils.enums import MetaKeys
from torch import Tensor

from monai_infoaug._require import GIVEN, WITHOUT_MILLIMETRES, is_number, naming, refusal, require_device
from monai_infoaug.bundles import load_network, read_config
from monai_infoaug.data import landmark_datalist
from monai_infoaug.data._places import if_turned, outside
from monai_infoaug.engines import HalfPrecisionInferer, has_fast_half
from monai_infoaug.handlers.checkpoint import read_checkpoint
from monai_infoaug.inferers import match_points
from monai_infoaug.inferers._patch_search import Levels

__all__ = ["Embedded", "Embedder", "Template"]


@dataclass(frozen=True, eq=False)
class Embedded:
    """An image with its embedding.

    Args:
        path: its file.
        image: preprocessed (C, *S).
        levels: levels of its embedding.
    """

    path: Path
    image: MetaTensor
    levels: Sequence[Tensor]


@dataclass(frozen=True, eq=False)
class Template(Embedded):
    """An annotated image.

    Args:
        path, image, levels: see :py:class:`Embedded`.
        points: (1, L, D) landmarks in its voxels.
        labels: names of the L landmarks that it shows.
    """

    points: Tensor
    labels: list[str]


class Embedder:
    """A network and its preprocessing, ready for any number of images.

    Args:
        checkpoint: file of a training with a bundle that has a network and preprocessing for matching.
        bundle: folder of the bundle, or its name in the package; by default the one that the checkpoint names.
        settings: settings of the bundle's ``configs/train.json``, before those of the checkpoint.
        device: device of the network.

    Attributes:
        config: the bundle's configuration.
        network: on the device, in evaluation mode.
        strides: voxels a cell, for each level of the embedding.

    Raises:
        ValueError: for a fault in checkpoint, settings or device.
    """

    def __init__(
        self,
        checkpoint: str | os.PathLike,
        bundle: str | os.PathLike | None = None,
        settings: Mapping[str, Any] | None = None,
        device: str = "cpu",
    ) -> None:
        require_device(device)
        states = read_checkpoint(checkpoint)
        self.config, self.device = read_config(checkpoint, bundle, settings, states), device
        side = self.config.get("working_pixdim", 1.0)
        if not (is_number(side) and side > 0) and not str(side).startswith(("$", "@", "%")):
            raise refusal("working_pixdim", side, "a number above 0, in mm")
        with naming("the bundle's configuration"):
            self.preprocess = Compose(self.config.get_parsed_content("preprocessing_transforms"))
        self.network = load_network(self.config, checkpoint, states).to(device).eval()
        self._inferer = HalfPrecisionInferer(has_fast_half(device))  # for the network alone: places need float32
        self.strides: Sequence[float] = self.network.strides  # type: ignore[assignment]  # checked by load_network

    def read(self, path: str | os.PathLike) -> MetaTensor:
        """Read and preprocess an image.

        Raises:
            ValueError: for a format that carries no millimetres, if the settings give none.
        """
        if self.config.get("pixdim", 1.0) is None and str(path).lower().endswith(WITHOUT_MILLIMETRES):
            raise refusal("pixdim", "none", GIVEN)
        return self.preprocess({"image": str(path)})["image"]

    @torch.no_grad()
    def embed(self, image: MetaTensor) -> list[Tensor]:
        """Levels of the embedding of an image (C, *S)."""
        return Levels(self._inferer(image.as_tensor()[None].to(self.device), self.network))

    @torch.no_grad()
    def search(
        self, levels: Sequence[Tensor], points: Tensor, others: Sequence[Tensor], other: MetaTensor
    ) -> tuple[Tensor, Tensor]:
        """Where points (1, L, D) of an embedding lie in that of the image ``other``, and their scores (1, L)."""
        given = {"weights": self.config.get("level_weights"), "patch_radius": self.config.get("patch_radius")}
        return match_points(levels, points, others, self.strides, other.shape[1:], **given)

    def annotated(self, path: str | os.PathLike, landmarks: str | os.PathLike) -> Template:
        """An image with its landmarks, of a table in millimetres.

        Raises:
            ValueError: for a faulty image or table, or a landmark outside of the image.
        """
        with naming(f"template {path}"):
            image = self.read(path)
            item, dims = landmark_datalist(path, landmarks, image.meta.get(MetaKeys.SPACE) or "RAS")[0], image.ndim - 1
            world = np.asarray(item["landmarks"])
            shown = np.isfinite(world).all(1)
            if not shown.any():
                raise refusal(str(landmarks), "none", "a table with a landmark of the template")
            if world.shape[1] != dims:
                raise refusal(str(landmarks), f"{world.shape[1]} coordinates", f"{dims} a landmark")
            labels = [label for label, is_shown in zip(item["labels"], shown, strict=True) if is_shown]
            points = torch.as_tensor(_inside(world[shown], labels, image), dtype=torch.float32, device=self.device)
            return Template(Path(path), image, self.embed(image), points[None], labels)


def _inside(world: np.ndarray, labels: Sequence[str], image: MetaTensor) -> np.ndarray:
    """Landmarks (L, D) in voxels of an image.

    Raises:
        ValueError: naming one that lies outside.
    """
    size, (voxels, is_outside) = image.shape[1:], outside(world, image)
    for label, point, voxel, out in zip(labels, world, voxels, is_outside, strict=True):
        if out:
            extent, mm = (" x ".join(f"{x:g}" for x in axes) for axes in (size, image.pixdim.tolist()[: len(size)]))
            place, at = (each.astype(float).round(digits).tolist() for each, digits in ((point, 2), (voxel, 1)))
            got = f"{label!r} at {place} mm, voxel {at}{if_turned(world, image)}"
            raise refusal("landmarks", got, f"inside of the template of {extent} voxels of {mm} mm")
    return voxels
