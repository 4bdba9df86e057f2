"""What does ``monai-infoaug annotate`` find from a few annotated images? ``python -m benchmarks.annotate_landmarks``.

All is done as a user would do it: the training images are a folder without landmarks but for those of the templates,
``annotate`` is given its ``--minutes``, and then the test images are further images of the same folder. For each set of
templates, side by side, by the errors on the same test images:

- ``template``: no training but the pre-training of ``annotate``; what ``match`` finds by the templates alone.
- ``consensus``: the same, with the training images that match best as templates, too.
- ``annotate``: what is in its ``landmarks.csv``, with the places of absent landmarks. Beside it, how many landmarks
  keep the errors that it expects, how many of the errors above 5 mm are in the tenth that it expects the largest ones
  of, and how many it calls absent.

Templates are names of training images, several of one set joined by ``+``; ``advised`` is the one that ``advise``
names, ``advised+advised`` the first two. The pre-training of a seed does not depend on templates, and serves all sets.
The plan of the first of all, whose steps are timed, serves all sets and seeds: only it needs a machine that is idle.

With ``--advice`` it says, too, what the advice is worth: each test image is a template for matches in the others. Of 16
drawn candidates, the one that ``advise`` names is compared with the best one, and with one drawn at random.

With ``--cropped`` the test images are annotated once more with three landmarks cut off, those next to one edge, drawn
for each image, and it says how many of these are called absent, and how many of the others.

The folder has images in ``train`` and ``test1`` (or another ``--test``), and ``train_landmarks_mm.csv`` and
``test1_landmarks_mm.csv``. Labels of test images are read after all landmarks are found. With ``--tune`` the last fifth
of the training images is tested on, of which then the labels are read.

What was stopped goes on, and each result is kept.
"""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.stats import spearmanr
from tqdm import tqdm

from benchmarks._landmarks import Cases, common_options, print_end, print_table, summary
from benchmarks._runs import kept_result, print_difference
from monai_infoaug.commands._embedding import Embedder
from monai_infoaug.commands._images import images_of
from monai_infoaug.commands._landmark_stages import mean_of_rounds
from monai_infoaug.commands._plan import Plan
from monai_infoaug.commands.advise import advise_images, ask, rate
from monai_infoaug.commands.annotate import annotate_images
from monai_infoaug.commands.match import match_images
from monai_infoaug.data import LandmarkTable, image_name, read_landmarks
from monai_infoaug.inferers import to_world

ROWS = ("template", "consensus", "annotate")
LARGE = 5.0  # mm
CANDIDATES, DRAWS = 16, 1000  # that one is advised of, and how often they are drawn
CUT_OFF, LEFT = 3, 0.6  # landmarks, and the share of an image that is left at least
ADVISED = "advised"


