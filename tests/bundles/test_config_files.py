"""Which files of a configuration are looked at before it runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from monai.bundle import ConfigParser

from monai_infoaug.bundles._config_files import require_files_of

LOAD = {
    "_target_": "monai.transforms.LoadImaged",
    "keys": "image",
    "reader": {"_target_": "monai_infoaug.data.SimpleITKReader"},
}


@pytest.fixture
def broken(tmp_path) -> str:
    sitk.WriteImage(sitk.Image(9, 9, sitk.sitkUInt8), tmp_path / "broken.mha")
    (tmp_path / "broken.mha").write_bytes((tmp_path / "broken.mha").read_bytes()[:-9])
    return str(tmp_path / "broken.mha")


def config(data: Any, steps: list[dict] | None = None, **more) -> ConfigParser:
    """One that runs over a data set."""
    dataset = {"_target_": "monai.data.Dataset", "data": data}
    config = {"preprocessing_transforms": [LOAD] if steps is None else steps, "loader": {"dataset": dataset}}
    parser = ConfigParser(config | {"run": ["$len(@loader)", "$list(@loader#dataset)"]} | more)
    parser.parse()
    return parser


@pytest.mark.parametrize(
    "data",
    [
        lambda path: [{"image": path}],
        lambda path: [{"image": [path, path]}, {"image": np.zeros(3)}],
        lambda path: f"$[{{'image': {path!r}}}] * 9",
        lambda path: {"_target_": "monai_infoaug.data.image_datalist", "dataset_dir": path},
    ],
)
def test_the_items_of_a_data_set_that_runs(broken, data):
    with pytest.raises(ValueError, match=r"broken\.mha' has 72 bytes of pixels, not 81"):
        require_files_of(config(data(broken)))


def test_what_nothing_runs_is_not_looked_at(broken):
    require_files_of(config([{"image": broken}], run="$1"))
    require_files_of(config([{"image": broken, "name": broken}], [{**LOAD, "reader": "ITKReader"}]))
    require_files_of(config([], other={"_target_": "monai.data.Dataset", "data": [{"image": broken}]}))


def test_templates_are_looked_at_one_or_several(broken, tmp_path):
    sitk.WriteImage(sitk.Image(9, 9, sitk.sitkUInt8), tmp_path / "1.mha")
    for template in (tmp_path / "1.mha", tmp_path / "nowhere", "$1", None, 3):
        require_files_of(config([], template=template if isinstance(template, int | None) else str(template)))
    for template in (broken, str(tmp_path)):
        with pytest.raises(ValueError, match=r"broken\.mha' has 72 bytes of pixels, not 81"):
            require_files_of(config([], template=template))
    Path(broken).unlink()
    sitk.WriteImage(sitk.Image(9, 9, sitk.sitkUInt8), tmp_path / "2.mha")
    require_files_of(config([], template=str(tmp_path)))


@pytest.mark.parametrize("data", [None, 3, [], [None], "$1 / 0", "@absent", {"image": 3}, [[{"image": "nowhere"}]]])
def test_data_that_cannot_be_listed_yet(data):
    require_files_of(config(data))


@pytest.mark.parametrize(
    ("steps", "is_refused"),
    [
        ([LOAD], True),
        ([LOAD, {"_target_": "monai.transforms.EnsureChannelFirstd", "keys": "image"}], True),
        ([LOAD, {"_target_": "monai.transforms.EnsureChannelFirstd", "keys": "image", "channel_dim": 0}], False),
        ([LOAD, {"_target_": "monai.transforms.Lambdad", "keys": "image", "func": "$lambda x: x[:1]"}], False),
        ([LOAD, "$monai.transforms.SqueezeDimd('image')"], False),
    ],
)
def test_transforms_of_ones_own_may_change_axes_and_channels(tmp_path, steps, is_refused):
    volume = sitk.Image([9, 9, 9], sitk.sitkVectorUInt8, 2)
    sitk.WriteImage(volume, tmp_path / "a.mha")
    settings: list[tuple[dict, str]] = [
        ({"spatial_dims": 2}, "of 2 axes, got .*a.mha' of 3 axes"),
        ({"network_def": {"spatial_dims": 2}}, "of 2 axes, got .*a.mha' of 3 axes"),
        ({"in_channels": 1}, "of 1 channels, which `in_channels` says, got .*a.mha' of 2 channels"),
    ]
    for setting, message in settings:
        given = config([{"image": str(Path(tmp_path, "a.mha"))}], steps, **setting)
        if is_refused:
            with pytest.raises(ValueError, match=message):
                require_files_of(given)
        else:
            require_files_of(given)
    require_files_of(config([{"image": str(tmp_path / "a.mha")}], steps, spatial_dims="$1 + 2", in_channels="$1 + 1"))


@pytest.mark.parametrize("spacing", [None, "monai.transforms.ResampleToMatchd", "monai.transforms.Spacingd"])
def test_labels_on_another_grid_are_refused_unless_they_are_resampled(tmp_path, spacing):
    for name, side in (("image", 1.0), ("label", 2.0)):
        plane = sitk.Image([int(18 / side)] * 2, sitk.sitkUInt8)
        plane.SetSpacing([side] * 2)
        plane.SetOrigin([side / 2] * 2)
        sitk.WriteImage(plane, tmp_path / f"{name}.mha")
    item = {name: str(tmp_path / f"{name}.mha") for name in ("image", "label")}
    labels = {"_target_": spacing, "keys": ["image", "label"]} if spacing else None
    message = r"label\.mha', which has 9 x 9 voxels, its image 18 x 18\.$"
    for pixdim in (None, 0.5):
        given = config([item], resampled=labels, run=["$len(@loader)", "@resampled"], pixdim=pixdim)
        if spacing and pixdim is None:
            with pytest.warns(UserWarning, match="it is resampled to its image"):
                require_files_of(given)
        else:
            with pytest.raises(ValueError, match=message):
                require_files_of(given)
    own = {"_target_": "monai.transforms.Lambdad", "keys": "label", "func": "$lambda x: x.repeat(1, 2, 2)"}
    require_files_of(config([item], label_transforms=[own], pixdim=0.5))


def test_landmarks_in_another_frame_are_refused(tmp_path):
    sitk.WriteImage(sitk.Image([9, 8], sitk.sitkUInt8), tmp_path / "a.mha")
    steps = [LOAD, {"_target_": "monai.transforms.EnsureChannelFirstd", "keys": "image"}]
    steps.append({"_target_": "monai_infoaug.transforms.AssignPixdimd", "keys": "image", "pixdim": "@pixdim"})

    def require(*points, pixdim=None):
        item = {"image": str(tmp_path / "a.mha"), "landmarks": np.array(points)}
        require_files_of(config([{"image": item["image"]}, item], steps, pixdim=pixdim))

    nan = [np.nan, np.nan]
    for points in ([[-8.0, -7.0], [99.0, 99.0]], [nan, nan], [nan, [0.0, 0.0]], [[1.0, 2.0, 3.0]]):
        require(*points)
    require([8.0, 7.0], nan, pixdim=1)
    hint = "; all are inside as LPS, which a CSV file says in a column `space`"
    message = f"`landmarks` must be inside of their image, got all outside of '{tmp_path / 'a.mha'}'"
    for points, more in (([[8.0, 7.0], nan], hint), ([[8.0, 7.0], [9.0, 7.0]], ""), ([[2.0, -3.0]], "")):
        with pytest.raises(ValueError, match=f"^{re.escape(message + more)}.$"):
            require(*points)
    with pytest.raises(ValueError, match="; all are inside as RAS, "):
        require([-8.0, -7.0], pixdim=1)
