from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor


def test_gpu_is_as_strict_as_cuda(gpu):
    with gpu:
        host, image = torch.rand(3, 4), MetaTensor(torch.rand(3, 4)).to("cuda")
        for there in (host.to("cuda"), host.cuda(), image, torch.ones(3, 4, device="cuda"), host.to(image)):
            assert there.is_cuda
            assert not host.is_cuda
            assert there.device.type == "cuda"
            assert host.device.type == "cpu"
            assert (2 * there).is_cuda
            assert (there + torch.tensor(2.0)).is_cuda
            assert there[host[:, 0] > 0].is_cuda
            assert torch.zeros_like(there).is_cuda
            assert torch.arange(3, device=there.device).is_cuda
            assert all(part.is_cuda for part in there.topk(2))
            assert not there.cpu().is_cuda
            assert not there.to("cpu").is_cuda
            assert not there.to(torch.device("cpu")).is_cuda
            for mixed in (lambda x=there: x + host, lambda x=there: torch.where(x > 0, x, host)):
                with pytest.raises(RuntimeError, match="cuda:0"):
                    mixed()
            for read in (np.asarray, torch.Tensor.numpy):
                with pytest.raises(TypeError, match="cuda:0"):
                    read(there)
            assert np.array_equal(there.cpu().numpy(), there.to("cpu"))
            there.copy_(host)
            assert there.is_cuda
        assert not image.affine.is_cuda
        assert not torch.from_numpy(np.ones(3)).is_cuda
        assert not torch.zeros(3).is_cuda
        assert torch.nn.Linear(2, 2).to("cuda")(torch.rand(1, 2).to("cuda")).is_cuda
