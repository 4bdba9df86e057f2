"""What bundles take and refuse before they begin, and how they are read."""

from __future__ import annotations

import json
import subprocess
import sys
from inspect import signature
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.bundle import ConfigParser, load

from monai_infoaug._require import reason
from monai_infoaug.bundles import bundle_overlays, copy_bundle, describe_bundles, find_bundle, require_settings
from tests.bundles.checkpoints import checkpoint_of


def bundle_of(name: str, *names: str, **settings):
    """A workflow of a bundle that nothing has been read of yet."""
    pytest.importorskip("ignite", reason="bundles need ignite")
    from tests.examples.bundle_runs import workflow

    return workflow(name, *(names or ["train"]), **settings)


def refused(flow) -> str:
    from tests.examples.bundle_runs import fault

    with pytest.raises((ValueError, RuntimeError)) as caught:
        flow.initialize()
    return fault(caught.value)


@pytest.mark.parametrize("then", [[], ["evaluate"], ["inference"]])
@pytest.mark.parametrize(
    ("name", "overlay"),
    [(name, overlay) for name in describe_bundles() for overlay in (None, *bundle_overlays(find_bundle(name)))],
)
def test_bundles_take_their_own_settings_and_touch_no_data(tmp_path, name, overlay, then):
    names = [each for each in ("train", overlay, *then) if each]
    given = {"bundle_root": "nowhere", "output_dir": str(tmp_path), "seed": 1, "num_workers": 0}
    bundle_of(name, *names, **given).initialize()
    assert not list(tmp_path.iterdir())
    with_typo = bundle_of(name, *names, **given, working_pixdims=2)
    assert "got 'working_pixdims': working_pixdim may be meant" in refused(with_typo)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lerning_rate": 0.1}, "got 'lerning_rate': learning_rate may be meant."),
        ({"part": "test"}, "`settings` must be among those of the bundle"),  # of the evaluation
        ({"batch_size": 2.5}, "`batch_size` must be a whole number of at least 1, got 2.5."),
        ({"batch_size": "2"}, "`batch_size` must be a whole number of at least 1, got '2'."),
        ({"max_epochs": 0}, "`max_epochs` must be a whole number of at least 1, got 0."),
        ({"num_workers": -1}, "`num_workers` must be a whole number of at least 0, got -1."),
        ({"val_images": 0.5}, "`val_images` must be a whole number of at least 1, or None, got 0.5."),
        ({"learning_rate": float("nan")}, "`learning_rate` must be a number of at least 0, got nan."),
        ({"working_pixdim": 0}, "`working_pixdim` must be a number above 0, got 0."),
        ({"working_pixdim": -2}, "`working_pixdim` must be a number above 0, got -2."),
        ({"working_pixdim": float("nan")}, "`working_pixdim` must be a number above 0, got nan."),
        ({"pixdim": [1, 0]}, "`pixdim` must be numbers above 0: one, or one an axis, or None, got [1, 0]."),
        ({"roi_size": [64, 0]}, "`roi_size` must be one or more whole numbers of at least 1, got [64, 0]."),
        ({"classes": "heart"}, "`classes` must be one or more different names, got 'heart'."),
        ({"classes": ["heart", "heart"]}, "`classes` must be one or more different names"),
        ({"spatial_dims": 4}, "`spatial_dims` must be 2 or 3, got 4."),
        ({"tier_intensity": "no"}, "`tier_intensity` must be true or false, got 'no'."),
    ],
)
def test_settings_that_a_bundle_refuses(tmp_path, settings, message):
    assert message in refused(bundle_of("segmentation", output_dir=str(tmp_path), **settings))


@pytest.mark.parametrize(("bits", "dims"), [(np.int64(2), np.int64(2)), (2, 3)])
def test_settings_of_any_whole_number_type(tmp_path, bits, dims):
    bundle_of("segmentation", output_dir=str(tmp_path), batch_size=bits, spatial_dims=dims).initialize()


@pytest.mark.parametrize(
    ("made_from", "message"),
    [
        ({"modality": "xray", "working_pixdim": 1.0}, ""),
        ({"modality": None, "working_pixdim": None, "pixdim": [1.0, 1.0]}, ""),
        ({}, ""),
        ({"modality": "ct"}, "json of modality ct."),
        ({"modality": "xray", "working_pixdim": 0.5}, "json of working_pixdim 0.5."),
        ({"modality": "xray", "working_pixdim": None, "pixdim": [1.0, 2.0]}, "json of working_pixdim [1.0, 2.0]."),
    ],
)
def test_a_calibration_is_of_such_images(tmp_path, made_from, message):
    (tmp_path / "c.json").write_text(json.dumps({"made_from": made_from}))
    flow = bundle_of("landmark_pretraining", output_dir=str(tmp_path), calibration=str(tmp_path / "c.json"))
    if message:
        assert message in refused(flow)
    else:
        flow.initialize()


