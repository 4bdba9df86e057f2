"""Paired views: every statement about a pair is checked against an independent computation."""

from __future__ import annotations

import pickle
from copy import deepcopy
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.transforms import (
    Affine,
    BorderPad,
    CenterSpatialCrop,
    Compose,
    CropForeground,
    Flip,
    Flipd,
    Lambda,
    OneOf,
    Rand2DElastic,
    Rand3DElastic,
    RandAffine,
    RandAxisFlip,
    RandFlip,
    RandGaussianNoise,
    RandGridDistortion,
    Randomizable,
    RandRotate,
    RandRotate90,
    RandSpatialCrop,
    RandSpatialCropSamples,
    RandZoom,
    Resize,
    Rotate,
    Rotate90,
    Rotated,
    ScaleIntensity,
    SpatialCrop,
    SpatialPad,
    Transform,
)

from monai_infoaug.transforms import (
    InformationMapd,
    InformationTiersd,
    RandPairedViews,
    RandPairedViewsd,
    RandTierIntensity,
    _chains,
    _twins,
)

SHAPES = {2: (40, 34), 3: (18, 16, 17)}


def chain(name: str, dims: int, padding_mode: str = "zeros") -> Any:
    pad = {"padding_mode": padding_mode}
    if name == "elastic":
        if dims == 2:
            return Rand2DElastic(spacing=(12, 12), magnitude_range=(0.5, 1.5), prob=1.0, rotate_range=0.2, **pad)
        return Rand3DElastic(sigma_range=(2, 3), magnitude_range=(5, 15), prob=1.0, **pad)
    each = {
        "rigid": lambda: RandRotate(*[0.4] * 3, prob=1.0, **pad),
        "affine": lambda: RandAffine(1.0, 0.3, 0.1, 3.0, 0.2, **pad),
        "flip": lambda: Flip(spatial_axis=0),
        "crop": lambda: RandSpatialCrop([n - 4 for n in SHAPES[dims]], random_size=False),
        "zoom": lambda: RandZoom(1.0, 1.2, 1.5, mode="bilinear" if dims == 2 else "trilinear", align_corners=True),
        "distortion": lambda: RandGridDistortion(num_cells=3, prob=1.0, distort_limit=0.15, **pad),
    }
    if name == "four":
        return Compose([each["flip"](), each["affine"](), chain("elastic", dims), each["crop"]()])
    return each[name]()


CHAINS = ["rigid", "affine", "flip", "crop", "zoom", "distortion", "elastic", "four"]


def smooth(shape: tuple[int, ...], channels: int = 2) -> torch.Tensor:
    """A deterministic image in [0, 1] that differs everywhere."""
    grids = np.meshgrid(*[np.arange(n) for n in shape], indexing="ij")
    waves = [np.prod([np.sin(0.5 * (c + 1) * g + a) for a, g in enumerate(grids)], 0) for c in range(channels)]
    return torch.from_numpy(np.stack(waves) / 2 + 0.5).float()


def multilinear(image: np.ndarray, coords: np.ndarray) -> np.ndarray:
    """Oracle: image (C, *S) at coordinates (D, n) inside of it, in float64."""
    coords = coords.astype(np.float64)
    size = np.array(image.shape[1:]).reshape(-1, 1)
    base = np.clip(np.floor(coords), 0, size - 2).astype(int)
    total = np.zeros((len(image), coords.shape[1]))
    for corner in product((0, 1), repeat=len(size)):
        step = np.array(corner).reshape(-1, 1)
        weight = np.where(step == 1, coords - base, 1 - (coords - base)).prod(0)
        total += weight * image[(slice(None), *(base + step))]
    return total


