"""Rounds on the labels of an earlier state of the network: what is learnt from, when it changes, and going on."""

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("ignite", reason="trainers need the extra train")
from ignite.engine import Events
from monai.engines import SupervisedTrainer

from monai_infoaug.engines import SelfTrainingLabels
from monai_infoaug.handlers import EpochSetter, ResumableCheckpoint
from monai_infoaug.losses import RectifiedLabelLoss
from monai_infoaug.samplers import DistributionAlignment, ReliablePixels


@pytest.fixture
def batches():
    generator = torch.Generator().manual_seed(0)
    images = [torch.randn(2, 1, 8, 9, generator=generator) for _ in range(3)]
    tiers = [torch.randint(3, (2, 1, 8, 9), generator=generator) for _ in range(3)]
    return [{"image": image, "changed": image + 5, "tiers": tier} for image, tier in zip(images, tiers, strict=True)]


class Recorder:
    """A loss that keeps what it was given, and moves the weights."""

    def __init__(self):
        self.found, self.reliable, self.loss = [], [], RectifiedLabelLoss()

    def __call__(self, logits, targets):
        self.found.append(targets["found"].clone()), self.reliable.append(targets["reliable"].clone())
        return self.loss(logits, targets)


def network():
    torch.manual_seed(1)
    return nn.Conv2d(1, 3, 3, padding=1)


