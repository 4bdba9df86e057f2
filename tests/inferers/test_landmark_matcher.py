from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor, list_data_collate
from torch import nn
from torch.nn.functional import normalize

from monai_infoaug.inferers import LandmarkMatcher, to_voxels, to_world
from monai_infoaug.networks import GlobalLocalEmbeddingNet, PixelEmbeddingNet


class Colours(nn.Module):
    """The image itself, as an embedding of one level."""

    strides = (1,)

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        assert type(image) is torch.Tensor  # no metadata through the layers
        return [normalize(image, dim=1)]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


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


@pytest.mark.parametrize("weights", [(1, "1"), "1", 2, [], [0], [-1, 2]])
def test_weights_of_levels_are_looked_at_before_anything_is_embedded(weights):
    with pytest.raises(ValueError, match=r"`level_weights` must be \d numbers of at least 0"):
        LandmarkMatcher(torch.zeros(1, 12, 10), torch.zeros(1, 2), level_weights=weights)


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
