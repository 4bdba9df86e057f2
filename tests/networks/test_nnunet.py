from __future__ import annotations

import copy
import json
import sys

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.transforms import LoadImage

from monai_infoaug.data import SimpleITKReader
from monai_infoaug.networks import NnunetPlan
from tests.networks.nnunet_plans import plan

ORDERS = [(0, 1, 2), (1, 0, 2), (2, 0, 1)]
NETWORKS = ("PlainConvUNet", "ResidualEncoderUNet")


@pytest.fixture
def unet():
    return pytest.importorskip("dynamic_network_architectures.architectures.unet", reason="needs the extra nnunet")


def of_nnunet(unet, content: dict, name: str) -> torch.nn.Module:
    """The plan's network as nnU-Net builds it."""
    architecture = content["configurations"][name]["architecture"]
    arguments = architecture["arch_kwargs"]
    arguments = arguments | {
        key: arguments[key] and getattr(torch.nn, arguments[key].rpartition(".")[2])
        for key in architecture["_kw_requires_import"]
    }
    kind = getattr(unet, architecture["network_class_name"].rpartition(".")[2])
    return kind(input_channels=1, num_classes=5, **arguments)


def outputs_of(network: torch.nn.Module, layers: list[str], image: torch.Tensor) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    for layer in layers:
        network.get_submodule(layer).register_forward_hook(lambda _, __, output: found.append(output.clone()))
    network(image)
    return found


@pytest.mark.parametrize("order", ORDERS)
def test_axes_are_those_of_a_file_that_both_read(order, tmp_path):
    array = np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((0.5, 0.7, 0.9))
    sitk.WriteImage(image, tmp_path / "a.nii.gz")
    # what nnU-Net's reader and preprocessor do
    read = sitk.ReadImage(tmp_path / "a.nii.gz")
    theirs = sitk.GetArrayFromImage(read).transpose(order)
    spacing = [read.GetSpacing()[::-1][axis] for axis in order]
    own = NnunetPlan(plan(order=order, spacing=spacing, patch_size=list(theirs.shape)))
    ours = LoadImage(reader=SimpleITKReader())(tmp_path / "a.nii.gz")
    assert own.patch_size == tuple(ours.shape)
    np.testing.assert_allclose(own.spacing, ours.pixdim, rtol=1e-6)
    np.testing.assert_array_equal(ours.permute(own.axes).numpy(), theirs)


def test_a_picture_has_its_axes_reversed():
    own = NnunetPlan(plan(2, (0, 1, 2), spacing=[1.0, 2.0]), "2d")
    assert (own.spacing, own.patch_size, own.axes) == ((2.0, 1.0), (16, 12), (1, 0))


def test_a_configuration_inherits_and_is_read_again_from_its_text(tmp_path):
    content = plan()
    content["configurations"]["small"] = {"inherits_from": "3d_fullres", "batch_size": 7}
    file = tmp_path / "nnUNetPlans.json"
    file.write_text(json.dumps(content))
    own = NnunetPlan(file, "small")
    assert (own.batch_size, own.schemes) == (7, ("ZScoreNormalization",))
    again = NnunetPlan(json.loads(own.as_text()), "small")
    assert vars(again) | {"_found": 0} == vars(own) | {"_found": 0}
    assert again.as_text() == own.as_text()


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("order", ORDERS)
def test_weights_are_those_of_the_same_network_on_nnunets_axes(unet, order, network):
    content = plan(order=order, network=network)
    own = NnunetPlan(content)
    ours, theirs = own.network(), of_nnunet(unet, content, "3d_fullres")
    weights = own.weights(ours)
    assert set(theirs.state_dict()) - set(weights) == {n for n in theirs.state_dict() if ".seg_layers." in n}
    theirs.load_state_dict(theirs.state_dict() | weights, strict=True)
    first = "encoder.stages.0" if network == "PlainConvUNet" else "encoder.stem"
    layers = [first, "encoder.stages.2", "decoder.stages.1"]
    image = torch.rand(2, 1, *(2 * side for side in own.patch_size))
    order_of_maps = (0, 1, *(2 + axis for axis in own.axes))
    got = outputs_of(theirs, layers, image.permute(order_of_maps))
    for mine, other in zip(outputs_of(ours, layers, image), got, strict=True):
        torch.testing.assert_close(mine.permute(order_of_maps), other, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("dims", "strides"), [(3, (1,)), (2, (1, 2))])
def test_heads_train_all_but_the_layers_that_segment(unet, dims, strides):
    """In 3D here, no decoder stage but the finest has one stride for all axes."""
    own = NnunetPlan(plan(dims, (0, 1, 2)), "3d_fullres" if dims == 3 else "2d")
    network = own.embedding_network(embedding_dim=5)
    assert network.strides == strides
    levels = network(torch.rand(1, 1, *(2 * side for side in own.patch_size)))
    sum(level[:, 0].sum() for level in levels).backward()
    idle = {name for name, weight in network.named_parameters() if weight.grad is None}
    assert idle == {name for name, _ in network.named_parameters() if ".seg_layers." in name} != set()


