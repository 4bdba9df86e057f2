"""The pure functions behind the paired views, against brute force and closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from monai_infoaug.transforms import _correspondence
from monai_infoaug.transforms._correspondence import (
    OUTSIDE,
    AffineMesh,
    Mesh,
    affine_coordinates,
    coordinate_grid,
    determinant,
    fit_affine,
    frame,
    multilinear,
    resample,
    solve,
    split_coordinates,
    unfolded,
    without_doubles,
)


def everywhere(coords: torch.Tensor) -> torch.Tensor:
    return torch.ones(coords.shape[1:], dtype=torch.bool)


def waves(shape: tuple[int, ...], height: float, period: float = 12.0) -> torch.Tensor:
    """A smooth map; it folds where ``height * 2 pi / period`` exceeds one."""
    grid = coordinate_grid(shape)
    return grid + height * torch.sin(2 * math.pi * grid.roll(1, 0) / period + 2 * math.pi * grid / period)


def mesh_of(coords: torch.Tensor, valid: torch.Tensor) -> Mesh:
    usual = frame(coords, valid)
    return Mesh(coords, valid, unfolded(coords, valid, usual, 0.1)[1], usual.spacing)


def linear(matrix: list[list[float]], shape: tuple[int, ...]) -> torch.Tensor:
    return (torch.tensor(matrix) @ coordinate_grid(shape).flatten(1)).view(-1, *shape)


@pytest.mark.parametrize("dims", [2, 3])
def test_solve_and_determinant_agree_with_linalg(dims: int) -> None:
    generator = torch.Generator().manual_seed(dims)
    matrices = torch.randn(50, dims, dims, generator=generator, dtype=torch.float64)
    right = torch.randn(50, dims, generator=generator, dtype=torch.float64)
    columns = [matrices[:, :, i].T for i in range(dims)]
    torch.testing.assert_close(determinant(columns), torch.linalg.det(matrices))
    torch.testing.assert_close(solve(columns, right.T).T, torch.linalg.solve(matrices, right))


@pytest.mark.parametrize("dims", [2, 3])
def test_multilinear_by_corner_weights_and_finite_differences(dims: int) -> None:
    generator = torch.Generator().manual_seed(dims)
    corners = torch.randn(2**dims, dims, 9, generator=generator, dtype=torch.float64)
    at = torch.rand(dims, 9, generator=generator, dtype=torch.float64)

    def value(where: torch.Tensor) -> torch.Tensor:
        total = torch.zeros(dims, 9, dtype=torch.float64)
        for i, corner in enumerate(np.ndindex(*[2] * dims)):
            weights = [where[a] if corner[a] else 1 - where[a] for a in range(dims)]
            total += corners[i] * math.prod(weights)
        return total

    result, slopes = multilinear(list(corners), at)
    torch.testing.assert_close(result, value(at))
    for axis in range(dims):
        step = torch.zeros(dims, 1, dtype=torch.float64)
        step[axis] = 1e-4
        torch.testing.assert_close(slopes[axis], (value(at + step) - value(at - step)) / 2e-4)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int16, torch.uint8, torch.bool])
def test_nearest_moves_integers_untouched(dtype: torch.dtype) -> None:
    big = torch.iinfo(dtype).max if dtype != torch.bool else 1
    image = (torch.arange(12).view(1, 3, 4) % 2 * big).to(dtype)
    coords = torch.tensor([[0.4, 1.6, 2.0, OUTSIDE], [0.6, 2.9, 3.0, OUTSIDE]])
    result = resample(image, coords, "nearest")
    assert result.dtype == dtype
    assert result[0].tolist() == [*[image[0, i, j].item() for i, j in ((0, 1), (2, 3), (2, 3))], 0]
    assert resample(image, coords, "nearest", "border")[0, 3] == image[0, 0, 0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, torch.int16])
def test_bilinear_keeps_dtype(dtype: torch.dtype) -> None:
    result = resample(torch.tensor([[[0, 10], [20, 30]]]).to(dtype), torch.tensor([[0.5], [0.25]]), "bilinear")
    assert result.dtype == dtype
    assert result.item() == pytest.approx(12.5, abs=0.51 if dtype == torch.int16 else 1e-3)


def test_split_coordinates_snaps_interpolation_noise_and_marks_padding() -> None:
    output = torch.tensor([[[-5e-4, 4.0005, 2.0, 4.01]], [[0.0, 0.0, 1.0, 1.0]], [[1.0, 1.0, 0.9, 1.0]]])
    coords, inside = split_coordinates(output, (5, 6))
    assert inside.tolist() == [[True, True, False, False]]
    assert coords[:, 0].tolist() == [[0.0, 4.0, OUTSIDE, OUTSIDE], [0.0, 0.0, OUTSIDE, OUTSIDE]]


@pytest.mark.parametrize(
    "matrix",
    [
        [[1.0, 0.0], [0.0, 1.0]],
        [[-1.0, 0.0], [0.0, 1.0]],
        [[0.0, 1.0], [1.0, 0.0]],
        [[0.2, -0.7], [0.8, 0.1]],
        [[0.0, 0.0, 2.0], [-0.5, 0.0, 0.0], [0.0, 1.0, 0.3]],
    ],
)
def test_flips_turns_and_zooms_are_not_folds(matrix: list[list[float]]) -> None:
    coords = linear(matrix, (9, 8, 7)[: len(matrix)])
    usual = frame(coords, everywhere(coords))
    torch.testing.assert_close(usual.matrix, torch.tensor(matrix), atol=1e-4, rtol=0)
    assert usual.volume.item() == pytest.approx(abs(np.linalg.det(matrix)), abs=1e-4)
    valid, sound, folded = unfolded(coords, everywhere(coords), usual, 0.1)
    assert valid.all()
    assert sound.all()
    assert not folded.any()


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("mode", ["reflect", "symmetric", "edge"])
def test_padded_coordinates_are_not_valid(mode: str, dims: int) -> None:
    pads = [(0, 0)] + [(4, 3)] * dims
    coords = torch.from_numpy(np.pad(coordinate_grid((12,) * dims).numpy(), pads, mode=mode))
    valid, *_ = unfolded(coords, everywhere(coords), frame(coords, everywhere(coords)), 0.1)
    original = np.pad(np.ones((12,) * dims, bool), pads[1:])
    assert not (valid.numpy() & ~original).any()  # double reflections in the corners included
    inner = np.pad(np.ones((10,) * dims, bool), [(5, 4)] * dims)
    assert (valid.numpy() | ~inner).all()  # at most the voxels at the seam are lost


def test_no_ring_is_lost_beside_constant_padding() -> None:
    coords, inside = coordinate_grid((10, 9)), torch.zeros(10, 9, dtype=torch.bool)
    inside[3:8, 2:7] = True
    coords = coords.masked_fill(~inside, OUTSIDE)
    assert unfolded(coords, inside, frame(coords, inside), 0.1)[0].equal(inside)


def test_a_repeated_node_costs_no_voxel() -> None:
    rows = torch.tensor([0.0, 1, 2, 3, 3, 4, 5, 6])
    coords = torch.stack(torch.meshgrid(rows, torch.arange(7.0), indexing="ij"))
    usual = frame(coords, everywhere(coords))
    voxels, *cells = unfolded(coords, everywhere(coords), usual, 0.1)
    assert voxels.all()
    assert without_doubles(coords, voxels, *cells).all()
    assert cells[0].any(1).tolist() == [True, True, True, False, True, True, True]
    position, found = mesh_of(coords, voxels).locate(torch.tensor([[2.9, 3.0, 3.1], [2.0, 2.5, 3.0]]))
    assert found.all()
    assert position[0, 0].item() == pytest.approx(2.9)
    assert position[0, 2].item() == pytest.approx(4.1)


def test_all_padding_is_not_valid() -> None:
    coords = torch.full((2, 5, 5), OUTSIDE)
    nothing = torch.zeros(5, 5, dtype=torch.bool)
    usual = frame(coords, nothing)
    assert not any(each.any() for each in unfolded(coords, nothing, usual, 0.1))
    assert not Mesh(coords, nothing, nothing[1:, 1:], usual.spacing).locate(torch.rand(2, 4))[1].any()
    assert fit_affine(coords, nothing) is None


@pytest.mark.parametrize("mode", ["wrap", "reflect"])
def test_wrapped_doubles_are_kept_once(mode: str) -> None:
    coords = torch.from_numpy(np.pad(coordinate_grid((16, 16)).numpy(), [(0, 0), (6, 6), (6, 6)], mode=mode))
    usual = frame(coords, everywhere(coords))
    sound, *cells = unfolded(coords, everywhere(coords), usual, 0.1)
    valid = without_doubles(coords, sound, *cells)
    shown = coords[:, valid].round().long()
    assert len(torch.unique(shown, dim=1).T) == len(shown.T)
    assert valid[10:18, 10:18].all()  # the middle is the original
    if mode == "wrap":
        assert sound[2:4].any()  # wrapped places are sound in themselves: only doubling betrays them


def shown_elsewhere(coords: torch.Tensor, valid: torch.Tensor, margin: float = 1e-3) -> int:
    """How many valid voxels' source points lie in a cell of four valid voxels that is not their own (brute force)."""
    cells = (valid[:-1, :-1] & valid[1:, :-1] & valid[:-1, 1:] & valid[1:, 1:]).nonzero()
    ring = [coords[:, cells[:, 0] + a, cells[:, 1] + b].T for a, b in ((0, 0), (1, 0), (1, 1), (0, 1))]
    points, voxels = coords[:, valid].T, valid.nonzero()
    inside = torch.ones(len(points), len(cells), dtype=torch.bool)
    for start, end in zip(ring, [*ring[1:], ring[0]], strict=True):
        edge = (end - start) / (end - start).norm(dim=1, keepdim=True)
        off = points[:, None] - start
        inside &= edge[:, 0] * off[..., 1] - edge[:, 1] * off[..., 0] > margin  # anticlockwise: no flipped map
    own = ((cells <= voxels[:, None]) & (cells >= voxels[:, None] - 1)).all(2)
    return int((inside & ~own).any(1).sum())