def train(batches, net, loss, epochs, **settings):
    labels = SelfTrainingLabels(net, batches, ReliablePixels(0.3, 0.0), **{"epochs": 2, **settings})
    trainer = SupervisedTrainer(
        device="cpu", max_epochs=epochs, train_data_loader=batches, network=net, decollate=False, loss_function=loss,
        optimizer=torch.optim.SGD(net.parameters(), 2.0), prepare_batch=labels, train_handlers=[labels],
        epoch_length=len(batches),
    )  # fmt: skip
    return labels, trainer


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("tiered", [False, True])
def test_labels_are_of_the_start_of_the_round(batches, tiered, aligned):
    net, loss, starts = network(), Recorder(), []
    key, alignment = "tiers" if tiered else None, DistributionAlignment() if aligned else None
    _, trainer = train(batches, net, loss, 4, tiers_key=key, alignment=alignment)

    @trainer.on(Events.EPOCH_STARTED)
    def keep(engine):
        starts.append({name: value.clone() for name, value in net.state_dict().items()})

    trainer.run()
    other = network()
    for epoch in range(4):
        other.load_state_dict(starts[epoch // 2 * 2])
        probabilities = [other(batch["image"]).detach().softmax(1) for batch in batches]
        if aligned:
            alignment = DistributionAlignment()
            for each in probabilities:
                alignment.update(each)
            probabilities = [alignment(each) for each in probabilities]
        given = [(p, batch["tiers"])[: 1 + tiered] for p, batch in zip(probabilities, batches, strict=True)]
        reliable = ReliablePixels(0.3, 0.0)
        for each in given:
            reliable.update(*each)
        for index, each in enumerate(given):
            assert torch.equal(loss.found[3 * epoch + index], each[0].argmax(1, keepdim=True))
            assert torch.equal(loss.reliable[3 * epoch + index], reliable(*each))
    assert not torch.equal(torch.cat(loss.found[:3]), torch.cat(loss.found[6:9]))  # the second round has others


def resized(array, size):
    """Linear interpolation along each axis in turn, cells of equal width over the same extent."""
    for axis, length in enumerate(size, array.ndim - len(size)):
        old = array.shape[axis]
        places = np.clip((np.arange(length) + 0.5) * old / length - 0.5, 0, old - 1)
        array = np.apply_along_axis(lambda line, p=places, n=old: np.interp(p, np.arange(n), line), axis, array)
    return array


@pytest.mark.parametrize("size", [(10, 8), (6, 8, 10)])
def test_labels_of_several_scales_are_those_of_the_mean_logits(size):
    torch.manual_seed(0)
    net = (nn.Conv2d if len(size) == 2 else nn.Conv3d)(1, 3, 3, padding=1).double()
    image = torch.randn(2, 1, *size, dtype=torch.float64)
    batch = {"image": image, "changed": image}
    labels = SelfTrainingLabels(net, [batch], ReliablePixels(1.0, 0.0), 1, scales=(1.0, 0.7, 1.25))
    labels.reliable.update(torch.rand(1, 3, *size).softmax(1))
    total = net(image).log_softmax(1).detach().numpy()
    for scale in (0.7, 1.25):
        short = [round(scale * length) for length in size]
        rests = [(max(0, old - new) // 2, -(-max(0, old - new) // 2)) for old, new in zip(size, short, strict=True)]
        padded = np.pad(resized(image.numpy(), short), [(0, 0), (0, 0), *rests], mode="edge")
        found = net(torch.tensor(padded)).log_softmax(1).detach().numpy()
        inside = tuple(slice(before, before + new) for (before, _), new in zip(rests, short, strict=True))
        total = total + resized(found[(..., *inside)], size)
    found = labels(batch, "cpu")[1]["found"]
    assert np.array_equal(found[:, 0], total.argmax(1))
    assert not torch.equal(found, net(image).argmax(1, keepdim=True))


def test_what_is_known_stands_above_what_is_found():
    """Clicked pixels have their class, and classes that an image does not show are not found."""
    net = network()
    batch = {"image": torch.randn(2, 1, 8, 9), "known": torch.zeros(2, 1, 8, 9), "shown": torch.ones(2, 3).bool()}
    batch["changed"], batch["known"][1, 0, 2, 3:5], batch["shown"][0, 1] = batch["image"], torch.tensor([1, 3]), False
    labels = SelfTrainingLabels(net, [batch], ReliablePixels(0.5, 0.0), 1, known_key="known", shown_key="shown")
    logits = net(batch["image"]).detach()
    wanted = logits.argmax(1)
    wanted[0] = torch.where(logits[0, 2] > logits[0, 0], 2, 0)
    wanted[1, 2, 3], wanted[1, 2, 4] = 0, 2
    assert (logits[0].argmax(0) == 1).any()
    labels.reliable.update(*labels._segment(batch, "cpu")[:1])
    targets = labels(batch, "cpu")[1]
    assert torch.equal(targets["found"][:, 0], wanted)
    assert targets["reliable"][1, 0, 2, 3:5].tolist() == [0, 2]
    assert (targets["reliable"][0] != 1).all()
    chosen = targets["reliable"] >= 0
    assert chosen.any()
    assert torch.equal(targets["reliable"][chosen], targets["found"][chosen])


def test_the_network_sees_the_changed_image_and_the_copy_is_not_trained(batches):
    seen, net = [], network()
    net.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    labels, trainer = train(batches, net, Recorder(), 1)
    labels.copy._forward_pre_hooks.clear()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    trainer.run()
    assert all(torch.equal(image, batch["changed"]) for image, batch in zip(seen, batches, strict=True))
    torch.testing.assert_close(dict(labels.state_dict()), before, atol=0, rtol=0)
    assert not torch.equal(net.weight, before["weight"])


def test_a_round_that_was_stopped_goes_on_with_its_own_copy(batches, tmp_path):
    def run(epochs, folder):
        net, loss = network(), Recorder()
        labels, trainer = train(batches, net, loss, epochs)
        states = {"network": net, "optimizer": trainer.optimizer, "labels": labels}
        EpochSetter([loss.loss]).attach(trainer)
        ResumableCheckpoint(tmp_path / folder, states, every=1).attach(trainer)
        trainer.run()
        return net, loss

    whole, of_whole = run(4, "whole.pt")
    run(3, "parts.pt")
    parts, of_parts = run(4, "parts.pt")
    assert len(of_parts.found) == 3
    assert torch.equal(of_parts.reliable[-1], of_whole.reliable[-1])
    torch.testing.assert_close(parts.state_dict(), whole.state_dict(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda net: torch.compile(net, backend="eager")])
def test_the_copy_is_of_what_is_in_a_wrapper(batches, wrap):
    net = wrap(network())
    labels, trainer = train(batches, net, Recorder(), 3)
    trainer.run()
    assert labels.state_dict().keys() == network().state_dict().keys()
    plain = network()
    expected, trainer = train(batches, plain, Recorder(), 3)
    trainer.run()
    torch.testing.assert_close(dict(labels.state_dict()), dict(expected.state_dict()), atol=1e-6, rtol=0)


def test_bad_input(batches):
    for epochs in (0, 1.5, "2"):
        with pytest.raises(ValueError, match=f"`epochs` must be a whole number of at least 1, got {epochs}"):
            SelfTrainingLabels(network(), batches, ReliablePixels(), epochs)
    for scales in ((), (1.0, 0.0), ("1",), 1.0):
        with pytest.raises(ValueError, match="`scales` must be numbers above 0, got"):
            SelfTrainingLabels(network(), batches, ReliablePixels(), 1, scales=scales)
    labels, _ = train(batches, network(), Recorder(), 1, changed_key="other")
    labels.reliable.update(torch.rand(1, 3, 4, 4).softmax(1))
    with pytest.raises(KeyError, match="The batch lacks `other`; it has"):
        labels(batches[0], "cpu")
