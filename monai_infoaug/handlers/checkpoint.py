"""A training that survives being killed, and weights that are checked before they are used."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from monai.utils import convert_to_numpy, optional_import
from torch import nn

from monai_infoaug._require import is_count, refusal

Events, _ = optional_import("ignite.engine", name="Events")

__all__ = ["ResumableCheckpoint", "load_weights", "read_settings"]

N = TypeVar("N", bound=nn.Module)


def read_checkpoint(path: str | os.PathLike, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint, weights-only: nothing that it says is executed.

    Args:
        path: file of the checkpoint.
        map_location: device that its tensors go to.

    Returns:
        States by name. :func:`read_settings` and :func:`load_weights` take it, so that a file is read once for both.

    Raises:
        ValueError: naming the file, if it is missing, unreadable or no dictionary.
    """
    try:
        checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:
        # PyTorch's advice on a file that holds more than weights is to load it nevertheless
        foreign = isinstance(error, pickle.UnpicklingError)
        got = "something else" if foreign else str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(f"`{path}` must be a readable checkpoint of weights, got {got}.") from error
    if not isinstance(checkpoint, dict):
        raise refusal(str(path), type(checkpoint).__name__, "a dictionary of states")
    return checkpoint


def is_plain(value: Any) -> bool:
    """Whether a setting is a number, a string that MONAI's configurations do not evaluate, None, or a list of these."""
    if isinstance(value, (list, tuple)):
        return all(map(is_plain, value))
    if isinstance(value, str):
        return not value.startswith(("$", "@", "%"))
    return value is None or isinstance(value, (bool, int, float))


def read_settings(path: str | os.PathLike, checkpoint: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Read the settings that ``ResumableCheckpoint`` has kept.

    Args:
        path: file of the checkpoint.
        checkpoint: what :func:`read_checkpoint` has read from the file; None: it is read.

    Returns:
        Settings by name, none if the handler was given none.

    Raises:
        ValueError: naming the file, if it is unreadable, or a setting is no plain value: what MONAI's configurations
            would evaluate is refused.
    """
    settings = (read_checkpoint(path) if checkpoint is None else checkpoint).get("settings", {})
    if not isinstance(settings, dict):
        raise refusal(f"settings of {path}", type(settings).__name__, "a dictionary")
    require_plain(settings, f"settings of {path}")
    return dict(settings)


def require_plain(settings: Mapping[str, Any], argument: str = "settings") -> None:
    """Refuse settings that are not plain values by name, see :func:`is_plain`.

    Raises:
        ValueError: naming ``argument`` and the setting.
    """
    accepted = "names with numbers, strings that do not start with $, @ or %, None, or lists of these"
    for name, value in settings.items():
        if not isinstance(name, str) or not is_plain(value):
            raise refusal(argument, f"{name}={value!r}", accepted)


def load_weights(
    network: N, path: str | os.PathLike, key: str = "network", checkpoint: Mapping[str, Any] | None = None
) -> N:
    """Load a network's weights from a checkpoint or a bare state dictionary.

    Args:
        network: gets the weights, on the device it is on.
        path: checkpoint of ``ResumableCheckpoint`` or of MONAI's ``CheckpointSaver``, or a saved state dictionary.
        key: name of the network's state in a checkpoint.
        checkpoint: what :func:`read_checkpoint` has read from the file; None: it is read.

    Returns:
        ``network``.

    Raises:
        ValueError: naming the file, if it is unreadable or of another network; ``network`` is then unchanged.
    """
    if checkpoint is None:
        checkpoint = read_checkpoint(path)
    own = network.state_dict()
    state = checkpoint[key] if isinstance(checkpoint.get(key), dict) else checkpoint
    odd = sorted(set(state) ^ set(own), key=str) or [k for k in own if np.shape(state[k]) != tuple(own[k].shape)]
    if odd:
        raise refusal(
            str(path),
            f"a checkpoint of another one: {len(odd)} entries differ, such as {odd[:3]}",
            f"a checkpoint of this {type(network).__name__}",
        )
    network.load_state_dict(state)
    return network


class ResumableCheckpoint:
    """Handler that saves the whole state of a training and, when the training starts again, goes on from there.

    The file is replaced in one step, so that a kill at any moment leaves a complete checkpoint: at most ``every``
    epochs are lost. Of several processes the first one writes and all read. Attach it after all handlers that change
    what it saves, such as that of the learning rate.

    Args:
        path: file of the checkpoint; its folder is made.
        save_dict: objects with ``state_dict`` and ``load_state_dict``, e.g. ``{"network": ..., "optimizer": ...,
            "lr_scheduler": ...}``. The state of the engine itself (epoch, iteration, best metric) is always kept.
        every: number of epochs between two checkpoints.
        resume: whether to go on from an existing file; otherwise it will be overwritten.
        settings: plain values by name (numbers, strings, None, lists of these) that whoever uses the checkpoint needs
            to make the network and its input again, see :func:`read_settings`. Not restored when the training goes on.

    Raises:
        ValueError: for names or settings that cannot be saved, or ``every`` that is no whole number of at least 1; at
            the start of the run, naming the file, if it is unreadable or of another training.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        save_dict: Mapping[str, Any],
        every: int = 1,
        resume: bool = True,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        if len(save_dict) == 0 or {"trainer", "settings"} & set(save_dict):
            raise refusal(
                "save_dict", list(save_dict), "objects by name, the engine (`trainer`) and `settings` excepted"
            )
        if not is_count(every, 1):
            raise refusal("every", every, "a whole number of at least 1")
        self.path, self.save_dict, self.every, self.resume = Path(path), dict(save_dict), every, resume
        self.settings = dict(settings or {})
        require_plain(self.settings)

    def attach(self, engine: Any) -> None:
        """Attach to a trainer."""

        def is_due(engine: Any, epoch: int) -> bool:
            return epoch % self.every == 0 or epoch == engine.state.max_epochs

        engine.add_event_handler(Events.STARTED, self.load)
        # not when the run is over: it may have been stopped within an epoch, for a NaN for instance
        engine.add_event_handler(Events.EPOCH_COMPLETED(event_filter=is_due), self.save)

    def save(self, engine: Any) -> None:
        """Write the checkpoint."""
        if engine.state.rank > 0:
            return
        states = {name: thing.state_dict() for name, thing in self.save_dict.items()}
        progress = ("epoch", "iteration", "best_metric", "best_metric_epoch")
        states["settings"] = self.settings
        states["trainer"] = {name: convert_to_numpy(getattr(engine.state, name)).item() for name in progress}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_name(self.path.name + ".partial")
        with partial.open("wb") as file:
            torch.save(states, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, self.path)

    def load(self, engine: Any) -> None:
        """Restore the state from the checkpoint, where there is one."""
        if not (self.resume and self.path.exists()):
            return
        states = read_checkpoint(self.path, engine.state.device)
        names = {*self.save_dict, "trainer"}
        if set(states) - {"settings"} != names:
            raise refusal(str(self.path), f"one of {list(states)[:5]}", f"a checkpoint of {sorted(names)}")
        for name, thing in self.save_dict.items():
            try:
                thing.load_state_dict(states[name])
            except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(
                    f"`{self.path}` must be a checkpoint of this training, got another `{name}`: {error}"
                ) from error
        for name, value in states["trainer"].items():
            setattr(engine.state, name, value)
        if engine.state.epoch_length:  # may be another one, with another batch size or number of processes
            engine.state.iteration = engine.state.epoch * engine.state.epoch_length
        engine.logger.info(f"Resumed from {self.path} after epoch {engine.state.epoch}.")