@pytest.mark.parametrize(("height", "period", "kept"), [(3.2, 20.0, 0.75), (4.0, 16.0, 0.5)])
def test_a_fold_shows_each_source_point_once(height: float, period: float, kept: float) -> None:
    coords = waves((48, 40), height, period)  # folds along diagonals: three sheets a point and more
    inside = ((coords >= 0) & (coords <= torch.tensor([47.0, 39.0]).view(2, 1, 1))).all(0)
    usual = frame(coords, inside)
    sound, *cells = unfolded(coords, inside, usual, 0.1)
    valid = without_doubles(coords, sound, *cells)
    assert shown_elsewhere(coords, inside) > shown_elsewhere(coords, sound) > 50
    assert shown_elsewhere(coords, valid) == 0
    assert valid.sum() > kept * sound.sum()


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("shape", [(30, 26), (14, 13, 12)])
def test_locate_against_a_dense_search(monkeypatch, shape: tuple[int, ...], compiled: bool) -> None:
    if not compiled:
        monkeypatch.setattr(_correspondence, "twins", lambda device: None)
    coords = waves(shape, 0.8)
    valid = everywhere(coords)
    valid[:4] = False
    mesh = mesh_of(coords, valid)
    generator = torch.Generator().manual_seed(1)
    points = torch.rand(len(shape), 60, generator=generator) * torch.tensor(shape).unsqueeze(1) - 0.5
    position, found = mesh.locate(points)
    # Oracle: multilinear interpolation of the valid part on a grid five times finer.
    axes = [torch.arange(5 * (n - 1) + 1) / 5 for n in shape]
    axes[0] = axes[0][20:]
    fine = torch.stack(torch.meshgrid(axes, indexing="ij")).flatten(1)
    base = torch.minimum(fine.floor(), torch.tensor(shape).unsqueeze(1) - 2.0)
    values = torch.zeros_like(fine)
    for corner in np.ndindex(*[2] * len(shape)):
        step = torch.tensor(corner).unsqueeze(1)
        weight = torch.where(step == 1, fine - base, 1 - (fine - base)).prod(0)
        values += weight * coords[(slice(None), *(base + step).long())]
    distance = torch.cdist(points.T, values.T)
    nearest = distance.argmin(1)
    near, far = distance.amin(1) < 0.12, distance.amin(1) > 0.35
    assert (near & found).sum() > 15
    assert far.sum() > 3
    assert not (found & far).any()
    position_apart = (position - fine[:, nearest]).norm(dim=0)
    assert position_apart[found & near].max() < 0.5
    inner = ((fine[:, nearest] > 0.3) & (fine[:, nearest] < torch.tensor(shape).unsqueeze(1) - 1.3)).all(0)
    inner &= fine[0, nearest] > 4.3
    assert found[near & inner].all()


