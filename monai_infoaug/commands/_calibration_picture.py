"""The picture of a calibration: histograms, curves of strength, and what the anchors of a network say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from monai_infoaug.commands.anchor_loss import fit_curve, information_grid, loss_cuts
from monai_infoaug.handlers import TIER_COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_calibration(
    calibration: dict[str, Any], levels: np.ndarray, information: np.ndarray, anchors: np.ndarray | None
) -> Figure:
    """Histograms with their cuts, mutual information against strength with the stops, anchors against information.

    Args:
        calibration: what the file holds.
        levels: grey levels of the images in the foreground.
        information: bits there.
        anchors: information, loss and similarity (3, N), if there is a network.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    panels = 3 if anchors is None else 5
    figure = Figure(figsize=(5 * panels, 4.5), layout="constrained")
    grey, bits, curves, *more = figure.subplots(1, panels)
    _draw_histogram(grey, levels, calibration["information"]["value_range"])
    grey.set(title="range of grey levels", xlabel="grey level in the foreground", yticks=[])
    _draw_histogram(bits, information, calibration["thresholds"], tuple(TIER_COLOURS.values()))
    bits.set(title="tiers", xlabel="information in the foreground (bits)", yticks=[])
    bits.legend(handles=[Patch(color=colour, label=name) for name, colour in TIER_COLOURS.items()], loc="upper right")
    _draw_curves(curves, calibration)
    if anchors is not None:
        _draw_anchors(more, anchors, calibration["thresholds"])
    return figure


def _draw_histogram(
    axes: Axes, values: np.ndarray, cuts: tuple[float, float], colours: tuple[str, ...] = ("0.8", "0.6", "0.8")
) -> None:
    """A histogram in three colours: below, between and above the cuts."""
    bars: Any
    _, edges, bars = axes.hist(values, 128)
    for bar, start, end in zip(bars, edges[:-1], edges[1:], strict=True):
        bar.set_facecolor(colours[int(np.searchsorted(cuts, (start + end) / 2, "right"))])
    for cut in cuts:
        axes.axvline(cut, color="black")
        axes.annotate(f" {cut:.3g}", (cut, 0.98), xycoords=("data", "axes fraction"), va="top")


def _draw_curves(axes: Axes, calibration: dict[str, Any]) -> None:
    shared, strengths = calibration["mutual_information"], calibration["intensity"]["strengths"]
    for name, colour in TIER_COLOURS.items():
        strength, bits = shared["strength"], shared["changed"][name]
        reached = bits[-1] <= shared["stop"][name]
        label = f"{name}: {strengths[name]:.3g}" + ("" if reached else ", stop not reached")
        axes.plot(strength, bits, ".-", color=colour, markersize=4, label=label)
        at = np.interp(strengths[name], strength, bits)
        axes.plot(strengths[name], at, "o", color=colour, markeredgecolor="black", markersize=9)
        for level, style in (("stop", "--"), ("unrelated", ":")):
            axes.axhline(shared[level][name], color=colour, linestyle=style, linewidth=1)
    axes.plot([], [], "k.", markersize=4, label="measured")
    axes.plot([], [], "o", color="white", markeredgecolor="black", markersize=9, label="taken")
    axes.plot([], [], "k--", linewidth=1, label="stop: no stronger than this")
    axes.plot([], [], "k:", linewidth=1, label="any two patches")
    title = f"strength of '{calibration['intensity']['transforms']}'"
    axes.set(title=title, xlabel="strength", ylabel="mutual information with the original (bits)")
    axes.set_ylim(0, 1.35 * axes.get_ylim()[1])  # room for the legend
    axes.legend(loc="upper right", ncols=2, fontsize="small")


def _draw_anchors(panels: list[Axes], anchors: np.ndarray, thresholds: tuple[float, float]) -> None:
    information, *measures = anchors
    grid = information_grid(information, 200)
    for axes, values in zip(panels, measures, strict=True):
        axes.hexbin(information, values, gridsize=60, bins="log", cmap="Greys", linewidths=0)
        axes.plot(grid, fit_curve(information, values)(grid), label="smooth curve")
        axes.axhline(values.mean(), color="black", linestyle="--", linewidth=1, label="mean")
        for cut in thresholds:
            axes.axvline(cut, color="black", linewidth=1)
        axes.set(xlabel="information (bits)")
        axes.legend()
    found = "crosses its mean" if loss_cuts(information, measures[0]) else "does not cross its mean twice: tertiles"
    panels[0].set(title=f"loss {found}", ylabel="loss of an anchor")
    panels[1].set(title="similarity of the two views", ylabel="cosine of an anchor's embeddings")
