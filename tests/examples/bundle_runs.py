"""How the tests run a bundle."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import torch
from monai.bundle import ComponentLocator, ConfigWorkflow

EXAMPLES = Path(str(files("monai_infoaug.examples")))
DATA = Path(__file__).parents[3] / "shared" / "data"
FOUND: dict[tuple[str, ...], dict] = {}


def find_once(locator: ComponentLocator, names: list[str], find=ComponentLocator._find_classes_or_functions) -> dict:
    """What MONAI looks for in all of its modules, and would for each configuration again."""
    if tuple(names) not in FOUND:
        FOUND[tuple(names)] = find(locator, names)
    return FOUND[tuple(names)]


ComponentLocator._find_classes_or_functions = find_once  # a tenth of a second of each run


def workflow(bundle: str, *names: str, kind: str = "train", **settings) -> ConfigWorkflow:
    """That of some of the bundle's configs."""
    configs = EXAMPLES / bundle / "configs"
    files = [str(configs / f"{name}.json") for name in names]
    return ConfigWorkflow(files, str(configs / "metadata.json"), workflow_type=kind, **settings)


def complete(flow: ConfigWorkflow) -> ConfigWorkflow:
    """Run it from beginning to end, on one thread: the networks are tiny, and other tests may run beside."""
    torch.set_num_threads(1)
    flow.initialize()
    flow.run()
    flow.finalize()
    return flow


def fault(error: BaseException) -> str:
    """The whole chain of errors: MONAI wraps them."""
    return f"{error} {fault(error.__cause__)}" if error.__cause__ else str(error)
