"""A training that survives being killed, and weights that are checked before they are used."""

from __future__ import annotations

import math
import os
import pickle
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import numpy as np
from monai.utils import convert_to_numpy, optional_import
from torch import nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from monai_infoaug._console import say
from monai_infoaug._files import save_whole
from monai_infoaug._processes import rank, unwrapped
from monai_infoaug._require import is_count, refusal, require_truth, to_path
from monai_infoaug._versions import read_weights, without_functions

Events, _ = optional_import("ignite.engine", name="Events")

__all__ = ["ResumableCheckpoint", "load_weights", "read_settings"]

N = TypeVar("N", bound=nn.Module)

PROGRESS = ("epoch", "iteration", "best_metric", "best_metric_epoch")  # of an engine, where it has them
WRAPPERS = ("module.", "network.")  # where DataParallel and its like, and DenseDescriptor, have what is in them
# attributes of PyTorch's and MONAI's schedules of the learning rate
LENGTHS = ("total_steps", "_schedule_phases", "T_max", "total_iters", "t_total", "milestones", "_milestones")


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
        checkpoint = read_weights(path, map_location)
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
        checkpoint: what ``read_checkpoint`` has read from the file; None: it is read.

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

    DataParallel, DistributedDataParallel, ``torch.compile``, ``AveragedModel`` and ``DenseDescriptor`` may be around
    the network, and may have been around the one that was saved.

    Args:
        network: gets the weights, on the device it is on.
        path: checkpoint of ``ResumableCheckpoint`` or of MONAI's ``CheckpointSaver``, or a saved state dictionary.
        key: name of the network's state in a checkpoint.
        checkpoint: what ``read_checkpoint`` has read from the file; None: it is read.

    Returns:
        ``network``.

    Raises:
        ValueError: naming the file, if it is unreadable or of another network; ``network`` is then unchanged.
    """
    if checkpoint is None:
        checkpoint = read_checkpoint(path)
    state = checkpoint[key] if isinstance(checkpoint.get(key), dict) else checkpoint
    try:
        fitted = _fitted(network, state)
    except ValueError as error:
        accepted = f"a checkpoint of this {type(unwrapped(network)).__name__}"
        raise refusal(str(path), f"a checkpoint of another one: {error}", accepted) from None
    network.load_state_dict(fitted)
    return network


def _fitted(network: nn.Module, state: Mapping[str, Any]) -> Mapping[str, Any]:
    """A state with the network's own names, whatever was around the one that was saved.

    Raises:
        ValueError: for the state of another network.
    """
    own = network.state_dict()
    theirs, ours = _plain_names(state), _plain_names(own)
    odd = sorted(theirs.keys() ^ ours.keys())
    odd = odd or [name for name in ours if np.shape(state[theirs[name]]) != np.shape(own[ours[name]])]
    if odd:
        raise ValueError(f"{len(odd)} entries differ, such as {odd[:3]}")
    same = set(state) == set(own)
    return state if same else {**own, **{whole: state[theirs[name]] for name, whole in ours.items()}}


def _plain_names(names: Iterable[Any]) -> dict[str, Any]:
    """Names of a state by what they are without those of wrappers and the counter of ``AveragedModel``."""
    plain = {str(name).replace("_orig_mod.", ""): name for name in names if name != "n_averaged"}
    while plain and (around := [part for part in WRAPPERS if all(name.startswith(part) for name in plain)]):
        plain = {name.removeprefix(around[0]): whole for name, whole in plain.items()}
    return plain


class ResumableCheckpoint:
    """Handler that saves the whole state of a training and, when the training starts again, goes on from there.

    The file is replaced in one step, so that a kill at any moment leaves a complete checkpoint: at most ``every``
    epochs are lost. Of several processes the first one writes and all read. Attach it after all handlers that change
    what it saves, such as that of the learning rate. Networks are saved without DataParallel, DistributedDataParallel
    and ``torch.compile`` around them, and may go on with others.

    A training may go on longer, or with epochs of another length. PyTorch's schedules of the learning rate that know
    how long they are, such as ``OneCycleLR``, are then the new one from that step on, not the one of the file.

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
        OSError: at the end of an epoch, naming the file, if it cannot be written, as on a full disk; the one before
            is then still there.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        save_dict: Mapping[str, Any],
        every: int = 1,
        resume: bool = True,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        require_truth(resume=resume)
        named = isinstance(save_dict, Mapping) and len(save_dict) > 0
        if not named or {"trainer", "settings"} & set(save_dict):
            got = list(save_dict) if named else save_dict
            raise refusal("save_dict", got, "objects by name, the engine (`trainer`) and `settings` excepted")
        if not is_count(every, 1):
            raise refusal("every", every, "a whole number of at least 1")
        self.path, self.save_dict, self.every, self.resume = to_path("path", path), dict(save_dict), every, resume
        if settings is not None and not isinstance(settings, Mapping):
            raise refusal("settings", repr(settings), "a dictionary, or None")
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
        if getattr(engine.state, "rank", rank()) > 0:
            return
        states = {name: _state_of(thing) for name, thing in self.save_dict.items()}
        progress = {name: getattr(engine.state, name) for name in PROGRESS if hasattr(engine.state, name)}
        states["settings"] = self.settings
        states["trainer"] = {name: convert_to_numpy(value).item() for name, value in progress.items()}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        save_whole(states, self.path)

    def load(self, engine: Any) -> None:
        """Restore the state from the checkpoint, where there is one."""
        if not (self.resume and self.path.exists()):
            return
        states = read_checkpoint(self.path, getattr(engine.state, "device", "cpu"))
        names = {*self.save_dict, "trainer"}
        if set(states) - {"settings"} != names:
            raise refusal(str(self.path), f"one of {list(states)[:5]}", f"a checkpoint of {sorted(names)}")
        progress = dict(states["trainer"])
        if engine.state.epoch_length:  # may be another one, with another batch size or number of processes
            progress["iteration"] = progress["epoch"] * engine.state.epoch_length
        epochs = engine.state.max_epochs or math.inf
        rescheduled = []
        for name, thing in self.save_dict.items():
            try:
                steps = _steps_of_another(thing, states[name], states["trainer"], progress, epochs)
                if steps is not None:
                    rescheduled.append((thing.optimizer, _rates_at(thing, steps)))
                elif isinstance(thing, nn.Module):
                    thing.load_state_dict(_fitted(thing, states[name]))
                else:
                    thing.load_state_dict(states[name])
            except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(
                    f"`{self.path}` must be a checkpoint of this training, got another `{name}`: {error}"
                ) from error
        for optimizer, rates in rescheduled:  # after its own state, which has those of the old schedule
            for group, of_group in zip(optimizer.param_groups, rates, strict=True):
                group.update(of_group)
        for name, value in progress.items():
            setattr(engine.state, name, value)
        if rank() == 0:
            say(f"Resumed from {self.path} after epoch {engine.state.epoch}.")


