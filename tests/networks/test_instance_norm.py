from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import instance_norm

from monai_infoaug.networks import PixelEmbeddingNet
from monai_infoaug.networks._instance_norm import keep_channels_last

FORMATS = {2: torch.channels_last, 3: torch.channels_last_3d}
PLAIN = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}


def image(dims: int, batch: int) -> torch.Tensor:
    torch.manual_seed(0)
    whole = 3 * torch.randn(batch, 5, *(8, 6, 4)[:dims]) + 1
    return whole.to(torch.bfloat16).contiguous(memory_format=FORMATS[dims])


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("affine", [False, True])
def test_it_is_pytorchs_and_leaves_channels_last(dims, affine):
    norm = nn.Sequential(PLAIN[dims](5, affine=affine))
    if affine:
        nn.init.uniform_(norm[0].weight)
        nn.init.uniform_(norm[0].bias)
    keep_channels_last(norm)
    assert type(norm[0]) is not PLAIN[dims]
    x, exact = image(dims, 3).requires_grad_(), image(dims, 3).double().requires_grad_()
    weights = [None if p is None else p.detach().double() for p in (norm[0].weight, norm[0].bias)]
    found, expected = norm(x), instance_norm(exact, None, None, *weights)
    assert found.is_contiguous(memory_format=FORMATS[dims])
    torch.testing.assert_close(found.double(), expected, atol=0.02, rtol=0.01)
    towards = torch.randn(found.shape)
    found.backward(towards.to(found))
    expected.backward(towards.double())
    torch.testing.assert_close(x.grad.double(), exact.grad, atol=0.02, rtol=0.02)


def test_single_precision_and_running_statistics_stay_with_pytorch():
    x = image(2, 3).float()
    norm = nn.Sequential(nn.InstanceNorm2d(5))
    expected = norm(x)
    keep_channels_last(norm)
    assert torch.equal(norm(x), expected)
    running = nn.Sequential(nn.InstanceNorm2d(5, track_running_stats=True))
    keep_channels_last(running)
    assert type(running[0]) is nn.InstanceNorm2d


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("batch", [1, 2])
def test_no_convolution_of_a_network_sees_channels_first(dims, batch):
    network = PixelEmbeddingNet(dims, features=(8, 8, 8), strides=(2, 4))
    seen = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            module.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    x = torch.randn(batch, 1, *(32, 24, 24)[:dims])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        half = network(x)
    assert len(seen) == 13
    assert all(each.is_contiguous(memory_format=FORMATS[dims]) and not each.is_contiguous() for each in seen)
    with torch.no_grad():
        for level, exact in zip(half, network(x), strict=True):
            assert (level * exact).sum(1).min() > 0.97
