"""The comparison of speed: that both sides do the same, and that its numbers are what they say."""

import json
import sys
import time

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Rand2DElasticd, Rand3DElasticd, RandAffined

from benchmarks import speed
from benchmarks.speed import floor, main, measure, medians, monai_pair, monai_views, slower
from tests.examples.bundle_runs import DATA

needs_data = pytest.mark.skipif(not (DATA / "ceph").exists(), reason="the radiographs are not at hand")


@pytest.mark.parametrize("elastic", [False, True])
@pytest.mark.parametrize("size", [(40, 36), (20, 18, 16)])
def test_points_of_plain_monai_show_the_same_place(size, elastic):
    dims = len(size)
    change = {
        "keys": ["image", "tiers", "coords"],
        "prob": 1.0,
        "rotate_range": 0.3 if dims == 2 else [0.3] * 3,
        "scale_range": [0.1] * dims,
        "mode": ["bilinear", "nearest", "bilinear"],
        "padding_mode": "border",
    }
    spatial = RandAffined(**change)
    if elastic and dims == 2:
        spatial = Rand2DElasticd(spacing=(10, 10), magnitude_range=(0.5, 1), **change)
    elif elastic:
        spatial = Rand3DElasticd(sigma_range=(3, 4), magnitude_range=(10, 20), **change)
    spatial.set_random_state(0)
    item = {"image": MetaTensor(torch.rand(1, *size)), "tiers": MetaTensor(torch.randint(0, 3, (1, *size)))}
    views = monai_views(item, spatial)
    first, second, shown = monai_pair(views, not elastic)
    source = [
        view["coords"].as_tensor()[(slice(None), *points[shown].round().long().T)]
        for view, points in zip(views, (first, second), strict=True)
    ]
    apart = (source[0] - source[1]).norm(dim=0)
    assert len(first) == speed.POINTS
    assert shown.any()
    assert apart.median() < 1


def test_medians_are_of_interleaved_calls():
    calls = []
    ways = {"ours": lambda: (calls.append(0), time.sleep(0.02)), "other": lambda: calls.append(1)}
    found = medians(ways, repeats=3)
    assert calls == [0, 1] * 4
    assert found["ours"] > 0.02 > found["other"] > 0


def test_the_floor_is_a_copy_of_all_that_is_returned():
    small, large = ([{"a": torch.zeros(n), "b": (np.zeros(n, np.float32),)}, None] for n in (10_000, 4_000_000))
    assert 0 < 20 * floor(small) < floor(large) < 1


def test_a_run_is_compared_with_the_one_before(tmp_path, monkeypatch, capsys):
    file, ratios = tmp_path / "rows.json", iter([{"peer": 3.0}, {"peer": 2.6}, {"peer": 2.0}, {"peer": 2.0}])

    def measured(section, case, data):
        return {"seconds": {"ours": 1.0}, "floor": 0.1, "ratio": next(ratios)}

    monkeypatch.setattr(speed, "SECTIONS", {"some": (lambda data: {"case": None}, 1, False)})
    monkeypatch.setattr(speed, "measure", measured)
    arguments = ["--sections", "some", "--json", str(file)]
    main(arguments)
    main(arguments)  # a little slower
    assert json.loads(file.read_text())["some, case"]["ratio"] == {"peer": 2.6}
    for _ in range(2):
        with pytest.raises(SystemExit, match=r"some, case: 2\.00 times peer, was 2\.60"):
            main(arguments)
    assert json.loads(file.read_text())["some, case"]["ratio"] == {"peer": 2.6}
    assert slower({"new": {"ratio": {"peer": 0.1}}}, {}) == []


class Allocates:
    """50 MB for a moment."""

    def __call__(self):
        return float(np.ones(50 * 2**20, np.uint8).sum())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is read from /proc")
def test_memory_is_what_the_call_adds(monkeypatch):
    monkeypatch.setitem(speed.SECTIONS, "one", (lambda data: {"case": lambda: {"ours": Allocates()}}, 1, True))
    threads = torch.get_num_threads()
    assert speed.megabytes("one", "case", "ours", None) == pytest.approx(50, abs=5)
    torch.set_num_threads(threads)


@needs_data
def test_maps_of_all_ways_are_equal():
    ways = speed.entropy_cases(DATA)["brain, window 9"]()
    maps = [way() for way in ways.values()]
    for other in maps[1:]:
        np.testing.assert_allclose(other, maps[0], atol=1e-5)


@needs_data
def test_a_row(capsys, monkeypatch):
    cases = {"small": speed.entropy_cases(DATA)["noise of 128 x 128"]}
    monkeypatch.setattr(speed, "SECTIONS", {"entropy": (lambda data: cases, 1, False)})
    monkeypatch.setattr(speed, "THREADS", torch.get_num_threads())
    main(["--data", str(DATA)])
    row = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (row["section"], row["case"]) == ("entropy", "small")
    assert row["seconds"]["ours"] > 0
    assert measure("entropy", "small", DATA)["ratio"] == {}


def test_without_data_noise_is_measured(tmp_path):
    assert all(name.startswith("noise") for name in speed.entropy_cases(tmp_path))
    assert len(speed.entropy_cases(tmp_path)) > 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--sections", "all"],
            "`sections` must be among entropy, pairs, matching, contrast, embedding, feeding, got 'all'",
        ),
        (["--data", "/nowhere"], "`data` must be a folder with `ceph/train` and `afids`, got '/nowhere'"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        main(arguments)
