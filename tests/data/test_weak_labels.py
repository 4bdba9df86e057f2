"""Clicks and classes of images from a table: what the list says, and what is refused."""

import numpy as np
import pytest
import SimpleITK as sitk

from monai_infoaug.data import weak_label_datalist

TABLE = """image,landmark,x,y,space
a,cup,1.5,2,LPS
a,cup,3,4,RAS
a,background,0,0,
b,rim,,,
c,cup,5,6,
c,cup,,,
other,rim,,,
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    for name in "abcd":
        sitk.WriteImage(sitk.Image(4, 5, sitk.sitkUInt8), tmp_path / "images" / f"{name}.png")
    (tmp_path / "weak.csv").write_text(TABLE)
    return tmp_path


def test_clicks_and_classes(folder):
    items = weak_label_datalist(folder / "images", folder / "weak.csv", ["rim", "cup"])
    assert [item["name"] for item in items] == list("abcd")
    a, b, c, d = items
    assert a["points"].tolist() == [[-1.5, -2.0], [3.0, 4.0], [0.0, 0.0]]
    assert a["points"].dtype == np.float32
    assert a["point_classes"].tolist() == [2, 2, 0]
    assert b["points"].shape == d["points"].shape == (0, 2)
    assert c["points"].tolist() == [[5.0, 6.0]]
    shown = [item["shown"].tolist() for item in items]
    # clicks alone leave open what else there is; rows without coordinates say it all
    assert shown == [[True] * 3, [True, True, False], [True, False, True], [True] * 3]
    turned = weak_label_datalist(folder / "images", folder / "weak.csv", ["rim", "cup"], space="LPS")
    assert turned[0]["points"].tolist() == [[1.5, 2.0], [-3.0, -4.0], [0.0, 0.0]]


def test_a_table_of_a_spreadsheet(folder):
    text = "image;landmark;x;y;space\r\na ; cup\u200b;1,5;2;LPS\r\na;cup;3;4;RAS\r\na;background;0;0;\r\n;;;;\r\n"
    (folder / "weak.csv").write_bytes(text.encode("utf-16"))
    items = weak_label_datalist(folder / "images", folder / "weak.csv", ["rim", "cup"])
    assert items[0]["points"].tolist() == [[-1.5, -2.0], [3.0, 4.0], [0.0, 0.0]]
    assert items[0]["point_classes"].tolist() == [2, 2, 0]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a,cup,1,5,2,RAS", "line 9` must be a line of 5 cells like the first one"),
        ("a,disc,1,2,", r"line 9` must be a class, of 'background', 'rim', 'cup', got 'disc'"),
        ("a,cup,1,,", r"line 9` must be all coordinates, or none, got \[1.0, nan\]"),
        ("a,cup,wide,2,", "column x` must be a finite number"),
        ("a,cup,1,2,MNI", "column space` must be RAS, LPS or blank"),
    ],
)
def test_faulty_lines(folder, line, message):
    (folder / "weak.csv").write_text(TABLE + line + "\n")
    with pytest.raises(ValueError, match=message):
        weak_label_datalist(folder / "images", folder / "weak.csv", ["rim", "cup"])


def test_faulty_tables(folder):
    (folder / "weak.csv").write_text("image,landmark,x,y\nother,cup,1,2\n")
    with pytest.raises(ValueError, match="`table` must be a table with an image of"):
        weak_label_datalist(folder / "images", folder / "weak.csv", ["rim", "cup"])
    with pytest.raises(ValueError, match=r"`table` must be a readable landmark file in UTF-8, got .*none.csv"):
        weak_label_datalist(folder / "images", folder / "none.csv", ["rim", "cup"])
    (folder / "weak.csv").write_text(TABLE + 'a,cup,1,2,"RAS')
    with pytest.raises(ValueError, match=r"`table` must be a readable landmark file .*unexpected end of data"):
        weak_label_datalist(folder / "images", folder / "weak.csv", ["rim", "cup"])
    with pytest.raises(ValueError, match="`space` must be 'RAS' or 'LPS', got 'MNI'"):
        weak_label_datalist(folder / "images", folder / "weak.csv", ["rim", "cup"], space="MNI")
