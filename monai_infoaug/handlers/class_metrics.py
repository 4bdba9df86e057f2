"""Tables of an evaluation with the names of the classes."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai.handlers import MetricsSaver

from monai_infoaug._processes import rank
from monai_infoaug._require import listed, refusal

__all__ = ["ClassMetricsSaver"]


class ClassMetricsSaver(MetricsSaver):
    """MONAI's ``MetricsSaver``, whose tables have the names of the classes for ``class0``, ``class1``, ...

    Args:
        classes: names, in the order of the metrics' columns.
        settings: those of ``MetricsSaver``.

    Raises:
        ValueError: for ``classes`` that are no names.
    """

    def __init__(self, classes: Sequence[str], **settings: Any) -> None:
        if not listed(classes) or not all(isinstance(name, str) for name in classes):
            raise refusal("classes", repr(classes), "names, one a class")
        super().__init__(**settings)
        self.classes = {f"class{i}": _cell(name, self.deli) for i, name in enumerate(classes)}

    def __call__(self, engine: Any) -> None:
        """Write the tables."""
        super().__call__(engine)
        if rank() != self.save_rank:
            return
        cell = re.compile(rf"(?:^|(?<={re.escape(self.deli)}))class\d+(?={re.escape(self.deli)})", re.MULTILINE)
        for name in engine.state.metric_details:
            for kind in ("raw", "summary"):
                path = Path(self.save_dir, f"{name}_{kind}.csv")
                if path.is_file():
                    header, end, rows = path.read_text().partition("\n")
                    named = [
                        cell.sub(lambda found: self.classes.get(found[0], found[0]), part) for part in (header, rows)
                    ]
                    path.write_text(named[0] + end + (rows if kind == "raw" else named[1]))


def _cell(text: str, delimiter: str) -> str:
    """A cell of a table, in quotation marks where it needs them."""
    line = io.StringIO()
    csv.writer(line, delimiter=delimiter, lineterminator="").writerow([text])
    return line.getvalue()
