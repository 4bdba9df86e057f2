"""The arguments of the command line."""

from __future__ import annotations

import argparse
import ast
import json
from contextlib import suppress
from typing import Any

from monai_infoaug import __version__
from monai_infoaug.commands._advising import add_advising


def plain(text: str) -> Any:
    """A value on the command line: JSON, numbers as Python writes them, or else the text itself.

    Example:
        >>> plain("[0.3, 0.5]"), plain(".3"), plain("[.3,1.]"), plain("images"), plain("True")
        ([0.3, 0.5], 0.3, [0.3, 1.0], 'images', 'True')
    """
    with suppress(ValueError):
        return json.loads(text)
    with suppress(ValueError, SyntaxError):
        value = ast.literal_eval(text)
        if all(type(number) in (int, float) for number in (value if isinstance(value, list) else [value])):
            return value
    return text


def setting(text: str) -> tuple[str, Any]:
    """KEY=VALUE."""
    key, sign, value = text.partition("=")
    if not (key and sign):
        raise argparse.ArgumentTypeError(f"must be KEY=VALUE, got {text}")
    return key, plain(value)


def add_measuring(command: argparse.ArgumentParser, window: str, bins: str) -> None:
    """The options of the commands that measure information: how images are read, scaled, measured and changed.

    Args:
        command: what gets them.
        window: which window is taken if none is given.
        bins: how many bins.
    """
    command.add_argument("--modality", metavar="NAME", help="xray, mr, ct or rgb (by the channels and axes)")
    command.add_argument("--pixdim", type=float, metavar="MM", help="of a pixel, for PNG and JPEG, which do not say it")
    command.add_argument("--working-pixdim", type=float, metavar="MM", help="resample first, as the training would")
    command.add_argument("--window", type=int, metavar="VOXELS", help=f"odd side of the window ({window})")
    command.add_argument("--window-mm", type=float, metavar="MM", help="side of the window, instead of --window")
    command.add_argument("--bins", type=int, dest="num_bins", metavar="N", help=f"grey levels ({bins})")
    command.add_argument("--intensity", metavar="NAME", help="preset of the intensity changes (rich)")
    command.add_argument("--seed", type=int, default=0, metavar="N", help="of what is drawn (%(default)s)")


def add_templates(command: argparse.ArgumentParser, needs_landmarks: bool = True) -> None:
    """The options that say what is annotated."""
    command.add_argument(
        "--template", required=True, action="append", metavar="IMAGE", help="annotated image, or a folder; repeatable"
    )
    command.add_argument(
        "--landmarks",
        required=needs_landmarks,
        action="append",
        metavar="TABLE",
        help="landmarks in mm: .csv, .fcsv or .mrk.json; of several templates one .csv for all, or repeated, one each",
    )


def add_planning(command: argparse.ArgumentParser) -> None:
    """The options of the commands that make a plan."""
    command.add_argument(
        "--minutes", type=float, default=60.0, metavar="N", help="that all of it may take, about (%(default)s)"
    )
    command.add_argument("--dry-run", action="store_true", help="stop when the plan is made")
    command.add_argument("--plan", metavar="FILE", help="plan.json of an earlier run, perhaps edited")


def add_place(command: argparse.ArgumentParser) -> None:
    """The options that say where networks are, and how what is drawn is."""
    command.add_argument("--device", help="cpu, cuda, cuda:1, ... (cuda where there is one)")
    command.add_argument("--seed", type=int, default=0, metavar="N", help="of what is drawn (%(default)s)")


def add_nnunet(command: argparse.ArgumentParser, is_needed: bool = False) -> None:
    """The options that say what nnU-Net has planned."""
    own = "" if is_needed else " (that of the pre-training)"
    command.add_argument("--plans", required=is_needed, metavar="FILE", help=f"nnUNetPlans.json of nnU-Net 2{own}")
    default = "3d_fullres" if is_needed else None
    shown = own or " (%(default)s)"
    command.add_argument("--configuration", default=default, metavar="NAME", help=f"of the plan{shown}")


