"""Which labels are on the grid of their image, which only show its place, and which have lost theirs."""

from __future__ import annotations

import numpy as np
import pytest

from monai_infoaug.data._grids import Grid, in_words, misfit, shows_its_place

TURN = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])  # within the plane


def grid(shape: tuple[int, ...], spacing: tuple[float, ...], corner: tuple[float, ...] = (9, -7, 5), turn=TURN) -> Grid:
    """A grid whose first voxel's outer corner lies in one place."""
    affine = np.eye(4)
    affine[:3, :3] = turn * spacing
    affine[:3, 3] = np.array(corner) + affine[:3, :3] @ [0.5, 0.5, 0.5]
    return Grid(shape, affine)


def cut(of: Grid, start: tuple[int, ...], shape: tuple[int, ...]) -> Grid:
    """A part of a grid."""
    affine = of.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ start
    return Grid(shape, affine)


IMAGE = grid((20, 24, 10), (0.5, 1, 3))
FLIPPED = Grid(IMAGE.shape, IMAGE.affine @ np.array([[-1, 0, 0, 19], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]))
SWAPPED = Grid((24, 20, 10), IMAGE.affine[:, [1, 0, 2, 3]])


@pytest.mark.parametrize(
    ("label", "text", "shows"),
    [
        (IMAGE, "", True),
        (grid((10, 12, 10), (1, 2, 3)), "has 10 x 12 x 10 voxels, its image 20 x 24 x 10", True),
        (grid((7, 8, 4), (1.5, 3, 8)), "has 7 x 8 x 4 voxels", True),  # some voxels reach beyond
        (grid((40, 48, 20), (0.25, 0.5, 1.5)), "has 40 x 48 x 20 voxels", True),
        (cut(IMAGE, (3, 4, 5), (6, 7, 2)), "has 6 x 7 x 2 voxels", True),  # as 3D Slicer saves segments
        (cut(IMAGE, (-9, -9, -9), (40, 40, 30)), "has 40 x 40 x 30 voxels", True),
        (cut(IMAGE, (12, 0, 0), (20, 24, 8)), "has 20 x 24 x 8 voxels", False),
        (cut(IMAGE, (0, 0, 50), (20, 24, 8)), "has 20 x 24 x 8 voxels", False),
        (FLIPPED, "lies or is turned otherwise than its image", True),
        (SWAPPED, "has 24 x 20 x 10 voxels", True),
        (Grid((24, 20, 10), IMAGE.affine), "has 24 x 20 x 10 voxels", False),
        (cut(IMAGE, (0, 0, 2), IMAGE.shape), "lies or is turned otherwise than its image", False),
        (grid(IMAGE.shape, (0.5, 1, 2.5)), "has voxels of 0.5 x 1 x 2.5 mm, its image 0.5 x 1 x 3 mm", False),
        (grid(IMAGE.shape, (0.5, 1, 3), turn=TURN.T), "lies or is turned otherwise", False),
        (Grid(IMAGE.shape, np.eye(4)), "has voxels of 1 x 1 x 1 mm", False),
        (Grid(IMAGE.shape, None), "says no millimetres, as its image does", False),
        (Grid((20, 24), np.eye(3)), "has 20 x 24 voxels, its image 20 x 24 x 10", False),
    ],
)
def test_a_label_and_its_image(label, text, shows):
    assert misfit(label, IMAGE).startswith(text)
    assert bool(misfit(label, IMAGE)) == bool(text)
    assert shows_its_place(label, IMAGE) == shows


def test_an_image_without_millimetres_has_a_size_alone():
    pixels = Grid((20, 24), None)
    assert misfit(Grid((20, 24), np.eye(3)), pixels) == misfit(pixels, pixels) == ""
    assert misfit(Grid((24, 20), np.eye(3)), pixels) == "has 24 x 20 voxels, its image 20 x 24"
    assert not shows_its_place(Grid((24, 20), np.eye(3)), pixels)


def test_an_affine_of_two_axes_may_have_four_rows():
    assert misfit(Grid((8, 9), np.diag([2.0, 3, 1])), Grid((8, 9), np.diag([2.0, 3, 1, 1]))) == ""
    assert Grid((8, 9), np.diag([2.0, -3, 1, 1])).spacing.tolist() == [2, 3]
    assert in_words([2, 0.33333]) == "2 x 0.3333"
