"""Smooth deformations in closed form, against what MONAI's transforms make of the identity."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import (
    Affine,
    Compose,
    Rand2DElastic,
    Rand3DElastic,
    RandFlip,
    RandomizableTransform,
)

from monai_infoaug.transforms import RandPairedViews, _twins
from monai_infoaug.transforms._chains import read_chain, run_on_coordinates
from monai_infoaug.transforms._fields import AffineField, SampledField, SmoothField, spatial_field
from tests.transforms.coordinate_maps import needs_numba

SHAPES = {2: (61, 54), 3: (20, 17, 18)}
FREE = {"rotate_range": [0.3] * 3, "shear_range": [0.1] * 6, "translate_range": [2] * 3, "scale_range": [0.1] * 3}


def elastic(dims: int, **settings):
    settings = {"prob": 1.0, "padding_mode": "zeros"} | settings
    if dims == 2:
        return Rand2DElastic(settings.pop("spacing", (12, 9.5)), (0.5, 2), **settings)
    return Rand3DElastic((2, 3), (5, 15), **settings)


CHAINS = {
    "alone": elastic,
    "turned": lambda dims: elastic(dims, **{name: value[: 6 if dims == 3 else 2] for name, value in FREE.items()}),
    "smaller": lambda dims: elastic(dims, spatial_size=[n - 6 for n in SHAPES[dims]], mode="nearest"),
    "larger": lambda dims: elastic(dims, spatial_size=[n + 5 for n in SHAPES[dims]]),
    "after others": lambda dims: Compose(
        [RandFlip(1.0, 0), Affine(scale_params=[1.3] * dims, padding_mode="zeros", image_only=True), elastic(dims)]
    ),
}


def identity(dims: int) -> MetaTensor:
    return MetaTensor(torch.zeros(1, *SHAPES[dims]))


@pytest.mark.parametrize("compiled", [pytest.param(True, marks=needs_numba), False])
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", CHAINS)
def test_a_deformation_is_that_of_monai(name, dims, compiled, monkeypatch):
    if not compiled:
        monkeypatch.setattr(_twins, "_twin", lambda name: None)
    chain, source = CHAINS[name](dims), identity(dims)
    field = spatial_field(chain, 7, source, None, 0.1)
    assert type(field) is SmoothField
    coords, inside = field.coordinates(field.whole)
    last = chain.transforms[-1] if isinstance(chain, Compose) else chain
    last.mode = "bilinear"  # coordinates that are rounded tell little
    # MONAI, too, draws the nodes of 2D when it is called; in 3D it takes what was drawn
    monkeypatch.setattr(last, "randomize", lambda *_, **__: RandomizableTransform.randomize(last, None))
    expected, within = run_on_coordinates(chain, 7, source)
    both = inside & within
    assert both.float().mean() > 0.3
    assert not (within & ~inside).any()
    assert (inside ^ within).float().mean() < 0.2  # MONAI's fade at the border
    apart = (coords - expected)[:, both].abs().amax(0)
    assert apart.max() < 0.05  # at the border zeros have faded MONAI's
    assert apart.quantile(0.97) < 1e-3
    window = tuple(slice(2, n - 1, 3) for n in field.shape)
    for part, whole in zip(field.coordinates(window), (coords, inside), strict=True):
        torch.testing.assert_close(part, whole[(..., *window)], atol=1e-4, rtol=0)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_view_larger_than_the_deformation_is_padded(dims):
    sizes = [n - 6 for n in SHAPES[dims]]
    field = spatial_field(elastic(dims, spatial_size=sizes), 1, identity(dims), [n + 3 for n in sizes], 0.1)
    coords, inside = field.coordinates(field.whole)
    assert coords.shape[1:] == inside.shape == field.shape == tuple(n + 3 for n in sizes)
    assert inside.any()
    for axis in range(dims):
        assert not inside.narrow(axis, sizes[axis], 3).any()
        assert (coords.narrow(axis + 1, sizes[axis], 3) == -2).all()


@pytest.mark.parametrize("dims", [2, 3])
def test_what_does_nothing_is_a_crop_around_the_centre(dims):
    sizes = [n - 6 for n in SHAPES[dims]]
    field = spatial_field(elastic(dims, prob=0.0, spatial_size=sizes), 1, identity(dims), None, 0.1)
    assert type(field) is AffineField
    coords, inside = field.coordinates(field.whole)
    assert inside.all()
    assert coords[(slice(None), *[0] * dims)].tolist() == [3.0] * dims


@pytest.mark.parametrize(
    "chain",
    [
        elastic(2, padding_mode="border"),
        pytest.param(
            elastic(2, mode=3), marks=pytest.mark.skipif(not find_spec("scipy"), reason="MONAI's splines need scipy")
        ),
        Compose([elastic(2), RandFlip(1.0, 0)]),
    ],
)
def test_others_go_through_monai(chain):
    source = identity(2)
    assert read_chain(chain, 0, source) is None
    assert type(spatial_field(chain, 0, source, None, 0.1)) is SampledField


@pytest.mark.parametrize("dims", [2, 3])
def test_draws_follow_the_seed_and_the_ranges(dims):
    pair = RandPairedViews(None, elastic(dims), num_points=0)
    image = torch.rand(1, *SHAPES[dims])
    views = [pair.set_random_state(seed)(image) for seed in (0, 0, 1)]
    assert torch.equal(views[0]["coords_view1"], views[1]["coords_view1"])
    assert not torch.equal(views[0]["coords_view1"], views[2]["coords_view1"])
    assert not torch.equal(views[0]["coords_view1"], views[0]["coords_view2"])
    if dims == 3:
        stage = pair.spatial[0]
        assert -1 <= stage.rand_offset.min() < -0.99
        assert 0.99 < stage.rand_offset.max() <= 1
        assert 5 <= stage.magnitude <= 15
        assert 2 <= stage.sigma <= 3
