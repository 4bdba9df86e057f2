"""``monai-infoaug init --advise``: which bundle to take."""

from __future__ import annotations

import argparse

from monai_infoaug._console import say
from monai_infoaug._require import refusal
from monai_infoaug.bundles import choose_recipe, inputs_of
from monai_infoaug.commands._advising import NAMES


def say_advice(args: argparse.Namespace) -> None:
    """Say what to take, the rows that say so, what to type, and what is not taken.

    Raises:
        ValueError: naming what is missing, out of range, or does not go together.
    """
    if args.list or args.bundle is not None:
        raise refusal("advise", f"it with {args.bundle or '--list'}", "given without a bundle: it chooses one")
    given = {name: getattr(args, name) for name in NAMES}
    advice = choose_recipe(**{name: value for name, value in given.items() if value is not None or name in NAMES[:2]})
    say(f"Take {advice.take}.")
    for row in advice.rows or ["No recipe that fits is clearly above it."]:
        say(f"  {row}")
    say(f"The tables are on the page results/{advice.page} of the documentation. Next:")
    for line in advice.commands:
        say(f"  {line}")
    for word, meaning in inputs_of(*advice.commands).items():
        say(f"{word:>13}: {meaning}")
    if advice.not_taken:
        say("Not taken:")
    for line in advice.not_taken:
        say(f"  {line}")


def require_advising(args: argparse.Namespace) -> None:
    """Refuse options of ``--advise`` without it.

    Raises:
        ValueError: naming the first of them.
    """
    for name in NAMES:
        if (value := getattr(args, name)) not in (None, False):
            raise refusal(name, value, "given with --advise alone")