def pair_of(name: str, dims: int, seed: int = 0, **kwargs: Any) -> tuple[torch.Tensor, dict[str, Any]]:
    image = smooth(SHAPES[dims])
    roi = tuple(n * 3 // 4 for n in SHAPES[dims])
    pair = RandPairedViews(roi, chain(name, dims), **{"num_points": 60, "min_overlap": 0.1, **kwargs})
    return image, pair.set_random_state(seed)(image)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", CHAINS)
def test_a_view_is_the_source_at_its_coordinates(name: str, dims: int) -> None:
    image, pair = pair_of(name, dims)
    for k in (1, 2):
        valid, coords = pair[f"valid_view{k}"][0], pair[f"coords_view{k}"]
        assert valid.float().mean() > 0.3
        assert coords.dtype == torch.float32
        assert valid.dtype == torch.bool
        expected = multilinear(image.numpy(), coords[:, valid].numpy())
        np.testing.assert_allclose(pair[f"view{k}"][:, valid].numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", CHAINS)
def test_coordinates_are_what_the_chain_does(name: str, dims: int) -> None:
    """A linear image is moved exactly by every linear interpolation, so the chain itself must show the coordinates."""
    shape = SHAPES[dims]
    grids = torch.stack(torch.meshgrid(*[torch.arange(n).float() for n in shape], indexing="ij"))
    transform = chain(name, dims)
    pair = RandPairedViews(None, transform, num_points=0, min_overlap=0).set_random_state(2)
    views = pair(grids)
    for k in (1, 2):
        coords, valid = views[f"coords_view{k}"], views[f"valid_view{k}"][0]
        torch.testing.assert_close(views[f"view{k}"][:, valid], coords[:, valid], atol=2e-3, rtol=0)
        if isinstance(transform, (Rand2DElastic, Rand3DElastic)):
            continue  # drawn in another way: `test_elastic.py` compares it
        if isinstance(transform, Randomizable):
            transform.set_random_state(pair.draw.spatial_seeds[k - 1])
        chained = torch.as_tensor(transform(grids))
        torch.testing.assert_close(chained[:, valid], coords[:, valid], atol=2e-3, rtol=0)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", CHAINS)
def test_points_correspond(name: str, dims: int) -> None:
    _, pair = pair_of(name, dims)
    valid = pair["points_valid"]
    assert valid.sum() > 20
    source = [multilinear(pair[f"coords_view{k}"].numpy(), pair[f"points_view{k}"][valid].T.numpy()) for k in (1, 2)]
    assert np.linalg.norm(source[0] - source[1], axis=0).max() < 0.05
    for k in (1, 2):
        points = pair[f"points_view{k}"]
        assert points[~valid].isnan().all()
        assert points.dtype == torch.float32
        shown = multilinear(pair[f"valid_view{k}"].double().numpy(), points[valid].T.numpy())
        assert shown.min() > 0.98  # all interpolation neighbours are valid
    assert (points[valid].T >= 0).all()
    first = pair["points_view1"][valid]
    assert first.equal(first.round())
    assert len(first.unique(dim=0)) == len(first)
    assert (pair["points_tier"] == torch.where(valid, 0, 255)).all()


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", ["affine", "elastic", "four"])
def test_sampling_is_where_a_brute_force_search_finds_a_partner(name: str, dims: int) -> None:
    _, pair = pair_of(name, dims)
    sources = [pair[f"coords_view{k}"][:, pair[f"valid_view{k}"][0]].T for k in (1, 2)]
    distance = torch.cdist(sources[0], sources[1])
    for k, nearest in ((1, distance.amin(1)), (2, distance.amin(0))):
        density, valid = pair[f"sampling_view{k}"], pair[f"valid_view{k}"]
        assert density[~valid].abs().max() == 0 if (~valid).any() else True
        assert density.sum().item() == pytest.approx(1, abs=1e-5)
        assert (density[density > 0] - density.max()).abs().max() < 1e-9  # uniform
        shared = density[0][valid[0]] > 0
        assert nearest[shared].max() < 2.0  # some voxel of the other view's cell is near
        assert (nearest < 0.2)[~shared].float().mean() < 0.05  # only beside the other view's border


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("name", ["affine", "elastic"])
def test_nothing_valid_is_folded_or_double(name: str, padding_mode: str, dims: int) -> None:
    shape = SHAPES[dims]
    pair = RandPairedViews(None, chain(name, dims, padding_mode), min_overlap=0).set_random_state(4)(smooth(shape))
    for k in (1, 2):
        coords, valid = pair[f"coords_view{k}"].double(), pair[f"valid_view{k}"][0]
        assert valid.float().mean() > 0.3
        jacobian = torch.stack(torch.gradient(coords, dim=list(range(1, dims + 1))), -1).movedim(0, -2)
        sound = torch.linalg.det(jacobian)
        inner = valid.clone()  # whose neighbours are valid too, so that the central difference means something
        for axis, step in product(range(dims), (1, -1)):
            inner &= valid.roll(step, axis)
        assert (sound[inner] / sound[inner].median()).min() > 0.1
        voxels, source = valid.nonzero().double(), coords[:, valid].T
        for part, origin in zip(source.split(500), voxels.split(500), strict=True):
            near = torch.cdist(part, source) < 0.2
            assert torch.cdist(origin, voxels)[near].max() < 2.5


def test_padding_shows_the_source_once() -> None:
    """Zooming out with reflection shows the image several times; only the middle one counts."""
    image = smooth((20, 20))
    pair = RandPairedViews(None, Compose([SpatialPad((34, 34), mode="reflect")]), num_points=400)(image)
    inside = torch.zeros(34, 34, dtype=torch.bool)
    inside[7:27, 7:27] = True
    valid = pair["valid_view1"][0]
    assert not (valid & ~inside).any()
    assert valid[8:26, 8:26].all()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
def test_labels_are_resampled_nearest(dtype: torch.dtype) -> None:
    image = smooth((40, 34), 1)
    label = (torch.arange(40 * 34).view(1, 40, 34) // 7 % 200).to(dtype)
    if dtype == torch.int64:
        label += 2**40
    pair = RandPairedViewsd(["image", "label"], roi_size=(30, 28), spatial=chain("affine", 2), num_points=0)
    views = pair.set_random_state(1)({"image": image, "label": label})
    for k in (1, 2):
        view, valid, coords = (views[f"{name}_view{k}"] for name in ("label", "valid", "coords"))
        assert view.dtype == dtype
        at = coords[:, valid[0]].round().long()
        assert view[:, valid[0]].equal(label[:, at[0], at[1]])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_float_types_are_kept(dtype: torch.dtype) -> None:
    pair = RandPairedViews((20, 20), chain("affine", 2), RandGaussianNoise(1.0)).set_random_state(0)
    assert pair(smooth((40, 34)).to(dtype))["view2"].dtype == dtype


def tiers_and_information(shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    tiers = torch.zeros(1, *shape, dtype=torch.uint8)
    tiers[:, 12:] = 1
    tiers[:, 24:] = 2
    return tiers, smooth(shape, 1) * 5


def tier_at(tiers: torch.Tensor, coords: torch.Tensor) -> torch.Tensor:
    at = coords.round().long().clamp_min(0)
    return tiers[0][tuple(at)]


def test_sampling_follows_the_shares() -> None:
    tiers, _ = tiers_and_information((40, 34))
    shares = (0.1, 0.3, 0.6)
    pair = RandPairedViews((36, 30), chain("affine", 2), shares=shares, num_points=300).set_random_state(3)
    views = pair(smooth((40, 34)), tiers=tiers)
    for k in (1, 2):
        tier, density = tier_at(tiers, views[f"coords_view{k}"]), views[f"sampling_view{k}"][0]
        for t, share in enumerate(shares):
            assert density[tier == t].sum().item() == pytest.approx(share, abs=1e-5)
            positive = density[(tier == t) & (density > 0)]
            assert positive.max() - positive.min() < 1e-8
    points = views["points_view1"].long()
    assert views["points_tier"].equal(tier_at(tiers, views["coords_view1"])[points[:, 0], points[:, 1]])


@pytest.mark.parametrize("number", [10, 512, 3000])
@pytest.mark.parametrize("rare", [0.01, 0.3])
def test_points_hold_the_shares(rare: float, number: int) -> None:
    """To a point, also of a tier that is hardly there, as long as it has enough voxels."""
    shares, size = (0.1, 0.45, 0.45), (120, 100)
    tiers = torch.where(torch.rand(1, *size) < rare, 0, torch.randint(1, 3, (1, *size))).to(torch.uint8)
    pair = RandPairedViews((-1, -1), shares=shares, num_points=number).set_random_state(0)
    drawn, views = torch.zeros(3), [pair(smooth(size), tiers=tiers) for _ in range(3)]
    for view in views:
        drawn += view["points_tier"].bincount(minlength=3)[:3]
        found = view["points_view1"].long()
        assert len({tuple(point) for point in found.tolist()}) == number  # each once
        assert torch.equal(tiers[0][tuple(found.T)], view["points_tier"])
    expected = 3 * number * torch.tensor(shares)
    few = int((tiers == 0).sum())
    expected[0] = min(expected[0], 3 * few)
    assert (drawn - expected)[0].abs() <= 3
    assert drawn[1] - drawn[2] == pytest.approx(0, abs=0.05 * 3 * number if few < shares[0] * number else 3)
    if number < few:
        places = [view["points_view1"][view["points_tier"] == 0].long() for view in views]
        assert not torch.equal(places[0], places[1])


def test_points_of_a_tier_are_drawn_evenly() -> None:
    tiers = torch.zeros(1, 10, 12, dtype=torch.uint8)
    tiers[:, 2:] = 1
    tiers[:, 7:] = 2
    pair, counts = RandPairedViews(shares=(0.1, 0.5, 0.4), num_points=20).set_random_state(1), torch.zeros(10, 12)
    for _ in range(150):
        counts[tuple(pair(smooth((10, 12)), tiers=tiers)["points_view1"].long().T)] += 1
    for rows, share in ((slice(0, 2), 0.1), (slice(2, 7), 0.5), (slice(7, 10), 0.4)):
        each = counts[rows]
        assert each.sum() == 3000 * share
        assert ((each - each.mean()) ** 2 / each.mean()).sum() < 1.5 * each.numel()  # chi square


def test_missing_tiers_give_their_share_to_the_others() -> None:
    tiers = torch.zeros(1, 30, 30, dtype=torch.uint8)
    tiers[:, 15:] = 2
    views = RandPairedViews(shares=(0.2, 0.4, 0.4))(smooth((30, 30)), tiers=tiers)
    assert views["sampling_view1"][0, :15].sum().item() == pytest.approx(1 / 3, abs=1e-5)
    only = RandPairedViews(shares=(0.0, 1.0, 0.0))(smooth((30, 30)), tiers=tiers)  # nothing left: uniform
    torch.testing.assert_close(only["sampling_view1"], torch.full((1, 30, 30), 1 / 900))


def test_sampling_follows_gamma() -> None:
    _, information = tiers_and_information((40, 34))
    pair = RandPairedViews(None, chain("affine", 2), gamma=0.3).set_random_state(3)
    views = pair(smooth((40, 34)), information=information)
    density, coords = views["sampling_view1"][0], views["coords_view1"]
    shared = density > 0
    expected = multilinear(information.numpy(), coords[:, shared].numpy())[0] ** 0.3
    np.testing.assert_allclose(density[shared], expected / expected.sum(), rtol=2e-3, atol=1e-7)


def test_points_are_drawn_by_the_density() -> None:
    information = torch.ones(1, 20, 20)
    information[:, :10] = 3.0
    pair = RandPairedViews(gamma=1.0, num_points=10).set_random_state(0)
    points = [pair(smooth((20, 20)), information=information)["points_view1"][:, 0] for _ in range(60)]
    share = float((torch.stack(points) < 10).float().mean())
    assert share == pytest.approx(0.75, abs=0.06)  # standard error 0.018


@pytest.mark.parametrize("kind", [np.int64, np.int16])
def test_a_number_of_points_of_any_whole_number_type(kind) -> None:
    data = {"image": smooth((20, 20))}
    pairs = [RandPairedViewsd("image", num_points=count).set_random_state(0)(data) for count in (3, kind(3))]
    assert pairs[0].keys() == pairs[1].keys()
    assert torch.equal(*(pair["points_view1"] for pair in pairs))
    assert "points_view1" not in RandPairedViewsd("image", num_points=kind(0))(data)


@pytest.mark.parametrize("keys", ["b", ["a", "b"], [["a"], ["a", "b"]], [{}], [np.ones(2)]])
def test_intensity_keys_are_among_the_keys(keys) -> None:
    with pytest.raises(ValueError, match=r"`intensity_keys` must be among the keys \('a',\), got"):
        RandPairedViewsd("a", intensity_keys=keys)
    assert RandPairedViewsd(["a", "b"], intensity_keys=["b"]).intensity_keys == ("b",)


def test_too_few_candidates_are_marked() -> None:
    mask = torch.zeros(1, 20, 20)
    mask[:, 5, 5:9] = 1
    views = RandPairedViews(num_points=10)(smooth((20, 20)), mask=mask)
    assert views["points_valid"].tolist() == [True] * 4 + [False] * 6
    assert views["points_tier"].tolist() == [0] * 4 + [255] * 6
    assert views["points_view2"][4:].isnan().all()
    assert (views["points_view1"][:4, 0] == 5).all()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"gamma": 0.3},
        {"shares": (0.8, 0.1, 0.1)},
        {"intensity": RandTierIntensity("rich", mode="anchor")},
        {"intensity": RandTierIntensity("rich"), "shares": (1.0, 0.0, 0.0)},
    ],
)
def test_nothing_is_drawn_outside_of_the_mask(settings) -> None:
    mask = torch.zeros(1, 40, 34, dtype=torch.uint8)
    mask[:, 8:30, 5:22] = 1
    data = {"image": smooth((40, 34)), "mask": mask}
    data = InformationTiersd(mask_key="mask")(InformationMapd("image", window=3, mask_key="mask")(data))
    inside = data["tiers"][mask > 0]
    assert not data["tiers"][mask == 0].any()
    assert not data["information"][mask == 0].any()
    assert inside.bincount(minlength=3).tolist() == pytest.approx([len(inside) / 3] * 3, rel=0.1)  # thirds of the mask
    pair = RandPairedViewsd(
        "image", mask_key="mask", roi_size=(30, 30), spatial=chain("affine", 2), num_points=50, **settings
    )
    for seed in range(4):
        views = pair.set_random_state(seed)(data)
        assert views["points_valid"].any()
        for k in (1, 2):
            shown = views[f"coords_view{k}"][:, views[f"sampling_view{k}"][0] > 0].round().long()
            assert shown.numel()
            assert mask[0, shown[0], shown[1]].all()
        points = views["points_view1"][views["points_valid"]].long()
        source = views["coords_view1"][:, points[:, 0], points[:, 1]].round().long()
        assert mask[0, source[0], source[1]].all()
        tiers = data["tiers"][0, source[0], source[1]]
        assert torch.equal(views["points_tier"][views["points_valid"]], tiers)


def test_mask_of_ones_changes_nothing() -> None:
    tiers, information = tiers_and_information((40, 34))
    pair = RandPairedViews((24, 24), chain("affine", 2), shares=(0.2, 0.3, 0.5))
    plain, masked = (
        pair.set_random_state(0)(smooth((40, 34)), information, tiers, mask) for mask in (None, torch.ones_like(tiers))
    )
    for key, value in plain.items():
        torch.testing.assert_close(masked[key], value, rtol=0, atol=0, equal_nan=True)


def overlap(views: dict[str, torch.Tensor]) -> float:
    valid = views["valid_view2"]
    return ((views["sampling_view2"] > 0) & valid).sum().item() / valid.sum().item()


@pytest.mark.parametrize("spatial", [None, "affine"])
def test_overlap_bound(spatial: str | None) -> None:
    pair = RandPairedViews((16, 14), spatial and chain(spatial, 2), min_overlap=0.4, max_redraws=200, num_points=0)
    pair.set_random_state(0)
    found = [overlap(pair(smooth((40, 34)))) for _ in range(15)]
    assert min(found) >= 0.4
    assert max(found) < 1
    loose = RandPairedViews((16, 14), min_overlap=0.0, num_points=0).set_random_state(0)
    assert min(overlap(loose(smooth((40, 34)))) for _ in range(15)) < 0.4


def test_unmet_overlap_centres_the_second_view() -> None:
    pair = RandPairedViews((11, 9), min_overlap=1.0, max_redraws=0, num_points=0).set_random_state(0)
    for _ in range(5):
        views = pair(smooth((40, 34)))
        assert overlap(views) == 1
        assert views["coords_view1"].equal(views["coords_view2"])


def test_views_without_common_ground() -> None:
    crops = [Lambda(lambda x: x[:, :20]), Lambda(lambda x: x[:, 20:])]
    views = RandPairedViews(spatial=crops, num_points=3)(smooth((40, 34)))
    assert views["sampling_view1"].abs().sum() == 0
    assert not views["points_valid"].any()


def test_published_setting() -> None:
    """A plain whole image against a small, strongly changed crop."""
    pair = RandPairedViews((None, (16, 16)), (None, chain("rigid", 2)), (None, RandGaussianNoise(1.0, std=0.5)))
    image = smooth((40, 34))
    views = pair.set_random_state(0)(image)
    torch.testing.assert_close(views["view1"], image, atol=1e-5, rtol=0)
    assert views["view2"].shape == (2, 16, 16)
    plain = multilinear(image.numpy(), views["coords_view2"].flatten(1).clamp_min(0).numpy()).reshape(2, 16, 16)
    valid = views["valid_view2"][0].numpy()
    assert np.std((views["view2"].numpy() - plain)[:, valid]) == pytest.approx(0.5, rel=0.7)


def test_a_small_chain_output_is_padded() -> None:
    views = RandPairedViews((50, 30))(smooth((40, 34)))
    assert views["view1"].shape == (2, 50, 30)
    assert views["valid_view1"][0, :40].all()
    assert not views["valid_view1"][0, 40:].any()
    assert views["view1"][:, 40:].abs().max() == 0


@pytest.mark.parametrize("shared_object", [True, False])
def test_two_views_differ_and_seeds_repeat(shared_object: bool) -> None:
    first = Compose([OneOf([chain("affine", 2), chain("elastic", 2)]), RandFlip(0.5)])
    spatial = first if shared_object else (first, deepcopy(first))
    noise = RandGaussianNoise(1.0)
    pair = RandPairedViews((24, 24), spatial, noise)
    image = smooth((40, 34))
    before = image.clone()
    one = pair.set_random_state(5)(image)
    two = pickle.loads(pickle.dumps(pair)).set_random_state(5)(image)
    other = pair.set_random_state(6)(image)
    assert image.equal(before)
    for name, value in one.items():
        assert torch.equal(value.nan_to_num(-1), two[name].nan_to_num(-1)), name
    assert not one["coords_view1"].equal(one["coords_view2"])
    assert not one["coords_view1"].equal(other["coords_view1"])
    still = RandPairedViews((40, 34), None, noise).set_random_state(0)(torch.zeros(1, 40, 34))
    assert not still["view1"].equal(still["view2"])


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert list(one) == list(other)
    for name, value in one.items():
        assert torch.equal(torch.as_tensor(value).nan_to_num(-1), torch.as_tensor(other[name]).nan_to_num(-1)), name


@pytest.mark.parametrize("sampling", [{"shares": (0.2, 0.3, 0.5)}, {"gamma": 0.5}])
@pytest.mark.parametrize("outputs", [("coords", "valid", "sampling"), ()])
@pytest.mark.parametrize("name", ["affine", "elastic", "four"])
def test_a_draw_is_all_that_is_random(name: str, outputs: tuple[str, ...], sampling: dict[str, Any]) -> None:
    tiers, information = tiers_and_information((40, 34))
    settings = {"roi_size": (20, 18), "intensity": RandTierIntensity("rich", mode="anchor"), "outputs": outputs}
    pair, other = (RandPairedViews(spatial=chain(name, 2), num_points=9, **settings, **sampling) for _ in range(2))
    pair.set_random_state(0)
    inputs, drawn = (smooth((40, 34)), information, tiers), []
    for _ in range(3):
        views = pair(*inputs)
        drawn.append((pair.draw, views))
    assert len({draw for draw, _ in drawn}) == 3
    state = pair.R.get_state()[1].copy()
    for draw, views in reversed(drawn):
        assert_same(pair(*inputs, draw=draw), views)
        assert_same(other(*inputs, draw=pickle.loads(pickle.dumps(draw))), views)
    assert (pair.R.get_state()[1] == state).all()  # nothing was drawn
    assert pair.draw == drawn[-1][0]


def test_a_draw_repeats_the_pair_of_a_dictionary_and_of_other_images() -> None:
    noise = RandGaussianNoise(1.0)
    pair = RandPairedViewsd(["image", "label"], roi_size=(20, 18), spatial=chain("elastic", 2), intensity=noise)
    pair.set_random_state(0)
    data = {"image": smooth((40, 34)), "label": torch.arange(40 * 34).view(1, 40, 34)}
    views, draw = pair(data), pair.draw
    assert not pair(data)["coords_view1"].equal(views["coords_view1"])
    assert_same(pair(data, draw=draw), views)
    swapped = pair({"image": data["image"].flip(1), "label": data["label"]}, draw=draw)
    assert_same(
        {name: swapped[name] for name in views if "image" not in name},
        {k: v for k, v in views.items() if "image" not in k},
    )
    assert not swapped["image_view1"].equal(views["image_view1"])


class Brighten(Transform):
    """Adds what it was told; stands for any transform that asks for information."""

    takes_information = True

    def __init__(self, mode: str = "blend") -> None:
        self.mode, self.tier = mode, None

    def __call__(self, img: torch.Tensor, information: Any = None, tiers: Any = None, tier: Any = None) -> torch.Tensor:
        self.tier = tier
        return img + tiers


@pytest.mark.parametrize("nested", [False, True])
def test_intensity_sees_the_views_own_tiers(nested: bool) -> None:
    tiers, _ = tiers_and_information((40, 34))
    intensity = Compose([Compose([Brighten()]), Lambda(lambda x: x * 2)]) if nested else Brighten()
    pair = RandPairedViews((30, 30), chain("affine", 2), intensity).set_random_state(0)
    views = pair(torch.zeros(1, 40, 34), tiers=tiers)
    for k in (1, 2):
        valid = views[f"valid_view{k}"]
        expected = tier_at(tiers, views[f"coords_view{k}"])[None].float() * (2 if nested else 1)
        assert views[f"view{k}"][valid].equal(expected[valid])


@pytest.mark.parametrize("shares", [None, (0.0, 0.5, 0.5)])
def test_anchor_mode_draws_one_tier(shares: tuple[float, ...] | None) -> None:
    tiers, _ = tiers_and_information((40, 34))
    intensity = Brighten("anchor")
    pair = RandPairedViews((36, 30), None, intensity, shares=shares, num_points=5).set_random_state(0)
    drawn = []
    for _ in range(40):
        views = pair(torch.zeros(1, 40, 34), tiers=tiers)
        assert set(views["points_tier"].tolist()) == {intensity.tier}
        assert (tier_at(tiers, views["coords_view2"])[views["sampling_view2"][0] > 0] == intensity.tier).all()
        drawn.append(intensity.tier)
    assert set(drawn) == ({1, 2} if shares else {0, 1, 2})


@pytest.mark.parametrize("dims", [2, 3])
def test_affine_of_the_views(dims: int) -> None:
    shape = SHAPES[dims]
    affine = torch.diag(torch.tensor([2.0, 0.5, 3.0, 1.0], dtype=torch.float64))
    affine[:3, 3] = torch.tensor([5.0, -7.0, 11.0])
    image = MetaTensor(smooth(shape), affine=affine, meta={"filename_or_obj": "x.nii"})
    views = RandPairedViews(None, chain("affine", dims)).set_random_state(1)(image)
    for k in (1, 2):
        view, valid = views[f"view{k}"], views[f"valid_view{k}"][0]
        assert isinstance(view, MetaTensor)
        assert view.applied_operations == []
        assert view.pending_operations == []
        assert view.meta["filename_or_obj"] == "x.nii"
        assert view.meta["source_affine"].equal(affine)

        def world(points: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
            padded = torch.zeros(len(points), 4, dtype=torch.float64)
            padded[:, :dims], padded[:, 3] = points, 1
            return padded @ torch.as_tensor(matrix).double().T

        source = world(views[f"coords_view{k}"][:, valid].T.double(), affine)
        torch.testing.assert_close(world(valid.nonzero().double(), view.affine), source, atol=0.03, rtol=0)
    bent = RandPairedViews(None, chain("elastic", dims)).set_random_state(1)(image)["view2"]
    assert bent.affine.equal(torch.eye(4, dtype=bent.affine.dtype))
    assert bent.meta["source_affine"].equal(affine)
    assert image.affine.equal(affine)


def sample(**more: Any) -> dict[str, Any]:
    tiers, information = tiers_and_information((40, 34))
    return {"image": smooth((40, 34)), "tiers": tiers, "information": information, "id": 7, **more}


def test_dictionary_keeps_the_rest_and_drops_the_sources() -> None:
    data = sample(mask=torch.ones(1, 40, 34), other=torch.ones(3))
    keys = set(data)
    views = RandPairedViewsd("image", mask_key="mask", shares=(0.2, 0.3, 0.5), num_points=4)(data)
    assert set(data) == keys
    dense = [f"{name}_view{k}" for name in ("image", "coords", "valid", "sampling", "points") for k in (1, 2)]
    assert set(views) == {*dense, "points_tier", "points_valid", "id", "other"}
    kept = RandPairedViewsd("image", keep_source=True, outputs=("valid",), num_points=0)(data)
    assert set(kept) == {*keys, *[f"{name}_view{k}" for name in ("image", "valid") for k in (1, 2)]}


def test_two_pairs_in_one_dictionary() -> None:
    both = Compose(
        [
            RandPairedViewsd("image", prefix="global_", keep_source=True, roi_size=30),
            RandPairedViewsd("image", prefix="local_", roi_size=12),
        ]
    )
    views = both(sample())
    assert views["global_image_view1"].shape == (2, 30, 30)
    assert views["local_coords_view2"].shape == (2, 12, 12)
    with pytest.raises(ValueError, match="global_image_view1"):
        RandPairedViewsd("image", prefix="global_")({**sample(), "global_image_view1": 0})


@pytest.mark.parametrize("key", ["coords", "valid", "sampling", "points", 1])
def test_two_outputs_of_one_name_are_refused(key: Any) -> None:
    other = "1" if key == 1 else "image"
    with pytest.raises(ValueError, match=rf"`keys` must be .*`a_{key}_view1`.*, got .*{key}"):
        RandPairedViewsd([other, key], prefix="a_")
    if key in ("valid", "sampling"):
        views = RandPairedViewsd(["image", key], outputs="coords")({"image": smooth((9, 9)), key: smooth((9, 9), 1)})
        assert views[f"{key}_view1"].shape == (1, 9, 9)


@pytest.mark.parametrize("name", ["image_view1", "points_tier", "coords_view2"])
def test_no_entry_that_stays_is_replaced(name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}` is not a key already"):
        RandPairedViewsd("image", num_points=2)({"image": smooth((9, 9)), name: 3})


def test_intensity_spares_labels_and_is_one_draw_for_all_keys() -> None:
    noise = RandGaussianNoise(1.0)
    data = {"a": torch.zeros(1, 20, 20), "b": torch.zeros(1, 20, 20), "c": torch.zeros(1, 20, 20)}
    data["label"] = torch.ones(1, 20, 20, dtype=torch.uint8)
    pair = RandPairedViewsd(list(data), mode=(None, None, "nearest", None), intensity=noise).set_random_state(0)
    views = pair(data)
    assert views["a_view1"].equal(views["b_view1"])
    assert views["a_view1"].std() > 0
    assert views["c_view1"].std() == 0
    assert (views["label_view1"] == 1).all()
    some = RandPairedViewsd(list(data), intensity=noise, intensity_keys="b")(data)
    assert some["a_view1"].std() == 0
    assert some["b_view1"].std() > 0


def test_views_of_the_maps_are_not_changed() -> None:
    pair = RandPairedViewsd(["image", "information", "tiers"], intensity=RandGaussianNoise(1.0)).set_random_state(0)
    data = sample()
    views = pair(data)
    torch.testing.assert_close(views["information_view1"], data["information"], atol=1e-4, rtol=0)
    assert views["tiers_view2"].equal(data["tiers"])
    assert not torch.allclose(views["image_view1"], data["image"])
    assert "information" not in views


def test_numpy_in_numpy_out() -> None:
    views = RandPairedViewsd(["image", "label"], roi_size=20)(
        {"image": smooth((40, 34)).numpy(), "label": np.ones((1, 40, 34), np.int16)}
    )
    assert all(isinstance(value, np.ndarray) for value in views.values())
    assert views["label_view1"].dtype == np.int16
    assert views["valid_view1"].dtype == bool


def test_batches_and_workers() -> None:
    data = [sample(image=MetaTensor(smooth((40, 34))) + i) for i in range(4)]
    pair = RandPairedViewsd("image", roi_size=(24, 20), spatial=chain("elastic", 2), shares=(0.2, 0.4, 0.4))
    batches = list(DataLoader(Dataset(data, pair), batch_size=2, num_workers=2))
    assert len(batches) == 2
    assert batches[0]["image_view1"].shape == (2, 2, 24, 20)
    assert batches[0]["points_view1"].shape == (2, 512, 2)


def test_pending_operations_are_applied_first() -> None:
    image = MetaTensor(smooth((40, 34)))
    rotate = Rotated("image", 0.3, keep_size=True)
    pair = RandPairedViewsd("image", spatial=chain("affine", 2), num_points=0)
    lazy, eager = (
        Compose([rotate, pair], lazy=lazy).set_random_state(0)({"image": image})["image_view1"]
        for lazy in (True, False)
    )
    torch.testing.assert_close(lazy.as_tensor(), eager.as_tensor(), atol=1e-4, rtol=0)
    pending = Rotated("image", 0.3, keep_size=True, lazy=True)({"image": image})["image"]
    assert pending.pending_operations
    direct = pair.set_random_state(0)({"image": pending})["image_view1"]
    again = pair.set_random_state(0)({"image": rotate({"image": image})["image"]})["image_view1"]
    torch.testing.assert_close(direct.as_tensor(), again.as_tensor(), atol=1e-4, rtol=0)
    assert pending.pending_operations  # the input is as it was
    torch.testing.assert_close(direct.affine, again.affine, atol=1e-4, rtol=0)


def test_a_lazy_chain() -> None:
    rotate, image = {"prob": 1.0, "rotate_range": 0.3, "padding_mode": "zeros"}, smooth((40, 34))
    lazy, plain = (
        RandPairedViews((30, 24), RandAffine(**rotate, lazy=each)).set_random_state(1)(image) for each in (True, False)
    )
    both = lazy["valid_view1"] & plain["valid_view1"]
    assert both.sum() > 0.97 * plain["valid_view1"].sum() > 300  # interpolation at the very border may differ
    difference = (lazy["coords_view1"] - plain["coords_view1"]).abs()
    assert (difference * both).max() < 1e-2


def test_missing_keys() -> None:
    with pytest.raises(KeyError, match="label"):
        RandPairedViewsd(["image", "label"])(sample())
    assert "image_view1" in RandPairedViewsd(["image", "label"], allow_missing_keys=True)(sample())
    with pytest.raises(KeyError, match="tiers"):
        RandPairedViewsd("image", shares=(0.2, 0.4, 0.4))({"image": smooth((40, 34))})
    with pytest.raises(KeyError, match="information"):
        RandPairedViewsd("image", gamma=0.3)({"image": smooth((40, 34))})
    with pytest.raises(KeyError, match="mask"):
        RandPairedViewsd("image", mask_key="mask")(sample())


def test_chains_that_cannot_be() -> None:
    image = smooth((40, 34))
    with pytest.raises(TypeError, match="spatial"):
        RandPairedViews(spatial=RandSpatialCropSamples(20, 2, random_size=False))(image)
    with pytest.raises(TypeError, match="array transform"):
        RandPairedViews(spatial=Compose([Flipd("image", 0)]))
    with pytest.raises(ValueError, match="spatial"):
        RandPairedViews(spatial=Lambda(lambda x: x[:2]))(image)
    with pytest.raises(ValueError, match="spatial"):
        RandPairedViews(spatial=Lambda(lambda x: x * torch.nan))(image)
    with pytest.raises(ValueError, match="intensity"):
        RandPairedViews(intensity=Lambda(lambda x: x[:, 1:]))(image)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("num_points", -1),
        ("num_points", "many"),
        ("shares", 0.5),
        ("shares", (0.5, 0.5)),
        ("shares", (0.5, 0.6, -0.1)),
        ("shares", (0.5, 0.6, 0.1)),
        ("gamma", -0.1),
        ("gamma", "strong"),
        ("min_overlap", 1.5),
        ("min_overlap", [0.5]),
        ("max_redraws", -1),
        ("mode", "linear"),
        ("padding_mode", "reflection"),
        ("outputs", ("masks",)),
        ("jacobian_threshold", 1.0),
        ("num_points", 2.5),
        ("num_points", True),
        ("gamma", float("nan")),
        ("min_overlap", "0.5"),
        ("max_redraws", 1.5),
        ("jacobian_threshold", "0.1"),
        ("outputs", (["valid"],)),
        ("roi_size", "large"),
        ("roi_size", (3.5, 4)),
        ("roi_size", (None, (8, "8"))),
        ("spatial", [Flip(0), Flip(1), Flip(0)]),
    ],
)
def test_bad_arguments(argument: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"`{argument}` must be"):
        RandPairedViews(**{argument: value})


def test_bad_input() -> None:
    pair, image = RandPairedViews(shares=(0.2, 0.4, 0.4)), smooth((40, 34))
    for bad, match in (
        (torch.rand(40, 34), "image"),
        (torch.rand(1, 1, 34), "image"),
        (torch.full((1, 40, 34), torch.nan), "image"),
    ):
        with pytest.raises(ValueError, match=match):
            pair(bad, tiers=torch.zeros(1, 40, 34))
    for tiers in (
        None,
        torch.zeros(1, 40, 35),
        torch.zeros(2, 40, 34),
        torch.full((1, 40, 34), 3),
        torch.full((1, 40, 34), -1),
    ):
        with pytest.raises(ValueError, match="tiers"):
            pair(image, tiers=tiers)
    with pytest.raises(ValueError, match="gamma"):
        RandPairedViews(shares=(0.2, 0.4, 0.4), gamma=1.0)


def affine_chains(dims: int) -> dict[str, list[Transform]]:
    """Chains of the transforms that are read as matrices."""
    size = SHAPES[dims]
    small, axes = [n - 5 for n in size], (0, dims - 1)
    affine = {"rotate_params": 0.3, "translate_params": [2.0, 1.0, -1.5][:dims], "padding_mode": "zeros"}
    affine["rotate_params"] = [0.3, 0.1, -0.2] if dims == 3 else 0.3
    return {
        "affine": [Affine(**affine, image_only=True)],
        "rand_affine": [RandAffine(1.0, [0.3] * 3, [0.1] * dims, 3.0, [0.2] * dims, padding_mode="zeros")],
        "rand_affine_of_another_size": [RandAffine(1.0, 0.3, spatial_size=small, padding_mode="zeros")],
        "flips": [Flip(0), RandFlip(0.5, dims - 1), RandAxisFlip(0.5)],
        "rotations": [
            Rotate([0.2] * (2 * dims - 3), padding_mode="zeros"),
            RandRotate(*[0.4] * 3, prob=1.0, padding_mode="zeros"),
        ],
        "larger_rotation": [RandRotate(*[0.4] * 3, prob=1.0, padding_mode="zeros", keep_size=False)],
        "right_angles": [Rotate90(1, axes), RandRotate90(1.0, 3, axes)],
        "crops": [CenterSpatialCrop(small), SpatialCrop(roi_start=[1] * dims, roi_end=[n - 1 for n in small])],
        "random_crop": [RandSpatialCrop(small, random_size=True)],
        "padded": [SpatialPad([n + 6 for n in size]), RandFlip(0.5)],
        "cropped_between": [CenterSpatialCrop(small), SpatialPad(size), RandAffine(1.0, 0.3, padding_mode="zeros")],
    }


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", affine_chains(2))
def test_matrices_give_what_the_coordinates_give(
    name: str, dims: int, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Affine chains take a short cut; without it they are what any chain is."""
    if not compiled:
        monkeypatch.setattr(_twins, "_twin", lambda name: None)
    image = smooth(SHAPES[dims])
    roi = tuple(n - 7 for n in SHAPES[dims])

    def views() -> dict[str, torch.Tensor]:
        pair = RandPairedViews(roi, Compose(affine_chains(dims)[name]), num_points=30, min_overlap=0.2)
        return pair.set_random_state(3)(MetaTensor(image))

    short = views()
    monkeypatch.setattr(_chains, "AFFINE_TRANSFORMS", ())
    long = views()
    for k in (1, 2):
        valid = [each[f"valid_view{k}"][0] for each in (short, long)]
        both = valid[0] & valid[1]
        assert both.float().mean() > 0.3
        assert (valid[0] ^ valid[1]).float().mean() < 0.1
        assert (valid[1] & ~valid[0]).float().mean() < 2e-3  # the short cut shows the source up to its very edge
        for key in (f"coords_view{k}", f"view{k}"):
            one, other = (each[key][:, both].as_subclass(torch.Tensor) for each in (short, long))
            assert (one - other).abs().max() < 0.03  # at the border zeros have faded the coordinates
            assert (one - other).abs().quantile(0.95) < 1e-3
        torch.testing.assert_close(short[f"view{k}"].affine, long[f"view{k}"].affine, atol=2e-3, rtol=0)
        shared = [each[f"sampling_view{k}"][0] > 0 for each in (short, long)]
        assert (shared[0] ^ shared[1])[both].float().mean() < 0.1
    points, others = (short[f"points_view{k}"][short["points_valid"]] for k in (1, 2))
    source = [multilinear(short[f"coords_view{k}"].numpy(), each.T.numpy()) for k, each in ((1, points), (2, others))]
    assert len(points) > 10
    assert np.linalg.norm(source[0] - source[1], axis=0).max() < 0.01


def test_padding_other_than_zeros_is_no_matter_of_matrices() -> None:
    chain = Compose([RandAffine(1.0, 0.5, padding_mode="border")])
    assert _chains.read_chain(chain, 0, MetaTensor(torch.rand(1, 20, 20))) is None
    chain = Compose([Affine(scale_params=(1e-9, 1.0), padding_mode="zeros", image_only=True)])
    assert _chains.read_chain(chain, 0, MetaTensor(torch.rand(1, 20, 20))) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_images_that_share_memory_are_shown_each_as_it_is(dtype: torch.dtype) -> None:
    image = (255 * torch.rand(1, 24, 24)).to(dtype)
    data = {"image": image, "same": image, "turned": image.mT}
    views = RandPairedViewsd(["image", "same", "turned"], roi_size=(16, 16), spatial=chain("affine", 2), num_points=0)
    views = views.set_random_state(0)(data)
    coords, valid = views["coords_view1"].round().long(), views["valid_view1"][0]
    if dtype == torch.uint8:
        expected = image[0, coords[1, valid], coords[0, valid]]
        assert views["turned_view1"][0, valid].equal(expected)
    assert not views["turned_view1"].equal(views["image_view1"])
    views["same_view1"].zero_()
    assert views["image_view1"].any()


@pytest.mark.parametrize("track_meta", [True, False])
def test_plain_views_are_those_with_metadata(track_meta: bool) -> None:
    image = MetaTensor(smooth((40, 34)), affine=torch.diag(torch.tensor([2.0, 3.0, 1.0])))
    pair = RandPairedViews(spatial=chain("affine", 2), num_points=5, track_meta=track_meta).set_random_state(0)
    views = pair(image)
    assert (type(views["view1"]) is MetaTensor) == track_meta
    assert type(views["coords_view1"]) is torch.Tensor
    other = pair.set_random_state(0)(image.as_tensor())
    assert all(torch.equal(torch.as_tensor(views[name]), other[name]) for name in other)


@pytest.mark.parametrize("size", [(63, 40), (63, 63), (127, 64), (9, 7, 16)])
def test_affine_of_views_whose_voxels_fall_into_line(size):
    """Every so many of the voxels of such a size lie on one line, or in one plane."""
    affine = torch.diag(torch.tensor([0.5] * len(size) + [1.0], dtype=torch.float64))
    chain = Resize(size) if len(size) == 2 else BorderPad(0)  # the identity, which is not read as a matrix
    view = RandPairedViews(None, chain, num_points=0).set_random_state(0)(MetaTensor(torch.rand(1, *size), affine))
    torch.testing.assert_close(torch.as_tensor(view["view1"].affine).double(), affine)


def test_a_high_power_of_the_information_leaves_the_most_informative():
    bits = torch.full((1, 20, 20), 4.0)
    bits[0, 3:6, 7] = 5.0
    pair = RandPairedViews(gamma=1000, num_points=5).set_random_state(0)(torch.rand(1, 20, 20), bits)
    density = pair["sampling_view1"][0]
    torch.testing.assert_close(density, (bits[0] == 5).float() / 3)
    assert pair["points_valid"].sum() == 3


def test_what_crops_by_values_is_no_spatial_chain():
    with pytest.raises(ValueError, match=r"`spatial` must be transforms that see no values.*got CropForeground"):
        RandPairedViews(spatial=Compose([RandFlip(1.0), CropForeground()]))


def test_a_map_without_extent_along_an_axis_has_no_valid_voxel():
    def flattened(image):
        return image[:, :1].expand_as(image).clone()

    pair = RandPairedViews(None, flattened, num_points=3).set_random_state(0)(torch.rand(1, 12, 16))
    assert not pair["valid_view1"].any()
    assert not pair["points_valid"].any()


@pytest.mark.parametrize("change", [RandGaussianNoise(1.0), ScaleIntensity(), Lambda(lambda x: 0.5 * x)])
@pytest.mark.parametrize("first", [True, False])
def test_a_spatial_chain_that_changes_values_is_refused(change: Any, first: bool) -> None:
    flip = RandFlip(1.0)
    chain = Compose([change, flip] if first else [flip, change])
    with pytest.raises(ValueError, match="`spatial` must be transforms that move voxels and nothing else"):
        RandPairedViews(spatial=chain).set_random_state(0)(smooth((20, 20)))


def test_what_is_no_draw_or_no_mode_a_key_is_refused() -> None:
    with pytest.raises(ValueError, match="`draw` must be the attribute `draw` after an earlier call, or None, got 3"):
        RandPairedViews()(smooth((9, 9)), draw=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`mode` must be one for all, or one for each of the keys"):
        RandPairedViewsd(["a", "b"], mode=["nearest"] * 3)