class Annotating:
    """Results of sets of templates.

    Args:
        cases: images.
        first: names of the templates of the first set, with which the pre-training of a seed is made.
        minutes: of ``annotate``.
        pixdim, origin: of the images.
        out: folder of the results.
    """

    def __init__(
        self, cases: Cases, first: Sequence[str], minutes: float, pixdim: float, origin: float, out: Path
    ) -> None:
        self.cases, self.first, self.minutes, self.out = cases, list(first), minutes, out
        self.frame: dict[str, Any] = {"pixdim": pixdim, "origin": origin}

    def __call__(self, templates: Sequence[str], seed: int) -> dict[str, Any]:
        """Result of a set of templates and a seed: by row ``found`` (images, L, D) in mm and ``seconds``, and more."""
        names = self._named(templates, seed)
        made = partial(self._make, list(templates), names, seed)
        return kept_result(self._folder(templates, seed), self._about(names, seed), made)

    def _about(self, names: Sequence[str], seed: int) -> dict[str, Any]:
        about = {"templates": names, "seed": seed, "minutes": self.minutes}
        return about | self.frame | {"test": len(self.cases.test)}

    def _folder(self, templates: Sequence[str], seed: int) -> Path:
        return self.out / str(seed) / "+".join(templates)

    def _checkpoint(self, seed: int) -> Path:
        return self._folder(self.first, seed) / "annotated" / "stages" / "1_pretraining" / "checkpoint.pt"

    def _named(self, templates: Sequence[str], seed: int) -> list[str]:
        """The templates, those that are advised by their names."""
        count = list(templates).count(ADVISED)
        if not count:
            return list(templates)
        self(self.first, seed)  # makes the pre-training
        given = {"out": self.out / str(seed) / "advice", "settings": self.frame, "seed": seed}
        best = advise_images(self._checkpoint(seed), [self.cases.data], count, **given)
        return [name for name in templates if name != ADVISED] + [image_name(path) for path in best]

    def advice(self, seed: int) -> dict[str, Any]:
        """Error (candidates,) in mm of the matches of each test image in the others, and its ``rating`` by advise."""
        self(self.first, seed)
        about = {"seed": seed, **self.frame, "test": len(self.cases.test)}
        return kept_result(self.out / str(seed) / "worth_of_advice", about, partial(self._rated, seed))

    def _rated(self, seed: int) -> dict[str, Any]:
        embedder, table = Embedder(self._checkpoint(seed), settings=self.frame), self.cases.tested_table
        asked, _ = ask(embedder, map(Path, np.random.default_rng(seed).permutation(self.cases.train).tolist()))
        templates = [embedder.annotated(path, table) for path in self.cases.test]
        errors, ratings = [], []
        for i, template in enumerate(tqdm(templates, disable=None)):
            world = []
            for other in templates[:i] + templates[i + 1 :]:
                found, _ = embedder.search(template.levels, template.points, other.levels, other.image)
                world.append(to_world(found, other.image)[0].numpy())
            truth = np.delete(self.cases.truth, i, axis=0)
            errors.append(float(np.linalg.norm(np.array(world) - truth, axis=-1).mean()))
            ratings.append(float(np.mean(rate(embedder, template.path, asked).scores)))
        return {"errors": errors, "ratings": ratings}

    def absent(self, templates: Sequence[str], seed: int) -> dict[str, Any]:
        """Which landmarks (images, L) are ``cut_off`` from test images, and which of them are called ``absent``."""
        names = self._named(templates, seed)
        self(templates, seed)
        made = partial(self._cropped, list(templates), names, seed)
        return kept_result(self._folder(templates, seed) / "cropped", self._about(names, seed), made)

    def _cropped(self, asked: list[str], templates: list[str], seed: int) -> dict[str, Any]:
        folder, generator = self._folder(asked, seed) / "cropped" / "images", np.random.default_rng(seed)
        folder.mkdir(parents=True, exist_ok=True)
        cut_off = [
            crop(path, folder / f"cropped_{Path(path).name}", points, generator.permutation(4), **self.frame).tolist()
            for path, points in zip(self.cases.test, self.cases.truth, strict=True)
        ]
        self._annotate(asked, templates, seed, [folder])
        names = [f"cropped_{image_name(path)}" for path in self.cases.test]
        return {"cut_off": cut_off, **_expected(self._folder(asked, seed) / "annotated" / "landmarks.csv", names)}

    def _annotate(self, asked: list[str], templates: list[str], seed: int, more: Sequence[Any] = ()) -> None:
        """What ``annotate`` does with the training images, and more of them."""
        own = self.frame | {"minutes": self.minutes, "seed": seed, "out": self._folder(asked, seed) / "annotated"}
        if asked != self.first:
            own["checkpoint"] = self._checkpoint(seed)
        if (made := self._folder(self.first, 0) / "annotated" / "plan.json").is_file():
            own["plan"] = plan = self._folder(asked, seed) / "plan.json"
            plan.parent.mkdir(parents=True, exist_ok=True)
            plan.write_text(json.dumps(json.loads(made.read_text(encoding="utf-8")) | {"seed": seed}), encoding="utf-8")
        annotate_images([self.cases.data, *more], self._paths(templates), self.cases.table, **own)

    def _paths(self, templates: Sequence[str]) -> list[Path]:
        return [path for path in images_of("data", [self.cases.data]) if image_name(path) in templates]

    def _make(self, asked: list[str], templates: list[str], seed: int) -> dict[str, Any]:
        folder, data, table = self._folder(asked, seed), self.cases.data, self.cases.table
        seconds: dict[str, float] = {}
        with _timed(seconds, "annotate"):
            self._annotate(asked, templates, seed)
        self._annotate(asked, templates, seed, self.cases.test)
        for name, count in (("template", 0), ("consensus", Plan.consensus)):
            given = {"out": folder / name, "settings": self.frame, "consensus": count, "pool": [data]}
            with _timed(seconds, name):
                match_images(self._checkpoint(seed), self._paths(templates), table, self.cases.test, **given)
        found = {name: read_landmarks(folder / name / "landmarks.csv").to("LPS").points for name in ROWS[:2]}
        rounds = sorted((folder / "annotated" / "stages").glob("*_round*"))
        found["annotate"] = mean_of_rounds([_found_in(place) for place in rounds]).points
        names = [image_name(path) for path in self.cases.test]
        rows = {name: [points[image].tolist() for image in names] for name, points in found.items()}
        return {"found": rows, "seconds": seconds, **_expected(folder / "annotated" / "landmarks.csv", names)}


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - start


