"""Ways to find a template's points in a query without learning, for images of two or three axes.

A way takes the template (1, *S), the query (1, *T) and points (L, D) in voxels of the template, and gives their places
(L, D) in voxels of the query. Voxels of both images have one size.

References:
    1. Heinrich et al., "MIND: modality independent neighbourhood descriptor for multi-modal deformable registration",
       Medical Image Analysis 16(7), 2012.
    2. Tola et al., "DAISY: an efficient dense descriptor applied to wide-baseline stereo", IEEE TPAMI 32(5), 2010.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from monai.utils import convert_to_tensor
from torch import Tensor
from torch.nn.functional import conv2d, conv3d, pad

from monai_infoaug.inferers import to_voxels, to_world
from monai_infoaug.networks import SelfSimilarity


def copied(template: Tensor, query: Tensor, points: Tensor) -> Tensor:
    """The same millimetres, by the affines of MetaTensors; in plain tensors, the same voxels."""
    return to_voxels(to_world(points[None], template), query)[0]


def by_mind(
    template: Tensor, query: Tensor, points: Tensor, distance: int = 1, radius: int = 1, **where: int | None
) -> Tensor:
    """The most alike neighbourhoods of MIND descriptors [1].

    Args:
        template: image (1, *S).
        query: image (1, *T).
        points: (L, D) in voxels of the template.
        distance: voxels between the patches, see :py:class:`monai_infoaug.networks.SelfSimilarity`.
        radius: radius of the patches, see there.
        where: ``search``, ``reach`` and ``step`` of :py:func:`nearest_by_descriptor`.
    """
    describe = SelfSimilarity(distance, radius)
    described = (describe(_plain(image)[None])[0] for image in (template, query))
    return nearest_by_descriptor(*described, points, **where)


def by_daisy(
    template: Tensor, query: Tensor, points: Tensor, radius: int = 15, rings: int = 3, **where: int | None
) -> Tensor:
    """The most alike neighbourhoods of DAISY descriptors [2], dense histograms of gradients akin to SIFT's; 2D only.

    Args:
        template: image (1, *S).
        query: image (1, *T).
        points: (L, D) in voxels of the template.
        radius: radius of the outermost ring of histograms, in voxels.
        rings: number of rings, of 8 histograms of 8 directions each, around one in the middle.
        where: ``search``, ``reach`` and ``step`` of :py:func:`nearest_by_descriptor`.
    """
    described = (daisy_descriptors(_plain(image), radius, rings) for image in (template, query))
    return nearest_by_descriptor(*described, points, **where)


def daisy_descriptors(image: Tensor, radius: int, rings: int) -> Tensor:
    """DAISY descriptors (8 * (1 + 8 * rings), H, W) of an image (1, H, W), of which the border values go on outside."""
    from skimage.feature import daisy  # here, since only the extra `test` has scikit-image

    wide = np.pad(image[0].numpy(), radius, mode="edge")
    return torch.from_numpy(daisy(wide, step=1, radius=radius, rings=rings)).movedim(-1, 0).float()


def nearest_by_descriptor(
    template: Tensor, query: Tensor, points: Tensor, search: int | None = None, reach: int = 3, step: int = 3
) -> Tensor:
    """Where the neighbourhoods of points look most alike: the least sum of squared differences of descriptors.

    Args:
        template: descriptors (C, *S).
        query: descriptors (C, *T).
        points: (N, D) in voxels of the template, rounded.
        search: voxels around each point, along each axis, in which it is searched. None: in the whole query.
        reach: places compared along each axis, on either side.
        step: voxels between these places.

    Returns:
        (N, D) voxels of the query.
    """
    dims = points.shape[1]
    correlate = {2: conv2d, 3: conv3d}[dims]
    size, last = torch.tensor(query.shape[1:]), torch.tensor(template.shape[1:]) - 1
    search = max(*template.shape[1:], *query.shape[1:]) if search is None else search
    offsets = step * torch.arange(-reach, reach + 1)
    margin, found = step * reach, []
    wide = pad(query[None], [margin] * (2 * dims), mode="replicate")[0]
    ones = torch.ones(1, len(query), *[len(offsets)] * dims)
    for point in points.round().long():
        places = [(at + offsets).clamp(0, n) for at, n in zip(point, last, strict=True)]
        patch = template[(slice(None), *torch.meshgrid(*places, indexing="ij"))]
        low, high = (point - search).clamp_min(0), (point + search + 1).minimum(size)
        window = wide[(slice(None), *(slice(a, b + 2 * margin) for a, b in zip(low, high, strict=True)))][None]
        # |q - t|^2 = |q|^2 - 2 q t + a constant
        cost = correlate(window.square(), ones, dilation=step) - 2 * correlate(window, patch[None], dilation=step)
        best = torch.unravel_index(cost[0, 0].argmin(), cost.shape[2:])
        found.append(low + torch.stack(best))
    return torch.stack(found).double()


def by_registration(template: Tensor, query: Tensor, points: Tensor, **settings: Any) -> Tensor:
    """Where the B-spline of :py:func:`register` with these settings takes the points."""
    *_, (_, transform) = register(*(to_sitk(_plain(image)) for image in (template, query)), **settings)
    return points.new_tensor([transform.TransformPoint(point) for point in points.tolist()])


def register(
    fixed: sitk.Image,
    moving: sitk.Image,
    seed: int = 0,
    centring: int = sitk.CenteredTransformInitializerFilter.MOMENTS,
    coarse: Sequence[int] = (8, 4, 2),
    shares: tuple[float, float] = (0.1, 0.05),
    cell: float = 40,
    shrink: Sequence[int] = (4, 2),
    iterations: int = 20,
) -> Iterator[tuple[str, sitk.Transform]]:
    """Registrations by mutual information, each starting from the one before: "rigid", "affine", "B-spline".

    Mattes' measure, from coarse to fine, after the images' centres were laid on each other.

    Args:
        fixed: image of two or three axes.
        moving: image of as many.
        seed: seed of the draw of voxels.
        centring: which centres: MOMENTS, of mass, or GEOMETRY, of the grids.
        coarse: factors of the levels of the first two.
        shares: shares of the voxels that are looked at, for the first two and for the B-spline.
        cell: side of the cells of the B-spline's mesh, about, in voxels.
        shrink: factors of the B-spline's levels.
        iterations: iterations of LBFGSB at most, a level of the B-spline.

    Yields:
        name and transform, which takes points of ``fixed`` to ``moving``.
    """
    dims = fixed.GetDimension()

    def method(shrink: Sequence[int], share: float) -> sitk.ImageRegistrationMethod:
        registration = sitk.ImageRegistrationMethod()
        registration.SetMetricAsMattesMutualInformation(50)
        registration.SetMetricSamplingStrategy(registration.RANDOM)
        registration.SetMetricSamplingPercentage(share, seed + 1)
        registration.SetInterpolator(sitk.sitkLinear)
        registration.SetShrinkFactorsPerLevel(list(shrink))
        registration.SetSmoothingSigmasPerLevel([n / 2 if n > 1 else 0 for n in shrink])
        return registration

    rigid = {2: sitk.Euler2DTransform, 3: sitk.Euler3DTransform}[dims]
    done = rigid(sitk.CenteredTransformInitializer(fixed, moving, rigid(), centring))
    for name, start in (("rigid", rigid()), ("affine", sitk.AffineTransform(dims))):
        start.SetCenter(done.GetCenter())
        start.SetMatrix(done.GetMatrix())
        start.SetTranslation(done.GetTranslation())
        registration = method(coarse, shares[0])
        registration.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-4, 200, relaxationFactor=0.7)
        registration.SetOptimizerScalesFromPhysicalShift()
        registration.SetInitialTransform(start, inPlace=True)
        registration.Execute(fixed, moving)
        done = start
        yield name, done
    spline = sitk.BSplineTransformInitializer(fixed, [max(1, round(n / cell)) for n in fixed.GetSize()])
    registration = method(shrink, shares[1])
    registration.SetMovingInitialTransform(done)
    registration.SetInitialTransformAsBSpline(spline, inPlace=True, scaleFactors=[1] * len(shrink))
    registration.SetOptimizerAsLBFGSB(gradientConvergenceTolerance=1e-5, numberOfIterations=iterations)
    registration.Execute(fixed, moving)
    yield "B-spline", sitk.CompositeTransform([done, spline])


def to_sitk(image: Tensor) -> sitk.Image:
    """An image (1, *S) whose physical coordinates are its voxels."""
    return sitk.GetImageFromArray(image[0].numpy().T)


def _plain(image: Tensor) -> Tensor:
    """An image without MONAI's metadata, whose code sees every operation on it."""
    return convert_to_tensor(image, track_meta=False)


# For cephalograms of 0.625 mm a voxel: of a few settings each, those with about the least error on the training images
# 121 to 150, the only ones whose labels were read for that. None of their landmarks lies more than 29 mm along an axis
# from the template's; a search of 40 mm instead of 30 mm finds more wrong places.
CEPHALOGRAM_WAYS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "copied": copied,
    "daisy": partial(by_daisy, radius=15, rings=2, search=48, reach=2, step=12),
    "mind": partial(by_mind, distance=6, radius=4, search=48, reach=10, step=5),
    "registration": partial(
        by_registration,
        centring=sitk.CenteredTransformInitializerFilter.GEOMETRY,
        shares=(0.5, 0.5),
        cell=60,
        shrink=(8, 4, 2),
        iterations=50,
    ),
}
