"""The maximum-squares loss against loops, and its closed forms."""

import pytest
import torch

from monai_infoaug.losses import MaximumSquaresLoss


def by_loops(logits, alpha):
    """Over images and pixels; alpha None: without weights."""
    total = 0.0
    for image in logits.flatten(2):
        found = image.argmax(0)
        for pixel, own in zip(image.T, found, strict=True):
            weight = (
                1 if alpha is None else 1 / ((found == own).sum() ** alpha * len(found) ** (1 - alpha)) * len(found)
            )
            total += weight * pixel.softmax(0).square().sum()
    return -total / (2 * logits.numel())


@pytest.mark.parametrize("alpha", [None, 0.0, 0.2, 1.0])
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 2, 3, 2, 4)])
def test_equals_loops(shape, alpha):
    logits = 3 * torch.randn(shape, dtype=torch.float64)
    loss = MaximumSquaresLoss() if alpha is None else MaximumSquaresLoss(image_wise=True, alpha=alpha)
    torch.testing.assert_close(loss(logits), by_loops(logits, alpha))


@pytest.mark.parametrize("classes", [2, 5])
def test_bounds(classes):
    sure = torch.nn.functional.one_hot(torch.randint(classes, (2, 6, 6)), classes).movedim(-1, 1) * 200.0
    assert MaximumSquaresLoss()(sure).item() == pytest.approx(-1 / (2 * classes))
    assert MaximumSquaresLoss()(0 * sure).item() == pytest.approx(-1 / (2 * classes**2))


def test_rare_classes_weigh_more():
    logits = torch.zeros(1, 2, 10, 10)
    logits[:, 0] = 1
    logits[:, :, 0, 0] = torch.tensor([0.0, 1.0])
    logits.requires_grad_()
    MaximumSquaresLoss(image_wise=True, alpha=0.2)(logits).backward()
    ratio = logits.grad[0, 1, 0, 0] / logits.grad[0, 0, 5, 5]
    assert ratio.item() == pytest.approx(99**0.2, rel=1e-4)


@pytest.mark.parametrize("image_wise", [False, True])
def test_gradients(image_wise):
    logits = torch.randn(2, 3, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(MaximumSquaresLoss(image_wise), logits)


def test_half_precision_is_computed_in_single():
    logits = (20 * torch.randn(2, 3, 8, 8)).half()
    with torch.autocast("cpu", torch.bfloat16):
        loss = MaximumSquaresLoss(image_wise=True)(logits)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, MaximumSquaresLoss(image_wise=True)(logits.float()))


def test_bad_input():
    with pytest.raises(ValueError, match=r"`alpha` must be from 0 to 1, got 1\.2"):
        MaximumSquaresLoss(alpha=1.2)
    with pytest.raises(ValueError, match=r"`alpha` must be from 0 to 1, got 0\.2"):
        MaximumSquaresLoss(alpha="0.2")
    for shape in ((2, 3), (2, 1, 4, 4)):
        with pytest.raises(ValueError, match=r"`logits` must be of shape \(B, C, \*S\), C > 1, got shape \(2, "):
            MaximumSquaresLoss()(torch.zeros(shape))
    with pytest.raises(ValueError, match=r"`logits` must be not empty, got shape \(0, 3, 4\)"):
        MaximumSquaresLoss()(torch.zeros(0, 3, 4))
