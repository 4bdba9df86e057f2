"""What is done to an image that is inspected: settings of one's own, a calibration's, or those of a bundle."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monai.data import MetaTensor
from monai.utils import ensure_tuple

from monai_infoaug._require import is_number, naming, refusal
from monai_infoaug.commands._bundle_steps import OURS, bundle_steps
from monai_infoaug.commands._images import require_measurable, resampling, said_modality
from monai_infoaug.commands._steps import Step, step
from monai_infoaug.information import TIERS
from monai_infoaug.information._arrays import is_ordered_pair
from monai_infoaug.information._files import read_entry
from monai_infoaug.transforms import InformationMap, InformationTiers, RandTierIntensity, guess_modality
from monai_infoaug.transforms.intensity_presets import TIER_STRENGTHS

MONAI = "monai.transforms."
READING = (f"{MONAI}LoadImaged", f"{MONAI}EnsureChannelFirstd", f"{OURS}AssignPixdimd")  # done when a recipe begins
WINDOW, NUM_BINS, INTENSITY, SHARES = {2: 9, 3: 5}, 32, "rich", (0.1, 0.45, 0.45)
CT_WINDOWS = {"soft": (-160, 240), "brain": (0, 80), "lung": (-1350, 150), "bone": (-500, 1300)}  # HU
BY_CALIBRATION = ("window", "window_mm", "num_bins", "thresholds", "intensity", "strengths")


@dataclass(frozen=True)
class Settings:
    """Settings of one's own, see :py:func:`monai_infoaug.commands.inspection.inspect_image`; None: not given."""

    modality: str | None = None
    working_pixdim: float | Sequence[float] | None = None
    window: int | Sequence[int] | None = None
    window_mm: float | Sequence[float] | None = None
    num_bins: int | None = None
    thresholds: Sequence[float] | None = None
    intensity: str | None = None
    strengths: Sequence[float] | None = None
    foreground: str | float | None = None
    ct_window: str | Sequence[float] | None = None
    calibration: str | os.PathLike | None = None
    bundle: str | os.PathLike | None = None
    overlay: str | None = None

    def require_sound(self, seed: int) -> None:
        """Refuse what no image can go with.

        Raises:
            OSError: if the calibration cannot be read.
            ValueError: naming the setting.
        """
        window, bins = WINDOW[2] if self.window is None else self.window, self.num_bins
        bins = NUM_BINS if bins is None else bins
        intensity = INTENSITY if self.intensity is None else self.intensity
        require_measurable(window, self.window_mm, bins, self.modality, intensity, self.working_pixdim, seed)
        InformationTiers(self.thresholds)
        RandTierIntensity(intensity, strengths=self.strengths)
        if not (self.foreground is None or self.foreground == "body" or is_number(self.foreground)):
            raise refusal("foreground", repr(self.foreground), "body, or a grey level of the file")
        if self.ct_window is not None:
            self.hounsfield()
        if self.overlay is not None and self.bundle is None:
            raise refusal("overlay", repr(self.overlay), "given with `bundle`, whose method it is")
        if self.calibration is not None:
            for name in BY_CALIBRATION:
                if getattr(self, name) is not None:
                    raise refusal(name, getattr(self, name), "left out beside `calibration`, which says it")
            for transform in (InformationMap, InformationTiers, RandTierIntensity):
                transform(file=self.calibration)

    def hounsfield(self) -> tuple[float, float]:
        """The CT window (low, high).

        Raises:
            ValueError: for none.
        """
        given: Any = self.ct_window
        window: Any = CT_WINDOWS.get(given) if isinstance(given, str) else given
        if not is_ordered_pair(window) or window[0] == window[1]:
            raise refusal("ct_window", given, f"{', '.join(CT_WINDOWS)}, or Hounsfield units [low, high], low < high")
        return float(window[0]), float(window[1])


@dataclass(frozen=True)
class Recipe:
    """What is done to an image that was read.

    Args:
        scaling: steps up to the image in [0, 1] and its foreground.
        measure: those from there to its information.
        tiers: the one that splits it.
        changes: the intensity change of view 1 and of view 2.
        draw: ``shares`` or ``gamma`` of the paired views.
        facts: name and text of what a reader should know.
    """

    scaling: list[Step]
    measure: list[Step]
    tiers: Step
    changes: tuple[Step, Step]
    draw: dict[str, Any]
    facts: list[tuple[str, str]] = field(default_factory=list)

    @property
    def preset(self) -> str:
        """Name of the change of view 2."""
        change = self.changes[1]
        if "file" in change:
            return str(read_entry(change["file"], "intensity", "a calibration")["transforms"])
        name = change.get("transforms", "published")
        return name if isinstance(name, str) else "of its own"

    @property
    def strengths(self) -> list[float] | None:
        """That of the change of each tier in view 2; None where it has no such number."""
        change = self.changes[1]
        if "file" in change:
            found = read_entry(change["file"], "intensity", "a calibration")["strengths"]
            return [float(found[name]) for name in TIERS]
        if "strengths" in change:
            return [float(each) for each in change["strengths"]]
        name = change.get("transforms")
        return list(TIER_STRENGTHS) if isinstance(name, str) and name != "published" else None


