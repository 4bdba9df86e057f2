"""Segmenter against plain functions on weights with the published names, and its published sizes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from torch.nn import functional as F

pytest.importorskip("einops", reason="MONAI's transformer blocks need einops")
from monai.inferers import sliding_window_inference
from monai.losses import DiceCELoss

from monai_infoaug.losses import PixelSupConLoss
from monai_infoaug.networks import EmbeddingHeads, Segmenter
from tests.versions import needs_export, onnx_session

JSRT = Path(__file__).parents[3] / "shared" / "data" / "jsrt"
F_, HEADS, LAYERS, PATCH, SIDE, CLASSES = 12, 3, 3, 4, 5, 7
LIKE = {
    "img_size": SIDE * PATCH,
    "patch_size": PATCH,
    "hidden_size": F_,
    "num_layers": LAYERS,
    "num_heads": HEADS,
}


@pytest.mark.parametrize(
    ("hidden", "layers", "encoder", "decoder"),
    [
        (192, 12, 5_683_392, 1_029_996),
        (384, 12, 21_983_616, 4_050_348),
        (768, 12, 86_434_560, 16_063_020),
        (1024, 24, 304_149_504, 28_495_148),
    ],
)
def test_published_numbers_of_parameters(hidden, layers, encoder, decoder):
    with torch.device("meta"):
        network = Segmenter(2, 3, 150, 512, hidden_size=hidden, num_layers=layers)
    assert [sum(p.numel() for p in part.parameters()) for part in (network.encoder, network.decoder)] == [
        encoder,
        decoder,
    ]


def block(prefix):
    shapes = {"norm1.weight": [F_], "norm1.bias": [F_], "attn.qkv.weight": [3 * F_, F_], "attn.qkv.bias": [3 * F_],
              "attn.proj.weight": [F_, F_], "attn.proj.bias": [F_], "norm2.weight": [F_], "norm2.bias": [F_],
              "mlp.fc1.weight": [4 * F_, F_], "mlp.fc1.bias": [4 * F_], "mlp.fc2.weight": [F_, 4 * F_],
              "mlp.fc2.bias": [F_]}  # fmt: skip
    return {f"{prefix}{name}": shape for name, shape in shapes.items()}


def published(decoder=None, prefix=("cls",), seed=0):
    """Random weights with the names of timm's ViT, or of Segmenter with a decoder, and of a classifier on top."""
    shapes = {"patch_embed.proj.weight": [F_, 3, PATCH, PATCH], "patch_embed.proj.bias": [F_],
              "pos_embed": [1, SIDE**2 + len(prefix), F_], "norm.weight": [F_], "norm.bias": [F_],
              "head.weight": [10, F_], "head.bias": [10]}  # fmt: skip
    shapes |= {f"{name}_token": [1, 1, F_] for name in prefix}
    for index in range(LAYERS):
        shapes |= block(f"blocks.{index}.")
    if decoder:
        shapes = {f"encoder.{name}": shape for name, shape in shapes.items()}
    if decoder == "linear":
        shapes |= {"decoder.head.weight": [CLASSES, F_], "decoder.head.bias": [CLASSES]}
    if decoder == "mask":
        shapes |= {"decoder.proj_dec.weight": [F_, F_], "decoder.proj_dec.bias": [F_],
                   "decoder.cls_emb": [1, CLASSES, F_], "decoder.proj_patch": [F_, F_],
                   "decoder.proj_classes": [F_, F_], "decoder.decoder_norm.weight": [F_],
                   "decoder.decoder_norm.bias": [F_], "decoder.mask_norm.weight": [CLASSES],
                   "decoder.mask_norm.bias": [CLASSES], **block("decoder.blocks.0."),
                   **block("decoder.blocks.1.")}  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) / 2 for name, shape in shapes.items()}


