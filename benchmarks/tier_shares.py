"""Do tiers and points by tier mean what they say: ``python -m benchmarks.tier_shares --data DIR``.

A row for each data set, in two pipelines: the README's (grey levels scaled, no mask), and the bundles' (grey levels and
foreground by modality). Of some images each: how many voxels of the foreground tell nothing, what share of its voxels
each tier has, the tiers of what tells nothing or is outside, what share of the points of pairs with ``shares=(0.1,
0.45, 0.45)`` come from each tier, how far the worst image is from these shares, and how many points tell nothing.

Volumes are measured in 3D; slices of the template are what a 2D pipeline sees. Nothing is trained, no label is read.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.transforms import Compose, LoadImage, RandAffine, ScaleIntensityd
from torch import Tensor

from benchmarks._runs import require_positive
from monai_infoaug._require import refusal
from monai_infoaug.data import SimpleITKReader
from monai_infoaug.information.tiers import NOTHING
from monai_infoaug.transforms import InformationMapd, InformationTiersd, ModalityPresetd, RandPairedViewsd

SHARES = (0.1, 0.45, 0.45)
POINTS, SIDE = 512, 128  # of a pair: its points, and voxels of a view's side at most
PIPELINES = ("README", "modality")
MNI = "afids/tpl-MNI152NLin2009cAsym_res-01_{}.nii.gz"


class Source(NamedTuple):
    """Where the images of a data set are, and how they are measured."""

    pattern: str
    modality: str
    window: int | tuple[int, ...] = 9
    slices: bool = False  # of the volumes, instead of them
    package: str | None = None  # that brings the images along

    def files(self, data: Path) -> list[Path]:
        """The images in the folder of data or in the package; none where it is missing."""
        if self.package is not None:
            spec = find_spec(self.package)
            data = Path(spec.origin).parent if spec and spec.origin else data / "nowhere"
        return sorted(data.glob(self.pattern))


SOURCES = {
    "ceph": Source("ceph/train/*.jpg", "xray"),
    "jsrt": Source("jsrt/images/*.png", "xray"),
    "fundus, REFUGE": Source("fundus/refuge/image/*", "rgb"),
    "fundus, Drishti": Source("fundus/drishti_train/image/*", "rgb"),
    "hippocampus": Source("hippocampus/images/*.nii.gz", "mr"),
    "acdc": Source("acdc/images/*.nii.gz", "mr", (9, 9, 1)),  # thick slices
    "afids T1w": Source(MNI.format("T1w"), "mr"),
    "afids T2w": Source(MNI.format("T2w"), "mr"),
    "afids, slices": Source(MNI.format("T?w"), "mr", slices=True),
    "stripped MNI152, slices": Source("datasets/data/mni_icbm152_t1*.nii.gz", "mr", slices=True, package="nilearn"),
}


def images(source: Source, data: Path, count: int) -> Iterator[Tensor]:
    """Up to ``count`` images (C, *S), spread over the data set."""
    load = LoadImage(image_only=True, ensure_channel_first=True, reader=SimpleITKReader)
    files = spread(source.files(data), count)
    for file in files:
        image = load(file)
        if source.slices:
            middle = range(image.shape[-1] // 4, 3 * image.shape[-1] // 4)
            yield from (image[..., k] for k in spread(middle, -(-count // len(files))))
        else:
            yield image


def spread(items: Sequence[Any], count: int) -> list[Any]:
    """Up to ``count`` of the items, evenly."""
    return [items[k] for k in sorted({round(k) for k in np.linspace(0, len(items) - 1, count)})] if items else []


def chain(pipeline: str, source: Source, sizes: Sequence[int]) -> Compose:
    """From an image to its tiers and a pair."""
    masked = pipeline == "modality"
    mask = "foreground" if masked else None
    pairs = RandPairedViewsd(
        ("image", "information"),
        mode=(None, "nearest"),
        roi_size=[min(SIDE, size) for size in sizes] if len(sizes) == 3 else [-1, -1],
        spatial=RandAffine(prob=1, rotate_range=[0.1] * (1 if len(sizes) == 2 else 3), padding_mode="border"),
        num_points=POINTS,
        shares=SHARES,
        mask_key=mask,
        outputs=(),
        keep_source=True,
    )
    return Compose(
        [
            ModalityPresetd("image", modality=source.modality) if masked else ScaleIntensityd("image"),
            InformationMapd("image", window=source.window, mask_key=mask),
            InformationTiersd(mask_key=mask),
            pairs,
        ]
    )


def measured(image: Tensor, pipeline: str, source: Source) -> dict[str, Any]:
    """What one image gives; of shares, three numbers."""
    transform = chain(pipeline, source, image.shape[1:]).set_random_state(0)
    item = {key: torch.as_tensor(value) for key, value in transform({"image": image}).items()}
    nothing, tiers = item["information"] <= NOTHING, item["tiers"]
    inside = item.get("foreground", torch.ones_like(tiers)) > 0
    shown = item["points_valid"]
    bits = item["information_view1"][0][tuple(item["points_view1"][shown].long().T)]
    return {
        "nothing": float(nothing[inside].double().mean()),
        "tiers": share_of_each(tiers[inside]),
        "tiers_of_nothing": tiers[nothing | ~inside].unique().tolist(),
        "points": share_of_each(item["points_tier"][shown]),
        "points_on_nothing": float((bits <= NOTHING).double().mean()),
    }


def share_of_each(tiers: Tensor) -> list[float]:
    """Share of each of the three tiers."""
    return (tiers.flatten().long().bincount(minlength=3) / tiers.numel()).tolist()


def row(name: str, pipeline: str, data: Path, count: int) -> dict[str, Any]:
    """A row of the table: means over the images of a data set, and the worst of them."""
    found = [measured(image, pipeline, SOURCES[name]) for image in images(SOURCES[name], data, count)]
    points = np.array([each["points"] for each in found])
    means = {key: np.mean([each[key] for each in found], 0).round(4).tolist() for key in found[0] if "of_" not in key}
    return {
        "benchmark": "tier_shares",
        "data": name,
        "pipeline": pipeline,
        "images": len(found),
        **means,
        "tiers_of_nothing": sorted({tier for each in found for tier in each["tiers_of_nothing"]}),
        "least_low": min(each["tiers"][0] for each in found),
        "worst": float(np.abs(points - SHARES).max()),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table, and a JSON line for each row."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data", help="%(default)s")
    parser.add_argument("--images", type=int, default=10, metavar="N", help="of each data set (%(default)s)")
    options = parser.parse_args(arguments)
    require_positive(options, "images")
    names = [name for name, source in SOURCES.items() if source.files(options.data)]
    if not names:
        raise refusal("data", f"'{options.data}'", f"a folder with one of {', '.join(SOURCES)}")
    rows = []
    for name in names:
        for pipeline in PIPELINES:
            rows.append(row(name, pipeline, options.data, options.images))
            print(json.dumps(rows[-1]), flush=True)
    heads = ["data", "pipeline", "images", "tell nothing: voxels, points %", "voxels by tier %", "points by tier %"]
    print(f"\n| {' | '.join([*heads, 'worst image, off by'])} |\n{'|---' * 7}|")
    for each in rows:
        voxels, points = (" / ".join(f"{100 * share:.1f}" for share in each[key]) for key in ("tiers", "points"))
        nothing = f"{100 * each['nothing']:.1f}, {100 * each['points_on_nothing']:.1f}"
        cells = each["data"], each["pipeline"], each["images"], nothing, voxels, points, f"{100 * each['worst']:.1f}"
        print(f"| {' | '.join(map(str, cells))} |")


if __name__ == "__main__":
    main()
