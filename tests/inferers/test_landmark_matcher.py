from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor, list_data_collate
from torch import nn
from torch.nn.functional import interpolate, normalize

from monai_infoaug.inferers import LandmarkMatcher, landmark_matcher, match_points, to_voxels, to_world
from monai_infoaug.networks import GlobalLocalEmbeddingNet, PixelEmbeddingNet


class Colours(nn.Module):
    """The image itself, as an embedding of one level."""

    strides = (1,)

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        assert type(image) is torch.Tensor  # no metadata through the layers
        return [normalize(image, dim=1)]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def levels_of(batch: int, size: tuple[int, ...], strides: tuple[int, ...], seed: int) -> list[torch.Tensor]:
    shapes = [[-(-s // stride) for s in size] for stride in strides]
    return [normalize(random(batch, 4, *shape, seed=seed + i), dim=1) for i, shape in enumerate(shapes)]


def of_cosines(cosines: torch.Tensor) -> torch.Tensor:
    """A level (1, 2, *cells) of unit norm with these cosines to that of cosine 1."""
    return torch.stack([cosines, (1 - cosines.square()).sqrt()]).float()[None]


def read(level: np.ndarray, voxel: np.ndarray, stride: int) -> np.ndarray:
    """Features (F,) of one voxel, interpolated corner by corner."""
    size = np.array(level.shape[1:])
    cell = ((np.asarray(voxel) + 0.5) / stride - 0.5).clip(0, size - 1)
    base, total = np.floor(cell).astype(int), 0.0
    for corner in itertools.product((0, 1), repeat=len(size)):
        index = np.minimum(base + corner, size - 1)
        total = total + np.prod(1 - abs(cell - base - corner)) * level[(slice(None), *index)]
    return total


def similarity(template, point, query, strides, weights) -> np.ndarray:
    """Weighted mean over levels of the cosine with one template's point, for every cell of the finest level in use."""
    finest = min(range(len(strides)), key=lambda i: (not weights[i], strides[i]))
    found = np.zeros(query[finest].shape[1:])
    for mine, its, stride, weight in zip(template, query, strides, weights, strict=True):
        descriptor = read(mine, point, stride)
        descriptor = descriptor / np.linalg.norm(descriptor)
        for cell in np.ndindex(*found.shape):
            voxel = strides[finest] * np.array(cell) + (strides[finest] - 1) / 2
            found[cell] += weight / sum(weights) * descriptor @ read(its, voxel, stride)
    return found


def refined(found: np.ndarray) -> np.ndarray:
    """The largest cell, moved along each axis to the vertex of the parabola through it and its neighbours."""
    peak = np.unravel_index(found.argmax(), found.shape)
    place = np.array(peak, float)
    for axis, p in enumerate(peak):
        if 0 < p < found.shape[axis] - 1:
            a, b, _ = np.polyfit(
                [-1, 0, 1], np.moveaxis(found, axis, 0)[(slice(p - 1, p + 2), *np.delete(peak, axis))], 2
            )
            place[axis] += -b / (2 * a)
    return place


@pytest.mark.parametrize("weights", [None, (1, 3), (0, 2), (0.5, 0.0)])
@pytest.mark.parametrize(("size", "template_size"), [((11, 9), (8, 13)), ((6, 5, 7), (4, 8, 5))])
def test_equals_brute_force(size, template_size, weights):
    strides = (2, 4)
    template, query = levels_of(2, template_size, strides, seed=0), levels_of(2, size, strides, seed=9)
    points = torch.rand(2, 3, len(size), generator=torch.Generator().manual_seed(1)) * (torch.tensor(template_size) - 1)
    points[1, 0] = torch.nan  # the second template does not show it
    points[:, 2] = torch.nan  # none does
    found, scores = match_points(template, points, query, strides, size, weights)
    for b in range(2):
        for n, voters in enumerate([(0,), (0, 1)]):
            votes = [
                similarity(
                    [m[t] for m in map(np.asarray, template)],
                    points[t, n].numpy(),
                    [q[b] for q in map(np.asarray, query)],
                    strides,
                    weights or (1, 1),
                )
                for t in voters
            ]
            expected = np.mean(votes, axis=0)
            assert scores[b, n].item() == pytest.approx(expected.max(), abs=1e-5)
            stride = strides[1] if weights == (0, 2) else strides[0]
            place = (stride * refined(expected) + (stride - 1) / 2).clip(0, np.array(size) - 1)
            np.testing.assert_allclose(found[b, n], place, atol=1e-3)
    assert found[:, 2].isnan().all()
    assert scores[:, 2].isnan().all()


@pytest.mark.parametrize("centre", [(4.3, 2.5, 3.25), (1.0, 4.9, 2.2), (3.0, 3.0, 3.0)])
@pytest.mark.parametrize("dims", [2, 3])
def test_peak_of_a_parabola_is_found_to_a_fraction_of_a_voxel(dims, centre):
    size, centre = (8, 7, 6)[:dims], centre[:dims]
    grid = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"), axis=-1)
    bowl = 1 - 0.01 * ((grid - centre) ** 2 * (1, 2, 3)[:dims]).sum(-1)
    query = of_cosines(torch.as_tensor(bowl))
    found, _ = match_points([of_cosines(torch.ones([1] * dims))], torch.zeros(1, 1, dims), [query], (1,), size)
    np.testing.assert_allclose(found[0, 0], centre, atol=1e-3)


@pytest.mark.parametrize("size", [(5, 1), (1, 5), (5, 2), (2, 5)])
@pytest.mark.parametrize("end", [0, -1])
def test_peak_at_the_border_stays_in_the_image(size, end):
    cosines = torch.zeros(size)
    cosines[end, end] = 1
    template, query = of_cosines(torch.ones(1, 1)), of_cosines(cosines)
    found, scores = match_points([template], torch.zeros(1, 1, 2), [query], (1,), size)
    assert found[0, 0].tolist() == [end % size[0], end % size[1]]
    assert scores.item() == 1


def test_flat_similarity_gives_a_finite_place():
    levels = [torch.ones(1, 1, 4, 4)]
    found, scores = match_points(levels, torch.zeros(1, 1, 2), levels, (1,), (4, 4))
    assert found.isfinite().all()
    assert scores.item() == 1


@pytest.mark.parametrize("patch_radius", [None, 4.0])
@pytest.mark.parametrize("size", [(40, 36), (16, 14, 12)])
def test_norms_of_embeddings_do_not_matter(size, patch_radius):
    """As in any network of one's own; and a network that normalises gets what it got, bit by bit."""
    template, query = levels_of(2, size, (2, 4), seed=0), levels_of(2, size, (2, 4), seed=9)
    query[0][:, :, : size[0] // 4] = 0  # padding has no direction
    points = torch.rand(2, 6, len(size), generator=torch.Generator().manual_seed(1)) * (torch.tensor(size) - 1)
    expected = match_points(template, points, query, (2, 4), size, patch_radius=patch_radius)
    loud = [level * (5 + 4 * random(len(level), 1, *level.shape[2:], seed=5).tanh()) for level in query]
    found = match_points([7 * level for level in template], points, loud, (2, 4), size, patch_radius=patch_radius)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
    for level in query:
        assert landmark_matcher._of_unit_norm(level) is level
        assert landmark_matcher._of_unit_norm(level.bfloat16()).dtype == torch.bfloat16


def test_norms_are_looked_at_everywhere():
    """Not along the border alone, whose cells may be zeros."""
    level = torch.zeros(1, 4, 32, 32, 32)
    level[:, :, 10:20, 10:20, 10:20] = 3.0
    torch.testing.assert_close(landmark_matcher._of_unit_norm(level), normalize(level, dim=1))
    level = torch.zeros(1, 4, 300, 300)
    level[:, :, 150, 151] = 3.0  # not in the sample
    torch.testing.assert_close(landmark_matcher._of_unit_norm(level), normalize(level, dim=1))
    half = torch.full((1, 4, 5, 5), 1e-4, dtype=torch.float16)
    torch.testing.assert_close(landmark_matcher._of_unit_norm(half).norm(dim=1), torch.ones(1, 5, 5))


def test_a_network_of_patches_finds_every_point_of_its_template():
    class Patches(nn.Module):
        strides = (1,)

        def forward(self, image):
            return [nn.functional.unfold(image, 5, padding=2).unflatten(2, image.shape[2:])]

    image = torch.rand(1, 48, 40, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.1, 3, 40)
    points = torch.cartesian_prod(torch.arange(4.0, 44, 5), torch.arange(4.0, 36, 4))
    found = LandmarkMatcher(image, points)(image[None], Patches().eval())
    assert (found["landmarks"][0] - points).norm(dim=1).max() < 0.5
    torch.testing.assert_close(found["scores"], torch.ones(1, len(points)))


@pytest.mark.parametrize("weights", [(1, "1"), (1, torch.nan), (1, -1), (0, 0), (True, True), (1,)])
def test_weights_of_levels_are_numbers(weights):
    levels = levels_of(1, (12, 10), (2, 4), seed=0)
    with pytest.raises(ValueError, match="`level_weights` must be 2 numbers of at least 0, one a level, not all 0"):
        match_points(levels, torch.zeros(1, 1, 2), levels, (2, 4), (12, 10), weights)
    with pytest.raises(ValueError, match=r"`chunk` must be a whole number of at least 1, or None, got 2\.5"):
        match_points(levels, torch.zeros(1, 1, 2), levels, (2, 4), (12, 10), chunk=2.5)


@pytest.mark.parametrize("weights", [(1, "1"), "1", 2, [], [0], [-1, 2]])
def test_weights_of_levels_are_looked_at_before_anything_is_embedded(weights):
    with pytest.raises(ValueError, match=r"`level_weights` must be \d numbers of at least 0"):
        LandmarkMatcher(torch.zeros(1, 12, 10), torch.zeros(1, 2), level_weights=weights)


@pytest.mark.parametrize("chunk", [1, 2, 3, 100])
def test_chunk_does_not_matter(chunk):
    strides, size = (2, 4), (12, 10)
    template, query = levels_of(1, size, strides, seed=0), levels_of(3, size, strides, seed=9)
    points = torch.rand(1, 5, 2, generator=torch.Generator().manual_seed(1)) * 9
    found, scores = match_points(template, points, query, strides, size, chunk=5)
    again, again_scores = match_points(template, points, query, strides, size, chunk=chunk)
    torch.testing.assert_close((again, again_scores), (found, scores))


@pytest.mark.parametrize("chunk", [None, 2])
def test_never_holds_all_maps(monkeypatch, chunk):
    largest = 0

    def measured(maps: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        nonlocal largest
        out = interpolate(maps, *args, **kwargs)
        largest = max(largest, out.numel())
        return out

    monkeypatch.setattr(landmark_matcher, "interpolate", measured)
    monkeypatch.setattr(landmark_matcher, "MAP_CELLS", 700)
    strides, size = (2, 4), (12, 14, 10)  # 210 cells
    levels = levels_of(1, size, strides, seed=0)
    match_points(levels, torch.rand(1, 50, 3) * 9, levels, strides, size, chunk=chunk)
    assert largest <= (3 if chunk is None else chunk) * 8 * 4 * 4 * 3  # before the padded cells are cut off


def test_template_is_embedded_once_until_something_changes():
    class Counting(Colours):
        templates = 0

        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3, 1, 1))

        def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
            Counting.templates += len(image) == 2
            return super().forward(image * self.scale)

    matcher, net = LandmarkMatcher(random(2, 3, 8, 8), torch.full((2, 1, 2), 3.0)), Counting()
    query = random(1, 3, 8, 8, seed=1)
    first = matcher(query, net)
    again = matcher(query, net)
    torch.testing.assert_close(again, first, atol=0, rtol=0)
    assert Counting.templates == 1
    for change in (
        lambda: nn.init.constant_(net.scale, 2),
        lambda: nn.utils.vector_to_parameters(torch.ones(3), net.parameters()),
        lambda: setattr(net, "scale", nn.Parameter(torch.ones(3, 1, 1))),
        net.eval,
    ):
        before = Counting.templates
        change()
        matcher(query, net)
        matcher(query, net)
        assert Counting.templates == before + 1
    torch.testing.assert_close(matcher(query, Counting()), first)
    assert Counting.templates == 6


@pytest.mark.parametrize("size", [(12, 10), (6, 5, 7)])
def test_the_same_image_gives_its_own_points(size):
    image = random(3, *size)
    points = torch.stack([torch.randint(1, s - 1, (6,), generator=torch.Generator().manual_seed(s)) for s in size], 1)
    found = LandmarkMatcher(image, points)(image[None], Colours())
    torch.testing.assert_close(found["landmarks"][0].round(), points.float())
    torch.testing.assert_close(found["scores"], torch.ones(1, 6))
    torch.testing.assert_close(found["world"], found["landmarks"])  # without an affine a voxel is 1 mm


@pytest.mark.parametrize("both", [False, True])
def test_untrained_network_finds_the_points_of_the_same_image(both):
    torch.manual_seed(0)
    net = PixelEmbeddingNet(features=(8, 12, 16), strides=(2, 8), norm="instance").eval()
    net = GlobalLocalEmbeddingNet([net, net]).eval() if both else net
    image, points = random(1, 50, 46), torch.tensor([[20.0, 20.0], [7.5, 30.5], [40.0, 9.0]])
    found = LandmarkMatcher(image, points)(image[None].expand(2, -1, -1, -1), net)
    # the cosine with a cell of its own is larger than with a mixture of cells: near to the point, not on it
    assert (found["landmarks"] - points).abs().max() <= net.strides[0]


@pytest.mark.parametrize("dims", [2, 3])
def test_millimetres_through_rotated_anisotropic_affines(dims):
    size, items = (9, 8, 7)[:dims], []
    for seed in range(2):
        rotation = torch.linalg.qr(random(3, 3, seed=seed).double())[0]
        affine = torch.eye(4, dtype=torch.float64)
        affine[:3, :3] = torch.eye(3)
        affine[:dims, :dims] = torch.linalg.qr(rotation[:dims, :dims])[0] @ torch.diag(
            torch.tensor([0.5, 2, 3])[:dims].double()
        )
        affine[:3, 3] = torch.tensor([10.0, -20, 30])
        items.append({"image": MetaTensor(random(3, *size, seed=seed), affine=affine), "name": str(seed)})
    loader = DataLoader(Dataset(items), batch_size=2, collate_fn=list_data_collate)
    batch = next(iter(loader))["image"]
    points = random(1, 3, dims, seed=5).abs() + 1
    found = LandmarkMatcher(items[0]["image"], points)(batch, Colours())
    assert all(type(value) is torch.Tensor for value in found.values())
    for voxels, world, item in zip(found["landmarks"], found["world"], items, strict=True):
        affine = item["image"].affine.numpy()
        for v, w in zip(voxels.numpy(), world.numpy(), strict=True):
            np.testing.assert_allclose(w, affine[:dims, :dims] @ v + affine[:dims, 3], rtol=1e-5)
    single = to_world(found["landmarks"][:1], items[0]["image"][None])
    torch.testing.assert_close(single, found["world"][:1])

    world = to_world(points, items[0]["image"])
    torch.testing.assert_close(to_voxels(world, items[0]["image"]), points, atol=1e-3, rtol=0)
    world[0, 1] = torch.nan  # a missing landmark disturbs no other
    for template in (items[0]["image"], batch[:1]):
        again = LandmarkMatcher(template, world, world=True)(batch, Colours())
        assert again["landmarks"][:, 1].isnan().all()
        torch.testing.assert_close(again["landmarks"][:, ::2], found["landmarks"][:, ::2], atol=1e-3, rtol=0)
    several = LandmarkMatcher(batch, to_world(points.expand(2, -1, -1), batch), world=True).landmarks
    torch.testing.assert_close(several, points.expand(2, -1, -1), atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor, MetaTensor, torch.Tensor.tolist])
def test_template_and_landmarks_of_any_kind(kind):
    image, points = random(3, 8, 8), torch.tensor([[2.0, 3.0], [5.0, 4.0]])
    template = np.asarray(image) if kind is torch.Tensor.tolist else kind(image)
    found = LandmarkMatcher(template, kind(points))(image[None], Colours())
    assert all(type(value) is torch.Tensor for value in found.values())
    torch.testing.assert_close(found["landmarks"][0].round(), points)


def test_landmark_that_a_template_lacks():
    images, points = random(2, 3, 8, 8), torch.tensor([[[2.0, 3.0], [5.0, 4.0]], [[6.0, 1.0], [torch.nan, torch.nan]]])
    found = LandmarkMatcher(images, points)(images, Colours())
    alone = LandmarkMatcher(images[0], points[0])(images, Colours())
    torch.testing.assert_close(found["landmarks"][:, 1], alone["landmarks"][:, 1])
    torch.testing.assert_close(found["scores"][:, 1], alone["scores"][:, 1])
    assert not torch.allclose(found["scores"][:, 0], alone["scores"][:, 0])  # there, the second template votes too
    missing = LandmarkMatcher(images[:1], torch.full((1, 1, 2), torch.nan))(images, Colours())
    assert all(value.isnan().all() for value in missing.values())


IMAGE, POINTS = torch.rand(3, 8, 6), torch.tensor([[2.0, 3.0], [5.0, 4.0]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            (IMAGE, POINTS + 3),
            r"`landmarks` must be inside of the image of \(8, 6\) voxels, got .*\[\[0, 0\], \[0, 1\]\]",
        ),
        ((IMAGE, POINTS - 3), r"`landmarks` must be inside .*\[\[0, 0\]\] outside"),
        ((IMAGE, POINTS * torch.inf), "`landmarks` must be inside"),
        (
            (IMAGE[0], POINTS),
            r"`templates` must be .* 2 spatial dimensions and T = 1 like `landmarks`, got shape \(8, 6\)",
        ),
        ((IMAGE[None, None], POINTS), "`templates` must be"),
        ((IMAGE.expand(3, -1, -1, -1), POINTS), "`templates` must be .* T = 1 like `landmarks`"),
        ((IMAGE, POINTS[:0]), r"`landmarks` must be .* got shape \(1, 0, 2\)"),
        ((IMAGE, torch.zeros(2, 4)), "`landmarks` must be .* with D 2 or 3"),
        ((IMAGE * torch.nan, POINTS), "`templates` must be finite, got NaN or infinite values"),
        ((IMAGE, POINTS, False, None, 0), "`chunk` must be a whole number of at least 1, or None, got 0"),
        ((IMAGE, POINTS, False, None, 2.5), "`chunk` must be a whole number of at least 1, or None, got 2.5"),
    ],
)
def test_bad_templates(arguments, message):
    with pytest.raises(ValueError, match=message):
        LandmarkMatcher(*arguments)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (IMAGE, r"`inputs` must be \(B, C, \*S\) like the templates' \(1, 3, 8, 6\), got shape \(3, 8, 6\)"),
        (IMAGE[None, :2], "`inputs` must be"),
        (IMAGE[None] / 0 * 0, "`inputs` must be finite, got NaN or infinite values"),
    ],
)
def test_bad_inputs(inputs, message):
    with pytest.raises(ValueError, match=message):
        LandmarkMatcher(IMAGE, POINTS)(inputs, Colours())


@pytest.mark.parametrize("network", [torch.nn.Identity(), torch.neg])
def test_network_without_strides(network):
    with pytest.raises(ValueError, match="`network` must be an embedding network with `strides`, got"):
        LandmarkMatcher(IMAGE, POINTS)(IMAGE[None], network)


@pytest.mark.parametrize("weights", [(), (1, 1), (0,), (-1,), (torch.nan,)])
def test_level_weights_that_do_not_fit_the_network(weights):
    with pytest.raises(ValueError, match="`level_weights` must be 1 numbers of at least 0, one a level, not all 0"):
        LandmarkMatcher(IMAGE, POINTS, level_weights=weights)(IMAGE[None], Colours())
