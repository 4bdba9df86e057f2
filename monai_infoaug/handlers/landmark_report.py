"""Found landmarks as a table, a summary and a picture."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from monai.utils import optional_import

from monai_infoaug._require import require
from monai_infoaug.data import write_landmarks
from monai_infoaug.metrics import MeanRadialError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Events, _ = optional_import("ignite.engine", name="Events")

__all__ = ["LandmarkReport", "draw_landmarks", "summarise_errors"]


def summarise_errors(errors: np.ndarray, radii: Sequence[float] = (2.0, 2.5, 3.0, 4.0)) -> str:
    """Tables of radial errors in text: mean radial error and success detection rates, overall and by landmark.

    Args:
        errors: (images, L) in millimetres, NaN where there is no truth, infinite where nothing was found.
        radii: of the success detection rates, in millimetres; an error strictly below counts.

    Example:
        >>> print(summarise_errors(np.array([[1.0, 3.0], [2.0, np.nan]]), radii=[2.5]))
         landmark  MRE mm  median      SD  SDR 2.5 mm %
              all    2.00    2.00    0.82          66.7
                0    1.50    1.50    0.50         100.0
                1    3.00    3.00    0.00           0.0
    """
    header = f"{'landmark':>9}  MRE mm  median      SD" + "".join(f"  SDR {r:g} mm %" for r in radii)
    lines = [header]
    for name, column in [("all", errors), *((str(i), errors[:, i]) for i in range(errors.shape[1]))]:
        known = column[~np.isnan(column)]
        if known.size:
            rates = (f"{100 * (known < r).mean():>{len(f'  SDR {r:g} mm %')}.1f}" for r in radii)
            with np.errstate(invalid="ignore"):  # infinite errors have no deviation
                spread = known.std()
            lines.append(f"{name:>9}{known.mean():8.2f}{np.median(known):8.2f}{spread:8.2f}" + "".join(rates))
    return "\n".join(lines)


def draw_landmarks(axes: Axes, image: np.ndarray, found: np.ndarray, truth: np.ndarray | None = None) -> None:
    """Draw found landmarks (crosses), true ones (circles) and the lines between them on an image.

    Args:
        axes: Matplotlib axes.
        image: (H, W), axis 0 is drawn to the right; a volume (H, W, D) by its middle slice.
        found: (L, 2 or 3) in voxels.
        truth: the same for the true landmarks.
    """
    axes.imshow((image if image.ndim == 2 else image[..., image.shape[-1] // 2]).T, cmap="gray")
    if truth is not None:
        axes.plot(*np.stack([found[:, :2], truth[:, :2]], axis=1).T, color="yellow", linewidth=1)
        axes.plot(*truth[:, :2].T, "o", markerfacecolor="none", markeredgecolor="lime", markersize=6)
    axes.plot(*found[:, :2].T, "+", color="red", markersize=6)
    axes.axis("off")


class LandmarkReport:
    """Handler that writes what an evaluator with a ``LandmarkMatcher`` found.

    ``landmarks_mm.csv`` has every landmark and its score, ``landmarks.png`` shows the first images. Where the true
    landmarks are known, ``errors.txt`` has the mean radial error and success detection rates, overall and by landmark,
    and the summary is logged. A batch of the evaluator must be decollated, as it is by default.

    Args:
        output_dir: folder, made where it is missing.
        radii: of the success detection rates, in millimetres.
        num_pictures: images in the picture.
    """

    def __init__(
        self, output_dir: str | os.PathLike, radii: Sequence[float] = (2.0, 2.5, 3.0, 4.0), num_pictures: int = 6
    ) -> None:
        require(num_pictures >= 1, "num_pictures", num_pictures, "at least 1")
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
            path = Path(image.meta.get("filename_or_obj", f"image_{len(self.items)}"))
            kept = {"path": str(path), "name": path.name.removesuffix(".gz").rsplit(".", 1)[0]}
            kept |= {key: found[key].cpu().numpy() for key in ("landmarks", "world", "scores")}
            kept |= {"affine": np.asarray(image.affine), "truth": None, "errors": None}
            if truth is not None:
                truth, world = torch.as_tensor(truth).cpu(), found["world"].cpu()
                kept |= {"truth": truth.numpy(), "errors": MeanRadialError()(world[None], truth[None])[0].numpy()}
            if len(self.items) < self.num_pictures:
                kept["image"] = image[0].cpu().numpy()
            self.items.append(kept)

    def write(self, engine: Any) -> None:
        """Write table, summary and picture."""
        self.output_dir.mkdir(parents=True, exist_ok=True)
        columns = ("name", "world", "scores", "errors")
        names, found, scores, errors = ([item[key] for item in self.items] for key in columns)
        if len(set(names)) < len(names):  # files of one name in several folders
            names = [item["path"] for item in self.items]
        write_landmarks(
            self.output_dir / "landmarks_mm.csv",
            dict(zip(names, found, strict=True)),
            dict(zip(names, scores, strict=True)),
        )
        if all(error is not None for error in errors):
            summary = summarise_errors(np.stack(errors), self.radii)
            (self.output_dir / "errors.txt").write_text(summary + "\n")
            engine.logger.info(f"Errors on {len(errors)} images:\n{summary}")
        self.draw().savefig(self.output_dir / "landmarks.png", dpi=100)
        engine.logger.info(f"Wrote {self.output_dir / 'landmarks_mm.csv'} and {self.output_dir / 'landmarks.png'}.")

    def draw(self) -> Figure:
        """Picture of the first images with found and true landmarks."""
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
