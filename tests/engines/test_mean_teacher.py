"""A teacher that is the mean of the network's states: what it is, what it is sure of, and going on."""

import copy

import pytest
import torch
from torch import nn

pytest.importorskip("ignite", reason="trainers need the extra train")
from monai.engines import SupervisedTrainer

from monai_infoaug.engines import MeanTeacher, SourceAndTarget
from monai_infoaug.handlers import EpochSetter, ResumableCheckpoint
from monai_infoaug.losses import ConsistencyLoss


def network():
    torch.manual_seed(1)
    return nn.Conv2d(1, 3, 3, padding=1)


@pytest.fixture
def batches():
    generator = torch.Generator().manual_seed(0)
    images = [3 * torch.randn(2, 1, 8, 9, generator=generator) for _ in range(3)]
    tiers = [torch.randint(3, (2, 1, 8, 9), generator=generator) for _ in range(3)]
    return [{"image": image, "changed": image + 5, "tiers": tier} for image, tier in zip(images, tiers, strict=True)]


@pytest.fixture
def labelled():
    torch.manual_seed(3)
    labels = nn.functional.one_hot(torch.randint(3, (3, 2, 8, 9)), 3).movedim(-1, 2).float()
    return [{"image": torch.randn(2, 1, 8, 9), "label": label} for label in labels]


def train(net, teacher, batches, labelled, epochs, *handlers):
    domains = SourceAndTarget(labelled, teacher)
    loss = ConsistencyLoss(lambda logits, label: (logits.softmax(1) - label).square().mean())
    trainer = SupervisedTrainer(
        device="cpu", max_epochs=epochs, train_data_loader=batches, network=net, decollate=False, loss_function=loss,
        optimizer=torch.optim.SGD(net.parameters(), 2.0), prepare_batch=domains, epoch_length=len(batches),
        train_handlers=[teacher, domains, *handlers],
    )  # fmt: skip
    trainer.run()


def test_the_teacher_is_the_moving_average(batches, labelled):
    net, states = network(), []
    expected = copy.deepcopy(net.state_dict())
    net.register_forward_pre_hook(lambda module, _: states.append(copy.deepcopy(module.state_dict())))
    teacher = MeanTeacher(net, decay=0.9)
    teacher.teacher._forward_pre_hooks.clear()
    train(net, teacher, batches, labelled, 2)
    for state in [*states[1:], net.state_dict()]:  # as each iteration leaves it
        for name, value in expected.items():
            value.copy_(0.9 * value + 0.1 * state[name])
    assert len(states) == 6
    for name, value in teacher.state_dict().items():
        torch.testing.assert_close(value, expected[name])
        assert not torch.equal(value, net.state_dict()[name])
    assert not any(parameter.requires_grad for parameter in teacher.teacher.parameters())


@pytest.mark.parametrize("overlapping", [False, True])
def test_only_what_the_teacher_is_sure_of_counts(batches, overlapping):
    net = network()
    changed, targets = MeanTeacher(net, threshold=0.8, overlapping=overlapping)(batches[0], torch.device("cpu"))
    assert torch.equal(changed, batches[0]["changed"])
    logits = net(batches[0]["image"]).detach()
    for b in range(2):
        for y in range(8):
            for x in range(9):
                found, weight, at = (v[b, :, y, x] for v in (targets["found"], targets["weight"], logits))
                if overlapping:
                    p = at.sigmoid()
                    assert found.tolist() == (p > 0.5).float().tolist()
                    assert weight.tolist() == ((p >= 0.8) | (p <= 0.2)).float().tolist()
                else:
                    p = at.softmax(0)
                    assert found.tolist() == [float(k == p.argmax()) for k in range(3)]
                    assert weight.tolist() == [float(p.max() >= 0.8)]
    assert 0.05 < targets["weight"].mean() < 0.95


def test_tiers_have_their_shares(batches):
    shares = (0.1, 0.3, 0.6)
    _, targets = MeanTeacher(network(), threshold=0.0, shares=shares)(batches[0], torch.device("cpu"))
    weight, tiers = targets["weight"], batches[0]["tiers"]
    for tier, share in enumerate(shares):
        assert weight[tiers == tier].sum() / weight.numel() == pytest.approx(share, rel=1e-5)
        assert len(weight[tiers == tier].unique()) == 1
    without = batches[0] | {"tiers": tiers.clamp_min(1)}  # the others share what the low tier would have
    _, targets = MeanTeacher(network(), threshold=0.0, shares=shares)(without, torch.device("cpu"))
    high = targets["weight"][without["tiers"] == 2]
    assert high.sum() / weight.numel() == pytest.approx(2 / 3, rel=1e-5)


def test_a_stopped_training_goes_on_with_its_teacher(tmp_path, batches, labelled):
    def run(epochs, path):
        net = network()
        teacher = MeanTeacher(net, decay=0.9, threshold=0.5)
        states = {"network": net, "teacher": teacher}
        train(net, teacher, batches, labelled, epochs, EpochSetter([]), ResumableCheckpoint(tmp_path / path, states))
        return {**net.state_dict(), **{f"teacher {name}": value for name, value in teacher.state_dict().items()}}

    whole = run(3, "whole.pt")
    run(1, "parts.pt")
    for name, value in run(3, "parts.pt").items():
        torch.testing.assert_close(value, whole[name])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"decay": 1}, r"`decay` must be from 0 to 1, 1 excluded, got 1"),
        ({"decay": "0.9"}, r"`decay` must be"),
        ({"threshold": 1.5}, r"`threshold` must be a probability, got 1.5"),
        ({"shares": (0.5, 0.5)}, r"`shares` must be"),
        ({"overlapping": "no"}, r"`overlapping` must be true or false"),
        ({"amp": "no"}, r"`amp` must be true or false"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        MeanTeacher(network(), **settings)


def test_what_a_batch_lacks_is_named(batches):
    del batches[0]["changed"]
    with pytest.raises(KeyError, match="lacks `changed`"):
        MeanTeacher(network())(batches[0], torch.device("cpu"))
