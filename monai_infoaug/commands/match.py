"""Find the landmarks of one annotated template in new images: what ``monai-infoaug match`` does."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Compose, Orientation
from monai.utils.enums import MetaKeys
from torch import Tensor, nn
from tqdm import tqdm

from monai_infoaug._require import refusal, require_device
from monai_infoaug.bundles import find_bundle
from monai_infoaug.data import LandmarkTable, image_datalist, image_name, landmark_datalist, write_landmarks
from monai_infoaug.data.simpleitk_reader import WITHOUT_MILLIMETRES
from monai_infoaug.engines import keep_freed_memory
from monai_infoaug.handlers import draw_landmarks, load_weights
from monai_infoaug.handlers.checkpoint import is_plain, read_settings, require_plain
from monai_infoaug.inferers import match_points, to_voxels, to_world

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Match", "TemplateMatcher", "distinct_names", "draw_match", "load_network", "match_images", "read_config"]

CROP_MM = 80  # side of a landmark's crop from a volume


@dataclass(frozen=True, eq=False)
class Match:
    """The L landmarks of the template in one image.

    Args:
        world: (L, D) positions in millimetres of the image's affine.
        space: how its axes run, "RAS" or "LPS", if the image says so.
        scores: (L,) mean cosines of the embeddings, in [-1, 1].
        round_trips: (L,) voxels between a landmark of the template and where its match is found in the template.
        low: (L,) whether somebody should look at it.
    """

    world: np.ndarray
    space: str | None
    scores: np.ndarray
    round_trips: np.ndarray
    low: np.ndarray


def match_images(
    checkpoint: str | os.PathLike,
    template: str | os.PathLike,
    landmarks: str | os.PathLike,
    images: Sequence[str | os.PathLike],
    out: str | os.PathLike = "infoaug_match",
    bundle: str | os.PathLike | None = None,
    settings: Mapping[str, Any] | None = None,
    min_score: float = -1.0,
    max_round_trip: float = 3.0,
    device: str = "cpu",
) -> dict[str, str]:
    """Find the landmarks of a template in images, and write what was found.

    For each image ``NAME``, ``out`` gets ``NAME.mrk.json``, which 3D Slicer opens with the image, and a picture
    ``NAME.png``; ``landmarks.csv`` has the landmarks of all images, ``confident.csv`` those of them that are not low,
    to train on, ``summary.csv`` a row an image. Files of one name in several folders get the names of these folders
    too. An image that fails is reported, and the others are done.

    A landmark is *low*, that is, somebody should look at it, if its match, searched in the template in turn, is not
    found where it came from, or if its score is below ``min_score``. On the cephalometric images of the bundle
    ``landmark_pretraining``, where 14 % of the errors are above 5 mm, the defaults call 9 % of the landmarks low: 33 %
    of the errors above 5 mm and 73 % of those above 10 mm are among them, and the mean error is 6.2 mm for the low ones
    against 2.5 mm. (The rule was chosen on training images.) The score alone tells less: below 0.65 are 15 % of the
    landmarks, with 35 % of the errors above 5 mm and 57 % of those above 10 mm.

    Args:
        checkpoint: of a training with a bundle that has a network and preprocessing for matching.
        template: annotated image.
        landmarks: its table in millimetres, see :py:func:`monai_infoaug.data.landmark_datalist`.
        images: files and folders.
        out: folder for the files, made where it is missing.
        bundle: folder of the bundle, or its name in the package; by default the one that the checkpoint names.
            The configuration in a folder may run any code.
        settings: of the bundle's ``configs/train.json``, before those of the checkpoint.
        min_score: below it a landmark is low.
        max_round_trip: voxels of the preprocessed template, above which a landmark is low.
        device: of the network.

    Returns:
        Image to the reason why it failed.

    Raises:
        ValueError: before any image is read, for a fault in all that they share: checkpoint, settings, template, table.
    """
    for given in images:
        if not Path(given).exists():
            raise refusal("images", f"'{given}'", "files and folders")
    paths = list(dict.fromkeys(Path(item["image"]) for given in images for item in image_datalist(given)))
    if len(paths) == 0:
        raise refusal("images", "none", "files and folders")
    matcher = TemplateMatcher(checkpoint, template, landmarks, bundle, settings, min_score, max_round_trip, device)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    if not os.access(out, os.W_OK):
        raise refusal("out", f"'{out}'", "a folder that can be written to")

    keep_freed_memory()
    found: dict[str, Match] = {}
    failures: dict[str, str] = {}
    names = distinct_names(paths)
    for path, name in tqdm(names.items(), "Matching", unit="image", disable=None):
        try:
            image = matcher.read(path)
            match = matcher(image)
            write_markups(out / f"{name}.mrk.json", name, matcher.labels, match)
            draw_match(image, match, matcher, name).savefig(out / f"{name}.png", dpi=120)
            found[name] = match
        except Exception as error:  # whatever it is, it is this image's, and the others can be done
            failures[str(path)] = reason(error)
            tqdm.write(f"{path}: {failures[str(path)]}", file=sys.stderr)
    report(out, names, found, failures, matcher.labels)
    return failures


class TemplateMatcher:
    """A network, its preprocessing and the template, ready for any number of images; see :py:func:`match_images`.

    Attributes:
        labels: names of the L landmarks that the template shows.
        image: the preprocessed template (C, *S).
        points: (1, L, D) landmarks in its voxels.
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
        require_device(device)
        if not (-1 <= min_score <= 1):
            raise refusal("min_score", min_score, "a cosine, from -1 to 1")
        if not (max_round_trip > 0):
            raise refusal("max_round_trip", max_round_trip, "above 0, in voxels")
        if not Path(template).exists():
            raise refusal("template", f"'{template}'", "an image file")
        self.config = read_config(checkpoint, bundle, settings)
        self.min_score, self.max_round_trip, self.device = min_score, max_round_trip, device
        with naming("the bundle's configuration"):
            self.preprocess = Compose(self.config.get_parsed_content("preprocessing_transforms"))
        self.network = load_network(self.config, checkpoint).to(device).eval()
        with naming(f"template {template}"):
            self.image = self.read(template)
            space = self.image.meta.get(MetaKeys.SPACE) or "RAS"
            item, dims = landmark_datalist(template, landmarks, space)[0], self.image.ndim - 1
            shown = np.isfinite(world := item["landmarks"]).all(1)
            if not shown.any():
                raise refusal(str(landmarks), "none", "a table with a landmark of the template")
            if world.shape[1] != dims:
                raise refusal(str(landmarks), f"{world.shape[1]} coordinates", f"{dims} a landmark")
            self.labels = [label for label, is_shown in zip(item["labels"], shown, strict=True) if is_shown]
            self.points = torch.as_tensor(self.inside(world[shown]), dtype=torch.float32, device=device)[None]
            self.levels = self.embed(self.image)

    def inside(self, world: np.ndarray) -> np.ndarray:
        """Landmarks of the template (L, D) in voxels.

        Raises:
            ValueError: naming one that lies outside.
        """
        size, voxels = np.array(self.image.shape[1:]), to_voxels(torch.as_tensor(world), self.image).numpy()
        mm, extent = (" x ".join(f"{x:g}" for x in axes) for axes in (self.image.pixdim.tolist()[: size.size], size))
        for label, point, voxel in zip(self.labels, world, voxels, strict=True):
            good = ((voxel >= -0.5) & (voxel <= size - 0.5)).all()
            got = f"{label!r} at {point.round(2).tolist()} mm, voxel {voxel.round(1).tolist()}"
            if not good:
                raise refusal("landmarks", got, f"inside of the template of {extent} voxels of {mm} mm")
        return voxels

    def read(self, path: str | os.PathLike) -> MetaTensor:
        """Read and preprocess an image.

        Raises:
            ValueError: for a format that carries no millimetres, if the settings give none.
        """
        known = self.config.get("pixdim", 1.0) is not None or not str(path).lower().endswith(WITHOUT_MILLIMETRES)
        if not known:
            raise refusal("pixdim", "none", "given, 1 for pixels: PNG, JPEG and BMP do not say millimetres")
        return self.preprocess({"image": str(path)})["image"]

    @torch.no_grad()
    def embed(self, image: MetaTensor) -> list[Tensor]:
        """Levels of the embedding of an image (C, *S)."""
        return self.network(image.as_tensor()[None].to(self.device))

    @torch.no_grad()
    def __call__(self, image: MetaTensor) -> Match:
        """Find the landmarks in a preprocessed image (C, *S)."""
        levels, strides = self.embed(image), self.network.strides
        given = {"weights": self.config.get("level_weights"), "patch_radius": self.config.get("patch_radius")}
        found, scores = match_points(self.levels, self.points, levels, strides, image.shape[1:], **given)
        back, _ = match_points(levels, found, self.levels, strides, self.image.shape[1:], **given)
        trips = (back - self.points).norm(dim=-1)
        low = (trips > self.max_round_trip) | (scores < self.min_score)
        world, scores, trips = (x[0].double().cpu().numpy().round(4) for x in (to_world(found, image), scores, trips))
        return Match(world, image.meta.get(MetaKeys.SPACE), scores, trips, low[0].cpu().numpy())


