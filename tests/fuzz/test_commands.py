"""The command line with odd options and files: a status of 0, 1 or 2, and one line for what was wrong."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("hypothesis", reason="fuzz tests need hypothesis")

import SimpleITK as sitk
from hypothesis import strategies as st

from monai_infoaug.__main__ import main
from monai_infoaug.data import LandmarkTable, write_landmarks
from tests.fuzz.fuzzing import calls, fuzz, limited, seeds

TEXTS = ["", " ", "-1", "0", "1.5", "nan", "inf", "1e9", "x", "None", "[1, 2]", "{}", "[", "1,5", "é", "../..", "a=b"]
ODD = st.sampled_from([*TEXTS, "true"])
NUMBERS = st.sampled_from(["0.5", "1", "2", "-1", "0", "nan", "1e9", "1e-9", "x", "[0.5, 0.5]", "[1]"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures, one of them broken, labels of another size, landmarks and a text."""
    root = tmp_path_factory.mktemp("command")
    random = np.random.default_rng(0)
    for place, size in (("images", 40), ("labels", 40), ("small", 4)):
        (root / place).mkdir()
        for name in "ab":
            array = random.integers(0, 255, (size, size + 4)).astype(np.uint8)
            sitk.WriteImage(sitk.GetImageFromArray(array), str(root / place / f"{name}.png"))
    (root / "broken").mkdir()
    (root / "broken" / "a.png").write_bytes((root / "images" / "a.png").read_bytes()[:100])
    (root / "broken" / "c.png").write_bytes((root / "images" / "a.png").read_bytes())
    (root / "empty").mkdir()
    (root / "text.csv").write_text("no table")
    write_landmarks(root / "points.csv", LandmarkTable(["p", "q"], {"a": [[1, 2], [3, 4]], "b": [[9, 9], [99, 99]]}))
    return root


def run(capsys, arguments, extra=""):
    """Run a command; what it says on stderr may be warnings, help by argparse, and one line of an error."""
    capsys.readouterr()
    try:
        with limited():
            status = main([str(each) for each in arguments])
    except SystemExit as error:  # of argparse
        status = error.code
    said = capsys.readouterr()
    assert status in (0, 1, 2)
    assert "Traceback" not in said.err + said.out
    if status == 2:
        last = said.err.strip().splitlines()[-1]
        assert last.startswith("monai-infoaug")
        assert len(last) < 1000
    calls["right" if status < 2 else "refused"] += 1
    return status, said


PLACES = st.sampled_from(
    ["images", "images", "labels", "small", "broken", "empty", "text.csv", "images/a.png", "none", "points.csv", "."]
)
MEASURING = ("--modality", "--pixdim", "--window", "--window-mm", "--bins", "--intensity", "--seed", "--working-pixdim")
WORDS = ["check", "match", "init", "inspect", "--list", "--version", "-h", "--out", "--data"]


@fuzz(data=st.data())
def test_check(data, folder, capsys):
    place = data.draw(PLACES)
    options, tables = [], PLACES.map(folder.__truediv__)
    values_of = {"--labels": tables, "--landmarks": tables, "--pixdim": NUMBERS, "--origin": NUMBERS}
    for option, values in values_of.items():
        if data.draw(st.booleans()):
            options += [option, data.draw(values | ODD)]
    status, said = run(capsys, ["check", folder / place, *options])
    if place == "broken" and status < 2:
        assert status == 1
        assert "a.png" in said.out
    if place == "images" and not options:
        assert status == 0 or "millimetres" in said.out


@fuzz(data=st.data(), seed=seeds)
def test_inspect(data, seed, folder, capsys, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "page.html"
    options = []
    for option in (*MEASURING, "--origin", "--axis", "--slice"):
        if data.draw(st.integers(0, 9)) == 0:
            options += [option, data.draw(NUMBERS | ODD | st.sampled_from(["xray", "ct", "published", "5", "3"]))]
    for option in ("--foreground", "--ct-window", "--calibration", "--bundle"):
        if data.draw(st.integers(0, 9)) == 0:
            words = ["body", "soft", "[-100, 200]", "segmentation", "landmark_pretraining", folder / "text.csv"]
            options += [option, data.draw(NUMBERS | ODD | st.sampled_from(words))]
    for option, number in (("--thresholds", 2), ("--strengths", 3)):
        if data.draw(st.integers(0, 9)) == 0:
            options += [option, *(data.draw(NUMBERS) for _ in range(number))]
    pytest.importorskip("matplotlib")
    status, _ = run(capsys, ["inspect", folder / data.draw(PLACES | st.just("images/a.png")), "--out", out, *options])
    assert out.exists() == (status == 0)


@fuzz(data=st.data())
def test_calibrate(data, folder, capsys, tmp_path_factory):
    pytest.importorskip("matplotlib")
    out = tmp_path_factory.mktemp("out") / "settings.json"
    options = [
        "--images",
        data.draw(st.sampled_from(["1", "1", "2", "0", "x"])),
        "--pixdim",
        data.draw(st.sampled_from(["1", "0.5", "0", "nan"])),
    ]
    for option in ("--modality", "--window", "--bins", "--alpha", "--keep", "--checkpoint", "--intensity"):
        if data.draw(st.booleans()):
            options += [option, data.draw(NUMBERS | ODD | st.just("xray"))]
    place = data.draw(PLACES.filter(lambda place: place not in ("images", "labels")))  # else it computes for seconds
    status, _ = run(capsys, ["calibrate", "--data", folder / place, "--out", out, *options])
    assert out.exists() == (status == 0)


@fuzz(data=st.data())
def test_match(data, folder, capsys, tmp_path_factory):
    pytest.importorskip("ignite")
    out = tmp_path_factory.mktemp("out") / "found"
    options = [folder / data.draw(PLACES), "--out", out]
    for option in ("--checkpoint", "--template", "--landmarks"):
        options += [option, folder / data.draw(PLACES)]
    for option in ("--pixdim", "--origin", "--set", "--min-score", "--max-round-trip", "--device", "--bundle"):
        if data.draw(st.integers(0, 3)) == 0:
            options += [option, data.draw(NUMBERS | ODD)]
    status, _ = run(capsys, ["match", *options])
    assert status == 2  # for want of a checkpoint
    assert not out.exists()


@fuzz(data=st.data(), name=st.sampled_from(["segmentation", "landmark_pretraining", "segmention", "", "..", "x/y"]))
def test_init(data, name, capsys, tmp_path_factory):
    target = tmp_path_factory.mktemp("init") / data.draw(st.sampled_from(["new", "a b", "x" * 300, "in/deep"]))
    status, _ = run(capsys, ["init", name, target])
    assert status == 2 or (target / "configs" / "train.json").is_file()


@fuzz(words=st.lists(ODD | st.sampled_from(WORDS), max_size=4))
def test_odd_lines(words, capsys, tmp_path_factory, monkeypatch):
    monkeypatch.chdir(tmp_path_factory.mktemp("lines"))
    run(capsys, words)
