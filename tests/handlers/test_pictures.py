from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_infoaug.handlers import TIER_COLOURS, PairPictureHandler, draw_pair

to_hex = pytest.importorskip("matplotlib.colors", reason="pictures need matplotlib").to_hex
Engine = pytest.importorskip("ignite.engine", reason="trainers need ignite").Engine


def pair(size=(8, 6), prefix="", maps=(), batch=None):
    """An item, or a batch, as of RandPairedViewsd with tiers 0 0 0 0 1 2 255; the last point is invalid."""
    generator = torch.Generator().manual_seed(0)
    lead, dims = (() if batch is None else (batch,)), len(size)
    points = torch.rand(*lead, 7, dims, generator=generator) * (torch.tensor(size) - 1)
    points[..., -1, :] = torch.nan
    valid, tiers = torch.ones(*lead, 7, dtype=torch.bool), torch.tensor([0, 0, 0, 0, 1, 2, 255], dtype=torch.uint8)
    valid[..., -1] = False
    item = {
        f"{name}_view{k}": torch.rand(*lead, 1, *size, generator=generator) for name in ("image", *maps) for k in (1, 2)
    }
    item |= {
        "points_view1": points,
        "points_view2": points / 2,
        "points_valid": valid,
        "points_tier": tiers.expand(*lead, 7),
    }
    return {prefix + name: value for name, value in item.items()}


def marks(axes):
    return np.array([line.get_xydata()[0] for line in axes.lines]).reshape(-1, 2)


def test_points_stand_on_both_views_with_axis_0_to_the_right():
    item = pair()
    figure = draw_pair(item, num_points=6)
    first, second = figure.axes
    assert [axes.get_title() for axes in figure.axes] == ["view 1", "view 2"]
    order = [0, 4, 5, 1, 2, 3]  # each tier in turn
    np.testing.assert_allclose(marks(first), item["points_view1"][order], atol=1e-6)
    np.testing.assert_allclose(marks(second), item["points_view2"][order], atol=1e-6)
    assert [line.get_color() for line in first.lines] == [line.get_color() for line in second.lines]
    np.testing.assert_array_equal(first.images[0].get_array(), item["image_view1"][0].T)
    x, y = item["points_view1"][0]  # a pixel (x, y) is image[x, y]
    assert (
        first.images[0].get_array()[round(y.item()), round(x.item())]
        == item["image_view1"][0, x.round().int(), y.round().int()]
    )


@pytest.mark.parametrize("number", [0, 1, 3, 100])
def test_as_many_points_as_asked_for_and_valid(number):
    item = pair()
    assert len(marks(draw_pair(item, num_points=number).axes[0])) == min(number, 6)
    item["points_valid"][:] = False
    assert len(marks(draw_pair(item, num_points=number).axes[1])) == 0


def panels(figure):
    """The axes of a figure by their titles."""
    return {axes.get_title(): axes for axes in figure.axes if axes.get_title()}


def test_maps_are_drawn_where_they_are_known():
    item = pair(maps=("information", "tiers"))
    item["tiers_view1"] = (item["tiers_view1"] * 3).to(torch.uint8)
    found = panels(draw_pair(item))
    assert list(found) == ["view 1", "view 2", "information of view 1", "tiers of view 1"]
    information, tiers = (found[f"{name} of view 1"] for name in ("information", "tiers"))
    np.testing.assert_array_equal(information.images[0].get_array(), item["information_view1"][0].T)
    np.testing.assert_array_equal(tiers.images[0].get_array(), item["tiers_view1"][0].T)
    shown = tiers.images[0]
    assert [to_hex(shown.cmap(shown.norm(tier))) for tier in range(3)] == [*TIER_COLOURS.values()]


def on_screen(axes, voxel):
    """Where the middle of a voxel is drawn: pixels to the right and down."""
    x, y = axes.transData.transform(voxel)
    return np.array([x, axes.figure.bbox.height - y])


