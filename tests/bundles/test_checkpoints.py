"""The configuration and the network of a checkpoint."""

from __future__ import annotations

import pytest
import torch
from monai.bundle import ConfigParser

from monai_infoaug.bundles import copy_bundle, find_bundle, load_network, read_bundle, read_config
from monai_infoaug.bundles.finding import MOVED
from tests.bundles.checkpoints import checkpoint_of


def test_settings_come_from_the_user_then_the_checkpoint_then_the_bundle(tmp_path):
    checkpoint = checkpoint_of(tmp_path / "c.pt", bundle="landmark_pretraining", features=[8] * 5, working_pixdim=0.5)
    config = read_config(checkpoint, settings={"working_pixdim": 0.7, "pixdim": [0.1, 0.2]})
    assert (config["working_pixdim"], config["pixdim"]) == (0.7, [0.1, 0.2])
    assert config["features"] == [8] * 5
    assert config["batch_size"] == 8  # of the bundle


def test_a_checkpoint_of_a_bundle_elsewhere(tmp_path):
    """A file must not say which folder's configuration is run."""
    copy_bundle("landmark_pretraining", tmp_path / "mine")
    checkpoint = checkpoint_of(tmp_path / "c.pt", bundle=str(tmp_path / "mine"))
    with pytest.raises(ValueError, match="`bundle` must be one of"):
        read_config(checkpoint)
    assert read_config(checkpoint, tmp_path / "mine")["features"] == [32, 48, 64, 96, 128]


@pytest.mark.parametrize("overlay", [None, *MOVED.values()])
def test_the_overlay_that_a_checkpoint_names_is_read(tmp_path, overlay):
    checkpoint = checkpoint_of(tmp_path / "c.pt", bundle="segmentation", overlay=overlay, working_pixdim=1.5)
    files = [find_bundle("segmentation") / "configs" / f"{name}.json" for name in ("train", overlay) if name]
    expected = ConfigParser()
    expected.read_config(files)
    expected["working_pixdim"] = 1.5
    expected.get_parsed_content("imports")
    assert read_config(checkpoint).get() == expected.get()
    assert expected["settings"]["bundle"] == "segmentation"
    assert expected["settings"]["overlay"] == overlay


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"bundle": "segmentation", "overlay": "../evil"},
            "`overlay of .*` must be one of attention_guided, .*got '../evil'",
        ),
        ({"bundle": "landmark_pretraining", "overlay": "segmenter"}, "must be none, for .* has none, got 'segmenter'"),
        ({"bundle": "segmenter_segmentation"}, "`bundle` must be segmentation"),
        ({"colour": 1}, "`settings of .*` must be among those of the bundle: .*, got 'colour'"),
        ({"modality": "$print(1)"}, "`settings of .*` must be names with numbers"),
    ],
)
def test_checkpoints_that_say_what_is_not_there(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        read_config(checkpoint_of(tmp_path / "c.pt", **settings))


def test_a_bundle_by_its_name_or_folder_with_settings_of_ones_own(tmp_path):
    folder = copy_bundle("landmark_pretraining", tmp_path / "mine")
    for bundle in ("landmark_pretraining", folder):
        config = read_bundle(bundle, {"shares": None, "strengths": [1, 1, 1]})  # the bundle works out the latter
        assert (config["shares"], config["strengths"], config["batch_size"]) == (None, [1, 1, 1], 8)


def test_a_method_of_a_bundle():
    config = read_bundle("segmentation", {"pixels_per_image": 7}, "label_efficient")
    assert (config["pixels_per_image"], config["settings::overlay"]) == (7, "label_efficient")
    with pytest.raises(ValueError, match=r"`overlay` must be one of .*, got 'none'"):
        read_bundle("segmentation", overlay="none")


@pytest.mark.parametrize(
    ("bundle", "settings", "message"),
    [
        ("none", {}, "`bundle` must be one of"),
        ("segmentation", {"windows": 5}, "`settings` must be among .*, got 'windows': window may be meant"),
        ("segmentation", {"spatial": 5}, "`settings` must be among"),  # an object
        ("segmentation", {"window": "$print(1)"}, "must be names with numbers"),
    ],
)
def test_bundles_and_settings_that_are_not_there(bundle, settings, message):
    with pytest.raises(ValueError, match=message):
        read_bundle(bundle, settings)


def test_network_of_a_checkpoint(tmp_path):
    settings = {"bundle": "landmark_pretraining", "features": [4] * 5}
    config = read_config(checkpoint_of(tmp_path / "c.pt", **settings))
    state = config.get_parsed_content("network_def").state_dict()
    checkpoint = checkpoint_of(tmp_path / "c.pt", state, **settings)
    network = load_network(read_config(checkpoint), checkpoint)
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    other = checkpoint_of(tmp_path / "other.pt", bundle="segmentation")
    with pytest.raises(ValueError, match=r"other\.pt` must be a checkpoint of an embedding network .*of a BasicUNet"):
        load_network(read_config(other), other)
