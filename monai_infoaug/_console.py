"""Lines for whoever runs a program; that they cannot be shown does not undo what was done."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TextIO


class Failure(RuntimeError):
    """A program that this one has run has failed: a line for the user, who is told where the rest of it is."""


def printable(text: str, encoding: str = "utf-8") -> str:
    r"""A text with escapes for what an encoding lacks; names of files need not be Unicode.

    Example:
        >>> printable("R\udcf6ntgen")
        'R\\udcf6ntgen'
    """
    return text.encode(encoding, "backslashreplace").decode(encoding)


def say(text: str, file: TextIO | None = None) -> None:
    """Print; characters that the console does not have are escaped, and a console that is gone is passed over.

    Args:
        text: a line, or several.
        file: where to. None: the standard output.

    Example:
        >>> say("thresholds: 1.5 and 2.5 bits")
        thresholds: 1.5 and 2.5 bits
    """
    stream = sys.stdout if file is None else file
    with suppress(OSError):  # whoever has read it, such as `head`, has stopped, or its disk is full
        print(printable(text, getattr(stream, "encoding", None) or "utf-8"), file=stream, flush=True)


def leave_console() -> None:
    """At the end of a program: what could not be printed is no failure of the program."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what Python flushes when it ends
