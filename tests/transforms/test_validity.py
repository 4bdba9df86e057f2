"""Which voxels of a coordinate map are valid, against brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.transforms import Rand2DElastic

from monai_infoaug.transforms import RandPairedViews
from monai_infoaug.transforms._coordinates import OUTSIDE, coordinate_grid, fit_affine
from monai_infoaug.transforms._mesh import SampledMesh
from monai_infoaug.transforms._validity import drop_duplicates, locally_invertible, typical_jacobian
from tests.transforms.coordinate_maps import everywhere, linear, mesh_of, needs_numba, waves, with_and_without_numba


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
    typical = typical_jacobian(coords, everywhere(coords))
    torch.testing.assert_close(typical.matrix, torch.tensor(matrix), atol=1e-4, rtol=0)
    assert typical.volume.item() == pytest.approx(abs(np.linalg.det(matrix)), abs=1e-4)
    valid, sound, folded, _ = locally_invertible(coords, everywhere(coords), typical, 0.1)
    assert valid.all()
    assert sound.all()
    assert not folded.any()


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("mode", ["reflect", "symmetric", "edge"])
def test_padded_coordinates_are_not_valid(mode: str, dims: int) -> None:
    pads = [(0, 0)] + [(4, 3)] * dims
    coords = torch.from_numpy(np.pad(coordinate_grid((12,) * dims).numpy(), pads, mode=mode))
    valid, *_ = locally_invertible(coords, everywhere(coords), typical_jacobian(coords, everywhere(coords)), 0.1)
    original = np.pad(np.ones((12,) * dims, bool), pads[1:])
    assert not (valid.numpy() & ~original).any()  # double reflections in the corners included
    inner = np.pad(np.ones((10,) * dims, bool), [(5, 4)] * dims)
    assert (valid.numpy() | ~inner).all()  # at most the voxels at the seam are lost


def test_no_ring_is_lost_beside_constant_padding() -> None:
    coords, inside = coordinate_grid((10, 9)), torch.zeros(10, 9, dtype=torch.bool)
    inside[3:8, 2:7] = True
    coords = coords.masked_fill(~inside, OUTSIDE)
    assert locally_invertible(coords, inside, typical_jacobian(coords, inside), 0.1)[0].equal(inside)


def test_a_repeated_node_costs_no_voxel() -> None:
    rows = torch.tensor([0.0, 1, 2, 3, 3, 4, 5, 6])
    coords = torch.stack(torch.meshgrid(rows, torch.arange(7.0), indexing="ij"))
    typical = typical_jacobian(coords, everywhere(coords))
    voxels, *cells = locally_invertible(coords, everywhere(coords), typical, 0.1)[:3]
    assert voxels.all()
    assert drop_duplicates(coords, voxels, *cells).all()
    assert cells[0].any(1).tolist() == [True, True, True, False, True, True, True]
    position, found = mesh_of(coords, voxels).locate(torch.tensor([[2.9, 3.0, 3.1], [2.0, 2.5, 3.0]]))
    assert found.all()
    assert position[0, 0].item() == pytest.approx(2.9)
    assert position[0, 2].item() == pytest.approx(4.1)


def test_all_padding_is_not_valid() -> None:
    coords = torch.full((2, 5, 5), OUTSIDE)
    nothing = torch.zeros(5, 5, dtype=torch.bool)
    typical = typical_jacobian(coords, nothing)
    assert not any(each.any() for each in locally_invertible(coords, nothing, typical, 0.1)[:3])
    assert not SampledMesh(coords, nothing, nothing[1:, 1:], typical.spacing).locate(torch.rand(2, 4))[1].any()
    assert fit_affine(coords, nothing) is None


@pytest.mark.parametrize("mode", ["wrap", "reflect"])
def test_wrapped_duplicates_are_kept_once(mode: str) -> None:
    coords = torch.from_numpy(np.pad(coordinate_grid((16, 16)).numpy(), [(0, 0), (6, 6), (6, 6)], mode=mode))
    typical = typical_jacobian(coords, everywhere(coords))
    sound, *cells = locally_invertible(coords, everywhere(coords), typical, 0.1)[:3]
    valid = drop_duplicates(coords, sound, *cells)
    shown = coords[:, valid].round().long()
    assert len(torch.unique(shown, dim=1).T) == len(shown.T)
    assert valid[10:18, 10:18].all()  # the middle is the original
    if mode == "wrap":
        assert sound[2:4].any()  # wrapped places are sound in themselves: only doubling betrays them


def cells_that_show(coords: torch.Tensor, valid: torch.Tensor, margin: float = 1e-3) -> tuple[torch.Tensor, ...]:
    """Which valid voxels' source points lie in which cells of four valid voxels but their own (brute force).

    Returns:
        (n, m) bool, the voxels (n, 2) and the cells (m, 2).
    """
    cells = (valid[:-1, :-1] & valid[1:, :-1] & valid[:-1, 1:] & valid[1:, 1:]).nonzero()
    ring = [coords[:, cells[:, 0] + a, cells[:, 1] + b].T for a, b in ((0, 0), (1, 0), (1, 1), (0, 1))]
    points, voxels = coords[:, valid].T, valid.nonzero()
    inside = torch.ones(len(points), len(cells), dtype=torch.bool)
    for start, end in zip(ring, [*ring[1:], ring[0]], strict=True):
        edge = (end - start) / (end - start).norm(dim=1, keepdim=True)
        off = points[:, None] - start
        inside &= edge[:, 0] * off[..., 1] - edge[:, 1] * off[..., 0] > margin  # anticlockwise: no flipped map
    own = ((cells <= voxels[:, None]) & (cells >= voxels[:, None] - 1)).all(2)
    return inside & ~own, voxels, cells


def shown_elsewhere(coords: torch.Tensor, valid: torch.Tensor) -> int:
    """How many valid voxels' source points other places show."""
    return int(cells_that_show(coords, valid)[0].any(1).sum())


