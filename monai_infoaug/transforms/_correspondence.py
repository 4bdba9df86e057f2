"""Coordinate maps from a view's voxels to its source: which of them can be trusted, and how to invert them.

A map is ``coords`` (D, *R) float32, the source voxel coordinate of each view voxel, with a mask (*R) of the voxels that
show the source. Between voxels it is multilinear, so a view is a mesh of cells with 2^D voxels as corners.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from itertools import product
from math import prod
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from monai_infoaug._grid import sample_at

OUTSIDE = -2.0  # beyond the reach of every interpolation kernel
SNAP = 1e-3  # source voxels: interpolation noise at the border
ROUNDING = 1e-5  # the same in closed form
RESIDUAL = 0.05  # source voxels: a partner that misses its point by more is none
MARGIN = 0.01  # view voxels that a partner may lie outside of the mesh
NEAR, FAR = 6, 24  # view voxels: doubles nearer than FAR have a fold between them


@functools.cache
def _compiled() -> ModuleType | None:
    """Twins of what takes long, None where numba is missing."""
    try:
        from monai_infoaug.transforms import _views_numba
    except ImportError:
        return None
    return _views_numba


def twins(device: torch.device) -> ModuleType | None:
    """The compiled functions, for the CPU."""
    return _compiled() if device.type == "cpu" else None


def places(mask: Tensor) -> Tensor:
    """Linear index (n,) of what is true in a mask, on the CPU by NumPy, which is several times faster."""
    if mask.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.flatten().nonzero()[:, 0]


def unravel(index: Tensor, shape: Sequence[int]) -> Tensor:
    """Voxel coordinates (D, n) float32 of linear indices (n,); ``torch.unravel_index`` takes several times as long."""
    axes = []
    for size in reversed(shape):
        axes.append(index % size)
        index = index.div(size, rounding_mode="floor")
    return torch.stack(axes[::-1]).float()


def coordinate_grid(shape: Sequence[int], device: torch.device | None = None) -> Tensor:
    """Identity coordinates (D, *shape) float32."""
    return torch.stack(torch.meshgrid([torch.arange(n, device=device).float() for n in shape], indexing="ij"))


def resample(image: Tensor, coords: Tensor, mode: str, padding_mode: str = "zeros") -> Tensor:
    """Read ``image`` (C, *S) at ``coords`` (D, *R); the result (C, *R) has the image's type.

    ``"nearest"`` moves values and never computes with them, so that large integer labels survive.
    """
    fast = None if mode == "bicubic" or image.requires_grad else twins(image.device)
    if mode != "nearest":
        values = image if image.dtype == torch.float64 else image.float()
        if fast:
            values = fast.resample(values, coords, False, padding_mode == "border")
        else:
            values = sample_at(values[None], coords[None].to(values), mode, padding_mode)[0]
        return values.to(image.dtype) if image.is_floating_point() else values.round().to(image.dtype)
    if fast:
        return fast.resample(image, coords, True, padding_mode == "border")
    index, inside = 0, True
    for axis, n in zip(coords, image.shape[1:], strict=True):
        at = axis.round().int() if image[0].numel() < 2**31 else axis.round().long()
        within = at.clamp(0, n - 1)
        inside, index = inside & (at == within), index * n + within
    values = image.flatten(1).index_select(1, index.flatten()).unflatten(1, inside.shape)
    return values if padding_mode == "border" else values.masked_fill(~inside, 0)


def split_coordinates(output: Tensor, source_shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Coordinates and inside mask from what a spatial chain made of the identity coordinates and a channel of ones.

    Where the ones have faded, constant padding has been mixed in: those coordinates mean nothing.
    """
    last = torch.tensor(source_shape, device=output.device).float().sub(1).view(-1, *[1] * len(source_shape))
    coords = output[:-1]
    snapped = coords.clamp(torch.zeros_like(last), last)
    inside = ((coords - snapped).abs() <= SNAP).all(0) & ((output[-1] - 1).abs() <= SNAP)
    return snapped.masked_fill(~inside, OUTSIDE), inside


