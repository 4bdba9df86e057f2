"""Landmark tables: what was written comes back, and a text that somebody has changed is right or refused."""

from __future__ import annotations

import csv
import io
import json
import math

import numpy as np
import pytest

pytest.importorskip("hypothesis", reason="fuzz tests need hypothesis")

from hypothesis import strategies as st

from monai_infoaug.data import LandmarkTable, read_landmarks, write_landmarks
from tests.fuzz.fuzzing import REFUSED, fuzz, odd_values, outcome

SUFFIXES = st.sampled_from([".csv", ".fcsv", ".mrk.json", ".CSV"])
NAMES = st.text(min_size=1, max_size=8) | st.sampled_from(
    ["1", "01", " a", "a ", "a  b", "#x", "=1+1", "nan", "é", "é"]
)
COORDINATES = st.floats(-1e6, 1e6) | st.sampled_from([0.1, 1e-300, 5e-324, 1e300, -0.0, 123456789.123456789])
PIECES = [*',;\t\n\r"#=[]{}-.:', "nan", "1e999", "1_0", "", "0", "1,5", "null", "true", "\u200b", "\ufeff", "\x00"]
PIECES += ["é", "9" * 400, "x", "image", "label", "# columns = ", "RAS", "LPS", "inf", "mm", "٣", "undefined"]


def visible(name):
    return name.encode("utf-8", "ignore").decode().strip() != "" if isinstance(name, str) else False


@st.composite
def tables(draw: st.DrawFn, dims: tuple[int, ...] = (2, 3)):
    """Arguments of a table of one image or several."""
    labels = draw(st.lists(NAMES, min_size=1, max_size=4, unique=True))
    images = draw(
        st.lists(st.sampled_from(["im", "a b", "1", "é,x", 'q"uote', "#1"]), min_size=1, max_size=2, unique=True)
    )
    d = draw(st.sampled_from(dims))
    row = st.just([math.nan] * d) | st.lists(COORDINATES, min_size=d, max_size=d)
    points = {image: [draw(row) for _ in labels] for image in images}
    score = st.none() | st.floats(-10, 10) | st.just(math.nan)
    scores = draw(st.sampled_from([None, 1])) and {
        image: [draw(score.map(lambda s: math.nan if s is None else s)) for _ in labels] for image in images
    }
    return {"labels": labels, "points": points, "scores": scores, "space": draw(st.sampled_from([None, "RAS", "LPS"]))}


@fuzz(table=tables(), suffix=SUFFIXES)
def test_what_is_written_is_read(table, suffix, tmp_path_factory):
    made = outcome(lambda: LandmarkTable(**table))
    if made is REFUSED:
        return
    path = tmp_path_factory.mktemp("tables") / f"im{suffix}"
    written = outcome(lambda: write_landmarks(path, made))
    slicer = not suffix.lower().endswith(".csv")
    if slicer and len(made.points) > 1:
        assert written is REFUSED
        return
    if written is REFUSED:
        assert not path.exists()
        return
    found = outcome(lambda: read_landmarks(path))
    assert found is not REFUSED
    in_order = sorted(made.labels, key=int) if all(label.isdecimal() for label in made.labels) else list(made.labels)
    assert list(found.labels) == in_order
    assert found.space == (made.space or ("LPS" if slicer else None))
    for image, points in made.points.items():
        mine = found.points["im" if slicer else image]
        for label, point in zip(made.labels, points, strict=True):
            there = mine[found.labels.index(label)]
            expected = np.append(point, np.zeros(3 - len(point)) + point[0] * 0) if slicer else point
            assert np.array_equal(there, expected, equal_nan=True)
        if made.scores is not None and np.isfinite(made.scores[image]).any():
            order = [found.labels.index(label) for label in made.labels]
            back = found.scores["im" if slicer else image][order]
            assert np.array_equal(back, made.scores[image], equal_nan=True)


def changed(data, text):
    """A text, changed in a few places."""
    for _ in range(data.draw(st.integers(1, 4))):
        at, cut = data.draw(st.integers(0, len(text))), data.draw(st.integers(0, 6))
        text = text[:at] + data.draw(st.sampled_from(PIECES)) + text[at + cut :]
    return text


def numbers_in(text, suffix):
    """All numbers that a text of a table may mean."""
    if suffix == ".mrk.json":
        found = []

        def walk(value):
            if isinstance(value, dict | list):
                for each in value.values() if isinstance(value, dict) else value:
                    walk(each)
            elif isinstance(value, int | float | str):
                found.append(value)

        walk(json.loads(text, parse_int=float))
    else:
        found = [
            cell
            for delimiter in ",;\t"
            for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
            for cell in row
        ]
    known = {0.0}
    for cell in found:
        for form in {str(cell).strip(), str(cell).strip().replace(",", ".")}:
            try:
                known |= {float(form), -float(form)}
            except ValueError:
                continue
    return known


@fuzz(
    data=st.data(),
    suffix=st.sampled_from([".csv", ";", ".fcsv", ".mrk.json"]),
    encoding=st.sampled_from(["utf-8", "utf-8", "utf-16", "utf-8-sig", "latin-1"]),
)
def test_a_changed_text_is_read_or_refused(data, suffix, encoding, tmp_path_factory):
    suffix, path = suffix.replace(";", ".csv"), tmp_path_factory.mktemp("tables") / f"im{suffix.replace(';', '.csv')}"
    points, scores = {"im": [[1, 2, 3.5], [math.nan] * 3, [4e-3, 5, 6]]}, {"im": [0.5, 0.25, 1]}
    write_landmarks(path, LandmarkTable(["a b", "c", 'q"x'], points, scores, "LPS"))
    text = path.read_text()
    if suffix == ".csv" and data.draw(st.booleans()):
        text = "image;landmark;x;y;score\nim;a;1,5;2,5;1\nim;b;3;4;\n"
    content = changed(data, text).encode(encoding, "replace")
    if data.draw(st.integers(0, 5)) == 0:
        content = content[: data.draw(st.integers(0, len(content)))]
    path.write_bytes(content)
    found = outcome(lambda: read_landmarks(path))
    if found is REFUSED:
        return
    known = numbers_in(content.decode("utf-16" if encoding == "utf-16" else "utf-8-sig"), suffix)
    for array in found.points.values():
        assert set(array[np.isfinite(array)]) <= known
        assert (np.isnan(array).all(1) == np.isnan(array).any(1)).all()


@fuzz(data=st.data(), field=st.sampled_from(["labels", "points", "scores", "space", "notes", "selected"]))
def test_odd_arguments_of_a_table(data, field):
    good = {"labels": ["a", "b"], "points": {"1": [[1.0, 2.0], [3.0, 4.0]]}}
    value = data.draw(odd_values | st.dictionaries(st.sampled_from(["1", "x", 1]), odd_values, max_size=2))
    outcome(lambda: LandmarkTable(**good | {field: value}))


@fuzz(data=st.data(), argument=st.sampled_from(["path", "image"]))
def test_odd_arguments_of_reading(data, argument, tmp_path_factory):
    path = tmp_path_factory.mktemp("tables") / "1.csv"
    write_landmarks(path, LandmarkTable(["a"], {"1": [[1.0, 2.0]], "x": [[3.0, 4.0]]}))
    outcome(lambda: read_landmarks(**{"path": path, argument: data.draw(odd_values)}))
    outcome(
        lambda: write_landmarks(
            data.draw(odd_values.filter(lambda v: not isinstance(v, str | bytes))),
            LandmarkTable(["a"], {"1": [[1.0, 2.0]]}),
        )
    )
