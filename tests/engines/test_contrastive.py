from __future__ import annotations

import copy
from inspect import signature

import pytest
import torch
from monai.engines import SupervisedTrainer

from monai_infoaug.engines import ContrastiveTrainer, PairInferer
from monai_infoaug.networks import PixelEmbeddingNet
from tests.versions import TORCH, cpu_autocast

pytest.importorskip("ignite", reason="trainers need ignite")


def net(**kwargs):
    torch.manual_seed(0)
    return PixelEmbeddingNet(**{"features": (8, 12), "embedding_dim": 8, "strides": (2, 4), **kwargs})


def views(seed=0, size2=(24, 32)):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 1, *size, generator=generator) for size in ((24, 32), size2)]


def trainer(network, batches, lr=0.1, **kwargs):
    """Pulls the mean embeddings of both views together."""

    def apart(levels, targets):
        return sum((first - second).mean((2, 3)).square().sum() for first, second in levels)

    def prepare(batch, device, *args, **kwargs):
        return [batch], None

    optimizer = torch.optim.SGD(network.parameters(), lr)
    return ContrastiveTrainer("cpu", 1, batches, network, optimizer, apart, prepare, **kwargs)


@pytest.mark.parametrize("size2", [(24, 32), (20, 16)])
def test_pair_inferer_keeps_the_views_apart(size2):
    pair, network = views(size2=size2), net().eval()
    for got, *expected in zip(PairInferer()([pair], network), *map(network, pair), strict=True):
        torch.testing.assert_close(list(got), expected, atol=1e-5, rtol=0)


def test_batch_normalisation_sees_both_views_together():
    pair, network = views(), net().train()
    both = copy.deepcopy(network)(torch.cat(pair))
    torch.testing.assert_close([torch.cat(level) for level in PairInferer()([pair], network)], both)


@pytest.mark.parametrize("amp", [False, True])
def test_mixed_precision_on_the_cpu_is_bfloat16(amp):
    network, seen = net(), []
    network.register_forward_hook(lambda *_: seen.append(cpu_autocast()))
    trainer(network, [views()], amp=amp).run()
    assert seen == [torch.bfloat16 if amp else None]
    assert all(p.dtype == torch.float32 for p in network.parameters())


def gradients_at_steps(batches, **kwargs):
    network = net(norm=None)
    engine = trainer(network, batches, lr=0.0, **kwargs)
    seen = []
    engine.optimizer.register_step_pre_hook(
        lambda *_: seen.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
    )
    return engine, seen


@pytest.mark.parametrize("accumulation_steps", [1, 2, 3])
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.filterwarnings("ignore:CUDA is not available")
def test_gradients_are_clipped_just_before_a_step(accumulation_steps, scaled, monkeypatch):
    if accumulation_steps > 1 and "accumulation_steps" not in signature(SupervisedTrainer).parameters:
        pytest.skip("new in MONAI 1.6")
    if scaled and TORCH < (2, 3):
        pytest.skip("an old PyTorch has no scaler for the CPU")
    # instead of the scaler of a GPU; 5 batches: the last step of an epoch has fewer
    monkeypatch.setattr("torch.cuda.amp.GradScaler", lambda: torch.amp.GradScaler("cpu", init_scale=1024.0))
    batches = [views(seed) for seed in range(5)]
    adding = {"accumulation_steps": accumulation_steps} if accumulation_steps > 1 else {}
    free, expected = gradients_at_steps(batches, **adding)
    free.run()
    norm = min(g.norm() for g in expected) / 2
    clipped, got = gradients_at_steps(batches, **adding, max_grad_norm=norm.item())
    clipped.amp = scaled
    clipped.run()
    assert len(got) == len(expected) == -(-5 // accumulation_steps)
    for g, e in zip(got, expected, strict=True):
        torch.testing.assert_close(g, e / e.norm() * norm, rtol=1e-3, atol=1e-6)
    loose, got = gradients_at_steps(batches[:1], max_grad_norm=1e6)
    loose.run()
    assert got[0].norm() > norm


def test_gradients_of_what_is_not_trained_do_not_count():
    norms = []
    for left in (0.0, 1e3):
        network = net(norm=None)
        engine = trainer(network, [views()], max_grad_norm=1e-3)
        engine.optimizer = torch.optim.SGD([p for p in network.parameters() if p.ndim > 1], 0.1)
        for parameter in network.parameters():
            parameter.grad = torch.full_like(parameter, left if parameter.ndim == 1 else 0.0)
        engine.optimizer.register_step_pre_hook(
            lambda opt, *_: norms.append(torch.cat([p.grad.flatten() for p in opt.param_groups[0]["params"]]).norm())
        )
        engine.run()
    assert norms[0] == pytest.approx(1e-3, rel=1e-3)
    assert norms[1] == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("norm", [0, -1.0, float("nan"), "1"])
def test_bad_gradient_norm(norm):
    with pytest.raises(ValueError, match=f"`max_grad_norm` must be a number above 0, or None, got {norm}"):
        trainer(net(), [views()], max_grad_norm=norm)
