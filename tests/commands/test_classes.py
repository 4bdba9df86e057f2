"""Which classes label maps have, by their values and by names."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from monai_infoaug.commands._classes import Classes, find_classes


def files_of(folder, *values: list[int], suffix: str = ".png", kind: type = np.uint8) -> list:
    """Label maps that have these values."""
    paths = []
    for number, each in enumerate(values):
        array = np.zeros((4, 6), kind)
        array.flat[: len(each)] = each
        paths.append(folder / f"{number}{suffix}")
        sitk.WriteImage(sitk.GetImageFromArray(array), paths[-1])
    return paths


@pytest.mark.parametrize(
    ("values", "names", "expected"),
    [
        ([[1, 2], [3]], None, Classes(("1", "2", "3"), (1, 2, 3), False)),
        ([[1, 2, 4]], None, Classes(("1", "2", "4"), (1, 2, 4), False)),  # nothing says that they overlap
        ([[5, 205]], None, Classes(("5", "205"), (5, 205), False)),
        ([[1, 2, 4], [5]], None, Classes(("1", "2", "4"), (1, 2, 4), True)),
        ([[1, 2, 4], [9, 8, 16]], None, Classes(("1", "2", "4", "8", "16"), (1, 2, 4, 8, 16), True)),
        ([[1, 2, 3]], ["a", "b"], Classes(("a", "b"), (1, 2), True)),
        ([[1, 2, 3]], ["a", "b", "c"], Classes(("a", "b", "c"), (1, 2, 3), False)),
        ([[1, 2, 4, 5]], ["a", "b", "c", "d"], Classes(("a", "b", "c", "d"), (1, 2, 4, 5), False)),
        ([[5, 7]], {"b": 7, "a": 5}, Classes(("b", "a"), (7, 5), False)),
        ([[1, 3]], {"a": 1, "b": 2}, Classes(("a", "b"), (1, 2), True)),
        ([[1]], {"a": 1, "b": 2, "background": 0}, Classes(("a", "b"), (1, 2), False)),
    ],
)
def test_values_and_names_say_what_the_classes_are(tmp_path, values, names, expected):
    assert find_classes(files_of(tmp_path, *values), names) == expected


@pytest.mark.parametrize(
    ("values", "names", "message"),
    [
        ([[0]], None, "`labels` must be label maps with labels, got nothing but background in 1 files"),
        ([[1, 2]], ["a"], "`names` must be a name a class, got 1 for the values 1, 2"),
        ([[1, 2, 7]], ["a", "b"], "`names` must be a name a class, got 2 for the values 1, 2, 7"),
        ([[1, 3]], {"a": 1}, "`names` must be names of all values in the label maps"),
        ([[1, 7]], {"a": 1, "b": 5}, "`names` must be names of all values in the label maps"),
        ([[1]], ["a", "a"], "`names` must be different names"),
        ([[1]], {"a": 1, "b": 1}, "`names` must be names with different whole numbers above 0"),
        ([[1]], "/nowhere.json", "`names` must be names, or a JSON file with them, got '/nowhere.json'"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, values, names, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        find_classes(files_of(tmp_path, *values), names)


def test_a_file_that_is_no_label_map_is_named(tmp_path):
    (path,) = files_of(tmp_path, [1.5], suffix=".nii.gz", kind=np.float32)
    with pytest.raises(ValueError, match=r"`labels` must be label maps of whole numbers of at least 0, got '.*0.nii"):
        find_classes([path])
    colours = tmp_path / "colours.png"
    sitk.WriteImage(sitk.GetImageFromArray(np.random.default_rng(0).integers(0, 9, (4, 4, 3), np.uint8), True), colours)
    with pytest.raises(ValueError, match=r"`labels` must be label maps of one channel, got '.*colours.png' with 3"):
        find_classes([colours])
    (path,) = files_of(tmp_path, [0, 255] * 6, suffix=".jpg")
    with pytest.raises(ValueError, match=r"`labels` must be .* such as PNG: JPEG changes them, got '.*0.jpg'"):
        find_classes([path])


@pytest.mark.parametrize("bits", [True, False])
def test_what_is_written_is_read_again_beside_the_files(tmp_path, bits):
    paths = files_of(tmp_path, [1, 4])
    classes = Classes(("left", "rechts ü"), (1, 4), bits)
    (tmp_path / "classes.json").write_text(classes.as_text(), encoding="utf-8")
    assert find_classes(paths) == classes
    assert find_classes(paths, tmp_path / "classes.json") == classes


@pytest.mark.parametrize(
    "content", [{"labels": {"background": 0, "liver": 1}}, {"labels": {"0": "background", "1": "liver"}}]
)
def test_names_of_nnunet_and_of_slicer_are_found(tmp_path, content):
    (tmp_path / "labelsTr").mkdir()
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    assert find_classes(files_of(tmp_path / "labelsTr", [1])) == Classes(("liver",), (1,), False)
    (tmp_path / "slicer").mkdir()
    path = slicer(tmp_path / "slicer" / "a.seg.nrrd", spleen=3)
    assert find_classes([path]) == Classes(("spleen",), (3,), False)


def slicer(path, **segments: int):
    """A segmentation of 3D Slicer with these segments, each in a voxel."""
    image = sitk.GetImageFromArray(np.array([[[0, *segments.values()]] * 2], np.uint8))
    for number, (name, value) in enumerate(segments.items()):
        image.SetMetaData(f"Segment{number}_Name", name)
        image.SetMetaData(f"Segment{number}_LabelValue", str(value))
    sitk.WriteImage(image, path)
    return path


def test_segments_of_slicer_have_the_same_number_in_all_files(tmp_path):
    """Slicer numbers segments by their order, so that the first file says nothing of the second."""
    first, more = slicer(tmp_path / "a.seg.nrrd", liver=1), slicer(tmp_path / "b.seg.nrrd", liver=1, spleen=2)
    assert find_classes([first, more]) == Classes(("liver", "spleen"), (1, 2), False)
    for other in ({"spleen": 1}, {"spleen": 1, "liver": 2}):
        path = slicer(tmp_path / "c.seg.nrrd", **other)
        with pytest.raises(ValueError, match=r"`labels` must be .* one number, got '.*c.seg.nrrd' with {'spleen': 1"):
            find_classes([more, path])
        assert find_classes([more, path], ["a", "b"]) == Classes(("a", "b"), (1, 2), False)


@pytest.mark.parametrize("classes", [Classes(("a", "b"), (5, 2), False), Classes(("a", "b"), (4, 1), True)])
def test_masks_are_undone_by_labels(classes):
    values = [0, *classes.values, *[5] * classes.are_bits]
    labels = torch.tensor([values], dtype=torch.uint8)[None]
    masks = classes.masks(labels)
    for mask, value in zip(masks, classes.values, strict=True):
        assert mask[0].tolist() == [bool(v & value) if classes.are_bits else v == value for v in values]
    assert classes.labels(masks)[0, 0].tolist() == values
    numbers = classes.labels(masks, classes.numbers)[0, 0].tolist()
    assert numbers == (values if classes.are_bits else [0, 1, 2])
    assert classes.settings == {"classes": ["a", "b"], "label_bits": [4, 1] if classes.are_bits else None}
    assert str(classes) == ("a 4, b 1 (bits, which may overlap)" if classes.are_bits else "a 5, b 2")


def test_classes_without_names_say_their_numbers_once():
    assert str(Classes(("1", "b"), (1, 2), False)) == "1, b 2"
