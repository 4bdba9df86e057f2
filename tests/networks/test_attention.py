"""Attention to one class at a time, against a loop over images and classes; the coarse network is left as it is."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets import BasicUNet
from torch import nn

from monai_infoaug.losses import PixelSupConLoss
from monai_infoaug.networks import AttentionEmbedding, AttentionSegmenter, EmbeddingHeads


def unet(dims, channels, out):
    return BasicUNet(dims, channels, out, features=(4, 4, 4, 4, 8, 4), norm="batch")


class Halves(nn.Module):
    """Sees class 1 wherever the image is positive and class 2, in no image, but for some in the last one."""

    def forward(self, image):
        second = torch.full_like(image[:, :1], -9)
        second[-1, :, 0] = 9
        return torch.cat([torch.zeros_like(second), 9 * image[:, :1].sign(), second], 1)


def by_loops(net, coarse, image, background):
    """Logits, one image and one class after the other."""
    logits = coarse(image)
    masks = logits.softmax(1)[:, 1:] if background else logits.sigmoid()
    rows = []
    for one, of_classes in zip(image, masks, strict=True):
        row = [net(torch.cat([one, mask[None]])[None])[0, 0] for mask in of_classes]
        rows.append(torch.stack([torch.zeros_like(row[0])] * background + row))
    return torch.stack(rows)


@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("dims", [2, 3])
def test_each_class_is_segmented_with_its_own_mask(dims, background):
    coarse, net = unet(dims, 2, 2 + background), unet(dims, 3, 1)
    segmenter = AttentionSegmenter(coarse, net, background).eval()
    image = torch.randn(2, 2, *(16, 32, 16)[:dims])
    with torch.no_grad():
        torch.testing.assert_close(segmenter(image), by_loops(net, coarse, image, background), atol=1e-5, rtol=1e-4)


def test_the_coarse_network_is_not_trained():
    coarse, net = unet(2, 1, 3), unet(2, 2, 1)
    segmenter = AttentionSegmenter(coarse, net).train()
    before = {key: value.clone() for key, value in coarse.state_dict().items()}
    segmenter(torch.randn(2, 1, 16, 16)).square().sum().backward()
    assert net.training
    assert not coarse.training
    assert all(parameter.grad is None for parameter in coarse.parameters())
    assert all(parameter.grad is not None for parameter in net.parameters())
    torch.testing.assert_close(coarse.state_dict(), before, atol=0, rtol=0)  # running statistics, too


def embedding():
    heads = EmbeddingHeads(unet(2, 2, 1), "down_4", embedding_dim=6, in_channels=2, spatial_size=(16, 16), pooled=True)
    return AttentionEmbedding(Halves(), heads)


def test_an_embedding_for_each_class_that_is_seen():
    network, image = embedding().eval(), torch.randn(3, 1, 16, 16)
    image[1] = -1  # neither class
    (level,) = network(image)
    assert level.shape == (3, 6, 2)
    assert network.strides == (1,)
    norms = torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    torch.testing.assert_close(level.norm(dim=1), norms)
    mask = Halves()(image).softmax(1)[:, 1:2]
    torch.testing.assert_close(level[..., 0][[0, 2]], network.heads(torch.cat([image, mask], 1))[0][[0, 2], :, 0, 0])


def test_a_class_that_is_not_seen_has_no_part_in_the_loss():
    network, image = embedding(), torch.randn(3, 1, 16, 16)
    (level,) = network(image)
    labels = torch.arange(2).expand(3, 1, 2)
    loss = PixelSupConLoss(0.1, "batch")
    seen = level.mT[level.norm(dim=1) > 0].T[None]
    value = loss(level, labels)
    torch.testing.assert_close(value, loss(seen, torch.tensor([[[0, 0, 0, 1]]])))
    value.backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.heads.heads.parameters())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: AttentionSegmenter(unet(2, 1, 1), unet(2, 2, 1)),
            "`coarse` must be a network that gives each pixel a channel",
        ),
        (lambda: AttentionSegmenter(unet(2, 1, 2), unet(2, 2, 2)), "`network` must be a network of one channel"),
        (
            lambda: AttentionEmbedding(
                Halves(), EmbeddingHeads(unet(2, 2, 1), ("upcat_1", "down_4"), in_channels=2, spatial_size=(16, 16))
            ),
            "`heads` must be heads of one level",
        ),
    ],
)
def test_networks_that_do_not_fit_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()(torch.randn(2, 1, 16, 16))