def read_config(
    checkpoint: str | os.PathLike,
    bundle: str | os.PathLike | None = None,
    settings: Mapping[str, Any] | None = None,
) -> ConfigParser:
    """Configuration ``train.json`` of the bundle of a checkpoint, with the checkpoint's settings, then one's own.

    Args:
        checkpoint: file; it may name a bundle of the package and give settings.
        bundle: folder of a bundle or name of one of the package; by default the one that the checkpoint names.
        settings: plain values for settings at the top level of the configuration.

    Raises:
        ValueError: for an unreadable checkpoint, an unknown bundle, or a setting that the bundle does not have or that
            is no plain value.
    """
    kept = read_settings(checkpoint)
    name = kept.pop("bundle", "landmark_pretraining")
    own = bundle is not None and (Path(bundle) / "configs" / "train.json").is_file()
    folder = Path(bundle) if own else find_bundle(str(name if bundle is None else bundle))
    config = ConfigParser()
    config.read_config(folder / "configs" / "train.json")
    names = [key for key, value in config.get().items() if is_plain(value)]
    require_plain(settings or {})
    for source, given in ((f"settings of {checkpoint}", kept), ("settings", settings or {})):
        for key, value in given.items():
            if key not in names:
                raise refusal(source, repr(key), f"among those of the bundle: {', '.join(names)}")
            config[key] = value
    if "imports" in config:
        config.get_parsed_content("imports")
    return config


