"""The ways without learning, against slow ways to the same and on changes of which the truth is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch import Tensor
from torch.nn.functional import interpolate

from benchmarks import _baselines as baselines
from monai_infoaug._grid import sample_at

SIZES = {2: (96, 108), 3: (48, 52, 44)}


def smooth_image(dims: int, coarse: int, seed: int = 0) -> Tensor:
    """Smooth noise (1, *S) inside a ball."""
    noise = torch.rand(1, 1, *[coarse] * dims, generator=torch.Generator().manual_seed(seed))
    noise = interpolate(noise, size=SIZES[dims], mode={2: "bilinear", 3: "trilinear"}[dims])[0]
    axes = [torch.linspace(-1.3, 1.3, n) for n in SIZES[dims]]
    return (0.2 + noise) * (torch.stack(torch.meshgrid(*axes, indexing="ij")).norm(dim=0) < 1)


def moved(image: Tensor, shift: float, degrees: float = 0, bend: float = 0) -> tuple[Tensor, Tensor, Tensor]:
    """An image shifted along each axis, turned in the first two and bent by a sine.

    Returns:
        what it looks like, points (L, D) of the image, and where they are in what it looks like.
    """
    size = torch.tensor(image.shape[1:], dtype=torch.float64)
    cosine, sine = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    turn = torch.eye(len(size), dtype=torch.float64)
    turn[:2, :2] = torch.tensor([[cosine, -sine], [sine, cosine]])

    def source(places: Tensor) -> Tensor:
        bent = bend * torch.sin(2 * torch.pi * places / size).roll(1, -1)
        return (places - size / 2) @ turn.T + size / 2 - shift + bent

    grid = torch.stack(torch.meshgrid(*[torch.arange(n, dtype=torch.float64) for n in image.shape[1:]], indexing="ij"))
    shown = sample_at(image[None].double(), source(grid.movedim(0, -1)).movedim(-1, 0)[None])[0].float()
    share = torch.rand(30, len(size), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    truth = ((0.35 + 0.3 * share) * size).round()
    return shown, source(truth), truth


def mean_error(found: Tensor, truth: Tensor) -> float:
    assert found.shape == truth.shape
    return (found - truth).norm(dim=1).mean().item()


def test_millimetres_are_copied():
    template = MetaTensor(torch.zeros(1, 8, 8), affine=torch.diag(torch.tensor([2.0, 2, 1])).double())
    affine = torch.diag(torch.tensor([2.0, 2, 1])).double()
    affine[:2, 2] = torch.tensor([4.0, -6])
    points = torch.tensor([[1.0, 2.5], [4, 0]], dtype=torch.float64)
    found = baselines.copied(template, MetaTensor(torch.zeros(1, 9, 9), affine=affine), points)
    torch.testing.assert_close(found, points + torch.tensor([-2.0, 3]))
    torch.testing.assert_close(baselines.copied(torch.zeros(1, 8, 8), torch.zeros(1, 9, 9), points), points)


@pytest.mark.parametrize("search", [4, None])
@pytest.mark.parametrize("dims", [2, 3])
def test_nearest_by_descriptor_is_a_brute_force_search(dims, search):
    generator = torch.Generator().manual_seed(0)
    template = torch.rand(2, *(12, 11, 13)[:dims], generator=generator)
    query = torch.rand(2, *(10, 14, 9)[:dims], generator=generator)
    points, steps = torch.tensor([[6.2, 5, 6], [1.0, 9, 12], [11, 0, 0]])[:, :dims], (-2, 0, 2)
    found = baselines.nearest_by_descriptor(template, query, points, search, reach=1, step=2)

    def patch(image: Tensor, centre: np.ndarray) -> np.ndarray:
        last = np.array(image.shape[1:]) - 1
        offsets = np.array(np.meshgrid(*[steps] * dims, indexing="ij")).reshape(dims, -1).T
        return np.stack([image[(slice(None), *np.clip(centre + offset, 0, last))] for offset in offsets])

    for point, got in zip(points.round().int().numpy(), found.numpy(), strict=True):
        candidates = [
            place for place in np.ndindex(*query.shape[1:]) if search is None or np.abs(place - point).max() <= search
        ]
        costs = [((patch(query, place) - patch(template, point)) ** 2).sum() for place in candidates]
        np.testing.assert_array_equal(got, candidates[np.argmin(costs)])


def test_daisy_has_a_descriptor_for_every_voxel():
    daisy = pytest.importorskip("skimage.feature").daisy
    image = smooth_image(2, 16)
    described = baselines.daisy_descriptors(image, radius=5, rings=2)
    assert described.shape == (136, *SIZES[2])
    expected = daisy(image[0].numpy(), step=1, radius=5, rings=2)  # where all rings are inside
    np.testing.assert_allclose(described[:, 5:-5, 5:-5].movedim(0, -1), expected, atol=1e-6)


@pytest.mark.parametrize(("find", "dims"), [(baselines.by_mind, 2), (baselines.by_mind, 3), (baselines.by_daisy, 2)])
@pytest.mark.parametrize("kind", [torch.as_tensor, MetaTensor])
def test_descriptors_find_a_shift(find, dims, kind):
    if find is baselines.by_daisy:
        pytest.importorskip("skimage", reason="scikit-image has DAISY")
    image = smooth_image(dims, 16)
    query, points, truth = moved(image, shift=5)
    found = find(kind(image), kind(query), points, search=8, reach=1, step=4)
    assert type(found) is Tensor
    torch.testing.assert_close(found, truth)


def test_mind_finds_a_shift_in_an_inverted_image():
    image = smooth_image(2, 16)
    query, points, truth = moved(image, shift=5)
    assert mean_error(baselines.by_mind(image, 1.5 - query, points, 2, 2, search=8, reach=3, step=4), truth) < 0.1


@pytest.mark.parametrize("dims", [2, 3])
def test_registration_finds_a_rigid_change_across_contrasts(dims):
    image = smooth_image(dims, 8)
    query, points, truth = moved(image, shift=4, degrees=8)
    query = (1.5 - query) * (query > 0)
    name, transform = next(baselines.register(baselines.to_sitk(image), baselines.to_sitk(query), shares=(0.5, 0.5)))
    found = torch.tensor([transform.TransformPoint(point) for point in points.tolist()])
    assert name == "rigid"
    assert mean_error(found, truth) < 0.2 * mean_error(points, truth)


def test_registration_finds_a_bent_image():
    image = smooth_image(2, 8)
    query, points, truth = moved(image, shift=3, bend=3)
    settings = {"shares": (0.5, 0.5), "cell": 20, "iterations": 40}
    found = baselines.by_registration(MetaTensor(image), MetaTensor(query), points, **settings)
    affine = dict(baselines.register(baselines.to_sitk(image), baselines.to_sitk(query), **settings))["affine"]
    before = mean_error(torch.tensor([affine.TransformPoint(point) for point in points.tolist()]), truth)
    assert mean_error(found, truth) < 0.5 * before
    assert mean_error(found, truth) < 0.5


@pytest.mark.parametrize("name", baselines.CEPHALOGRAM_WAYS)
def test_ways_for_cephalograms_find_a_shift(name):
    if name == "daisy":
        pytest.importorskip("skimage", reason="scikit-image has DAISY")
    image = smooth_image(2, 16)
    query, points, truth = moved(image, shift=5)
    error = mean_error(baselines.CEPHALOGRAM_WAYS[name](MetaTensor(image), MetaTensor(query), points), truth)
    assert error == pytest.approx(5 * 2**0.5) if name == "copied" else error < 0.5
