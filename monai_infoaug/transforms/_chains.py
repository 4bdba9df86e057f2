"""Running the user's chains of transforms: spatial ones on coordinates, or read as matrices, and intensity ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.data import MetaTensor, get_track_meta
from monai.data.utils import set_rnd, to_affine_nd
from monai.transforms import (
    Affine,
    CenterSpatialCrop,
    Compose,
    CropForeground,
    Flip,
    MapTransform,
    Rand2DElastic,
    RandAffine,
    RandAxisFlip,
    RandFlip,
    RandRotate,
    RandRotate90,
    RandSpatialCrop,
    Rotate,
    Rotate90,
    SpatialCrop,
    SpatialPad,
)
from monai.utils import LazyAttr, TraceKeys, convert_to_tensor
from torch import Tensor

from monai_infoaug._require import all_finite, refusal
from monai_infoaug.transforms._coordinates import SNAP, coordinate_grid, split_coordinates
from monai_infoaug.transforms._elastic import ELASTIC_TRANSFORMS, Deformation, draw_elastic
from monai_infoaug.transforms._pending import up_to_date

AFFINE_TRANSFORMS = (  # whose lazy mode does the same as they do otherwise
    Affine,
    CenterSpatialCrop,
    Flip,
    RandAffine,
    RandAxisFlip,
    RandFlip,
    RandRotate,
    RandRotate90,
    RandSpatialCrop,
    Rotate,
    Rotate90,
    SpatialCrop,
    SpatialPad,
)


def require_array_transforms(chain: Any, argument: str) -> None:
    """Refuse what can't be called and dictionary transforms, also inside compositions.

    Raises:
        TypeError: naming ``argument``.
    """
    if chain is not None and (not callable(chain) or isinstance(chain, MapTransform)):
        raise refusal(argument, type(chain).__name__, "an array transform (no dictionary transform)", TypeError)
    for inner in chain.transforms if isinstance(chain, Compose) else ():
        require_array_transforms(inner, argument)


def require_spatial(chain: Any) -> None:
    """Refuse what crops by the values of an image, which a spatial chain never sees.

    Raises:
        ValueError: naming ``spatial``.
    """
    for stage in stages(chain):
        if isinstance(stage, CropForeground):
            raise refusal("spatial", type(stage).__name__, "transforms that see no values: crop before the views")


def stages(chain: Any) -> list[Any]:
    """The transforms of (nested) plain compositions, so that each can be given what it takes."""
    if type(chain) is Compose:
        return [stage for inner in chain.transforms for stage in stages(inner)]
    return [] if chain is None else [chain]


def takes_information(stage: Any) -> bool:
    """Whether an intensity transform asks for the information, the tiers and the anchor tier."""
    return getattr(stage, "takes_information", False)


class ReadChain(NamedTuple):
    """What a spatial chain does: affine maps, and after them perhaps a smooth deformation."""

    steps: list[tuple[Tensor, tuple[int, ...]]]  # see `affine_coordinates`
    shape: tuple[int, ...]  # of what they make
    deformation: Deformation | None = None  # of that


def read_chain(chain: Any, seed: int, source: MetaTensor) -> ReadChain | None:
    """What a spatial chain does to an image (C, *S), in closed form; None if it has none.

    MONAI's lazy mode tells of affine maps. A deformation is read only at the end.
    """
    chained = stages(chain)
    elastic = chained.pop() if chained and _is_smooth(chained[-1], source.ndim - 1) else None
    lazy = get_track_meta() or not chained  # without metadata MONAI's lazy mode tells nothing
    if not lazy or not all(type(stage) in AFFINE_TRANSFORMS for stage in chained):
        return None
    set_rnd(chain, seed)
    shape: tuple[int, ...] = tuple(source.shape[1:])
    image: Any = MetaTensor(torch.zeros(1).expand(1, *shape), affine=source.affine)
    for stage in chained:
        image = stage(image, lazy=True)
    steps = []
    for done in image.pending_operations:
        matrix = done[LazyAttr.AFFINE]
        if not _pads_with_zeros(done.get(TraceKeys.EXTRA_INFO)) or np.ndim(matrix) != 2:
            return None
        steps.append((torch.as_tensor(to_affine_nd(len(shape), matrix)), shape))
        shape = tuple(int(n) for n in done[LazyAttr.SHAPE])
    deformation = None
    if elastic is not None and min(shape) > 1:
        drawn = draw_elastic(elastic, shape, source.device)
        if isinstance(drawn, Deformation):
            deformation = drawn
        else:
            steps.append((drawn[0], shape))
            shape = drawn[1]
    if min(shape) < 2 or any(abs(np.linalg.det(matrix)) < 1e-6 for matrix, _ in steps):
        return None
    return ReadChain(steps, shape, deformation)


def _is_smooth(stage: Any, dims: int) -> bool:
    """Whether a transform is a smooth deformation that is known in closed form."""
    known = type(stage) in ELASTIC_TRANSFORMS and dims == (2 if isinstance(stage, Rand2DElastic) else 3)
    return known and stage.padding_mode == "zeros" and stage.mode in ("bilinear", "nearest")


def _pads_with_zeros(info: Any) -> bool:
    """Whether what MONAI notes of a transform names no other padding."""
    if not isinstance(info, Mapping):
        return True
    mode = info.get("mode") if "padded" in info else info.get("padding_mode", "zeros")
    return mode in ("zeros", "constant") and _pads_with_zeros(info.get(TraceKeys.EXTRA_INFO))


def run_on_coordinates(chain: Any, seed: int, source: MetaTensor) -> tuple[Tensor, Tensor]:
    """Coordinates (D, *O) and inside mask (*O) that a spatial chain makes of the identity on an image (C, *S).

    Raises:
        TypeError: if the chain returns other than one array.
        ValueError: if it is no spatial chain.
    """
    shape, grid = source.shape[1:], coordinate_grid(source.shape[1:], source.device)
    set_rnd(chain, seed)
    output: Any = chain(MetaTensor(torch.cat([grid, torch.ones_like(grid[:1])]), affine=source.affine))
    if not isinstance(output, (np.ndarray, Tensor)):
        raise refusal("spatial", type(output).__name__, "transforms that return one array", TypeError)
    output = convert_to_tensor(up_to_date(output), track_meta=False, device=source.device, dtype=torch.float32)
    if output.ndim != source.ndim or len(output) != len(grid) + 1 or min(output.shape[1:]) < 2:
        accepted = "transforms that keep channels and rank, and leave axes longer than 1"
        raise refusal("spatial", f"{(len(grid) + 1, *shape)} -> {tuple(output.shape)}", accepted)
    if not all_finite(output):
        raise refusal("spatial", "NaN or infinite coordinates", "spatial transforms only")
    if _changes_values(output[-1]):
        raise refusal("spatial", "a chain that changes values", "transforms that move voxels and nothing else")
    return split_coordinates(output, shape)


def _changes_values(ones: Tensor) -> bool:
    """Whether a chain that makes this of ones does more than move voxels, and pad with zeros, into which ones fade."""
    kept = ((ones - 1).abs() <= SNAP).sum()
    if not kept and ones.abs().median() > SNAP:
        return True
    if ones.max() <= 1 + SNAP:
        return False
    faded = ((ones - ones.round().clamp(0, 1)).abs() > SNAP).sum()
    return bool(faded > kept)


def run_on_view(chain: Any, seed: int, view: Tensor, guides: Mapping[str, Tensor], anchor: int | None) -> Tensor:
    """A view (C, *R) after an intensity chain.

    Args:
        chain: intensity transforms.
        seed: seed of what they draw.
        view: plain tensor.
        guides: the view's ``information`` and ``tiers`` (1, *R), for the stages that take them.
        anchor: tier for the stages of mode ``"anchor"``.

    Raises:
        ValueError: if the chain changes the shape.
    """
    set_rnd(chain, seed)
    shape, dtype = tuple(view.shape), view.dtype
    for stage in stages(chain):
        if takes_information(stage):
            tier = anchor if getattr(stage, "mode", None) == "anchor" else None
            changed = stage(view, information=guides.get("information"), tiers=guides.get("tiers"), tier=tier)
        else:
            changed = stage(view)
        view = convert_to_tensor(changed, track_meta=False)
        if tuple(view.shape) != shape:
            raise refusal("intensity", f"{shape} -> {tuple(view.shape)}", "made of shape-keeping transforms")
    return view.to(dtype) if dtype.is_floating_point else view
