from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.transforms import LoadImage
from PIL import Image

from monai_infoaug.data import (
    image_datalist,
    landmark_datalist,
    read_landmarks,
    write_landmarks,
)

CEPH = Path(__file__).parents[3] / "shared" / "data" / "ceph"
NAN = np.nan


def table(folder, text, name="table.csv"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def images(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((6, 4), np.uint8)).save(folder / name)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("scores", [False, True])
@pytest.mark.parametrize("convert", [np.array, torch.tensor, list])
def test_round_trip_is_exact(tmp_path, dims, scores, convert):
    rng = np.random.default_rng(0)
    points = {name: rng.normal(size=(4, dims)) * 10.0**k for k, name in enumerate(["b", "a", 'x, "y"\nz', "é"])}
    points["a"][2] = NAN
    points["b"][1] = points["a"][1] = NAN
    given = {n: convert(p.tolist()) if convert is not torch.tensor else torch.from_numpy(p) for n, p in points.items()}
    write_landmarks(tmp_path / "t.csv", given, {n: [0.5, NAN, 1, 2] for n in points} if scores else None)
    back = read_landmarks(tmp_path / "t.csv")
    assert list(back) == list(points)
    for name, expected in points.items():
        assert back[name].dtype == np.float64
        np.testing.assert_array_equal(back[name], expected)


def test_scores_are_written(tmp_path):
    write_landmarks(tmp_path / "t.csv", {"a": [[1, 2], [NAN, NAN]]}, {"a": [0.25, NAN]})
    assert (tmp_path / "t.csv").read_text().splitlines() == [
        "image,landmark,x,y,score",
        "a,0,1.0,2.0,0.25",
        "a,1,nan,nan,nan",
    ]


def test_missing_rows_and_blank_cells_are_nan(tmp_path):
    path = table(
        tmp_path, "\ufeffimage,note,landmark,y,x\na,,sella,2,1\na,,nasion, ,\nb,,nasion,4,3\nb,,chin,nan,NaN\n"
    )
    points = read_landmarks(path)
    np.testing.assert_array_equal(points["a"], [[1, 2], [NAN, NAN], [NAN, NAN]])
    np.testing.assert_array_equal(points["b"], [[NAN, NAN], [3, 4], [NAN, NAN]])


def test_numbered_landmarks_are_in_order_of_number(tmp_path):
    """Otherwise a table whose first image lacks a landmark would give another order than its neighbour."""
    path = table(tmp_path, "image,landmark,x,y\na,10,10,0\na,2,2,0\nb,0,0,0\n")
    np.testing.assert_array_equal(read_landmarks(path)["a"][:, 0], [NAN, 2, 10])


def test_asked_images(tmp_path):
    path = table(tmp_path, "image,landmark,x,y\na,0,1,2\nb,0,3,4\nc,1,5,6\n")
    assert list(read_landmarks(path, "b")) == ["b"] and read_landmarks(path, "b")["b"].shape == (2, 2)
    assert list(read_landmarks(path, ["c", "a"])) == ["c", "a"]
    with pytest.raises(
        ValueError, match=r"`image` must be in the table .*table\.csv, which has 'a', 'b', 'c', got 'd'"
    ):
        read_landmarks(path, ["a", "d"])


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "table.csv, line 1` must be column names with `image`"),
        ("image,landmark,x\na,0,1\n", "table.csv, line 1` must be column names with `y`"),
        ("image;landmark;x;y\na;0;1;2\n", "table.csv, line 1` must be column names with `image`"),
        ("image,landmark,x,y\na,0,1,2\na,1,1,two\n", "table.csv, line 3, column y` must be a finite number.*got 'two'"),
        ("image,landmark,x,y\na,0,inf,2\n", "table.csv, line 2, column x` must be a finite number"),
        ("image,landmark,x,y\na,0,1\n", "table.csv, line 2, column y` must be a finite number"),
        ("image,landmark,x,y,z\na,0,1,2,\n", "table.csv, line 2, columns x, y, z` must be all given or none"),
        ("image,landmark,x,y\na,0,1,2\nb,0,1,2\na,0,1,2\n", "table.csv, line 4, .* must be named in one row only"),
        ("image,landmark,x,y\n,0,1,2\n", "table.csv, line 2, column image` must be a name"),
        ("image,landmark,x,y\na,,1,2\n", "table.csv, line 2, column landmark` must be a name"),
    ],
)
def test_faulty_tables(tmp_path, text, error):
    with pytest.raises(ValueError, match=error):
        read_landmarks(table(tmp_path, text))


