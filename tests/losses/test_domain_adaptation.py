"""Labels of one domain, own segmentations in the other, contrast of patches in both: what the sum is of."""

import pytest
import torch
from monai.losses import DiceCELoss

from monai_infoaug.losses import DomainAdaptationLoss, PatchContrastLoss, RectifiedLabelLoss
from monai_infoaug.samplers import DrawnPixels


@pytest.fixture
def given():
    generator = torch.Generator().manual_seed(0)
    label, found = (torch.randint(3, (n, 1, 4, 4), generator=generator) for n in (2, 3))
    label, found = (x.repeat_interleave(4, 2).repeat_interleave(4, 3) for x in (label, found))
    logits, embeddings = (torch.randn(5, n, 16, 16, generator=generator) for n in (3, 6))
    reliable = torch.where(torch.rand(found.shape, generator=generator) < 0.2, found, -1)
    return (logits, [embeddings]), {"label": label, "found": found, "reliable": reliable}


def parts(seed=0):
    sampler = DrawnPixels(6, balanced=True, seed=seed)
    return DiceCELoss(to_onehot_y=True, softmax=True), RectifiedLabelLoss(), PatchContrastLoss(3, 4, 1, sampler=sampler)


@pytest.mark.parametrize("weights", [(1.0, 0.1), (0.5, 0.0), (0.0, 2.0), (0.0, 0.0)])
def test_each_part_gets_its_images_and_its_weight(given, weights):
    (logits, (embeddings,)), targets = given
    loss, (supervised, own, contrast) = DomainAdaptationLoss(*parts(), *weights), parts()
    expected = supervised(logits[:2], targets["label"]) + weights[0] * own(logits[2:], targets)
    expected = expected + weights[1] * contrast(embeddings, torch.cat([targets["label"], targets["found"]]))
    torch.testing.assert_close(loss(*given), expected)
    loss.set_epoch(3), loss(*given)
    loss.set_epoch(0)  # draws as in the beginning
    torch.testing.assert_close(loss(*given), expected)


def test_tiers_are_handed_on(given):
    sampler = DrawnPixels(6, shares=[0, 0.5, 0.5])
    loss = DomainAdaptationLoss(*parts()[:2], PatchContrastLoss(3, 4, 1, sampler=sampler))
    with pytest.raises(ValueError, match="`tiers` must be given"):
        loss(*given)
    assert loss(given[0], given[1] | {"tiers": torch.ones(5, 1, 16, 16)}) > 0


def test_bad_input(given):
    with pytest.raises(ValueError, match=r"`own_weight and contrast_weight` must be at least 0, got \(-1, 1\)"):
        DomainAdaptationLoss(*parts(), -1, 1)
    with pytest.raises(ValueError, match="`own_weight and contrast_weight` must be at least 0"):
        DomainAdaptationLoss(*parts(), contrast_weight=None)
    (logits, embeddings), targets = given
    with pytest.raises(ValueError, match="`output` must be of 5, as the targets, got 4 images"):
        DomainAdaptationLoss(*parts())((logits[:4], embeddings), targets)
