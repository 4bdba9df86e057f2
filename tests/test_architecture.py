"""Who may know whom, and that every part has its test, its documentation and its place in `__all__`."""

from __future__ import annotations

import ast
import inspect
import re
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

import monai_infoaug

PACKAGE, TESTS = Path(monai_infoaug.__file__).parent, Path(__file__).parent
MAP = TESTS.parent / "docs" / "contributing" / "architecture.md"
ROWS = re.findall(r"^\| `(\w+)` \|[^|]*\|([^|]*)\|$", MAP.read_text(encoding="utf-8"), re.M)
EVERY_ROOM = {name for name, _ in ROWS}
MAY_IMPORT = {
    name: EVERY_ROOM if allowed.strip() == "every room" else set(re.findall(r"`(\w+)`", allowed))
    for name, allowed in ROWS
}
FREE_TO_ALL = {"_console", "_files", "_grid", "_numba", "_processes", "_require", "_settings", "_versions"}
OPTIONAL_OF = {  # room or file to what it needs
    "commands": ["ignite", "matplotlib", "tqdm"],
    "_numba": ["numba"],
    "_entropy_numba": ["numba"],
    "_mesh_numba": ["numba"],
    "_smoothing_numba": ["numba"],
    "_validity_numba": ["numba"],
    "_views_numba": ["numba"],
}
LONGEST = 400  # lines of a file

FILES = sorted(file for file in PACKAGE.rglob("*.py") if file.parent.name != "examples")  # which hold configuration
PUBLIC = [f for f in FILES if not f.name.startswith("_") and f.parent != PACKAGE]
ROOMS = sorted(f.parent.name for f in FILES if f.name == "__init__.py" and f.parent != PACKAGE)
EXPORTING = [name for name in ROOMS if name != "commands"]  # which are loaded one by one, by the command line
EXPORTED = [f for f in PUBLIC if f.parent.name in EXPORTING]


def dotted(file: Path) -> str:
    return ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def room(module: str) -> str:
    """`a` of `monai_infoaug.a.b`."""
    return module.split(".")[1] if "." in module else ""


def imports(file: Path) -> set[str]:
    """Every module that a file imports, within functions too."""
    nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
    assert not any(isinstance(node, ast.ImportFrom) and node.level for node in nodes), "imports are absolute"
    found = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    for node in (node for node in nodes if isinstance(node, ast.ImportFrom)):
        # `from monai_infoaug import data` names a room
        within = {f"{node.module}.{alias.name}" for alias in node.names}
        modules = within & {dotted(file) for file in FILES}
        found |= modules if len(modules) == len(within) else modules | {node.module}
    return found


def defined(module: object, exported: bool) -> dict[str, object]:
    """Functions and classes that a module defines, without aliases; the exported ones or all without underscore."""
    names = module.__all__ if exported else [name for name in vars(module) if not name.startswith("_")]
    things = {name: getattr(module, name) for name in names}
    return {
        name: thing
        for name, thing in things.items()
        if (inspect.isclass(thing) or inspect.isfunction(thing))
        and (thing.__module__, thing.__name__) == (module.__name__, name)
    }


def test_the_map_shows_every_room():
    assert set(ROOMS) | set(monai_infoaug.COMMANDS) == set(monai_infoaug.__all__)
    files = {f.stem for f in PACKAGE.glob("*.py")} - {"__init__"} - FREE_TO_ALL
    assert set(ROOMS) | files == EVERY_ROOM
    assert all(allowed <= EVERY_ROOM for allowed in MAY_IMPORT.values())


def test_the_map_names_what_is_there():
    """Names in code style that look like a file of ours, or stand between a room and a point, exist."""
    for page in MAP.parent.glob("*.md"):
        text = page.read_text(encoding="utf-8")
        for path in re.findall(r"`((?:monai_infoaug|examples|tests|docs|benchmarks)/[\w./]*)`", text):
            home = PACKAGE if path.startswith(PACKAGE.name) else TESTS  # which need not lie side by side
            assert (home.parent / path).exists(), f"{page.name}: {path}"


@pytest.mark.parametrize("file", FILES, ids=dotted)
def test_rooms_know_only_whom_they_may(file):
    here = room(dotted(file))
    known = {room(module) for module in imports(file) if module.split(".")[0] == "monai_infoaug"}
    assert known - {"", here} - FREE_TO_ALL <= MAY_IMPORT.get(here, set())