def test_unreadable_files(tmp_path):
    (tmp_path / "latin.csv").write_bytes("image,landmark,x,y\né,0,1,2\n".encode("latin-1"))
    for name in ("none.csv", "latin.csv", "."):
        with pytest.raises(ValueError, match=f"`path` must be a readable CSV file in UTF-8, got {tmp_path / name}"):
            read_landmarks(tmp_path / name)


@pytest.mark.parametrize(
    ("points", "scores", "error"),
    [
        ({}, None, "`landmarks` must be"),
        ({"a": [1, 2]}, None, "`landmarks` must be of shape"),
        ({"a": [[1, 2]], "b": [[1, 2], [3, 4]]}, None, "`landmarks of b` must be of shape"),
        ({"a": [[1, np.inf]]}, None, "`landmarks of a` must be finite"),
        ({"a": [[1, NAN]]}, None, "`landmarks of a` must be finite"),
        ({"a": [[1, 2]]}, {"b": [1]}, "`scores` must be .* also 'a'"),
        ({"a": [[1, 2]]}, {"a": [1, 2]}, "`scores of a` must be of shape"),
    ],
)
def test_nothing_faulty_is_written(tmp_path, points, scores, error):
    with pytest.raises(ValueError, match=error):
        write_landmarks(tmp_path / "t.csv", points, scores)
    assert not (tmp_path / "t.csv").exists()


def test_image_datalist(tmp_path):
    images(tmp_path, "b.png", "a.JPG", ".hidden.png", "deep/c.png")
    (tmp_path / "notes.txt").touch(), (tmp_path / "v.nii.gz").touch(), (tmp_path / "d.png").mkdir()
    assert image_datalist(tmp_path) == [{"image": str(tmp_path / n)} for n in ("a.JPG", "b.png", "v.nii.gz")]
    assert image_datalist(tmp_path / "b.png") == [{"image": str(tmp_path / "b.png")}]
    assert image_datalist(str(tmp_path), "**/*.png") == [{"image": str(tmp_path / n)} for n in ("b.png", "deep/c.png")]
    with pytest.raises(
        ValueError, match=r"`dataset_dir` must be a folder with images '\*.txt' of type .bmp.*\.nii\.gz"
    ):
        image_datalist(tmp_path, "*.txt")
    with pytest.raises(ValueError, match=r"`dataset_dir` must be a folder or an image file, got '.*none'"):
        image_datalist(tmp_path / "none")


def test_landmark_datalist(tmp_path):
    images(tmp_path / "images", "7.png", "v.1.png")
    (tmp_path / "images" / "w.2.nii.gz").touch()
    path = table(tmp_path, "image,landmark,x,y\nv.1,0,0.5,2.5\n7,0,1,2\nelsewhere,0,1,1\nw.2,1,1,1\n")
    items = landmark_datalist(tmp_path / "images", path)
    assert [item["name"] for item in items] == ["7", "v.1", "w.2"]
    assert items[1]["image"] == str(tmp_path / "images" / "v.1.png")
    assert items[1]["landmarks"].dtype == np.float32
    np.testing.assert_array_equal(items[1]["landmarks"], [[0.5, 2.5], [NAN, NAN]])
    images(tmp_path / "images", "8.png")
    with pytest.raises(ValueError, match=r"`image` must be in the table .* got '8'"):
        landmark_datalist(tmp_path / "images", path)


def test_axis_order_is_that_of_monais_pil_reader(tmp_path):
    dot = np.zeros((6, 4), np.uint8)
    dot[5, 2] = 255  # row 5 (y), column 2 (x)
    Image.fromarray(dot).save(tmp_path / "a.png")
    path = table(tmp_path, "image,landmark,x,y\na,0,2,5\n")
    (item,) = landmark_datalist(tmp_path, path)
    image = LoadImage(image_only=True)(item["image"])
    assert image[tuple(item["landmarks"][0].astype(int))] == 255


@pytest.mark.skipif(not CEPH.is_dir(), reason="cephalometric images not at hand")
def test_real_table():
    items = landmark_datalist(CEPH / "train", CEPH / "train_landmarks_mm.csv")
    assert len(items) == 150
    with open(CEPH / "train_landmarks_mm.csv") as file:
        rows = [row for row in csv.DictReader(file) if row["image"] == "115"]
    item = next(item for item in items if item["name"] == "115")
    assert Path(item["image"]).name == "115.jpg" and item["landmarks"].shape == (19, 2)
    rows.sort(key=lambda row: int(row["landmark"]))
    np.testing.assert_allclose(item["landmarks"], [[float(row[axis]) for axis in "xy"] for row in rows], rtol=1e-6)
    extent = 0.3 * np.array(LoadImage(image_only=True)(item["image"]).shape)
    assert (item["landmarks"] >= 0).all() and (item["landmarks"] <= extent).all()
