from __future__ import annotations

import csv
from itertools import pairwise
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from monai.transforms import LoadImage

from monai_infoaug.data import (
    LandmarkTable,
    SimpleITKReader,
    annotated_datalist,
    image_datalist,
    image_name,
    landmark_datalist,
    read_landmarks,
    segmentation_datalist,
    write_landmarks,
)
from tests.data.files import dicom, halved, place, slices

CEPH = Path(__file__).parents[3] / "shared" / "data" / "ceph"
NAN = np.nan


def images(folder, *names, size=(4, 6)):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(sitk.Image(size, sitk.sitkUInt8), folder / name)


def dicoms(folder, *series):
    """Files 0.dcm, 1.dcm, ... of the given series."""
    for i, uid in enumerate(series):
        dicom(folder / f"{i}.dcm", np.zeros((6, 4), np.int16), place((0, 0, i)) | {0x0020000E: ("UI", f"1.2.{uid}")})


def written(folder, text):
    (folder / "table.csv").write_text(text, encoding="utf-8")
    return folder / "table.csv"


def paths(folder, *args):
    return [str(Path(item["image"]).relative_to(folder)) for item in image_datalist(folder, *args)]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("a/b/1.png", "1"),
        ("1.JPEG", "1"),
        ("v.1.nii.gz", "v.1"),
        ("v.nii", "v"),
        ("v.mrk.json", "v"),
        ("v.fcsv", "v"),
        ("v.NII.GZ", "v"),
        ("v.seg.nrrd", "v"),
        ("Mu\u0308ller.png", "M\u00fcller"),
        ("v", "v"),
        ("studies/1.2.840.10008", "1.2.840.10008"),
    ],
)
def test_image_name(path, name):
    assert image_name(path) == image_name(Path(path)) == name


def test_image_datalist(tmp_path):
    images(tmp_path, "b.png", "a.JPG", ".hidden.png", "deep/c.png")
    (tmp_path / "notes.txt").touch(), (tmp_path / "v.nii.gz").touch(), (tmp_path / "d.png").mkdir()
    assert paths(tmp_path) == ["a.JPG", "b.png", "v.nii.gz"]
    assert image_datalist(tmp_path / "b.png") == [{"image": str(tmp_path / "b.png")}]
    assert paths(str(tmp_path), "**/*.png") == ["b.png", "deep/c.png"]
    with pytest.raises(
        ValueError, match=r"`dataset_dir` must be a folder with images '\*.txt' of type .bmp.*\.nii\.gz"
    ):
        image_datalist(tmp_path, "*.txt")
    with pytest.raises(ValueError, match=r"`dataset_dir` must be a folder or an image file, got '.*none'"):
        image_datalist(tmp_path / "none")


def test_a_folder_with_one_dicom_series_is_one_image(tmp_path):
    dicoms(tmp_path / "ct", 5, 5, 5)
    dicoms(tmp_path / "x-rays", 6, 7)
    images(tmp_path, "b.png", "ct/notes.png")
    assert paths(tmp_path / "ct") == [".", "notes.png"]
    assert paths(tmp_path / "x-rays") == ["0.dcm", "1.dcm"]
    assert paths(tmp_path) == ["b.png", "ct", "x-rays/0.dcm", "x-rays/1.dcm"]
    assert paths(tmp_path, "**/*.dcm") == ["ct", "x-rays/0.dcm", "x-rays/1.dcm"]
    assert LoadImage(reader=SimpleITKReader())(image_datalist(tmp_path)[1]["image"]).shape == (4, 6, 3)


