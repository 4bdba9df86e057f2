"""Mixed precision that is safe on CPUs, too."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from monai.inferers import Inferer, SimpleInferer
from torch import Tensor
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


class _DeepEnough(TorchFunctionMode):
    """Computes a 3D convolution in float32 where the image is less deep than the kernel.

    Its gradient in bfloat16 reads memory that was never written (PyTorch 2.13, with oneDNN): the weights become NaN, or
    silently wrong.
    """

    def __torch_function__(
        self, func: Callable, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch.conv3d:
            names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
            given = dict(zip(names, args, strict=False)) | dict(kwargs or {})
            if given["input"].shape[-3] < given["weight"].shape[-3]:
                floats: dict[str, Any] = {k: v.float() if isinstance(v, Tensor) else v for k, v in given.items()}
                with torch.autocast("cpu", enabled=False):
                    return func(**floats)
        return func(*args, **(kwargs or {}))


@contextmanager
def half_precision(device: str | torch.device, enabled: bool = True) -> Iterator[None]:
    """Autocast in bfloat16, but for 3D convolutions whose gradients PyTorch gets wrong in it on CPUs.

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
    with torch.autocast(kind, torch.bfloat16), _DeepEnough() if kind == "cpu" else nullcontext():
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
