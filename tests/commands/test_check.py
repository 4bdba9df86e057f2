"""Which files of a data set are not fine, and what is said about them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from monai_infoaug.__main__ import main
from monai_infoaug.commands.check import check_data
from monai_infoaug.data import LandmarkTable, write_landmarks
from tests.commands.scenes import smooth
from tests.data.files import dicom, numbers

HINT = "; all are inside as LPS, which a CSV file says in a column `space`"


def write(
    path: Path,
    shape: tuple[int, ...] = (40, 36),
    spacing: float = 0.5,
    seed: int = 0,
    origin: float = 0,
    channels: int = 1,
) -> Path:
    """An image file."""
    path.parent.mkdir(exist_ok=True)
    arrays = [smooth(seed + channel, shape) for channel in range(channels)]
    image = sitk.GetImageFromArray(np.stack(arrays, -1) if channels > 1 else arrays[0], isVector=channels > 1)
    image.SetSpacing([spacing] * len(shape))
    image.SetOrigin([origin] * len(shape))
    sitk.WriteImage(image, path)
    return path


@pytest.fixture
def images(tmp_path) -> Path:
    """Three images that go together."""
    for seed in range(3):
        write(tmp_path / "images" / f"{seed}.mha", seed=seed)
    return tmp_path / "images"


def said(*args, **options) -> dict[str, list[str]]:
    """File name to what is said about it, notes in brackets."""
    found: dict[str, list[str]] = {}
    for path, text, is_fault in check_data(*args, **options):
        found.setdefault(Path(path).name, []).append(text if is_fault else f"({text})")
    return found


def test_nothing_is_said_of_files_that_go_together(images, tmp_path):
    for seed in range(3):
        sitk.WriteImage(sitk.ReadImage(images / f"{seed}.mha") > 99, tmp_path / f"{seed}.mha")
    (tmp_path / "labels").mkdir()
    for seed in range(3):
        (tmp_path / f"{seed}.mha").rename(tmp_path / "labels" / f"{seed}.mha")
    points = {str(seed): [[-1.0, -2.0], [-17.5, -19.5]] for seed in range(3)}
    write_landmarks(tmp_path / "table.csv", LandmarkTable(["a", "b"], points, space="RAS"))
    assert check_data(images, tmp_path / "labels", tmp_path / "table.csv") == []


def test_each_file_that_is_unlike_the_others_is_named(images):
    write(images / "axes.mha", (12, 40, 36))
    write(images / "channels.mha", channels=3)
    write(images / "size.mha", (10, 12))
    write(images / "spacing.mha", spacing=1.0)
    write(images / "a bit.mha", (50, 44), spacing=0.6)
    (images / "broken.mha").write_bytes((images / "0.mha").read_bytes()[:-9])
    (images / "text.png").write_text("no picture")
    (images / "notes.txt").write_text("mine")
    sitk.WriteImage(sitk.Image(40, 36, sitk.sitkUInt8), images / "black.mha")
    black = sitk.ReadImage(images / "black.mha")
    black.SetSpacing([0.5, 0.5])
    sitk.WriteImage(black, images / "black.mha")
    found = said(images)
    assert found.pop("broken.mha")[0].startswith("cannot be read: `data` must be")
    assert found.pop("text.png")[0].startswith("cannot be read: `data` must be")
    assert found == {
        "axes.mha": ["has 3 axes, most have 2"],
        "channels.mha": ["has 3 channels, most have 1"],
        "size.mha": ["has 12 x 10 voxels, most about 1440 in all"],
        "spacing.mha": ["has voxels of 1 x 1 mm, others of 0.5 x 0.5 mm"],
        "black.mha": ["shows nothing: all its values are 0"],
        "notes.txt": ["(is passed over: no image by its name and content)"],
    }


def test_files_without_millimetres_are_named_unless_they_are_given(tmp_path):
    for seed in range(2):
        write(tmp_path / f"{seed}.png", seed=seed)
    assert said(tmp_path) == {f"{seed}.png": ["says no millimetres: give `pixdim`, 1 for pixels"] for seed in range(2)}
    assert check_data(tmp_path, pixdim=0.3) == []
    with pytest.raises(ValueError, match="`pixdim` must be positive"):
        check_data(tmp_path, pixdim=0)


def test_what_the_reader_had_to_assume_is_said(images):
    header = (images / "0.mha").read_bytes().replace(b"ElementSpacing = 0.5 0.5\n", b"")
    (images / "0.mha").write_bytes(header)
    assert said(images) == {"0.mha": ["says no spacing: a pixel is taken as 1 mm"]}
    assert check_data(images, pixdim=0.5) == []


def test_a_tilted_volume(tmp_path):
    volume = sitk.GetImageFromArray(smooth(0, (12, 16, 20)))
    sheared = np.array([[1, 0, 0.0], [0, 1, 0.3], [0, 0, 1]])
    sheared /= np.linalg.norm(sheared, axis=0)
    try:
        volume.SetDirection(sheared.ravel().tolist())
        sitk.WriteImage(volume, tmp_path / "tilted.nrrd")
    except RuntimeError:
        pytest.skip("this SimpleITK writes no sheared directions")
    assert said(tmp_path) == {"tilted.nrrd": ["is tilted: its axes are not at right angles"]}


def test_labels_are_held_against_their_images(images, tmp_path):
    labels = tmp_path / "labels"
    for name in ("3", "4", "5", "6", "7", "8"):
        write(images / f"{name}.mha")
    write(labels / "0.mha", (40, 30))
    write(labels / "1.mha", spacing=0.4)
    write(labels / "2.mha", origin=3)
    write(labels / "3.mha", channels=3)
    write(labels / "4.mha")
    sitk.WriteImage(sitk.Cast(sitk.ReadImage(labels / "4.mha"), sitk.sitkFloat32) / 7, labels / "4.mha")
    (labels / "5.mha").write_text("no image")
    write(labels / "6.png")
    write(labels / "9.mha")
    write(labels / "8.mha")
    found = said(images, labels)
    assert found.pop("5.mha")[0].startswith("cannot be read")
    assert found == {
        "0.mha": ["has 30 x 40 voxels, its image 36 x 40"],
        "1.mha": ["has voxels of 0.4 x 0.4 mm, its image 0.5 x 0.5 mm"],
        "2.mha": ["lies or is turned otherwise than its image"],
        "3.mha": ["is a label with 3 channels instead of 1"],
        "4.mha": ["is a label with values that are no whole numbers"],
        "6.png": ["says no millimetres, as its image does"],
        "7.mha": ["(has no label)"],
        "9.mha": ["is a label without an image of the name '9'"],
    }


def test_labels_in_jpeg(tmp_path):
    """Whose numbers would be other classes at the edges of each."""
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
        sitk.WriteImage(sitk.GaussianSource(sitk.sitkUInt8, [40, 48]), tmp_path / name / "0.jpg")
    found = said(tmp_path / "images", tmp_path / "labels", pixdim=1)
    assert found == {"0.jpg": ["is a label in JPEG, which changes the values"]}


def test_landmarks_are_held_against_their_images(images, tmp_path):
    points = {"0": [[-1.0, -1], [-18.0, -1]], "1": [[1.0, 1], [np.nan, np.nan]], "7": [[0.0, 0], [0.0, 0]]}
    write_landmarks(tmp_path / "table.csv", LandmarkTable(["a", "b"], points, space="RAS"))
    assert said(images, landmarks=tmp_path / "table.csv") == {
        "0.mha": ["has landmarks outside of its 36 x 40 voxels: 'b' at voxel [36.0, 2.0]"],
        "1.mha": ["has landmarks outside of its 36 x 40 voxels: 'a' at voxel [-2.0, -2.0]" + HINT],
        "2.mha": ["(has no landmarks)"],
        "table.csv": ["(has landmarks of '7', of which there is no image)"],
    }


def test_landmarks_in_the_other_frame_are_told_so(images, tmp_path):
    points = {"0": [[1.0, 2.0], [17.5, 19.5]], "1": [[1.0, 2.0], [-17.5, 19.5]], "2": [[1.0, 2.0], [np.nan, np.nan]]}
    write_landmarks(tmp_path / "table.csv", LandmarkTable(["a", "b"], points))
    found = said(images, landmarks=tmp_path / "table.csv")
    assert [found[f"{name}.mha"][0].endswith(HINT) for name in range(3)] == [True, False, True]
    write_landmarks(tmp_path / "table.csv", LandmarkTable(["a", "b"], {"0": points["0"]}, space="LPS"))
    assert check_data(images / "0.mha", landmarks=tmp_path / "table.csv") == []


def test_folders_with_images_are_read_or_said_to_be_passed_over(images):
    for place in ("patient1", "patient2/study"):
        dicom(images / place / "IM1", np.arange(1440, dtype=np.int16).reshape(40, 36), {0x00280030: numbers(0.5, 0.5)})
    write(images / "more" / "a.mha")
    (images / "empty").mkdir()
    notes = {"more": ["(is passed over: its images lie deeper than those that are read)"]}
    assert said(images) == notes | {"empty": ["(is passed over: no image by its name and content)"]}


def test_landmarks_of_slicer(images, tmp_path):
    tables = tmp_path / "tables"
    tables.mkdir()
    for name, x in (("0", 3.0), ("1", 99.0)):
        write_landmarks(tables / f"{name}.mrk.json", LandmarkTable(["a"], {name: [[x, 1.0]]}, space="LPS"))
    (tables / "2.mrk.json").write_text("no table")
    found = said(images, landmarks=tables)
    assert found.pop("2.mrk.json")[0].startswith("cannot be read: `path` must be")
    assert found == {
        "1.mha": ["has landmarks outside of its 36 x 40 voxels: 'a' at voxel [198.0, 2.0]"],
        "2.mha": ["(has no landmarks)"],
    }
    assert check_data(images / "0.mha", landmarks=tables / "0.mrk.json") == []
    assert check_data(images, landmarks=tables / "0.mrk.json") == []  # of the image of its name
    assert said(images, landmarks=tables / "1.mrk.json") == {"1.mha": found["1.mha"]}
    (tables / "1.mrk.json").rename(tables / "mine.mrk.json")
    with pytest.raises(ValueError, match=r"`landmarks` must be a CSV file, a folder .* or a file with the name"):
        check_data(images, landmarks=tables / "mine.mrk.json")


def test_two_images_of_one_name(images, tmp_path):
    write(images / "0.nrrd")
    (tmp_path / "labels").mkdir()
    write(tmp_path / "labels" / "0.mha", seed=1)
    assert check_data(images) == []
    assert "has the name of" in said(images, tmp_path / "labels")["0.mha"][0]
    write(tmp_path / "labels" / "0.nrrd", seed=1)
    assert said(images, tmp_path / "labels")["0.nrrd"][-1].endswith("0.mha', which is taken")


def test_lines_and_exit_status(images, capsys):
    assert main(["check", str(images)]) == 0
    assert capsys.readouterr().out == "All files are fine.\n"
    write(images / "size.mha", (400, 360))
    (images / "notes.txt").write_text("mine")
    assert main(["check", str(images)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{images / 'size.mha'}: has 360 x 400 voxels")
    assert lines[1] == f"{images / 'notes.txt'}: note: is passed over: no image by its name and content"
    assert lines[2:] == ["Files that are not fine: 1."]
    assert main(["check", str(images / "nowhere")]) == 2
    assert capsys.readouterr().err.startswith("monai-infoaug check: `dataset_dir` must be a folder or an image file")