def load_network(config: ConfigParser, checkpoint: str | os.PathLike) -> nn.Module:
    """The embedding network of a configuration of :py:func:`read_config`, with the checkpoint's weights.

    Raises:
        ValueError: for a configuration without one, or a checkpoint of another network.
    """
    with naming("the bundle's configuration"):
        network = config.get_parsed_content("network_def")
    got = f"one of a {type(network).__name__}"
    if not hasattr(network, "strides"):
        raise refusal(str(checkpoint), got, "a checkpoint of an embedding network with `strides`")
    return load_weights(network, checkpoint)


def distinct_names(paths: Sequence[Path]) -> dict[Path, str]:
    """Name of each image: without folder, or with all below the common one where two files have the same name.

    Example:
        >>> list(distinct_names([Path("scans/1/t1.nii.gz"), Path("scans/2/t1.nii.gz")]).values())
        ['1_t1', '2_t1']
    """
    root = Path(os.path.commonpath([path.absolute().parent for path in paths]))
    within = [path.absolute().relative_to(root) for path in paths]
    for names in (
        [image_name(path) for path in within],
        ["_".join([*path.parts[:-1], image_name(path)]) for path in within],
        ["_".join(path.parts) for path in within],
        [f"{number}_{path.name}" for number, path in enumerate(within)],
    ):
        if len(set(names)) == len(names):
            break
    return dict(zip(paths, names, strict=True))


def write_markups(path: Path, name: str, labels: Sequence[str], match: Match) -> None:
    """Write a match for 3D Slicer, which shows landmarks that are not low as selected, in another colour."""
    write_landmarks(path, LandmarkTable(labels, {name: match.world}, {name: match.scores}, match.space))
    content = json.loads(path.read_text(encoding="utf-8"))
    points = content["markups"][0]["controlPoints"]
    for point, trip, low in zip(points, match.round_trips, match.low, strict=True):
        point["description"] += f"; round trip {trip:.1f} voxels" + "; low" * bool(low)
        point["selected"] = not low
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def draw_match(image: MetaTensor, match: Match, matcher: TemplateMatcher, title: str) -> Figure:
    """Picture of a match: an image with its landmarks, or each landmark of a volume beside that of the template."""
    title += f": mean score {match.scores.mean():.2f}, low (yellow): {match.low.sum()} of {len(match.low)}"
    draw = draw_overlay if image.ndim == 3 else draw_crops
    return draw(image, match, matcher, title)


def draw_overlay(image: MetaTensor, match: Match, matcher: TemplateMatcher, title: str) -> Figure:
    """An image with its landmarks."""
    from matplotlib.figure import Figure

    array, points = for_display(image, match.world)
    height = 8 * array.shape[2] / array.shape[1]
    figure = Figure(figsize=(8, height + 0.4))
    axes = figure.add_axes((0, 0, 1, height / (height + 0.4)))
    draw_landmarks(axes, array[0], points, labels=matcher.labels, low=match.low)
    if len(array) == 3:
        axes.images[0].set_data(array.T)
    figure.suptitle(title, x=0.01, y=0.99, horizontalalignment="left", verticalalignment="top", fontsize=11)
    return figure


