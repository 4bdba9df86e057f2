"""The command line module of 3D Slicer: its XML by the published schema of the execution model, its command line ours.

The elements, their order and attributes are those of CTK's ``ctkCmdLineModule.xsd``, as far as the module has them.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from xml.etree import ElementTree

import pytest

from monai_infoaug.commands._arguments import make_parser

PLACE = Path(__file__).parents[1] / "docs" / "howto" / "slicer"
SCRIPT, PANEL = PLACE / "InfoaugAnnotate.py", PLACE / "InfoaugAnnotate.xml"
pytestmark = pytest.mark.skipif(not SCRIPT.exists(), reason="not in a checkout")

# children in this order, those in brackets may be missing
EXECUTABLE = "[category] title description [version] [documentation-url] [license] [contributor] [acknowledgements]"
GROUP = "label description"
PARAMETER = "name [flag] [longflag] [index] description label [default] [channel]"
CONSTRAINTS = "[minimum] [maximum] step"
ATTRIBUTES = {
    "parameters": {"advanced"},
    "boolean": {"hidden"},
    **{kind: {"hidden", "multiple"} for kind in ("integer", "float", "double", "string", "directory")},
    "file": {"hidden", "multiple", "fileExtensions"},
}
SCALARS = {"integer": int, "double": float, "float": float}  # which may have constraints


def require_children(children: Iterable[ElementTree.Element], order: str) -> None:
    tags, known = [child.tag for child in children], order.split()
    places = [[part.strip("[]") for part in known].index(tag) for tag in tags]
    assert places == sorted(set(places))  # in order, and none twice
    assert [part for part in known if "[" not in part and part not in tags] == []


def parameters(root: ElementTree.Element) -> list[ElementTree.Element]:
    return [each for group in root.iter("parameters") for each in [*group][2:]]


def as_slicer_types(root: ElementTree.Element) -> list[str]:
    """The command line of a filled panel: options, then what has an index."""
    options, rest = [], []
    for parameter in parameters(root):
        value = parameter.findtext("default") or {"pixdim": "", "labels": ""}.get(parameter.findtext("name"), "a/b")
        flag = parameter.findtext("longflag")
        rest += [value] if flag is None else []
        options += [] if flag is None else [flag, value]
    return options + rest


@pytest.fixture
def root():
    return ElementTree.parse(PANEL).getroot()


@pytest.fixture
def module():
    spec = spec_from_file_location("InfoaugAnnotate", SCRIPT)
    loaded = module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def test_the_panel_is_as_the_schema_has_it(root):
    assert root.tag == "executable"
    groups = root.findall("parameters")
    assert [*root][-len(groups) :] == groups != []
    require_children([*root][: -len(groups)], EXECUTABLE)
    for group in groups:
        require_children([*group][:2], GROUP)
        assert group.get("advanced", "true") in ("true", "false")
    for element in root.iter():
        assert set(element.attrib) <= ATTRIBUTES.get(element.tag, set())
    for parameter in parameters(root):
        assert parameter.tag in ATTRIBUTES
        scalar = SCALARS.get(parameter.tag)
        require_children(parameter, PARAMETER + " [constraints]" * (scalar is not None))
        assert re.fullmatch(r"[_a-zA-Z]\w*", parameter.findtext("name"), re.ASCII)
        flags = parameter.findtext("flag") or parameter.findtext("longflag")
        assert (flags is None) != (parameter.findtext("index") is None)
        assert re.fullmatch(r"-?-?[_a-zA-Z]\w*", parameter.findtext("longflag", "a"), re.ASCII)
        assert parameter.findtext("index", "0").isdigit()
        assert parameter.findtext("channel", "input") in ("input", "output")
        if scalar is not None:
            scalar(parameter.findtext("default"))
        for constraints in parameter.findall("constraints"):
            require_children(constraints, CONSTRAINTS)
            assert [float(bound.text) for bound in constraints]
        extensions = parameter.get("fileExtensions", ".a")
        assert all(re.fullmatch(r"\.\w+", extension) for extension in extensions.split(","))
    names = [parameter.findtext("name") for parameter in parameters(root)]
    assert len(set(names)) == len(names)


def test_the_command_line_is_ours(root, module, monkeypatch):
    monkeypatch.delenv("INFOAUG_PYTHON", raising=False)
    python, *words = module.command(as_slicer_types(root))
    assert (python, words[:2]) == (sys.executable, ["-m", "monai_infoaug"])
    told = vars(make_parser().parse_args(words[2:]))
    asked = {parameter.findtext("name") for parameter in parameters(root)}
    assert asked <= told.keys()
    assert told["command"] == "annotate"
    assert (told["images"], told["template"], told["out"]) == (["a/b"], ["a/b"], "a/b")
    assert (told["pixdim"], told["labels"]) == (None, None)  # left empty
    usual = vars(make_parser().parse_args(["annotate", "a", "--template", "b"]))
    shown = {p.findtext("name"): p.findtext("default") for p in parameters(root) if p.find("default") is not None}
    assert {name: usual[name] for name in shown} == {name: type(usual[name])(text) for name, text in shown.items()}


def test_another_python_may_run_it(module, monkeypatch):
    seen = []
    monkeypatch.setattr(module.subprocess, "call", lambda words, env: seen.append((words, env)) or 3)
    monkeypatch.setenv("PYTHONHOME", "that of Slicer")
    assert module.main(["images"]) == 3
    monkeypatch.setenv("INFOAUG_PYTHON", "/env/bin/python")
    module.main(["images"])
    (own, own_environment), (other, other_environment) = seen
    assert (own[0], other[0]) == (sys.executable, "/env/bin/python")
    assert ("PYTHONHOME" in own_environment, "PYTHONHOME" in other_environment) == (True, False)


def test_the_script_says_its_panel_and_fails_as_the_command_does(monkeypatch):
    said = subprocess.run([sys.executable, SCRIPT, "--xml"], capture_output=True, text=True, check=True).stdout
    assert ElementTree.canonicalize(said) == ElementTree.canonicalize(from_file=PANEL)
    monkeypatch.delenv("INFOAUG_PYTHON", raising=False)
    run = [sys.executable, SCRIPT, "--template", "a.png", "--minutes", "many", "images"]
    failed = subprocess.run(run, capture_output=True, text=True, check=False)
    assert failed.returncode == 2
    assert "monai-infoaug annotate: error: argument --minutes" in failed.stderr
