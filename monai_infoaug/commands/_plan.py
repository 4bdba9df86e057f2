"""What `annotate` is going to do: decided from the images, written down, editable."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from monai.utils import ensure_tuple

from monai_infoaug._require import are_counts, is_count, is_number, refusal
from monai_infoaug.bundles import find_bundle
from monai_infoaug.commands._label_plan import FEWEST as FEWEST_EPOCHS
from monai_infoaug.commands._label_plan import segmentation_settings
from monai_infoaug.commands._step_time import seconds_of_step
from monai_infoaug.commands._survey import Survey

LONGEST = 384  # pixels along the longest axis of a working image, in 2D
VOXELS = 160**3  # of a working volume at most, so that training fits into 16 GiB
SMALL = 64  # voxels along the shortest axis, below which a volume is worked at twice as finely
SIDE = 32  # a multiple of which the bundles want views to be
SAMPLES = 100  # of an epoch of a detector
FEWEST = 10  # images, below which pre-training has little to learn from
DETECTOR = 6  # epochs, below which a detector finds less than the matches that it learns from; with 9 it finds more
BATCHES = {"landmark_pretraining": 8, "landmark_matching_3d": 1, "landmark_detection": 4, "segmentation": 2}
SHARES = {  # of the minutes, among the stages that there are
    "pretraining": 60,  # on cephalograms each minute of it brought more than one of the rounds
    "matching": 15,
    "round1": 10,
    "round2": 10,
    "prediction": 5,
    "carrying": 20,
    "segmentation1": 25,
    "segmentation2": 25,
}


@dataclass
class Plan:
    """What is going to be done, and with which settings.

    Args:
        dims: spatial axes of the images.
        channels: channels of the images.
        modality: "ct", "mr", "xray" or "rgb".
        pixdim: millimetres a pixel, for images that do not say it; None: as the files say.
        origin: millimetres of the first pixel's centre, with ``pixdim``.
        working_pixdim: millimetres a voxel that is worked at.
        minutes: how long all stages are to take, about.
        device: where the networks are.
        seed: seed of all that is drawn.
        consensus: images that become templates, too.
        pool: images that the template is matched into to learn from, at most.
        stages: stage to its bundle, its own settings, and the minutes that it is planned to take.
    """

    dims: int
    channels: int
    modality: str
    pixdim: float | list[float] | None
    origin: float | list[float]
    working_pixdim: float
    minutes: float
    device: str
    seed: int
    consensus: int = 12
    pool: int = 150
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def shared(self) -> dict[str, Any]:
        """Settings that all bundles have."""
        return {
            "modality": self.modality,
            "in_channels": self.channels,
            "pixdim": self.pixdim,
            "origin": self.origin,
            "working_pixdim": self.working_pixdim,
            "seed": self.seed,
        } | ({} if self.device == "cpu" else {"device": f"$torch.device('{self.device}')"})

    def settings(self, stage: str) -> dict[str, Any]:
        """All settings of a stage's bundle."""
        return self.shared | self.stages[stage]["settings"]

    @property
    def kinds(self) -> list[str]:
        """What is annotated: "landmarks", "labels" or both."""
        return [kind for kind, stage in (("landmarks", "matching"), ("labels", "carrying")) if stage in self.stages]

    @property
    def landmarks(self) -> list[str] | None:
        """Names of the landmarks that networks learn; None if none does."""
        return self.stages.get("round1", {"settings": {}})["settings"].get("labels")

    def require_asked(self, file: Path, **asked: Any) -> None:
        """Refuse to go on by a plan that was made for something else: its networks are of no use then.

        Raises:
            ValueError: naming what was planned and what is asked for.
        """
        for name, value in json.loads(json.dumps(asked)).items():
            planned = getattr(self, name)
            if planned != value:
                raise refusal(name, value, f"{planned}, as '{file}' plans, or give another `out`")

    def as_text(self) -> str:
        """The plan as JSON."""
        return json.dumps(asdict(self), indent=2) + "\n"

    def rows(self, survey: Survey) -> Iterator[tuple[str, str, str]]:
        """What is decided, the value, and why."""
        said = "as the files say" if survey.modality_said else "a guess from channels, axes and grey levels"
        extent = " x ".join(f"{side:.0f}" for side in survey.extent)
        yield "images", f"{len(survey.names)}", f"{len(survey.left_out)} left out"
        yield "axes, channels", f"{self.dims}D, {self.channels}", "of most images"
        yield "modality", self.modality, said
        given = "as given" if self.pixdim is not None else "as the files say"
        yield "pixel", " x ".join(f"{side:g}" for side in survey.pixdim) + " mm", given
        yield "working pixel", f"{self.working_pixdim:g} mm", f"for images of {extent} mm"
        for name, stage in self.stages.items():
            own = stage["settings"]
            if name == "pretraining" and "max_epochs" not in own:
                yield name, "done", "by the checkpoint that is given"
                continue
            how = f"{own['max_epochs']} epochs" if "max_epochs" in own else stage["bundle"]
            yield name, f"{stage['minutes']:g} min", how if "max_epochs" not in own else f"{stage['bundle']}, {how}"
        if self.dims == 2 and "matching" in self.stages and "round1" not in self.stages:
            yield "detector", "none", f"in so few minutes, below {DETECTOR} epochs, it finds less than the matches"
        total = sum(stage["minutes"] for stage in self.stages.values())
        if total > 1.1 * self.minutes:
            why = f"more than the {self.minutes:g} that it may take: a training has {FEWEST_EPOCHS} epochs at least"
            yield "in all", f"{total:.3g} min", why


