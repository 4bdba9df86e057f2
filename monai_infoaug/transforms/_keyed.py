"""What all dictionary transforms have."""

from __future__ import annotations

from monai.config import KeysCollection
from monai.transforms import MapTransform

from monai_infoaug._require import refusal, require_truth


class KeyedTransform(MapTransform):
    """A transform of the entries of a dictionary, whose settings are looked at first.

    Args:
        keys: keys of the entries.
        allow_missing_keys: pass over keys that the data lacks.
        other_keys: settings, by their names, that are keys too, or tuples of such.

    Raises:
        ValueError: for text as ``allow_missing_keys``, or another key that can be none, such as a list.
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False, **other_keys: object) -> None:
        require_truth(allow_missing_keys=allow_missing_keys)
        for name, key in other_keys.items():
            try:
                hash(key)
            except TypeError:
                raise refusal(name, repr(key), "a key of the data") from None
        super().__init__(keys, allow_missing_keys)
