from __future__ import annotations

import copy

import pytest
import torch
from monai.data import MetaTensor
from monai.engines.utils import IterationEvents
from monai.handlers import IgniteMetricHandler
from torch import nn
from torch.nn.functional import avg_pool2d, avg_pool3d, normalize

from monai_infoaug._grid import level_features
from monai_infoaug.engines import (
    LevelContrast,
    PairInferer,
    PairMatcher,
    PixelContrastiveTrainer,
    PixelMatchingEvaluator,
)
from monai_infoaug.inferers import match_points
from monai_infoaug.losses import DenseInfoNCELoss, PixelInfoNCELoss
from monai_infoaug.metrics import MeanRadialError, PixelEmbeddingCollapseMetric
from monai_infoaug.networks import GlobalLocalEmbeddingNet, PixelEmbeddingNet

pytest.importorskip("ignite", reason="trainers need ignite")


def pairs(seed=0, size=(24, 32), size2=None, batch=2, channels=1, prefix="", number=12):
    """A batch as of RandPairedViewsd: view 2 is view 1's image moved by whole voxels; the last point is invalid."""
    generator = torch.Generator().manual_seed(seed)
    dims, size2 = len(size), size2 or size
    scene = torch.randn(batch, channels, *(2 * s for s in size), generator=generator)
    scene = {2: avg_pool2d, 3: avg_pool3d}[dims](scene, 3, stride=1, padding=1)
    shift = torch.randint(1, 4, (batch, dims), generator=generator)
    view1 = scene[(..., *(slice(s) for s in size))]
    view2 = torch.stack(
        [
            image[(..., *(slice(a, a + s) for a, s in zip(d, size2, strict=True)))]
            for image, d in zip(scene, shift.tolist(), strict=True)
        ]
    )
    span = torch.tensor([min(a, b) for a, b in zip(size, size2, strict=True)]) - 6
    points = (torch.rand(batch, number, dims, generator=generator) * span).round() + 4
    valid = torch.ones(batch, number, dtype=torch.bool)
    valid[:, -1] = False
    points2 = points - shift[:, None]
    points[:, -1] = points2[:, -1] = torch.nan
    names = {"image_view1": view1, "image_view2": view2}
    names |= {"points_view1": points, "points_view2": points2, "points_valid": valid}
    return {prefix + name: value for name, value in names.items()}


def net(seed=0, **kwargs):
    torch.manual_seed(seed)
    return PixelEmbeddingNet(**{"features": (8, 12), "embedding_dim": 8, "strides": (2, 4), **kwargs})


def trainer(network, batches, max_epochs=1, lr=0.1, **kwargs):
    optimizer = torch.optim.SGD(network.parameters(), lr)
    return PixelContrastiveTrainer("cpu", max_epochs, batches, network, optimizer, **kwargs)


def losses_of(engine):
    losses = []
    engine.add_event_handler(IterationEvents.LOSS_COMPLETED, lambda: losses.append(engine.state.output["loss"].item()))
    engine.run()
    return losses


def hand_made_loss(network, batch, weights=(0.5, 0.5), radius=2.0, temperature=0.1):
    """Both directions of InfoNCE, point by point."""
    levels = network(torch.cat([batch["image_view1"], batch["image_view2"]]))
    total = 0.0
    for level, stride, weight in zip(levels, (2, 4), weights, strict=True):
        sides = [
            level_features(half, batch[f"points_view{k}"], stride) for k, half in enumerate(level.chunk(2), start=1)
        ]
        terms = []
        for b, valid in enumerate(batch["points_valid"]):
            f1, f2, places = (x[b][valid] for x in (*sides, batch["points_view1"]))
            cosines = normalize(f1, dim=1) @ normalize(f2, dim=1).T / temperature
            for i in range(len(places)):
                kept = [j for j in range(len(places)) if j == i or (places[i] - places[j]).norm() >= radius * stride]
                for row in (cosines[i], cosines[:, i]):
                    terms.append((row[kept].logsumexp(0) - row[i]) / 2)
        total = total + weight * sum(terms) / (len(terms) / 2)
    return total