def test_no_command_imports_another():
    commands = {m for m in imports(PACKAGE / "__main__.py") if room(m) == "commands"}
    assert len(commands) >= 4
    for command in commands:
        file = PACKAGE / "commands" / f"{command.rpartition('.')[2]}.py"
        assert not imports(file) & commands - {command}


@pytest.mark.slow
def test_nothing_imports_in_a_circle():
    """Within functions and for type checking neither."""
    names = {dotted(file) for file in FILES}
    TopologicalSorter({dotted(file): imports(file) & names for file in FILES}).prepare()


@pytest.mark.parametrize("file", FILES, ids=dotted)
def test_no_file_is_too_long(file):
    assert len(file.read_text(encoding="utf-8").splitlines()) <= LONGEST


@pytest.mark.parametrize("file", [f for f in FILES if room(dotted(f)) == "information"], ids=dotted)
def test_information_knows_no_monai(file):
    assert "monai" not in {module.split(".")[0] for module in imports(file)}


@pytest.mark.parametrize(
    "file", [f for f in FILES if room(dotted(f)) in ("losses", "samplers", "information")], ids=dotted
)
def test_losses_samplers_and_information_know_only_arrays(file):
    known = {module.split(".")[0] for module in imports(file)}
    assert not known & {"ignite", "matplotlib", "monai", "nibabel", "PIL"}


@pytest.mark.parametrize("file", FILES, ids=dotted)
def test_optional_packages_are_not_loaded_on_import(file):
    optional = {"ignite", "matplotlib", "nilearn", "numba", "scipy", "skimage", "tensorboard", "tqdm"}
    if file.name.startswith("_") or room(dotted(file)) == "commands":
        return  # `_entropy_numba` is itself loaded on demand
    at_once = {
        (node.module if isinstance(node, ast.ImportFrom) else node.names[0].name).split(".")[0]
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, (ast.Import, ast.ImportFrom))
    }
    assert not at_once & optional


@pytest.mark.parametrize("file", [*PUBLIC, *(f for f in PACKAGE.glob("*.py") if f.stem != "__init__")], ids=dotted)
def test_every_module_has_its_test(file):
    mirrored = TESTS / file.relative_to(PACKAGE).parent / f"test_{file.stem.strip('_')}.py"
    assert mirrored.exists()


@pytest.mark.parametrize("file", FILES, ids=dotted)
def test_everything_public_is_documented(file):
    for package in OPTIONAL_OF.get(file.stem, OPTIONAL_OF.get(room(dotted(file)), ())):
        pytest.importorskip(package, reason=f"{file.stem} needs {package}")
    module = import_module(dotted(file))
    assert module.__doc__
    for name, thing in defined(module, exported=False).items():
        assert thing.__doc__, name
        if inspect.isclass(thing):
            inherited = {method for base in thing.__mro__[1:] for method in vars(base)}
            methods = {m: f for m, f in vars(thing).items() if not m.startswith("_") and m not in inherited}
            for method, function in methods.items():
                assert inspect.getdoc(function) or not callable(function), f"{name}.{method}"


@pytest.mark.parametrize("file", EXPORTED, ids=dotted)
def test_every_export_exists_and_is_exported_by_its_room(file):
    module, its_room = import_module(dotted(file)), import_module(dotted(file.parent))
    assert sorted(module.__all__) == sorted(set(module.__all__))
    for name in module.__all__:
        assert getattr(its_room, name) is getattr(module, name)
        assert name in its_room.__all__


@pytest.mark.parametrize("name", EXPORTING)
def test_a_room_exports_nothing_else(name):
    its_room = import_module(f"monai_infoaug.{name}")
    modules = [import_module(dotted(file)) for file in EXPORTED if file.parent.name == name]
    assert len(its_room.__all__) == len(set(its_room.__all__))  # ruff keeps them in order
    assert set(its_room.__all__) == {export for module in modules for export in module.__all__}


@pytest.mark.parametrize("file", EXPORTED, ids=dotted)
def test_no_class_has_the_name_of_one_of_monai(file):
    """The scanner of bundles' configurations looks by class name, also into packages that start with `monai`."""
    from monai.bundle.config_item import ComponentLocator

    table = ComponentLocator().get_component_module_name.__self__
    module = import_module(dotted(file))
    for name in defined(module, exported=True):
        found = table.get_component_module_name(name) or []
        assert not [m for m in ([found] if isinstance(found, str) else found) if m.split(".")[0] == "monai"], name
