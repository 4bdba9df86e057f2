from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.utils.enums import SpaceKeys

from monai_infoaug.data import LandmarkTable, read_landmarks, write_landmarks

NAN = np.nan


def written(folder, text, name="table.csv"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def assert_same(got: LandmarkTable, expected: LandmarkTable, scores: bool = True):
    assert (got.labels, got.space, list(got.points)) == (expected.labels, expected.space, list(expected.points))
    for name, points in expected.points.items():
        assert got.points[name].dtype == np.float64
        np.testing.assert_array_equal(got.points[name], points)
    if scores:
        assert (got.scores is None) == (expected.scores is None)
        for name, values in (expected.scores or {}).items():
            np.testing.assert_array_equal(got.scores[name], values)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("space", [None, "RAS", "LPS"])
@pytest.mark.parametrize("scores", [False, True])
def test_round_trip_is_exact(tmp_path, dims, space, scores):
    rng = np.random.default_rng(0)
    points = {name: rng.normal(size=(4, dims)) * 10.0**k for k, name in enumerate(["b", "a", 'x, "y"\nz', "é"])}
    points["a"][2] = points["b"][1] = points["a"][1] = NAN
    given = {name: [1 / 3, NAN, 1, -2e-300] for name in points} if scores else None
    table = LandmarkTable(["nasion", "menton, left", 'Ü "x"', "N"], points, given, space)
    write_landmarks(tmp_path / "t.csv", table)
    assert_same(read_landmarks(tmp_path / "t.csv"), table)


@pytest.mark.parametrize("suffix", [".fcsv", ".mrk.json", ".FCSV"])
@pytest.mark.parametrize("space", [None, "RAS", "LPS"])
@pytest.mark.parametrize("scores", [False, True])
def test_round_trip_through_slicers_files_is_exact(tmp_path, suffix, space, scores):
    points = np.random.default_rng(0).normal(size=(5, 3)) * 10.0 ** np.arange(-8, 7, 3)[:, None]
    points[3] = NAN
    labels = ["nasion", "menton, left", 'Ü "x"', "NASION", "two\nlines"]
    given = {"v.1": [1 / 3, NAN, 1, -2e-300, 0]} if scores else None
    table = LandmarkTable(labels, {"v.1": points}, given, space)
    path = tmp_path / f"v.1{suffix}"
    write_landmarks(path, table)
    assert_same(read_landmarks(path), LandmarkTable(labels, table.points, given, space or "LPS"))


@pytest.mark.parametrize("suffix", [".fcsv", ".mrk.json"])
@pytest.mark.parametrize("scores", [None, {"a": [0.5, NAN, 1]}])
def test_notes_and_selection_come_back_from_slicers_files(tmp_path, suffix, scores):
    notes, selected = {"a": ["round trip 2.5 voxels; low", "", 'two\n"lines", é']}, {"a": [False, True, False]}
    table = LandmarkTable("pqr", {"a": np.eye(3)}, scores, "LPS", notes, selected)
    write_landmarks(tmp_path / f"a{suffix}", table)
    again = read_landmarks(tmp_path / f"a{suffix}")
    assert_same(again, table)
    assert again.notes["a"].tolist() == notes["a"]
    assert again.selected["a"].tolist() == selected["a"]
    assert_same(again.to("RAS").to("LPS"), table)
    assert again.to("RAS").notes["a"].tolist() == notes["a"]
    write_landmarks(tmp_path / "a.csv", table)
    plain = read_landmarks(tmp_path / "a.csv")
    assert (plain.notes, plain.selected) == (None, None)


@pytest.mark.parametrize("suffix", [".fcsv", ".mrk.json"])
def test_slicer_gets_a_third_coordinate(tmp_path, suffix):
    write_landmarks(tmp_path / f"a{suffix}", LandmarkTable("pq", {"a": [[1, 2], [NAN, NAN]]}))
    np.testing.assert_array_equal(read_landmarks(tmp_path / f"a{suffix}").points["a"], [[1, 2, 0], [NAN] * 3])


@pytest.mark.parametrize("convert", [np.array, torch.tensor, list])
def test_a_table_takes_and_keeps_any_array(convert):
    given = {"a": convert([[1.0, 2.0]])}
    table = LandmarkTable([7], given, {"a": convert([0.5])})
    assert table.labels == ("7",)
    assert table.points["a"].dtype == table.scores["a"].dtype == np.float64
    assert type(given["a"]) is type(convert([[1.0]]))
    with pytest.raises(AttributeError):
        table.space = "RAS"


@pytest.mark.parametrize("dims", [2, 3])
def test_axes_are_turned(dims):
    points = np.random.default_rng(0).normal(size=(3, dims))
    points[1] = NAN
    table = LandmarkTable("abc", {"i": points}, {"i": [1, 2, 3]}, "LPS")
    turned = table.to("RAS")
    np.testing.assert_array_equal(turned.points["i"], points * np.array([-1, -1, 1])[:dims])
    assert (turned.space, table.space, turned.scores["i"].tolist()) == ("RAS", "LPS", [1, 2, 3])
    assert_same(turned.to("LPS"), table)
    assert_same(table.to("LPS"), table)
    assert_same(LandmarkTable("abc", {"i": points}).to("RAS"), LandmarkTable("abc", {"i": points}, None, "RAS"))
    with pytest.raises(ValueError, match="`space` must be 'RAS' or 'LPS', got 'RSA'"):
        table.to("RSA")


def test_space_as_in_monais_metadata(tmp_path):
    table = LandmarkTable("p", {"i": [[1, 2, 3]]}, space=SpaceKeys.RAS)
    assert type(table.space) is str
    for suffix in (".csv", ".fcsv", ".mrk.json"):
        write_landmarks(tmp_path / f"i{suffix}", table)
        assert_same(read_landmarks(tmp_path / f"i{suffix}"), table)


def test_csv_by_hand(tmp_path):
    table = LandmarkTable("01", {"a": [[1, 2], [NAN, NAN]]}, {"a": [0.25, NAN]})
    write_landmarks(tmp_path / "t.csv", table)
    assert (tmp_path / "t.csv").read_text().split() == [
        "image,landmark,x,y,score",
        "a,0,1.0,2.0,0.25",
        "a,1,nan,nan,nan",
    ]
    write_landmarks(tmp_path / "t.csv", LandmarkTable("p", {"a": [[1, 2, 3]]}, space="LPS"))
    assert (tmp_path / "t.csv").read_text().split() == ["image,landmark,space,x,y,z", "a,p,LPS,1.0,2.0,3.0"]


def test_missing_rows_and_blank_cells_are_nan(tmp_path):
    path = written(
        tmp_path, "\ufeffimage,note,landmark,y,x\na,,sella,2,1\na,,nasion, ,\nb,,nasion,4,3\nb,,chin,nan,NaN\n"
    )
    table = read_landmarks(path)
    assert (table.labels, table.scores, table.space) == (("sella", "nasion", "chin"), None, None)
    np.testing.assert_array_equal(table.points["a"], [[1, 2], [NAN, NAN], [NAN, NAN]])
    np.testing.assert_array_equal(table.points["b"], [[NAN, NAN], [3, 4], [NAN, NAN]])


def test_missing_scores_are_nan(tmp_path):
    table = read_landmarks(written(tmp_path, "image,landmark,x,y,score\na,p,1,2,\na,q,1,2,0.5\nb,p,1,2,1\n"))
    np.testing.assert_array_equal([table.scores["a"], table.scores["b"]], [[NAN, 0.5], [1, NAN]])


def test_numbered_landmarks_are_in_order_of_number(tmp_path):
    """Otherwise a table whose first image lacks a landmark would give another order than its neighbour."""
    table = read_landmarks(written(tmp_path, "image,landmark,x,y\na,10,10,0\na,2,2,0\nb,0,0,0\n"))
    assert table.labels == ("0", "2", "10")
    np.testing.assert_array_equal(table.points["a"][:, 0], [NAN, 2, 10])


def test_asked_images(tmp_path):
    path = written(tmp_path, "image,landmark,x,y,score\na,0,1,2,0\nb,0,3,4,0\nc,1,5,6,0\n")
    one = read_landmarks(path, "b")
    assert list(one.points) == list(one.scores) == ["b"]
    assert one.points["b"].shape == (2, 2)
    assert list(read_landmarks(path, ["c", "a"]).points) == ["c", "a"]
    with pytest.raises(
        ValueError, match=r"`image` must be in the table .*table\.csv, which has 'a', 'b', 'c', got 'd'"
    ):
        read_landmarks(path, ["a", "d"])


@pytest.mark.parametrize(
    "text",
    [
        "image;landmark;x;y\n001;sella;83,2;99,35\n001;nasion;120;-4e1\n",
        "image\tlandmark\tx\ty\n001\tsella\t83.2\t99.35\n001\tnasion\t120.0\t-40\n",
        "Image, Landmark, X, Y, note, note\n001, sella, 83.2, 99.35\n001 ,nasion ,120,-40,,,\n,,,\n \n",
        "\n\nimage,landmark,x,y,,\r\n001,\u200esella\u200b,+83.2,99.35,,\r\n001,nasion\u00a0,120.,-40,,\r\n",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_tables_of_spreadsheets(tmp_path, text, encoding):
    (tmp_path / "t.csv").write_bytes(text.encode(encoding))
    assert_same(
        read_landmarks(tmp_path / "t.csv"), LandmarkTable(["sella", "nasion"], {"001": [[83.2, 99.35], [120, -40]]})
    )


def test_a_third_axis_is_seen_however_it_is_written(tmp_path):
    table = read_landmarks(written(tmp_path, "image,landmark,x,y, Z\na,p,1,2,3\n"))
    assert table.points["a"].tolist() == [[1, 2, 3]]


def test_labels_that_look_alike_are_one_landmark_and_case_tells_them_apart(tmp_path):
    """N is the nasion and n that of the skin."""
    path = written(tmp_path, "image,landmark,x,y\na,left  horn,1,1\nb,left\u00a0horn ,2,2\na,N,3,3\na,n,4,4\n")
    table = read_landmarks(path)
    assert table.labels == ("left  horn", "N", "n")
    np.testing.assert_array_equal(table.points["b"], [[2, 2], [NAN, NAN], [NAN, NAN]])
    assert LandmarkTable([" p\ufeff"], {"a": [[1, 2]]}).labels == ("p",)


def test_axes_of_several_spaces_are_turned_to_the_first(tmp_path):
    text = "image,landmark,x,y,z,space\na,p,1,2,3,LPS\na,q,4,5,6,RAS\nb,q,,,,RAS\n"
    table = read_landmarks(written(tmp_path, text))
    assert table.space == "LPS"
    np.testing.assert_array_equal(table.points["a"], [[1, 2, 3], [-4, -5, 6]])


@pytest.mark.parametrize(
    "cell", ["1_000", "0x1F", "\u0661\u0662", "1e400", "-inf", "1,5", "1.2.3", "1e", "True", "\u22125"]
)
def test_what_is_no_plain_number_is_refused(tmp_path, cell):
    with pytest.raises(ValueError, match=r"table.csv, line 2, column y` must be a finite number .*, got '"):
        read_landmarks(written(tmp_path, f'image,landmark,x,y\na,p,1,"{cell}"\n'))


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "table.csv, line 1` must be column names with `image`"),
        ("image,landmark,x\na,0,1\n", "table.csv, line 1` must be column names with `y`"),
        ("image landmark x y\na 0 1 2\n", "table.csv, line 1` must be column names with `image`"),
        ("image,landmark,x,y,X\na,0,1,2,3\n", "table.csv, line 1` must be column names with `x` once"),
        ("image,landmark,x,y,z, z\na,0,1,2,3,4\n", "table.csv, line 1` must be column names with `z` once"),
        ("image,landmark,x,y\na,0,83,2,99,35\n", "line 2` must be a line of 4 cells .* decimal points, got 6 cells"),
        ('image,landmark,x,y\na,0,"83,2",1\n', "line 2, column x` must be a finite number such as -83.25.*got '83,2'"),
        ("image;landmark;x;y\na;0;83,2;1\na;1;83.2;1\n", "column x` must be a finite number such as -83,25.*'83.2'"),
        ("image;landmark;x;y\na;0;1.083,2;1\n", "line 2, column x` must be a finite number .*got '1.083,2'"),
        ('image,landmark,x,y,note\na,0,1,2,"open\nb,0,1,2,\n', "readable landmark file .*unexpected end of data"),
        ("image,landmark,x,y\na,sella,1,2\na, sella\u200b,3,4\n", "line 3` must be .*'sella' .* again"),
        ("image,landmark,x,y\na,0,1,2\na,1,1,two\n", "table.csv, line 3, column y` must be a finite number.*got 'two'"),
        ("image,landmark,x,y\na,0,inf,2\n", "table.csv, line 2, column x` must be a finite number"),
        ("image,landmark,x,y\na,0,1\n", "table.csv, line 2, column y` must be a finite number"),
        ("image,landmark,x,y,z\na,0,1,2,\n", "table.csv, line 2, columns x, y, z` must be all given or none"),
        ("image,landmark,x,y\na,0,1,2\na,0,1,2\n", "line 3` must be .*, got '0' of image 'a' again, .*line 2"),
        ("image,landmark,x,y\n,0,1,2\n", "table.csv, line 2, column image` must be a name"),
        ("image,landmark,x,y\na,,1,2\n", "table.csv, line 2, column landmark` must be a name"),
        ("image,landmark,x,y\n", "table.csv` must be a table with a landmark"),
        ("image,landmark,x,y,score\na,0,1,2,good\n", "table.csv, line 2, column score` must be a finite number"),
        ("image,landmark,x,y,space\na,0,1,2,ras\n", "table.csv, line 2, column space` must be RAS, LPS or blank"),
        ("image,landmark,x,y,space\na,0,1,2,RAS\nb,0,1,2,\n", "line 3, space` must be RAS as before, got None"),
    ],
)
def test_faulty_tables(tmp_path, text, error):
    with pytest.raises(ValueError, match=error):
        read_landmarks(written(tmp_path, text))


