"""What differs between versions: both ways of reading weights, and what is not in all of them."""

from __future__ import annotations

import os
from collections import Counter, OrderedDict
from types import SimpleNamespace

import pytest
import torch

from monai_infoaug._versions import WIDER, accumulation_steps, is_compiling, read_weights, without_functions


class Unsafe:
    """A file of it makes a folder when it is read by a plain unpickler."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.fixture(params=[True, False], ids=["safe_globals", "own"])
def either_way(request, monkeypatch):
    if not request.param:
        monkeypatch.delattr(torch.serialization, "safe_globals", raising=False)
    elif not hasattr(torch.serialization, "safe_globals"):
        pytest.skip("new in PyTorch 2.5")


@pytest.mark.usefixtures("either_way")
def test_weights_are_read(tmp_path):
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2)).half()
    optimizer = torch.optim.Adam(net.parameters())
    saved = {
        "network": net.state_dict(),
        "optimizer": optimizer.state_dict(),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "others": [1, 2.5, None, "a", b"b", (True,), {3}, torch.int16, torch.Size([2]), torch.device("cpu")],
        "milestones": Counter([3, 3, 5]),
    }
    torch.save(saved, tmp_path / "a.pt")
    read = read_weights(tmp_path / "a.pt", "cpu")
    assert type(read["network"]) is OrderedDict
    torch.testing.assert_close(dict(read["network"]), dict(saved["network"]))
    assert isinstance(read["parameter"], torch.nn.Parameter)
    assert all(read[name] == saved[name] for name in ("optimizer", "others", "milestones"))


@pytest.mark.usefixtures("either_way")
def test_nothing_else_is_called(tmp_path):
    file = tmp_path / "a.pt"
    for thing in (Unsafe(tmp_path / "made"), SimpleNamespace(a=1)):
        torch.save({"a": torch.ones(2), "b": thing}, file)
        with pytest.raises(Exception, match=r"mkdir|SimpleNamespace"):
            read_weights(file)
    assert not (tmp_path / "made").exists()
    assert read_weights(file, safe=[SimpleNamespace])["b"].a == 1


def test_functions_are_left_out_of_states():
    state = {"a": 1, "f": len, "parts": [{"g": print, "b": 2.5}], "milestones": Counter([1])}
    assert without_functions(state) == {"a": 1, "parts": [{"b": 2.5}], "milestones": Counter([1])}
    assert without_functions(state)["milestones"] is state["milestones"]


def test_what_is_new_in_some_version():
    assert accumulation_steps(SimpleNamespace()) == 1
    assert accumulation_steps(SimpleNamespace(accumulation_steps=3)) == 3
    assert not is_compiling()
    one_more = torch.compile(lambda x: x + 1 if is_compiling() else x, backend="eager", fullgraph=True)
    assert one_more(torch.ones(1)).item() == 2
    assert all(wider.itemsize >= narrow.itemsize for narrow, wider in WIDER.items())
