"""Which voxels of a coordinate map can be trusted: those where it neither folds nor shows a source point again."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from itertools import product
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from monai_infoaug._grid import unravel_index
from monai_infoaug.transforms._coordinates import SNAP
from monai_infoaug.transforms._lattice import cells_between, dilate, ends, flat_nonzero
from monai_infoaug.transforms._mesh import SampledMesh, determinant
from monai_infoaug.transforms._twins import compiled

NEAR, FAR = 6, 24  # view voxels: duplicates nearer than FAR have a fold between them


class TypicalJacobian(NamedTuple):
    """The usual local change of a map: what a fold is a fold against."""

    matrix: Tensor  # (D, D): median Jacobian around the centre, source voxels a view voxel
    volume: Tensor  # (): median absolute determinant

    @property
    def spacing(self) -> Tensor:
        """Source voxels (D,) that a cell spans along each source axis."""
        return self.matrix.abs().sum(1)


def typical_jacobian(coords: Tensor, inside: Tensor) -> TypicalJacobian:
    """Typical change of a map from all of its coordinates (D, *R) and inside mask (*R)."""
    return sampled_jacobian(lambda window: (coords[(slice(None), *window)], inside[window]), inside.shape)


def sampled_jacobian(
    read: Callable[[tuple[slice, ...]], tuple[Tensor, Tensor]], shape: Sequence[int], samples: int = 4096
) -> TypicalJacobian:
    """Median Jacobian and determinant of a map, from a regular subset of about ``samples`` voxels.

    Voxels without any change along a source axis are border padding and do not count. The matrix, which says what is
    upright, comes from the middle half of the map: padding lies around, not inside.

    Args:
        read: coordinates (D, *W) and inside mask (*W) of a window.
        shape: shape of the map.
        samples: number of voxels.
    """
    dims = len(shape)
    step = max(1, round((prod(shape) / samples) ** (1 / dims)))
    near, columns = (slice(0, -1, step),) * dims, []
    origin, usable = read(near)
    for axis in range(dims):
        beside, inside = read((*near[:axis], slice(1, None, step), *near[axis + 1 :]))
        columns.append(beside - origin)
        usable = usable & inside
    jacobian = torch.stack(columns, 1)  # (source axis, view axis, *subset)
    usable &= (jacobian.abs().sum(1) > SNAP).all(0)
    middle = torch.zeros_like(usable)
    middle[tuple(slice(n // 4, n - n // 4) for n in usable.shape)] = True
    middle = middle & usable if (middle & usable).any() else usable
    if not usable.any():
        return TypicalJacobian(torch.eye(dims, device=origin.device), torch.ones((), device=origin.device))
    matrix = jacobian[:, :, middle].median(-1).values
    return TypicalJacobian(matrix, determinant(list(jacobian[:, :, usable].unbind(1))).abs().median())


class Invertibility(NamedTuple):
    """Where a map can be inverted around a voxel, and in which cells."""

    voxels: Tensor  # (*R) bool
    sound: Tensor  # (*R less one an axis) bool, cells that are neither folded nor collapsed
    folded: Tensor  # likewise, cells with a corner where the determinant is negative
    injective: bool = False  # whether no two places of the map are surely the same


def locally_invertible(coords: Tensor, inside: Tensor, typical: TypicalJacobian, threshold: float) -> Invertibility:
    """Where a map neither folds, nor collapses, nor turns by more than 90 degrees.

    At a voxel the Jacobian is the mean of the differences to the neighbours inside. Its determinant must exceed
    ``threshold`` times the typical one, with its sign. A double reflection in a padded corner passes that but is a half
    turn, so the mean cosine of ``typical^-1 @ jacobian`` is checked too. No cell around the voxel may be folded. One
    may be collapsed (grids that repeat a node make such), but is not sound.

    Args:
        coords: (D, *R), wherever they are: what is outside tells whether the map is injective.
        inside: (*R) bool.
        typical: the map's typical change.
        threshold: least determinant.
    """
    volume, cells = torch.linalg.det(typical.matrix), cells_between(inside)
    if volume.abs() <= 1e-6 * typical.volume:  # also where both are 0, as in an image without depth
        return Invertibility(torch.zeros_like(inside), torch.zeros_like(cells), torch.zeros_like(cells))
    upright = (torch.linalg.inv(typical.matrix) @ coords.flatten(1)).view_as(coords)
    least = threshold * typical.volume / volume.abs()
    if fast := compiled("_validity_numba", coords.device):
        return Invertibility(*fast.invertibility(upright, inside, float(least), SNAP))
    edges = [upright.diff(dim=axis + 1) for axis in range(len(coords))]
    good = _upright_voxels(edges, inside, least)
    smallest = _smallest_determinant(edges)
    folded = cells & (smallest < -SNAP)
    for corner in product((0, 1), repeat=inside.ndim):
        window = tuple(slice(c, c + n) for c, n in zip(corner, cells.shape, strict=True))
        good[window] &= ~folded
    return Invertibility(good, cells & (smallest > least), folded)


def _upright_voxels(edges: list[Tensor], inside: Tensor, least: Tensor) -> Tensor:
    """Voxels (*R) inside whose Jacobian has a determinant above ``least`` and turns by no more than 90 degrees."""
    dims, good, columns = inside.ndim, inside, []
    for axis, edge in enumerate(edges):
        whole = torch.logical_and(*ends(inside, axis))
        sides = [0, 0] * (dims - 1 - axis) + [1, 1]
        before, after = ends(pad(whole.float(), sides), axis)
        columns.append(sum(ends(pad(edge * whole, sides), axis + 1)) / (before + after).clamp_min(1))
        good = good & (before + after > 0)
    size = determinant(columns)
    cosine = sum(column[axis] for axis, column in enumerate(columns))
    upward = cosine > 0 if dims == 2 else cosine**3 > size  # a turn by a: trace s (1 + 2 cos a), size s^3
    return good & (size > least) & upward


def _smallest_determinant(edges: list[Tensor]) -> Tensor:
    """Smallest determinant at the corners of each cell (*R less one an axis)."""
    corners = product((0, 1), repeat=len(edges))
    return functools.reduce(torch.minimum, (determinant(_edges_at(corner, edges)) for corner in corners))


def _edges_at(corner: Sequence[int], edges: list[Tensor]) -> list[Tensor]:
    """The edge along each axis that meets a corner of each cell."""
    chosen = list(edges)
    for axis, other in product(range(len(edges)), repeat=2):
        if other != axis:
            chosen[axis] = ends(chosen[axis], other + 1)[corner[other]]
    return chosen


def may_show_twice(coords: Tensor, valid: Tensor, spacing: Tensor) -> bool:
    """Whether places more than ``FAR`` voxels apart show neighbouring source boxes: cheap, never wrongly False.

    Nearer duplicates have folded cells between them. Three boxes span two usual cells, so that a map must be stretched
    tenfold before its own neighbours are so far apart.
    """
    index = flat_nonzero(valid)
    if not len(index):
        return False
    points, voxels = coords.flatten(1)[:, index], unravel_index(index, valid.shape)
    low = points.amin(1, keepdim=True)
    box = ((points - low) / (0.7 * spacing.unsqueeze(1)).clamp_min(SNAP)).floor().long()
    shape = (box.amax(1) + 1).tolist()
    strides = torch.tensor([prod(shape[axis + 1 :]) for axis in range(len(shape))], device=box.device)
    index = (box * strides.unsqueeze(1)).sum(0)
    for row in voxels:
        # the smallest is the largest of the negative
        extremes = torch.full((2, prod(shape)), -torch.inf, device=box.device)
        extremes[0].scatter_reduce_(0, index, row, "amax")
        extremes[1].scatter_reduce_(0, index, -row, "amax")
        extremes = extremes.view(2, *shape)
        for axis in range(1, extremes.ndim):
            extremes = dilate(extremes, axis)
        if bool((extremes.sum(0) > FAR).any()):
            return True
    return False


def drop_duplicates(coords: Tensor, valid: Tensor, sound: Tensor, folded: Tensor, far: bool = True) -> Tensor:
    """Valid voxels less those whose source point the view shows again at a valid place nearer its centre.

    Where two places are about equally near (2 voxels), both go, and so do voxels of no cell.

    Args:
        coords: (D, *R).
        valid: (*R) bool, all of them locally invertible.
        sound: (*R less one an axis) bool, cells.
        folded: likewise.
        far: whether to look for duplicates without a folded cell near them, see :py:func:`may_show_twice`.
    """
    suspect = _near(folded)  # between two sheets of a fold lies what is folded
    for _ in range(4):  # a sheet hidden behind others is seen once they are gone
        before, valid = valid, _without_nearer_duplicates(coords, valid, sound, suspect, far)
        if valid.equal(before):
            break
    return valid


def _near(folded: Tensor) -> Tensor:
    """Voxels (*R) no further than ``FAR`` from such cells (*R less one an axis), along each axis."""
    near = pad(folded.float(), [FAR, FAR + 1] * folded.ndim)
    for axis in range(folded.ndim):
        near = near.unfold(axis, 2 * FAR + 1, 1).amax(-1)
    return near > 0


def _without_nearer_duplicates(coords: Tensor, valid: Tensor, sound: Tensor, suspect: Tensor, far: bool) -> Tensor:
    mesh = SampledMesh(coords, valid, sound, _largest_spacing(coords, valid))
    at = unravel_index(mesh.corners, mesh.shape)
    centre = torch.tensor(mesh.shape, device=coords.device).sub(1).div(2).unsqueeze(1)
    away = _length(at - centre)
    # The first and last voxel of a box along each axis lie on different sheets, if the sheets are apart on any.
    extremes = [mesh.seed_table((sign * row).long() + max(mesh.shape)) for row in at for sign in (1, -1)]
    looked_at = suspect.flatten()[mesh.corners]
    if far:
        looked_at |= _wide_boxes(extremes, mesh.shape)[mesh.corner_boxes]
    index = flat_nonzero(looked_at)
    tables = torch.stack([mesh.seed_table(away.long()), *extremes])
    seeds = tables.index_select(1, mesh.corner_boxes[index])
    # A search that begins beside the voxel ends there.
    new = (unravel_index(seeds, mesh.shape) + 0.5 - at[:, None, index]).abs().amax(0) > 1.5
    for row in range(1, len(seeds)):
        new[row] &= (seeds[row] != seeds[:row]).all(0)
    index = index.expand_as(new)[new]
    voxels = mesh.corners[index]
    position, found = mesh.locate(mesh.coords.index_select(1, voxels), seeds[new])
    nearer = _length(position - centre) < away[index] + 2
    duplicate = found & nearer & ((position - at.index_select(1, index)).abs().amax(0) > 1.5)
    single = torch.zeros_like(valid.flatten())
    single[mesh.corners] = True
    single[voxels[duplicate]] = False
    return single.view_as(valid)


def _largest_spacing(coords: Tensor, valid: Tensor) -> Tensor:
    """Source voxels (D,) that no cell between valid voxels exceeds along a source axis."""
    spacing = torch.zeros(len(coords), device=coords.device)
    for axis in range(len(coords)):
        both = torch.logical_and(*ends(valid, axis))
        spacing += (coords.diff(dim=axis + 1).abs() * both).flatten(1).amax(1)
    return spacing


def _wide_boxes(extremes: list[Tensor], shape: Sequence[int]) -> Tensor:
    """Source boxes (n,) whose first and last voxel along an axis, two tables each, are more than ``NEAR`` apart."""
    first, last = ([unravel_index(table, shape) for table in extremes[side::2]] for side in (0, 1))
    return torch.stack([(b - a).amax(0) > NEAR for a, b in zip(first, last, strict=True)]).any(0)


def _length(vectors: Tensor) -> Tensor:
    """Length (n,) of vectors (D, n); ``norm`` takes thirty times as long."""
    return vectors.square().sum(0).sqrt()