def test_an_evaluation_goes_by_its_training(tmp_path):
    kept = {"modality": "xray", "working_pixdim": 0.5, "classes": ["heart"], "spatial_dims": 2}
    for method, network in ((None, "BasicUNet"), ("segmenter", "Segmenter")):
        pytest.importorskip("einops", reason="a Segmenter needs the extra train")
        more = {"patch_size": 8, "hidden_size": 12, "num_layers": 1, "roi_size": [32, 32]} if method else {}
        checkpoint = str(checkpoint_of(tmp_path / "c.pt", bundle="segmentation", overlay=method, **kept, **more))
        for names in (["inference"], ["train", "inference"], ["train", "evaluate"]):
            flow = bundle_of("segmentation", *names, kind="infer", checkpoint=checkpoint, output_dir=str(tmp_path))
            flow.initialize()
            assert {name: flow.parser[name] for name in kept} == kept
            assert type(flow.parser.get_parsed_content("network_def")).__name__ == network
    flow = bundle_of("segmentation", "inference", checkpoint=checkpoint, pixdim=2.0, modality="ct")
    with pytest.warns(UserWarning, match=r'`modality` is "ct", but .*c\.pt was trained with "xray"'):
        flow.initialize()
    assert flow.parser["modality"] == "ct"


def test_a_checkpoint_does_not_say_which_file_is_read(tmp_path):
    (tmp_path / "evil.json").write_text('{"network_def": "$1 / 0"}')
    evil = checkpoint_of(tmp_path / "c.pt", bundle="segmentation", overlay=str(tmp_path / "evil"))
    flow = bundle_of("segmentation", "inference", checkpoint=str(evil), output_dir=str(tmp_path))
    flow.initialize()
    assert type(flow.parser.get_parsed_content("network_def")).__name__ == "BasicUNet"


@pytest.mark.parametrize("name", describe_bundles())
def test_inference_stands_alone_and_is_of_the_training(tmp_path, name):
    train, inference = (
        json.loads((find_bundle(name) / "configs" / f"{each}.json").read_text()) for each in ("train", "inference")
    )
    own = {"imports", "initialize", "run", "finalize", "inferer"}  # what it does
    if "embedding_net" in inference:  # what the metadata speak of gives one tensor, and is made of it
        own |= {"network_def", "network"}
        assert inference["embedding_net"] == train["network_def"]
    assert [key for key in train.keys() & inference.keys() - own if train[key] != inference[key]] == []
    flow = bundle_of(name, "inference", kind="infer", output_dir=str(tmp_path))
    flow.initialize()
    found = [key for key in ("preprocessing", "postprocessing", "inferer") if key in inference]
    if "template" in inference:  # matching begins with it
        with pytest.raises(RuntimeError) as caught:
            flow.inferer  # noqa: B018
        assert reason(caught.value).startswith(
            "`images` must be a folder or an image file, got '/workspace/data/template."
        )
        found.remove("inferer")
    assert all(callable(getattr(flow, key)) for key in found)
    assert isinstance(flow.network_def, torch.nn.Module)
    version = json.loads((find_bundle(name) / "configs" / "metadata.json").read_text())["version"]
    assert (flow.bundle_root, flow.device.type in ("cpu", "cuda"), flow.version) == (".", True, version)
    assert {"bundle_root", "device", "inferer", "preprocessing", "dataset", "evaluator"} <= inference.keys()


@pytest.mark.parametrize("name", describe_bundles())
def test_parts_of_a_workflow_can_be_replaced(tmp_path, name):
    """As MONAI's applications do; what the replaced part had as its settings is then without use."""
    flow = bundle_of(name, "inference", kind="infer", output_dir=str(tmp_path))
    flow.initialize()
    network = flow.network_def
    flow.network_def, flow.device, flow.dataset_dir = network, torch.device("cpu"), str(tmp_path)
    flow.initialize()
    assert flow.network_def is network
    assert flow.dataset_dir == str(tmp_path)
    assert callable(flow.preprocessing)


@pytest.mark.parametrize("name", describe_bundles())
def test_evaluation_alone_is_refused(tmp_path, name):
    message = "`config_file` must be configs/train.json, and then what goes on top of it, got one without"
    assert message in refused(bundle_of(name, "evaluate", kind="infer", output_dir=str(tmp_path)))


@pytest.mark.filterwarnings("ignore:parsing config_file:UserWarning")
@pytest.mark.parametrize("workflow", ["train", "inference"])
@pytest.mark.parametrize("name", describe_bundles())
def test_monai_loads_the_network_of_a_bundle(tmp_path, name, workflow):
    pytest.importorskip("ignite", reason="bundles need ignite")
    copy_bundle(name, tmp_path / name)
    config = ConfigParser(ConfigParser.load_config_file(tmp_path / name / "configs" / f"{workflow}.json"))
    network = config.get_parsed_content("network_def")
    (tmp_path / name / "models").mkdir()
    torch.save({"network": network.state_dict()}, tmp_path / name / "models" / "model.pt")
    old = "return_state_dict" in signature(load).parameters  # as in MONAI 1.4, which gives the weights alone
    network_itself = {"return_state_dict": False} if old else {}
    where = {"bundle_dir": str(tmp_path), "workflow_type": workflow, "device": "cpu"}
    loaded = load(name, key_in_ckpt="network", **where, **network_itself)
    assert type(loaded) is type(network)
    assert all(torch.equal(loaded.state_dict()[key], value) for key, value in network.state_dict().items())


