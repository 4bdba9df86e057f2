"""Negative learning: its value and gradients in closed form, and which classes it denies."""

import pytest
import torch

from monai_infoaug.losses import NegativeLearningLoss


@pytest.fixture
def pixels():
    """Logits (1, 4, 300) and labels of many pixels."""
    generator = torch.Generator().manual_seed(3)
    logits = 2 * torch.randn(1, 4, 300, generator=generator, dtype=torch.float64)
    return logits.requires_grad_(), torch.randint(4, (1, 1, 300), generator=generator)


def denied(logits):
    """The class whose logit is pushed down at each pixel."""
    assert ((logits.grad > 0).sum(1) == 1).all()
    return logits.grad.argmax(1)[0]


@pytest.mark.parametrize("sampling", ["uniform", "rank"])
def test_value_and_gradients_in_closed_form(pixels, sampling):
    logits, labels = pixels
    loss = NegativeLearningLoss(sampling)(logits, labels)
    loss.backward()
    p, k = logits.detach().softmax(1)[0], denied(logits)
    of_k = p.gather(0, k[None])
    assert loss.item() == pytest.approx(-(1 - of_k).log().mean().item())
    wanted = -of_k * p / (1 - of_k)
    wanted.scatter_(0, k[None], of_k)
    torch.testing.assert_close(logits.grad[0], wanted / 300)
    assert not (k == labels[0, 0]).any()


def test_uniform_denies_every_other_class_alike():
    logits, labels = torch.randn(1, 4, 60_000, requires_grad=True), torch.full((1, 1, 60_000), 2)
    NegativeLearningLoss(seed=1)(logits, labels).backward()
    counts = denied(logits).bincount(minlength=4) / 60_000
    torch.testing.assert_close(counts, torch.tensor([1 / 3, 1 / 3, 0, 1 / 3]), atol=0.01, rtol=0)


def test_rank_denies_the_less_probable_more_often():
    logits = torch.tensor([0.0, 3.0, 2.0, 1.0])[None, :, None].repeat(1, 1, 60_000).requires_grad_()
    NegativeLearningLoss("rank")(logits, torch.full((1, 1, 60_000), 1)).backward()
    counts = denied(logits).bincount(minlength=4) / 60_000  # ranks 4, 1, 2, 3, and the label is left out
    torch.testing.assert_close(counts, torch.tensor([4 / 9, 0, 2 / 9, 3 / 9]), atol=0.01, rtol=0)


def test_seed_decides(pixels):
    first, again, other = (NegativeLearningLoss(seed=seed)(*pixels).item() for seed in (5, 5, 6))
    assert first == again != other
    loss = NegativeLearningLoss()
    drawn = [loss(*pixels).item() for _ in range(2)]
    loss.set_epoch(1)
    of_epoch = loss(*pixels).item()
    loss.set_epoch(0)
    assert [loss(*pixels).item() for _ in range(2)] == drawn
    assert of_epoch not in drawn


def test_ignored_pixels_have_no_part(pixels):
    logits, labels = pixels
    with_nan = torch.cat([logits.detach(), torch.full((1, 4, 9), torch.nan)], 2).requires_grad_()
    longer = torch.cat([labels, torch.full((1, 1, 9), 255)], 2)
    loss = NegativeLearningLoss(ignore_index=255)(with_nan, longer)
    assert loss.item() == NegativeLearningLoss()(logits, labels).item()
    nothing = NegativeLearningLoss()(with_nan, torch.full_like(longer, -1))
    nothing.backward()
    assert nothing.item() == 0
    assert NegativeLearningLoss()(logits.bfloat16(), torch.full_like(labels, -1)).dtype == torch.float32
    assert not with_nan.grad.any()


def test_a_certain_mistake_has_a_finite_loss_in_half_precision():
    logits = torch.zeros(1, 2, 2, 2, dtype=torch.float16)
    logits[:, 1] = 60
    logits.requires_grad_()
    loss = NegativeLearningLoss()(logits, torch.zeros(1, 1, 2, 2))
    loss.backward()
    assert loss.item() == pytest.approx(60)
    assert logits.grad.isfinite().all()
    assert loss.dtype == torch.float32


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        ((2, 1, 4), (2, 1, 4), r"`logits` must be of shape \(B, C, \*S\), C > 1, got shape \(2, 1, 4\)"),
        ((2,), (2,), r"`logits` must be of shape \(B, C, \*S\), C > 1, got shape \(2,\)"),
        ((2, 3, 4), (2, 4), r"`labels` must be of shape \(2, 1, 4\), got shape \(2, 4\)"),
        ((2, 3, 4), (2, 1, 5), r"`labels` must be of shape \(2, 1, 4\)"),
    ],
)
def test_bad_shapes(logits, labels, message):
    with pytest.raises(ValueError, match=message):
        NegativeLearningLoss()(torch.zeros(logits), torch.zeros(labels))


def test_bad_values():
    with pytest.raises(ValueError, match="`sampling` must be 'uniform' or 'rank', got 'best'"):
        NegativeLearningLoss("best")
    with pytest.raises(ValueError, match="`seed` must be a non-negative integer, got -1"):
        NegativeLearningLoss(seed=-1)
    with pytest.raises(ValueError, match=r"`seed` must be a non-negative integer, got 1\.0"):
        NegativeLearningLoss(seed=1.0)
    with pytest.raises(ValueError, match="`labels` must be from 0 to 2, got from 0 to 3"):
        NegativeLearningLoss()(torch.zeros(1, 3, 4), torch.arange(4).view(1, 1, 4))