def make_plan(
    survey: Survey,
    kinds: Sequence[str],
    labels: Sequence[str],
    minutes: float = 60.0,
    pixdim: float | list[float] | None = None,
    origin: float | list[float] = 0.0,
    device: str = "cpu",
    seed: int = 0,
    pretrained: bool = False,
) -> Plan:
    """Decide what suits images.

    Args:
        survey: what they are.
        kinds: what is annotated: "landmarks", "labels" or both.
        labels: names of the landmarks.
        minutes: how long all is to take on this machine.
        pixdim: see :py:class:`Plan`.
        origin: see :py:class:`Plan`.
        device: see :py:class:`Plan`.
        seed: see :py:class:`Plan`.
        pretrained: whether there is a network already, so that pre-training takes no time.

    Returns:
        The plan, with as many epochs as the measured time of a step allows.

    Raises:
        ValueError: for ``minutes`` that are no number above 0.
    """
    if not (is_number(minutes) and minutes > 0):
        raise refusal("minutes", minutes, "a number above 0")
    longest = max(survey.extent) / LONGEST
    if survey.dims == 3:
        finest = min(survey.pixdim) if min(survey.extent) / min(survey.pixdim) > SMALL else min(survey.pixdim) / 2
        longest = max(finest, (math.prod(survey.extent) / VOXELS) ** (1 / 3))
    side = float(f"{longest:.3g}")
    plan = Plan(survey.dims, survey.channels, survey.modality, pixdim, origin, side, minutes, device, seed)
    size = [_multiple(extent / side) for extent in survey.extent]
    half = [_multiple(length / 2) for length in size]
    if plan.dims == 2:
        _add(plan, "pretraining", "landmark_pretraining", {"view_size": half}, len(survey.names))
        if "landmarks" in kinds:
            plan.stages["matching"] = {"bundle": "landmark_pretraining", "settings": {}}
            own = {"labels": list(labels), "image_size": size, "samples_per_epoch": SAMPLES, "val_images": 1}
            for name in ("round1", "round2"):
                _add(plan, name, "landmark_detection", own, SAMPLES)
            plan.stages["prediction"] = {"bundle": "landmark_detection", "settings": {}}
    else:
        view = [min(48, _multiple(length, 16)) for length in size]
        scale = 4 if min(size) > 2 * SMALL else 2  # else the global network would see a cell or two
        small = [_multiple(length / scale, 16) for length in size]
        own = {"view_size": view, "global_view_size": small, "global_scale": scale, "num_points": 300}
        _add(plan, "pretraining", "landmark_matching_3d", own, len(survey.names) * max(1, 25 // len(survey.names)))
        if "landmarks" in kinds:
            plan.stages["matching"] = {"bundle": "landmark_matching_3d", "settings": {}}
    if "labels" in kinds:
        plan.stages["carrying"] = {"bundle": plan.stages["pretraining"]["bundle"], "settings": {}}
        own = segmentation_settings(plan.shared, survey.extent, survey.pixdim)
        # planes: on radiographs a network lost a tenth of the Dice of the label maps that it had learnt from
        for name in ("segmentation1", "segmentation2") if plan.dims == 3 else ():
            _add(plan, name, "segmentation", own | {"samples_per_epoch": SAMPLES, "batch_size": 2}, SAMPLES)
    shares = SHARES | ({"pretraining": 0} if pretrained else {})
    detector = plan.stages.get("round1")
    if detector and 60 * _minutes(plan, shares)["round1"] < DETECTOR * detector["step"] * detector["steps"]:
        for name in ("round1", "round2", "prediction"):
            del plan.stages[name]
    for (name, stage), share in zip(plan.stages.items(), _minutes(plan, shares).values(), strict=True):
        stage["minutes"] = round(share, 1)
        if "step" in stage:
            an_epoch = stage.pop("step") * stage.pop("steps") / 60
            if pretrained and name == "pretraining":
                continue  # it is run without the checkpoint alone, and then for as long as the bundle says
            epochs = stage["settings"]["max_epochs"] = max(FEWEST_EPOCHS, int(stage["minutes"] / an_epoch))
            stage["minutes"] = max(stage["minutes"], round(epochs * an_epoch, 1))
            if stage["bundle"] != "segmentation":  # whose rounds say so themselves
                stage["settings"]["val_interval"] = epochs
    return plan


def _multiple(length: float, of: int = SIDE) -> int:
    """The least multiple that is not below a length."""
    return of * max(1, math.ceil(length / of - 0.05))


def _minutes(plan: Plan, shares: Mapping[str, float]) -> dict[str, float]:
    """Minutes of each stage, by its share among those that there are."""
    total = sum(shares[name] for name in plan.stages)
    return {name: plan.minutes * shares[name] / total for name in plan.stages}


def _add(plan: Plan, name: str, bundle: str, own: Mapping[str, Any], items: int) -> None:
    """Add a training, with the seconds of a step and the steps of an epoch."""
    same = next((stage for stage in plan.stages.values() if stage["bundle"] == bundle and "step" in stage), None)
    seconds = same["step"] if same else seconds_of_step(bundle, plan.shared | dict(own), plan.device)
    steps = max(1, items // BATCHES[bundle])
    plan.stages[name] = {"bundle": bundle, "settings": dict(own), "step": seconds, "steps": steps}


def begun_plan(
    given: str | os.PathLike | None, out: Path, survey: Survey, first: str = "pretraining", **asked: Any
) -> Plan | None:
    """The plan that is given, or that a folder has from before, if it was made for what is asked for now.

    Args:
        given: file of a plan, which may say other things than what is asked for.
        out: folder, whose plan may not.
        survey: images of the plan.
        first: name of its first stage.
        asked: fields of a plan, and their values.

    Returns:
        The plan; None if there is neither.

    Raises:
        ValueError: see :py:func:`read_plan` and :py:meth:`Plan.require_asked`.
    """
    file = out / "plan.json" if given is None else Path(given)
    if given is None and not file.exists():
        return None
    plan = read_plan(file, survey, first)
    plan.require_asked(file, **(asked if given is None else {}))
    return plan


def read_plan(path: str | os.PathLike, survey: Survey, first: str = "pretraining") -> Plan:
    """Read a plan that was written before, perhaps edited, of which this is the first stage.

    Raises:
        ValueError: naming what is missing, unknown, of another kind, or does not fit the images.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise refusal("plan", f"'{path}': {error}", "a plan.json that was written before") from error
    names = [each.name for each in fields(Plan)]
    if not isinstance(content, dict) or set(content) != set(names):
        got = sorted(set(content) ^ set(names)) if isinstance(content, dict) else type(content).__name__
        raise refusal("plan", f"'{path}' with {got} too many or missing", f"one with {', '.join(names)}")
    plan = Plan(**content)
    given = plan.pixdim is None or all(is_number(side) and side > 0 for side in ensure_tuple(plan.pixdim))
    for name, is_fine, accepted in (
        ("dims", plan.dims == survey.dims, f"{survey.dims}, as the images have"),
        ("channels", plan.channels == survey.channels, f"{survey.channels}, as the images have"),
        ("modality", (plan.modality == "rgb") == (survey.channels == 3), "rgb for three channels, else another one"),
        ("pixdim", given, "millimetres above 0, or null"),
        ("working_pixdim", is_number(plan.working_pixdim) and plan.working_pixdim > 0, "millimetres above 0"),
        ("minutes", is_number(plan.minutes) and plan.minutes > 0, "a number above 0"),
        ("seed", is_count(plan.seed), "a whole number of at least 0"),
        ("consensus, pool", are_counts([plan.consensus, plan.pool]), "whole numbers of at least 0"),
        ("stages", isinstance(plan.stages, dict) and first in plan.stages, f"with `{first}`, as they were written"),
    ):
        if not is_fine:
            raise refusal(f"{name} of '{path}'", getattr(plan, name.split(",")[0]), accepted)
    for name, stage in plan.stages.items():
        if not (isinstance(stage, dict) and {"bundle", "settings", "minutes"} == set(stage)):
            raise refusal(f"stage {name} of '{path}'", stage, "one with bundle, settings, minutes")
        find_bundle(stage["bundle"])
    return plan
