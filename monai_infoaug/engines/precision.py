"""Mixed precision that is safe on CPUs, too."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from monai.inferers import Inferer, SimpleInferer
from torch import Tensor
from torch.nn.functional import batch_norm, instance_norm
from torch.overrides import TorchFunctionMode

from monai_infoaug._require import refusal, require_truth

__all__ = ["HalfPrecisionInferer", "half_precision", "has_fast_half"]


def has_fast_half(device: str | torch.device = "cpu") -> bool:
    """Whether mixed precision is worth its while.

    Args:
        device: where the network is.

    Returns:
        True for every GPU, and for CPUs that compute bfloat16 natively.
    """
    cpu_test = getattr(torch.cpu, "_is_avx512_bf16_supported", bool)
    return torch.device(device).type == "cuda" or cpu_test()


OF_CONVOLUTION = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
OF_TRANSPOSED = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
OF_NORM = ("input", "running_mean", "running_var", "weight", "bias", "use_input_stats", "momentum", "eps")
ARGUMENTS: dict[Callable, tuple[str, ...]] = {
    torch.conv2d: OF_CONVOLUTION,
    torch.conv3d: OF_CONVOLUTION,
    torch.conv_transpose2d: OF_TRANSPOSED,
    torch.conv_transpose3d: OF_TRANSPOSED,
    instance_norm: OF_NORM,
}


class _OnCPU(TorchFunctionMode):
    """Computes images with channels last, with which convolutions in bfloat16 are two to ten times as fast.

    PyTorch's instance normalisation copies to channels first; here each sample is normalised as a batch of its own.

    A 3D convolution is computed in float32 where the image is less deep than the kernel: its gradient in bfloat16 reads
    memory that was never written (PyTorch 2.13, with oneDNN), and the weights become NaN, or silently wrong.
    """

    def __torch_function__(
        self, func: Callable, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in ARGUMENTS:
            given = dict(zip(ARGUMENTS[func], args, strict=False)) | dict(kwargs)
            image = given["input"]
            if func is instance_norm:
                if _is_to_stay(image) and given.get("running_mean") is None:
                    return _normalised(image, given.get("weight"), given.get("bias"), given.get("eps", 1e-5))
            elif func is torch.conv3d and image.shape[-3] < given["weight"].shape[-3]:
                floats: dict[str, Any] = {k: v.float() if isinstance(v, Tensor) else v for k, v in given.items()}
                with torch.autocast("cpu", enabled=False):
                    return func(**floats)
            elif image.ndim == given["weight"].ndim:  # else it is one without a batch
                return func(**given | {"input": _with_channels_last(image)})
        return func(*args, **kwargs)


def _last(x: Tensor) -> torch.memory_format:
    return torch.channels_last if x.ndim == 4 else torch.channels_last_3d


def _with_channels_last(x: Tensor) -> Tensor:
    """The same image (B, C, *S), by the strides that convolutions go by: a view of one sample may have others."""
    strides = [x.shape[1]]
    for size in x.shape[:2:-1]:
        strides.insert(0, strides[0] * size)
    canonical = (strides[0] * x.shape[2], 1, *strides)
    return x if x.stride() == canonical else x.clone(memory_format=_last(x))


def _is_to_stay(x: Tensor) -> bool:
    """Whether an image has channels last, and half precision, in which that pays."""
    return x.dtype == torch.bfloat16 and x.ndim in (4, 5) and x.is_contiguous(memory_format=_last(x))


def _normalised(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Instance normalisation of (B, C, *S)."""
    return torch.cat([batch_norm(sample, None, None, weight, bias, True, 0.0, eps) for sample in x.split(1)])


@contextmanager
def half_precision(device: str | torch.device, enabled: bool = True) -> Iterator[None]:
    """Autocast in bfloat16.

    On CPUs images have channels last, which is much faster, and 3D convolutions whose gradients PyTorch gets wrong are
    left in float32.

    Args:
        device: where the network is.
        enabled: whether anything is changed.

    Example:
        >>> with half_precision("cpu"):
        ...     torch.nn.Conv2d(1, 2, 3)(torch.rand(1, 1, 8, 8)).dtype
        torch.bfloat16
    """
    require_truth(enabled=enabled)
    if not enabled:
        yield
        return
    kind = torch.device(device).type
    with torch.autocast(kind, torch.bfloat16), _OnCPU() if kind == "cpu" else nullcontext():
        yield


class HalfPrecisionInferer(Inferer):
    """Calls the network in :py:func:`half_precision`; the output, or each of several, is float32, for the losses.

    Args:
        enabled: whether to leave the precision of the network.
        inferer: how to call it, such as ``SlidingWindowInferer``; default as it is.
    """

    def __init__(self, enabled: bool = True, inferer: Inferer | None = None) -> None:
        require_truth(enabled=enabled)
        if inferer is not None and not callable(inferer):
            raise refusal("inferer", repr(inferer), "an inferer of MONAI's, or None")
        self.enabled, self.inferer = enabled, inferer or SimpleInferer()

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call the network by the inferer, which gets the further arguments."""
        with half_precision(inputs.device, self.enabled):
            return _float(self.inferer(inputs, network, *args, **kwargs))


def _float(output: Any) -> Any:
    """The same in float32; of lists and tuples each entry."""
    return type(output)(map(_float, output)) if isinstance(output, (list, tuple)) else output.float()
