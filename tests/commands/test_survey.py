"""What images have in common, which do not go with the others, and links to them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

pytest.importorskip("tqdm", reason="annotating needs the extra train")

from monai_infoaug.commands._survey import link_images, survey_images
from monai_infoaug.data import image_datalist, image_name
from tests.commands.scenes import smooth


def write(folder: Path, name: str, array: np.ndarray, spacing: tuple[float, ...] = (), colours: bool = False) -> Path:
    image = sitk.GetImageFromArray(array, isVector=colours)
    if spacing:
        image.SetSpacing(spacing)
    sitk.WriteImage(image, folder / name)
    return folder / name


@pytest.fixture
def names(tmp_path) -> dict[Path, str]:
    """Three pictures alike, one of colours, one much smaller, one that is broken, and a volume."""
    paths = [write(tmp_path, f"{name}.png", smooth(i, (60, 80))) for i, name in enumerate("abc")]
    paths.append(write(tmp_path, "rgb.png", np.stack([smooth(i, (60, 80)) for i in range(3)], -1), colours=True))
    paths.append(write(tmp_path, "small.png", smooth(5, (20, 80))))
    paths.append(write(tmp_path, "volume.nii.gz", smooth(6, (8, 60, 80))))
    (tmp_path / "broken.png").write_text("no picture")
    return {path: path.name.split(".")[0] for path in [*paths, tmp_path / "broken.png"]}


def test_what_most_have_in_common_and_who_is_left_out(names):
    survey = survey_images(names, pixdim=0.5)
    assert list(survey.names.values()) == ["a", "b", "c"]
    assert (survey.dims, survey.channels, survey.modality, survey.modality_said) == (2, 1, "xray", False)
    assert survey.extent == (40.0, 30.0)
    assert survey.pixdim == (0.5, 0.5)
    why = {path.name: reason for path, reason in survey.left_out.items()}
    assert why["rgb.png"] == "it has 3 channels in 2D, the others have 1 channels in 2D"
    assert why["volume.nii.gz"] == "it has 1 channels in 3D, the others have 1 channels in 2D"
    assert why["small.png"].startswith("it is of 40 x 10 mm, the others of 40 x 30 mm")
    assert "broken.png" in why["broken.png"]


def test_the_first_ones_decide(names):
    paths = {path.name: path for path in names}
    survey = survey_images(names, [paths["rgb.png"]], pixdim=0.5)
    assert (list(survey.names.values()), survey.channels, survey.modality) == (["rgb"], 3, "rgb")
    for first in ("broken.png", "small.png"):
        with pytest.raises(ValueError, match=rf"`template` must be an image like the others, got '.*{first}'"):
            survey_images(names, [paths["a.png"], paths["b.png"], paths[first]], pixdim=0.5)


def test_nobody_says_the_millimetres(names):
    with pytest.raises(ValueError, match=r"`pixdim` must be .*, got none for '.*a\.png'"):
        survey_images(names)
    broken = {path: name for path, name in names.items() if name == "broken"}
    with pytest.raises(ValueError, match=r"`images` must be at least one that can be read, got .*broken"):
        survey_images(broken, pixdim=1.0)


def test_modality_of_dicom(tmp_path):
    image = sitk.GetImageFromArray(smooth(0, (40, 50)).astype(np.int16))
    image.SetSpacing((0.5, 0.5))
    for name, modality in (("a", "CR"), ("b", "CR"), ("c", "MR")):
        image.SetMetaData("0008|0060", modality)
        sitk.WriteImage(image, tmp_path / f"{name}.dcm")
    survey = survey_images({path: path.stem for path in sorted(tmp_path.iterdir())})
    assert (survey.modality, survey.modality_said, survey.extent) == ("xray", True, (25.0, 20.0))


def test_links_have_the_names_and_can_be_read(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    volume = write(folder, "v.mhd", smooth(0, (8, 20, 24)))
    packed = write(folder, "w.nii.gz", smooth(1, (8, 20, 24)))
    series = folder / "1.2.840"
    series.mkdir()
    for i in range(3):
        write(series, f"{i}.png", smooth(i, (20, 24)))  # stands for slices
    images = link_images({volume: "one", packed: "two"}, tmp_path / "links")
    again = link_images({volume: "one", packed: "two"}, tmp_path / "links")
    assert images == again
    found = {image_name(item["image"]): item["image"] for item in image_datalist(images)}
    assert sorted(found) == ["one", "two"]
    for path, name in ((volume, "one"), (packed, "two")):
        own, linked = (sitk.GetArrayFromImage(sitk.ReadImage(str(each))) for each in (path, found[name]))
        np.testing.assert_array_equal(own, linked)
    link_images({series: "three"}, tmp_path / "more")
    assert sorted(path.name for path in (tmp_path / "more" / "three").iterdir()) == ["0.png", "1.png", "2.png"]
