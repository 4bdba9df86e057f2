"""Pairs of views by random chains of MONAI's spatial transforms: each voxel and point against the source."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest

pytest.importorskip("hypothesis", reason="fuzz tests need hypothesis")

import torch
from hypothesis import strategies as st
from monai import transforms as mt
from monai.data import MetaTensor
from monai.data.utils import set_rnd

from monai_infoaug.transforms import RandPairedViews, RandPairedViewsd
from tests.fuzz.fuzzing import REFUSED, as_numpy, finite, fuzz, odd_images, odd_values, outcome, seeds

PADDING = st.sampled_from(["zeros", "border", "reflection"])
SOME = st.floats(0.05, 1.5)


def spatial_transforms(dims: int) -> st.SearchStrategy:
    """A transform of MONAI that moves voxels."""
    sizes = st.tuples(*[st.integers(6, 24)] * dims)
    elastic = (
        st.builds(
            mt.Rand2DElastic,
            spacing=st.just((8, 8)),
            magnitude_range=st.just((0, 3)),
            prob=st.just(1.0),
            padding_mode=PADDING,
        )
        if dims == 2
        else st.builds(
            mt.Rand3DElastic,
            sigma_range=st.just((3, 5)),
            magnitude_range=st.just((0, 30)),
            prob=st.just(1.0),
            padding_mode=PADDING,
        )
    )
    return st.one_of(
        st.builds(
            mt.RandAffine,
            prob=st.just(1.0),
            rotate_range=SOME,
            scale_range=st.floats(0, 0.4),
            shear_range=st.floats(0, 0.3),
            translate_range=st.floats(0, 5),
            padding_mode=PADDING,
        ),
        st.builds(mt.RandRotate, SOME, prob=st.just(1.0), keep_size=st.booleans(), padding_mode=PADDING),
        st.builds(
            mt.RandZoom, prob=st.just(1.0), min_zoom=st.just(0.7), max_zoom=st.just(1.5), keep_size=st.booleans()
        ),
        st.builds(mt.RandFlip, prob=st.just(1.0), spatial_axis=st.integers(0, dims - 1)),
        st.builds(mt.RandAxisFlip, prob=st.just(0.8)),
        st.builds(mt.RandRotate90, prob=st.just(1.0)),
        st.builds(mt.RandGridDistortion, prob=st.just(1.0), distort_limit=st.floats(0.01, 0.3), padding_mode=PADDING),
        elastic,
        st.builds(mt.Resize, sizes, mode=st.just("bilinear" if dims == 2 else "trilinear")),
        st.builds(mt.SpatialPad, sizes, mode=st.sampled_from(["constant", "reflect", "edge", "wrap"])),
        st.builds(mt.CenterSpatialCrop, sizes),
        st.builds(mt.RandSpatialCrop, sizes),
        st.builds(mt.ResizeWithPadOrCrop, sizes),
        st.builds(mt.Spacing, st.tuples(*[st.floats(0.6, 1.6)] * dims)),
        st.builds(mt.Transpose, st.just((0, 2, 1) if dims == 2 else (0, 3, 1, 2))),
        st.builds(mt.Identity),
    )


@st.composite
def chains(draw: st.DrawFn, dims: int):
    """No transform, one, or several in a row."""
    steps = draw(st.lists(spatial_transforms(dims), max_size=3))
    if not steps:
        return None
    return steps[0] if len(steps) == 1 and draw(st.booleans()) else mt.Compose(steps)


def read_at(image, coords):
    """Values (C, *R) of an image at coordinates, linear between the voxels."""
    scipy = pytest.importorskip("scipy.ndimage")
    return np.stack(
        [scipy.map_coordinates(channel, coords, order=1, mode="nearest") for channel in image.astype(float)]
    )


@fuzz(data=st.data(), dims=st.sampled_from([2, 2, 3]), seed=seeds, points=st.sampled_from([0, 1, 20]))
def test_every_voxel_and_point_shows_what_it_says(data, dims, seed, points):
    shape = data.draw(st.tuples(*[st.integers(10, 24 if dims == 2 else 14)] * dims), label="shape")
    both = data.draw(st.tuples(chains(dims), chains(dims)), label="chains")
    size = data.draw(st.sampled_from([None, 8, (12,) * dims, ((10,) * dims, None), 40]), label="roi_size")
    sampling = data.draw(st.sampled_from([{}, {"gamma": 2.0}, {"shares": (0.2, 0.3, 0.5)}]), label="sampling")
    random = np.random.default_rng(seed % 1000)
    image = random.normal(size=(2, *shape)).astype(data.draw(st.sampled_from(["f4", "f8"])))
    numbers = np.arange(np.prod(shape)).reshape(1, *shape)
    tiers = random.integers(0, 3, (1, *shape)).astype(np.uint8)
    mask = (random.random((1, *shape)) < 0.9).astype(np.uint8)
    item = {"image": image, "label": numbers, "information": random.random((1, *shape)), "tiers": tiers, "mask": mask}
    if data.draw(st.booleans(), label="tensors"):
        item = {name: MetaTensor(torch.from_numpy(value)) for name, value in item.items()}
    pair = RandPairedViewsd(
        ("image", "label"), spatial=deepcopy(both), roi_size=size, num_points=points, mask_key="mask", **sampling
    ).set_random_state(seed % 1000)
    views = outcome(lambda: pair(dict(item)))
    assert views is not REFUSED or any(chain is not None for chain in both)
    if views is REFUSED:
        return
    for k in (1, 2):
        coords, valid = as_numpy(views[f"coords_view{k}"]), as_numpy(views[f"valid_view{k}"])[0] > 0
        at = coords[:, valid]
        assert ((at >= -1e-4) & (at <= np.array(shape)[:, None] - 1 + 1e-4)).all()
        np.testing.assert_allclose(as_numpy(views[f"image_view{k}"])[:, valid], read_at(image, at), atol=2e-3)
        clear = np.abs(at - np.floor(at) - 0.5).min(0) > 1e-3  # of which voxel is nearest
        nearest = numbers[(0, *np.rint(at).astype(int))]
        assert np.array_equal(as_numpy(views[f"label_view{k}"])[0][valid][clear], nearest[clear])
        density = as_numpy(views[f"sampling_view{k}"])[0]
        assert density.min() >= 0
        assert not density[~valid].any()
        assert density.sum() == pytest.approx(1, abs=1e-4) or not density.any()
        if size is None:  # the same as the chain makes of the coordinates
            chain, grid = deepcopy(both[k - 1]), np.concatenate([np.indices(shape), np.ones((1, *shape))]).astype("f4")
            set_rnd(chain, pair.draw.spatial_seeds[k - 1])
            made = as_numpy(MetaTensor(grid) if chain is None else chain(MetaTensor(grid)))
            whole = made[-1][valid] > 1 - 1e-4  # nothing that a step has padded is mixed in
            np.testing.assert_allclose(made[:-1][:, valid][:, whole], at[:, whole], atol=0.02)
    if not points:
        return
    there = as_numpy(views["points_valid"]) > 0
    first, second = (as_numpy(views[f"points_view{k}"]) for k in (1, 2))
    assert np.isfinite(first[there]).all()
    assert np.isnan(first[~there]).all()
    assert (as_numpy(views["points_tier"])[~there] == 255).all()
    if there.any():
        coords = [as_numpy(views[f"coords_view{k}"]) for k in (1, 2)]
        shown = [read_at(each, p[there].T) for each, p in zip(coords, (first, second), strict=True)]
        # between what is shown and what is padded nothing tells
        whole = [read_at(each > -1, p[there].T).min(0) > 0.999 for each, p in zip(coords, (first, second), strict=True)]
        apart = np.linalg.norm(shown[0] - shown[1], axis=0)
        assert apart[whole[0] & whole[1]].max(initial=0) < 0.06
        clear = (np.abs(shown[0] - np.floor(shown[0]) - 0.5).min(0) > 1e-2) & whole[0]
        place = (0, *np.rint(shown[0]).astype(int))
        assert np.array_equal(as_numpy(views["points_tier"])[there][clear], tiers[place][clear])
        assert (mask[place][clear] > 0).all()


@fuzz(data=st.data(), seed=st.integers(0, 100), prob=st.sampled_from([0.0, 1.0]))
def test_odd_images_give_views_of_their_kind_or_are_refused(data, seed, prob):
    image, values = data.draw(odd_images(least=1, most=12))
    turn = mt.RandAffine(prob=prob, rotate_range=0.3)
    pair = RandPairedViews(spatial=turn, num_points=3, roi_size=data.draw(st.sampled_from([None, 4])))
    views = outcome(lambda: pair.set_random_state(seed)(image))
    assert (views is not REFUSED) == (finite(values) and values.size > 0 and min(values.shape[1:]) > 1)
    if views is REFUSED:
        return
    assert type(views["view1"]) is type(image)
    assert np.isfinite(as_numpy(views["view2"])).all()
    same = outcome(lambda: pair(image, draw=pair.draw))
    assert all(np.array_equal(as_numpy(value), as_numpy(same[key]), equal_nan=True) for key, value in views.items())


CHANGE = [
    mt.RandGaussianNoise(prob=1.0),
    mt.RandScaleIntensity(0.5, prob=1.0),
    mt.ScaleIntensity(),
    mt.Lambda(torch.exp),
]
NO_CHAINS = [mt.RandGridPatch((4, 4)), mt.SplitDim(), mt.ToNumpy(), mt.CropForeground(), mt.FillHoles()]


@fuzz(which=st.integers(0, len(CHANGE) + len(NO_CHAINS) - 1), before=st.booleans(), seed=st.integers(0, 20))
def test_what_moves_no_voxels_is_refused(which, before, seed):
    step = [*CHANGE, *NO_CHAINS][which]
    chain = mt.Compose([step, mt.RandFlip(1.0)] if before else [mt.RandFlip(1.0), step])
    image = torch.rand(1, 16, 16)
    views = outcome(lambda: RandPairedViews(spatial=chain, num_points=4).set_random_state(seed)(image))
    if which < len(CHANGE):
        assert views is REFUSED


@fuzz(data=st.data())
def test_odd_arguments_of_a_call(data):
    image = np.random.default_rng(0).random((1, 8, 8))
    maps = {name: np.ones((1, 8, 8)) for name in ("information", "tiers", "mask")}
    name = data.draw(st.sampled_from([*maps, "image", "draw"]))
    call = {"image": image, **maps, name: data.draw(odd_values)}
    views = outcome(lambda: RandPairedViews(num_points=2, gamma=1.0)(**call))
    if views is not REFUSED:
        assert np.isfinite(as_numpy(views["view1"])).all()