def shown_nearer(coords: torch.Tensor, valid: torch.Tensor) -> int:
    """How many valid voxels' source points are shown at valid places nearer the centre, and not just beside."""
    shown, voxels, cells = cells_that_show(coords, valid)
    centre = (torch.tensor(valid.shape) - 1) / 2
    apart = (cells + 0.5 - voxels[:, None]).abs().amax(2) > 2
    nearer = (cells + 0.5 - centre).norm(dim=1) < (voxels - centre).norm(dim=1, keepdim=True)
    return int((shown & apart & nearer).any(1).sum())


@pytest.mark.parametrize(("height", "period", "kept"), [(3.2, 20.0, 0.75), (4.0, 16.0, 0.5)])
def test_a_fold_shows_each_source_point_once(height: float, period: float, kept: float) -> None:
    coords = waves((48, 40), height, period)  # folds along diagonals: three sheets a point and more
    inside = ((coords >= 0) & (coords <= torch.tensor([47.0, 39.0]).view(2, 1, 1))).all(0)
    typical = typical_jacobian(coords, inside)
    sound, *cells = locally_invertible(coords, inside, typical, 0.1)[:3]
    valid = drop_duplicates(coords, sound, *cells)
    assert shown_elsewhere(coords, inside) > shown_elsewhere(coords, sound) > 50
    assert shown_elsewhere(coords, valid) == 0
    assert valid.sum() > kept * sound.sum()


@pytest.mark.parametrize(("spacing", "magnitude", "bound"), [(16, (3, 6), 1e-3), (8, (3, 6), 1e-2), (5, (3, 6), 3e-2)])
def test_few_voxels_of_wild_chains_are_shown_nearer_the_centre(
    spacing: int, magnitude: tuple[int, int], bound: float
) -> None:
    """As the docstring of the paired views says: nodes displaced by up to 0.4, 0.75 and 1.2 of their spacing."""
    settings = {"rotate_range": 0.5, "scale_range": 0.3, "padding_mode": "reflection"}
    pair = RandPairedViews(None, Rand2DElastic((spacing,) * 2, magnitude, 1.0, **settings), min_overlap=0, num_points=0)
    pair.set_random_state(0)
    nearer = valid = 0
    for _ in range(4):
        views = pair(torch.zeros(1, 44, 36))
        for k in (1, 2):
            nearer += shown_nearer(views[f"coords_view{k}"], views[f"valid_view{k}"][0])
            valid += int(views[f"valid_view{k}"].sum())
    assert valid > 4 * 44 * 36 / 4
    assert nearer < bound * valid


@needs_numba
@pytest.mark.parametrize("height", [0.3, 1.0, 2.5, 4.0])
@pytest.mark.parametrize("size", [(48, 40), (17, 14, 15)])
def test_compiled_validity_is_that_of_torch(monkeypatch, size, height) -> None:
    coords = waves(size, height, 16.0)
    inside = torch.rand(size, generator=torch.Generator().manual_seed(0)) > 0.05
    typical = typical_jacobian(coords, inside)
    one, other = with_and_without_numba(monkeypatch, locally_invertible, coords, inside, typical, 0.1)
    for found, expected in zip(one[:3], other[:3], strict=True):
        assert (found ^ expected).float().mean() < 1e-3  # where a determinant is the least
    assert one.voxels.any()
    assert one.folded.any() == (height > 2)
    assert not other.injective


@needs_numba
@pytest.mark.parametrize("seed", range(6))
def test_what_is_surely_injective_shows_nothing_twice(seed: int) -> None:
    """Maps of growing strength: the flag must never be raised where a voxel is shown again, and must be at first."""
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.eye(2) + 0.2 * torch.randn(2, 2, generator=generator)
    noise = torch.nn.functional.interpolate(
        torch.randn(1, 2, 7, 6, generator=generator), (36, 32), mode="bicubic", align_corners=True
    )[0]
    raised = []
    for strength in (0.2, 1.0, 2.0, 4.0, 8.0):
        coords = (matrix @ (coordinate_grid((36, 32)) + strength * noise).flatten(1)).view(2, 36, 32)
        inside = everywhere(coords)
        found = locally_invertible(coords, inside, typical_jacobian(coords, inside), 0.0)
        raised.append(found.injective)
        if found.injective:
            assert not found.folded.any()
            assert found.voxels.all()
            twice = shown_elsewhere(coords if torch.linalg.det(matrix) > 0 else coords.flip(0), inside)
            assert twice == 0
    assert raised[0]
    assert not raised[-1]
