"""Views as meshes: where a view shows a source point.

Between voxels a coordinate map is multilinear, so a view is a mesh of cells with 2^D voxels as corners.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from itertools import product
from math import prod
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from monai_infoaug._grid import unravel_index
from monai_infoaug.transforms._coordinates import SNAP
from monai_infoaug.transforms._lattice import cells_between, dilate, flat_nonzero, ravel_index
from monai_infoaug.transforms._twins import compiled

RESIDUAL = 0.05  # source voxels: a partner that misses its point by more is none
MARGIN = 0.01  # view voxels that a partner may lie outside of the mesh
CHUNK = 1 << 16  # points that stay in the CPU's cache


class Mesh(Protocol):
    """Finds where a view shows source points (D, n)."""

    def shows(self, points: Tensor) -> Tensor:
        """Whether (n,) the view may show points; False is certain."""

    def locate(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Positions (D, n) in view voxels, NaN where not found, and found (n,) bool."""


def determinant(columns: Sequence[Tensor]) -> Tensor:
    """Determinant (...) of a 2x2 or 3x3 matrix given as its columns, each (D, ...)."""
    if len(columns) == 2:
        (a, b), (c, d) = columns
        return a * d - b * c
    (a, b, c), (d, e, f), (g, h, i) = columns
    return a * (e * i - f * h) + b * (f * g - d * i) + c * (d * h - e * g)


def solve(columns: Sequence[Tensor], right: Tensor) -> Tensor:
    """Cramer's rule for many small systems: x (D, ...) with ``sum_i columns[i] * x[i] = right``."""
    numerators = [determinant([*columns[:i], right, *columns[i + 1 :]]) for i in range(len(columns))]
    return torch.stack(numerators) / determinant(columns)


