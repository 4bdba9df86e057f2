"""Labels of some images and a teacher's of others, against loops over pixels."""

import math

import pytest
import torch
from monai.losses import DiceLoss

from monai_infoaug.losses import ConsistencyLoss


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("overlapping", [False, True])
def test_is_the_supervised_loss_and_the_weighted_cross_entropy(overlapping, kind):
    torch.manual_seed(0)
    logits = (2 * torch.randn(5, 3, 4, 4)).to(kind).float()
    label, found = (torch.nn.functional.one_hot(torch.randint(3, (n, 4, 4)), 3).movedim(-1, 1) for n in (2, 3))
    if overlapping:
        found = torch.randint(2, (3, 3, 4, 4))
    weight = torch.rand(3, 3 if overlapping else 1, 4, 4)
    supervised = DiceLoss(sigmoid=True)
    loss = ConsistencyLoss(supervised, weight=0.7, overlapping=overlapping)
    given = loss(logits.to(kind), {"label": label.float(), "found": found.float(), "weight": weight})
    values = []
    for n in range(3):
        for y in range(4):
            for x in range(4):
                at = logits[2 + n, :, y, x].double().tolist()
                if overlapping:
                    for k, value in enumerate(at):
                        p = 1 / (1 + math.exp(-value))
                        right = p if found[n, k, y, x] else 1 - p
                        values.append(-weight[n, k, y, x].item() * math.log(right))
                else:
                    total = sum(math.exp(value) for value in at)
                    right = at[found[n, :, y, x].argmax()]
                    values.append(-weight[n, 0, y, x].item() * (right - math.log(total)))
    expected = supervised(logits[:2].to(kind), label.float()).item() + 0.7 * sum(values) / len(values)
    assert given.item() == pytest.approx(expected, rel=1e-5)


def test_without_weight_the_others_have_no_gradient():
    logits = torch.randn(3, 2, 4, 4, requires_grad=True)
    targets = {"label": torch.ones(1, 2, 4, 4), "found": torch.ones(2, 2, 4, 4), "weight": torch.zeros(2, 1, 4, 4)}
    ConsistencyLoss(DiceLoss(sigmoid=True))(logits, targets).backward()
    assert logits.grad[0].abs().sum() > 0
    assert not logits.grad[1:].any()


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="`weight` must be at least 0, got -1"):
        ConsistencyLoss(DiceLoss(), weight=-1)
    with pytest.raises(ValueError, match="`overlapping` must be true or false"):
        ConsistencyLoss(DiceLoss(), overlapping="no")
    targets = {"label": torch.ones(1, 2, 4, 4), "found": torch.ones(1, 2, 4, 4), "weight": torch.ones(1, 1, 4, 4)}
    with pytest.raises(ValueError, match="`logits` must be of 2, as the targets, got 3 images"):
        ConsistencyLoss(DiceLoss())(torch.zeros(3, 2, 4, 4), targets)
