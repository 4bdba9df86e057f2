from __future__ import annotations

import copy
import json
import re
from importlib.util import find_spec
from inspect import signature
from pathlib import Path

import pytest
import torch
from monai.data import list_data_collate
from monai.networks.nets import BasicUNet, DynUNet, SegResNet, SwinUNETR, UNet, ViT

from monai_infoaug.__main__ import main
from monai_infoaug.commands.export import export_weights
from monai_infoaug.networks import EmbeddingHeads, NnunetPlan, PixelEmbeddingNet
from monai_infoaug.transforms import RandPairedViewsd
from tests.networks.nnunet_plans import plan

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "network.md"
needs_networks = pytest.mark.skipif(
    find_spec("dynamic_network_architectures") is None,
    reason="nnU-Net's networks: pip install monai_infoaug[nnunet]",
)


SIZE = {"img_size": (64, 64)} if next(iter(signature(SwinUNETR).parameters)) == "img_size" else {}  # of MONAI 1.4


def unet():
    return BasicUNet(2, features=(4, 4, 4, 4, 8, 4))


# network, layers that are embedded, their strides, what contrast leaves untrained
NETWORKS = {
    "UNet": (lambda: UNet(2, 1, 2, (4, 8, 8), (2, 2), num_res_units=2, norm="batch"), ("model.1",), (2,), ("model.2",)),
    "SegResNet": (lambda: SegResNet(2, 8), ("up_layers.0", "up_layers.2"), (1, 4), ("conv_final",)),
    "DynUNet": (
        lambda: DynUNet(2, 1, 2, [3] * 4, [1, 2, 2, 2], [2] * 3, [4, 4, 8, 8]),
        ("upsamples.0", "upsamples.2"),
        (1, 4),
        ("output_block",),
    ),
    "SwinUNETR": (
        lambda: SwinUNETR(in_channels=1, out_channels=2, feature_size=12, spatial_dims=2, **SIZE),
        ("decoder3", "decoder1"),
        (1, 4),
        ("out",),
    ),
    "ViT": (
        lambda: ViT(1, (64, 64), (8, 8), 24, 32, 2, 2, classification=True, spatial_dims=2),
        ("norm",),
        (8,),
        ("classification_head",),
    ),
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_networks_of_monai_are_pretrained_and_go_on(kind, tmp_path):
    """The table of docs/howto/network.md: the weights load strictly, give the same features, and can be trained."""
    pytest.importorskip("ignite", reason="trainers need ignite")
    if kind in ("SwinUNETR", "ViT"):
        pytest.importorskip("einops", reason=f"MONAI's {kind} needs einops")
    from monai_infoaug.engines import PixelContrastiveTrainer

    make, layers, strides, untrained = NETWORKS[kind]
    torch.manual_seed(0)
    heads = EmbeddingHeads(make(), layers, 8, spatial_size=(64, 64))
    assert heads.strides == strides
    before = copy.deepcopy(heads.backbone.state_dict())
    pairs = RandPairedViewsd("image", num_points=32, outputs=(), track_meta=False).set_random_state(0)
    batch = list_data_collate([pairs({"image": torch.rand(1, 64, 64)}) for _ in range(2)])
    optimizer = torch.optim.SGD(heads.parameters(), lr=0.1)
    PixelContrastiveTrainer("cpu", 1, [batch], heads, optimizer).run()
    after = heads.backbone.state_dict()
    idle = {name for name, weight in heads.backbone.named_parameters() if weight.grad is None}
    idle = {name for name in idle if "cross_attn" not in name}  # which a transformer of one input has, but never uses
    assert {name for name in after if name.startswith(untrained)} - {*dict(heads.backbone.named_buffers())} == idle
    assert any(not torch.equal(after[name], before[name]) for name in after)

    network = make()
    file = export_weights(save(tmp_path, heads), "monai")
    network.load_state_dict(torch.load(file, weights_only=True), strict=True)
    first = next(name for name, module in network.named_modules() if isinstance(module, torch.nn.Conv2d))
    seen = []
    for each in (heads.backbone, network):
        handle = each.get_submodule(first).register_forward_hook(lambda _, __, output: seen.append(output.detach()))
        output = each.train()(batch["image_view1"])
        handle.remove()
    torch.testing.assert_close(*seen, atol=1e-5, rtol=0)
    output = output[0] if isinstance(output, tuple) else output
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    torch.nn.functional.cross_entropy(output, torch.zeros_like(output[:, 0], dtype=torch.long)).backward()
    optimizer.step()
    assert all(weight.isfinite().all() for weight in network.parameters())
    assert not torch.equal(network.get_submodule(first).weight, heads.backbone.get_submodule(first).weight)


@pytest.mark.skipif(not PAGE.exists(), reason="not in a checkout")
def test_the_table_of_the_docs():
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]
    assert len(rows) == len(NETWORKS) + 1  # with the header
    for kind, (_, layers, _, untrained) in NETWORKS.items():
        (row,) = [row for row in rows if row[0].startswith(f"`{kind}`")]
        assert re.findall(r"`([\w.]+)`", row[1]) == [*layers]
        assert re.findall(r"`([\w.]+)`", row[-1]) == [*untrained]