@pytest.mark.parametrize("codes", [None, "RAS", "LPS", "SRA", "PIR"])
def test_volumes_are_drawn_in_three_planes_as_radiologists_look_at_them(codes):
    """The patient's left, back and feet are to the right and down, and millimetres are as long both ways."""
    item, pairs = pair(size=(8, 6, 5), maps=("information",)), ("RL", "AP", "SI")
    world = [next(i for i, ends in enumerate(pairs) if code in ends) for code in codes or "RAS"]
    signs, sides = [1 if code in "RAS" else -1 for code in codes or "RAS"], (1.0, 2.0, 3.0) if codes else (1, 1, 1)
    affine = torch.zeros(4, 4, dtype=torch.float64)
    for axis, (row, sign, side) in enumerate(zip(world, signs, sides, strict=True)):
        affine[row, axis] = sign * side
    affine[3, 3] = 1
    if codes:
        item |= {f"image_view{k}": MetaTensor(item[f"image_view{k}"], affine=affine) for k in (1, 2)}
    figure = draw_pair(item)
    figure.draw_without_rendering()
    found = panels(figure)
    for view, (name, patient) in itertools.product(
        (1, 2), {"axial": (0, 1), "coronal": (0, 2), "sagittal": (1, 2)}.items()
    ):
        axes, image = found[f"view {view}, {name}"], torch.as_tensor(item[f"image_view{view}"])[0]
        across, down = (world.index(axis) for axis in patient)
        cut = 3 - across - down
        through = item[f"points_view{view}"][0, cut].round().long()
        shown = image.select(cut, through) if across < down else image.select(cut, through).T
        np.testing.assert_array_equal(axes.images[0].get_array(), shown.T)
        np.testing.assert_allclose(marks(axes), item[f"points_view{view}"][[0, 4, 5, 1, 2, 3]][:, [across, down]])
        right, below = (on_screen(axes, step) - on_screen(axes, (0, 0)) for step in ((1, 0), (0, 1)))
        assert right[0] * -signs[across] > 0
        assert below[1] * -signs[down] > 0
        assert abs(below[1] / right[0]) == pytest.approx(sides[down] / sides[across], rel=1e-3)
    assert "information of view 1, sagittal" in found
    item["points_valid"][:] = False
    middle = panels(draw_pair(item))
    assert len(marks(middle["view 1, axial"])) == 0


def test_key_and_prefix_and_meta_tensors():
    item = {name.replace("image", "scan"): MetaTensor(value) for name, value in pair(prefix="global_").items()}
    assert len(marks(draw_pair(item, "scan", "global_").axes[0])) == 6


class Writer:
    def __init__(self):
        self.figures = []

    def add_figure(self, *arguments):
        self.figures.append(arguments)


@pytest.mark.parametrize(("every", "epochs"), [(1, [1, 2, 3, 4]), (3, [3])])
def test_handler_draws_the_first_item_every_so_many_epochs(every, epochs):
    batch, writer, engine = pair(batch=2, prefix="a_") | pair(batch=2), Writer(), Engine(lambda engine, batch: None)
    batch["path"] = ["a", "b"]
    PairPictureHandler(writer, prefixes=("a_", ""), every=every, num_points=2).attach(engine)
    engine.run([batch], max_epochs=4)
    assert [(tag, epoch) for tag, _, epoch in writer.figures] == [
        (tag, epoch) for epoch in epochs for tag in ("a_image pair", "image pair")
    ]
    figure = writer.figures[1][1]
    np.testing.assert_allclose(marks(figure.axes[0]), batch["points_view1"][0, [0, 4]], atol=1e-6)


def test_handler_draws_another_image_for_each_prefix():
    batch = {name.replace("image", "small"): value for name, value in pair(batch=1, prefix="a_").items()}
    writer, engine = Writer(), Engine(lambda engine, batch: None)
    PairPictureHandler(writer, ("small", "image"), ("a_", "")).attach(engine)
    engine.run([batch | pair(batch=1)])
    assert [tag for tag, *_ in writer.figures] == ["a_small pair", "image pair"]


def test_handler_writes_to_tensorboard(tmp_path):
    tensorboard = pytest.importorskip("torch.utils.tensorboard")
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with tensorboard.SummaryWriter(str(tmp_path)) as writer:
        engine = Engine(lambda engine, batch: None)
        PairPictureHandler(writer).attach(engine)
        engine.run([pair(batch=1)], max_epochs=2)
    events = event_accumulator.EventAccumulator(str(tmp_path)).Reload()
    assert [event.step for event in events.Images("image pair")] == [1, 2]


@pytest.mark.parametrize("every", [0, 2.5, "2"])
def test_every_below_one(every):
    with pytest.raises(ValueError, match=f"`every` must be a whole number of at least 1, got {every}"):
        PairPictureHandler(None, every=every)
