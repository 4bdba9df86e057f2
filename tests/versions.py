"""What tests ask of the versions of PyTorch and MONAI, and of the machine."""

import io
from inspect import signature

import pytest
import torch
from monai.data import PersistentDataset
from monai.data.utils import pickle_hashing

TORCH = tuple(map(int, torch.__version__.split(".")[:2]))

# for MONAI's `PersistentDataset`: metadata are kept, as it can from 1.6 on, and not read weights-only, for 1.6.0
WANTED = {"hash_transform": pickle_hashing, "track_meta": True, "weights_only": False}
TRACKED = {name: value for name, value in WANTED.items() if name in signature(PersistentDataset).parameters}

needs_export = pytest.mark.skipif(TORCH < (2, 6), reason="torch.export takes a range of sizes from PyTorch 2.6 on")


def cpu_autocast():
    """The type of automatic mixed precision on the CPU; None: there is none now."""
    if TORCH < (2, 4):
        return torch.get_autocast_cpu_dtype() if torch.is_autocast_cpu_enabled() else None
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None


def of_any_size(image):
    """What says to `torch.export` that images of another size than this one will come, and other numbers of them."""
    return {axis: torch.export.Dim.DYNAMIC for axis in range(image.ndim) if axis != 1}


def onnx_session(network, image):
    """A network as ONNX, which takes images of any size as ``"image"``."""
    for name in ("onnx", "onnxscript"):
        pytest.importorskip(name, reason=f"{name} writes the file")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime reads the file")
    options = {"input_names": ["image"], "dynamic_shapes": (of_any_size(image),), "dynamo": True, "verbose": False}
    file = io.BytesIO()
    torch.onnx.export(network, (image,), **options).save(file)
    return runtime.InferenceSession(file.getvalue())