def _state_of(thing: Any) -> Any:
    """What is saved of an object: that of a network without what is around it and, compiled, its parts."""
    state = unwrapped(thing).state_dict()
    if isinstance(thing, nn.Module) and any("_orig_mod." in name for name in state):
        return {name.replace("_orig_mod.", ""): value for name, value in state.items()}
    return without_functions(state) if isinstance(thing, LRScheduler) else state


def _steps(schedule: Mapping[str, Any]) -> int:
    """The step that the state of a schedule is at; in a chain all are at the same."""
    return schedule["last_epoch"] if "last_epoch" in schedule else _steps(schedule["_schedulers"][0])


def _length(schedule: Mapping[str, Any]) -> list[Any]:
    """What the state of a schedule says of its length."""
    return [schedule.get(name) for name in LENGTHS] + [_length(part) for part in schedule.get("_schedulers", [])]


def _steps_of_another(
    thing: Any, state: Mapping[str, Any], before: Mapping[str, int], now: Mapping[str, int], epochs: float
) -> int | None:
    """The step that a schedule of another length than the saved one has to go to; None for anything else."""
    if not isinstance(thing, LRScheduler) or isinstance(thing, ReduceLROnPlateau) or now["epoch"] >= epochs:
        return None
    steps, length = _steps(state), _length(thing.state_dict())
    if steps == before["iteration"]:  # a step an iteration; but where that was an epoch, the length tells
        longest = max(filter(is_count, length), default=0)
        steps = now["iteration"] if steps != before["epoch"] or longest > epochs + 1 else steps
    return None if steps == _steps(state) and length == _length(state) else steps


def _rates_at(schedule: LRScheduler, steps: int) -> list[dict[str, Any]]:
    """Learning rates, and what else a schedule sets for each group of the optimizer, after so many steps."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(?s).*lr_scheduler.step", UserWarning)  # without steps of the optimizer
        for _ in range(_steps(schedule.state_dict()), steps):
            schedule.step()
    return [{name: value for name, value in g.items() if name != "params"} for g in schedule.optimizer.param_groups]
