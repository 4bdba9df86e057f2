"""Gradients of 3D convolutions in half precision against float32, with garbage in all memory that was never written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from monai.networks.nets import BasicUNet, DynUNet
from torch import nn
from torch.nn.functional import instance_norm

from monai_infoaug.engines import HalfPrecisionInferer, half_precision, has_fast_half
from monai_infoaug.networks import PixelEmbeddingNet
from tests.versions import cpu_autocast

FORMATS = {2: torch.channels_last, 3: torch.channels_last_3d}
CONVOLUTIONS = nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d


def test_half_precision_is_fast_on_every_gpu():
    assert has_fast_half("cuda")
    assert has_fast_half("cuda:1")
    assert has_fast_half() in (True, False)


def largest_error() -> float:
    """Of the gradients of convolutions, relative to those in float32."""
    errors = []
    for dims, kernel, size in [(3, k, (d, 6, 6)) for k in (1, 3, 5) for d in range(1, 6)] + [(2, 3, (2, 6))]:
        torch.manual_seed(0)
        layer, image = (nn.Conv2d, nn.Conv3d)[dims - 2](16, 24, kernel, padding=kernel // 2), torch.randn(2, 16, *size)
        gradients = []
        for enabled in (False, True):
            layer.zero_grad()
            x = image.clone().requires_grad_()
            HalfPrecisionInferer(enabled)(x, layer).square().mean().backward()
            gradients.append(torch.cat([x.grad.flatten(), layer.weight.grad.flatten(), layer.bias.grad]))
        errors.append(float((gradients[1] - gradients[0]).norm() / gradients[0].norm()))
    return max(errors, key=lambda error: float("inf") if error != error else error)


@pytest.mark.slow
def test_gradients_do_not_depend_on_memory_that_was_never_written():
    fill = os.environ | {"MALLOC_PERTURB_": "128", "OMP_NUM_THREADS": "1"}  # glibc: each byte is 127, large in bfloat16
    command, root = [sys.executable, "-m", "tests.engines.test_precision"], Path(__file__).parents[2]
    done = subprocess.run(command, env=fill, cwd=root, capture_output=True, text=True, check=True)
    assert 0 < float(done.stdout) < 0.02


def test_output_is_float32_and_as_without():
    network, image = BasicUNet(3, 1, 2, features=(4, 4, 4, 4, 8, 4)).eval(), torch.rand(1, 1, 32, 32, 32)
    with torch.no_grad():
        half, full = (HalfPrecisionInferer(enabled)(image, network) for enabled in (True, False))
    assert half.dtype == full.dtype == torch.float32
    assert 0 < (half - full).abs().max() < 0.1 * full.abs().max()


def test_several_outputs_are_float32_each():
    outputs = HalfPrecisionInferer()(torch.rand(1, 2), lambda x: (x @ x.mT, [x @ x.mT]))
    assert isinstance(outputs, tuple)
    assert isinstance(outputs[1], list)
    assert outputs[0].dtype == outputs[1][0].dtype == torch.float32


@pytest.mark.parametrize("enabled", [True, False])
def test_nothing_stays_on(enabled):
    with half_precision("cpu", enabled):
        assert (cpu_autocast() is not None) == enabled
    assert cpu_autocast() is None
    assert nn.Conv3d(1, 1, 3, padding=1)(torch.rand(1, 1, 2, 4, 4)).dtype == torch.float32


def test_arguments_by_name():
    x, weight = torch.rand(1, 1, 2, 4, 4), torch.rand(1, 1, 3, 3, 3)
    with half_precision("cpu"):
        shallow = torch.conv3d(input=x, weight=weight, padding=1)
        deep = torch.conv3d(torch.rand(1, 1, 4, 4, 4), weight=weight, padding=1)
    torch.testing.assert_close(shallow, torch.conv3d(x, weight, padding=1))
    assert deep.dtype == torch.bfloat16


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("affine", [False, True])
def test_instance_normalisation_leaves_channels_last(dims, affine, batch):
    torch.manual_seed(0)
    norm = (nn.InstanceNorm2d, nn.InstanceNorm3d)[dims - 2](5, affine=affine)
    if affine:
        nn.init.uniform_(norm.weight)
        nn.init.uniform_(norm.bias)
    image = (3 * torch.randn(batch, 5, *(8, 6, 4)[:dims]) + 1).bfloat16().contiguous(memory_format=FORMATS[dims])
    x, exact = image.clone().requires_grad_(), image.double().requires_grad_()
    with half_precision("cpu"):
        found = norm(x)
    expected = instance_norm(exact, None, None, *(p if p is None else p.double() for p in (norm.weight, norm.bias)))
    assert found.dtype == torch.bfloat16
    assert found.is_contiguous(memory_format=FORMATS[dims])
    torch.testing.assert_close(found.double(), expected, atol=0.02, rtol=0.01)
    towards = torch.randn(found.shape)
    found.backward(towards.to(found))
    expected.backward(towards.double())
    torch.testing.assert_close(x.grad.double(), exact.grad, atol=0.02, rtol=0.02)


def test_running_statistics_are_kept():
    norms = [nn.InstanceNorm2d(5, track_running_stats=True) for _ in range(2)]
    image = torch.randn(2, 5, 8, 6).bfloat16().contiguous(memory_format=torch.channels_last)
    with half_precision("cpu"):
        norms[0](image)
    norms[1](image)
    torch.testing.assert_close(norms[0].running_mean, norms[1].running_mean)
    assert norms[0].running_mean.abs().max() > 0


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", ["BasicUNet", "DynUNet", "PixelEmbeddingNet"])
def test_feature_maps_of_a_network_have_channels_last(name, dims, batch):
    """From the first convolution on, and the outputs are nearly those in single precision."""
    torch.manual_seed(0)
    network = {
        "BasicUNet": lambda: BasicUNet(dims, 1, 2, features=(8, 8, 8, 8, 8, 8)),
        "DynUNet": lambda: DynUNet(dims, 1, 2, [3] * 3, [1, 2, 2], [2, 2], filters=[8, 8, 8]),
        "PixelEmbeddingNet": lambda: PixelEmbeddingNet(dims, features=(8, 8, 8), strides=(2, 4)),
    }[name]().eval()
    seen = []
    for module in network.modules():
        if isinstance(module, CONVOLUTIONS):
            module.register_forward_hook(lambda module, given, made: seen.append(made))
    image = torch.randn(batch, 1, *[32] * dims)
    with torch.no_grad(), half_precision("cpu"):
        half = network(image)
    seen = [x for x in seen if x.dtype == torch.bfloat16]  # but where the image is not as deep as a kernel
    assert len(seen) > 8
    assert all(x.is_contiguous(memory_format=FORMATS[dims]) for x in seen)
    assert not any(x.is_contiguous() for x in seen if x.shape[1] > 1 and x.shape[2:].numel() > 1)
    with torch.no_grad():
        full = network(image)
    for a, b in zip(*([x] if isinstance(x, torch.Tensor) else x for x in (half, full)), strict=True):
        assert torch.corrcoef(torch.stack([a.float().flatten(), b.flatten()]))[0, 1] > 0.99


if __name__ == "__main__":
    print(largest_error())
