"""Registration of two images, to know which of their patches correspond."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import numpy as np
import SimpleITK as sitk
import torch
from monai.data import MetaTensor
from torch import Tensor

COARSE = {2: 128, 3: 64}  # voxels of the longest axis of an image that is registered
REGISTERED = 4000  # voxels that a registration looks at
CELLS = 5  # of the B-spline's mesh along each axis


def registration(image: MetaTensor, other: MetaTensor) -> sitk.Transform:
    """The transform from points of an image (C, *S), in the world, to those of another one that show the same.

    Raises:
        RuntimeError: if there is nothing to register in one of them, or no overlap.
    """
    with _one_thread():
        return _registered(_coarse(image), _coarse(other))


def warped(other: MetaTensor, transform: sitk.Transform, image: MetaTensor, part: tuple[slice, ...]) -> Tensor:
    """What the other image (C, *S) shows at the voxels ``part`` of ``image``: (C, *R), NaN outside of it."""
    grid = _to_itk(image[0])[part]
    channels = [sitk.Resample(_to_itk(channel), grid, transform, sitk.sitkLinear, math.nan) for channel in other]
    return torch.stack([torch.from_numpy(sitk.GetArrayFromImage(channel).T) for channel in channels])


def _to_itk(image: Tensor) -> sitk.Image:
    """A channel (*S) of an image in its place in the world, for SimpleITK."""
    channel = cast(MetaTensor, image)
    dims, affine = channel.ndim, channel.affine.numpy()
    spacing = np.linalg.norm(affine[:dims, :dims], axis=0)
    itk = sitk.GetImageFromArray(channel.as_tensor().numpy().T)
    itk.SetSpacing(spacing.tolist())
    itk.SetDirection((affine[:dims, :dims] / spacing).ravel().tolist())
    itk.SetOrigin(affine[:dims, -1].tolist())
    return itk


def _coarse(image: MetaTensor) -> sitk.Image:
    """The mean of the channels of an image (C, *S), small enough to be registered in a second or a few."""
    itk = _to_itk(image.mean(0))
    factor = math.ceil(max(itk.GetSize()) / COARSE[itk.GetDimension()])
    sigmas = [factor / 2 * spacing for spacing in itk.GetSpacing()]
    return sitk.Shrink(sitk.SmoothingRecursiveGaussian(itk, sigmas), [factor] * itk.GetDimension())


def _registered(fixed: sitk.Image, moving: sitk.Image) -> sitk.Transform:
    """From points of ``fixed`` to those of ``moving``: affine, then a B-spline, by Mattes' mutual information."""
    dims = fixed.GetDimension()

    def method(*shrink: int) -> sitk.ImageRegistrationMethod:
        found = sitk.ImageRegistrationMethod()
        found.SetMetricAsMattesMutualInformation(32)
        shares = [min(1.0, REGISTERED * n**dims / math.prod(fixed.GetSize())) for n in shrink]
        found.SetMetricSamplingStrategy(found.RANDOM)
        found.SetMetricSamplingPercentagePerLevel(shares, seed=1)
        found.SetInterpolator(sitk.sitkLinear)
        found.SetShrinkFactorsPerLevel(shrink)
        found.SetSmoothingSigmasPerLevel([n / 2 if n > 1 else 0 for n in shrink])
        found.SetSmoothingSigmasAreSpecifiedInPhysicalUnits(False)
        return found

    moments = sitk.CenteredTransformInitializerFilter.MOMENTS
    affine = sitk.AffineTransform(sitk.CenteredTransformInitializer(fixed, moving, sitk.AffineTransform(dims), moments))
    rough = method(4, 2, 1)
    rough.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-4, 100, relaxationFactor=0.7)
    rough.SetOptimizerScalesFromPhysicalShift()
    rough.SetInitialTransform(affine, inPlace=True)
    rough.Execute(fixed, moving)
    spline = sitk.BSplineTransformInitializer(fixed, [CELLS] * dims)
    fine = method(2, 1)
    fine.SetMovingInitialTransform(affine)
    fine.SetInitialTransformAsBSpline(spline, inPlace=True, scaleFactors=[1, 1])
    fine.SetOptimizerAsLBFGSB(
        gradientConvergenceTolerance=1e-5, numberOfIterations=30, maximumNumberOfFunctionEvaluations=40
    )
    fine.Execute(fixed, moving)
    return sitk.CompositeTransform([affine, spline])


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let SimpleITK work on one thread: the sums of several differ in rounding, which a registration makes large."""
    usual = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(usual)
