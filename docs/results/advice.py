"""What `monai-infoaug init --advise` says, from the numbers in kept/: ``python docs/results/advice.py`` writes it.

A recipe is taken where the interval of its gain over the plain training is clear of zero, where it is clearly above
what a longer plain training reached, and where it takes no longer, as far as each of these was measured.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from monai_infoaug.bundles import Advice, choose_recipe, find_bundle, training_command, using_command

ROOT = Path(__file__).parents[2]
KEPT, ADVICE, PAGE = ROOT / "docs/results/kept", ROOT / "monai_infoaug/bundles/advice.json", ROOT / "docs/choose.md"
SAME_TIME = 1.25  # times the seconds of the plain training, at most


def run(bundle: str, options: str = "", overlay: str | None = None) -> list[str]:
    """Commands that copy a bundle and train with it."""
    train = f"{training_command(find_bundle(bundle), overlay)} {options}".strip()
    return [f"monai-infoaug init {bundle}", f"cd {bundle}", train]


def adapt(bundle: str, options: str, of_source: str = "") -> list[str]:
    """Commands that train at the old site, and adapt to the new one."""
    old = [re.sub(r"\b(?=IMAGES|LABELS)", "SOURCE_", line) for line in run("segmentation", of_source)]
    new = [line.replace("SOURCE ", "../segmentation/OUT/checkpoint.pt ") for line in run(bundle, options)]
    return [*old, "cd ..", *new]


BY_TIER, DISCS = '--shares "[0.2,0.4,0.4]"', '--scale_range 0.35 --scales "[0.8,1,1.25]" --align 1 --round_epochs 1000'
CONFIDENT = "--confidence_epochs 0 --share 0.5"
ROUND = [
    using_command(find_bundle("segmentation")),
    run("segmentation")[-1].replace("OUT", "OUT2 --pseudo_labels OUT/inference --init_checkpoint OUT/checkpoint.pt"),
]
TIERS = "--tier_intensity True"
COMMANDS = {  # by recipe
    "a detector that learns from the matches of one annotated image": [
        "monai-infoaug annotate IMAGES --template IMAGE --landmarks TABLE"
    ],
    "landmark_detection after landmark_pretraining": [
        *run("landmark_pretraining"),
        "cd ..",
        *run("landmark_detection", "--pretrained ../landmark_pretraining/OUT/checkpoint.pt"),
    ],
    "landmark_detection from scratch": run("landmark_detection"),
    "landmark_matching_3d, from one annotated volume": run("landmark_matching_3d"),
    "label maps carried from one annotated image": ["monai-infoaug annotate IMAGES --template IMAGE --labels LABELMAP"],
    "label_efficient": run("segmentation", "", "label_efficient"),
    "label_efficient by tier": run("segmentation", BY_TIER, "label_efficient"),
    "label_efficient by tier, and a round": [*run("segmentation", BY_TIER, "label_efficient"), *ROUND],
    "attention_guided": run("segmentation", "", "attention_guided"),
    "the U-Net alone": run("segmentation"),
    "the U-Net alone, for long": run("segmentation", "--max_epochs 24"),
    "the U-Net, intensities by tier": run("segmentation", TIERS),
    "source_free_adaptation, all by tier": adapt("source_free_adaptation", f"{CONFIDENT} --by_tier True", TIERS),
    "patch_contrast_adaptation": adapt("patch_contrast_adaptation", "--share 0.5"),
    "source_free_adaptation, zoomed": adapt("source_free_adaptation", f"{CONFIDENT} {DISCS}", "--scale_range 0.35"),
    "patch_contrast_adaptation, zoomed": adapt("patch_contrast_adaptation", DISCS, "--scale_range 0.35"),
}


class Rule(NamedTuple):
    """When a recipe may be taken."""

    take: str
    evidence: str = ""  # "table: row against row; ...", all of which must speak for it
    images: int = 0  # that it was measured with, annotated or not, if it learns from those that are not
    labels: int = 0  # of the old site, that it was measured with
    minutes: int = 0  # on two cores, about
    after: str = ""  # rows whose training comes before
    longer: str = ""  # table of a plain training that went on


LONG = "radiographs_long"
ROUND_OF = "scratch label_efficient label_efficient_guided"
RULES = {  # by task, volumes and other site, the best first; the last is taken where no other is
    ("landmarks", False, False): [
        Rule(
            "a detector that learns from the matches of one annotated image",
            "detection: one-shot against matching; detection: one-shot against scratch",
            images=24,  # with twelve it is nearer than a detector of one label, too: see docs/howto/first_hour.md
            minutes=15,
        ),
        Rule(
            "landmark_detection after landmark_pretraining",
            "detection: pre-trained against scratch",
            images=150,
            minutes=10,
        ),
        Rule("landmark_detection from scratch"),
    ],
    ("landmarks", True, False): [
        Rule("landmark_matching_3d, from one annotated volume", "afids: trained against untrained"),
    ],
    ("segmentation", False, False): [
        Rule(
            "label maps carried from one annotated image",
            "label_maps: propagation against unet; label_maps: propagation against bspline",
            images=149,
            minutes=15,
        ),
        Rule(
            "label_efficient by tier, and a round",
            "radiographs: label_efficient_round against scratch",
            images=149,
            after=ROUND_OF,
            longer=LONG,
        ),
        Rule("label_efficient by tier", "radiographs: label_efficient_guided against scratch", longer=LONG),
        Rule("label_efficient", "radiographs: label_efficient against scratch", longer=LONG),
        Rule("the U-Net, intensities by tier", "tier_intensity: tiers against scratch"),
        Rule("the U-Net alone, for long", longer=LONG),
    ],
    ("segmentation", True, False): [
        Rule(
            "label_efficient by tier, and a round",
            "hippocampus: label_efficient_round against scratch",
            images=134,
            after=ROUND_OF,
        ),
        Rule("label_efficient by tier", "hippocampus: label_efficient_guided against scratch"),
        Rule("label_efficient", "hippocampus: label_efficient against scratch"),
        Rule("attention_guided", "attention: attention against scratch", images=134),
        Rule("the U-Net alone"),
    ],
    ("segmentation", False, True): [
        Rule("source_free_adaptation, zoomed", "fundus: source_free against source", 210, 160, 4),
        Rule("patch_contrast_adaptation, zoomed", "fundus: patches against source", 210, 160, 5),
        Rule("the U-Net, intensities by tier", "fundus: source_tiers against source", 0, 160),
        Rule("the U-Net alone"),
    ],
    ("segmentation", True, True): [
        Rule(
            "source_free_adaptation, all by tier",
            "scanner: source_free against source; scanner_tiers: source_free_tiers against source_free",
            images=156,
            labels=104,
            minutes=5,
        ),
        Rule("patch_contrast_adaptation", "scanner: patches against source", 156, 104, 8),
        Rule("the U-Net, intensities by tier", "scanner_tiers: source_tiers against source", 0, 104),
        Rule("the U-Net alone"),
    ],
}


class Evidence:
    """A row of a kept table beside the one that it is compared with, at a number of labels."""

    def __init__(self, text: str, labels: int | None) -> None:
        self.name, _, rows = text.strip().partition(": ")
        self.of, self.against = rows.split(" against ")
        self.table = json.loads((KEPT / f"{self.name}.json").read_text(encoding="utf-8"))
        self.labels = labels

    def differences(self) -> list[dict]:
        """At each number of labels."""
        pair = (self.of, self.against)
        found = [d for d in self.table["differences"] if (d["of"], d["against"]) == pair and d.get("by") != "itself"]
        return [d for d in found if self.labels in (None, d.get("labels"))]

    def row(self, name: str) -> dict:
        """A row of the table."""
        rows = [r for r in self.table["rows"] if r["name"] == name and self.labels in (None, r.get("labels"))]
        return rows[0] if rows else {}

    def seconds(self, *names: str) -> int:
        """Of some trainings; 0 if one was not measured."""
        each = [self.row(name).get("seconds", 0) for name in names]
        return sum(each) if all(each) else 0

    def text(self) -> str:
        """The row in words."""
        digits, more = self.table["digits"]
        values = {name: self.row(name).get("value") for name in (self.of, self.against)}
        parts = [name if value is None else f"{name} {value:.{digits}f}" for name, value in values.items()]
        said = f"{' against '.join(parts)} {self.table['unit']}".strip()
        for each in self.differences():
            low, high = each["interval"]
            said += f": {each['difference']:+.{more}f} (95 % interval {low:+.{more}f} to {high:+.{more}f})"
        counts = [(self.labels, "label"), (self.table["seeds"], "seed")]
        numbers = [f"{number} {what}{'s' * (number > 1)}" for number, what in counts if number]
        return ", ".join([f"{said}; {self.table['measure']}, {self.table['data']}", *numbers])

    def why_not(self, rule: Rule) -> str:
        """What speaks against it, or nothing."""
        sign = 1 if self.table["better"] == "higher" else -1
        if not (found := self.differences()):
            return ""  # a row to look at; `entries` asks for one with an interval
        (each,) = found
        low, high = sorted(sign * end for end in each["interval"])
        if low <= 0:
            return "the interval holds zero" if high >= 0 else "it is worse"
        if rule.longer:
            long = Longer(rule.longer)
            if self.row(self.against)["value"] + each["interval"][0] <= long.value:
                return long.text()
        takes, given = self.seconds(*rule.after.split(), self.of), self.seconds(self.against)
        return (
            f"it trains for {takes} s where the plain one does for {given} s" if takes > SAME_TIME * given > 0 else ""
        )


class Longer:
    """A plain training that went on: with fewer labels than a recipe, it is a bound for what it would reach."""

    def __init__(self, name: str) -> None:
        self.table = json.loads((KEPT / f"{name}.json").read_text(encoding="utf-8"))
        self.rows = [row for row in self.table["rows"] if row["name"] == "scratch_long"]
        self.value = sum(row["value"] for row in self.rows) / len(self.rows)

    def text(self) -> str:
        """The row in words."""
        row, seeds = self.rows[0], self.table["seeds"]
        value = f"{self.table['measure']} {self.value:.{self.table['digits'][0]}f}"
        return f"a longer plain training has {value} in {row['seconds']} s ({row['labels']} labels, {seeds} seeds)"


def entries() -> Iterator[dict]:
    """Every rule at every number of labels that it was measured with."""
    for (task, volumes, other_site), rules in RULES.items():
        for rule in rules:
            texts = [text for text in rule.evidence.split(";") if text]
            numbers = [each.get("labels") for each in Evidence(texts[0], None).differences()] if texts else [None]
            low, is_last = 1, rule is rules[-1]
            for number in numbers or [None]:
                evidence = [Evidence(text, number) for text in texts]
                rows = [each.text() for each in evidence]
                assert is_last or any(each.differences() for each in evidence), rule
                reasons = [] if is_last else [why for each in evidence if (why := each.why_not(rule))]
                if is_last and rule.longer:
                    rows.append(f"{Longer(rule.longer).text()}; {Longer(rule.longer).table['data']}")
                without = rule.images - (rule.labels or number or 0) if rule.images else 0
                yield {
                    "task": task,
                    "volumes": volumes,
                    "other_site": other_site,
                    "labels": [-(-rule.labels // 2) or low, number],  # at another site half of those measured will do
                    "unlabelled": -(-without // 2),
                    "minutes": rule.minutes,
                    "take": rule.take,
                    "why_not": reasons[0] if reasons else "",
                    "rows": rows,
                    "page": Evidence((texts or [rules[-2].evidence])[0], None).table["page"].removesuffix(".md"),
                    "commands": COMMANDS[rule.take],
                }
                low = (number or 0) + 1


def advice() -> str:
    """The file that the command reads."""
    return "[\n" + ",\n".join(json.dumps(entry, indent=1) for entry in entries()) + "\n]\n"


def taken(situation: dict, labels: int, found: list[dict]) -> dict[int, Advice]:
    """What is taken with so many labels, by the least number of images without labels."""
    advice: dict[int, Advice] = {}
    for number in sorted({0, *(entry["unlabelled"] for entry in found)}):
        chosen = choose_recipe(labels=labels, unlabelled=number, **situation)
        if not advice or list(advice.values())[-1].take != chosen.take:
            advice[number] = chosen
    return advice


def said(advice: dict[int, Advice]) -> list[tuple]:
    """What a table shows of it."""
    return [(number, each.take, each.rows) for number, each in advice.items()]


def page() -> str:
    """docs/choose.md, of what the command would say."""
    lines, commands = [], {}
    for task, volumes, other_site in RULES:
        situation = {"task": task, "volumes": volumes, "other_site": other_site}
        found = [entry for entry in entries() if situation.items() <= entry.items()]
        numbers = sorted({1, *(e["labels"][0] for e in found), *(e["labels"][1] + 1 for e in found if e["labels"][1])})
        by_labels = {number: taken(situation, number, found) for number in numbers}
        kept = [
            n
            for n, before in zip(numbers, [0, *numbers], strict=False)
            if said(by_labels[n]) != said(by_labels.get(before, {}))
        ]
        for low, after in zip(kept, [*kept[1:], 0], strict=True):
            labels = f"{low} or more" if not after else f"{low}" if after == low + 1 else f"{low} to {after - 1}"
            for number, chosen in by_labels[low].items():
                kind = f"{task}{', volumes' * volumes}{', another site' * other_site}"
                rows = "; ".join(chosen.rows) or "no recipe that fits is clearly above it"
                more = f"{number} or more" if number else "any" if len(by_labels[low]) == 1 else "fewer"
                of = f"[{chosen.page}](results/{chosen.page}.md)"
                lines.append(f"| {kind} | {labels} | {more} | {chosen.take} | {of}: {rows} |")
                commands[chosen.take] = f"**{chosen.take}:**\n\n```\n" + "\n".join(chosen.commands) + "\n```\n"
    against = [f"| {e['take']} | {e['why_not']} | {'; '.join(e['rows'])} |" for e in entries() if e["why_not"]]
    return "\n".join([HEAD, *lines, MIDDLE, *commands.values(), AGAINST, *against, ""])


HEAD = """# Which recipe to take

