"""PixelEmbeddingCollapseMetric: extremes, an oracle by singular values, accumulation, bad input."""

import math

import numpy as np
import pytest
import torch
from monai import metrics

from monai_infoaug.metrics import PixelEmbeddingCollapseMetric


def oracle(rows):
    """1 - effective rank / largest rank, by NumPy's singular values of the centred rows."""
    rows = np.asarray(rows, dtype=np.float64)
    values = np.linalg.svd(rows - rows.mean(0), compute_uv=False)
    shares = values[values > 1e-9] / values.sum()
    return 1 - math.exp(-(shares * np.log(shares)).sum()) / min(len(rows) - 1, rows.shape[1])


def test_collapsed_and_isotropic():
    metric = PixelEmbeddingCollapseMetric()
    line = torch.linspace(0, 1, 36).reshape(1, 1, 6, 6) * torch.ones(1, 8, 1, 1)
    assert metric(line).item() > 0.85
    generator = torch.Generator().manual_seed(0)
    assert metric(torch.randn(1, 8, 64, 64, generator=generator)).item() < 0.02


@pytest.mark.parametrize("shape", [(3, 5, 6, 7), (2, 4, 3, 4, 5)])
def test_each_image_is_scored_by_itself(shape):
    maps = torch.randn(shape) * torch.arange(1.0, shape[1] + 1).reshape(1, -1, *[1] * (len(shape) - 2))
    metric = PixelEmbeddingCollapseMetric()
    scores = metric(maps)
    rows = [m.flatten(1).T for m in maps]
    np.testing.assert_allclose(scores[:, 0], [oracle(r) for r in rows], atol=1e-5)
    points = PixelEmbeddingCollapseMetric(channel_dim=-1)(maps.flatten(2).mT)
    torch.testing.assert_close(points, scores)


@pytest.mark.skipif(not hasattr(metrics, "EmbeddingCollapseMetric"), reason="new in MONAI 1.6")
@pytest.mark.parametrize("shape", [(30, 5), (4, 7), (2, 3), (6, 1)])
def test_is_that_of_monai(shape):
    for rows in (torch.randn(shape), torch.ones(shape), torch.eye(max(shape))[: shape[0], : shape[1]]):
        expected = metrics.EmbeddingCollapseMetric(include_indicators=["effective_rank"])(rows)
        found = PixelEmbeddingCollapseMetric(-1)(rows[None]).item()
        assert found == pytest.approx(float(expected["effective_rank_score"]), abs=1e-5)


def test_mean_over_batches():
    metric, batches = PixelEmbeddingCollapseMetric(), [torch.randn(2, 4, 5, 5), torch.randn(1, 4, 5, 5)]
    scores = torch.cat([metric(batch) for batch in batches])
    torch.testing.assert_close(metric.aggregate(), scores.mean())
    metric.reset()
    with pytest.raises(ValueError, match="`metric` must be called with embeddings"):
        metric.aggregate()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.zeros(4, 4), "of shape"),
        (torch.zeros(1, 4, 1), "at least two pixels"),
        (torch.full((1, 4, 3), torch.nan), "finite"),
    ],
)
def test_bad_input(value, message):
    with pytest.raises(ValueError, match=message):
        PixelEmbeddingCollapseMetric()(value)
    for channel_dim in (2, 0, 1.0, "1", True):
        with pytest.raises(ValueError, match="`channel_dim` must be 1"):
            PixelEmbeddingCollapseMetric(channel_dim=channel_dim)