def _found_in(place: Path) -> LandmarkTable:
    """What the detector of a round has found, absent landmarks, too."""
    tables = [read_landmarks(file).to("LPS") for file in sorted(place.glob("found*/landmarks.csv"))]
    points = {name: x for table in tables for name, x in table.points.items()}
    return LandmarkTable(tables[0].labels, points, space="LPS")


def _expected(table: Path, names: Sequence[str]) -> dict[str, Any]:
    """Errors (images, L) that ``annotate`` expects, and what it calls absent."""
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    own = {name: [row for row in rows if row["image"] == name] for name in names}
    expected = [[float(row["error_mm"] or "nan") for row in own[name]] for name in names]
    return {"expected": expected, "absent": [[int(row["absent"]) for row in own[name]] for name in names]}


def crop(path: str, out: Path, points: np.ndarray, edges: Sequence[int], pixdim: float, origin: float) -> np.ndarray:
    """Write a picture without the landmarks next to one of its edges: left, right, top or bottom.

    Args:
        path: picture.
        out: file that is written, of the same kind.
        points: (L, 2) its landmarks in millimetres.
        edges: 0 to 3 in some order; the first one is taken that leaves enough of the image, or that which leaves most.
        pixdim: millimetres a pixel.
        origin: millimetres of the first pixel's centre.

    Returns:
        (L,) which of them are cut off.
    """
    pixels, cuts = (points - origin) / pixdim, []
    with Image.open(path) as picture:
        for edge in edges:
            axis, last = divmod(int(edge), 2)
            outwards = pixels[:, axis] if last else -pixels[:, axis]
            limit = np.sort(outwards)[-CUT_OFF - 1 : -CUT_OFF + 1 or None].mean()
            box = [0, 0, *picture.size]
            box[axis + 2 * last] = round(limit if last else -limit)
            cuts.append(((box[axis + 2] - box[axis]) / picture.size[axis], box, outwards > limit))
        _, box, gone = next((cut for cut in cuts if cut[0] > LEFT), max(cuts, key=lambda cut: cut[0]))
        picture.crop(box).save(out)
    return gone


def called_absent(cut_off: np.ndarray, absent: np.ndarray) -> dict[str, float]:
    """How many landmarks are called absent, in per cent of those that are cut off and of the others."""
    return {"cut_off": 100 * float(absent[cut_off].mean()), "others": 100 * float(absent[~cut_off].mean())}


