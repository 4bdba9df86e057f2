"""Two processes share a batch and get the losses, the gradients and the items of one."""

from __future__ import annotations

import os
import threading
from multiprocessing.dummy import DummyProcess
from multiprocessing.pool import ThreadPool
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from monai.data import Dataset
from monai.transforms import RandGaussianNoise

from monai_infoaug._processes import all_gather_interleaved, wait_for_pools
from monai_infoaug.data import own_items, seeded_loader
from monai_infoaug.engines import join_processes, leave_processes
from monai_infoaug.losses import (
    DenseInfoNCELoss,
    HeatmapCrossEntropyLoss,
    NegativeLearningLoss,
    PatchContrastLoss,
    PixelInfoNCELoss,
    PixelSupConLoss,
    RectifiedLabelLoss,
)
from monai_infoaug.samplers import DistributionAlignment, DrawnPixels, ReliablePixels


def losses(part: slice) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Each loss of a part of four images, which differ in how many points, anchors and landmarks they have."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 4, 5, 6, 7, generator=generator, dtype=torch.float64)[:, part]
    points = 6 * torch.rand(4, 9, 2, generator=generator, dtype=torch.float64)[part]
    valid = (torch.rand(4, 9, generator=generator) < torch.tensor([0.0, 0.3, 0.9, 1.0])[:, None])[part]
    labels = (torch.rand(4, 1, 6, 7, generator=generator) < torch.tensor([0.0, 0.1, 0.5, 0.9]).view(4, 1, 1, 1)).long()
    labels = labels[part]
    heat = torch.rand(4, 5, 6, 7, generator=generator, dtype=torch.float64)[part]
    weights = torch.tensor([0.0, 0.2, 1.0, 3.0]).expand(5, 4).T.double()[part]
    calls = {
        "points": lambda x: PixelInfoNCELoss(over_processes=True)(*x.flatten(3).mT, points, valid[:, :9]),
        "dense": lambda x: DenseInfoNCELoss(over_processes=True)(*x, points, points, valid),
        "labels": lambda x: PixelSupConLoss(over_processes=True, include_background=False)(x[0], labels),
        "drawn": lambda x: PixelSupConLoss(over_processes=True, sampler=DrawnPixels(9))(x[0], labels),
        "negative": lambda x: NegativeLearningLoss("rank", over_processes=True)(x[0], 2 * labels - 1),
        "rectified": lambda x: RectifiedLabelLoss(NegativeLearningLoss(over_processes=True), over_processes=True)(
            x[0], {"found": labels, "reliable": 2 * labels - 1}
        ),
        "patches": lambda x: PatchContrastLoss(2, 2, 2, 0.6, sampler=DrawnPixels(7), over_processes=True)(x[0], labels),
        "heat": lambda x: HeatmapCrossEntropyLoss(over_processes=True)(x[0], heat, weights),
    }
    found = {}
    for name, call in calls.items():
        x = (maps[..., :3, :3] if name == "points" else maps).clone().requires_grad_()  # nine points
        loss = call(x)
        loss.backward()
        found[name] = (loss.detach(), x.grad)
    return found


def measured(part: slice) -> tuple[torch.Tensor, torch.Tensor]:
    """Thresholds of the confidence in four images, some of whose pixels are drawn, and factors of their classes."""
    reliable = ReliablePixels(share=0.3, at_least=0.2, pixels_per_image=20, over_processes=True)
    alignment = DistributionAlignment(pixels_per_image=20, over_processes=True)
    probabilities = torch.randn(4, 3, 6, 7, generator=torch.Generator().manual_seed(1)).softmax(1)
    for image in probabilities[part].split(1 if part.step else 2):
        reliable.update(image)
        alignment.update(image)
    return reliable.thresholds(), alignment.factors()


def batches() -> list[list[torch.Tensor]]:
    loader = seeded_loader(
        Dataset([torch.full((1, 2), float(i)) for i in range(11)], RandGaussianNoise(1.0)), 4, draws=9
    )
    epochs = []
    for epoch in (1, 2):
        loader.dataset.set_epoch(epoch)
        loader.sampler.set_epoch(epoch)
        epochs += [batch.as_tensor() for batch in loader]
    return epochs


def process(rank: int, port: int, folder: Path) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "CUDA_VISIBLE_DEVICES": ""}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    for _ in range(2):  # the second does nothing
        join_processes()
    assert (dist.get_rank(), dist.get_world_size()) == (rank, 2)
    with pytest.raises(ValueError, match="`dataset` must be one for each of the 2 processes, got 1 items"):
        own_items(["a"])
    assert all_gather_interleaved([10 * i for i in own_items(range(5))]) == [0, 10, 20, 30, 40]
    with pytest.raises(ValueError, match="`batch_size` must be a multiple of the 2 processes, got 3"):
        seeded_loader(Dataset([torch.zeros(1)] * 4, RandGaussianNoise()), 3)
    part = slice(rank, None, 2)
    torch.save([losses(part), batches(), measured(part)], folder / f"{rank}.pt")
    leave_processes()
    assert not dist.is_initialized()


@pytest.fixture(scope="module")
def parts(in_two_processes, free_port, tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    in_two_processes(process, free_port(), folder)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["points", "dense", "labels", "drawn", "negative", "rectified", "patches", "heat"])
def test_losses(parts, name):
    value, gradient = losses(slice(None))[name]
    (first, first_gradient), (second, second_gradient) = (part[0][name] for part in parts)
    assert value > 0
    torch.testing.assert_close((first + second) / 2, value)
    # the mean over the processes, as DistributedDataParallel takes it
    torch.testing.assert_close(torch.stack([first_gradient, second_gradient], 2).flatten(1, 2) / 2, gradient)


def test_thresholds_and_factors(parts):
    thresholds, factors = measured(slice(None))
    for _, _, found in parts:
        torch.testing.assert_close(found[0], thresholds, rtol=0, atol=0)
        torch.testing.assert_close(found[1], factors, rtol=1e-6, atol=0)  # sums of the pixels in another order


def test_batches(parts):
    whole = batches()
    assert len(whole) == 4
    for one, *shares in zip(whole, parts[0][1], parts[1][1], strict=True):
        assert [len(share) for share in shares] == [2, 2]
        assert {tuple(item.flatten().tolist()) for share in shares for item in share} == {
            tuple(item.flatten().tolist()) for item in one
        }


def test_threads_of_a_pool_that_was_left_are_waited_for():
    begun, may_end = threading.Event(), threading.Event()
    with ThreadPool(1) as pool:
        pool.apply_async(lambda: (begun.set(), may_end.wait(10)))
        begun.wait(10)
    assert any(isinstance(thread, DummyProcess) for thread in threading.enumerate())
    wait_for_pools(threading.enumerate())
    wait_for_pools(seconds=0.01)
    assert any(isinstance(thread, DummyProcess) for thread in threading.enumerate())
    may_end.set()
    wait_for_pools()
    assert not any(isinstance(thread, DummyProcess) for thread in threading.enumerate())