def recipe_for(path: str | os.PathLike, image: MetaTensor, settings: Settings) -> Recipe:
    """What is done to an image, by sound settings.

    Args:
        path: its file or folder.
        image: (C, *S), as the file has it.
        settings: what was given.

    Raises:
        ValueError: for a setting that does not suit the image.
    """
    made = {} if settings.calibration is None else read_entry(settings.calibration, "made_from", "a calibration")
    modality, source = _modality(path, image, settings, made)
    working, sides = settings.working_pixdim, made.get("working_pixdim")
    if None not in (working, sides) and {*ensure_tuple(working)} != {*ensure_tuple(sides)}:
        raise refusal("working_pixdim", working, f"that of the calibration, {sides}")
    working = sides if working is None else working
    facts = [("modality", modality + (f" ({source})" if source else ""))]
    if settings.calibration is not None:
        facts.append(("calibration", Path(settings.calibration).name))
    make = _of_ones_own if settings.bundle is None else _of_bundle
    return make(image, settings, modality, working, facts)


def _modality(
    path: str | os.PathLike, image: MetaTensor, settings: Settings, made: Mapping[str, Any]
) -> tuple[str, str]:
    """The modality of an image, and who says so."""
    given, calibrated = settings.modality, made.get("modality")
    if given is not None and calibrated not in (None, given):
        raise refusal("modality", given, f"that of the calibration, {calibrated}")
    if given is not None:
        return given, ""
    if calibrated is not None:
        return calibrated, "of the calibration"
    said = said_modality(path) if len(image) == 1 else None
    return (guess_modality(image), "assumed") if said is None else (said, "as the file says")


def _of_ones_own(image: MetaTensor, settings: Settings, modality: str, working: Any, facts: list) -> Recipe:
    """Without a bundle."""
    scaling = [] if working is None else [resampling(image, working)]
    preset = step(f"{OURS}ModalityPresetd", keys="image", modality=modality)
    if settings.foreground is not None:
        threshold = "otsu" if settings.foreground == "body" else settings.foreground
        scaling.append(step(f"{OURS}BodyMaskd", keys="image", threshold=threshold))
        preset["foreground_key"] = "foreground_of_modality"
    if settings.ct_window is not None:
        if modality != "ct":
            raise refusal("ct_window", settings.ct_window, f"left out for modality '{modality}'")
        preset["window"] = settings.hounsfield()
        facts = [*facts, ("CT window", "{:g} to {:g} HU".format(*preset["window"]))]
    mask = {"mask_key": "foreground"}
    if settings.calibration is not None:
        measuring: dict[str, Any] = {"file": os.fspath(settings.calibration)}
        split, change = measuring, measuring
    else:
        side: dict[str, Any] = {"window": WINDOW[image.ndim - 1] if settings.window is None else settings.window}
        side = side if settings.window_mm is None else {"window_mm": settings.window_mm}
        measuring = {**side, "num_bins": NUM_BINS if settings.num_bins is None else settings.num_bins}
        split, change = {}, {"transforms": INTENSITY if settings.intensity is None else settings.intensity}
        change |= {} if settings.strengths is None else {"strengths": list(settings.strengths)}
        words = {**side, "bins": measuring["num_bins"]}
        facts = [*facts, ("information", ", ".join(f"{name} {value}" for name, value in words.items()))]
    intensity = step(f"{OURS}RandTierIntensity", **change)
    return Recipe(
        [*scaling, preset],
        [step(f"{OURS}InformationMapd", keys="image", **measuring, **mask)],
        step(f"{OURS}InformationTiersd", keys="information", **split, **mask),
        (intensity, intensity),
        {"shares": SHARES},
        facts,
    )


def _of_bundle(image: MetaTensor, settings: Settings, modality: str, working: Any, facts: list) -> Recipe:
    """What the training of a bundle does, up to its random geometry."""
    given = {name: value for name, value in vars(settings).items() if value is not None}
    given = {name: value for name, value in given.items() if name not in ("bundle", "overlay", "thresholds")}
    given |= {"modality": modality} | ({} if working is None else {"working_pixdim": working})
    if settings.calibration is not None:
        given["calibration"] = os.fspath(settings.calibration)
    bundle = str(settings.bundle)
    with naming(f"bundle {bundle}"):
        found = bundle_steps(bundle, given, image.ndim - 1, len(image), settings.overlay)
    other = ", ".join(f"{name} {value}" for name, value in found.other.items())
    name = Path(bundle).name + ("" if settings.overlay is None else f", {settings.overlay}")
    facts = [*facts, ("bundle", name + (f", with {other}" if other else ""))]
    if not found.is_on:
        facts.append(("intensity by tier", "off in this bundle: its settings can switch it on"))
    steps = [each for each in found.before if each["_target_"] not in READING]
    presets = [i for i, each in enumerate(steps) if each["_target_"] == f"{OURS}ModalityPresetd"]
    at = presets[0] + 1 if presets else len(steps)
    return Recipe(steps[:at], steps[at:], found.split, found.changes, found.draw, facts)
