"""Landmarks across contrasts, side by side with registration: ``python -m benchmarks.afids --data DIR``.

The 32 anatomical fiducials (AFIDs) of the MNI152 template are known in its T1-weighted volume and searched in changed
copies of its T2-weighted one: turned by up to 15 degrees about each axis, shifted by up to 10 mm along each, and bent
by a smooth elastic field of up to 4 mm. The network learns from the T1-weighted volume alone; nothing reads the
T2-weighted one or the fiducials before the table is made.

Rows: the fiducials left in place; registration of the two volumes by mutual information (SimpleITK: rigid, then affine,
then B-spline); MIND descriptors [1], compared in a neighbourhood, of which the best place within 40 mm is taken; the
network of the bundle ``landmark_matching_3d``, untrained and trained, by the bundle's neighbourhoods, and with each
fiducial searched for itself in the whole volume. With ``--guidance`` the same network is also trained with uniform
changes and points from anywhere, and with the information of another place (the volume's own, turned by half a turn);
the differences come with the intervals of a bootstrap over the fiducials.

Every result is saved as soon as it is there, so that a run that was stopped goes on where it was.

References:
    1. Heinrich et al., "MIND: modality independent neighbourhood descriptor for multi-modal deformable registration",
       Medical Image Analysis 16(7), 2012.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: its waiting threads take the loaders' time

import numpy as np
import SimpleITK as sitk
import torch
from monai.bundle import ConfigParser
from monai.transforms import Compose, LoadImage
from monai.transforms.utils import create_rotate
from torch import Tensor, nn

from benchmarks._baselines import by_mind, register, to_sitk
from benchmarks._runs import bundle_config, print_difference, run_bundle
from monai_infoaug._grid import sample_at
from monai_infoaug._require import refusal
from monai_infoaug.data import SimpleITKReader, read_landmarks
from monai_infoaug.handlers import load_weights
from monai_infoaug.inferers import LandmarkMatcher

BUNDLE = "landmark_matching_3d"
TEMPLATE = "tpl-MNI152NLin2009cAsym_res-01_{}"
# the mean of many raters; the other table that lies beside it is one person's placement
FIDUCIALS = TEMPLATE.format("desc-groundtruth_afids.fcsv")
SEARCH = 40  # mm around a fiducial's place in the template, more than any change moves one


class Change:
    """A random rigid and smooth elastic change of a volume of 1 mm voxels, with the truth about every point.

    The changed volume shows at ``y`` what the volume shows at ``R (y - c) + c + shift + u(y)``, with the centre ``c``;
    ``u`` is a cubic B-spline field, scaled so that its largest displacement is ``elastic``.

    Args:
        size: size of the volume in voxels.
        seed: seed of the draw.
        degrees: largest turn about each axis.
        shift: largest shift along each axis, in mm.
        elastic: largest elastic displacement, in mm.
        spacing: distance of the spline's nodes in mm.

    Example:
        >>> change = Change((40, 50, 30), seed=0)
        >>> points = torch.tensor([[20.0, 25.0, 15.0]], dtype=torch.float64)
        >>> bool((change.source(change.moved(points)) - points).abs().max() < 1e-6)
        True
    """

    def __init__(
        self,
        size: Sequence[int],
        seed: int,
        degrees: float = 15.0,
        shift: float = 10.0,
        elastic: float = 4.0,
        spacing: float = 40.0,
    ) -> None:
        random = np.random.default_rng(seed)
        turns = np.deg2rad(random.uniform(-degrees, degrees, 3))
        self.rotation = torch.from_numpy(create_rotate(3, turns)[:3, :3])
        self.shift = torch.from_numpy(random.uniform(-shift, shift, 3))
        self.size, self.spacing = tuple(size), spacing
        self.centre = (torch.tensor(self.size, dtype=torch.float64) - 1) / 2
        count = [int((n - 1) / spacing) + 4 for n in self.size]
        self.nodes = torch.from_numpy(random.standard_normal((3, *count)))
        self.nodes *= elastic / self._field().norm(dim=0).max()

    def _basis(self, places: Tensor, axis: int) -> Tensor:
        """Cubic B-splines (n, nodes) at places (n,) along an axis."""
        t = (places[:, None] / self.spacing + 1 - torch.arange(self.nodes.shape[axis + 1])).abs()
        return torch.where(t < 1, 2 / 3 - t**2 + t**3 / 2, (2 - t).clamp_min(0) ** 3 / 6)

    def _field(self) -> Tensor:
        """Elastic displacement (3, *size) of every voxel."""
        bases = [self._basis(torch.arange(n, dtype=torch.float64), axis) for axis, n in enumerate(self.size)]
        return torch.einsum("dijk,xi,yj,zk->dxyz", self.nodes, *bases)

    def elastic(self, points: Tensor) -> Tensor:
        """Elastic displacement (N, 3) of points (N, 3) of the changed volume."""
        bases = [self._basis(points[:, axis], axis) for axis in range(3)]
        return torch.einsum("dijk,ni,nj,nk->nd", self.nodes, *bases)

    def source(self, points: Tensor) -> Tensor:
        """Where points (N, 3) of the changed volume come from."""
        return (points - self.centre) @ self.rotation.T + self.centre + self.shift + self.elastic(points)

    def moved(self, points: Tensor, steps: int = 100) -> Tensor:
        """Where points (N, 3) of the volume lie in the changed one, by fixed-point iteration."""
        found = points
        for _ in range(steps):
            before = found
            found = (points - self.centre - self.shift - self.elastic(found)) @ self.rotation + self.centre
            if (found - before).abs().max() < 1e-6:
                break
        return found

    def __call__(self, image: Tensor) -> Tensor:
        """Change a volume (C, *size); beyond its border is 0."""
        axes = [torch.arange(n, dtype=torch.float64) for n in self.size]
        grid = torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1)
        places = self.rotation @ (grid - self.centre[:, None]) + (self.centre + self.shift)[:, None]
        places = places.view(3, *self.size) + self._field()
        return sample_at(image[None], places[None].to(image))[0]


class Case(NamedTuple):
    """One change, in voxels of the template (which are millimetres)."""

    template: Tensor  # (1, *S)
    query: Tensor  # (1, *S)
    points: Tensor  # (L, 3) in the template
    truth: Tensor  # (L, 3) in the query
    origin: Tensor  # (3,) millimetres of the first voxel
    files: tuple[Path, Path]  # of the two volumes


def load(data: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """T1w and T2w volume (1, *S), fiducials (L, 3) in their voxels, and millimetres (3,) of the first voxel."""
    reader = LoadImage(reader=SimpleITKReader(), ensure_channel_first=True)
    t1, t2 = (reader(data / TEMPLATE.format(f"{name}.nii.gz")) for name in ("T1w", "T2w"))
    identity = torch.eye(3, dtype=torch.float64)
    if not torch.equal(t1.affine, t2.affine) or not torch.equal(t1.affine[:3, :3], identity):
        raise refusal("data", t1.affine.tolist(), "the MNI152 template at 1 mm, both volumes on one grid")
    (points,) = read_landmarks(data / FIDUCIALS).to("RAS").points.values()
    origin = t1.affine[:3, 3]
    return t1.as_tensor(), t2.as_tensor(), torch.from_numpy(points) - origin, origin


def make_case(data: Path, out: Path, seed: int) -> Case:
    """The template and a changed T2w volume, which is written as a file as a user would have it."""
    template, t2, points, origin = load(data)
    change = Change(template.shape[1:], seed)
    file = out / f"query{seed}.mha"
    query = change(t2)
    image = to_sitk(query)
    image.SetOrigin((origin * torch.tensor([-1, -1, 1])).tolist())  # SimpleITK's millimetres are LPS
    image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    sitk.WriteImage(image, file)
    return Case(template, query, points, change.moved(points), origin, (data / TEMPLATE.format("T1w.nii.gz"), file))


def registered(case: Case, seed: int) -> Iterator[tuple[str, Tensor]]:
    for name, transform in register(to_sitk(case.template), to_sitk(case.query), seed):
        yield f"MI {name}", torch.tensor([transform.TransformPoint(point) for point in case.points.tolist()])


def described(case: Case, seed: int) -> Iterator[tuple[str, Tensor]]:  # noqa: ARG001
    yield "MIND", by_mind(case.template, case.query, case.points, search=SEARCH)


def left(case: Case, seed: int) -> Iterator[tuple[str, Tensor]]:  # noqa: ARG001
    yield "left in place", case.points


def uniform(name: str) -> dict[str, Any]:
    """A named change at the same strength in all tiers."""
    transform = "monai_infoaug.transforms.RandTierIntensity"
    return {"_target_": transform, "transforms": name, "strengths": [1, 1, 1]}


def guidance(parser: ConfigParser) -> dict[str, dict[str, Any]]:
    """Settings of the bundle for each training: as it is, without guidance by information, and with a wrong one."""
    maps = ["information", "tiers", "small_information", "small_tiers"]
    turn = {"_target_": "monai.transforms.Flipd", "keys": maps, "spatial_axis": [1, 2]}
    return {
        "trained": {},
        "uniform": {
            "template_intensity": uniform("rich"),
            "query_intensity": uniform("cross_contrast"),
            "shares": None,
        },
        "shuffled": {"information_transforms": [*parser["information_transforms"], turn]},
    }


class Networks:
    """The rows of the bundle's network: one training a seed, on the T1w volume alone.

    Args:
        data: folder of the volumes.
        out: where the trainings are kept; one that was stopped goes on.
        settings: settings of the bundle's ``train.json``. Its validation, which chooses nothing here, is left out.
    """

    def __init__(self, data: Path, out: Path, settings: dict[str, Any]) -> None:
        self.out, self.settings = out, settings | {"val_interval": 10**6}
        self.folder = out / "t1w"
        self.folder.mkdir(parents=True, exist_ok=True)
        link = self.folder / TEMPLATE.format("T1w.nii.gz")
        if not link.exists():
            link.symlink_to((data / link.name).resolve())

    def untrained(self, case: Case, seed: int) -> Iterator[tuple[str, Tensor]]:
        torch.manual_seed(seed)
        parser = bundle_config(BUNDLE, self.settings)
        yield from self._match("untrained", case, parser, parser.get_parsed_content("network_def"))

    def trained(self, case: Case, seed: int, name: str = "trained") -> Iterator[tuple[str, Tensor]]:
        output = self.out / f"{'training' if name == 'trained' else name}{seed}"
        parser = bundle_config(BUNDLE, self.settings)
        settings = self.settings | guidance(parser)[name] | {"seed": seed, "dataset_dir": str(self.folder)}
        run_bundle(BUNDLE, "train", folder=output, **settings)
        network = load_weights(parser.get_parsed_content("network_def"), output / "checkpoint.pt")
        yield from self._match(name, case, parser, network)

    @staticmethod
    def _match(name: str, case: Case, parser: ConfigParser, network: nn.Module) -> Iterator[tuple[str, Tensor]]:
        preprocess = Compose(parser.get_parsed_content("preprocessing_transforms"))
        template, query = (preprocess({"image": str(file)})["image"] for file in case.files)
        points, weights = case.points + case.origin, parser["level_weights"]
        for row, patch_radius in ((name, parser["patch_radius"]), (f"{name}, points alone", None)):
            matcher = LandmarkMatcher(template, points, True, weights, patch_radius=patch_radius)
            yield row, matcher(query[None], network.eval())["world"][0].double() - case.origin


def measure(
    group: Callable[[Case, int], Iterator[tuple[str, Tensor]]],
    names: Sequence[str],
    case: Callable[[], Case],
    seed: int,
    out: Path,
) -> None:
    """Run a group of rows for a seed unless their results are there, and save each as soon as it is ready."""
    files = {name: out / f"{seed} {name}.json" for name in names}
    if all(file.exists() for file in files.values()):
        return
    made, start = case(), time.perf_counter()
    for name, found in group(made, seed):
        errors = (found - made.truth).norm(dim=1)
        result = {"errors": errors.tolist(), "seconds": time.perf_counter() - start}
        part = files[name].with_suffix(".part")
        part.write_text(json.dumps(result), encoding="utf-8")
        part.replace(files[name])
        print(f"seed {seed}, {name}: {errors.mean():.2f} mm, {result['seconds']:.0f} s", flush=True)


def errors_of(seeds: Sequence[int], name: str, out: Path) -> np.ndarray:
    """Errors (seeds, fiducials) in mm of a row."""
    files = [out / f"{seed} {name}.json" for seed in seeds]
    return np.array([json.loads(file.read_text(encoding="utf-8"))["errors"] for file in files])


def summary(seeds: Sequence[int], names: Sequence[str], out: Path) -> list[dict[str, Any]]:
    """A row a method: errors in mm over all seeds and fiducials, the seeds' means, and seconds a seed."""
    rows = []
    for name in names:
        files = [out / f"{seed} {name}.json" for seed in seeds]
        results = [json.loads(file.read_text(encoding="utf-8")) for file in files if file.exists()]
        if results:
            errors = np.array([result["errors"] for result in results])
            rows.append(
                {
                    "method": name,
                    "seeds": len(results),
                    "mean": round(errors.mean(), 3),
                    "median": round(np.median(errors), 3),
                    "sd": round(errors.std(ddof=1), 3),
                    "worst": round(errors.max(), 3),
                    "least_seed": round(errors.mean(1).min(), 3),
                    "largest_seed": round(errors.mean(1).max(), 3),
                    "seconds": round(np.mean([result["seconds"] for result in results]), 1),
                }
            )
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is missing, then print the table and a JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the two volumes and the fiducials")
    parser.add_argument("--seeds", type=int, default=5, help="each one change and one training (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/afids"), help="results and trainings (%(default)s)")
    parser.add_argument("--guidance", action="store_true", help="also train without guidance, and with a wrong one")
    parser.add_argument("--epochs", type=int, help="of the training; default: the bundle's")
    options = parser.parse_args(arguments)
    settings = {} if options.epochs is None else {"max_epochs": options.epochs}
    options.out.mkdir(parents=True, exist_ok=True)
    kept = options.out / "settings.json"
    if not kept.exists():
        kept.write_text(json.dumps(settings), encoding="utf-8")
    if json.loads(kept.read_text(encoding="utf-8")) != settings:
        raise refusal("out", f"'{options.out}' with results of other epochs", "new, or of a run with the same epochs")
    networks = Networks(options.data, options.out, settings)
    groups = {
        left: ["left in place"],
        registered: ["MI rigid", "MI affine", "MI B-spline"],
        described: ["MIND"],
        networks.untrained: ["untrained", "untrained, points alone"],
        networks.trained: ["trained", "trained, points alone"],
    }
    for name in ("uniform", "shuffled") if options.guidance else ():
        groups[partial(networks.trained, name=name)] = [name, f"{name}, points alone"]
    seeds, start = range(options.seeds), time.perf_counter()
    for seed in seeds:
        case = cache(partial(make_case, options.data, options.out, seed))
        for group, names in groups.items():
            measure(group, names, case, seed, options.out)
    rows = summary(seeds, [name for names in groups.values() for name in names], options.out)
    print(
        f"\n{'error in mm':24}{'mean':>7}{'median':>8}{'SD':>6}{'worst':>7}{'means of the seeds':>20}{'s a seed':>10}"
    )
    for r in rows:
        spread = f"{r['least_seed']:.2f} to {r['largest_seed']:.2f}"
        print(
            f"{r['method']:24}{r['mean']:7.2f}{r['median']:8.2f}{r['sd']:6.2f}{r['worst']:7.1f}{spread:>20}"
            f"{r['seconds']:10.0f}"
        )
    differences = {}
    for name in ("uniform", "shuffled") if options.guidance else ():
        for end in ("", ", points alone"):
            row, other = f"trained{end}", f"{name}{end}"
            errors = {each: errors_of(seeds, each, options.out)[:, :, None] for each in (row, other)}
            differences[f"{row} - {other}"] = print_difference(row, other, errors)  # drawn: fiducials
    print(f"\n{len(seeds)} seeds x 32 fiducials; this run took {(time.perf_counter() - start) / 60:.1f} minutes.")
    about = {"benchmark": "afids", "seeds": len(seeds), "threads": torch.get_num_threads()}
    print(json.dumps(about | {"rows": rows, "differences": differences}))


if __name__ == "__main__":
    main()
