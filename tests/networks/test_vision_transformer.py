from __future__ import annotations

import pytest
import torch
from torch.nn.functional import interpolate

from monai_infoaug.networks import VisionTransformer

pytest.importorskip("einops", reason="MONAI's transformer blocks need einops")

LIKE = {"img_size": (8, 12), "patch_size": 4, "hidden_size": 12, "num_layers": 3, "num_heads": 3}


@torch.no_grad()
def test_positions_of_the_own_size_are_taken_as_they_are_and_others_interpolated():
    encoder = VisionTransformer(2, 1, **LIKE).eval()
    assert torch.equal(interpolate(encoder.position, (2, 3), mode="bilinear"), encoder.position)
    image = torch.rand(1, 1, 16, 24)
    at_own_size = VisionTransformer(2, 1, **LIKE | {"img_size": (16, 24)}).eval()
    state = encoder.state_dict() | {"position": interpolate(encoder.position, (4, 6), mode="bilinear")}
    at_own_size.load_state_dict(state)
    torch.testing.assert_close(encoder(image), at_own_size(image), atol=1e-6, rtol=0)


def test_stochastic_depth_leaves_out_later_blocks_and_only_in_training():
    network = VisionTransformer(2, 1, **LIKE, drop_path=0.4)
    assert [each.drop_path.drop_prob for each in network.blocks] == pytest.approx([0, 0.2, 0.4])
    image = torch.randn(1, 1, 8, 12)
    tokens = network(image.repeat(64, 1, 1, 1))
    assert not torch.equal(tokens, tokens[:1].expand_as(tokens))
    network.eval()
    torch.testing.assert_close(network(image), network(image), atol=0, rtol=0)


@pytest.mark.parametrize("shape", [(1, 8, 12), (1, 1, 8, 12, 4), (1, 2, 8, 12)])
def test_images_of_another_rank_or_number_of_channels(shape):
    with pytest.raises(ValueError, match=r"`image` must be \(B, 1, \*S\) with 2 spatial dimensions, got shape \("):
        VisionTransformer(2, 1, **LIKE)(torch.zeros(shape))


@pytest.mark.parametrize("size", [(8, 13), (3, 12)])
def test_images_that_are_no_whole_patches(size):
    with pytest.raises(ValueError, match=r"`image` must be of multiples of \(4, 4\), got spatial size \("):
        VisionTransformer(2, 1, **LIKE)(torch.zeros(1, 1, *size))
