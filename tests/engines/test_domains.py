"""Batches of two domains: order, targets, a new epoch, and what is missing."""

import pytest
import torch
from torch import nn

pytest.importorskip("ignite", reason="trainers need the extra train")
from monai.engines import SupervisedTrainer

from monai_infoaug.engines import SourceAndTarget


def batch(start, *keys):
    return {key: torch.full((2, 1, 4, 4), start + i / 10) for i, key in enumerate(keys)}


SOURCE = [batch(n, "image", "label", "tiers") for n in (1, 2)]
TARGET = [batch(n, "image", "tiers") for n in (10, 20)]


def prepare(batch, device, non_blocking=False, **kwargs):
    return batch["image"] + 100, {"found": batch["image"] + 200}


def train(domains, epochs=1):
    seen, net = [], nn.Conv2d(1, 1, 1)
    net.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0][:, 0, 0, 0].tolist()))

    def loss(logits, targets):
        seen.append({key: value[:, 0, 0, 0].tolist() for key, value in targets.items()})
        return logits.mean()

    SupervisedTrainer(
        device="cpu", max_epochs=epochs, train_data_loader=TARGET, network=net, decollate=False, loss_function=loss,
        optimizer=torch.optim.SGD(net.parameters(), 0.1), prepare_batch=domains, train_handlers=[domains],
        epoch_length=len(TARGET),
    ).run()  # fmt: skip
    return seen


@pytest.mark.parametrize("tiers_key", [None, "tiers"])
def test_both_domains_are_learnt_from_side_by_side(tiers_key):
    seen = train(SourceAndTarget(SOURCE, prepare, tiers_key=tiers_key), epochs=2)
    assert len(seen) == 8
    assert seen[:4] == seen[4:]
    for number, (images, targets) in enumerate(zip(seen[:4:2], seen[1:4:2], strict=True), 1):
        assert images == [number] * 2 + [100 + 10 * number] * 2
        expected = {"found": [200 + 10 * number] * 2, "label": [number + 0.1] * 2}
        expected |= {} if tiers_key is None else {"tiers": [number + 0.2] * 2 + [10 * number + 0.1] * 2}
        assert {key: pytest.approx(value) for key, value in targets.items()} == expected


def test_images_take_over_the_levels_of_the_other_domain():
    generator = torch.Generator().manual_seed(0)
    source, target = (torch.rand(n, 2, 9, 8, generator=generator) * 0.2 + 0.1 for n in (3, 2))
    target[:, 1] = 0.4 + 0.5 * target[:, 1]
    source[:, :, :2] = 0  # padding
    loader = [{"image": source, "label": source[:, :1]}]
    domains = SourceAndTarget(loader, lambda *_, **__: (target, {}), match_levels=True)
    domains.begin()
    images, _ = domains({}, torch.device("cpu"))
    assert torch.equal(images[3:], target)
    assert not images[:3, :, :2].any()
    for i, channel in ((i, c) for i in range(3) for c in range(2)):
        got, wanted, before = images[i, channel, 2:], target[i % 2, channel], source[i, channel, 2:]
        torch.testing.assert_close(got.mean(), wanted.mean())
        torch.testing.assert_close(got.std(correction=0), wanted.std(correction=0))
        assert torch.equal(got.flatten().argsort(), before.flatten().argsort())


def test_a_constant_image_stays_finite():
    same = torch.full((1, 1, 4, 4), 0.5)
    domains = SourceAndTarget([{"image": same, "label": same}], lambda *_, **__: (same / 2, {}), match_levels=True)
    domains.begin()
    torch.testing.assert_close(domains({}, torch.device("cpu"))[0], same.expand(2, 1, 4, 4) / 2)


def test_bad_input():
    with pytest.raises(RuntimeError, match="`loader` must have as many batches an epoch as that of the trainer"):
        train(SourceAndTarget(SOURCE[:1], prepare))
    with pytest.raises(KeyError, match="The batch lacks `mask`; it has"):
        train(SourceAndTarget(SOURCE, prepare, label_key="mask"))