@pytest.mark.parametrize("name", ["IM_000{}", "{}.IMA", "1.2.3.{}", "{}.DCM"])
def test_dicom_by_its_content(tmp_path, name):
    for k in range(3):
        dicom(tmp_path / "ct" / name.format(k), np.zeros((5, 4), np.int16), place((0, 0, k)))
        dicom(tmp_path / "dx" / str(k) / name.format(k), np.zeros((5, 4), np.int16))
    (tmp_path / "ct" / "README").write_text("no image")
    assert paths(tmp_path) == ["ct", *(f"dx/{k}/{name.format(k)}" for k in range(3))]
    assert paths(tmp_path / "ct") == ["."]
    assert paths(tmp_path / "dx") == [f"{k}/{name.format(k)}" for k in range(3)]
    assert len(paths(tmp_path, "**/*")) == 4


def test_dicom_in_folders_of_any_depth(tmp_path):
    slices(tmp_path / "patient1" / "study" / "series", [(0, 0, k) for k in range(3)])
    dicom(tmp_path / "patient2" / "study" / "IM1", np.zeros((5, 4), np.int16))
    dicom(tmp_path / "patient3" / "IM2", np.zeros((5, 4), np.int16))
    dicom(tmp_path / "patient3" / ".trash" / "IM3", np.zeros((5, 4), np.int16))
    images(tmp_path, "patient4/a.png")
    assert paths(tmp_path) == ["patient1/study/series", "patient2/study/IM1", "patient3/IM2"]
    assert paths(tmp_path, "patient3") == ["patient3/IM2"]
    images(tmp_path, "pictures/day1/a.png")
    with pytest.raises(ValueError, match=r"`dataset_dir` must .*pictures' without one: '.*a.png' lies deeper"):
        image_datalist(tmp_path / "pictures")
    with pytest.raises(ValueError, match=r"patient4' without one\.$"):
        image_datalist(tmp_path / "patient4", "*.jpg")


def test_radiographs_of_one_series_are_no_volume(tmp_path):
    for k in range(2):
        dicom(tmp_path / "frontal-lateral" / f"{k}.dcm", np.zeros((5, 4), np.int16))
        dicom(tmp_path / "same-place" / f"{k}.dcm", np.zeros((5, 4), np.int16), place((0, 0, 0)))
    assert paths(tmp_path) == [f"{place}/{k}.dcm" for place in ("frontal-lateral", "same-place") for k in range(2)]


def test_a_volume_with_another_series_is_refused(tmp_path):
    slices(tmp_path / "patient", [(0, 0, k) for k in range(3)])
    dicom(tmp_path / "patient" / "scout.dcm", np.zeros((5, 4), np.int16), {0x0020000E: ("UI", "1.2.9")})
    message = r"`dataset_dir` must be a folder for each DICOM series: move them apart, got '.*patient' with 2"
    for pattern in ("*", "**/*.dcm"):
        with pytest.raises(ValueError, match=message):
            image_datalist(tmp_path, pattern)


def test_a_broken_slice_is_left_to_the_reader_to_name(tmp_path):
    slices(tmp_path / "ct", [(0, 0, k) for k in range(3)])
    halved(tmp_path / "ct" / "001.dcm", 0.97)
    halved(dicom(tmp_path / "dx.dcm", np.zeros((5, 4), np.int16)))
    assert paths(tmp_path) == ["ct", "dx.dcm"]
    for item in image_datalist(tmp_path):
        with pytest.raises(ValueError, match="can read, got"):
            LoadImage(reader=SimpleITKReader)(item["image"])


def test_folders_with_dots_in_their_names(tmp_path):
    for name in ("patient.A", "patient.B"):
        slices(tmp_path / name, [(0, 0, k) for k in range(3)])
    table = written(tmp_path, "image,landmark,x,y,z\npatient.A,p,1,1,1\npatient.B,p,2,2,2\n")
    items = landmark_datalist(tmp_path, table)
    assert [item["name"] for item in items] == ["patient.A", "patient.B"]
    assert [item["landmarks"].tolist() for item in items] == [[[1, 1, 1]], [[2, 2, 2]]]


