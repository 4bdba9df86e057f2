"""The page of error lines and the package say the same: each quoted line is there, and each that files can meet."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import monai_infoaug

PACKAGE = Path(monai_infoaug.__file__).parent
PAGE = (Path(__file__).parents[1] / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
TREES = {
    path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")
}
# of calls that say something to a user, which argument says it
SAYS = {"refused": 1, "unreadable": 1, "warn": 1, "_warn": 0, "find": 1, "Finding": 1}


def texts(node: ast.AST) -> list[str]:
    """The fixed parts of a text."""
    parts = node.values if isinstance(node, ast.JoinedStr) else [node]
    return [part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)]


def said(rooms: tuple[str, ...]) -> tuple[set[str], set[str]]:
    """Names of what is refused in some rooms, and pieces of what is said about files."""
    names, pieces = set(), set()
    calls = [
        node
        for path, tree in TREES.items()
        if path.startswith(rooms)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
    ]
    for call in calls:
        function = getattr(call.func, "id", getattr(call.func, "attr", ""))
        if function == "refusal" and isinstance(call.args[0], ast.Constant):
            names.add(call.args[0].value)
        elif len(call.args) > SAYS.get(function, 99):
            pieces.update(texts(call.args[SAYS[function]]))
    return names, {piece.strip(" :,;'`") for piece in pieces if len(piece) > 12}


def test_each_quoted_line_is_one_of_the_package():
    everything = "\n".join(text for tree in TREES.values() for node in ast.walk(tree) for text in texts(node))
    rows = re.findall(r"^\| (.*?) \| ", PAGE, re.M)
    quoted = [quote for row in rows for quote in re.findall(r"``(.+?)``", row)]
    assert len(quoted) > 150
    unknown = [
        part for quote in quoted for part in quote.split("…") if part.strip(" `'") and part.strip() not in everything
    ]
    assert not unknown


def test_each_line_that_files_commands_and_bundles_meet_is_on_the_page():
    names, pieces = said(("data/", "commands/", "handlers/", "bundles/", "_files.py"))
    assert len(names) > 40
    assert sorted(name for name in names if not re.search(rf"`+(?:[^`]*\b)?{re.escape(name)}\b", PAGE)) == []
    words = re.sub(r"\s+", " ", PAGE.replace("``", ""))
    missing = "\n".join(sorted(piece for piece in pieces if piece not in words))
    assert not missing, missing