def trust(errors: np.ndarray, expected: np.ndarray, absent: np.ndarray) -> dict[str, float]:
    """How far errors can be trusted that were expected (seeds, images, L), in per cent."""
    worst = expected.ravel().argsort()[::-1][: errors.size // 10]
    large = errors.ravel() > LARGE
    return {
        "kept": 100 * float((errors <= expected).mean()),
        "large_in_worst_tenth": 100 * float(large[worst].sum() / max(1, large.sum())),
        "large": int(large.sum()),
        "absent": 100 * float(absent.mean()),
    }


def worth_of_advice(errors: np.ndarray, ratings: np.ndarray) -> dict[str, float]:
    """How much worse than the best of some candidates the advised one is, and a random one, in mm, on average."""
    generator, count = np.random.default_rng(0), min(CANDIDATES, len(errors))
    drawn = np.array([generator.permutation(len(errors))[:count] for _ in range(DRAWS)])
    best = errors[drawn].min(1)
    advised = errors[np.take_along_axis(drawn, ratings[drawn].argmax(1)[:, None], 1)[:, 0]]
    return {
        "candidates": count,
        "mean": float(errors.mean()),
        "advised_above_best": float((advised - best).mean()),
        "random_above_best": float((errors[drawn].mean(1) - best).mean()),
        "rank_correlation": float(spearmanr(-errors, ratings).statistic),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Make what is missing, then print the table and a JSON line."""
    parser = common_options(__doc__.split("\n\n")[0], ["small"], "runs/annotate_landmarks")
    parser.add_argument("--templates", default="115,125,126", help="sets of templates, see above (%(default)s)")
    parser.add_argument("--minutes", type=float, default=60.0, help="of annotate (%(default)s)")
    parser.add_argument("--advice", action="store_true", help="say what the advice is worth, too")
    parser.add_argument("--cropped", action="store_true", help="say which landmarks are called absent, too")
    options = parser.parse_args(arguments)
    start = time.perf_counter()
    sets = [each.split("+") for each in options.templates.split(",")]
    options.template = sets[0][0]
    cases = Cases(options)
    used = {name for each in sets for name in each}
    cases.test = [path for path in cases.test if image_name(path) not in used]
    annotating = Annotating(cases, sets[0], options.minutes, options.pixdim, options.origin, options.out / cases.folder)
    made = {"+".join(each): [annotating(each, seed) for seed in range(options.seeds)] for each in sets}

    table, differences, trusted = [], {}, {}
    for name, results in made.items():
        errors = {f"{name} {row}": cases.errors([result["found"][row] for result in results]) for row in ROWS}
        seconds = {f"{name} {row}": np.mean([result["seconds"][row] for result in results]) for row in ROWS}
        table += [summary(row, errors[row], seconds[row]) for row in errors]
        pairs = [(f"{name} {row}", f"{name} {other}") for row, other in zip(ROWS[1:], ROWS, strict=False)]
        differences |= {f"{row} - {other}": print_difference(row, other, errors) for row, other in pairs}
        expected, absent = (np.array([result[kind] for result in results]) for kind in ("expected", "absent"))
        trusted[name] = trust(errors[f"{name} annotate"], np.nan_to_num(expected, nan=0.0), absent)
        if options.cropped:
            cropped = [annotating.absent(name.split("+"), seed) for seed in range(options.seeds)]
            cut_off, absent = (np.array([result[kind] for result in cropped], bool) for kind in ("cut_off", "absent"))
            trusted[name] |= {f"absent_{which}": share for which, share in called_absent(cut_off, absent).items()}
    print_table(table, "mm")
    for name, values in trusted.items():
        print(f"{name}: " + ", ".join(f"{kind} {value:.1f}" for kind, value in values.items()))
    advice = []
    for seed in range(options.seeds if options.advice else 0):
        made_of = annotating.advice(seed)
        advice.append(worth_of_advice(np.array(made_of["errors"]), np.array(made_of["ratings"])))
        print(f"advice, seed {seed}: " + ", ".join(f"{kind} {value:.2f}" for kind, value in advice[-1].items()))
    minutes = (time.perf_counter() - start) / 60
    results = {"table": table, "differences": differences, "trust": trusted, "advice": advice}
    print_end("annotate_landmarks", options, cases, minutes, **results)


if __name__ == "__main__":
    main()