@pytest.mark.parametrize("shape", [(30, 26), (14, 13, 12)])
def test_locate_inverts_the_map(shape: tuple[int, ...]) -> None:
    coords = waves(shape, 0.8)
    mesh = mesh_of(coords, everywhere(coords))
    position, found = mesh.locate(coords.flatten(1))
    assert found.all()
    torch.testing.assert_close(position, coordinate_grid(shape).flatten(1), atol=0.02, rtol=0)
    assert not mesh.locate(coords.flatten(1) + 100)[1].any()


def test_locate_in_a_strongly_zoomed_view() -> None:
    for zoom in (0.1, 7.0):
        coords = zoom * coordinate_grid((20, 20)) + 3
        mesh = mesh_of(coords, everywhere(coords))
        position, found = mesh.locate(3 + zoom * torch.tensor([[0.0, 10.3, 19.0, 19.2], [0.0, 4.6, 19.0, 3.0]]))
        assert found.tolist() == [True, True, True, False]
        torch.testing.assert_close(position[:, 1], torch.tensor([10.3, 4.6]), atol=1e-3, rtol=0)


def test_fit_affine() -> None:
    matrix = [[0.9, -0.3], [0.4, 1.1]]
    coords = linear(matrix, (20, 16)) + 2
    valid = everywhere(coords)
    fit = fit_affine(coords, valid)
    expected = np.eye(3)
    expected[:2, :2], expected[:2, 2] = matrix, 2
    np.testing.assert_allclose(fit.numpy(), expected, atol=1e-5)
    coords[:, 3, 4] += 0.05
    assert fit_affine(coords, valid) is None
    valid[3, 4] = False  # only valid voxels count
    assert fit_affine(coords, valid) is not None
    assert fit_affine(coords, valid & (torch.arange(16) == 2)) is None  # a line fixes no map


