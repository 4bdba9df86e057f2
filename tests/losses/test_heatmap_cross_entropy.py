from __future__ import annotations

import math

import pytest
import torch

from monai_infoaug.losses import HeatmapCrossEntropyLoss

LOSS = HeatmapCrossEntropyLoss()


def maps(*cells: int, batch: int = 2, landmarks: int = 3, dtype=torch.float64, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, landmarks, *cells)
    return 3 * torch.randn(shape, generator=generator, dtype=dtype), torch.rand(shape, generator=generator, dtype=dtype)


def oracle(logits, target, weights):
    """The definition, one number at a time."""
    total = mass = 0.0
    for b in range(len(logits)):
        for n in range(logits.shape[1]):
            scores, goal = logits[b, n].flatten().tolist(), target[b, n].flatten().tolist()
            weight = sum(goal) if weights is None else weights[b, n].item()
            if not (weight > 0 and sum(goal) > 0):
                continue
            largest = max(scores)
            normaliser = largest + math.log(sum(math.exp(score - largest) for score in scores))
            mass += weight
            for score, share in zip(scores, goal, strict=True):
                total += weight * share / sum(goal) * (normaliser - score)
    return total / mass


@pytest.mark.parametrize("cells", [(4, 5), (3, 2, 4)])
@pytest.mark.parametrize("weighted", [False, True])
def test_equals_the_definition(cells, weighted):
    logits, target = maps(*cells)
    target[0, 1], target[1, 2] = 0, torch.nan
    weights = torch.tensor([[0.5, 3.0, 1.0], [0.0, 2.0, 1.0]]) if weighted else None
    assert LOSS(logits, target, weights).item() == pytest.approx(oracle(logits, target, weights))


def test_gradient():
    logits, target = maps(3, 4)
    target[0, 0] = 0
    weights = torch.tensor([[1.0, 0.3, 0.0], [1.0, 2.0, 1.0]], dtype=torch.float64)
    for given in (None, weights):
        assert torch.autograd.gradcheck(lambda x, given=given: LOSS(x, target, given), logits.requires_grad_())


def test_scale_of_the_target_is_its_weight():
    logits, target = maps(4, 5)
    assert LOSS(logits, 7 * target).item() == pytest.approx(LOSS(logits, target).item())
    distribution = target / target.sum((2, 3), keepdim=True)
    factors = torch.tensor([[0.2, 1.0, 0.0], [3.0, 1.0, 1.0]]).double()
    weighted = LOSS(logits, distribution * factors[..., None, None])
    assert weighted.item() == pytest.approx(LOSS(logits, target, factors).item())


@pytest.mark.parametrize("unused", ["zero target", "NaN target", "zero weight", "NaN weight"])
def test_what_an_unused_landmark_has_reaches_nothing(unused):
    logits, target = maps(4, 5)
    weights, where = torch.ones(2, 3), (0, 1)
    expected = LOSS(*(torch.stack([t[0, 0], t[0, 2], *t[1]])[None] for t in (logits, target)), torch.ones(1, 5))
    given = target if "target" in unused else weights
    given[where] = 0.0 if "zero" in unused else torch.nan
    logits[where] = torch.nan
    logits.requires_grad_()
    loss = LOSS(logits, target, weights)
    loss.backward()
    assert loss.item() == pytest.approx(expected.item())
    assert not logits.grad[where].any()
    assert logits.grad.isfinite().all()
    assert logits.grad[0, 0].any()


@pytest.mark.parametrize("bad", [0.0, torch.nan, torch.inf])
def test_without_a_landmark_it_is_0(bad):
    logits, target = maps(4, 5)
    logits = (logits + bad).requires_grad_()
    loss = LOSS(logits, torch.zeros_like(target))
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


def test_least_where_the_softmax_is_the_target():
    _, target = maps(4, 5)
    logits = target.log().requires_grad_()
    share = target / target.sum((2, 3), keepdim=True)
    loss = LOSS(logits, target, torch.ones(2, 3))
    assert loss.item() == pytest.approx(-(share * share.log()).sum().item() / 6)
    loss.backward()
    assert logits.grad.abs().max() < 1e-12


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    logits, target = maps(64, 64)
    exact = LOSS(logits.to(dtype).double(), target)
    with torch.autocast("cpu", torch.bfloat16):
        loss = LOSS(logits.to(dtype), target.float())
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=1e-5)
    assert LOSS(1e4 * logits.to(torch.bfloat16), target.float()).isfinite()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(2, 3), torch.zeros(2, 3)), r"`logits` must be of shape \(B, L, \*cells\), got shape \(2, 3\)"),
        (
            (torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 5)),
            r"`target` must be of shape \(2, 3, 4, 4\), as the logits",
        ),
        ((torch.zeros(2, 3, 4), torch.zeros(2, 3, 4) - 1), r"`target` must be non-negative, got a minimum of -1.0"),
        ((torch.zeros(2, 3, 4), torch.ones(2, 3, 4), torch.ones(2)), r"`weights` must be of shape \(2, 3\)"),
        ((torch.zeros(2, 3, 4), torch.ones(2, 3, 4), -torch.ones(2, 3)), "`weights` must be non-negative"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        LOSS(*arguments)