def draw_crops(image: MetaTensor, match: Match, matcher: TemplateMatcher, title: str) -> Figure:
    """For each landmark, axial crops of the template and of the volume, side by side, in radiological view."""
    from matplotlib.figure import Figure

    template = for_display(matcher.image, to_world(matcher.points, matcher.image)[0].cpu().numpy())
    found, gap, columns = for_display(image, match.world), 4, min(4, len(matcher.labels))
    half = round(CROP_MM / 2 / float(image.pixdim[0]))
    side = 2 * half + 1
    cell = np.array([2 * (side + gap), side + gap])
    corners = [cell * (i % columns, i // columns) for i in range(len(matcher.labels))]
    sheet, marks = np.ones(cell * (columns, -(-len(corners) // columns))), []
    for (volume, points), shift in ((template, 0), (found, side + 1)):
        padded = np.pad(volume.mean(0), [(half, half), (half, half), (0, 0)])
        centres = np.clip(np.rint(points).astype(int), 0, np.array(volume.shape[1:]) - 1)
        for (left, top), (x, y, z), point in zip(corners, centres, points, strict=True):
            left += shift
            sheet[left : left + side, top : top + side] = padded[x : x + side, y : y + side, z]
            marks.append((left + half + point[0] - x, top + half + point[1] - y))
    figure = Figure(figsize=(12, 12 * sheet.shape[1] / sheet.shape[0] + 0.4))
    axes = figure.add_axes((0, 0, 1, 1 - 0.4 / figure.get_figheight()))
    draw_landmarks(axes, sheet, np.array(marks), low=np.tile(match.low, 2))
    for label, corner, low in zip(matcher.labels, corners, match.low, strict=True):
        axes.text(
            *(corner + 1), label, color="yellow" if low else "lime", va="top", fontsize=9, backgroundcolor="black"
        )
    figure.suptitle(f"{title}. Axial: template | match", x=0.01, y=0.99, horizontalalignment="left", fontsize=11)
    return figure


def for_display(image: MetaTensor, world: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Array (C, *S) with axis 0 to the patient's left, axis 1 to the back, and points in its voxels."""
    turned = Orientation("LPS"[: image.ndim - 1], labels=None)(image)
    return turned.cpu().numpy(), to_voxels(torch.as_tensor(world), turned).numpy()


def report(
    out: Path, names: Mapping[Path, str], found: Mapping[str, Match], failures: Mapping[str, str], labels: Sequence[str]
) -> None:
    """Write and print the tables of all images."""
    rows = []
    for path, name in names.items():
        match, failure = found.get(name), failures.get(str(path), "")
        low = [] if match is None else [label for label, is_low in zip(labels, match.low, strict=True) if is_low]
        rows.append([name, path, "" if match is None else f"{match.scores.mean():.3f}", " ".join(low), failure])
    with open(out / "summary.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["image", "file", "mean_score", "low", "failure"], *rows])
    if found:
        spaces = {match.space for match in found.values()}
        points, scores = ({name: getattr(m, kind) for name, m in found.items()} for kind in ("world", "scores"))
        table = LandmarkTable(labels, points, scores, spaces.pop() if len(spaces) == 1 else None)
        write_landmarks(out / "landmarks.csv", table)
        sure = {name: np.where(match.low[:, None], np.nan, match.world) for name, match in found.items()}
        write_landmarks(out / "confident.csv", replace(table, points=sure))
    width = max(5, *(len(row[0]) for row in rows))
    print(f"{'image':{width}}  mean score  low landmarks")
    for name, _, score, low, failure in rows:
        print(f"{name:{width}}  {score or 'failed':>10}  {failure or low}")
    tables = "NAME.mrk.json, NAME.png, landmarks.csv, confident.csv, summary.csv"
    print(f"Wrote {len(found)} of {len(rows)} images to {out}: {tables}.")


@contextmanager
def naming(what: str) -> Iterator[None]:
    """Turn any error into one line that says what it was about."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{what}: {reason(error)}") from error


def reason(error: BaseException) -> str:
    """What went wrong, in a line: an error of this package if others have wrapped one, else the first of all."""
    chain = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    lines = [line.removeprefix("ValueError: ") for link in chain for line in str(link).strip().splitlines()]
    first = str(chain[-1]).strip().partition("\n")[0] or type(chain[-1]).__name__
    return next((line for line in lines if line.startswith("`")), first)