needs_numba = pytest.mark.skipif(find_spec("numba") is None, reason="the compiled twins need numba")


def with_and_without_numba(monkeypatch: pytest.MonkeyPatch, function: Callable, *arguments) -> list:
    assert _correspondence.twins(torch.device("cpu"))
    results = [function(*arguments)]
    monkeypatch.setattr(_correspondence, "twins", lambda device: None)
    results.append(function(*arguments))
    monkeypatch.undo()
    return results


@needs_numba
@pytest.mark.parametrize("padding_mode", ["zeros", "border"])
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize("size", [(7, 9), (6, 4, 5)])
def test_compiled_resampling_is_that_of_torch(monkeypatch, size, mode, padding_mode) -> None:
    generator = torch.Generator().manual_seed(0)
    coords = 16 * torch.rand(len(size), 30, 40, generator=generator) - 4
    coords[:, :10] = (2 * coords[:, :10]).round() / 2  # voxels and halfway between them
    coords[:, 0] = OUTSIDE
    for dtype in (torch.float32, torch.float64, torch.float16, torch.uint8, torch.int16, torch.int64, torch.bool):
        image = (100 * torch.rand(2, *size, generator=generator)).to(dtype)
        for each in (image, image.mT):  # rows and columns in memory
            one, other = with_and_without_numba(monkeypatch, resample, each, coords, mode, padding_mode)
            assert one.dtype == other.dtype == dtype
            assert one.shape == (2, 30, 40)
            if mode == "nearest":
                assert one.equal(other)
            else:  # integers on the edge between two may be either
                apart = (one.double() - other.double()).abs()
                assert apart.max() <= (1e-3 if dtype.is_floating_point else 1) + 0.1 * (dtype == torch.float16)
                assert (apart > 1e-3).float().mean() < 0.03


