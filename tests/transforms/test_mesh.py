"""Where a view shows a source point, against brute force and closed forms."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from monai_infoaug.transforms import _mesh
from monai_infoaug.transforms._coordinates import affine_coordinates, coordinate_grid
from monai_infoaug.transforms._lattice import ravel_index
from monai_infoaug.transforms._mesh import AffineMesh, determinant, multilinear, solve
from tests.transforms.coordinate_maps import everywhere, mesh_of, needs_numba, waves, with_and_without_numba


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


@pytest.mark.parametrize("shape", [(30, 26), (14, 13, 12)])
def test_locate_against_a_dense_search(shape: tuple[int, ...]) -> None:
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


@pytest.mark.parametrize("chunk", [1 << 16, 100])
@pytest.mark.parametrize(("shape", "repeats"), [((60, 52), False), ((60, 52), True), ((17, 15, 16), False)])
def test_what_is_located_is_shown_there(monkeypatch, shape: tuple[int, ...], repeats: bool, chunk: int) -> None:
    """Across folds, holes and cells without a volume, and for points that no view shows."""
    monkeypatch.setattr(_mesh, "CHUNK", chunk)
    coords = waves(shape, 1.2)
    if repeats:
        coords[:, 30] = coords[:, 29]
    valid = everywhere(coords)
    valid[20:24, 9:13] = False
    mesh = mesh_of(coords, valid)
    generator = torch.Generator().manual_seed(0)
    points = 1.4 * max(shape) * torch.rand(len(shape), 4000, generator=generator) - 0.2 * max(shape)
    position, found = mesh.locate(points)
    assert 0.1 < found.float().mean() < 0.7
    assert position[:, ~found].isnan().all()
    at = position[:, found]
    first = torch.minimum(at.floor(), torch.tensor(shape).unsqueeze(1) - 2.0)
    cells = [first, (at.ceil() - 1).clamp_min(0)]  # on an edge between cells either may be meant
    assert torch.stack([mesh.cells[ravel_index(cell, shape)] for cell in cells]).any(0).all()
    corners = [
        coords[(slice(None), *(first + torch.tensor(corner).unsqueeze(1)).long())]
        for corner in itertools.product((0, 1), repeat=len(shape))
    ]
    miss = (multilinear(corners, at - first)[0] - points[:, found]).norm(dim=0)
    assert miss.max() < 0.02  # the margin, of a hundredth of a voxel
    assert miss.quantile(0.99) < 3e-3


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


@needs_numba
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("size", [(30, 41), (17, 12, 15)])
def test_compiled_affine_views_are_those_of_torch(monkeypatch, size, threads) -> None:
    from monai_infoaug.transforms import _views_numba

    monkeypatch.setattr(_views_numba, "VOXELS_PER_THREAD", 10)
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
@pytest.mark.parametrize("height", [0.5, 2.5, 4.0])
@pytest.mark.parametrize("size", [(44, 37), (17, 19, 16)])
def test_compiled_meshes_are_those_of_torch(monkeypatch, size, height) -> None:
    generator = torch.Generator().manual_seed(0)
    coords = waves(size, height, 16.0)
    valid = torch.rand(size, generator=generator) > 0.02
    points = coords.flatten(1) + 0.6 * torch.randn(len(size), coords[0].numel(), generator=generator)
    one, other = with_and_without_numba(monkeypatch, lambda: mesh_of(coords, valid).locate(points))
    assert 0.1 < one[1].float().mean() < 1
    assert (one[1] ^ other[1]).float().mean() < 2e-3  # on the edge of what is found
    both = one[1] & other[1]
    assert ((one[0] - other[0])[:, both].abs().amax(0) > 1e-2).float().mean() < 2e-3  # of several, another
    tables = with_and_without_numba(monkeypatch, lambda: mesh_of(coords, valid).table)
    assert (tables[0] != tables[1]).float().mean() < 1e-3  # on the edge between two boxes
