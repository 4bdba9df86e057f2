"""Where many descriptors lie in an image: blocks of cells tell which of their parts are worth a look."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import accumulate, pairwise

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, avg_pool3d, interpolate, normalize

from monai_infoaug._grid import level_features
from monai_infoaug.inferers._peaks import cell_steps, peak_around

BLOCKS = 2**11  # of a grid that is coarse enough: they are all looked at
KEPT = 16  # blocks of a grid whose parts in the next one are looked at
DENSE = 2**25  # numbers that are held at most to have the features of every cell at hand
AT_ONCE, CACHED = 64, 2**20  # descriptors, and their similarities to all blocks: they fit into the caches of a core
LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def descriptors(levels: Sequence[Tensor], strides: Sequence[float], shares: Sequence[float], points: Tensor) -> Tensor:
    """Descriptors (N, channels of all levels) of points (N, D): dot products with cells are weighted mean cosines.

    Args:
        levels: (1, F, *cells) of the embedding that shows the points.
        strides: voxels a cell, for each level.
        shares: weight of each level; they sum to one.
        points: in voxels.
    """
    each = zip(levels, strides, shares, strict=True)
    read = (share * normalize(level_features(level.float(), points[None], stride)[0]) for level, stride, share in each)
    return torch.cat([*read], dim=1)


class CoarseToFine:
    """Levels of an image as one, in the cells of the finest, and in blocks of 2, 4, ... of these along each axis.

    A block has the mean features of its cells, so that its similarity to a descriptor is the mean of theirs. The blocks
    of the coarsest grid are all looked at, then the parts of the best 16 blocks of each grid, down to the cells. Blocks
    are no larger than cells of levels that have half of the weight: means of more would say little.

    Args:
        levels: (1, F, *cells) of an embedding of unit norm, the finest first.
        strides: voxels a cell, for each level.
        shares: weight of each level; they sum to one.
    """

    def __init__(self, levels: Sequence[Tensor], strides: Sequence[float], shares: Sequence[float]) -> None:
        # channels last: they are pooled, interpolated and read several times faster
        self.levels = [level.float().contiguous(memory_format=LAST[level.ndim]) for level in levels]
        self.strides, first = strides, self.levels[0]
        self.grids = [torch.Size(first.shape[2:])]
        largest = next(s for s, share in zip(strides, accumulate(shares), strict=True) if share > 0.499) / strides[0]
        while self.grids[-1].numel() > BLOCKS and 2 ** len(self.grids) <= largest:
            self.grids.append(torch.Size(-(-length // 2) for length in self.grids[-1]))
        halved = partial({4: avg_pool2d, 5: avg_pool3d}[first.ndim], kernel_size=2, ceil_mode=True)
        cells = self.grids[0].numel()
        dense = len(self.grids) == 1 or cells * sum(level.shape[1] for level in self.levels) <= DENSE
        self.first = 0 if dense else 1  # grid whose features are held; those of a finer one are read from the levels
        if dense:
            levels_with_strides = zip(self.levels, strides, strict=True)
            joined = torch.cat([to_cells(it, s / strides[0], self.grids[0]) for it, s in levels_with_strides], dim=1)
        else:
            blocks = torch.arange(self.grids[1].numel(), device=first.device)
            rest = self._read(1, blocks, slice(1, None)).T.reshape(1, -1, *self.grids[1])
            joined = torch.cat([halved(first), rest], dim=1)
        tables = [joined]
        while len(tables) < len(self.grids) - self.first:
            tables.append(halved(tables[-1]))
        self.tables = [table.movedim(1, -1).flatten(0, -2) for table in tables]  # (blocks, channels)
        self.parts = [_parts(fine, coarse).to(first.device) for fine, coarse in pairwise(self.grids)]

    def find(self, described: Tensor) -> Tensor:
        """Places (N, D) in voxels of what is most like :py:func:`descriptors` (N, channels of all levels)."""
        count = min(AT_ONCE, max(1, CACHED // self.grids[-1].numel()))
        best = torch.cat([self._best(some) for some in torch.split(described, count)])
        peaks = peak_around(best, self.grids[0], lambda cells: self._similarities(0, described, cells))
        return self.strides[0] * peaks + (self.strides[0] - 1) / 2

    def _best(self, described: Tensor) -> Tensor:
        """Number of the best cell of each descriptor."""
        last = len(self.grids) - 1
        kept = (described @ self.tables[-1].T).topk(KEPT if last else 1).indices
        for grid in reversed(range(last)):
            parts = self.parts[grid][kept].flatten(1)
            found = self._similarities(grid, described, parts).topk(KEPT if grid else 1)
            kept = parts.gather(1, found.indices)
        return kept[:, 0]

    def _similarities(self, grid: int, described: Tensor, blocks: Tensor) -> Tensor:
        """Of descriptors and blocks (N, M) of a grid."""
        cells, held = blocks.flatten(), grid - self.first
        features = self._read(grid, cells) if held < 0 else self.tables[held].index_select(0, cells)
        return torch.einsum("nmf,nf->nm", features.reshape(*blocks.shape, -1), described)

    def _read(self, grid: int, blocks: Tensor, part: slice = slice(None)) -> Tensor:
        """Features (N, channels) of some levels in the middles of blocks."""
        size, side = torch.tensor(self.grids[grid], device=blocks.device), self.strides[0] * 2**grid
        middles = side * (blocks[:, None] // cell_steps(size) % size).float() + (side - 1) / 2
        pairs = zip(self.levels[part], self.strides[part], strict=True)
        return torch.cat([level_features(level, middles[None], stride)[0] for level, stride in pairs], dim=1)


def _parts(fine: torch.Size, coarse: torch.Size) -> Tensor:
    """Numbers (blocks, 2 ** D) in a grid of the parts of each block of the next coarser one."""
    numbers = torch.arange(fine.numel()).reshape(fine)
    for axis, (length, most) in enumerate(zip(coarse, fine, strict=True)):
        numbers = numbers.index_select(axis, torch.arange(2 * length).clamp_max(most - 1))
    for axis, length in enumerate(coarse):
        numbers = torch.unflatten(numbers, axis, (length, 2)).movedim(axis + 1, -1)
    return numbers.flatten(-len(fine)).flatten(0, -2)


def to_cells(maps: Tensor, ratio: float, cells: Sequence[int]) -> Tensor:
    """(B, N, *coarser cells) interpolated to (B, N, *cells)."""
    if ratio == 1:
        return maps
    mode = {2: "bilinear", 3: "trilinear"}[maps.ndim - 2]
    maps = interpolate(maps, scale_factor=ratio, mode=mode, align_corners=False)
    return maps[(slice(None), slice(None), *map(slice, cells))]