def save(folder, network, **settings):
    file = folder / "checkpoint.pt"
    torch.save({"network": network.state_dict(), "settings": settings, "trainer": {"epoch": 1}}, file)
    return file


def test_a_network_of_monai_gets_its_weights(tmp_path, capsys):
    heads = EmbeddingHeads(unet(), ("upcat_1", "upcat_3"), 8, spatial_size=(32, 32))
    assert main(["export", str(save(tmp_path, heads)), "--to", "monai"]) == 0
    assert capsys.readouterr().out.endswith(f"Wrote {tmp_path / 'monai.pt'}.\n")
    network = unet()
    network.load_state_dict(torch.load(tmp_path / "monai.pt", weights_only=True), strict=True)
    image = torch.rand(1, 1, 32, 32)
    torch.testing.assert_close(network.eval()(image), heads.backbone.eval()(image), atol=1e-5, rtol=0)


@needs_networks
def test_a_plan_may_be_given_that_the_checkpoint_does_not_say(tmp_path):
    content = plan()
    (tmp_path / "plans.json").write_text(json.dumps(content))
    heads = NnunetPlan(content).embedding_network(4)
    file = export_weights(save(tmp_path, heads), "nnunet", tmp_path / "new" / "w.pth", tmp_path / "plans.json")
    found, expected = (
        torch.load(file, weights_only=True)["network_weights"],
        NnunetPlan(content).weights(heads.backbone),
    )
    assert found.keys() == expected.keys()
    assert all(torch.equal(weight, expected[name]) for name, weight in found.items())
    assert file.stat().st_size < 2 * sum(weight.nbytes for weight in heads.parameters()) + 60_000  # each weight once
    with pytest.raises(ValueError, match="`plans` must be the plan that nnU-Net will train by, got none"):
        export_weights(tmp_path / "checkpoint.pt", "nnunet")


@needs_networks
@pytest.mark.parametrize(
    ("other", "error"),
    [
        ({"order": (0, 1, 2)}, r"`plans` must be the network of 3d_fullres that .* got .*another network"),
        ({"network": "ResidualEncoderUNet"}, "another network"),
        ({"channels": 2}, "another network"),
    ],
)
@pytest.mark.parametrize("is_kept", [True, False])
def test_another_plan(other, error, is_kept, tmp_path):
    own = NnunetPlan(plan())
    settings = {"plans": own.as_text(), "configuration": "3d_fullres"} if is_kept else {}
    file = save(tmp_path, own.embedding_network(4), **settings)
    (tmp_path / "plans.json").write_text(json.dumps(plan(**other)))
    with pytest.raises(ValueError, match=error if is_kept else r"a checkpoint of this (Plain|Residual)"):
        export_weights(file, "nnunet", plans=tmp_path / "plans.json")
    assert not (tmp_path / "nnunet.pth").exists()


@needs_networks
def test_a_checkpoint_of_another_network(tmp_path):
    heads = EmbeddingHeads(SegResNet(2, 8), "up_layers.2", 4, spatial_size=(32, 32))
    (tmp_path / "plans.json").write_text(json.dumps(plan()))
    with pytest.raises(ValueError, match="must be a checkpoint of this PlainConvUNet, got a checkpoint of another one"):
        export_weights(save(tmp_path, heads), "nnunet", plans=tmp_path / "plans.json")


def test_bad_input(tmp_path):
    file = save(tmp_path, PixelEmbeddingNet(features=(4, 4, 4, 4, 4)))
    with pytest.raises(ValueError, match="a checkpoint of a network with EmbeddingHeads"):
        export_weights(file, "monai")
    with pytest.raises(ValueError, match="`to` must be one of"):
        export_weights(file, "keras")
    with pytest.raises(ValueError, match="`plans` must be left out unless for nnunet"):
        export_weights(file, "monai", plans="nnUNetPlans.json")
    with pytest.raises(ValueError, match=r"`out` must be a new file, got '.*checkpoint.pt', which exists"):
        export_weights(file, "monai", file)
    (tmp_path / "other").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="must be a readable checkpoint"):
        export_weights(tmp_path / "other", "monai")
