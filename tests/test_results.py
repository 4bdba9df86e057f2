"""Kept numbers are those of the pages; plots and advice are made of them."""

from __future__ import annotations

import json
import re
import runpy
import shlex
from importlib.resources import files
from pathlib import Path

import pytest

RESULTS = Path(__file__).parents[1] / "docs" / "results"
KEPT = sorted((RESULTS / "kept").glob("*.json"))
NAMED = {"ids": lambda file: file.stem}


def numbers(line: str) -> set[str]:
    return set(re.findall(r"[-+]?\d+(?:\.\d+)?", line))


def is_said(number: float, digits: int, line: str) -> bool:
    """Whether a line has a number as it is; without a sign, where words say it."""
    return bool({f"{number:.{digits}f}", f"{number:+.{digits}f}", f"{abs(number):.{digits}f}"} & numbers(line))


def not_said(table: dict, page: str) -> list[dict]:
    """Entries of a table of which no line of a page, among those that they are from, has all numbers."""
    missing = []
    for kind, digits in zip(("rows", "differences"), table["digits"], strict=True):
        for entry in table[kind]:
            parts = [entry.get(key) for key in ("value", "spread", "difference")]
            wanted = [
                part for part in (*parts, *entry.get("interval", ()), *entry.get("range", ())) if part is not None
            ]
            lines = [line for line in page.splitlines() if line.startswith(entry["at"])]
            lines = [line for line in lines if f" {entry.get('seconds', '')}" in line]
            if not any(all(is_said(number, digits, line) for number in wanted) for line in lines):
                missing.append(entry)
    return missing


@pytest.mark.parametrize("file", KEPT, **NAMED)
def test_every_kept_number_is_on_its_page(file):
    table = json.loads(file.read_text(encoding="utf-8"))
    page = (RESULTS / table["page"]).read_text(encoding="utf-8")
    assert table["rows"]
    assert not_said(table, page) == []
    assert [word for word in shlex.split(table["command"]) if word not in page] == []
    for entry in table["differences"]:
        low, high = entry["interval"]
        assert low <= entry["difference"] <= high


def test_another_number_is_found():
    table = json.loads((RESULTS / "kept" / "detection.json").read_text(encoding="utf-8"))
    page = (RESULTS / table["page"]).read_text(encoding="utf-8")
    table["rows"][1]["value"] += 0.01
    table["differences"][2]["interval"][0] *= 2
    assert not_said(table, page) == [table["rows"][1], table["differences"][2]]


def test_advice_and_its_page_are_of_the_kept_numbers():
    """Else: ``python docs/results/advice.py``."""
    script = runpy.run_path(str(RESULTS / "advice.py"))
    kept = (files("monai_infoaug.bundles") / "advice.json").read_text(encoding="utf-8")
    assert kept == script["advice"]()
    assert (RESULTS.parent / "choose.md").read_text(encoding="utf-8") == script["page"]()


@pytest.fixture(scope="module")
def entries():
    script = runpy.run_path(str(RESULTS / "advice.py"))
    return list(script["entries"]()), script


def test_what_is_recommended_is_clear_of_zero(entries):
    found, script = entries
    gains = [e for e in found if not e["why_not"] and e["take"] not in {r[-1].take for r in script["RULES"].values()}]
    assert len(gains) > 5
    for entry in gains:
        intervals = [re.findall(r"interval (\S+) to (\S+)\)", row) for row in entry["rows"]]
        assert any(intervals)
        for ends in intervals:
            assert all(float(low) * float(high) > 0 for low, high in ends)


@pytest.mark.parametrize(
    ("change", "why_not"),
    [
        ({"interval": [-0.2, 0.1]}, "the interval holds zero"),
        ({"interval": [0.1, 0.9]}, "it is worse"),
        ({"interval": [-0.6, -0.26]}, ""),
    ],
)
def test_other_numbers_change_the_advice(entries, change, why_not):
    _, script = entries
    evidence = script["Evidence"]("detection: pre-trained against scratch", 5)
    for each in evidence.differences():
        each.update(change)
    assert evidence.why_not(script["Rule"]("any")) == why_not


def test_a_recipe_that_takes_longer_is_not_taken(entries):
    _, script = entries
    evidence = script["Evidence"]("hippocampus: label_efficient_guided against scratch", 7)
    assert "293 s" in evidence.why_not(script["Rule"]("any"))
    evidence.row("label_efficient_guided")["seconds"] = 150
    assert evidence.why_not(script["Rule"]("any")) == ""


@pytest.mark.parametrize("name", ["matching", "few_points", "other_site", "few_labels", "detector"])
def test_every_plot_is_drawn_and_shown_with_a_text_instead(name, monkeypatch):
    plt = pytest.importorskip("matplotlib.pyplot", reason="plots need matplotlib")
    pytest.importorskip("matplotlib", minversion="3.7", reason="legends are outside of plots from 3.7 on")
    monkeypatch.chdir(RESULTS.parent / "figures")
    with plt.rc_context({"backend": "agg"}):
        runpy.run_path("results.py")[name]()
        figure = plt.gcf()
        figure.canvas.draw()
        drawn = [container.lines[0].get_xdata() for axes in figure.axes for container in axes.containers]
        plt.close(figure)
    expected = {"matching": 6, "few_points": 0, "other_site": 11, "few_labels": 19, "detector": 6}
    assert len(drawn) == expected[name]
    page = (RESULTS / "index.md").read_text(encoding="utf-8")
    assert re.search(rf"plot:: figures/results.py {name}\n   :alt: \w+", page)
