"""The trainer by labels: what it hands to the loss, the three kinds of contrast, learning, and its errors."""

from __future__ import annotations

import copy

import pytest
import torch
from monai.data import DataLoader, Dataset
from monai.engines.utils import IterationEvents
from monai.networks.nets import BasicUNet, UNet
from monai.transforms import RandGaussianNoise
from torch import nn
from torch.nn.functional import avg_pool2d

from monai_infoaug.engines import LabelContrast, LabelContrastiveTrainer
from monai_infoaug.losses import PixelSupConLoss
from monai_infoaug.networks import EmbeddingHeads
from monai_infoaug.samplers import BlockPixels, DrawnPixels, StridePixels
from monai_infoaug.transforms import RandPairedViewsd

pytest.importorskip("ignite", reason="trainers need ignite")


class Cells(nn.Module):
    """The image itself, averaged into cells, as an embedding."""

    def __init__(self, *strides):
        super().__init__()
        self.strides, self.scale = strides, nn.Parameter(torch.ones(()))

    def forward(self, image):
        return [avg_pool2d(image, stride) * self.scale for stride in self.strides]


class Recorded:
    def __init__(self):
        self.calls = []

    def __call__(self, *args):
        self.calls.append(args)
        return args[0].sum() * 0


def batch(size=(8, 12), seed=0):
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for k in (1, 2):
        made[f"image_view{k}"] = torch.rand(2, 3, *size, generator=generator)
        made[f"label_view{k}"] = torch.randint(0, 200, (2, 1, *size), generator=generator, dtype=torch.uint8)
        made[f"tiers_view{k}"] = torch.randint(0, 3, (2, 1, *size), generator=generator, dtype=torch.uint8)
    return made | {"organ": torch.tensor([4, 7])}


def calls(network, given=None, **kwargs):
    loss = Recorded()
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    LabelContrastiveTrainer("cpu", 1, [given or batch()], network, optimizer, loss, **kwargs).run()
    return loss.calls


def test_loss_gets_labels_and_tiers_of_the_middle_of_each_cell():
    made = batch()
    coarse, fine = calls(Cells(3, 1), made, tiers_key="tiers")
    for k in (1, 2):
        level, labels, tiers = coarse[2 * k - 2], coarse[2 * k - 1], coarse[3 + k]
        assert level.shape == (2, 3, 2, 4)
        assert labels.shape == tiers.shape == (2, 1, 2, 4)
        assert torch.equal(labels, made[f"label_view{k}"][..., 1:6:3, 1::3])
        assert labels.dtype == torch.uint8
        assert torch.equal(tiers, made[f"tiers_view{k}"][..., 1:6:3, 1::3])
        assert torch.equal(fine[2 * k - 1], made[f"label_view{k}"])
        assert torch.equal(fine[3 + k], made[f"tiers_view{k}"])
        torch.testing.assert_close(fine[2 * k - 2], made[f"image_view{k}"])
    assert calls(Cells(1), made)[0][4:] == (None, None)


@pytest.mark.parametrize(("label_key", "expected"), [("organ", [4, 7]), (None, [0, 1])])
def test_labels_of_images(label_key, expected):
    (call,) = calls(Cells(4), label_key=label_key)
    for labels in (call[1], call[3]):
        assert labels.shape == (2, 1, 2, 3)
        assert labels[:, 0].flatten(1).tolist() == [[value] * 6 for value in expected]


def test_mean_over_the_levels():
    levels = [(torch.full((1, 2, 1, 1), value), torch.zeros(1, 2, 1, 1)) for value in (1.0, 5.0)]
    targets = {"labels": (torch.zeros(1, 1, 1, 1),) * 2, "tiers": (None, None)}

    def contrast(weights):
        return LabelContrast((1, 1), lambda level, *_: level.mean(), weights)(levels, targets)

    assert contrast(None) == 3
    assert contrast([1, 0]) == 1
    assert contrast([1, 3]) == 4


def unet(dims):
    return UNet(dims, 1, 8, channels=(8, 8, 16), strides=(2, 2))


def scene(seed, dims):
    """A noisy image, its labels, and tiers."""
    generator = torch.Generator().manual_seed(seed)
    size = (24,) * dims
    label = torch.zeros(1, *size)
    label[:, 8:, 4:20], label[:, :10, 12:] = 1, 2
    image = label + 0.3 * torch.randn(1, *size, generator=generator)
    return {"image": image, "label": label.to(torch.uint8), "tiers": label.to(torch.uint8)}


