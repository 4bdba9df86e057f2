"""The command line: ``monai-infoaug`` or ``python -m monai_infoaug``. Heavy imports wait inside of the commands."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.util import find_spec

from monai_infoaug import __version__


def require_extra(extra: str, *modules: str) -> None:
    """Refuse to start a command without the packages of its extra.

    Raises:
        ImportError: naming what is missing and what to install.
    """
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise ImportError(f"needs {', '.join(missing)}: pip install monai_infoaug[{extra}]")


def demo(args: argparse.Namespace) -> None:
    """Run the demonstration."""
    require_extra("demo", "ignite", "matplotlib", "nilearn", "tqdm")
    from monai_infoaug.demo import run_demo

    run_demo(args.out, args.seed, args.epochs, args.device)


def make_parser() -> argparse.ArgumentParser:
    """A command a function: ``args.run(args)``."""
    parser = argparse.ArgumentParser(
        prog="monai-infoaug",
        description="Information-guided pixel augmentation and pixel-contrastive pre-training for MONAI.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)

    command = commands.add_parser(
        "demo",
        help="pre-train on a real brain in about two minutes, then match points",
        description="Pre-train on slices of a real brain, without labels, then find points in changed copies of slices "
        "that were not seen. Nothing is downloaded. Writes a table and a picture.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    command.add_argument("--out", default="infoaug_demo", metavar="DIR", help="folder for demo.csv and demo.png")
    command.add_argument("--seed", type=int, default=0, help="of the training")
    command.add_argument("--epochs", type=int, default=40, help="over the training slices")
    command.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ...")
    command.set_defaults(run=demo)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        Exit status: 0, 2 for a user's error (one line on stderr), 130 after Ctrl-C.
    """
    args = make_parser().parse_args(argv)
    try:
        args.run(args)
    except (ImportError, OSError, ValueError) as error:
        print(f"monai-infoaug {args.command}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
