"""What is around a network when it is saved, and when it is loaded, makes no difference."""

from __future__ import annotations

import copy

import pytest
import torch
from monai.data import DataLoader
from monai.engines import SupervisedTrainer
from monai.networks.utils import freeze_layers
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from monai_infoaug._processes import unwrapped
from monai_infoaug.handlers import ResumableCheckpoint, load_weights
from monai_infoaug.networks import (
    DenseDescriptor,
    EmbeddingHeads,
    GlobalLocalEmbeddingNet,
    LandmarkHeatmapNet,
    PixelEmbeddingNet,
    Segmenter,
)

ignite = pytest.importorskip("ignite", reason="trainers need ignite")
from ignite.engine import Engine, Events  # noqa: E402
from ignite.handlers import EMAHandler  # noqa: E402

DATA = [{"image": torch.rand(1, generator=torch.Generator().manual_seed(i)), "label": torch.zeros(1)} for i in range(4)]


def compiled(module):
    return torch.compile(module, backend="eager")


def with_a_compiled_part(network):
    network[0] = compiled(network[0])
    return network


WRAPPERS = {
    "plain": lambda network: network,
    "DataParallel": nn.DataParallel,
    "compiled": compiled,
    "compiled in DataParallel": lambda network: nn.DataParallel(compiled(network)),
    "DataParallel compiled": lambda network: compiled(nn.DataParallel(network)),
    "a part compiled": with_a_compiled_part,
}


def small() -> nn.Sequential:
    return nn.Sequential(nn.Linear(1, 2), nn.BatchNorm1d(2), nn.Linear(2, 1))


def train(path, wrap, epochs, network=None):
    torch.manual_seed(0)
    network = wrap(network or small())
    optimizer = torch.optim.Adam(network.parameters(), 0.1)
    loader = DataLoader(DATA, batch_size=2)
    trainer = SupervisedTrainer("cpu", epochs, loader, network, optimizer, nn.functional.mse_loss, decollate=False)
    ResumableCheckpoint(path, {"network": network, "optimizer": optimizer}).attach(trainer)
    trainer.run()
    return network


def values(network):
    return [value.clone() for value in unwrapped(network).state_dict().values()]


def assert_same(one, other):
    torch.testing.assert_close(values(one), values(other), rtol=0, atol=0)


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_saved_without_what_is_around_it(tmp_path, wrap):
    network = train(tmp_path / "c.pt", wrap, 1)
    saved = torch.load(tmp_path / "c.pt", weights_only=True)["network"]
    assert list(saved) == list(small().state_dict())
    for other in WRAPPERS.values():
        assert_same(load_weights(other(small()), tmp_path / "c.pt"), network)


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_what_others_saved_with_it_is_loaded(tmp_path, wrap):
    network = wrap(small())
    torch.save(network.state_dict(), tmp_path / "bare.pt")
    for other in WRAPPERS.values():
        assert_same(load_weights(other(small()), tmp_path / "bare.pt"), network)


@pytest.mark.parametrize("then", WRAPPERS.values(), ids=WRAPPERS)
@pytest.mark.parametrize("first", WRAPPERS.values(), ids=WRAPPERS)
def test_a_training_goes_on_with_another(tmp_path, first, then):
    train(tmp_path / "c.pt", first, 1)
    assert_same(train(tmp_path / "c.pt", then, 3), train(tmp_path / "whole.pt", first, 3))


def test_a_training_whose_file_has_the_names_of_the_wrapper_goes_on(tmp_path):
    train(tmp_path / "c.pt", nn.DataParallel, 1)
    states = torch.load(tmp_path / "c.pt", weights_only=True)
    states["network"] = {f"module.{name}": value for name, value in states["network"].items()}
    torch.save(states, tmp_path / "c.pt")
    assert_same(train(tmp_path / "c.pt", nn.DataParallel, 3), train(tmp_path / "whole.pt", nn.DataParallel, 3))


def test_averaged_models(tmp_path):
    network = small()
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=True)
    for _ in range(2):
        nn.init.normal_(network[0].weight)
        average.update_parameters(network)
    torch.save({"network": network.state_dict(), "ema": average.state_dict()}, tmp_path / "c.pt")
    assert_same(load_weights(small(), tmp_path / "c.pt", key="ema"), average.module)
    other = AveragedModel(small())
    other.n_averaged += 7
    assert_same(load_weights(other, tmp_path / "c.pt").module, network)
    assert other.n_averaged == 7
    assert load_weights(other, tmp_path / "c.pt", key="ema").n_averaged == 2


def test_descriptors(tmp_path):
    network = NETWORKS["PixelEmbeddingNet"]()
    descriptor = NETWORKS["DenseDescriptor"]()
    torch.save({"network": network.state_dict(), "descriptor": descriptor.state_dict()}, tmp_path / "c.pt")
    assert_same(load_weights(network, tmp_path / "c.pt", key="descriptor"), descriptor.network)
    torch.save({"network": NETWORKS["PixelEmbeddingNet"]().state_dict()}, tmp_path / "other.pt")
    other = load_weights(NETWORKS["PixelEmbeddingNet"](), tmp_path / "other.pt")
    assert_same(load_weights(descriptor, tmp_path / "other.pt").network, other)