@pytest.mark.slow
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("shares", [None, (0.2, 0.4, 0.4)])
def test_paired_views_of_labelled_images_are_learnt_from(dims, shares):
    pair = RandPairedViewsd(
        ["image", "label", "tiers"], (16,) * dims, intensity=RandGaussianNoise(1.0, 0, 0.1), num_points=0, outputs=()
    ).set_random_state(0)  # the labels are integers, so their intensities stay
    torch.manual_seed(0)
    heads = EmbeddingHeads(unet(dims), ("model.0", "model.2"), 8, spatial_size=(16,) * dims, hidden=(8,))
    loss = PixelSupConLoss(0.1, denominator="negatives", sampler=DrawnPixels(100, True, shares))
    loader = DataLoader(Dataset([scene(seed, dims) for seed in range(4)], pair), batch_size=2)
    engine = LabelContrastiveTrainer(
        "cpu", 12, loader, heads, torch.optim.Adam(heads.parameters(), 0.01), loss,
        tiers_key="tiers" if shares else None, max_grad_norm=10.0,
    )  # fmt: skip
    losses = []
    engine.add_event_handler(IterationEvents.LOSS_COMPLETED, lambda: losses.append(engine.state.output["loss"].item()))
    engine.run()
    assert sum(losses[-4:]) < 0.5 * sum(losses[:4])
    unet(dims).load_state_dict(heads.backbone.state_dict())


class Dense(nn.Module):
    """The same heads, but for all pixels."""

    def __init__(self, heads):
        super().__init__()
        self.heads, self.strides = heads, heads.strides

    def forward(self, image):
        return self.heads(image)


@pytest.mark.parametrize("sampler", [DrawnPixels(40, True, (0.2, 0.4, 0.4)), StridePixels(3), BlockPixels(5)])
@pytest.mark.parametrize("sizes", [((32, 32), (32, 32)), ((32, 32), (32, 48)), ((33, 32), (33, 32))])
def test_only_chosen_pixels_are_embedded_and_nothing_else_changes(sampler, sizes):
    made = {}
    for k, size in enumerate(sizes, 1):
        parts = {f"image_view{k}": slice(0, 1), f"label_view{k}": slice(None), f"tiers_view{k}": slice(None)}
        made |= {name: batch(size, k)[name][:, part] for name, part in parts.items()}
        made[f"label_view{k}"] %= 3
        made[f"image_view{k}"] = made[f"image_view{k}"].double()  # rounding grows from step to step
    losses, weights, embedded = [], [], []
    for dense in (False, True):
        torch.manual_seed(0)
        backbone = BasicUNet(2, features=(4, 4, 4, 4, 8, 4))
        heads = EmbeddingHeads(backbone, ("upcat_1", "upcat_2"), 8, spatial_size=(32, 32), hidden=(8,))
        heads.double()
        trained, count = [], []
        for head in heads.heads:
            head.register_forward_hook(lambda module, inputs, output, count=count: count.append(output[:, 0].numel()))
        loss = PixelSupConLoss(
            0.1, views="each", include_background=False, ignore_index=2, sampler=copy.deepcopy(sampler)
        )
        engine = LabelContrastiveTrainer(
            "cpu", 3, [made], Dense(heads) if dense else heads, torch.optim.SGD(heads.parameters(), 0.1), loss,
            tiers_key="tiers",
        )  # fmt: skip
        engine.add_event_handler(
            IterationEvents.LOSS_COMPLETED, lambda engine, trained=trained: trained.append(engine.state.output["loss"])
        )
        engine.run()
        losses.append(torch.stack(trained))
        weights.append(torch.cat([weight.flatten() for weight in heads.parameters()]))
        embedded.append(sum(count))
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*weights)
    fewer = not isinstance(sampler, BlockPixels) and sizes[0] != (33, 32)  # no whole number of cells there
    assert (embedded[0] < embedded[1]) == fewer


def test_each_image_against_the_others():
    """SimCLR: pooled embeddings of the views of an image get nearer than those of different images."""
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(4, 1, 16, 16, generator=generator)
    made = {f"image_view{k}": image + 0.1 * torch.randn(image.shape, generator=generator) for k in (1, 2)}
    torch.manual_seed(0)
    heads = EmbeddingHeads(unet(2), "model.1", 8, spatial_size=(16, 16), hidden=(16,), pooled=True)
    LabelContrastiveTrainer(
        "cpu", 30, [made], heads, torch.optim.Adam(heads.parameters(), 0.01), PixelSupConLoss(0.5, "batch"),
        label_key=None,
    ).run()  # fmt: skip
    (first,), (second,) = (heads.eval()(made[f"image_view{k}"]) for k in (1, 2))
    assert first.shape == (4, 8, 1, 1)
    cosines = first.flatten(1) @ second.flatten(1).T
    assert (cosines.argmax(1) == torch.arange(4)).all()
    assert cosines.diagonal().mean() > cosines[~torch.eye(4, dtype=torch.bool)].mean() + 0.3


@pytest.mark.parametrize("missing", ["image_view1", "image_view2", "label_view2", "tiers_view1"])
def test_missing_keys_are_named(missing):
    made = batch()
    del made[missing]
    with pytest.raises(KeyError, match=f"The batch lacks `{missing}`; it has "):
        calls(Cells(1), made, tiers_key="tiers")


def test_bad_settings():
    with pytest.raises(ValueError, match=r"`network` must be an embedding network with `strides`, got Linear"):
        calls(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="`level_weights` must be 2 numbers of at least 0"):
        calls(Cells(1, 2), level_weights=[1.0])