@pytest.mark.parametrize("weights", [None, (3, 1), (0, 1)])
def test_equals_the_plain_loop(weights):
    batches, network = [pairs(seed) for seed in range(3)], net()
    plain = copy.deepcopy(network).train()
    optimizer = torch.optim.SGD(plain.parameters(), 0.1)
    expected = []
    for batch in batches:
        optimizer.zero_grad()
        loss = hand_made_loss(plain, batch, [w / sum(weights) for w in weights] if weights else (0.5, 0.5))
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
    assert losses_of(trainer(network, batches, level_weights=weights)) == pytest.approx(expected, rel=1e-4)
    for (name, p), q in zip(network.state_dict().items(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(p, q, atol=1e-4, rtol=1e-3, msg=name)


def matching_error(network, batches, **kwargs):
    handler = IgniteMetricHandler(
        metric_fn=MeanRadialError(), output_transform=lambda output: (output["pred"]["landmarks"], output["label"])
    )
    evaluator = PixelMatchingEvaluator("cpu", batches, network, key_val_metric={"mre": handler}, **kwargs)
    evaluator.run()
    return evaluator.state.metrics["mre"]


@pytest.mark.parametrize(("size", "size2"), [((24, 32), None), ((24, 32), (16, 20)), ((12, 12, 16), None)])
def test_loss_falls_and_matching_gets_better(size, size2):
    network = net(spatial_dims=len(size))
    batches = [pairs(seed, size, size2, number=40) for seed in range(3)]
    before = matching_error(network, batches)
    losses = losses_of(trainer(network, batches, max_epochs=20, max_grad_norm=1.0))
    assert sum(losses[-3:]) < 0.6 * sum(losses[:3])
    assert matching_error(network, batches) < 0.8 * before


def test_mixed_precision_on_the_cpu():
    network = net()
    losses = losses_of(trainer(network, [pairs(seed) for seed in range(3)], max_epochs=8, amp=True))
    full = losses_of(trainer(net(), [pairs(seed) for seed in range(3)], max_epochs=8))
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
    assert losses != full
    assert losses[0] == pytest.approx(full[0], rel=0.02)
    assert all(p.dtype == torch.float32 for p in network.parameters())


def test_two_prefixes_feed_two_networks():
    network = GlobalLocalEmbeddingNet([net(0), net(1, strides=(4,))], scales=(1, 2))
    batch = pairs(0, (16, 16), prefix="local_", number=5) | pairs(1, (24, 32), prefix="global_", number=7)
    seen = []

    def loss(features1, features2, points, valid, radius):
        seen.append((features1, features2, points, valid, radius))
        return features1.mean()

    losses_of(trainer(network, [batch], lr=0.0, loss_function=loss, prefixes=("local_", "global_"), radius=3.0))
    assert [(points.shape[1], radius) for _, _, points, _, radius in seen] == [(5, 6.0), (5, 12.0), (7, 12.0)]
    for (features1, features2, points, valid, _), prefix in zip(seen, ("local_",) * 2 + ("global_",), strict=True):
        torch.testing.assert_close(points, batch[f"{prefix}points_view1"], equal_nan=True)
        assert torch.equal(valid, batch[f"{prefix}points_valid"])
        assert features1.shape == features2.shape == (*points.shape[:2], 8)
    views = [torch.cat([batch[f"{p}image_view{k}"] for k in (1, 2)]) for p in ("local_", "global_")]
    level = network.networks[1].train()(views[1])[0][2:]
    torch.testing.assert_close(seen[2][1], level_features(level, batch["global_points_view2"], 4))


def test_each_prefix_may_have_its_own_key():
    network = GlobalLocalEmbeddingNet([net(0), net(1, strides=(4,))], scales=(1, 2))
    batch = pairs(0, prefix="local_") | pairs(1, (24, 32), prefix="global_")
    renamed = {name.replace("global_image", "global_small"): value for name, value in batch.items()}
    prefixes = ("local_", "global_")
    expected = losses_of(trainer(network, [batch], lr=0.0, prefixes=prefixes))
    assert losses_of(trainer(network, [renamed], lr=0.0, prefixes=prefixes, key=("image", "small"))) == expected
    with pytest.raises(ValueError, match=r"`key` must be one name, or one for each of the prefixes"):
        trainer(network, [batch], prefixes=prefixes, key=("a", "b", "c"))


class Colours(nn.Module):
    """The image itself, averaged into cells, as an embedding."""

    def __init__(self, *strides):
        super().__init__()
        self.strides = strides

    def forward(self, image):
        assert type(image) is torch.Tensor
        return [normalize(avg_pool2d(image, stride), dim=1) for stride in self.strides]


def test_evaluator_with_metrics():
    batches = [pairs(seed, channels=4) for seed in range(3)]
    for batch in batches:  # not only NaN may stand where a pair is invalid
        batch["points_valid"][0, 0], batch["points_view2"][0, 0] = False, 999.0
        batch["image_view1"] = MetaTensor(batch["image_view1"])
    handlers = {
        "mre": IgniteMetricHandler(
            metric_fn=MeanRadialError(), output_transform=lambda out: (out["pred"]["landmarks"], out["label"])
        ),
        "collapse": IgniteMetricHandler(
            metric_fn=PixelEmbeddingCollapseMetric(-1),
            output_transform=lambda out: (out["pred"]["embeddings"], out["label"]),
        ),
    }
    evaluator = PixelMatchingEvaluator(
        "cpu",
        batches,
        Colours(1),
        key_val_metric={"mre": handlers["mre"]},
        additional_metrics={"collapse": handlers["collapse"]},
    )
    evaluator.run()
    assert evaluator.state.metrics["mre"] < 0.5  # the right voxel; the parabola may move it by a half along an axis
    scores = PixelEmbeddingCollapseMetric(-1)
    for batch in batches:
        views, points = batch["image_view1"].as_tensor(), batch["points_view1"]
        colours = [torch.stack([view[(slice(None), *p.long())] if p.isfinite().all() else torch.zeros(4) for p in ps])
                   for view, ps in zip(views, points, strict=True)]  # fmt: skip
        scores(normalize(torch.stack(colours), dim=-1))
    assert evaluator.state.metrics["collapse"] == pytest.approx(scores.aggregate().item(), rel=1e-3)
    label = evaluator.state.output["label"]
    assert label[0, 0].isnan().all()
    assert label[:, -1].isnan().all()
    assert label[1, :-1].isfinite().all()


def test_pair_matcher_matches_each_pair_by_itself():
    batch, network = pairs(size2=(20, 28), batch=3, channels=4), Colours(2, 4)
    views, points = (batch["image_view1"], batch["image_view2"]), batch["points_view1"]
    got = PairMatcher(level_weights=(1, 2), chunk=5)((*views, points), network)
    for b in range(3):
        first, second = (network(view[b : b + 1]) for view in views)
        found, scores = match_points(first, points[b : b + 1], second, (2, 4), (20, 28), (1, 2))
        expected = {"landmarks": found[0], "scores": scores[0]}
        torch.testing.assert_close({k: got[k][b] for k in expected}, expected, equal_nan=True, atol=1e-3, rtol=0)
    assert got["embeddings"].shape == (3, 12, 8)
    assert not got["embeddings"][:, -1].any()


def test_wrapped_network_is_called_itself():
    class Wrapper(nn.Module):  # as DistributedDataParallel, whose hooks sit in `forward`
        def __init__(self):
            super().__init__()
            self.module, self.calls = net(), 0

        def forward(self, *images):
            self.calls += 1
            return self.module(*images)

    wrapper = Wrapper()
    trainer(wrapper, [pairs()]).run()
    PixelMatchingEvaluator("cpu", [pairs()], wrapper).run()
    assert wrapper.calls == 3


def test_evaluator_puts_the_network_in_evaluation():
    network = net().train()
    before = copy.deepcopy(network.state_dict())
    PixelMatchingEvaluator("cpu", [pairs()], network).run()
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_level_contrast_is_the_weighted_mean_of_its_levels():
    batch, network = pairs(), net().eval()
    levels = PairInferer()([(batch["image_view1"], batch["image_view2"])], network)
    target = {name: batch[name] for name in ("points_view1", "points_view2", "points_valid")}

    def contrast(weights):
        return LevelContrast([(0, 2), (0, 4)], PixelInfoNCELoss(), weights=weights)(levels, [target])

    fine, coarse = contrast([1, 0]), contrast([0, 5])
    assert not torch.isclose(fine, coarse)
    torch.testing.assert_close(contrast([3, 1]), 0.75 * fine + 0.25 * coarse)
    torch.testing.assert_close(contrast(None), (fine + coarse) / 2)


def test_a_loss_that_takes_levels_gets_them_whole():
    batch, network = pairs(), net().eval()
    levels = PairInferer()([(batch["image_view1"], batch["image_view2"])], network)
    target = {name: batch[name] for name in ("points_view1", "points_view2", "points_valid")}
    seen = []

    class Own:
        takes_levels = True

        def __call__(self, *args, **kwargs):
            seen.append((args, kwargs))
            return DenseInfoNCELoss()(*args, **kwargs)

    got = LevelContrast([(0, 2), (0, 4)], Own(), radius=3.0)(levels, [target])
    for (args, kwargs), level, stride in zip(seen, levels, (2, 4), strict=True):
        assert all(a is b for a, b in zip(args, (*level, *target.values()), strict=True))
        assert kwargs == {"stride": stride, "radius": 3.0 * stride}
    torch.testing.assert_close(LevelContrast([(0, 2), (0, 4)], DenseInfoNCELoss(), radius=3.0)(levels, [target]), got)


@pytest.mark.parametrize("weights", [(1,), (0, 0), (1, -1), (1, torch.nan)])
def test_level_weights_that_do_not_fit(weights):
    with pytest.raises(ValueError, match="`level_weights` must be 2 numbers of at least 0, one a level, not all 0"):
        trainer(net(), [pairs()], level_weights=weights)
    with pytest.raises(ValueError, match="`level_weights` must be 2 numbers"):
        PixelMatchingEvaluator("cpu", [pairs()], net(), inferer=PairMatcher(weights)).run()


def test_bad_trainers():
    with pytest.raises(ValueError, match="`network` must be an embedding network with `strides`, got Conv2d"):
        trainer(nn.Conv2d(1, 1, 1), [pairs()])
    with pytest.raises(ValueError, match=r"`prefixes` must be 1 names, .* got \('a_', 'b_'\)"):
        trainer(net(), [pairs()], prefixes=("a_", "b_"))
    with pytest.raises(ValueError, match="`prefixes` must be 2 names"):
        trainer(GlobalLocalEmbeddingNet([net(), net()]), [pairs()])
    with pytest.raises(ValueError, match="`max_grad_norm` must be a number above 0, or None, got 0"):
        trainer(net(), [pairs()], max_grad_norm=0)


@pytest.mark.parametrize("name", list(pairs()))
def test_missing_key_is_named(name):
    batch = pairs()
    del batch[name]
    for engine in (trainer(net(), [batch]), PixelMatchingEvaluator("cpu", [batch], net())):
        with pytest.raises(KeyError, match=f"lacks `{name}`"):
            engine.run()
    with pytest.raises(KeyError, match="lacks `scan_view1`"):
        trainer(net(), [pairs()], key="scan").run()
    with pytest.raises(KeyError, match="lacks `a_image_view1`"):
        trainer(net(), [pairs()], prefixes=("a_",)).run()