@needs_numba
def test_images_with_a_gradient_keep_it() -> None:
    image = torch.rand(1, 5, 5, requires_grad=True)
    resample(image, torch.tensor([[1.5], [2.0]]), "bilinear").sum().backward()
    assert image.grad.sum() == 1


@needs_numba
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("size", [(30, 41), (17, 12, 15)])
def test_compiled_affine_views_are_those_of_torch(monkeypatch, size, threads) -> None:
    from monai_infoaug.transforms import _views_numba

    monkeypatch.setattr(_views_numba, "LEAST", 10)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    dims, generator = len(size), torch.Generator().manual_seed(0)
    steps = []
    for _ in range(3):
        matrix = torch.eye(dims + 1, dtype=torch.float64)
        matrix[:-1] += 0.15 * torch.randn(dims, dims + 1, generator=generator, dtype=torch.float64)
        steps.append((matrix, size))
    steps.append((torch.diag(torch.tensor([-1.0] + [1.0] * dims)), size))  # a flip: exactly on voxels
    steps[-1][0][0, -1] = size[0] - 1
    ranges = [torch.arange(2, n - 1, 1 + axis, dtype=torch.float64) for axis, n in enumerate(size)]
    one, other = with_and_without_numba(monkeypatch, affine_coordinates, steps, ranges)
    assert one[1].equal(other[1])
    assert 0.1 < one[1].float().mean() < 1
    assert one[2].equal(other[2])
    torch.testing.assert_close(one[0], other[0], rtol=0, atol=2e-5)

    coords, valid, matrix = one
    placed = torch.diag(torch.tensor([*range(1, dims + 1), 1.0], dtype=torch.float64))
    placed[:-1, -1] = 2
    mesh = AffineMesh(matrix @ placed, valid)
    points = coords[:, valid] + 0.02 * torch.randn(dims, int(valid.sum()), generator=generator)
    points = torch.cat([points, 3 * max(size) * torch.rand(dims, 200, generator=generator) - max(size)], 1)
    one, other = with_and_without_numba(monkeypatch, mesh.locate, points)
    assert one[1].equal(other[1])
    assert 0.2 < one[1].float().mean() < 1
    torch.testing.assert_close(one[0], other[0], rtol=0, atol=1e-4, equal_nan=True)


@needs_numba
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("shape", "repeats"), [((60, 52), False), ((60, 52), True), ((17, 15, 16), False)])
def test_compiled_search_of_bent_views_is_that_of_torch(monkeypatch, shape, repeats, threads) -> None:
    """Across folds, holes and cells without a volume, and for points that no view shows."""
    from monai_infoaug.transforms import _views_numba

    monkeypatch.setattr(_views_numba, "LEAST_FOLLOWED", 10)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    coords = waves(shape, 1.2)
    if repeats:
        coords[:, 30] = coords[:, 29]
    valid = everywhere(coords)
    valid[20:24, 9:13] = False
    mesh = mesh_of(coords, valid)
    generator = torch.Generator().manual_seed(0)
    points = 1.4 * max(shape) * torch.rand(len(shape), 4000, generator=generator) - 0.2 * max(shape)
    one, other = with_and_without_numba(monkeypatch, mesh.locate, points)
    assert 0.1 < one[1].float().mean() < 0.7
    assert (one[1] != other[1]).float().mean() < 2e-3
    both = one[1] & other[1]
    torch.testing.assert_close(one[0][:, both], other[0][:, both], rtol=0, atol=2e-3)
