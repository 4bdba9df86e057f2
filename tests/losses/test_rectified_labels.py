"""Both parts of the loss, each by itself and together."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from monai_infoaug.losses import NegativeLearningLoss, RectifiedLabelLoss


@pytest.fixture
def given():
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(2, 3, 6, 5, generator=generator)
    found = logits.argmax(1, keepdim=True)
    reliable = torch.where(torch.rand(found.shape, generator=generator) < 0.3, found, 255)
    return logits.requires_grad_(), {"found": found, "reliable": reliable}


def test_is_the_sum_of_its_parts(given):
    logits, targets = given
    negative = NegativeLearningLoss("rank", seed=4)(logits, targets["found"])
    chosen = targets["reliable"][:, 0] != 255
    positive = cross_entropy(logits.movedim(1, -1)[chosen], targets["found"][:, 0][chosen])
    loss = RectifiedLabelLoss(NegativeLearningLoss("rank", seed=4), weight=0.7, ignore_index=255)(logits, targets)
    torch.testing.assert_close(loss, negative + 0.7 * positive)


def test_without_reliable_pixels_negative_learning_is_left(given):
    logits, targets = given
    nothing = torch.full_like(targets["found"], -1)
    loss = RectifiedLabelLoss()(logits, targets | {"reliable": nothing})
    torch.testing.assert_close(loss, NegativeLearningLoss()(logits, targets["found"]))
    loss.backward()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("weight", [-1, None, float("nan")])
def test_bad_weights(weight):
    with pytest.raises(ValueError, match=f"`weight` must be at least 0, got {weight}"):
        RectifiedLabelLoss(weight=weight)
