"""Whoever computes on tensors does so where they are; for transforms `transforms/test_contract.py` says so."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor
from monai.networks.nets import UNet

from monai_infoaug.inferers import HeatmapDetector, LandmarkMatcher, match_points
from monai_infoaug.information import assign_tiers, local_entropy, mutual_information, tier_thresholds
from monai_infoaug.losses import HeatmapCrossEntropyLoss, PixelInfoNCELoss, PixelSupConLoss
from monai_infoaug.metrics import MeanRadialError, PixelEmbeddingCollapseMetric, SuccessDetectionRate
from monai_infoaug.networks import (
    AttentionSegmenter,
    DenseDescriptor,
    EmbeddingHeads,
    GlobalLocalEmbeddingNet,
    LandmarkHeatmapNet,
    PixelEmbeddingNet,
)


def on_gpu(*shape: int) -> torch.Tensor:
    return torch.rand(*shape).to("cuda")


def net(dims: int = 2) -> PixelEmbeddingNet:
    return PixelEmbeddingNet(spatial_dims=dims)


def test_information(gpu):
    with gpu:
        for shape in ((2, 12, 11), (1, 8, 9, 10)):
            image, mask = on_gpu(*shape), on_gpu(1, *shape[1:]) > 0.3
            for settings in ({}, {"mask": mask}, {"value_range": (0.0, 1.0)}, {"mask": mask.cpu()}):
                information = local_entropy(image, 3, **settings)[:1]
                assert information.is_cuda
                assert mutual_information(image, image, **settings) > 1
            tiers = assign_tiers(information, tier_thresholds(information, mask=mask), mask)
            assert tiers.is_cuda


@pytest.mark.parametrize("valid", [False, True])
def test_loss(gpu, valid):
    with gpu:
        features, points = on_gpu(2, 5, 8).requires_grad_(), 9 * on_gpu(2, 5, 2)
        loss = PixelInfoNCELoss(radius=2.0)(features, on_gpu(2, 5, 8), points, on_gpu(2, 5) > 0.2 if valid else None)
        loss.backward()
        assert loss.is_cuda
        assert features.grad.is_cuda


@pytest.mark.parametrize("weighted", [False, True])
def test_heatmap_loss(gpu, weighted):
    with gpu:
        logits, target = on_gpu(2, 5, 8, 8).requires_grad_(), on_gpu(2, 5, 8, 8)
        loss = HeatmapCrossEntropyLoss()(logits, target, torch.rand(2, 5) if weighted else None)
        loss.backward()
        assert loss.is_cuda
        assert logits.grad.is_cuda


@pytest.mark.parametrize("scope", ["image", "cross", "batch"])
def test_label_based_loss(gpu, scope):
    with gpu:
        features = on_gpu(2, 5, 8, 8).requires_grad_()
        loss = PixelSupConLoss(scope=scope)(features, torch.randint(0, 3, (2, 1, 8, 8)))
        loss.backward()
        assert loss.is_cuda
        assert features.grad.is_cuda


@pytest.mark.parametrize("dims", [2, 3])
def test_heatmap_detector(gpu, dims):
    with gpu:
        network = LandmarkHeatmapNet(GlobalLocalEmbeddingNet([net(dims), net(dims)]), 3).to("cuda").eval()
        image = MetaTensor(torch.rand(2, 1, *(80, 48, 32)[:dims]), affine=torch.eye(4)).to("cuda")
        found = HeatmapDetector()(image, network)
        assert all(value.is_cuda for value in found.values())


@pytest.mark.parametrize(
    "metric", [MeanRadialError(spacing=(0.5, 2.0)), SuccessDetectionRate(spacing=0.3), PixelEmbeddingCollapseMetric()]
)
def test_metrics(gpu, metric):
    metric.reset()
    with gpu:
        metric(on_gpu(3, 4, 2), on_gpu(3, 4, 2))
        assert metric.aggregate().is_cuda


def heads() -> EmbeddingHeads:
    unet = UNet(2, 1, 1, channels=(8, 16, 32), strides=(2, 2))
    return EmbeddingHeads(unet, ["model.1.submodule.0", "model.0"], embedding_dim=8, spatial_size=(64, 64))


def attention() -> AttentionSegmenter:
    coarse, network = (UNet(2, 1 + i, 2 - i, channels=(8, 16, 32), strides=(2, 2)) for i in range(2))
    return AttentionSegmenter(coarse, network)


NETWORKS = {
    "attention": attention,
    "2D": net,
    "3D": lambda: net(3),
    "global-local": lambda: GlobalLocalEmbeddingNet([net(), net()]),
    "heads": heads,
    "descriptor": lambda: DenseDescriptor(net(), stride=4),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(gpu, name):
    with gpu:
        network = NETWORKS[name]().to("cuda").eval()
        levels = network(on_gpu(1, 1, *((48,) * 3 if name == "3D" else (96, 80))))
        assert all(level.is_cuda for level in ([levels] if isinstance(levels, torch.Tensor) else levels))


@pytest.mark.parametrize("world", [False, True])
@pytest.mark.parametrize("dims", [2, 3])
def test_landmark_matcher(gpu, dims, world):
    with gpu:
        size, network = (64, 48, 32)[:dims], net(dims).to("cuda").eval()
        template, landmarks = MetaTensor(torch.rand(1, *size), affine=torch.eye(4)), 20 * torch.rand(3, dims)
        query = MetaTensor(torch.rand(2, 1, *size), affine=torch.eye(4)).to("cuda")
        for there in (template, template.to("cuda")):
            for points in (landmarks, landmarks.to("cuda")):
                found = LandmarkMatcher(there, points, world=world)(query, network)
                assert all(value.is_cuda for value in found.values())


def test_points_of_levels(gpu):
    with gpu:
        template, query = ([on_gpu(1, 8, 16, 16), on_gpu(1, 8, 8, 8)] for _ in range(2))
        for patch_radius in (None, 3):
            points = 30 * on_gpu(1, 5, 2)
            found = match_points(template, points, query, (2, 4), (32, 32), (1, 2), patch_radius=patch_radius)
            assert all(value.is_cuda for value in found)
