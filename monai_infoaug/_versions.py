"""What differs between the versions of PyTorch and MONAI that are supported, and in no other file."""

from __future__ import annotations

import codecs
import os
import pickle
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any

import torch

# whether `torch.compile` or `torch.export` is looking
is_compiling = torch.compiler.is_compiling if hasattr(torch.compiler, "is_compiling") else torch._utils.is_compiling

# of the types that PyTorch stores and hardly computes with; new in PyTorch 2.3
WIDER = {
    getattr(torch, narrow): wider
    for narrow, wider in {"uint16": torch.int32, "uint32": torch.int64, "uint64": torch.float64}.items()
    if hasattr(torch, narrow)
}

# what weights are made of, for PyTorch before 2.5
WEIGHTS = {
    *(torch._utils._rebuild_tensor_v2, torch._utils._rebuild_parameter, torch._tensor._rebuild_from_type_v2),
    *(torch.Tensor, torch.Size, torch.device, torch.nn.Parameter, OrderedDict, Counter, set, codecs.encode),
}


def read_weights(path: str | os.PathLike, map_location: Any = None, safe: Iterable[Any] = ()) -> Any:
    """What ``torch.save`` has written; nothing in the file is executed.

    Args:
        path: the file.
        map_location: device that tensors go to.
        safe: classes and functions that may be in the file beside those of weights.

    Returns:
        What was saved.

    Raises:
        pickle.UnpicklingError: for a file with other classes or functions.
    """
    if hasattr(torch.serialization, "safe_globals"):
        with torch.serialization.safe_globals(list(safe)):
            return torch.load(path, map_location=map_location, weights_only=True)
    known = {(each.__module__, each.__qualname__): each for each in (*WEIGHTS, *safe)}

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            module = module.replace("__builtin__", "builtins")
            found = getattr(torch, name, None) if module == "torch" else None
            if isinstance(found, torch.dtype):
                return found
            if (module, name) not in known:
                raise pickle.UnpicklingError(f"{module}.{name} is no weight")
            return known[module, name]

    def load(file: Any, **settings: Any) -> Any:
        return Unpickler(file, **settings).load()

    safely = SimpleNamespace(__name__=__name__, Unpickler=Unpickler, load=load)
    return torch.load(path, map_location=map_location, pickle_module=safely, weights_only=False)


def without_functions(state: Any) -> Any:
    """A state without the functions that PyTorch before 2.2 puts into that of ``OneCycleLR``, which are no weights."""
    if type(state) is list:
        return [without_functions(part) for part in state]
    if type(state) is not dict:
        return state
    return {name: without_functions(part) for name, part in state.items() if not callable(part)}


def accumulation_steps(trainer: Any) -> int:
    """Number of batches whose gradients a MONAI trainer adds up; new in MONAI 1.6."""
    return getattr(trainer, "accumulation_steps", 1)


def with_length(settings: Mapping[str, Any], loader: Any) -> dict[str, Any]:
    """Settings of a MONAI engine and the batches an epoch, which MONAI 1.4 knows of PyTorch's loaders alone."""
    return {**({"epoch_length": len(loader)} if hasattr(loader, "__len__") else {}), **settings}
