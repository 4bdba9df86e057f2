from __future__ import annotations

import json
from importlib.util import find_spec

import numpy as np
import pytest
import SimpleITK as sitk
import torch

pytest.importorskip("ignite", reason="trainers need ignite")

from monai_infoaug.__main__ import main
from monai_infoaug.commands.pretrain import cases_of, guessed_modality, pair_transform, pretrain_network
from monai_infoaug.networks import NnunetPlan
from tests.networks.nnunet_plans import plan

has_networks = find_spec("dynamic_network_architectures") is not None
needs_networks = pytest.mark.skipif(not has_networks, reason="nnU-Net's networks: pip install monai_infoaug[nnunet]")


def write_volumes(folder, names, seed=0, size=(14, 18, 20)):
    folder.mkdir(exist_ok=True)
    generator = np.random.default_rng(seed)
    for name in names:
        image = sitk.GetImageFromArray(generator.integers(0, 255, size).astype(np.float32))
        image.SetSpacing((1.0, 1.5, 3.0))
        sitk.WriteImage(image, folder / f"{name}.nii.gz")
    return folder


@pytest.fixture
def plans(tmp_path):
    file = tmp_path / "nnUNetPlans.json"
    file.write_text(json.dumps(plan(order=(0, 1, 2), spacing=[3.0, 1.5, 1.0], patch_size=[8, 16, 12])))
    return file


@needs_networks
def test_two_commands_from_a_plan_to_the_weights(plans, tmp_path, capsys):
    images, out = write_volumes(tmp_path / "imagesTr", ["a_0000", "b_0000"]), tmp_path / "out"
    told = [
        "pretrain",
        str(images),
        "--plans",
        str(plans),
        "--out",
        str(out),
        "--iterations",
        "2",
        "--num-workers",
        "0",
    ]
    assert main([*told, "--epochs", "1"]) == 0
    checkpoint = torch.load(out / "checkpoint.pt", weights_only=True)
    assert checkpoint["trainer"]["epoch"] == 1
    assert main([*told, "--epochs", "2"]) == 0  # goes on
    assert f"Resumed from {out / 'checkpoint.pt'} after epoch 1" in capsys.readouterr().out
    assert main(["export", str(out / "checkpoint.pt"), "--to", "nnunet", "--plans", str(plans)]) == 0
    weights = torch.load(out / "nnunet.pth", weights_only=True)["network_weights"]
    trained = torch.load(out / "checkpoint.pt", weights_only=True)["network"]
    begun = checkpoint["network"]
    name = "encoder.stages.0.0.convs.0.conv.weight"
    assert not torch.equal(begun[f"backbone.{name}"], trained[f"backbone.{name}"])
    torch.testing.assert_close(weights[name], trained[f"backbone.{name}"].permute(0, 1, 4, 3, 2))


def test_pairs_are_standardised_patches_of_the_plan(tmp_path):
    own = NnunetPlan(plan(order=(0, 1, 2), spacing=[3.0, 1.5, 1.0], patch_size=[8, 16, 12]))
    images = write_volumes(tmp_path / "images", ["a"])
    item = {"image": str(images / "a.nii.gz")}
    pair = pair_transform(own, "mr").set_random_state(0)(item)
    for view in (pair["image_view1"], pair["image_view2"]):
        assert view.shape == (1, 12, 16, 8)
        torch.testing.assert_close(view.mean(), torch.zeros(()), atol=1e-5, rtol=0)
        torch.testing.assert_close(view.std(correction=0), torch.ones(()), atol=1e-5, rtol=0)
    assert pair["points_valid"].any()