@pytest.mark.slow
def test_a_bundle_ends_with_the_line_that_says_what_is_wrong(tmp_path):
    pytest.importorskip("fire", reason="the command line of bundles needs fire")
    pytest.importorskip("ignite", reason="bundles need ignite")
    config = find_bundle("landmark_pretraining") / "configs" / "train.json"
    words = ["-m", "monai.bundle", "run", "--config_file", str(config), "--output_dir", str(tmp_path / "o")]
    ended = subprocess.run([sys.executable, *words, "--bach_size", "4"], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert ended.stderr.splitlines()[-1].endswith("got 'bach_size': batch_size may be meant.")


def picture(path: Path, *channels: int) -> str:
    sitk.WriteImage(sitk.GetImageFromArray(np.full((9, 9, *channels), 7, np.uint8), bool(channels)), path)
    return str(path)


def test_photographs_want_three_channels(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(np.arange(243, dtype=np.uint8).reshape(9, 9, 3), True), tmp_path / "1.png")
    settings = {"dataset_dir": str(tmp_path), "output_dir": str(tmp_path / "o"), "pixdim": 1}
    bundle_of("landmark_pretraining", **settings, modality="rgb", in_channels=3).initialize()
    said = refused(bundle_of("landmark_pretraining", **settings, modality="rgb"))
    assert "`in_channels` must be 3 for modality 'rgb', got 1." in said
    said = refused(bundle_of("landmark_pretraining", **settings))
    assert f"`data` must be of 1 channels, which `in_channels` says, got '{tmp_path}/1.png' of 3 channels." in said


def test_overlapping_classes_have_a_bit_each(tmp_path):
    settings = {"output_dir": str(tmp_path), "label_bits": [1, 2, 4]}
    said = refused(bundle_of("segmentation", **settings, classes=["rim", "cup"]))
    assert "`label_bits` must be one bit for each of the 2 classes, or None, got [1, 2, 4]." in said
    bundle_of("segmentation", **settings, classes=["a", "b", "c"]).initialize()


@pytest.mark.parametrize("given", [{}, {"pixdim": 1}])
def test_pictures_without_pixdim_are_refused_before_a_bundle_begins(tmp_path, given):
    places = {"dataset_dir": str(tmp_path), "output_dir": str(tmp_path / "o")}
    (tmp_path / "pictures").mkdir()
    picture(tmp_path / "pictures" / "0.png")  # of the images, not one of them
    bundle_of("landmark_pretraining", **places).initialize()
    picture(tmp_path / "1.PNG")
    flow = bundle_of("landmark_pretraining", **places, **given)
    if given:
        flow.initialize()
    else:
        assert "`pixdim` must be given, 1 for pixels" in refused(flow)


def test_files_that_a_run_would_end_at_are_refused_before_it_begins(tmp_path):
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    places = {f"{name}_dir": str(tmp_path / folder) for name, folder in (("dataset", "images"), ("labels", "labels"))}
    settings = {**places, "output_dir": str(tmp_path / "o"), "pixdim": 1, "spatial_dims": 2}
    for name in "abc":
        for folder in ("images", "labels"):
            picture(tmp_path / folder / f"{name}.png")
    (tmp_path / "labels" / "of nobody.png").write_bytes(b"broken")
    bundle_of("segmentation", **settings).initialize()
    message = f"`data` must be of 3 axes, got '{tmp_path}/images/a.png' and 5 more of 2 axes."
    assert message in refused(bundle_of("segmentation", **settings | {"spatial_dims": 3}))
    picture(tmp_path / "labels" / "b.png", 3)
    bundle_of("segmentation", **settings).initialize()  # which may be grey in three channels
    message = f"of 4 channels, which `in_channels` says, got '{tmp_path}/images/a.png' and 2 more of 1 channels."
    assert message in refused(bundle_of("segmentation", **settings, in_channels=4))
    (tmp_path / "images" / "c.png").write_bytes((tmp_path / "images" / "a.png").read_bytes()[:-9])
    assert f"got '{tmp_path}/images/c.png': it is cut off." in refused(bundle_of("segmentation", **settings))
    (tmp_path / "labels" / "c.png").unlink()
    bundle_of("segmentation", **settings).initialize()  # it has no use for an image without label


def test_settings_are_required_within_a_configuration():
    with pytest.raises(RuntimeError, match="`require_settings` must be called by an expression of a bundle's"):
        require_settings()