def test_images_of_the_same_name_are_refused(tmp_path):
    images(tmp_path / "images", "a.png", "a.bmp", "b.png")
    images(tmp_path / "labels", "a.png", "b.png")
    table = written(tmp_path, "image,landmark,x,y\na,p,1,1\nb,p,1,1\n")
    message = r"`{}` must be images of different names, got '.*a\.bmp' and '.*a\.png'"
    for make in (landmark_datalist, annotated_datalist):
        with pytest.raises(ValueError, match=message.format("images")):
            make(tmp_path / "images", table)
    with pytest.raises(ValueError, match=message.format("images")):
        segmentation_datalist(tmp_path / "images", tmp_path / "labels")
    with pytest.raises(ValueError, match=message.format("labels")):
        segmentation_datalist(tmp_path / "labels", tmp_path / "images")


@pytest.mark.parametrize(
    ("name", "given"),
    [("2024", 2024), ("2.5", 2.5), ("a,b", ("a", "b")), ("1,2", (1, 2)), ("a#b", "a#b"), ("a#b", "a::b")],
)
def test_names_that_a_command_line_takes_for_something_else(tmp_path, monkeypatch, name, given):
    monkeypatch.chdir(tmp_path)
    images(tmp_path / name, "1.png")
    assert image_datalist(given) == [{"image": str(Path(name) / "1.png")}]