@pytest.mark.parametrize("thin", [1.0, 2.0])
def test_slices_turn_in_their_plane_alone(thin, tmp_path):
    """Where they are thick, all points of one slice of view 1 lie in one slice of view 2."""
    own = NnunetPlan(plan(order=(0, 1, 2), spacing=[4.0 * thin, 2.0, 2.0], patch_size=[8, 24, 24]))
    image = sitk.GetImageFromArray(np.random.default_rng(0).normal(size=(12, 40, 40)).astype(np.float32))
    image.SetSpacing((2.0, 2.0, 4.0 * thin))
    sitk.WriteImage(image, tmp_path / "a.nii.gz")
    pair = pair_transform(own, "mr").set_random_state(0)({"image": str(tmp_path / "a.nii.gz")})
    first, second = (pair[f"points_view{view}"][pair["points_valid"], 2].numpy() for view in (1, 2))
    assert len(first) > 100
    beside = np.abs(np.polyval(np.polyfit(first, second, 1), first) - second).max()
    assert (beside < 0.1) == (thin == 2.0)


def test_channels_of_a_case_belong_together(tmp_path):
    own = NnunetPlan(plan(channels=2))
    folder = write_volumes(tmp_path / "images", ["b_0000", "a_0001", "a_0000", "b_0001"], size=(14, 20, 40))
    items = cases_of(sorted(folder.iterdir()), own)
    names = [[path.rpartition("/")[2] for path in item["image"]] for item in items]
    assert names == [["a_0000.nii.gz", "a_0001.nii.gz"], ["b_0000.nii.gz", "b_0001.nii.gz"]]
    pair = pair_transform(own, "mr").set_random_state(0)(items[0])
    assert pair["image_view1"].shape[0] == 2


@pytest.mark.parametrize(
    ("scheme", "dims", "modality"),
    [
        ("CTNormalization", 3, "ct"),
        ("ZScoreNormalization", 3, "mr"),
        ("ZScoreNormalization", 2, "xray"),
        ("RGBTo01Normalization", 2, "rgb"),
    ],
)
def test_modality_by_the_normalisation(scheme, dims, modality):
    content = plan(dims, (0, 1, 2), normalization_schemes=[scheme])
    assert guessed_modality(NnunetPlan(content, "3d_fullres" if dims == 3 else "2d")) == modality


@pytest.mark.parametrize(
    ("own", "error"),
    [
        ({"epochs": 0}, "`epochs` must be a whole number of at least 1"),
        ({"iterations": 0}, "`iterations` must be"),
        ({"batch_size": 0}, "`batch_size` must be"),
        ({"num_workers": -1}, "`num_workers` must be"),
        ({"learning_rate": 0}, "`learning_rate` must be a number above 0"),
        ({"seed": -1}, "`seed` must be"),
        ({"device": "abacus"}, "`device` must be"),
        ({"configuration": "2d"}, "`configuration` must be one of 3d_fullres, got '2d'"),
        ({"modality": "sound"}, "`modality` must be one of"),
        ({"images": ["lost"]}, "`images` must be files and folders"),
    ],
)
def test_bad_arguments(own, error, plans, tmp_path):
    images = write_volumes(tmp_path / "images", ["a_0000"])
    with pytest.raises(ValueError, match=error):
        pretrain_network(**{"images": [images], "plans": plans, "out": tmp_path / "out"} | own)
    assert not (tmp_path / "out").exists()


def test_images_that_do_not_go_with_the_plan(tmp_path):
    folder = write_volumes(tmp_path / "images", ["a_0000", "a_0001", "a_0002"])
    paths = sorted(folder.iterdir())
    with pytest.raises(ValueError, match=r"`images` must be one file a case, or 2, one a channel, got 3 files of a"):
        cases_of(paths, NnunetPlan(plan(channels=2)))
    with pytest.raises(ValueError, match=r"of 1 channels|got .*1 channels"):
        cases_of(paths[:1], NnunetPlan(plan(channels=2)))
    with pytest.raises(ValueError, match="of 2 axes"):
        cases_of(paths[:1], NnunetPlan(plan(2, (0, 1, 2)), "2d"))


@pytest.mark.skipif(has_networks, reason="the package is there")
def test_a_missing_package_is_named(plans, tmp_path, capsys):
    assert main(["pretrain", str(tmp_path), "--plans", str(plans)]) == 2
    assert "pip install monai_infoaug[nnunet]" in capsys.readouterr().err
