"""Lines for whoever runs a program; that they cannot be shown does not undo what was done."""

from __future__ import annotations

import os
import sys
from contextlib import suppress


def say(text: str) -> None:
    """Print; characters that the console does not have are escaped, and a console that is gone is passed over.

    Example:
        >>> say("thresholds: 1.5 and 2.5 bits")
        thresholds: 1.5 and 2.5 bits
    """
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    with suppress(OSError):  # whoever has read it, such as `head`, has stopped, or its disk is full
        print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)


def leave_console() -> None:
    """At the end of a program: what could not be printed is no failure of the program."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what Python flushes when it ends
