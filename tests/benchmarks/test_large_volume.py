from __future__ import annotations

import json
import sys

import pytest

from benchmarks import large_volume
from benchmarks.large_volume import main

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is read from /proc")
SMALL = ["view_size=[32,32,32]", "global_view_size=[16,16,16]", "local_features=[8,8]", "global_features=[8,8,8]"]


@pytest.mark.slow
def test_a_small_one(capsys, monkeypatch):
    pytest.importorskip("ignite", reason="bundles need ignite")
    monkeypatch.setattr(large_volume, "alone", lambda call: call())
    main(["--size", "64,48,40", "--set", *SMALL, "num_points=20", "roi_size=[32,32,32]"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert [row["run"] for row in rows] == ["train", "match"]
    assert all(row["size"] == [64, 48, 40] and row["gigabytes"] > 0 and row["seconds"] > 0 for row in rows)
    assert rows[1]["largest_error_mm"] < 1  # in windows, too, each landmark finds itself


def test_bad_size():
    with pytest.raises(ValueError, match="`size` must be three numbers of voxels, at least 32, got 64,64"):
        main(["--size", "64,64"])
