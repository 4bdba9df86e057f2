from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch.optim.lr_scheduler import OneCycleLR

from monai_infoaug.engines import OneCycle


def rates(make, steps: int, **kwargs) -> list[float]:
    """Learning rates and momenta of a training of so many steps."""
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    schedule, seen = make(optimizer, 0.1, total_steps=steps + 1, **kwargs), []
    for _ in range(steps):
        seen += [optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["betas"][0]]
        optimizer.step()
        schedule.step()
    return seen


@pytest.mark.parametrize("steps", [1, 2, 5, 8, 10, 11, 57])
def test_is_pytorchs(steps):
    assert rates(OneCycle, steps) == rates(OneCycleLR, steps, pct_start=0.1)


@pytest.mark.parametrize(("steps", "share"), [(9, 0.1), (3, 0.25), (1, 0.5), (0, 1.0), (2, 1 / 3)])
def test_a_warm_up_of_one_step(steps, share):
    seen = rates(OneCycle, steps, pct_start=share)[::2]
    assert seen[:1] == pytest.approx([0.1][:steps])
    assert seen == sorted(seen, reverse=True)
    assert all(0 < rate <= 0.1 for rate in seen)


def schedules(settings, name: str = "") -> list[dict]:
    """Schedules of the learning rate anywhere in a configuration."""
    if name == "lr_scheduler":
        return [settings]
    return [each for key in settings for each in schedules(settings[key], key)] if isinstance(settings, dict) else []


def test_every_training_of_the_bundles_starts_however_short():
    found = [
        schedule
        for file in (Path(__file__).parents[2] / "examples").glob("*/configs/*.json")
        for schedule in schedules(json.loads(file.read_text(encoding="utf-8")))
        if isinstance(schedule, dict) and schedule["_target_"] != "torch.optim.lr_scheduler.ChainedScheduler"
    ]
    assert len(found) == 12
    for schedule in found:
        assert schedule["_target_"] == "monai_infoaug.engines.OneCycle"
        assert schedule["total_steps"].endswith(" + 1")
        assert all(len(rates(OneCycle, steps, pct_start=schedule["pct_start"])) == 2 * steps for steps in range(13))


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_lr", math.nan), ("max_lr", [0.1, -1]), ("total_steps", 2.5), ("total_steps", 0), ("pct_start", 1.5)],
)
def test_bad_arguments(name, value):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.1, momentum=0.9)
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        OneCycle(optimizer, **{"max_lr": 0.1, "total_steps": 5, name: value})
