"""Transforms as bundles write them: dictionaries that are run, and shown as code; so what is shown is what ran."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pydoc import locate
from typing import Any, TypeAlias, cast

Step: TypeAlias = dict[str, Any]


def step(target: str, **arguments: Any) -> Step:
    """A transform by its class and arguments, which may be steps themselves."""
    return {"_target_": target} | arguments


def build(value: Any) -> Any:
    """The transform of a step, also of one that a dictionary or list holds; any other value as it is."""
    if isinstance(value, list):
        return [build(each) for each in value]
    if not isinstance(value, Mapping):
        return value
    if "_target_" not in value:
        return {name: build(each) for name, each in value.items()}
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
    for target in _targets(list(steps)):
        module, name = target.rsplit(".", 1)
        modules.setdefault(module, set()).add(name)
    imports = [f"from {module} import {', '.join(sorted(names))}" for module, names in sorted(modules.items())]
    lines = [f"        {as_python(each)}," for each in steps]
    python = [*imports, "", "preprocessing = Compose(", "    [", *lines, "    ]", ")"]
    return {"python": "\n".join(python), "json": json.dumps(steps, indent=4)}


def _targets(value: Any) -> Iterator[str]:
    """The classes of steps, and of those within them."""
    if isinstance(value, Mapping):
        yield from [value["_target_"]] if "_target_" in value else []
        value = list(value.values())
    if isinstance(value, list | tuple):
        for each in value:
            yield from _targets(each)


def as_python(value: Any) -> str:
    """A step or an argument of one as a Python expression."""
    if isinstance(value, Mapping) and "_target_" not in value:
        return f"{{{', '.join(f'{as_python(name)}: {as_python(each)}' for name, each in value.items())}}}"
    if isinstance(value, Mapping):
        arguments = [f"{name}={as_python(v)}" for name, v in value.items() if name != "_target_"]
        return f"{value['_target_'].rsplit('.', 1)[-1]}({', '.join(arguments)})"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(as_python, value))}]"
    return json.dumps(value) if isinstance(value, str) else repr(value)
