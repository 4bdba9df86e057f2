"""The options of ``monai-infoaug init --advise``."""

from __future__ import annotations

import argparse

TASKS = ("landmarks", "segmentation")
NAMES = ("task", "labels", "unlabelled", "other_site", "volumes", "minutes")  # of `choose_recipe`


def add_advising(command: argparse.ArgumentParser) -> None:
    """The options that say what there is."""
    command.add_argument("--advise", action="store_true", help="say which recipe to take, by the tables of results")
    advice = command.add_argument_group("with --advise")
    advice.add_argument("--task", choices=TASKS, help="what is wanted")
    advice.add_argument("--labels", type=int, metavar="N", help="images that are annotated")
    advice.add_argument("--unlabelled", type=int, metavar="N", help="images that are not (0)")
    advice.add_argument("--other-site", action="store_true", help="these are of another site or scanner")
    advice.add_argument("--volumes", action="store_true", help="images are volumes")
    advice.add_argument("--minutes", type=float, metavar="M", help="for training on two CPU cores (any)")
