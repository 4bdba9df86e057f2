"""Found landmarks as a table, a summary and a picture."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from monai.utils import optional_import
from monai.utils.enums import MetaKeys

from monai_infoaug._console import say
from monai_infoaug._processes import all_gather_interleaved, rank, world_size
from monai_infoaug._require import is_count, refusal
from monai_infoaug.data import LandmarkTable, image_name, write_landmarks
from monai_infoaug.metrics import MeanRadialError, success_detection_rate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Events, _ = optional_import("ignite.engine", name="Events")

__all__ = ["LandmarkReport", "draw_landmarks", "summarise_errors"]


def summarise_errors(
    errors: np.ndarray, radii: Sequence[float] = (2.0, 2.5, 3.0, 4.0), labels: Sequence[str] | None = None
) -> str:
    """Summarise radial errors in text: mean radial error and success detection rates, overall and by landmark.

    Args:
        errors: (images, L) in millimetres, NaN where there is no truth, infinite where nothing was found.
        radii: radii of the success detection rates, in millimetres; an error strictly below counts.
        labels: names of the landmarks, by default 0 ... L - 1.

    Returns:
        A table with a line for all landmarks and one for each, those without truth left out.

    Raises:
        ValueError: for another number of labels than of landmarks.

    Example:
        >>> print(summarise_errors(np.array([[1.0, 3.0], [2.0, np.nan]]), radii=[2.5], labels=["sella", "nasion"]))
         landmark  MRE mm  median      SD  SDR 2.5 mm %
              all    2.00    2.00    0.82          66.7
            sella    1.50    1.50    0.50         100.0
           nasion    3.00    3.00    0.00           0.0
    """
    names = names_of(labels, errors.shape[1])
    width = max(9, *map(len, names))
    lines = [f"{'landmark':>{width}}  MRE mm  median      SD" + "".join(f"  SDR {r:g} mm %" for r in radii)]
    for name, column in [("all", errors), *zip(names, errors.T, strict=True)]:
        known = column[~np.isnan(column)]
        if known.size:
            found = success_detection_rate(torch.as_tensor(known, dtype=torch.float64), radii).tolist()
            rates = (f"{100 * f:>{len(f'  SDR {r:g} mm %')}.1f}" for f, r in zip(found, radii, strict=True))
            with np.errstate(invalid="ignore"):  # infinite errors have no deviation
                spread = known.std()
            lines.append(f"{name:>{width}}{known.mean():8.2f}{np.median(known):8.2f}{spread:8.2f}" + "".join(rates))
    return "\n".join(lines)


def names_of(labels: Sequence[str] | None, count: int) -> Sequence[str]:
    """The labels of ``count`` landmarks, their numbers if there are none."""
    names = tuple(map(str, range(count))) if labels is None else tuple(labels)
    if len(names) != count:
        raise refusal("labels", f"{len(names)} of them", f"{count} names, one a landmark")
    return names


def draw_landmarks(
    axes: Axes,
    image: np.ndarray,
    found: np.ndarray,
    truth: np.ndarray | None = None,
    labels: Sequence[str] | None = None,
    low: np.ndarray | None = None,
) -> None:
    """Draw found landmarks (crosses), true ones (circles) and the lines between them on an image.

    Args:
        axes: Matplotlib axes.
        image: (H, W), axis 0 is drawn to the right; a volume (H, W, D) by its middle slice.
        found: (L, 2 or 3) in voxels.
        truth: (L, 2 or 3), the true landmarks.
        labels: names to write beside the found landmarks.
        low: (L,) whether a landmark is to be doubted: such are in yellow, the others then in green.
    """
    from matplotlib.patheffects import withStroke

    axes.imshow((image if image.ndim == 2 else image[..., image.shape[-1] // 2]).T, cmap="gray")
    if truth is not None:
        axes.plot(*np.stack([found[:, :2], truth[:, :2]], axis=1).T, color="yellow", linewidth=1)
        axes.plot(*truth[:, :2].T, "o", markerfacecolor="none", markeredgecolor="lime", markersize=6)
    groups = [(slice(None), "red")] if low is None else [(~low, "lime"), (low, "yellow")]
    for group, colour in groups:
        axes.plot(*found[group, :2].T, "+", color=colour, markersize=6)
        for position, label in zip(found[group], np.array(labels)[group] if labels else (), strict=False):
            text = axes.annotate(
                label, position[:2], (3, 3), textcoords="offset points", color=colour, fontsize=8, parse_math=False
            )
            text.set_path_effects([withStroke(linewidth=2, foreground="black")])
    axes.axis("off")


class LandmarkReport:
    """Handler that writes what an evaluator with a ``LandmarkMatcher`` found.

    ``landmarks_mm.csv`` has every landmark and its score, ``landmarks.png`` shows the first images. Where the true
    landmarks are known, ``errors.txt`` has the mean radial error and success detection rates, overall and by landmark,
    and the summary is logged. A batch of the evaluator must be decollated, as it is by default. Of several processes
    the first writes what all of them found, see ``own_items``.

    Args:
        output_dir: folder, made where it is missing.
        radii: radii of the success detection rates, in millimetres.
        num_pictures: number of images in the picture.
        labels: names of the landmarks, by default 0 ... L - 1.

    Raises:
        ValueError: for ``num_pictures`` that is no whole number of at least 1; when it writes, for another number of
            labels than of landmarks.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike,
        radii: Sequence[float] = (2.0, 2.5, 3.0, 4.0),
        num_pictures: int = 6,
        labels: Sequence[str] | None = None,
    ) -> None:
        if not is_count(num_pictures, 1):
            raise refusal("num_pictures", num_pictures, "a whole number of at least 1")
        self.labels = labels
        self.output_dir, self.radii, self.num_pictures = Path(output_dir), tuple(radii), num_pictures
        self.items: list[dict[str, Any]] = []

    def attach(self, engine: Any) -> None:
        """Attach to an evaluator."""
        engine.add_event_handler(Events.STARTED, lambda _: self.items.clear())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.collect)
        engine.add_event_handler(Events.COMPLETED, self.write)

    def collect(self, engine: Any) -> None:
        """Keep what was found in a batch: ``pred`` of a ``LandmarkMatcher``, ``label`` (L, D) in mm or None."""
        for item in engine.state.output:
            image, found, truth = item["image"], item["pred"], item.get("label")
            number = rank() + world_size() * len(self.items)
            path = str(image.meta.get("filename_or_obj", f"image_{number}"))
            kept = {"path": path, "name": image_name(path), "space": image.meta.get(MetaKeys.SPACE)}
            kept |= {key: found[key].cpu().numpy() for key in ("landmarks", "world", "scores")}
            kept |= {"affine": np.asarray(image.affine), "truth": None, "errors": None}
            if truth is not None:
                truth, world = torch.as_tensor(truth).cpu(), found["world"].cpu()
                errors = torch.as_tensor(MeanRadialError()(world[None], truth[None]))
                kept |= {"truth": truth.numpy(), "errors": errors[0].numpy()}
            if len(self.items) < self.num_pictures:
                kept["image"] = image[0].cpu().numpy()
            self.items.append(kept)

    def write(self, engine: Any) -> None:  # noqa: ARG002
        """Write table, summary and picture. Each process must call it."""
        self.items = all_gather_interleaved(self.items)
        if rank() > 0:
            return
        self.output_dir.mkdir(parents=True, exist_ok=True)
        columns = ("name", "world", "scores", "errors")
        names, found, scores, errors = ([item[key] for item in self.items] for key in columns)
        if len(set(names)) < len(names):  # files of one name in several folders
            names = [item["path"] for item in self.items]
        labels, spaces = names_of(self.labels, len(found[0])), {item["space"] for item in self.items}
        points, scores_of = (dict(zip(names, values, strict=True)) for values in (found, scores))
        table = LandmarkTable(labels, points, scores_of, spaces.pop() if len(spaces) == 1 else None)
        write_landmarks(self.output_dir / "landmarks_mm.csv", table)
        if all(error is not None for error in errors):
            summary = summarise_errors(np.stack(errors), self.radii, labels)
            (self.output_dir / "errors.txt").write_text(summary + "\n")
            say(f"Errors on {len(errors)} images:\n{summary}")
        self.draw().savefig(self.output_dir / "landmarks.png", dpi=100)
        say(f"Wrote {self.output_dir / 'landmarks_mm.csv'} and {self.output_dir / 'landmarks.png'}.")

    def draw(self) -> Figure:
        """Draw the first images with found and true landmarks."""
        from matplotlib.figure import Figure

        items = self.items[: self.num_pictures]
        columns = min(len(items), 3)
        rows = -(-len(items) // columns)
        figure = Figure(figsize=(4 * columns, 4.6 * rows), layout="constrained")
        for axes, item in zip(figure.subplots(rows, columns, squeeze=False).flat, items, strict=False):
            title, truth, dims = item["name"], item["truth"], item["landmarks"].shape[1]
            if truth is not None:
                title += f": {np.nanmean(item['errors']):.1f} mm"
                linear, origin = item["affine"][:dims, :dims], item["affine"][:dims, -1]
                truth = np.linalg.solve(linear, (truth - origin).T).T
            draw_landmarks(axes, item["image"], item["landmarks"], truth)
            axes.set_title(title)
        return figure
