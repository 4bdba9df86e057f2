"""The command line: ``monai-infoaug`` or ``python -m monai_infoaug``. Heavy imports wait inside of the commands."""

from __future__ import annotations

import argparse
import shlex
import sys
import warnings
from collections.abc import Sequence
from importlib.util import find_spec

from monai_infoaug._console import Failure, leave_console, say
from monai_infoaug.commands._arguments import make_parser

MADE_OF_MAPS = {"advise", "annotate", "calibrate", "demo", "inspect", "segment"}  # commands that compute many of them


def require_extra(extra: str, *modules: str) -> None:
    """Refuse to start a command without the packages of its extra.

    Raises:
        ImportError: naming what is missing and what to install.
    """
    if missing := [module for module in modules if find_spec(module) is None]:
        raise ImportError(f"needs {', '.join(missing)}: pip install monai_infoaug[{extra}]")


def usual_device() -> str:
    """Where networks are if nobody says: as in the bundles."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def say_what_was_slow(command: str) -> None:
    """Say what makes a command faster the next time."""
    if command in MADE_OF_MAPS and find_spec("numba") is None:
        line = "information maps and views took several times as long without numba: pip install monai_infoaug[fast]"
        say(f"{command}: {line}", sys.stderr)


def demo(args: argparse.Namespace) -> None:
    """Run the demonstration."""
    require_extra("demo", "ignite", "matplotlib", "nilearn", "tqdm")
    from monai_infoaug.commands.demo import run_demo

    run_demo(args.out, args.seed, args.epochs, args.device)


def init(args: argparse.Namespace) -> None:
    """Copy a bundle, list them, or say which to take."""
    from monai_infoaug import bundles
    from monai_infoaug.commands.recipes import require_advising, say_advice

    if args.advise:
        return say_advice(args)
    require_advising(args)
    if args.list or args.bundle is None:
        for name, line in bundles.describe_bundles().items():
            say(f"{name}\n    {line}")
            if overlays := bundles.bundle_overlays(bundles.find_bundle(name)):
                say(f"    Methods: {', '.join(overlays)}")
        return
    folder = bundles.copy_bundle(args.bundle, args.dir or args.bundle)
    train, use = bundles.training_command(folder), bundles.using_command(folder)
    say(
        f"Copied {args.bundle} to {folder}. Its page is {folder / 'docs' / 'README.md'}. To train:\n"
        f"  cd {shlex.quote(str(folder))}\n"
        f"  {train}"
    )
    if overlays := bundles.bundle_overlays(folder):
        methods = "\n".join(f"  {bundles.training_command(folder, overlay)}" for overlay in overlays)
        say(f"Or by one of its methods:\n{methods}")
    say(f"Then:\n  {use}")
    for word, meaning in bundles.inputs_of(train, use).items():
        say(f"{word:>13}: {meaning}")
    try:
        require_extra("train", "ignite", "tensorboard", "matplotlib", "tqdm", "fire", "yaml", "einops", "scipy")
    except ImportError as error:
        say(f"The bundle {error}")


def match(args: argparse.Namespace) -> int:
    """Find the landmarks of a template in images."""
    require_extra("train", "matplotlib", "tqdm")
    from monai_infoaug.commands.match import match_images

    settings = dict(args.set or ()) | {
        name: value for name in ("pixdim", "origin") if (value := getattr(args, name)) is not None
    }
    failures = match_images(
        args.checkpoint,
        args.template,
        args.landmarks,
        args.images,
        args.out,
        args.bundle,
        settings,
        args.min_score,
        args.max_round_trip,
        args.device,
        args.consensus,
        args.pool,
    )
    return int(bool(failures))


def advise(args: argparse.Namespace) -> None:
    """Say which image to annotate first."""
    require_extra("train", "ignite", "matplotlib", "tqdm", "tensorboard")
    from monai_infoaug.commands.advise import advise_images

    settings = {name: value for name in ("pixdim", "origin") if (value := getattr(args, name)) is not None}
    advise_images(
        args.checkpoint,
        args.images,
        args.number,
        args.template,
        args.landmarks,
        args.out,
        settings,
        device=args.device,
        seed=args.seed,
        minutes=args.minutes,
    )


def annotate(args: argparse.Namespace) -> int:
    """Annotate images from one that is annotated."""
    require_extra("train", "ignite", "matplotlib", "tqdm", "tensorboard")
    from monai_infoaug.commands.annotate import annotate_images

    given = {name: value for name, value in vars(args).items() if name != "command"}
    return int(bool(annotate_images(**given)))


def segment(args: argparse.Namespace) -> int:
    """Segment images of which a few have label maps."""
    require_extra("train", "ignite", "tqdm", "tensorboard")
    from monai_infoaug.commands.segment import segment_images

    given = {name: value for name, value in vars(args).items() if name != "command"}
    return int(bool(segment_images(**given)))


def pretrain(args: argparse.Namespace) -> None:
    """Pre-train the network of an nnU-Net plan."""
    require_extra("nnunet", "ignite", "tqdm", "dynamic_network_architectures")
    from monai_infoaug.commands.pretrain import pretrain_network

    pretrain_network(**{name: value for name, value in vars(args).items() if name != "command"})


def export(args: argparse.Namespace) -> None:
    """Write pre-trained weights for other software."""
    if args.to == "nnunet":
        require_extra("nnunet", "dynamic_network_architectures")
    from monai_infoaug.commands.export import export_weights

    export_weights(**{name: value for name, value in vars(args).items() if name != "command"})


def check(args: argparse.Namespace) -> int:
    """Say which files of a data set are not fine."""
    from monai_infoaug.commands.check import check_data

    found = check_data(**{name: value for name, value in vars(args).items() if name != "command"})
    for finding in found:
        say(f"{finding.path}: {'' if finding.is_fault else 'note: '}{finding.text}")
    faulty = {finding.path for finding in found if finding.is_fault}
    say(f"Files that are not fine: {len(faulty)}." if faulty else "All files are fine.")
    return int(bool(faulty))


def inspect(args: argparse.Namespace) -> None:
    """Write a page about one image."""
    from monai_infoaug.commands.inspection import inspect_image

    inspect_image(**{name: value for name, value in vars(args).items() if name != "command"})
    say(f"Wrote {args.out}; open it in a browser.")


def calibrate(args: argparse.Namespace) -> None:
    """Estimate the settings of the transforms from a folder of images."""
    require_extra("train", "matplotlib", "tqdm")
    from monai_infoaug.commands.calibration import calibrate

    found = calibrate(**{name: value for name, value in vars(args).items() if name != "command"})
    for tier, strength in found["intensity"]["strengths"].items():
        say(f"{tier:>6}: {found['intensity']['transforms']} at strength {strength:g}")
    say("thresholds: {:.3f} and {:.3f} bits".format(*found["thresholds"]))
    say(f"Wrote {args.out} and a picture beside it.")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        Exit status: 0, 1 if some of several images failed, 2 for a user's error (one line on stderr), 130 after Ctrl-C.
    """
    args = make_parser().parse_args(argv)
    if getattr(args, "device", "") is None:
        args.device = usual_device()
    usual = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"{args.command}: {' '.join(str(message).split())}\n"
    try:
        status = globals()[args.command](args) or 0  # the function of that name
        say_what_was_slow(args.command)
        return status
    except (ImportError, MemoryError, OSError, RuntimeError, ValueError) as error:
        what = " ".join(str(error).split()) or "out of memory"
        if isinstance(error, RuntimeError) and not isinstance(error, Failure) and "memory" not in what:
            raise
        say(f"monai-infoaug {args.command}: {what}", sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    finally:
        leave_console()
        warnings.formatwarning = usual


if __name__ == "__main__":
    sys.exit(main())