def test_an_average_of_a_training_goes_on(tmp_path):
    def run(path, epochs):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(1, 2), nn.Linear(2, 1))
        average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.5))
        optimizer = torch.optim.SGD(network.parameters(), 0.1)
        trainer = SupervisedTrainer(
            "cpu", epochs, DataLoader(DATA), network, optimizer, nn.functional.mse_loss, decollate=False
        )
        trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: average.update_parameters(network))
        ResumableCheckpoint(path, {"network": network, "optimizer": optimizer, "ema": average}).attach(trainer)
        trainer.run()
        return average

    run(tmp_path / "c.pt", 1)
    assert_same(run(tmp_path / "c.pt", 3), run(tmp_path / "whole.pt", 3))


def test_a_network_of_which_all_is_in_a_module(tmp_path):
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = nn.Linear(1, 1)

        def forward(self, image):
            return self.module(image)

    network = train(tmp_path / "c.pt", nn.DataParallel, 1, Outer())
    assert list(torch.load(tmp_path / "c.pt", weights_only=True)["network"]) == ["module.weight", "module.bias"]
    assert_same(load_weights(Outer(), tmp_path / "c.pt"), network)


def test_another_network_is_told_in_a_line(tmp_path):
    train(tmp_path / "c.pt", nn.DataParallel, 1)
    with pytest.raises(ValueError, match=r"another `network`: 2 entries differ, such as \['0.bias', '0.weight'\]"):
        train(tmp_path / "c.pt", compiled, 2, nn.Sequential(nn.Identity(), *small()[1:]))
    with pytest.raises(ValueError, match=r"checkpoint of this Linear, got .*: 11 entries differ"):
        load_weights(compiled(nn.Linear(2, 2)), tmp_path / "c.pt")


def test_a_plain_engine(tmp_path):
    def run(path, epochs, ends=None):
        torch.manual_seed(0)
        network = nn.Linear(1, 1)
        optimizer = torch.optim.SGD(network.parameters(), 0.1)

        def update(_, batch):
            optimizer.zero_grad()
            loss = network(batch["image"]).square().mean()
            loss.backward()
            optimizer.step()
            return loss.item()

        engine, losses = Engine(update), []
        engine.add_event_handler(Events.ITERATION_COMPLETED, lambda: losses.append(engine.state.output))
        if ends:
            engine.add_event_handler(Events.EPOCH_COMPLETED(once=ends), engine.terminate)
        ResumableCheckpoint(path, {"network": network, "optimizer": optimizer}).attach(engine)
        engine.run(DataLoader(DATA, batch_size=2), max_epochs=epochs)
        assert (engine.state.epoch, engine.state.iteration) == (ends or epochs, 2 * (ends or epochs))
        return losses

    whole = run(tmp_path / "whole.pt", 4)
    run(tmp_path / "c.pt", 4, ends=1)
    assert run(tmp_path / "c.pt", 4) == whole[2:]
    assert run(tmp_path / "c.pt", 6)[:0] == []
    assert torch.load(tmp_path / "c.pt", weights_only=True)["trainer"] == {"epoch": 6, "iteration": 12}


NETWORKS = {
    "PixelEmbeddingNet": lambda: PixelEmbeddingNet(features=(4, 6), embedding_dim=4, strides=(2, 4)),
    "GlobalLocalEmbeddingNet": lambda: GlobalLocalEmbeddingNet([NETWORKS["PixelEmbeddingNet"]() for _ in "12"], [1, 2]),
    "DenseDescriptor": lambda: DenseDescriptor(NETWORKS["PixelEmbeddingNet"]()),
    "EmbeddingHeads": lambda: EmbeddingHeads(nn.Sequential(nn.Conv2d(1, 4, 1)), "0", 4, spatial_size=(8, 8)),
    "LandmarkHeatmapNet": lambda: LandmarkHeatmapNet(NETWORKS["PixelEmbeddingNet"](), 2),
    "Segmenter": lambda: Segmenter(2, 1, 2, 16, patch_size=8, hidden_size=12, num_layers=1, num_heads=3),
}


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
class TestOurNetworks:
    @pytest.mark.parametrize(
        "wrap",
        [
            nn.Sequential,
            nn.DataParallel,
            AveragedModel,
            compiled,
            lambda network: nn.Sequential(nn.Sequential(network)),
        ],
    )
    def test_a_wrapper_loads_what_it_has_saved(self, network, wrap):
        one, other = wrap(network()), wrap(network())
        for value in other.parameters():
            nn.init.constant_(value, 0.5)
        other.load_state_dict(copy.deepcopy(one.state_dict()))
        torch.testing.assert_close(other.state_dict(), one.state_dict(), rtol=0, atol=0)
        torch.testing.assert_close([*other.parameters()], [*one.parameters()], rtol=0, atol=0)

    def test_an_average_follows(self, network):
        model = network()
        average, engine = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5)), Engine(lambda *_: None)
        handler = EMAHandler(model, momentum=0.5)
        handler.attach(engine)
        average.update_parameters(model)  # a first time copies
        before = [value.clone() for value in model.parameters()]
        for value in model.parameters():
            nn.init.constant_(value, 3.0)
        average.update_parameters(model)
        engine.run([0], max_epochs=1)
        expected = [(value + 3) / 2 for value in before]
        torch.testing.assert_close([*average.module.parameters()], expected)
        torch.testing.assert_close([*handler.ema_model.parameters()], expected)
        assert average.module.state_dict().keys() == handler.ema_model.state_dict().keys() == model.state_dict().keys()

    def test_layers_freeze_by_the_names_of_the_state(self, network):
        model = network()
        name = next(name for name, value in model.state_dict().items() if value.is_floating_point())
        freeze_layers(model, freeze_vars=f"^{name}$")
        assert [value.requires_grad for value in model.parameters()].count(False) == 1