def make_parser() -> argparse.ArgumentParser:
    """The parser, whose ``command`` says which one was given."""
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
        "that were not seen. Nothing is downloaded. Writes a table, a picture, and, to play with, the network and "
        "slices.",
    )
    command.add_argument("--out", default="infoaug_demo", metavar="DIR", help="folder for what it writes (%(default)s)")
    command.add_argument("--seed", type=int, default=0, metavar="N", help="of the training (%(default)s)")
    command.add_argument("--epochs", type=int, default=40, metavar="N", help="over the training slices (%(default)s)")
    command.add_argument("--device", help="cpu, cuda, cuda:1, ... (cuda where there is one)")

    command = commands.add_parser(
        "init",
        help="copy an example bundle into a folder of yours",
        description="Copy a MONAI bundle of this package into a folder, to be changed and run. Without arguments: list "
        "the bundles. With --advise: say which to take, by what the tables of results have for as many labels.",
    )
    command.add_argument("bundle", nargs="?", metavar="BUNDLE", help="name of the bundle")
    command.add_argument("dir", nargs="?", metavar="DIR", help="new or empty folder (default: the bundle's name)")
    command.add_argument("--list", action="store_true", help="list the bundles")
    add_advising(command)

    command = commands.add_parser(
        "match",
        help="find the landmarks of one annotated template in images",
        description="Find the landmarks of one annotated template in images. The folder of --out gets, for each image, "
        "NAME.mrk.json for 3D Slicer and the picture NAME.png, and over all landmarks.csv, confident.csv without those "
        "that are low, and summary.csv. Landmarks that are low should be looked at. An image that fails does not stop "
        "the others; the exit status is then 1.",
    )
    command.add_argument("images", nargs="+", metavar="IMAGES", help="files and folders")
    command.add_argument("--checkpoint", required=True, metavar="FILE", help="of a training with a bundle")
    add_templates(command)
    command.add_argument(
        "--out", default="infoaug_match", metavar="DIR", help="folder for what is written (%(default)s)"
    )
    command.add_argument(
        "--pixdim", type=plain, metavar="MM", help="of a pixel, for PNG and JPEG, which do not say it (1: pixels)"
    )
    command.add_argument("--origin", type=plain, metavar="MM", help="position of the centre of the first pixel")
    command.add_argument(
        "--bundle",
        metavar="NAME|DIR",
        help="a bundle of this package, or your own, which may run code of its own (as the checkpoint says)",
    )
    command.add_argument(
        "--set",
        action="append",
        type=setting,
        metavar="KEY=VALUE",
        help="a setting at the top of the bundle's train.json, in JSON; overrides that of the checkpoint; repeatable",
    )
    command.add_argument(
        "--min-score", type=float, default=-1.0, metavar="X", help="a landmark with a score (cosine) below it is low"
    )
    command.add_argument(
        "--max-round-trip",
        type=float,
        default=3.0,
        metavar="VOXELS",
        help="a landmark whose match, searched in the template in turn, is found farther than this from it is low, in "
        "voxels of the working resolution (%(default)s; the page of the bundle landmark_pretraining says how many of "
        "the large errors that catches)",
    )
    command.add_argument(
        "--consensus",
        type=int,
        default=0,
        metavar="K",
        help="let the K images in which the template's landmarks score best vote, too, on where the landmarks of an "
        "image are (%(default)s: the template alone)",
    )
    command.add_argument(
        "--pool",
        nargs="+",
        metavar="IMAGES",
        help="files and folders of images that may do so (all)",
    )
    command.add_argument("--device", help="cpu, cuda, cuda:1, ... (cuda where there is one)")

    command = commands.add_parser(
        "advise",
        help="say which image to annotate first",
        description="Say which images of a folder to annotate, so that landmarks or labels are found best in the "
        "others; with --template, which next. Without --checkpoint it pre-trains first. --out gets advice.csv, a row a "
        "candidate, and the picture advice.png. Stopped and started again, it goes on.",
    )
    command.add_argument("images", nargs="+", metavar="IMAGES", help="files and folders")
    command.add_argument("--number", type=int, default=1, metavar="K", help="of images to annotate (%(default)s)")
    command.add_argument("--checkpoint", metavar="FILE", help="of a pre-training; its images may be others")
    command.add_argument(
        "--template", action="append", default=[], metavar="IMAGE", help="annotated image, or a folder; repeatable"
    )
    command.add_argument("--landmarks", action="append", metavar="TABLE", help="of the templates, as for annotate")
    command.add_argument(
        "--out", default="infoaug_advice", metavar="DIR", help="folder for what is written (%(default)s)"
    )
    command.add_argument("--pixdim", type=plain, metavar="MM", help="of a pixel, for PNG and JPEG, which do not say it")
    command.add_argument("--origin", type=plain, metavar="MM", help="of the first pixel's centre")
    command.add_argument(
        "--minutes", type=float, default=15.0, metavar="N", help="of pre-training, about (%(default)s)"
    )
    add_place(command)

    command = commands.add_parser(
        "annotate",
        help="annotate a folder of images from one annotated image",
        description="Annotate images from one that is annotated, or from a few, with --landmarks, --labels or both: "
        "plan, pre-train without labels, match or carry, and train networks on what was found. --out gets "
        "NAME.mrk.json for 3D Slicer, the label map NAME.nii.gz and NAME.png for each image, landmarks.csv, and "
        "review.html, on which the images that need a look come first; plan.json, to be "
        "edited; and the stages, each with its command, to go on from by hand. Stopped and started again, it goes on. "
        "Images that cannot be read or are unlike the others are left out, and the exit status is then 1.",
    )
    command.add_argument("images", nargs="+", metavar="IMAGES", help="files and folders")
    add_templates(command, needs_landmarks=False)
    command.add_argument(
        "--labels", action="append", metavar="LABELMAP", help="label map of the template, or a folder; repeatable"
    )
    command.add_argument(
        "--names", type=plain, metavar="JSON", help="of the classes: a list, or name to value, or a file"
    )
    command.add_argument("--out", default="infoaug_annotated", metavar="DIR", help="folder for all of it (%(default)s)")
    command.add_argument(
        "--pixdim", type=plain, metavar="MM", help="of a pixel, for PNG and JPEG, which do not say it (1: pixels)"
    )
    command.add_argument(
        "--origin",
        type=plain,
        default=0.0,
        metavar="MM",
        help="position of the centre of the first pixel (%(default)s)",
    )
    add_planning(command)
    command.add_argument("--checkpoint", metavar="FILE", help="of a pre-training, as that of advise")
    command.add_argument(
        "--corrected",
        metavar="DIR",
        help="markups and label maps that you have corrected: templates from now on",
    )
    add_place(command)

    command = commands.add_parser(
        "segment",
        help="segment a folder of images of which a few have label maps",
        description="Learn from the label maps of a few images and segment all of them: a U-Net, and where there are "
        "few, a second round on what it has found. --out gets the label map of each image, NAME.nii.gz or "
        "NAME.png, labels.csv, classes.json, plan.json and the stages. Stopped and started again, it goes on. The exit "
        "status is 1 if an image failed.",
    )
    command.add_argument("images", nargs="+", metavar="IMAGES", help="files and folders")
    command.add_argument("--labels", required=True, metavar="DIR", help="label maps with the names of their images")
    command.add_argument("--names", type=plain, metavar="JSON", help="of the classes: list, name to value, or file")
    command.add_argument("--out", default="infoaug_segment", metavar="DIR", help="folder for all of it (%(default)s)")
    command.add_argument("--pixdim", type=plain, metavar="MM", help="of a pixel, for files that do not say it")
    add_planning(command)
    add_place(command)

    command = commands.add_parser(
        "pretrain",
        help="pre-train the network that nnU-Net has planned, without labels",
        description="Pre-train the network of a configuration of an nnU-Net plan by contrast of pixels, on images "
        "without labels. --out gets checkpoint.pt, for export. Stopped and started again, it goes on.",
    )
    command.add_argument("images", nargs="+", metavar="IMAGES", help="files and folders, such as imagesTr")
    add_nnunet(command, is_needed=True)
    command.add_argument(
        "--out", default="infoaug_pretrained", metavar="DIR", help="folder for all of it (%(default)s)"
    )
    command.add_argument("--modality", metavar="NAME", help="xray, mr, ct or rgb (by the plan's normalisation)")
    command.add_argument("--epochs", type=int, default=40, metavar="N", help="(%(default)s)")
    command.add_argument("--iterations", type=int, default=250, metavar="N", help="batches an epoch (%(default)s)")
    command.add_argument(
        "--batch-size", type=int, metavar="N", help="pairs of views a batch (half of the plan's patches)"
    )
    command.add_argument("--learning-rate", type=float, default=0.001, metavar="X", help="the highest (%(default)s)")
    command.add_argument("--num-workers", type=int, default=2, metavar="N", help="that make pairs (%(default)s)")
    add_place(command)

    command = commands.add_parser(
        "export",
        help="write pre-trained weights for nnU-Net or a network of MONAI",
        description="Write the weights of a pre-trained network without the embedding heads: for nnunet a file for "
        "nnUNetv2_train -pretrained_weights, for monai a state dictionary.",
    )
    command.add_argument("checkpoint", metavar="CHECKPOINT", help="of pretrain, or of a training of EmbeddingHeads")
    command.add_argument("--to", required=True, choices=("monai", "nnunet"), help="whose weights to write")
    command.add_argument("--out", metavar="FILE", help="new file (monai.pt or nnunet.pth beside the checkpoint)")
    add_nnunet(command)

    command = commands.add_parser(
        "check",
        help="see which files of a data set cannot be read or do not go with the others",
        description="Read every image of a folder as the bundles do, and print a line for each that is not fine: that "
        "cannot be read, says no millimetres, is tilted, is unlike the others, or does not go with its label or its "
        "landmarks. The exit status is then 1.",
    )
    command.add_argument("data", metavar="DIR", help="folder of images, or one image")
    command.add_argument("--labels", metavar="DIR", help="folder of label images with the names of the images")
    command.add_argument("--landmarks", metavar="TABLE", help="in mm: .csv, or .fcsv and .mrk.json, one or a folder")
    command.add_argument("--pixdim", type=plain, metavar="MM", help="of a pixel, for files that do not say it")
    command.add_argument(
        "--origin", type=plain, default=0.0, metavar="MM", help="position of the centre of the first pixel"
    )

    command = commands.add_parser(
        "inspect",
        help="see what the tiers do to an image of yours",
        description="Write a page for the browser about one image: its information, its tiers with thresholds to be "
        "moved, each tier's intensity, and two views with matched points.",
    )
    command.add_argument("path", metavar="IMAGE", help="2D or 3D, grey or RGB; or a folder with a DICOM series")
    command.add_argument("--out", default="inspect.html", metavar="FILE", help="the page (%(default)s)")
    add_measuring(command, "9 in 2D, 5 in 3D", "32")
    command.add_argument("--origin", type=float, default=0.0, metavar="MM", help="of the first pixel's centre")
    command.add_argument(
        "--thresholds", type=float, nargs=2, metavar=("T1", "T2"), help="in bits (tertiles of the foreground)"
    )
    command.add_argument(
        "--strengths",
        type=float,
        nargs=3,
        metavar=("LOW", "MEDIUM", "HIGH"),
        help="of each tier's change, 0 for none (the preset's own)",
    )
    command.add_argument(
        "--foreground",
        type=plain,
        metavar="body|LEVEL",
        help="leave out black surrounds: the body alone, or what is brighter than a grey level (by the modality)",
    )
    command.add_argument(
        "--ct-window",
        type=plain,
        metavar="NAME|[LOW,HIGH]",
        help="soft, brain, lung, bone, or Hounsfield units that become black and white (from fat to bone)",
    )
    command.add_argument("--calibration", metavar="FILE", help="of calibrate: show what it says")
    command.add_argument(
        "--bundle",
        metavar="NAME|DIR",
        help="show what its training would do: a bundle of this package, or your own, which may run code of its own",
    )
    command.add_argument(
        "--overlay", metavar="NAME", help="with --bundle: a method of it, such as label_efficient of segmentation"
    )
    command.add_argument("--axis", type=int, default=-1, metavar="N", help="along which a volume is cut (the last)")
    command.add_argument("--slice", type=int, dest="index", metavar="N", help="for samples and views (the middle one)")

    command = commands.add_parser(
        "calibrate",
        help="estimate the settings of the transforms from training images",
        description="Estimate from training images, without labels, the range of grey levels, window and bins of "
        "the information map, the thresholds of the tiers, and how strong each tier's intensity change may be. Writes "
        "a JSON file for the transforms, and a picture beside it.",
    )
    command.add_argument("--data", required=True, metavar="DIR", help="folder of training images")
    command.add_argument("--out", default="calibration.json", metavar="FILE", help="what is written (%(default)s)")
    add_measuring(command, "chosen", "chosen")
    command.set_defaults(intensity="rich")
    command.add_argument(
        "--alpha",
        type=float,
        default=1.0,
        metavar="X",
        help="a change may go down to this share of the mutual information of corresponding patches (%(default)s)",
    )
    command.add_argument(
        "--keep", type=float, default=0.5, metavar="X", help="share of the way down to there that is left (%(default)s)"
    )
    command.add_argument(
        "--images", type=int, default=20, dest="num_images", metavar="N", help="that are drawn (%(default)s)"
    )
    command.add_argument(
        "--checkpoint",
        metavar="FILE",
        help="of a training: the thresholds are then where its loss over the information crosses the mean loss, and "
        "--modality and --working-pixdim those of the training",
    )
    return parser