def multilinear(corners: Sequence[Tensor], fraction: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Value (D, n) and derivatives, one (D, n) an axis, inside cells.

    Args:
        corners: 2^D tensors (D, n), the last axis fastest.
        fraction: (D, n), position in the cell; outside of [0, 1] the cell is continued.
    """
    terms = list(corners)
    for bit in (1 << axis for axis in range(len(fraction))):  # coefficients of the polynomial: 1, x, y, xy, ...
        terms = [term - terms[i ^ bit] if i & bit else term for i, term in enumerate(terms)]
    slopes: list[list[Tensor]] = []
    for part in reversed(fraction.unbind()):
        slopes = [terms[1::2], *(_with_last(slope, part) for slope in slopes)]
        terms = _with_last(terms, part)
    return terms[0], [slope[0] for slope in slopes]


def _with_last(terms: list[Tensor], value: Tensor) -> list[Tensor]:
    """The coefficients of a polynomial with a value for its last variable."""
    return [torch.addcmul(low, value, high) for low, high in zip(terms[::2], terms[1::2], strict=True)]


def _pick(index: Tensor, *tensors: Tensor) -> list[Tensor]:
    """Entries (..., n) of tensors."""
    return [tensor.index_select(-1, index) for tensor in tensors]


def _first_cells(cells: Tensor, offsets: Sequence[int], coords: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """First cell (n,) of which each voxel is a corner, -1 for none, and extremes (D,) of their coordinates (D, n)."""
    index = torch.arange(len(cells), device=cells.device)
    first = torch.full_like(index, -1)
    for offset in reversed(offsets):
        first = torch.where(pad(cells, [offset, 0])[: len(index)], index - offset, first)
    none = first < 0
    low, high = (coords.masked_fill(none, end) for end in (torch.inf, -torch.inf))
    return first, low.amin(1), high.amax(1)


class SampledMesh:
    """The mesh of any view: its sound cells, of which all corners are valid.

    Args:
        coords: (D, *R).
        valid: (*R) bool.
        sound: (*R less one an axis) bool, cells.
        spacing: (D,), usual source voxels a cell along each source axis, for the boxes of the lookup table.

    Example:
        >>> from monai_infoaug.transforms._coordinates import coordinate_grid
        >>> coords = 2 * coordinate_grid((4, 4))
        >>> valid = torch.ones(4, 4, dtype=torch.bool)
        >>> mesh = SampledMesh(coords, valid, valid[1:, 1:], spacing=torch.tensor([2.0, 2.0]))
        >>> mesh.locate(torch.tensor([[3.0, 7.0], [4.5, 0.0]]))
        (tensor([[1.5000,    nan],
                [2.2500,    nan]]), tensor([ True, False]))
    """

    def __init__(self, coords: Tensor, valid: Tensor, sound: Tensor, spacing: Tensor) -> None:
        dims, device = len(coords), coords.device
        self.shape, self.coords = valid.shape, coords.flatten(1)
        strides = [prod(self.shape[axis + 1 :]) for axis in range(dims)]
        self.last = torch.tensor(self.shape, device=device).sub(2.0).unsqueeze(1)  # first corner of the last cell
        self.offsets = [sum(map(int.__mul__, corner, strides)) for corner in product((0, 1), repeat=dims)]
        self.cells = pad(cells_between(valid) & sound, [0, 1] * dims).flatten()  # by first corner
        self.fast = compiled("_mesh_numba", device)
        first_cells = self.fast.first_cells if self.fast else _first_cells
        self.cell_of: Tensor
        self.cell_of, low, high = first_cells(self.cells, self.offsets, self.coords)
        low, high = low.nan_to_num(posinf=0).unsqueeze(1), high.nan_to_num(neginf=0).unsqueeze(1)  # of no cell
        # Boxes are larger than the usual spacing, so that few are missed, and not many more than voxels.
        self.box = 1.5 * spacing.unsqueeze(1)
        self.box = self.box.maximum((high - low) / (4 * max(self.shape))).clamp_min(SNAP)
        self.table_origin = low - self.box
        self.table_shape = [int(n) + 2 for n in ((high - self.table_origin) / self.box).flatten().tolist()]

    @functools.cached_property
    def corners(self) -> Tensor:
        """Voxels (n,) that are corners of a cell."""
        return flat_nonzero(self.cell_of >= 0)

    @functools.cached_property
    def corner_cells(self) -> Tensor:
        """The first cell (n,) of each corner."""
        return self.cell_of[self.corners]

    @functools.cached_property
    def corner_boxes(self) -> Tensor:
        """Linear table index (n,) of the corners."""
        return self.box_index(self.coords[:, self.corners])

    @functools.cached_property
    def table(self) -> Tensor:
        """Table (n,) from source box to a cell near it."""
        if self.fast:
            boxes = self.table_origin.flatten(), self.box.flatten(), self.table_shape
            return self.fast.filled_table(self.cell_of, self.coords, *boxes).flatten()
        return self._filled(self.seed_table(torch.zeros_like(self.corners)))

    def seed_table(self, rank: Tensor) -> Tensor:
        """Table from source box to a cell of the corner in it with the least ``rank`` (n,), -1 for no corner."""
        none, count = torch.iinfo(torch.long).max, len(self.cells)
        table = torch.full((prod(self.table_shape),), none, device=rank.device)
        table.scatter_reduce_(0, self.corner_boxes, rank * count + self.corner_cells, "amin")
        return torch.where(table == none, -1, table % count)

    def _filled(self, table: Tensor) -> Tensor:
        """Empty boxes borrow from their neighbours."""
        filled = table.view(self.table_shape)
        for axis in range(filled.ndim):
            filled = dilate(filled, axis)
        return torch.where(table < 0, filled.flatten(), table)

    def box_index(self, points: Tensor) -> Tensor:
        """Linear table index (n,) of source points (D, n); -1 beyond the table."""
        boxes = ((points - self.table_origin) / self.box).floor().long()
        index, inside = torch.zeros_like(boxes[0]), torch.ones_like(boxes[0], dtype=torch.bool)
        for axis, size in zip(boxes, self.table_shape, strict=True):
            inside &= (axis >= 0) & (axis < size)
            index = index * size + axis
        return torch.where(inside, index, -1)

    def seed_cell(self, points: Tensor) -> Tensor:
        """A cell (n,) near source points (D, n); -1 where there is none, so that no partner can be."""
        index = self.box_index(points)
        return self.table.index_select(0, index.clamp_min(0)).masked_fill_(index < 0, -1)

    def shows(self, points: Tensor) -> Tensor:
        """Whether (n,) a cell is near."""
        return self.seed_cell(points) >= 0

    def locate(self, points: Tensor, seeds: Tensor | None = None, steps: int = 10) -> tuple[Tensor, Tensor]:
        """Positions (D, n) and found (n,), by Newton's method on the cells.

        Args:
            points: (D, n) source voxel coordinates.
            seeds: (n,) from :py:meth:`seed_cell`.
            steps: at most so many iterations.
        """
        if self.fast and seeds is None:
            table = self.table.view((1,) * (3 - len(self.shape)) + tuple(self.table_shape))
            boxes = table, self.table_origin.flatten(), self.box.flatten()
            limits = RESIDUAL, MARGIN, steps
            return self.fast.locate(points, *boxes, self.coords, self.cells, self.shape, self.offsets, limits)
        seeds = self.seed_cell(points) if seeds is None else seeds
        chunk = CHUNK if points.device.type == "cpu" else max(1, len(seeds))
        parts = zip(points.split(chunk, 1), seeds.split(chunk), strict=True)
        position = torch.cat([self._newton(*part, steps) for part in parts], 1)
        return position, ~position[0].isnan()

    def _newton(self, points: Tensor, cell: Tensor, steps: int) -> Tensor:
        position = torch.full_like(points, torch.nan)
        which = flat_nonzero(cell >= 0)
        target, cell = points.index_select(1, which), cell[which]
        origin = unravel_index(cell, self.shape)
        at = torch.full_like(origin, 0.5)  # from the cell's origin, as target from its corners: so no digits are lost
        for _ in range(steps):
            corners = [self.coords.index_select(1, cell + offset).sub_(target) for offset in self.offsets]
            miss, slopes = multilinear(corners, at)
            at = at - solve(slopes, miss).nan_to_num_(0.0).clamp_(-8, 8)  # not finite in a cell without a volume
            close = miss.square().sum(0) <= RESIDUAL**2  # then the step just taken leaves a far smaller one
            done = close & ((at - 0.5).abs_().amax(0) <= 0.5 + MARGIN)
            here, rest = flat_nonzero(done), flat_nonzero(~done)
            position[:, which[here]] = origin.index_select(1, here) + at.index_select(1, here).clamp_(0, 1)
            which, target, at, cell, origin, close = _pick(rest, which, target, at, cell, origin, close)
            before, (cell, ahead) = cell, self._next_cell(at, cell, origin)
            at, origin = at - (ahead - origin), ahead
            stuck = close & (cell == before)
            if stuck.any():
                which, target, at, cell, origin = _pick(flat_nonzero(~stuck), which, target, at, cell, origin)
            if not len(which):
                break
        return position

    def _next_cell(self, at: Tensor, cell: Tensor, origin: Tensor) -> tuple[Tensor, Tensor]:
        """The good cell (n,) at positions (D, n) from ``origin``, and its own origin (D, n).

        Else one that they touch, or the next behind a collapsed one, or ``cell`` where they come from, to be continued.
        """
        floor = (origin + at.floor()).clamp_min_(0).minimum(self.last)
        found = ravel_index(floor, self.shape)
        bad = flat_nonzero(~self.cells.index_select(0, found))
        if not len(bad):
            return found, floor
        near, at, cell, origin = _pick(bad, floor, at, cell, origin)
        fraction, shift = at - (near - origin), (near - origin).sign()
        shift = torch.where(fraction < MARGIN, -1.0, torch.where(fraction > 1 - MARGIN, 1.0, shift))
        for side in product((0.0, 1.0), repeat=len(at)):
            beside = near + shift * torch.tensor(side, device=at.device).unsqueeze(1)
            beside = beside.clamp_min_(0).minimum(self.last)
            index = ravel_index(beside, self.shape)
            good = self.cells.index_select(0, index)
            cell, origin = torch.where(good, index, cell), torch.where(good, beside, origin)
        floor[:, bad] = origin
        return found.index_copy(0, bad, cell), floor


class AffineMesh:
    """The mesh of a view with an affine map, in closed form: its cells are those of which all corners are valid.

    Args:
        matrix: (D+1, D+1) from the view to the source.
        valid: (*R) bool.
    """

    def __init__(self, matrix: Tensor, valid: Tensor) -> None:
        self.inverse, self.valid = torch.linalg.inv(matrix), valid
        self.last = torch.tensor(valid.shape, device=valid.device).sub(1).unsqueeze(1)

    @functools.cached_property
    def cells(self) -> Tensor:
        """Whether all corners are valid (n,)."""
        return cells_between(self.valid).flatten()

    def shows(self, points: Tensor) -> Tensor:
        """Whether (n,) points are found."""
        return self.locate(points)[1]

    def locate(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Positions (D, n) and found (n,), by the inverse matrix."""
        if fast := compiled("_views_numba", points.device):
            return fast.locate(self.inverse, self.valid, MARGIN, points)
        linear, shift = self.inverse[:-1, :-1].float(), self.inverse[:-1, -1:].float()
        position = torch.addmm(shift, linear, points)
        at = position.clamp(torch.zeros_like(self.last), self.last)
        found = self.cells[self._index(at)]
        rest = flat_nonzero(~found)
        for side in product((-MARGIN, MARGIN), repeat=len(at)):
            beside = at[:, rest] + torch.tensor(side, device=at.device).unsqueeze(1)
            found[rest] |= self.cells[self._index(beside)]
        found &= ((position - at).abs() <= MARGIN).all(0)
        return at.masked_fill_(~found, torch.nan), found

    def _index(self, at: Tensor) -> Tensor:
        """Linear index (n,) of the cells at positions (D, n)."""
        shape = [n - 1 for n in self.valid.shape]
        return ravel_index(at.floor().clamp_min_(0).minimum(self.last - 1), shape)