def affine_coordinates(
    steps: Sequence[tuple[Tensor, Sequence[int]]], ranges: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Coordinates and inside mask of a chain of affine maps, in closed form.

    Args:
        steps: in the chain's order, the matrix (D+1, D+1) float64 from what a step makes to what it gets, and the
            latter's size; a voxel shows the source if all steps found it inside of what they got.
        ranges: voxels along each axis of the last step's output.

    Returns:
        coordinates (D, *R), mask (*R), and the matrix of the whole chain.
    """
    dims = len(ranges)
    matrix, matrices = torch.eye(dims + 1, dtype=torch.float64, device=ranges[0].device), []
    for step, _ in reversed(steps):
        matrix = step.to(matrix) @ matrix
        matrices.append(matrix)
    sizes, inside = [size for _, size in reversed(steps)], None
    if fast := twins(matrix.device):
        return *fast.affine_coordinates(matrices, sizes, ranges, ROUNDING, OUTSIDE), matrix
    for matrix, size in zip(matrices, sizes, strict=True):
        coords = matrix[:dims, -1].float().view(-1, *[1] * dims)
        for axis, voxels in enumerate(ranges):
            part = (matrix[:dims, axis, None] * voxels).float()
            coords = coords + part.view(dims, *[-1 if other == axis else 1 for other in range(dims)])
        last = torch.tensor(size, device=coords.device).float().sub(1).view(-1, *[1] * dims)
        snapped = coords.clamp(torch.zeros_like(last), last)
        within = ((coords - snapped).abs() <= ROUNDING).all(0)
        inside = within if inside is None else inside & within
    return snapped.masked_fill_(~inside, OUTSIDE), inside, matrix


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


class Frame(NamedTuple):
    """The usual local change of a map: what a fold is a fold against."""

    matrix: Tensor  # (D, D): median Jacobian around the centre, source voxels a view voxel
    volume: Tensor  # (): median absolute determinant

    @property
    def spacing(self) -> Tensor:
        """Source voxels (D,) that a cell spans along each source axis."""
        return self.matrix.abs().sum(1)


def frame(coords: Tensor, inside: Tensor, samples: int = 4096) -> Frame:
    """Median Jacobian and determinant of a map, from a regular subset of about ``samples`` voxels.

    Voxels without any change along a source axis are border padding and do not count. The matrix, which says what is
    upright, comes from the middle half of the map: padding lies around, not inside.
    """
    dims = len(coords)
    step = max(1, round((inside.numel() / samples) ** (1 / dims)))
    near, columns = [slice(0, -1, step)] * dims, []
    usable = inside[tuple(near)]
    for axis in range(dims):
        far = (*near[:axis], slice(1, None, step), *near[axis + 1 :])
        columns.append(coords[(slice(None), *far)] - coords[(slice(None), *near)])
        usable = usable & inside[far]
    jacobian = torch.stack(columns, 1)  # (source axis, view axis, *subset)
    usable &= (jacobian.abs().sum(1) > SNAP).all(0)
    middle = torch.zeros_like(usable)
    middle[tuple(slice(n // 4, n - n // 4) for n in usable.shape)] = True
    middle = middle & usable if (middle & usable).any() else usable
    if not usable.any():
        return Frame(torch.eye(dims, device=coords.device), torch.ones((), device=coords.device))
    matrix = jacobian[:, :, middle].median(-1).values
    return Frame(matrix, determinant(list(jacobian[:, :, usable].unbind(1))).abs().median())


def _ends(tensor: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """All but the last and all but the first entry along an axis."""
    n = tensor.shape[axis] - 1
    return tensor.narrow(axis, 0, n), tensor.narrow(axis, 1, n)


def _widest(tensor: Tensor, axis: int) -> Tensor:
    """Largest of each entry and its neighbours along an axis; faster than PyTorch's pooling in 3D, and for any type."""
    low, high = _ends(tensor, axis)
    larger = low.maximum(high)
    first, last = tensor.narrow(axis, 0, 1), tensor.narrow(axis, -1, 1)
    return torch.cat([first, larger], axis).maximum(torch.cat([larger, last], axis))


def unfolded(coords: Tensor, inside: Tensor, usual: Frame, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """Where a map neither folds, nor collapses, nor turns by more than 90 degrees.

    At a voxel the Jacobian is the mean of the differences to the neighbours inside. Its determinant must exceed
    ``threshold`` times the usual one, with its sign. A double reflection in a padded corner passes that but is a half
    turn, so the mean cosine of ``usual^-1 @ jacobian`` is checked too. No cell around the voxel may be folded. One may
    be collapsed (grids that repeat a node make such), but is not sound.

    Args:
        coords: (D, *R).
        inside: (*R) bool.
        usual: the map's usual change.
        threshold: least determinant.

    Returns:
        voxels (*R), sound cells and folded cells (*R less one an axis), bool.
    """
    dims, volume = len(coords), torch.linalg.det(usual.matrix)
    cells = inside
    for axis in range(dims):
        cells = torch.logical_and(*_ends(cells, axis))
    if volume.abs() < 1e-6 * usual.volume:
        return torch.zeros_like(inside), torch.zeros_like(cells), torch.zeros_like(cells)
    upright = (torch.linalg.inv(usual.matrix) @ coords.flatten(1)).view_as(coords)
    least = threshold * usual.volume / volume.abs()
    edges, columns, good = [], [], inside
    for axis in range(dims):
        edges.append(upright.diff(dim=axis + 1))
        whole = torch.logical_and(*_ends(inside, axis))
        sides = [0, 0] * (dims - 1 - axis) + [1, 1]
        before, after = _ends(pad(whole.float(), sides), axis)
        columns.append(sum(_ends(pad(edges[-1] * whole, sides), axis + 1)) / (before + after).clamp_min(1))
        good = good & (before + after > 0)
    size = determinant(columns)
    cosine = sum(column[axis] for axis, column in enumerate(columns))
    upward = cosine > 0 if dims == 2 else cosine**3 > size  # a turn by a: trace s (1 + 2 cos a), size s^3
    good = good & (size > least) & upward
    smallest, corners = torch.full_like(cells, torch.inf, dtype=size.dtype), list(product((0, 1), repeat=dims))
    for corner in corners:
        at_corner = list(edges)
        for axis, other in product(range(dims), repeat=2):
            if other != axis:
                at_corner[axis] = _ends(at_corner[axis], other + 1)[corner[other]]
        smallest = smallest.minimum(determinant(at_corner))
    folded = cells & (smallest < -SNAP)
    for corner in corners:
        window = tuple(slice(c, c + n) for c, n in zip(corner, cells.shape, strict=True))
        good[window] &= ~folded
    return good, cells & (smallest > least), folded


def multilinear(corners: Sequence[Tensor], fraction: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Value (D, n) and derivatives, one (D, n) an axis, inside cells.

    Args:
        corners: 2^D tensors (D, n), the last axis fastest.
        fraction: (D, n), position in the cell; outside of [0, 1] the cell is continued.
    """
    values, slopes = list(corners), []
    for part in fraction.flip(0):
        slopes = [[low.lerp(high, part) for low, high in zip(s[::2], s[1::2], strict=True)] for s in slopes]
        slopes.insert(0, [high - low for low, high in zip(values[::2], values[1::2], strict=True)])
        values = [low + part * slope for low, slope in zip(values[::2], slopes[0], strict=True)]
    return values[0], [slope[0] for slope in slopes]


class Mesh:
    """A view as a mesh of sound cells whose corners are all valid; finds where the view shows a source point.

    Args:
        coords: (D, *R).
        valid: (*R) bool.
        sound: (*R less one an axis) bool, cells.
        spacing: (D,), usual source voxels a cell along each source axis, for the boxes of the lookup table.

    Example:
        >>> coords = 2 * coordinate_grid((4, 4))
        >>> valid = torch.ones(4, 4, dtype=torch.bool)
        >>> mesh = Mesh(coords, valid, valid[1:, 1:], spacing=torch.tensor([2.0, 2.0]))
        >>> mesh.locate(torch.tensor([[3.0, 7.0], [4.5, 0.0]]))
        (tensor([[1.5000,    nan],
                [2.2500,    nan]]), tensor([ True, False]))
    """

    def __init__(self, coords: Tensor, valid: Tensor, sound: Tensor, spacing: Tensor) -> None:
        dims, device = len(coords), coords.device
        self.shape, self.coords, self.valid = valid.shape, coords.flatten(1), valid.flatten()
        self.strides = [prod(self.shape[axis + 1 :]) for axis in range(dims)]
        self.offsets = [sum(map(int.__mul__, corner, self.strides)) for corner in product((0, 1), repeat=dims)]
        cells = valid
        for axis in range(dims):
            cells = torch.logical_and(*_ends(cells, axis))
        cells = cells & sound
        self.cells = pad(cells, [0, 1] * dims).flatten()  # by first corner; none begins at a far border
        index = torch.arange(len(self.cells), device=device)
        home = torch.full_like(index, -1)  # a cell of each voxel
        for offset in reversed(self.offsets):
            before = pad(self.cells, [offset, 0])[: len(index)]
            home = torch.where(before, index - offset, home)
        # Boxes are larger than the usual spacing, so that few are missed, and not many more than voxels.
        self.shown = places(home >= 0)
        self.home, points = home[self.shown], self.coords[:, self.shown]
        if not len(self.shown):
            points = torch.zeros(dims, 1, device=device)
        low, high = points.amin(1, keepdim=True), points.amax(1, keepdim=True)
        self.box = 1.5 * spacing.unsqueeze(1)
        self.box = self.box.maximum((high - low) / (4 * max(self.shape))).clamp_min(SNAP)
        self.corner = low - self.box
        self.boxes = [int(n) + 2 for n in ((high - self.corner) / self.box).flatten().tolist()]
        self.table = self._filled(self.table_by(torch.zeros_like(self.home)))

    def table_by(self, rank: Tensor) -> Tensor:
        """Table from source box to the home cell of the voxel in it with the least ``rank`` (n,), -1 for no voxel."""
        none, count = torch.iinfo(torch.long).max, self.valid.numel()
        table = torch.full((prod(self.boxes),), none, device=rank.device)
        index = self.box_index(self.coords[:, self.shown])
        table.scatter_reduce_(0, index, rank * count + self.home, "amin")
        return torch.where(table == none, -1, table % count)

    def _filled(self, table: Tensor) -> Tensor:
        """Empty boxes borrow from their neighbours."""
        filled = table.view(self.boxes)
        for axis in range(filled.ndim):
            filled = _widest(filled, axis)
        return torch.where(table < 0, filled.flatten(), table)

    def box_index(self, points: Tensor) -> Tensor:
        """Linear table index (n,) of source points (D, n); -1 beyond the table."""
        boxes = ((points - self.corner) / self.box).floor().long()
        index, inside = torch.zeros_like(boxes[0]), torch.ones_like(boxes[0], dtype=torch.bool)
        for axis, size in zip(boxes, self.boxes, strict=True):
            inside &= (axis >= 0) & (axis < size)
            index = index * size + axis
        return torch.where(inside, index, -1)

    def _cell_at(self, at: Tensor, cell: Tensor, origin: Tensor) -> Tensor:
        """The good cell (n,) at view positions (D, n), one that touches them, or the next behind a collapsed one.

        Where there is none, the cell they come from, at ``origin``, to be continued.
        """
        strides = torch.tensor(self.strides, device=at.device).unsqueeze(1)
        last = torch.tensor(self.shape, device=at.device).sub(2).unsqueeze(1)
        floor = at.floor().clamp_min(0).minimum(last)
        new = (floor.long() * strides).sum(0)
        bad = (~self.cells[new]).nonzero()[:, 0]
        if not len(bad):
            return new
        floor, at, found = floor[:, bad], at[:, bad], cell[bad]
        fraction, shift = at - floor, (floor - origin[:, bad]).sign()
        shift = torch.where(fraction < MARGIN, -1, torch.where(fraction > 1 - MARGIN, 1, shift))
        for side in product((0, 1), repeat=len(at)):
            near = floor + shift * torch.tensor(side, device=at.device).unsqueeze(1)
            near = (near.clamp_min(0).minimum(last).long() * strides).sum(0)
            found = torch.where(self.cells[near], near, found)
        return new.index_put((bad,), found)

    def start(self, points: Tensor) -> Tensor:
        """A cell (n,) near source points (D, n); -1 where there is none, so that no partner can be."""
        index = self.box_index(points)
        return torch.where(index < 0, -1, self.table[index.clamp_min(0)])

    def locate(self, points: Tensor, start: Tensor | None = None, steps: int = 10) -> tuple[Tensor, Tensor]:
        """Where the view shows source points, by Newton's method on the cells.

        Args:
            points: (D, n) source voxel coordinates.
            start: (n,) from :py:meth:`start`.
            steps: at most so many iterations.

        Returns:
            positions (D, n) in view voxels, NaN where not found, and found (n,) bool.
        """
        start = self.start(points) if start is None else start
        if fast := twins(points.device):
            position = fast.follow(self, MARGIN, RESIDUAL, steps, points, start)
            return position, ~position[0].isnan()
        chunk = 1 << 15 if points.device.type == "cpu" else max(1, len(start))  # so that a chunk stays in the cache
        parts = zip(points.split(chunk, 1), start.split(chunk), strict=True)
        position = torch.cat([self._newton(*part, steps) for part in parts], 1)
        return position, ~position[0].isnan()

    def _newton(self, points: Tensor, cell: Tensor, steps: int) -> Tensor:
        position = torch.full_like(points, torch.nan)
        active = (cell >= 0).nonzero()[:, 0]
        cell, target = cell[active], points[:, active]
        origin = unravel(cell, self.shape)
        at = origin + 0.5
        for _ in range(steps):
            if not len(active):
                break
            corners = [self.coords.index_select(1, cell + offset) for offset in self.offsets]
            value, slopes = multilinear(corners, at - origin)
            right = target - value
            at = at + solve(slopes, right).nan_to_num(torch.inf).clamp(-8, 8)
            close = right.square().sum(0) <= RESIDUAL**2  # then the step just taken leaves a far smaller one
            within = ((at - origin - 0.5).abs() <= 0.5 + MARGIN).all(0)
            done = (close & within).nonzero()[:, 0]
            position[:, active[done]] = at[:, done].maximum(origin[:, done]).minimum(origin[:, done] + 1)
            next_cell = self._cell_at(at, cell, origin)
            keep = (~(close & (within | (next_cell == cell)))).nonzero()[:, 0]
            active, target, at, cell = active[keep], target[:, keep], at[:, keep], next_cell[keep]
            origin = unravel(cell, self.shape)
        return position


class AffineMesh:
    """The same as :py:class:`Mesh` for a view with an affine map, in closed form.

    Args:
        matrix: (D+1, D+1) from the view to the source.
        valid: (*R) bool.
    """

    def __init__(self, matrix: Tensor, valid: Tensor) -> None:
        self.inverse, self.valid, shape = torch.linalg.inv(matrix), valid, [n - 1 for n in valid.shape]
        strides = [prod(shape[axis + 1 :]) for axis in range(valid.ndim)]
        self.last, self.strides = (torch.tensor(x, device=valid.device).unsqueeze(1) for x in (shape, strides))

    @functools.cached_property
    def cells(self) -> Tensor:
        """Whether all corners are valid (n,)."""
        cells = self.valid
        for axis in range(cells.ndim):
            cells = torch.logical_and(*_ends(cells, axis))
        return cells.flatten()

    def locate(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """As :py:meth:`Mesh.locate`."""
        if fast := twins(points.device):
            return fast.locate(self.inverse, self.valid, MARGIN, points)
        linear, shift = self.inverse[:-1, :-1].float(), self.inverse[:-1, -1:].float()
        position = torch.addmm(shift, linear, points)
        at = position.clamp(torch.zeros_like(self.last), self.last)
        found = self.cells[self._index(at)]
        rest = (~found).nonzero()[:, 0]
        touched = [self._index(at[:, rest] + sides) for sides in MARGIN * self._sides(at)]
        found[rest] = sum(self.cells[index] for index in touched) > 0
        found &= ((position - at).abs() <= MARGIN).all(0)
        return at.masked_fill_(~found, torch.nan), found

    @staticmethod
    def _sides(like: Tensor) -> Tensor:
        """(2^D, D, 1), the corners of a cube."""
        return torch.tensor(list(product((-1.0, 1.0), repeat=len(like))), device=like.device).unsqueeze(2)

    def _index(self, at: Tensor) -> Tensor:
        """Linear index (n,) of the cell at positions (D, n)."""
        return (at.floor().clamp_min_(0).minimum(self.last - 1).long() * self.strides).sum(0)

    def start(self, points: Tensor) -> Tensor:
        """Not negative where the view shows a source point."""
        return self.locate(points)[1].long() - 1


def may_show_twice(coords: Tensor, valid: Tensor, spacing: Tensor) -> bool:
    """Whether places more than ``FAR`` voxels apart show neighbouring source boxes: cheap, never wrongly False.

    Nearer doubles have folded cells between them. Three boxes span two usual cells, so that a map must be stretched
    tenfold before its own neighbours are so far apart.
    """
    index = places(valid)
    if not len(index):
        return False
    points, voxels = coords.flatten(1)[:, index], unravel(index, valid.shape)
    low = points.amin(1, keepdim=True)
    box = ((points - low) / (0.7 * spacing.unsqueeze(1)).clamp_min(SNAP)).floor().long()
    shape = (box.amax(1) + 1).tolist()
    strides = torch.tensor([prod(shape[axis + 1 :]) for axis in range(len(shape))], device=box.device)
    index = (box * strides.unsqueeze(1)).sum(0)
    for row in voxels:
        # the smallest is the largest of the negative
        ends = torch.full((2, prod(shape)), -torch.inf, device=box.device)
        ends[0].scatter_reduce_(0, index, row, "amax")
        ends[1].scatter_reduce_(0, index, -row, "amax")
        ends = ends.view(2, *shape)
        for axis in range(1, ends.ndim):
            ends = _widest(ends, axis)
        if bool((ends.sum(0) > FAR).any()):
            return True
    return False


def without_doubles(coords: Tensor, valid: Tensor, sound: Tensor, folded: Tensor, far: bool = True) -> Tensor:
    """Valid voxels less those whose source point the view shows again at a valid place nearer its centre.

    Where two places are about equally near (2 voxels), both go, and so do voxels of no cell.

    Args:
        coords: (D, *R).
        valid: (*R) bool, all of them unfolded.
        sound, folded: (*R less one an axis) bool, cells.
        far: whether to look for doubles without a folded cell near them, see :py:func:`may_show_twice`.
    """
    for _ in range(4):  # a sheet hidden behind others is seen once they are gone
        before, valid = valid, _without_nearer_doubles(coords, valid, sound, folded, far)
        if valid.equal(before):
            break
    return valid


def _without_nearer_doubles(coords: Tensor, valid: Tensor, sound: Tensor, folded: Tensor, far: bool) -> Tensor:
    dims, spacing = len(coords), torch.zeros(len(coords), device=coords.device)
    suspect = pad(folded.float(), [FAR, FAR + 1] * dims)  # between two sheets of a fold lies what is folded
    for axis in range(dims):
        suspect = suspect.unfold(axis, 2 * FAR + 1, 1).amax(-1)
        both = torch.logical_and(*_ends(valid, axis))
        spacing += (coords.diff(dim=axis + 1).abs() * both).flatten(1).amax(1)
    mesh = Mesh(coords, valid, sound, spacing)
    at = unravel(mesh.shown, mesh.shape)
    centre = torch.tensor(mesh.shape, device=coords.device).sub(1).div(2).unsqueeze(1)
    away = (at - centre).norm(dim=0)
    # The first and last voxel of a box along each axis lie on different sheets, if the sheets are apart on any.
    ends = [mesh.table_by((sign * row).long() + max(mesh.shape)) for row in at for sign in (1, -1)]
    box = mesh.box_index(mesh.coords[:, mesh.shown])
    looked_at = suspect.flatten()[mesh.shown] > 0
    if far:
        wide = [
            (unravel(b, mesh.shape) - unravel(a, mesh.shape)).amax(0) > NEAR
            for a, b in zip(ends[::2], ends[1::2], strict=True)
        ]
        looked_at |= torch.stack(wide).any(0)[box]
    voxels, at, box, limit = mesh.shown[looked_at], at[:, looked_at], box[looked_at], away[looked_at] + 2
    single = torch.zeros_like(mesh.valid)
    single[mesh.shown] = True
    for table in (mesh.table_by(away.long()), *ends):
        position, found = mesh.locate(mesh.coords[:, voxels], table[box])
        double = found & ((position - centre).norm(dim=0) < limit) & ((position - at).abs() > 1.5).any(0)
        single[voxels[double]] = False
    return single.view_as(valid)


def fit_affine(coords: Tensor, valid: Tensor, tolerance: float = 1e-2) -> Tensor | None:
    """The affine map (D+1, D+1) float64 that agrees with ``coords`` at all valid voxels, else None.

    Args:
        coords: (D, *R).
        valid: (*R) bool.
        tolerance: largest residual in source voxels.
    """
    everywhere, fit = valid.nonzero(), None
    for voxels in (everywhere[:: len(everywhere) // 64 + 1], everywhere):  # some voxels tell most maps at once
        rows = torch.cat([voxels.double(), torch.ones_like(voxels[:, :1])], 1)
        targets, normal = coords[(slice(None), *voxels.T)].double().T, rows.T @ rows
        if not len(rows) or torch.linalg.matrix_rank(normal, hermitian=True) <= len(coords):
            return None
        fit = torch.linalg.solve(normal, rows.T @ targets).T
        if (rows @ fit.T - targets).abs().amax() >= tolerance:
            return None
    return torch.cat([fit, torch.eye(len(normal), dtype=fit.dtype, device=fit.device)[-1:]])
