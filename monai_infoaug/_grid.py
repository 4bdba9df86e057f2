"""Reading images and levels of embeddings at index coordinates; the one place that knows PyTorch's sampling grids."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from monai_infoaug._require import is_number, listed, refusal


def sample_at(image: Tensor, coordinates: Tensor, mode: str = "bilinear", padding_mode: str = "zeros") -> Tensor:
    """Interpolate images at index coordinates (axis 0 first, voxel centres at integers).

    Args:
        image: (B, C, *S), two or three spatial dimensions.
        coordinates: (B, D, *R) in voxels of ``image``.
        mode: ``"bilinear"`` (trilinear in 3D) or ``"nearest"``.
        padding_mode: ``"zeros"``, ``"border"`` or ``"reflection"`` for coordinates outside of the image.

    Returns:
        (B, C, *R), of ``image``'s type.

    Example:
        >>> sample_at(torch.tensor([[[[0.0, 1.0], [2.0, 3.0]]]]), torch.tensor([[[0.5], [1.0]]]))
        tensor([[[2.]]])
    """
    shape = coordinates.shape[2:]
    size = torch.tensor(image.shape[2:], device=image.device, dtype=coordinates.dtype)
    grid = ((2 * coordinates.flatten(2).transpose(1, 2) + 1) / size - 1).flip(-1)
    grid = grid.reshape(len(grid), -1, *[1] * (image.ndim - 3), image.ndim - 2).to(image.dtype)
    return grid_sample(image, grid, mode, padding_mode, align_corners=False).reshape(*image.shape[:2], *shape)


def level_features(level: Tensor, points: Tensor, stride: float) -> Tensor:
    """Embeddings of points given in voxels of the network's input, from one level of its output.

    Cell ``j`` of a level with stride ``s`` is centred on voxel ``s * j + (s - 1) / 2``.

    Args:
        level: (B, F, *cells).
        points: (B, N, D) in voxels of the input; outside of the image the nearest cell counts.
        stride: voxels a cell.

    Returns:
        (B, N, F), interpolated, not normalised; zero where a point is NaN.
    """
    cells = ((points.nan_to_num() + 0.5) / stride - 0.5).transpose(1, 2)
    features = sample_at(level, cells.to(level.dtype), padding_mode="border").transpose(1, 2)
    return features.masked_fill(points.isnan().any(-1, keepdim=True), 0.0)


def directions(features: Tensor, dim: int = -1, half: bool = False) -> Tensor:
    """Embeddings divided by their norms, at least float32; what is zero has no direction, and gets no gradient.

    That of PyTorch's ``normalize`` is 10^12 times as large there, which in half precision is infinite.

    Args:
        features: embeddings.
        dim: dimension of their channels.
        half: whether they were float16 before they were converted.

    Returns:
        The embeddings, of unit norm or zero; shorter if they were next to zero, below 2^-14 in float16.

    Example:
        >>> directions(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([[0.6000, 0.8000],
                [0.0000, 0.0000]])
    """
    least = 2.0**-14 if half or features.dtype == torch.float16 else 1e-12
    features = features if features.dtype == torch.float64 else features.float()  # as TorchScript can say it
    norms = torch.linalg.vector_norm(features, dim=dim, keepdim=True)
    return features / norms.clamp_min(least).masked_fill(norms == 0, float("inf"))


def plain(values: Tensor) -> Tensor:
    """Without MONAI's metadata; as it is, which compilers ask for, where there are none."""
    return values if type(values) is Tensor else values.as_subclass(Tensor)


def at_places(values: Tensor, places: Tensor) -> Tensor:
    """Values (B, C, *S) of the pixels of each flattened image with the numbers ``places`` (B, *P): (B, C, *P).

    Example:
        >>> at_places(torch.tensor([[[[0.0, 1.0], [2.0, 3.0]]]]), torch.tensor([[3, 1]]))
        tensor([[[3., 1.]]])
    """
    index = places.flatten(1)[:, None].expand(-1, values.shape[1], -1)
    return values.flatten(2).gather(2, index).unflatten(2, places.shape[1:])


def level_shares(weights: Sequence[float] | None, count: int) -> list[float]:
    """Weights of ``count`` levels, scaled to sum to one; None for equal ones.

    Raises:
        ValueError: naming ``level_weights``, unless there is one of at least 0 a level and not all are 0.

    Example:
        >>> level_shares([3, 1], 2)
        [0.75, 0.25]
    """
    shares = [1.0] * count if weights is None else listed(weights)
    if len(shares) != count or not all(is_number(share, 0) for share in shares) or sum(shares) == 0:
        raise refusal("level_weights", weights, f"{count} numbers of at least 0, one a level, not all 0")
    return [share / sum(shares) for share in shares]


def unravel_index(index: Tensor, shape: Sequence[int]) -> Tensor:
    """Voxel coordinates (D, n) float32 of linear indices (n,); ``torch.unravel_index`` takes several times as long."""
    axes = []
    for size in reversed(shape[1:]):
        rest = _floor_divide(index, size)
        axes.append(index - rest * size)
        index = rest
    return torch.stack([index, *axes[::-1]]).float()


def _floor_divide(index: Tensor, size: int) -> Tensor:
    if index.device.type == "cpu":  # by NumPy, which is several times faster
        return torch.from_numpy(index.numpy() // size)
    return index.div(size, rounding_mode="floor")
