from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

from monai_infoaug.metrics import EmbeddingCollapseMetric


def maps(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rank_of(rows):
    """RankMe by its definition."""
    s = torch.linalg.svdvals(rows.double())
    p = s / s.sum()
    return (-(p * p.log()).sum()).exp().item()


@pytest.mark.parametrize("spatial", [(9,), (6, 5), (4, 3, 2)])
def test_equals_the_definition_over_all_batches(spatial):
    batches = [maps(b, 6, *spatial, seed=b) for b in (3, 1, 2)]
    by_map, by_point, relative = (
        EmbeddingCollapseMetric(),
        EmbeddingCollapseMetric(-1),
        EmbeddingCollapseMetric(1, True),
    )
    for batch in batches:
        by_map(batch)
        by_point(batch.flatten(2).mT)
        relative(list(batch))  # decollated
        assert len(by_map) == 1  # a single Gram matrix, however much comes
    expected = rank_of(torch.cat([b.flatten(2).mT.flatten(0, 1) for b in batches]))
    assert by_map.aggregate().item() == pytest.approx(expected)
    assert by_point.aggregate().item() == pytest.approx(expected)
    assert relative.aggregate().item() == pytest.approx(expected / 6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("features", [4, 128])
def test_collapsed_and_isotropic(features, dtype):
    collapsed, isotropic = EmbeddingCollapseMetric(), EmbeddingCollapseMetric(-1)
    collapsed(normalize(maps(1, features, 1, 1).expand(2, -1, 30, 30), dim=1).to(dtype))
    isotropic(torch.eye(features, dtype=dtype).expand(3, -1, -1))
    assert collapsed.aggregate().item() == pytest.approx(1, abs=1e-3)
    assert isotropic.aggregate().item() == pytest.approx(features)


def test_zero_embeddings_are_collapsed():
    metric = EmbeddingCollapseMetric()
    metric(torch.zeros(1, 4, 5, 5))
    assert metric.aggregate() == 1


def test_order_and_batch_size_do_not_matter_and_reset_forgets():
    x = maps(4, 5, 7, 7)
    one, many = EmbeddingCollapseMetric(), EmbeddingCollapseMetric()
    one(x)
    many(maps(2, 5, 3, 3))
    many.reset()
    for image in x.flip(0):
        many(image[None])
        many.aggregate()  # looking on the way changes nothing
    torch.testing.assert_close(one.aggregate(), many.aggregate())


def test_embeddings_of_all_processes_count(monkeypatch):
    x = maps(4, 5, 7, 7)
    metric, other, all_at_once = (EmbeddingCollapseMetric() for _ in range(3))
    all_at_once(x)
    expected, gram = all_at_once.aggregate(), other(x[3:])
    monkeypatch.setattr(
        "monai.metrics.metric.evenly_divisible_all_gather", lambda mine, concat: torch.cat([mine, gram])
    )
    metric(x[:3])
    torch.testing.assert_close(metric.aggregate(), expected)


def test_bad_input():
    with pytest.raises(ValueError, match="`y_pred` must be of shape"):
        EmbeddingCollapseMetric()(torch.rand(3, 4))
    with pytest.raises(ValueError, match="`y_pred` must be finite"):
        EmbeddingCollapseMetric()(torch.full((1, 2, 3, 3), torch.nan))
    with pytest.raises(ValueError, match="`channel_dim` must be"):
        EmbeddingCollapseMetric(channel_dim=2)
    with pytest.raises(ValueError, match="`metric` must be called"):
        EmbeddingCollapseMetric().aggregate()
