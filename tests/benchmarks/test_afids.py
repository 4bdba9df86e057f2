"""The parts that the benchmarks' numbers rest on, against slow ways to the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import afids
from monai_infoaug._grid import sample_at

SIZE = (31, 37, 29)


def smooth_volume(size: tuple[int, ...] = SIZE, seed: int = 0) -> torch.Tensor:
    coarse = torch.rand(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, size=size, mode="trilinear")[0]


def inner_points(count: int = 50) -> torch.Tensor:
    share = torch.rand(count, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return (0.35 + 0.3 * share) * torch.tensor(SIZE)


@pytest.mark.parametrize("seed", range(4))
def test_truth_is_the_inverse_of_the_change(seed):
    change, points = afids.Change(SIZE, seed, shift=3), inner_points()
    moved = change.moved(points)
    assert (change.source(moved) - points).abs().max() < 1e-5
    volume = smooth_volume().double()
    got = sample_at(change(volume)[None], moved.T[None])[0, 0]
    expected = sample_at(volume[None], points.T[None])[0, 0]
    beside = sample_at(volume[None], points.T[None] + 1)[0, 0]
    assert (got - expected).abs().mean() < 0.01 < 0.05 < (beside - expected).abs().mean()  # it was interpolated twice
    assert (moved - points).norm(dim=1).mean() > 1


def test_change_stays_within_its_limits():
    turns, shifts = [], []
    for seed in range(20):
        change = afids.Change(SIZE, seed)
        assert change._field().norm(dim=0).max().item() == pytest.approx(4)
        torch.testing.assert_close(change.rotation @ change.rotation.T, torch.eye(3, dtype=torch.float64))
        assert torch.linalg.det(change.rotation).item() == pytest.approx(1)
        turns.append(np.rad2deg(np.arccos((change.rotation.trace().item() - 1) / 2)))
        shifts.append(change.shift.abs().max().item())
    assert max(turns) < 15 * 3**0.5 + 1
    assert max(turns) > 15
    assert 9 < max(shifts) <= 10


def test_field_is_the_same_at_voxels_and_at_points():
    change = afids.Change(SIZE, 0)
    voxels = torch.tensor([[0, 0, 0], [30, 36, 28], [7, 20, 11]])
    torch.testing.assert_close(change._field()[(slice(None), *voxels.T)].T, change.elastic(voxels.double()))


def test_no_change_is_the_identity():
    change, volume = afids.Change(SIZE, 0, degrees=0, shift=0, elastic=0), smooth_volume()
    torch.testing.assert_close(change(volume), volume, atol=1e-4, rtol=0)
    torch.testing.assert_close(change.moved(inner_points()), inner_points())


def test_results_are_kept_and_summed_up(tmp_path):
    calls = []

    def group(case: afids.Case, seed: int):
        calls.append(seed)
        yield "a", case.truth + torch.tensor([3.0, 0, 4])
        yield "b", case.truth

    case = afids.Case(None, None, None, torch.zeros(2, 3), None, None)
    for _ in range(2):
        for seed in (0, 1):
            afids.measure(group, ["a", "b"], lambda: case, seed, tmp_path)
    assert calls == [0, 1]
    a, b = afids.summary((0, 1), ["a", "b", "never run"], tmp_path)
    assert (a["mean"], a["median"], a["sd"], a["seeds"]) == (5, 5, 0, 2)
    assert b["mean"] == 0
    json.dumps([a, b])


DATA = Path(__file__).parents[3] / "shared" / "data" / "afids"


@pytest.mark.skipif(not DATA.is_dir(), reason="the AFIDs are not at hand")
def test_fiducials_lie_in_the_brain():
    template, t2, points, origin = afids.load(DATA)
    assert template.shape == t2.shape == (1, 193, 229, 193)
    assert origin.tolist() == [-96, -132, -78]
    anterior_commissure = points[0] + origin
    assert anterior_commissure.norm() < 6  # near the origin of the template's space
    values = sample_at(template[None].double(), points.T[None])[0, 0]
    assert len(points) == 32
    assert (values > template.mean()).float().mean() > 0.5
