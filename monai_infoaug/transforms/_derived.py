"""Dictionary transforms that add what they derive from an entry under a new key."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from monai.config import KeysCollection, NdarrayOrTensor
from monai.utils import ensure_tuple

from monai_infoaug._require import refusal
from monai_infoaug.transforms._keyed import KeyedTransform
from monai_infoaug.transforms._pending import up_to_date
from monai_infoaug.transforms._shown import Shown


class DerivedMapd(Shown, KeyedTransform):
    """Adds ``transform(data[key], data[mask_key])`` for each key, under a key that must be new.

    Args:
        transform: called with the entry, and with the mask if there is a ``mask_key``.
        keys: keys of the entries.
        output_key: key of what is derived, one for each of ``keys``, or a name that is appended to each of several.
        mask_key: key of a mask that goes with all ``keys``. None: no mask.
        allow_missing_keys: pass over keys that the data lacks.
        other_keys: settings, by their names, that are keys too.
    """

    def __init__(
        self,
        transform: Callable,
        keys: KeysCollection,
        output_key: str | Sequence[str],
        mask_key: Hashable | None,
        allow_missing_keys: bool,
        **other_keys: Hashable,
    ) -> None:
        super().__init__(keys, allow_missing_keys, mask_key=mask_key, **other_keys)
        self.transform = transform
        self.mask_key = mask_key
        if isinstance(output_key, str) and len(self.keys) > 1:
            self.output_keys = tuple(f"{key}_{output_key}" for key in self.keys)
        else:
            self.output_keys = ensure_tuple(output_key)
        if len(self.output_keys) != len(self.keys) or any(self.output_keys.count(key) > 1 for key in self.output_keys):
            raise refusal("output keys", self.output_keys, f"one for each of {self.keys}")

    def __call__(self, data: Mapping[Hashable, NdarrayOrTensor]) -> dict[Hashable, NdarrayOrTensor]:
        d, masks = dict(data), []
        if self.mask_key is not None:
            if self.mask_key not in d:
                raise refusal("mask_key", self.mask_key, f"one of the data's keys {list(d)}", KeyError)
            d[self.mask_key] = up_to_date(d[self.mask_key])
            masks = [d[self.mask_key]]
        for key, output_key in self.key_iterator(d, self.output_keys):
            if output_key in d:
                raise refusal("output key", output_key, "new to the data", KeyError)
            # up to date, else what is derived would not lie on the entry that it belongs to
            d[key], d[output_key] = self.derive(up_to_date(d[key]), *masks)
        return d

    def derive(self, img: NdarrayOrTensor, *masks: NdarrayOrTensor) -> tuple[Any, Any]:
        """The entry, as it shall be from now on, and what is derived from it."""
        return img, self.transform(img, *masks)


class PointsMapd(DerivedMapd):
    """Adds ``transform(data[key], data[guide], ...)`` for each key of points, whose guides must be there."""

    def __init__(
        self,
        transform: Callable,
        keys: KeysCollection,
        guides: Mapping[str, Hashable],
        output_key: str | Sequence[str],
        allow_missing_keys: bool,
    ) -> None:
        super().__init__(transform, keys, output_key, None, allow_missing_keys, **guides)
        self.guides = tuple(guides.values())

    def __call__(self, data: Mapping[Hashable, NdarrayOrTensor]) -> dict[Hashable, NdarrayOrTensor]:
        d = dict(data)
        for key in self.guides:
            if key not in d:
                raise KeyError(f"Key `{key}` of transform `{type(self).__name__}` was missing in the data.")
        for key, output_key in self.key_iterator(d, self.output_keys):
            if output_key in d:
                raise refusal("output_key", output_key, "new to the data", KeyError)
            d[output_key] = self.transform(d[key], *(d[guide] for guide in self.guides))
        return d
