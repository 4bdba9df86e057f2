"""The five plots of docs/results/index.md, a function each, from the numbers kept in docs/results/kept."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

KEPT = Path("../results/kept")  # the plot directive runs a script in its own folder
BLUE, RED, GREY = "#0072B2", "#D55E00", "#808080"  # told apart by those who do not tell red from green
PHONE = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}  # an inch is 72 pixels of a phone
WIDTH = 5  # inches


def read(name: str) -> dict:
    """What a table says."""
    return json.loads((KEPT / f"{name}.json").read_text(encoding="utf-8"))


def find(entries: list[dict], **wanted: object) -> list[dict]:
    """Rows or differences with these values, in their order."""
    return [entry for entry in entries if all(entry.get(key) == value for key, value in wanted.items())]


def panels(*heights: float) -> tuple[Figure, list[Axes]]:
    """Plots below each other, since a phone is narrow."""
    plt.rcParams.update(PHONE)
    size = (WIDTH, sum(heights) + 0.7 * len(heights))
    figure, axes = plt.subplots(len(heights), figsize=size, layout="constrained", height_ratios=heights, squeeze=False)
    return figure, [axis for (axis,) in axes]


def forest(axes: Axes, groups: dict[str, list[tuple[dict, str]]], xlabel: str) -> None:
    """Differences with their intervals, in groups one below the other; each difference has a colour."""
    for y, entries in enumerate(groups.values()):
        for i, (entry, colour) in enumerate(entries):
            place = y + 0.24 * (i - (len(entries) - 1) / 2)
            low, high = (abs(end - entry["difference"]) for end in entry["interval"])
            axes.errorbar(
                entry["difference"], place, xerr=[[low], [high]], fmt="os"[colour == RED], color=colour, capsize=3, ms=5
            )
    axes.axvline(0, color=GREY, lw=1)
    axes.set_yticks(range(len(groups)), list(groups))
    axes.set_ylim(len(groups) - 0.5, -0.5)
    axes.set_xlabel(xlabel)
    axes.locator_params(axis="x", nbins=4)


def legend(figure: Figure, blue: str, red: str) -> None:
    """What the colours mean, above the plots."""
    marks = [plt.Line2D([], [], marker=mark, ls="", color=colour) for mark, colour in (("o", BLUE), ("s", RED))]
    figure.legend(
        marks, [blue, red], loc="outside upper left", ncols=2, frameon=False, columnspacing=1, handletextpad=0
    )


def matching() -> None:
    """Guidance by information against other policies."""
    figure, (axes,) = panels(2.4)
    names = {
        "weak": "published\nbaseline",
        "best_uniform": "best uniform\nchanges",
        "shuffled": "another image's\ntiers",
    }
    found = read("matching")["differences"]
    forest(
        axes,
        {
            label: [
                (entry, colour)
                for by, colour in (("neighbourhoods", BLUE), ("itself", RED))
                for entry in find(found, against=name, by=by)
            ]
            for name, label in names.items()
        },
        "guidance against it: difference in mm\nleft of the line: guidance is nearer",
    )
    legend(figure, "by neighbourhoods", "each landmark by itself")


def few_points() -> None:
    """Where points come from, with 4 and with 400 of them a pair."""
    figure, (axes,) = panels(2.9)
    names = {
        "weak": "anywhere",
        "entropy_sampling": "by information",
        "tiers": "by tier",
        "full": "by tier, and intensities",
        "shuffled": "another image's tiers",
    }
    rows = read("few_points")["rows"]
    labels = []
    for points in (4, 400):
        for name in names:
            for by, colour in (("neighbourhoods", BLUE), ("itself", RED)):
                for row in find(rows, points=points, name=name, by=by):
                    axes.plot(row["value"], len(labels), "os"[colour == RED], color=colour)
            if find(rows, points=points, name=name):
                labels.append(f"{points}, {names[name]}")
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.axhline(4.5, color=GREY, lw=1, ls=":")
    axes.set_xlabel("mean radial error, mm; one run a point")
    legend(figure, "by neighbourhoods", "by itself")


def other_site() -> None:
    """What adaptation without labels gains, and tiers in it."""
    figure, both = panels(2.2, 2.2)
    names = {
        "source_tiers": "trained with tiers",
        "source_free": "source-free",
        "patches": "patches",
        "oracle": "with its labels",
    }
    data = {
        "another scanner: hippocampus, simulated": ["scanner", "scanner_tiers"],
        "another hospital: discs": ["fundus"],
    }
    for axes, (title, files) in zip(both, data.items(), strict=True):
        found = [entry for file in files for entry in read(file)["differences"]]
        groups = {}
        for name, label in names.items():
            gains = [(entry, BLUE) for entry in find(found, of=name, against="source")]
            gains += [(entry, RED) for entry in find(found, of=f"{name}_tiers", against=name)]
            groups[label] = gains
        forest(axes, groups, "difference in Dice; right of the line: better")
        axes.set_title(title, fontsize=10, loc="left")
    legend(figure, "against source alone", "tiers against none")


def few_labels() -> None:
    """What contrast of labelled pixels gains over training from scratch."""
    _, axes = panels(2.6, 2.0, 1.6)
    names = {
        "label_efficient": "pixels by class",
        "label_efficient_guided": "by class and tier",
        "label_efficient_round": "and a round",
    }
    data = {
        "radiographs": ("", (5, 10, 20)),
        "hippocampus": ("", (7, 13)),
        "hippocampus_short": ("_short", (7, 13)),
    }
    titles = ("radiographs, 300 steps", "hippocampus, 300 steps", "hippocampus, 100 steps")
    for axis, title, (file, (ending, numbers)) in zip(axes, titles, data.items(), strict=True):
        found = read(file)["differences"]
        groups = {}
        for labels in numbers:
            for name, label in names.items():
                for entry in find(found, of=name + ending, labels=labels):
                    groups[f"{labels}: {label}"] = [(entry, RED if "guided" in name else BLUE)]
            if (file, labels) == ("radiographs", 5):
                groups["5: 1200 steps, no contrast"] = []
        forest(axis, groups, "")
        axis.set_title(f"{title}; labels: recipe", fontsize=10, loc="left")
    rows = read("radiographs_long")["rows"]
    for seed in (0, 1):  # which have no interval
        (long,), (scratch,) = (find(rows, name=name, seed=seed) for name in ("scratch_long", "scratch"))
        axes[0].plot(long["value"] - scratch["value"], 3, "D", color=GREY, mfc="none")
    axes[2].set_xlabel("Dice against as many steps from scratch\nright of the line: better")


def detector() -> None:
    """Errors of a detector from scratch, pre-trained and one-shot, by number of labels."""
    figure, (above, below) = panels(2.6, 1.5)
    data = read("detection")
    for name, colour in (("scratch", BLUE), ("pre-trained", RED)):
        rows = find(data["rows"], name=name)
        x, y, spread = zip(*((row["labels"], row["value"], row["spread"]) for row in rows), strict=True)
        above.errorbar(x, y, spread, fmt="os"[colour == RED] + "-", color=colour, capsize=3, ms=5)
    for name, label in (("matching", "1 label, matching"), ("one-shot", "1 label, one-shot detector")):
        (row,) = find(data["rows"], name=name)
        above.axhline(row["value"], color=GREY, lw=1, ls="--")
        above.text(150, row["value"], label, ha="right", va="bottom", fontsize=9)
    above.set_xscale("log")
    above.set_xticks([1, 5, 25, 150], ["1", "5", "25", "150"], minor=False)
    above.minorticks_off()
    above.set(xlabel="labelled images", ylabel="mean radial error, mm", ylim=(0, None))
    legend(figure, "from scratch", "pre-trained")
    found = find(data["differences"], of="pre-trained")
    groups = {f"{entry['labels']} label{'s' * (entry['labels'] > 1)}": [(entry, RED)] for entry in found}
    forest(below, groups, "pre-trained against scratch: difference in mm\nleft of the line: nearer")