def test_nnunet_loads_the_weights_and_trains_a_step(unet, tmp_path, monkeypatch):
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path))
    monkeypatch.setenv("nnUNet_compile", "f")
    reason = "nnU-Net itself takes the weights: pip install nnunetv2"
    loading = pytest.importorskip("nnunetv2.run.load_pretrained_weights", reason=reason)
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    content = plan(order=(1, 0, 2), patch_size=[8, 16, 16])
    content |= {"dataset_name": "Dataset001_A", "plans_name": "nnUNetPlans", "image_reader_writer": "SimpleITKIO"}
    own = NnunetPlan(content)
    file = tmp_path / "nnunet.pth"
    pretrained = own.network()
    torch.save({"network_weights": own.weights(pretrained)}, file)
    about = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "a": 1}, "file_ending": ".nii.gz"}
    cases = tmp_path / "Dataset001_A" / "nnUNetPlans_3d_fullres"
    cases.mkdir(parents=True)
    (cases / "a.b2nd").touch()  # it looks which kind of files there are
    told = copy.deepcopy(content) | {"continue_training": False}
    trainer = nnUNetTrainer(told, "3d_fullres", 0, about, device=torch.device("cpu"))
    trainer.initialize()
    loading.load_pretrained_weights(trainer.network, file)
    image = torch.rand(2, 1, *content["configurations"]["3d_fullres"]["patch_size"])
    first, before = "encoder.stages.0", copy.deepcopy(trainer.network.state_dict())
    image_of_ours = image.permute(0, 1, *(2 + own.axes.index(axis) for axis in range(3)))
    (ours,), (theirs,) = outputs_of(pretrained, [first], image_of_ours), outputs_of(trainer.network, [first], image)
    torch.testing.assert_close(ours.permute(0, 1, *(2 + axis for axis in own.axes)), theirs, atol=1e-5, rtol=0)
    label = (image > 0.5).float()
    scales = trainer._get_deep_supervision_scales()
    target = [torch.nn.functional.interpolate(label, scale_factor=tuple(scale)) for scale in scales]
    assert np.isfinite(trainer.train_step({"data": image, "target": target})["loss"])
    after, name = trainer.network.state_dict(), f"{first}.0.convs.0.conv.weight"
    assert not torch.equal(after[name], before[name])


def changed(content: dict, *keys: str, **values) -> dict:
    """A copy of a plan whose configuration says something else, within ``keys`` of it."""
    content = copy.deepcopy(content)
    place = content["configurations"]["3d_fullres"]
    for key in keys:
        place = place[key]
    place.update(values)
    return content


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ({"plans_per_stage": {}}, r"`plans` must be a plan of nnU-Net 2, with `configurations`, got one with \['plans"),
        (plan() | {"transpose_forward": [0, 1]}, r"`transpose_forward` \[0, 1\]"),
        (plan(2), "`configuration` must be one of 2d, got '3d_fullres'"),
        (plan(inherits_from="lost"), "`configuration` must be one of 3d_fullres, got 'lost'"),
        (plan(inherits_from="3d_fullres"), "`configuration` must be one of"),
        (plan(previous_stage="3d_lowres"), "`configuration` must be one that does not need the result of another"),
        (plan(patch_size=[8, 8, 8, 8]), "`patch_size`"),
        (plan(spacing=[1, 0, 1]), "`spacing`"),
        (plan(normalization_schemes=[]), "`normalization_schemes`"),
        (plan(architecture=None), "plan again with a current nnU-Net"),
        (changed(plan(), "architecture", network_class_name="a.b.Primus"), "PlainConvUNet or ResidualEncoderUNet"),
        (changed(plan(), "architecture", "arch_kwargs", strides=[[1, 1]]), "`strides`"),
    ],
)
def test_bad_input(content, error):
    with pytest.raises(ValueError, match=error):
        NnunetPlan(content)


@pytest.mark.parametrize("content", [b"\x80\x04K\x01.", b"{", None])
def test_a_file_that_is_no_plan(content, tmp_path):
    file = tmp_path / "plans.pkl"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ValueError, match=r"`plans` must be a readable JSON file, .* got '.*plans\.pkl'"):
        NnunetPlan(file)


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"nonlin": "os.system"}, r"layers of torch\.nn, got a layer os\.system"),
        ({"nonlin": "torch.nn.functional"}, r"layers of torch\.nn"),
        ({"depth": 3}, "a plan of a PlainConvUNet, got arguments of another one: .*depth"),
        ({"features_per_stage": [4, 4]}, "got arguments of another one"),
    ],
)
def test_arguments_that_the_network_does_not_take(unet, values, error):
    with pytest.raises(ValueError, match=error):
        NnunetPlan(changed(plan(), "architecture", "arch_kwargs", **values)).network()


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "dynamic_network_architectures.architectures", None)
    with pytest.raises(ImportError, match=r"pip install monai_infoaug\[nnunet\]"):
        NnunetPlan(plan()).network()
