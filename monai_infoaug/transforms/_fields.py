"""What spatial chains make of an image, as coordinates into it, and the views that are cropped from that."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from monai.data import MetaTensor
from monai.utils import fall_back_tuple
from torch import Tensor
from torch.nn.functional import pad

from monai_infoaug._require import refusal
from monai_infoaug.transforms._chains import ReadChain, read_chain, run_on_coordinates
from monai_infoaug.transforms._coordinates import OUTSIDE, affine_coordinates, carried_coordinates
from monai_infoaug.transforms._elastic import Deformation
from monai_infoaug.transforms._mesh import AffineMesh, Mesh, SampledMesh
from monai_infoaug.transforms._validity import (
    TypicalJacobian,
    drop_duplicates,
    locally_invertible,
    may_show_twice,
    sampled_jacobian,
)


class View(NamedTuple):
    """What a view shows of the source, and where."""

    coords: Tensor  # (D, *R)
    valid: Tensor  # (*R) bool
    mesh: Mesh
    matrix: Tensor | None = None  # (D+1, D+1) to the source, where it is known

    def coords_at(self, voxels: Tensor) -> Tensor:
        """Coordinates (D, n) of voxels (n,) by their linear index."""
        return self.coords.flatten(1).index_select(1, voxels)


class Field(ABC):
    """A spatial chain's whole output, of which views are cropped.

    Args:
        shape: shape of the output.
        size: size of a view; the output is padded at the end where it is smaller.
    """

    all_inside_valid: ClassVar[bool]  # whether a view's valid voxels are those inside of the source

    def __init__(self, shape: Sequence[int], size: Sequence[int]) -> None:
        self.size = tuple(size)
        self.shape = tuple(map(max, shape, size))

    def crop_origin(self, position: Sequence[float]) -> tuple[int, ...]:
        """First voxel of a crop; ``position`` in [0, 1) an axis runs over all that fit."""
        room = [n - size + 1 for n, size in zip(self.shape, self.size, strict=True)]
        return tuple(int(u * n) for u, n in zip(position, room, strict=False))

    def crop(self, origin: Sequence[int], step: int = 1) -> tuple[slice, ...]:
        """The window of a view, or each ``step``-th voxel of it."""
        return tuple(slice(at, at + size, step) for at, size in zip(origin, self.size, strict=True))

    @property
    def whole(self) -> tuple[slice, ...]:
        """The window of everything."""
        return tuple(slice(0, n) for n in self.shape)

    @abstractmethod
    def coordinates(self, window: tuple[slice, ...]) -> tuple[Tensor, Tensor]:
        """Coordinates (D, *R) and inside mask (*R) of a window."""

    @abstractmethod
    def view(self, origin: Sequence[int]) -> View:
        """The view cropped at ``origin``."""


class BentField(Field):
    """The output of a chain that need not be affine: its views are searched for folds, and for what they show twice.

    Args:
        shape: shape of the output.
        size: size of a view.
        threshold: least Jacobian determinant of a valid voxel, in typical ones.
    """

    all_inside_valid = False

    def __init__(self, shape: Sequence[int], size: Sequence[int], threshold: float) -> None:
        super().__init__(shape, size)
        self.threshold = threshold

    @functools.cached_property
    def typical(self) -> TypicalJacobian:
        """Its usual change."""
        return sampled_jacobian(self.coordinates, self.shape)

    @abstractmethod
    def anywhere(self, window: tuple[slice, ...]) -> tuple[Tensor, Tensor]:
        """As ``coordinates``, where that is known with what the map does outside of the source."""

    def coordinates(self, window: tuple[slice, ...]) -> tuple[Tensor, Tensor]:
        coords, inside = self.anywhere(window)
        return coords.masked_fill(~inside, OUTSIDE), inside

    def view(self, origin: Sequence[int]) -> View:
        coords, inside = self.anywhere(self.crop(origin))
        valid, sound, folded, injective = locally_invertible(coords, inside, self.typical, self.threshold)
        coords = coords.masked_fill(~inside, OUTSIDE)
        far = not injective and may_show_twice(coords, valid, self.typical.spacing)
        if far or folded.any():
            valid = drop_duplicates(coords, valid, sound, folded, far)
        return View(coords, valid, SampledMesh(coords, valid, sound, self.typical.spacing))


class SampledField(BentField):
    """The output of any chain: the coordinates that it made of the identity.

    Args:
        coords: (D, *O).
        inside: (*O) bool.
        size: size of a view.
        threshold: see :py:class:`BentField`.
    """

    def __init__(self, coords: Tensor, inside: Tensor, size: Sequence[int], threshold: float) -> None:
        super().__init__(inside.shape, size, threshold)
        padding = [n for want, have in zip(self.shape, inside.shape, strict=True) for n in (want - have, 0)][::-1]
        self.coords, self.inside = pad(coords, padding, value=OUTSIDE), pad(inside, padding)

    def anywhere(self, window: tuple[slice, ...]) -> tuple[Tensor, Tensor]:
        return self.coords[(slice(None), *window)].contiguous(), self.inside[window].contiguous()


class SmoothField(BentField):
    """The output of a chain that ends in a smooth deformation, computed where it is wanted.

    Args:
        chain: what it does.
        deformation: its last part.
        size: size of a view.
        threshold: see :py:class:`BentField`.
    """

    def __init__(self, chain: ReadChain, deformation: Deformation, size: Sequence[int], threshold: float) -> None:
        super().__init__(deformation.shape, size, threshold)
        self.chain, self.deformation = chain, deformation

    def anywhere(self, window: tuple[slice, ...]) -> tuple[Tensor, Tensor]:
        coords, inside = carried_coordinates(self.deformation(window), self.chain.shape, self.chain.steps)
        wanted = [len(range(*part.indices(n))) for part, n in zip(window, self.shape, strict=True)]
        padding = [n for want, have in zip(wanted, inside.shape, strict=True) for n in (want - have, 0)][::-1]
        return (pad(coords, padding, value=OUTSIDE), pad(inside, padding)) if any(padding) else (coords, inside)


class AffineField(Field):
    """The output of a chain of affine maps, in closed form.

    Args:
        chain: what it does.
        size: size of a view.
        device: device of the source.
    """

    all_inside_valid = True

    def __init__(self, chain: ReadChain, size: Sequence[int], device: torch.device) -> None:
        super().__init__(chain.shape, size)
        self.steps, self.device = list(chain.steps), device
        if not self.steps or self.shape != chain.shape:  # nothing but a crop, or padded
            self.steps.append((torch.eye(len(size) + 1), chain.shape))

    def coordinates(self, window: tuple[slice, ...]) -> tuple[Tensor, Tensor]:
        return self._coordinates(window)[:2]

    def _coordinates(self, window: tuple[slice, ...]) -> tuple[Tensor, Tensor, Tensor]:
        ranges = [torch.arange(w.start, w.stop, w.step or 1, dtype=torch.float64, device=self.device) for w in window]
        return affine_coordinates(self.steps, ranges)

    def view(self, origin: Sequence[int]) -> View:
        coords, valid, matrix = self._coordinates(self.crop(origin))
        moved = torch.eye(len(matrix)).to(matrix)
        moved[:-1, -1] = torch.tensor(origin).to(matrix)
        matrix = matrix @ moved
        return View(coords, valid, AffineMesh(matrix, valid), matrix)


def spatial_field(chain: Any, seed: int, source: MetaTensor, roi_size: Any, threshold: float) -> Field:
    """What a spatial chain makes of an image.

    Args:
        chain: transform, or a composition of them.
        seed: seed of what it draws.
        source: (C, *S) image.
        roi_size: size of a view, None or a non-positive entry for the whole axis.
        threshold: see :py:class:`BentField`.

    Raises:
        TypeError: if the chain returns other than one array.
        ValueError: if it is no spatial chain, or the size is too small.
    """
    read = read_chain(chain, seed, source)
    if read is not None and read.deformation is not None:
        return SmoothField(read, read.deformation, _view_size(roi_size, read.deformation.shape), threshold)
    if read is not None:
        return AffineField(read, _view_size(roi_size, read.shape), source.device)
    coords, inside = run_on_coordinates(chain, seed, source)
    return SampledField(coords, inside, _view_size(roi_size, inside.shape), threshold)


def _view_size(roi_size: Any, shape: Sequence[int]) -> tuple[int, ...]:
    size = fall_back_tuple(roi_size, shape)
    if min(size) < 2:
        raise refusal("roi_size", size, "larger than 1")
    return size
