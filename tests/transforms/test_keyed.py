"""Settings that all dictionary transforms have in common."""

from __future__ import annotations

import inspect

import pytest

from monai_infoaug import transforms as T

CLASSES = [thing for name, thing in vars(T).items() if name.endswith("d") and inspect.isclass(thing)]
NEEDED = {"sigma": 2.0, "modality": "ct", "num_classes": 2, "pixdim": 1.0, "thresholds": (1.0, 2.0)}


def make(kind: type, **settings):
    """One with two keys."""
    known = inspect.signature(kind).parameters
    return kind(**{name: value for name, value in NEEDED.items() if name in known} | {"keys": ["a", "b"]} | settings)


@pytest.mark.parametrize("kind", CLASSES)
def test_text_says_neither_true_nor_false(kind):
    assert len(CLASSES) >= 11
    for value in (True, False):
        assert make(kind, allow_missing_keys=value).allow_missing_keys is value
    for text in ("false", None, 0.5):
        with pytest.raises(ValueError, match="`allow_missing_keys` must be true or false"):
            make(kind, allow_missing_keys=text)


@pytest.mark.parametrize("kind", CLASSES)
def test_settings_that_go_with_the_keys(kind):
    """Each is one of its own, or one for all; a list with another number of them is refused by its name."""
    names = [name for name in inspect.signature(kind).parameters if name.endswith("_key") or name == "mode"]
    for name in names:
        for wrong in (["x"], ["x", "y", "z"], ["x", "x"]):
            with pytest.raises(ValueError, match=rf"`({name}|output keys)` must be"):
                make(kind, **{name: wrong})
    outputs = [name for name in names if name in ("output_key", "foreground_key") and kind is not T.RandPairedViewsd]
    for name in outputs:
        assert make(kind, **{name: ["x", "y"]}).output_keys == ("x", "y")


@pytest.mark.parametrize("prefix", [None, 3, ["a", "b"]])
def test_a_prefix_is_text(prefix):
    with pytest.raises(ValueError, match="`prefix` must be text"):
        T.RandPairedViewsd(["a", "b"], prefix=prefix)
