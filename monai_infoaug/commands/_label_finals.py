"""Label maps of all images, as they were given or found, where a command writes its results."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from monai_infoaug._console import say
from monai_infoaug._files import Ledger
from monai_infoaug._require import WITHOUT_MILLIMETRES, refusal
from monai_infoaug.commands._label_files import label_bytes, label_suffix, onto_grid, read_labels, read_on_grid
from monai_infoaug.commands._label_maps import label_file
from monai_infoaug.data import image_name
from monai_infoaug.data._headers import faults
from monai_infoaug.data._landmark_files import by_name


def write_label_maps(
    ledger: Ledger,
    images: Mapping[Path, str],
    sure: Mapping[str, Path],
    folder: Path,
    found: Collection[str],
    pixdim: float | Sequence[float] | None = None,
    origin: float | Sequence[float] = 0.0,
    suffix: str | None = None,
) -> None:
    """Write ``NAME.nii.gz``, or for a picture ``NAME.png``, for each image; what somebody has changed stays.

    Args:
        ledger: of the folder.
        images: each image to its name.
        sure: name to label map, of the images that have one: it is brought to the image's grid.
        folder: of :py:func:`monai_infoaug.commands._label_maps.segment_each`, for the others.
        found: names of these.
        pixdim: millimetres a pixel, for formats that do not say it.
        origin: millimetres of the first pixel's centre, with ``pixdim``.
        suffix: of all files; None: ``.nii.gz``, or of pictures ``.png``.

    Raises:
        OSError: naming the file, if the disk is full.
    """
    files = {name: f"{name}{suffix or label_suffix(path)}" for path, name in images.items()}
    corrected = corrected_files(ledger, files.values())
    for path, name in images.items():
        file, made = files[name], label_file(folder, name, path)
        if file in corrected:
            say(f"{ledger.folder / file} was changed since it was written: it stays so", sys.stderr)
        elif name in found and name not in sure and file.endswith(made.suffix):
            ledger.write(file, made.read_bytes())
        elif name in sure or name in found:
            own, grid = read_labels(sure.get(name, made), pixdim, origin), read_on_grid(path, pixdim, origin)
            ledger.write(file, label_bytes(onto_grid(own, grid), grid, suffix or label_suffix(path)))


def corrected_files(ledger: Ledger, files: Iterable[str]) -> set[str]:
    """Those of some files that were written, and that somebody has changed since."""
    written = {record.get("file") for record in ledger.records()}
    return {file for file in files if file in written and (ledger.folder / file).exists() and not ledger.is_ours(file)}


def labels_of(images: Mapping[Path, str], files: Sequence[Path]) -> dict[str, Path]:
    """Name of an image to its label map, which has the same name.

    Raises:
        ValueError: for label maps of none of the images, one of two images of that name, or two of one image.
    """
    known = by_name(files, "labels", "label maps of different names")
    found: dict[str, Path] = {}
    for path, name in images.items():
        for key in (name, image_name(path)):
            if key in known:
                found[name] = known[key]
                break
    if not found:
        raise refusal("labels", f"'{files[0]}' and {len(files) - 1} more", "label maps with the names of images")
    twice = sorted(name for name, file in found.items() if [*found.values()].count(file) > 1)
    if twice:
        got = f"'{found[twice[0]]}' for the images {', '.join(twice)}"
        raise refusal("labels", got, "of one image each: name them as the segmentations will be named")
    return found


def require_label_of(image: Path, labels: Path, pixdim: float | Sequence[float] | None = None) -> None:
    """Refuse a label map that does not lie where its image does; a warning tells of one that is resampled to it.

    Raises:
        ValueError: naming the label map.
    """
    if not str(image).lower().endswith(WITHOUT_MILLIMETRES):
        for fault in faults([{"image": image, "label": labels}], pixdim=pixdim, is_resampled=True):
            raise fault
        return
    sizes = [" x ".join(map(str, read_on_grid(path).shape[1:])) for path in (labels, image)]
    if sizes[0] != sizes[1]:  # nothing else says where a picture's lies
        raise refusal("labels", f"'{labels}' of {sizes[0]} pixels for '{image}' of {sizes[1]}", "as large as its image")