`python docs/results/advice.py` makes this page from the numbers behind [the tables](results/index.md), and what this
command says:

```bash
monai-infoaug init --advise --task segmentation --labels 5 --unlabelled 100
```

`--volumes` is for 3D, `--other-site` for images without labels that are of another site or scanner than those with,
`--minutes` for the time that there is on two CPU cores.

A recipe is taken where the interval of its gain over the plain training is clear of zero, where it is clearly above
what a longer plain training reached, and where it trains no longer: as far as each of these was measured, with as many
annotated images or with the next larger number. Else the plain training is taken. There should be half as many images
without labels as it was measured with, or more. What the pre-training of landmarks takes, 5.5 minutes, was not given to
the training from scratch, nor what adaptation takes to that of the source.

| task | annotated | images without labels | take | row that says so |
|---|---|---|---|---|"""
MIDDLE = """
## Commands

Words in capitals are files and folders of yours. The defaults are for one kind of image; what to give for others, such
as `--modality`, `--spatial_dims` or `--pixdim`, is on the page of each bundle.
"""
AGAINST = """## What is not taken, and why

| recipe | why not | row |
|---|---|---|"""

if __name__ == "__main__":
    ADVICE.write_text(advice(), encoding="utf-8")
    PAGE.write_text(page(), encoding="utf-8")
