"""Transforms as bundles write them: dictionaries that are run, and shown as code; so what is shown is what ran."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pydoc import locate
from typing import Any, TypeAlias, cast

Step: TypeAlias = dict[str, Any]


def step(target: str, **arguments: Any) -> Step:
    """A transform by its class and arguments, which may be steps themselves."""
    return {"_target_": target} | arguments


def build(value: Any) -> Any:
    """The transform of a step; any other value as it is."""
    if not isinstance(value, Mapping):
        return value
    make = cast(type, locate(value["_target_"]))
    return make(**{name: build(argument) for name, argument in value.items() if name != "_target_"})


def run(steps: Sequence[Step], item: dict[str, Any]) -> dict[str, Any]:
    """What the steps make of a dictionary of data."""
    for each in steps:
        item = build(each)(item)
    return item


def as_code(steps: Sequence[Step]) -> dict[str, str]:
    """The steps for a Python program and for a bundle's JSON."""
    modules: dict[str, set[str]] = {"monai.transforms": {"Compose"}}
    nested = [value for each in steps for value in each.values() if isinstance(value, Mapping)]
    for each in (*steps, *nested):
        module, name = each["_target_"].rsplit(".", 1)
        modules.setdefault(module, set()).add(name)
    imports = [f"from {module} import {', '.join(sorted(names))}" for module, names in sorted(modules.items())]
    lines = [f"        {as_python(each)}," for each in steps]
    python = [*imports, "", "preprocessing = Compose(", "    [", *lines, "    ]", ")"]
    return {"python": "\n".join(python), "json": json.dumps(steps, indent=4)}


def as_python(value: Any) -> str:
    """A step or an argument of one as a Python expression."""
    if isinstance(value, Mapping):
        arguments = [f"{name}={as_python(v)}" for name, v in value.items() if name != "_target_"]
        return f"{value['_target_'].rsplit('.', 1)[-1]}({', '.join(arguments)})"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(as_python, value))}]"
    return json.dumps(value) if isinstance(value, str) else repr(value)