def run_block(w, name, x):
    def norm(x, part):
        return F.layer_norm(x, [F_], w[f"{name}{part}.weight"], w[f"{name}{part}.bias"])

    def linear(x, part):
        return x @ w[f"{name}{part}.weight"].T + w[f"{name}{part}.bias"]

    q, k, v = linear(norm(x, "norm1"), "attn.qkv").split(F_, -1)
    heads = []
    for each in range(HEADS):  # one head after the other
        own = slice(each * F_ // HEADS, (each + 1) * F_ // HEADS)
        weights = (q[..., own] @ k[..., own].mT / math.sqrt(F_ // HEADS)).softmax(-1)
        heads.append(weights @ v[..., own])
    x = x + linear(torch.cat(heads, -1), "attn.proj")
    return x + linear(F.gelu(linear(norm(x, "norm2"), "mlp.fc1")), "mlp.fc2")


def reference(w, image, decoder):
    """Logits, or for no decoder the tokens, both by patch: (B, N, K)."""
    e = "encoder." if decoder else ""
    patches = [
        torch.einsum("bchw,fchw->bf", image[..., i : i + PATCH, j : j + PATCH], w[f"{e}patch_embed.proj.weight"])
        for i in range(0, image.shape[2], PATCH)
        for j in range(0, image.shape[3], PATCH)
    ]
    x = torch.stack(patches, 1) + w[f"{e}patch_embed.proj.bias"]
    tokens = [w[name].expand(len(x), 1, F_) for name in (f"{e}cls_token", f"{e}dist_token") if name in w]
    x = torch.cat([*tokens, x], 1) + w[f"{e}pos_embed"]
    for index in range(LAYERS):
        x = run_block(w, f"{e}blocks.{index}.", x)
    x = F.layer_norm(x, [F_], w[f"{e}norm.weight"], w[f"{e}norm.bias"])[:, len(tokens) :]
    if decoder is None:
        return x
    if decoder == "linear":
        return x @ w["decoder.head.weight"].T + w["decoder.head.bias"]
    x = x @ w["decoder.proj_dec.weight"].T + w["decoder.proj_dec.bias"]
    x = torch.cat([x, w["decoder.cls_emb"].expand(len(x), -1, -1)], 1)
    for index in range(2):
        x = run_block(w, f"decoder.blocks.{index}.", x)
    x = F.layer_norm(x, [F_], w["decoder.decoder_norm.weight"], w["decoder.decoder_norm.bias"])
    patches, classes = x[:, :-CLASSES] @ w["decoder.proj_patch"], x[:, -CLASSES:] @ w["decoder.proj_classes"]
    masks = (patches / patches.norm(dim=-1, keepdim=True)) @ (classes / classes.norm(dim=-1, keepdim=True)).mT
    return F.layer_norm(masks, [CLASSES], w["decoder.mask_norm.weight"], w["decoder.mask_norm.bias"])


@pytest.mark.parametrize("prefix", [("cls",), ("cls", "dist")])
@pytest.mark.parametrize("decoder", [None, "linear", "mask"])
def test_published_weights_give_what_they_gave(decoder, prefix):
    weights, image = published(decoder, prefix), torch.randn(2, 3, SIDE * PATCH, SIDE * PATCH)
    network = Segmenter(2, 3, CLASSES, **LIKE, decoder=decoder or "mask", num_prefix=len(prefix)).eval()
    before = {name: value.clone() for name, value in network.decoder.state_dict().items()}
    assert network.load_published({"model": weights}) is network
    with torch.no_grad():
        found = network.encoder(image).flatten(2).mT
        found = found if decoder is None else network.decoder(found)
        torch.testing.assert_close(found, reference(weights, image, decoder), atol=2e-5, rtol=1e-4)
        if decoder:
            bilinear = F.interpolate(found.mT.unflatten(2, (SIDE, SIDE)), image.shape[2:], mode="bilinear")
            torch.testing.assert_close(network(image), bilinear, atol=1e-6, rtol=0)
    if decoder is None:
        torch.testing.assert_close(dict(network.decoder.state_dict()), before, atol=0, rtol=0)


def test_published_weights_for_another_size_other_channels_and_other_classes():
    weights, size = published("mask"), (3 * PATCH, 8 * PATCH)
    network = Segmenter(2, 1, 4, **(LIKE | {"img_size": size})).eval().load_published(weights, decoder=False)
    grid = weights["encoder.pos_embed"][:, 1:].mT.unflatten(2, (SIDE, SIDE))
    torch.testing.assert_close(network.encoder.position.data, F.interpolate(grid, (3, 8), mode="bilinear"))
    grey = torch.randn(1, 1, *size)
    coloured = F.conv2d(grey.expand(-1, 3, -1, -1), weights["encoder.patch_embed.proj.weight"], stride=PATCH)
    torch.testing.assert_close(
        network.encoder.patches(grey) - network.encoder.patches.bias.view(-1, 1, 1), coloured, atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: {}, r"`checkpoint` must be one of ViT, DeiT or Segmenter, got one with \[\]"),
        (lambda w: w | {"encoder.blocks.9.x": torch.ones(1)}, r"like this, got .* \['encoder.blocks.9.x'\]"),
        (
            lambda w: {k: v for k, v in w.items() if k != "decoder.cls_emb"},
            r"another network, see \['decoder.classes'\]",
        ),
        (lambda w: w | {"decoder.cls_emb": torch.ones(1, 2, F_)}, r"another network, see \['decoder.classes'\]"),
        (lambda w: w | {"encoder.pos_embed": torch.ones(1, 24, F_)}, "one of a square, got one of 23 positions"),
    ],
)
def test_weights_of_another_network(change, message):
    network = Segmenter(2, 3, CLASSES, **LIKE)
    with pytest.raises(ValueError, match=message):
        network.load_published(change(published("mask")))


def test_weights_of_a_2d_network_in_3d():
    with pytest.raises(ValueError, match="`checkpoint` must be one of a network like this"):
        Segmenter(3, 3, CLASSES, **LIKE).load_published(published("mask"))


@pytest.mark.parametrize("decoder", ["mask", "linear"])
@pytest.mark.parametrize("size", [(20, 20), (17, 33), (4, 3)])
def test_images_of_any_size_are_padded_and_cropped(decoder, size):
    network = Segmenter(2, 2, CLASSES, **LIKE, decoder=decoder).eval()
    image = torch.randn(2, 2, *size)
    whole = [-(-s // PATCH) * PATCH for s in size]
    padded = torch.zeros(2, 2, *whole)
    padded[..., : size[0], : size[1]] = image
    with torch.no_grad():
        found, of_padded = network(image), network(padded)
    assert found.shape == (2, CLASSES, *size)
    torch.testing.assert_close(found, of_padded[..., : size[0], : size[1]], atol=1e-6, rtol=0)


def test_3d_of_depth_one_is_2d():
    flat, deep = (
        Segmenter(d, 2, CLASSES, **(LIKE | {"img_size": size, "patch_size": patch})).eval()
        for d, size, patch in ((2, 20, PATCH), (3, (1, 20, 20), (1, PATCH, PATCH)))
    )
    own = deep.state_dict()
    deep.load_state_dict({name: value.reshape(own[name].shape) for name, value in flat.state_dict().items()})
    image = torch.randn(2, 2, 18, 23)
    with torch.no_grad():
        torch.testing.assert_close(deep(image[:, :, None])[:, :, 0], flat(image), atol=1e-5, rtol=1e-5)


def test_fresh_mask_logits_are_normalised_over_the_classes():
    network = Segmenter(2, 1, CLASSES, **LIKE).eval()
    with torch.no_grad():
        logits = network.decoder(network.encoder(torch.randn(2, 1, 20, 20)).flatten(2).mT)
    torch.testing.assert_close(logits.mean(2), torch.zeros(2, SIDE**2), atol=1e-5, rtol=0)
    torch.testing.assert_close(logits.var(2, correction=0), torch.ones(2, SIDE**2), atol=2e-2, rtol=0)


def test_logits_of_overlapping_classes_are_relative_to_none_of_them():
    network = Segmenter(2, 1, CLASSES, **LIKE, overlapping=True).eval()
    image = torch.randn(2, 1, 20, 20)
    with torch.no_grad():
        logits = network(image)
        tokens = network.encoder(image).flatten(2).mT
        of_all = F.interpolate(network.decoder(tokens).mT.unflatten(2, (SIDE, SIDE)), 20, mode="bilinear")
    assert logits.shape == (2, CLASSES, 20, 20)
    assert of_all.shape == (2, CLASSES + 1, 20, 20)
    for index in range(CLASSES):
        torch.testing.assert_close(logits[:, index], of_all[:, index + 1] - of_all[:, 0], atol=1e-5, rtol=0)


def test_scaled_logits_are_those_whose_norm_was_published():
    """The same cosines: before the norm over the classes, times a scale, plus a bias."""
    torch.manual_seed(0)
    norm, scaled = (
        Segmenter(2, 1, CLASSES, **LIKE, decoder_logits=logits).eval() for logits in ("normalized", "scaled")
    )
    own = scaled.state_dict()
    assert (own["decoder.mask_norm.scale"].item(), own["decoder.mask_norm.bias"].tolist()) == (10, [0] * CLASSES)
    shared = {name: value for name, value in norm.state_dict().items() if "mask_norm" not in name}
    bias = torch.randn(CLASSES)
    scaled.load_state_dict(
        own | shared | {"decoder.mask_norm.bias": bias, "decoder.mask_norm.scale": torch.tensor(4.0)}
    )
    tokens = torch.randn(2, 9, F_)
    with torch.no_grad():
        cosines = (scaled.decoder(tokens) - bias) / 4
        torch.testing.assert_close(F.layer_norm(cosines, [CLASSES]), norm.decoder(tokens), atol=1e-4, rtol=0)
    assert 0.01 < cosines.abs().max() <= 1


@pytest.mark.slow
@pytest.mark.skipif(not JSRT.exists(), reason="the radiographs are not at hand")
@pytest.mark.parametrize(("decoder", "steps"), [("mask", 130), ("linear", 130)])
def test_two_radiographs_are_learnt_by_heart(decoder, steps):
    """Both lungs and the heart, which overlap, at 2.8 mm."""
    images, masks = (
        [sitk.GetArrayFromImage(sitk.ReadImage(path))[::4, ::4] for path in sorted((JSRT / kind).iterdir())[:2]]
        for kind in ("images", "masks")
    )
    image = torch.tensor(np.array(images) / 255, dtype=torch.float32)[:, None]
    truth = torch.stack([torch.tensor(np.array(masks)) & bit > 0 for bit in (1, 2, 4)], 1).float()
    torch.manual_seed(0)
    exact = {"drop_path": 0.0, "decoder_dropout": 0.0, "decoder_logits": "scaled"}
    network = Segmenter(2, 1, 3, 128, decoder, overlapping=True, patch_size=8, hidden_size=64, num_layers=2, **exact)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    loss_function = DiceCELoss(sigmoid=True, squared_pred=True)
    for _ in range(steps):
        optimizer.zero_grad()
        loss_function(network(image), truth).backward()
        optimizer.step()
    with torch.no_grad():
        found = (network.eval()(image) > 0).float()
    dice = 2 * (found * truth).sum((2, 3)) / (found + truth).sum((2, 3))
    assert dice.mean() > 0.95


@pytest.mark.parametrize(("decoder", "logits"), [("mask", "normalized"), ("mask", "scaled"), ("linear", "scaled")])
def test_every_parameter_has_a_gradient(decoder, logits):
    network = Segmenter(
        3, 1, 2, 8, decoder, decoder_logits=logits, patch_size=4, hidden_size=F_, num_layers=2, num_heads=HEADS
    )
    network(torch.randn(2, 1, 8, 8, 9)).square().mean().backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []


def test_embeddings_of_pixels_for_contrast():
    segmenter = Segmenter(2, 1, 3, **LIKE)
    heads = EmbeddingHeads(segmenter, "encoder", embedding_dim=8, in_channels=1, spatial_size=(20, 20))
    first, second = (heads(torch.randn(2, 1, 20, 20))[0] for _ in range(2))
    assert first.shape == (2, 8, SIDE, SIDE)
    assert heads.strides == (PATCH,)
    labels = [torch.randint(3, (2, 1, SIDE, SIDE)) for _ in range(2)]
    PixelSupConLoss()(first, labels[0], second, labels[1]).backward()
    assert segmenter.encoder.patches.weight.grad.abs().sum() > 0


def test_windows_and_export():
    network = Segmenter(3, 1, 2, 8, patch_size=4, hidden_size=F_, num_layers=2, num_heads=HEADS).eval()
    image = torch.randn(1, 1, 12, 9, 8)
    with torch.no_grad():
        assert sliding_window_inference(image, 8, 2, network).shape == (1, 2, 12, 9, 8)
        torch.testing.assert_close(torch.jit.script(network)(image), network(image), atol=1e-6, rtol=0)


@pytest.mark.slow
@torch.no_grad()
@needs_export
def test_onnx_runs_at_any_size():
    settings = {"img_size": 16, "patch_size": PATCH, "hidden_size": F_, "num_layers": 1, "num_heads": HEADS}
    network = Segmenter(2, 1, 3, **settings).eval()
    session = onnx_session(network, torch.rand(2, 1, 16, 16))
    for size in ((16, 16), (24, 8), (13, 30)):
        image = torch.rand(2, 1, *size)
        (got,) = session.run(None, {"image": image.numpy()})
        torch.testing.assert_close(torch.from_numpy(got), network(image), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"spatial_dims": 1}, "`spatial_dims` must be 2 or 3, got 1"),
        ({"img_size": 21}, r"`img_size` must be positive multiples of the patch \(4, 4\), got 21"),
        ({"img_size": "16"}, r"`img_size` must be positive multiples of the patch \(4, 4\), got 16"),
        ({"patch_size": 0}, "`patch_size` must be a whole number of at least 1, or one for each axis, got 0"),
        ({"num_heads": 5}, "`num_heads` must be a divisor of the 12 channels, got 5"),
        ({"num_heads": 0}, "`num_heads` must be a divisor of the 12 channels, got 0"),
        ({"decoder": "best"}, "`decoder` must be 'mask' or 'linear', got 'best'"),
        ({"decoder_logits": "norm"}, "`logits` must be 'normalized' or 'scaled', got 'norm'"),
        ({"out_channels": 1}, "`out_channels` must be a whole number of at least 2, to be normalised over, got 1"),
        ({"overlapping": "no"}, "`overlapping` must be true or false, got 'no'"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        Segmenter(**{"spatial_dims": 2, "in_channels": 1, "out_channels": 2, **LIKE, **settings})
