"""Instance normalisation that does not undo what makes convolutions on CPUs fast."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, instance_norm


class _InstanceNorm2d(nn.InstanceNorm2d):
    """Leaves channels last.

    PyTorch's own copies to channels first, with which convolutions in bfloat16 take two to ten times as long on a CPU.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not torch.jit.is_scripting():  # TorchScript looks at no more than this line  # noqa: SIM102
            if _has_channels_last(x):
                return _normalised(self, x)
        return instance_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps)


class _InstanceNorm3d(nn.InstanceNorm3d):
    """The same for volumes."""

    def forward(self, x: Tensor) -> Tensor:
        if not torch.jit.is_scripting():  # noqa: SIM102
            if _has_channels_last(x):
                return _normalised(self, x)
        return instance_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps)


def _normalised(norm: nn.InstanceNorm2d | nn.InstanceNorm3d, x: Tensor) -> Tensor:
    """Each sample as a batch of its own."""
    return torch.cat([batch_norm(each, None, None, norm.weight, norm.bias, True, 0.0, norm.eps) for each in x.split(1)])


def _has_channels_last(x: Tensor) -> bool:
    """Whether this is an image that is worth it; exported networks take the plain way, for batches of any size."""
    if x.dtype != torch.bfloat16 or x.device.type != "cpu" or torch.jit.is_tracing() or torch.compiler.is_compiling():
        return False
    return not x.is_contiguous() and x.is_contiguous(memory_format=_last(x))


def _last(x: Tensor) -> torch.memory_format:
    return torch.channels_last if x.ndim == 4 else torch.channels_last_3d


def with_channels_last(x: Tensor) -> Tensor:
    """An image (B, C, *S) with channels last where convolutions are about to be computed in bfloat16 on a CPU."""
    if x.device.type != "cpu" or not torch.is_autocast_enabled("cpu") or torch.jit.is_tracing():
        return x
    return x.clone(memory_format=_last(x))  # a view of a batch of one may have strides that convolutions misread


def keep_channels_last(network: nn.Module) -> None:
    """Let the instance normalisations of a network, but those with running statistics, leave channels last."""
    for module in network.modules():
        if type(module) is nn.InstanceNorm2d and not module.track_running_stats:
            module.__class__ = _InstanceNorm2d
        elif type(module) is nn.InstanceNorm3d and not module.track_running_stats:
            module.__class__ = _InstanceNorm3d