def test_a_name_that_the_command_line_cuts_off(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images(tmp_path / "a#b", "1.png")
    with pytest.warns(UserWarning, match="'a' does not exist: `dataset_dir` is taken as 'a#b'"):
        assert image_datalist("a") == [{"image": "a#b/1.png"}]
    images(tmp_path / "a#c", "1.png")
    with pytest.raises(ValueError, match="`dataset_dir` must be a folder or an image file, got 'a'"):
        image_datalist("a")


@pytest.mark.parametrize("given", [None, True, ["a"], {"a": 1}])
def test_what_is_no_path(given):
    with pytest.raises(ValueError, match=r"`dataset_dir` must be a path; write \./NAME for a name that could be"):
        image_datalist(given)
    with pytest.raises(ValueError, match="`table` must be a path"):
        annotated_datalist("images", given)


def test_a_sheared_volume_with_a_file_of_slicer(tmp_path):
    affine = np.eye(4)
    affine[0, 1] = 0.1
    nib.save(nib.Nifti1Image(np.zeros((6, 5, 4), np.int16), affine), tmp_path / "a.nii.gz")
    dicom(tmp_path / "b.dcm", np.zeros((5, 4), np.int16))
    for name, points in (("a", [[1.0, 2.0, 3.0]]), ("b", [[1.0, 2.0]])):
        write_landmarks(tmp_path / f"{name}.mrk.json", LandmarkTable(["p"], {name: points}, space="RAS"))
    items = landmark_datalist(tmp_path, tmp_path)
    assert [item["landmarks"].tolist() for item in items] == [[[1, 2, 3]], [[1, 2]]]


def test_landmarks_from_a_csv_file(tmp_path):
    images(tmp_path / "images", "7.png", "v.1.png")
    (tmp_path / "images" / "w.2.nii.gz").touch()  # for a CSV file no image is opened
    path = written(tmp_path, "image,landmark,x,y\nv.1,0,0.5,2.5\n7,0,1,2\nelsewhere,0,1,1\nw.2,1,1,1\n")
    items = landmark_datalist(tmp_path / "images", path)
    assert [item["name"] for item in items] == ["7", "v.1", "w.2"]
    assert all(item["labels"] == ["0", "1"] for item in items)
    assert items[1]["image"] == str(tmp_path / "images" / "v.1.png")
    assert items[1]["landmarks"].dtype == np.float32
    np.testing.assert_array_equal(items[1]["landmarks"], [[0.5, 2.5], [NAN, NAN]])
    images(tmp_path / "images", "8.png")
    with pytest.raises(ValueError, match=r"`image` must be in the table .* got '8'"):
        landmark_datalist(tmp_path / "images", path)


@pytest.mark.parametrize("suffix", [".fcsv", ".mrk.json"])
def test_landmarks_from_a_folder_of_slicer_files(tmp_path, suffix):
    """Each in its own order and axes; what one lacks is missing there."""
    images(tmp_path, "a.png", "b.png")
    (tmp_path / "marks").mkdir()
    write_landmarks(tmp_path / "marks" / f"a{suffix}", LandmarkTable("pq", {"x": [[1, 2], [3, 4]]}, space="LPS"))
    write_landmarks(tmp_path / "marks" / f"b{suffix}", LandmarkTable("rp", {"x": [[5, 6], [7, 8]]}, space="RAS"))
    a, b = landmark_datalist(tmp_path, tmp_path / "marks")
    assert a["labels"] == b["labels"] == ["p", "q", "r"]
    np.testing.assert_array_equal(a["landmarks"], [[-1, -2], [-3, -4], [NAN, NAN]])  # z = 0 is dropped
    np.testing.assert_array_equal(b["landmarks"], [[7, 8], [NAN, NAN], [5, 6]])
    a, b = landmark_datalist(tmp_path, tmp_path / "marks", space="LPS", labels=["r", "p"])
    assert a["labels"] == ["r", "p"]
    np.testing.assert_array_equal([a["landmarks"], b["landmarks"]], [[[NAN, NAN], [1, 2]], [[-5, -6], [-7, -8]]])
    with pytest.raises(ValueError, match=r"`labels` must be in the table .*marks, which has 'p', 'q', 'r', got 's'"):
        landmark_datalist(tmp_path, tmp_path / "marks", labels=["p", "s"])
    images(tmp_path, "c.png")
    with pytest.raises(
        ValueError, match=r"`table` must be a folder with either c\.fcsv or c\.mrk\.json, got 0 of them"
    ):
        landmark_datalist(tmp_path, tmp_path / "marks")


def test_accents_of_file_names_may_be_encoded_in_either_way(tmp_path):
    """As archives of macOS have them, where tables and labels were named elsewhere."""
    composed, apart = "M\u00fcller", "Mu\u0308ller"
    for folder, name in (("images", apart), ("labels", composed)):
        (tmp_path / folder).mkdir()
        images(tmp_path / folder, f"{name}.png")
    points = LandmarkTable("p", {composed: [[1, 2]]}, space="RAS")
    for file in (f"{composed}.csv", f"{apart}.mrk.json"):
        write_landmarks(tmp_path / file, points)
    for table in (tmp_path / f"{composed}.csv", tmp_path):
        (item,) = annotated_datalist(tmp_path / "images", table)
        assert (item["name"], item["landmarks"].tolist()) == (composed, [[1, 2]])
    assert list(read_landmarks(tmp_path / f"{composed}.csv", apart).points) == [composed]
    (item,) = segmentation_datalist(tmp_path / "images", tmp_path / "labels")
    assert "label" in item


def test_landmarks_of_one_image_from_any_slicer_file(tmp_path):
    images(tmp_path, "a.nii.gz", size=(4, 6, 5))
    write_landmarks(tmp_path / "template.mrk.json", LandmarkTable("p", {"x": [[1, 2, 3]]}))
    (item,) = landmark_datalist(tmp_path / "a.nii.gz", tmp_path / "template.mrk.json")
    assert item["landmarks"].tolist() == [[-1, -2, 3]]
    images(tmp_path, "b.png")
    with pytest.raises(ValueError, match=r"`table` must be a CSV file, or a folder .*, got '.*' for 2 images"):
        landmark_datalist(tmp_path, tmp_path / "template.mrk.json")


def test_an_image_without_header_is_named(tmp_path):
    (tmp_path / "a.png").write_text("no picture")
    write_landmarks(tmp_path / "a.fcsv", LandmarkTable("p", {"a": [[1, 2]]}))
    with pytest.raises(ValueError, match=r"an image that SimpleITK can read, got '.*a\.png'"):
        landmark_datalist(tmp_path / "a.png", tmp_path / "a.fcsv")


@pytest.mark.parametrize("reader", ["PILReader", SimpleITKReader()])
def test_axis_order_is_that_of_the_readers(tmp_path, reader):
    if reader == "PILReader":
        pytest.importorskip("PIL", reason="PILReader needs Pillow")
    dot = np.zeros((6, 4), np.uint8)
    dot[5, 2] = 255  # row 5 (y), column 2 (x)
    sitk.WriteImage(sitk.GetImageFromArray(dot), tmp_path / "a.png")
    (item,) = landmark_datalist(tmp_path, written(tmp_path, "image,landmark,x,y\na,0,2,5\n"))
    image = LoadImage(reader=reader)(item["image"])
    assert image[tuple(item["landmarks"][0].astype(int))] == 255


def annotated(folder, count=5, scores=None):
    """Images 0, 1, ... and a table of all but the last, and of one that is not there."""
    images(folder, *(f"{i}.png" for i in range(count)))
    names = [str(i) for i in range(count - 1)] + ["gone"]
    points = {name: [[i, 1.0], [i, 2.0]] for i, name in enumerate(names)}
    table = LandmarkTable("pq", points, scores and dict.fromkeys(names, scores))
    write_landmarks(folder / "table.csv", table)
    return folder, folder / "table.csv"


def taken(*args, **kwargs):
    return [item["name"] for item in annotated_datalist(*args, **kwargs)]


def test_annotated_images_are_those_of_the_table(tmp_path):
    places = annotated(tmp_path)
    items = annotated_datalist(*places)
    assert [item["name"] for item in items] == ["0", "1", "2", "3"]
    for item, like in zip(items, landmark_datalist(tmp_path / "3.png", places[1]) * 4, strict=True):
        assert item.keys() == like.keys() | {"weights"}
        assert item["weights"].tolist() == [1, 1]
        assert item["landmarks"].tolist() == [[float(item["name"]), 1], [float(item["name"]), 2]]
    (item,) = annotated_datalist(*places, labels=["q"], labelled=["2"])
    assert item["landmarks"].tolist() == [[2, 2]]
    assert item["labels"] == ["q"]


def test_some_of_the_annotated_images(tmp_path):
    places = annotated(tmp_path, count=12)
    assert taken(*places, labelled=["3", "1", "3"]) == ["1", "3"]
    draws = [[taken(*places, labelled=n, seed=seed) for n in range(1, 12)] for seed in range(4)]
    for seed, nested in enumerate(draws):
        assert [len(set(names)) for names in nested] == list(range(1, 12))
        assert all(set(few) < set(more) for few, more in pairwise(nested))
        assert taken(*places, labelled=5, seed=seed) == nested[4]
    assert len({tuple(nested[4]) for nested in draws}) > 1


def test_scores_are_weights(tmp_path):
    places = annotated(tmp_path, scores=[0.6, -0.2])
    (item, *_) = annotated_datalist(*places)
    np.testing.assert_allclose(item["weights"], [0.6, 0])
    assert item["weights"].dtype == np.float32
    (item, *_) = annotated_datalist(*places, min_score=0.7)
    assert item["weights"].tolist() == [0, 0]
    (item, *_) = annotated_datalist(tmp_path, written(tmp_path, "image,landmark,x,y,score\n0,p,1,2,1.5\n0,q,1,2,\n"))
    assert item["weights"].tolist() == [1, 1]


def test_images_without_any_landmark_are_passed_over(tmp_path):
    images(tmp_path, "0.png", "1.png")
    assert taken(tmp_path, written(tmp_path, "image,landmark,x,y\n0,p,nan,nan\n1,p,1,2\n1,q,3,4\n")) == ["1"]


def test_annotated_images_of_slicer(tmp_path):
    images(tmp_path, *(f"{i}.nii.gz" for i in range(3)), size=(4, 6, 5))
    (tmp_path / "marks").mkdir()
    for name, form in (("0", "mrk.json"), ("2", "fcsv")):
        table = LandmarkTable("pq", {name: [[1, 2, 3], [4, 5, 6]]}, {name: [0.5, np.nan]})
        write_landmarks(tmp_path / "marks" / f"{name}.{form}", table)
    items = annotated_datalist(tmp_path, tmp_path / "marks", labels=["q", "p"])
    assert [item["name"] for item in items] == ["0", "2"]
    for item in items:
        assert item["landmarks"].tolist() == [[-4, -5, 6], [-1, -2, 3]]
        assert item["weights"].tolist() == [1, 0.5]
    (item,) = annotated_datalist(tmp_path / "1.nii.gz", tmp_path / "marks" / "0.mrk.json")
    assert item["weights"].tolist() == [0.5, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labelled": 0}, r"`labelled` must be from 1 to 4, the images with landmarks, or a share in \(0, 1\], got 0"),
        ({"labelled": 5}, "`labelled` must be from 1 to 4, .* got 5"),
        ({"labelled": ["1", "4"]}, r"`labelled` must be .* '0', '1', '2', '3', got \['1', '4'\]"),
        ({"labelled": []}, r"`labelled` must be .*, got \[\]"),
        ({"labelled": "1"}, "`labelled` must be .*, got '1'"),
        ({"labelled": 2.0}, "`labelled` must be .*, got 2.0"),
        ({"labelled": True}, "`labelled` must be from 1 to 4, .* got True"),
        ({"labelled": float("nan")}, "`labelled` must be from 1 to 4, .* got nan"),
        ({"labelled": [["1"]]}, r"`labelled` must be .*, got \[\['1'\]\]"),
        ({"labelled": 2, "seed": 0.5}, "`seed` must be a non-negative integer, got 0.5"),
        ({"labelled": 2, "seed": -1}, "`seed` must be a non-negative integer, got -1"),
        ({"labels": ["r"]}, "`labels` must be in the table .*, got 'r'"),
    ],
)
def test_bad_choice_of_annotated_images(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        annotated_datalist(*annotated(tmp_path), **options)


def test_table_of_other_images(tmp_path):
    places = annotated(tmp_path)
    with pytest.raises(ValueError, match=r"`table` must be a table with an image of '.*4.png', got '.*table.csv'"):
        annotated_datalist(tmp_path / "4.png", places[1])


@pytest.mark.skipif(not CEPH.is_dir(), reason="cephalometric images not at hand")
def test_real_table():
    items = landmark_datalist(CEPH / "train", CEPH / "train_landmarks_mm.csv")
    assert len(items) == 150
    with open(CEPH / "train_landmarks_mm.csv") as file:
        rows = [row for row in csv.DictReader(file) if row["image"] == "115"]
    item = next(item for item in items if item["name"] == "115")
    assert Path(item["image"]).name == "115.jpg"
    assert item["landmarks"].shape == (19, 2)
    rows.sort(key=lambda row: int(row["landmark"]))
    np.testing.assert_allclose(item["landmarks"], [[float(row[axis]) for axis in "xy"] for row in rows], rtol=1e-6)
    extent = 0.3 * np.array(LoadImage(reader=SimpleITKReader())(item["image"]).shape)
    assert (item["landmarks"] >= 0).all()
    assert (item["landmarks"] <= extent).all()


@pytest.fixture
def cases(tmp_path):
    """16 images, and labels of all but one of them."""
    images(tmp_path / "images", *(f"{i:02}.png" for i in range(16)))
    images(tmp_path / "labels", *(f"{i:02}.nii.gz" for i in range(16) if i != 1))
    return tmp_path / "images", tmp_path / "labels"


def named(items):
    return [int(item["name"]) for item in items]


SPLIT = {"test_every": 4, "val_every": 7}


def test_cases_are_split(cases):
    parts = {part: segmentation_datalist(*cases, part, **SPLIT) for part in ("train", "val", "test")}
    assert named(parts["test"]) == [4, 8, 12]  # of those with a label
    assert named(parts["val"]) == [9]
    assert named(parts["train"]) == [0, 1, 2, 3, 5, 6, 7, 10, 11, 13, 14, 15]
    assert parts["test"][0] == {
        "image": str(cases[0] / "04.png"),
        "name": "04",
        "label": str(cases[1] / "04.nii.gz"),
    }
    assert "label" not in parts["train"][1]
    assert all("label" in item for item in parts["train"] if item["name"] != "01")
    (cases[0] / "01.png").unlink()  # the others are where they were
    assert [named(segmentation_datalist(*cases, part, **SPLIT)) for part in ("val", "test")] == [[9], [4, 8, 12]]


def test_nobody_is_split_off_unasked(tmp_path):
    images(tmp_path / "images", *(f"{i:02}.png" for i in range(24)))
    images(tmp_path / "labels", *(f"{i:02}.png" for i in range(6)))
    items = segmentation_datalist(tmp_path / "images", tmp_path / "labels", "train")
    assert named(items) == [*range(24)]
    assert named(item for item in items if "label" in item) == [*range(6)]


@pytest.mark.parametrize(("labelled", "number"), [(None, 11), (1, 1), (4, 4), (1.0, 11), (0.25, 3), (0.01, 1)])
def test_labelled_cases(cases, labelled, number):
    items = segmentation_datalist(*cases, "train", labelled, **SPLIT)
    assert len(items) == 12
    assert sum("label" in item for item in items) == number
    assert all(Path(item.get("label", item["image"])).exists() for item in items)


def test_drawn_cases_depend_on_the_seed_alone(cases):
    def chosen(number, seed):
        return {item["name"] for item in segmentation_datalist(*cases, "train", number, seed=seed) if "label" in item}

    assert chosen(3, 0) == chosen(3, 0) < chosen(5, 0)
    assert len({frozenset(chosen(3, seed)) for seed in range(8)}) > 1
    assert chosen(["00", "14"], 0) == {"00", "14"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"part": "all"}, "`part` must be one of .*, got 'all'"),
        (
            {"part": "test"},
            "`part` must be one with cases: .* 15 with a label .*, got 'test' with a `test_every` of None",
        ),
        ({"part": "val", "val_every": 16}, "`part` must be one with cases: .*, got 'val' with a `val_every` of 16"),
        ({"test_every": 1}, "`test_every` must be a whole number of at least 2, or None, got 1"),
        ({"test_every": "4"}, "`test_every` must be a whole number of at least 2, or None, got 4"),
        ({"val_every": 0}, "`val_every` must be a whole number of at least 2, or None, got 0"),
        ({"val_every": 2.5}, "`val_every` must be a whole number of at least 2, or None, got 2.5"),
        ({"labelled": 16}, r"`labelled` must be from 1 to 15, the training cases with a label, or a share .* got 16"),
        ({"labelled": 1.5}, r"`labelled` must be .* a share in \(0, 1\], got 1.5"),
        ({"labelled": ["01"]}, "`labelled` must be .*, or a list of training cases with a label, which are '00', '02'"),
        ({"labelled": 0.5, "seed": -1}, "`seed` must be"),
    ],
)
def test_bad_settings_of_cases(cases, settings, message):
    with pytest.raises(ValueError, match=message):
        segmentation_datalist(*cases, **settings)


def test_labels_of_other_images(cases, tmp_path):
    images(tmp_path / "others", "a.png")
    with pytest.raises(ValueError, match=r"`labels` must be a folder with labels of training cases of '.*images'"):
        segmentation_datalist(cases[0], tmp_path / "others", "train")
