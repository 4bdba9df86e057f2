#!/usr/bin/env python-real
"""A command line module of 3D Slicer: ``monai-infoaug annotate``, with the command line that it has everywhere.

InfoaugAnnotate.xml, beside this file, is what Slicer makes the panel from. The program of the environment variable
INFOAUG_PYTHON runs it, or else Slicer's own Python.
"""

import os
import subprocess
import sys
from pathlib import Path

OF_SLICER = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONHOME", "PYTHONPATH")  # not for another Python


def command(arguments):
    """The command line, without the options that were left empty in the panel."""
    left = list(arguments)
    for place in reversed(range(1, len(left))):
        if left[place] == "" and left[place - 1].startswith("--"):
            del left[place - 1 : place + 1]
    return [os.environ.get("INFOAUG_PYTHON", sys.executable), "-m", "monai_infoaug", "annotate", *left]


def main(arguments):
    """Say what the panel has, or do what it says."""
    if arguments == ["--xml"]:
        print(Path(__file__).with_suffix(".xml").read_text(encoding="utf-8"))
        return 0
    own = "INFOAUG_PYTHON" not in os.environ
    environment = {name: value for name, value in os.environ.items() if own or name not in OF_SLICER}
    return subprocess.call(command(arguments), env=environment)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