def test_unreadable_files(tmp_path):
    (tmp_path / "latin.csv").write_bytes("image,landmark,x,y\né,0,1,2\n".encode("latin-1"))
    (tmp_path / "bad.mrk.json").write_text('{"markups": [')
    (tmp_path / "folder.fcsv").mkdir()
    for name in ("none.csv", "latin.csv", "none.mrk.json", "bad.mrk.json", "folder.fcsv"):
        with pytest.raises(ValueError, match=f"`path` must be a readable landmark file .*, got {tmp_path / name}"):
            read_landmarks(tmp_path / name)
    for name in ("table.txt", "table.json", "."):
        with pytest.raises(ValueError, match=r"`path` must be a file of type \.csv, \.fcsv, \.mrk\.json, got '"):
            read_landmarks(tmp_path / name)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"labels": "pp"}, "`labels` must be different names, got 'p' twice"),
        ({"labels": ["p q", "p\u00a0 q"]}, r"`labels` must be different names, got 'p q', 'p\\xa0 q' twice"),
        ({"labels": ["é", "e\u0301"]}, "`labels` must be different names, got"),
        ({"labels": ["p", "\u200b "]}, "`labels` must be names of landmarks"),
        ({"labels": ["p", ""]}, "`labels` must be names of landmarks"),
        ({"labels": []}, "`labels` must be names of landmarks"),
        ({"labels": "p"}, r"`points of a` must be of shape \(1, 2\) or \(1, 3\).*, got shape \(2, 2\)"),
        ({"points": {}}, "`points` must be a dictionary with an image"),
        ({"points": {"a": [1, 2]}}, "`points of a` must be of shape"),
        ({"points": {"a": [[1], [2]]}}, "`points of a` must be of shape"),
        ({"points": {"a": [[1, 2]] * 2, "b": [[1, 2, 3]] * 2}}, "`points of b` must be of shape .* alike"),
        ({"points": {"a": [[1, 2], [1, np.inf]]}}, "`points of a` must be finite"),
        ({"points": {"a": [[1, 2], [1, NAN]]}}, "`points of a` must be finite"),
        ({"scores": {"b": [1, 2]}}, "`scores` must be a dictionary with every image, got none of 'a'"),
        ({"scores": {"a": [1]}}, "`scores of a` must be 2 numbers"),
        ({"scores": {"a": [1, np.inf]}}, "`scores of a` must be 2 numbers"),
        ({"notes": {}}, "`notes` must be a dictionary with every image, got none of 'a'"),
        ({"notes": {"a": ["one"]}}, "`notes of a` must be 2 texts, one a label"),
        ({"selected": {"a": [True]}}, "`selected of a` must be 2 truth values, one a label"),
        ({"space": "ras"}, "`space` must be 'RAS', 'LPS' or None, got 'ras'"),
    ],
)
def test_faulty_content_makes_no_table(changes, error):
    with pytest.raises(ValueError, match=error):
        LandmarkTable(**{"labels": "pq", "points": {"a": [[1, 2], [3, 4]]}, **changes})


@pytest.mark.parametrize("name", ["t.fcsv", "t.mrk.json", "t.txt"])
def test_what_a_format_cannot_hold_is_not_written(tmp_path, name):
    table = LandmarkTable("p", {"a": [[1, 2]], "b": [[1, 2]]})
    with pytest.raises(ValueError, match=r"`table` must be of one image for t\.|`path` must be a file of type \.csv"):
        write_landmarks(tmp_path / name, table)
    assert not (tmp_path / name).exists()
