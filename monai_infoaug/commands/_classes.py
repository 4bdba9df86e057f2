"""The classes of label maps: their names, and the numbers or bits that stand for them in files."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor
from torch import Tensor

from monai_infoaug._grid import plain
from monai_infoaug._require import listed, refusal
from monai_infoaug.commands._label_files import read_labels

SIDECARS = ("classes.json", "dataset.json")  # ours, and nnU-Net's
SEGMENT = re.compile(r"Segment(\d+)_(Name|LabelValue)")  # of 3D Slicer's .seg.nrrd


@dataclass(frozen=True)
class Classes:
    """What is segmented.

    Args:
        names: of the K classes, without the background.
        values: number of each in label maps; its bit where classes overlap.
        are_bits: whether a voxel may be of several classes, so that its label is the sum of their bits.
    """

    names: tuple[str, ...]
    values: tuple[int, ...]
    are_bits: bool

    @property
    def settings(self) -> dict[str, Any]:
        """The classes for the bundle ``segmentation``, which numbers them from 1 on."""
        return {"classes": list(self.names), "label_bits": list(self.values) if self.are_bits else None}

    @property
    def numbers(self) -> tuple[int, ...]:
        """Number of each class in the bundle's label maps, or its bit."""
        return self.values if self.are_bits else tuple(range(1, len(self.values) + 1))

    def masks(self, labels: Tensor) -> Tensor:
        """Where (K, *S) a label map (1, *S) of files has each class."""
        labels = plain(labels).long()
        return torch.cat([labels & value != 0 if self.are_bits else labels == value for value in self.values])

    def labels(self, masks: Tensor, values: Sequence[int] | None = None) -> Tensor:
        """The label map (1, *S) of masks (K, *S), with these values, or those of files; back from :py:meth:`masks`."""
        each = torch.tensor(self.values if values is None else values, device=masks.device)
        found = masks.long() * each.view(-1, *[1] * (masks.ndim - 1))
        return found.sum(0, keepdim=True) if self.are_bits else found.amax(0, keepdim=True)

    def as_text(self) -> str:
        """The file ``classes.json``, from which :py:func:`find_classes` has the names again."""
        content = {"classes": dict(zip(self.names, self.values, strict=True)), "bits": self.are_bits}
        return json.dumps(content, indent=2, ensure_ascii=False) + "\n"

    def __str__(self) -> str:
        pairs = zip(self.names, map(str, self.values), strict=True)
        words = ", ".join(name if name == value else f"{name} {value}" for name, value in pairs)
        return words + " (bits, which may overlap)" * self.are_bits


def find_classes(
    files: Iterable[str | os.PathLike], names: Sequence[str] | Mapping[str, int] | str | os.PathLike | None = None
) -> Classes:
    """The classes of label maps, by the values that are found in these.

    Values are bits of classes that overlap if there are sums of powers of two among them, such as 1, 2, 4 and 5, and
    they are not simply 1, 2, 3, ...; where there are names, their number or values decide.

    Args:
        files: label maps.
        names: of the classes, in the order of their values; or name to value; or a JSON file with either. None: those
            of ``classes.json`` or nnU-Net's ``dataset.json`` beside the files, or in the header of a ``.seg.nrrd``;
            else the numbers are the names.

    Raises:
        ValueError: for a file that is no label map, files without a label, files that name the same values otherwise,
            or names that do not fit the values.
    """
    paths, found = [*map(Path, files)], set[int]()
    known, are_bits = _given(names)
    for path in paths:
        labels = read_labels(path)
        found |= {int(value) for value in plain(labels).unique().tolist()}
        if names is None and (said := _beside(path, labels))[0] is not None:
            known, are_bits = said if known is None else (_joined(known, said[0], path), said[1])
    values = sorted(found - {0})
    if not values:
        raise refusal("labels", f"nothing but background in {len(paths)} files", "label maps with labels")
    powers = [value for value in values if value & (value - 1) == 0]
    may_be_bits = all(value & ~sum(powers) == 0 for value in values)
    if known is None:
        are_sums = len(powers) < len(values) and may_be_bits and values != [*range(1, len(values) + 1)]
        kept = powers if are_sums else values
        return Classes(tuple(map(str, kept)), tuple(kept), are_sums)
    if not isinstance(known, Mapping):
        kept = values if len(known) == len(values) else powers
        if len(known) != len(kept) or (kept == powers != values and not may_be_bits):
            raise refusal("names", f"{len(known)} for the values {_some(values)}", "a name a class")
        known = dict(zip(known, kept, strict=True))
    bits, unknown = sum({*known.values()}), [value for value in values if value not in known.values()]
    if are_bits is None:
        are_bits = bool(unknown) and all(value & (value - 1) == 0 for value in known.values())
    if any(value & ~bits for value in unknown) if are_bits else unknown:
        raise refusal("names", f"{dict(known)} for the values {_some(values)}", "names of all values in the label maps")
    return Classes(tuple(known), tuple(known.values()), are_bits)


def _given(names: Any) -> tuple[Any, bool | None]:
    """Names as a list or by value, None if there are none; and whether the values are bits, None if nobody says."""
    if names is None:
        return None, None
    are_bits = None
    if isinstance(names, str | os.PathLike):
        try:
            names = json.loads(Path(names).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise refusal("names", f"'{names}'", "names, or a JSON file with them") from error
        if isinstance(names, Mapping):
            are_bits, names = names.get("bits"), names.get("classes", names.get("labels", names))
    if isinstance(names, Mapping):
        if all(isinstance(value, str) for value in names.values()) and all(str(key).isdigit() for key in names):
            names = {name: int(value) for value, name in names.items()}  # {"1": "liver"}, as nnU-Net wrote at first
        names = {name: value for name, value in names.items() if value != 0}
        values = list(names.values())
        if not (all(isinstance(value, int) and value > 0 for value in values) and len(set(values)) == len(values) > 0):
            raise refusal("names", names, "names with different whole numbers above 0")
        return names, are_bits
    listing = listed(names)
    if not (listing and all(isinstance(name, str) for name in listing) and len(set(listing)) == len(listing)):
        raise refusal("names", repr(names), "different names, or names with their values")
    return listing, are_bits


def _beside(path: Path, labels: MetaTensor) -> tuple[Any, bool | None]:
    """Names that a file in the folder, or the header, has."""
    above = [path.parent.parent / "dataset.json"] if path.parent.name.startswith("labels") else []  # as nnU-Net has it
    for file in (*(path.parent / name for name in SIDECARS), *above):
        if file.is_file():
            return _given(file)
    segments: dict[str, dict[str, str]] = {}
    for key, value in labels.meta.items():
        if match := SEGMENT.fullmatch(str(key)):
            segments.setdefault(match[1], {})[match[2]] = str(value)
    complete = [each for each in segments.values() if len(each) == 2 and each["LabelValue"].isdigit()]
    return ({each["Name"]: int(each["LabelValue"]) for each in complete}, False) if complete else (None, None)


def _joined(known: Any, said: Any, path: Path) -> Any:
    """Names of several files: in 3D Slicer, the number of a segment is that of its place in the list of its file."""
    if known == said:
        return known
    if isinstance(known, Mapping) and isinstance(said, Mapping):
        joined = {**known, **said}
        if all(joined[name] == value for name, value in known.items()) and len({*joined.values()}) == len(joined):
            return joined
    raise refusal("labels", f"'{path}' with {said}, others with {known}", "label maps in which a class has one number")


def _some(values: Sequence[int]) -> str:
    return ", ".join(map(str, values[:8])) + ", ..." * (len(values) > 8)
