"""Lines on consoles of other code pages, and on such as are gone."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest

from monai_infoaug._console import leave_console, say

PROGRAM = "import sys; from monai_infoaug._console import *; say('x' * 99999); leave_console(); sys.exit(1)"


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [("utf-8", "é 页 \\udcf6\n"), ("cp1252", "é \\u9875 \\udcf6\n"), ("ascii", "\\xe9 \\u9875 \\udcf6\n")],
)
def test_characters_that_the_console_lacks_are_escaped(encoding, shown, monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding, newline="\n"))
    say("é 页 \udcf6")
    leave_console()
    assert raw.getvalue().decode(encoding) == shown


def test_a_program_without_a_console_says_nothing(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    say("anybody?")
    leave_console()


def test_a_reader_that_has_gone_does_not_change_the_exit_status():
    reading, writing = os.pipe()
    os.close(reading)
    run = subprocess.run([sys.executable, "-c", PROGRAM], stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (run.returncode, run.stderr) == (1, b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is full")
def test_a_full_disk_under_the_console_does_not_change_the_exit_status():
    with open("/dev/full", "wb") as full:
        run = subprocess.run([sys.executable, "-c", PROGRAM], stdout=full, stderr=subprocess.PIPE, check=False)
    assert (run.returncode, run.stderr) == (1, b"")
