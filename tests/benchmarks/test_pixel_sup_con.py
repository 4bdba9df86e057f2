"""Memory of the label-based contrast, and the table that compares it."""

import json
import sys

import pytest
import torch

from benchmarks import pixel_sup_con
from monai_infoaug.losses.pixel_sup_con import DENOMINATORS


def megabytes_of_each() -> list[float]:
    return [pixel_sup_con.measured(denominator, 8192)[2] for denominator in DENOMINATORS]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is read from /proc")
def test_memory_does_not_grow_with_the_square():
    assert max(pixel_sup_con.alone(megabytes_of_each)) < 256  # one dense matrix


def test_table(capsys, monkeypatch):
    monkeypatch.setattr(pixel_sup_con, "REPEATS", 1)
    monkeypatch.setattr(pixel_sup_con, "THREADS", torch.get_num_threads())  # as they are in the other tests
    monkeypatch.setattr(pixel_sup_con, "alone", lambda call: call())
    monkeypatch.setattr(pixel_sup_con, "PEER_LIMIT", 100)
    pixel_sup_con.main(["--pixels", "64", "128"])
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    of_peer = [row for row in rows if row["way"] == pixel_sup_con.PEER]
    assert [(row["pixels"], row["way"]) for row in rows if row not in of_peer] == [
        (number, way) for number in (64, 128) for way in DENOMINATORS
    ]
    assert all(row["seconds"] > 0 for row in rows)
    for row in of_peer:
        assert row["pixels"] == 64
        assert row["loss"] == pytest.approx(rows[0]["loss"], rel=1e-3)
