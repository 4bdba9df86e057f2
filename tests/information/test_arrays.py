from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_infoaug._versions import WIDER
from monai_infoaug.information._arrays import plain_tensor

VALUES = np.array([[0, 1, 100], [3, 2, 7]])


@pytest.mark.parametrize("dtype", [*"?bBhHiIlLqQefdg", ">u2", ">i4", ">f4", "<f8", ">f8", ">g"])
def test_every_real_type_of_numpy(dtype):
    array = VALUES.astype(dtype)
    tensor = plain_tensor(array, "img")
    np.testing.assert_array_equal(tensor.double().numpy(), array.astype(float))
    assert tensor.max() == array.max()  # for which PyTorch knows no unsigned types


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, *WIDER, torch.bfloat16])
@pytest.mark.parametrize("kind", [torch.Tensor, MetaTensor])
def test_types_of_tensors(dtype, kind):
    tensor = torch.as_tensor(VALUES).to(dtype)
    found = plain_tensor(tensor.as_subclass(kind) if kind is torch.Tensor else MetaTensor(tensor), "img")
    assert type(found) is torch.Tensor
    assert torch.equal(found.double(), tensor.double())
    assert found.max() == tensor.double().max()


@pytest.mark.parametrize(
    "array",
    [VALUES[:, ::-1], VALUES[:, :1, None][..., ::-1], VALUES.T, np.broadcast_to(VALUES[0], (4, 3)), VALUES.copy("F")],
    ids=["negative", "one, backwards", "transposed", "broadcast", "fortran"],
)
def test_any_order_in_memory(array):
    np.testing.assert_array_equal(plain_tensor(array, "img"), array)


def test_read_only_memory_is_copied_and_other_memory_shared():
    array = VALUES.astype(np.float32)
    assert plain_tensor(array, "img").data_ptr() == array.ctypes.data
    array.flags.writeable = False
    assert plain_tensor(array, "img").data_ptr() != array.ctypes.data  # and PyTorch warns of nothing


def test_no_gradient_comes_along():
    assert not plain_tensor(torch.ones(2, requires_grad=True), "img").requires_grad


@pytest.mark.parametrize(
    ("value", "got"),
    [
        ([[1.0]], "a NumPy array or a tensor, got list"),
        (None, "a NumPy array or a tensor, got NoneType"),
        (VALUES * 1j, "of real numbers, got complex128"),
        (torch.ones(1, dtype=torch.complex64), "of real numbers, got torch.complex64"),
        (VALUES.astype(str), "of real numbers, got <U21"),
        (VALUES.astype(object), "of real numbers, got object"),
        (VALUES.astype("M8[s]"), r"of real numbers, got datetime64\[s\]"),
    ],
)
def test_what_is_no_array_of_real_numbers(value, got):
    with pytest.raises(TypeError, match=f"`img` must be {got}"):
        plain_tensor(value, "img")
