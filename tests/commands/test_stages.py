"""Runs of bundles as stages: what is written, what is done again, and what a failure or a kill leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("tqdm", reason="annotating needs the extra train")

from monai_infoaug.commands import _stages
from monai_infoaug.commands._stages import StagesBar, run_command, run_stage

SLEEP = "import time; print('begun', flush=True); time.sleep(600)"


@pytest.mark.slow
def test_the_command_and_its_output_are_kept_and_the_share_is_told(tmp_path):
    told, code = [], "import time; print('train: epoch 2/4, loss 3', flush=True); time.sleep(1.5)"
    run_command(tmp_path, "train", ["python", "-c", code], tmp_path, told.append)
    assert set(told) == {2 / 4}
    assert (tmp_path / "train.log").read_text() == "train: epoch 2/4, loss 3\n"
    assert "python -c" in (tmp_path / "train.sh").read_text()
    said = subprocess.run(["sh", tmp_path / "train.sh"], capture_output=True, text=True, check=True).stdout
    assert said == "train: epoch 2/4, loss 3\n"


def test_what_fails_says_its_last_line(tmp_path):
    code = "print('error: `x` must be y, got z.'); print('later'); raise SystemExit(3)"
    with pytest.raises(
        RuntimeError, match=r"`match.sh` in '.*' ended with: error: `x` must be y, got z\.; '.*match\.log'"
    ):
        run_command(tmp_path, "match", ["python", "-c", code], tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="processes end with their parent on Linux")
def test_a_killed_run_takes_its_process_along(tmp_path):
    parent = (
        "from pathlib import Path\nfrom monai_infoaug.commands._stages import run_command\n"
        f"run_command(Path({str(tmp_path)!r}), 'train', ['python', '-c', {SLEEP!r}], Path({str(tmp_path)!r}))"
    )
    process = subprocess.Popen([sys.executable, "-c", parent])
    log = tmp_path / "train.log"
    while not (log.exists() and "begun" in log.read_text()):
        assert process.poll() is None
        time.sleep(0.05)
    (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.send_signal(signal.SIGKILL)
    process.wait()
    for _ in range(100):
        if not Path(f"/proc/{child}").exists() or " Z " in Path(f"/proc/{child}/stat").read_text():
            return
        time.sleep(0.1)
    os.kill(int(child), signal.SIGKILL)
    pytest.fail("the process lives on")


@pytest.fixture
def runs(monkeypatch) -> list[dict]:
    """What is run, in place of running it."""
    made: list[dict] = []

    def run(folder, name, command, place, progress=None, share=None, accepted=(0,)):
        assert command == ["python", "-m", "monai.bundle", "run", "--args_file", f"../{name}.json"]
        assert (place / "configs" / "train.json").is_file()
        made.append(json.loads((folder / f"{name}.json").read_text()))
        (folder / "checkpoint.pt").write_text("weights")

    monkeypatch.setattr(_stages, "run_command", run)
    return made


def test_what_is_done_is_not_done_again(runs, tmp_path):
    (tmp_path / "labels.csv").write_text("a")
    given = (tmp_path / "stage", "landmark_detection", {"seed": 3}, ["train"], [tmp_path / "labels.csv"])
    assert run_stage(*given)
    assert not run_stage(*given)
    assert runs == [
        {
            "config_file": ["configs/train.json"],
            "bundle_root": str(tmp_path / "stage"),
            "output_dir": str(tmp_path / "stage"),
            "seed": 3,
        }
    ]


def test_one_that_was_killed_goes_on_and_other_inputs_begin_anew(runs, tmp_path):
    (tmp_path / "labels.csv").write_text("a")
    given = (tmp_path / "stage", "landmark_detection", {"seed": 3}, ["train"], [tmp_path / "labels.csv"])
    run_stage(*given)
    (tmp_path / "stage" / "train.done.json").unlink()  # as a kill leaves it
    checkpoint = tmp_path / "stage" / "checkpoint.pt"
    checkpoint.write_text("half of it")
    seen = []
    usual = _stages.run_command
    _stages.run_command = lambda *args, **kwargs: seen.append(checkpoint.exists()) or usual(*args, **kwargs)
    try:
        run_stage(*given)
        (tmp_path / "labels.csv").write_text("b")
        run_stage(*given)
    finally:
        _stages.run_command = usual
    assert seen == [True, False]
    assert len(runs) == 3


def test_other_settings_are_refused(runs, tmp_path):
    run_stage(tmp_path, "landmark_detection", {"seed": 3})
    with pytest.raises(ValueError, match=r"`plan` must be the same, or another `out`, got other settings than '.*'"):
        run_stage(tmp_path, "landmark_detection", {"seed": 4})
    assert len(runs) == 1


def test_bar_is_of_all_stages_and_never_goes_back(capsys):
    bar = StagesBar({"a": 10.0, "b": 30.0})
    for stage, share in (("a", 0.5), ("a", 0.4), ("a", 1.0), ("b", 0.5), ("c", 1.0)):
        bar(stage, share)
    assert bar.done == {"a": 10.0, "b": 15.0}
    bar.close()
    said = ["a: 50%", "a: 100%", "b: 50%"]  # what is no terminal gets lines
    assert [line.partition(",")[0] for line in capsys.readouterr().out.splitlines()] == said


def test_a_log_gets_ten_lines_a_stage(capsys):
    bar = StagesBar({"a": 60.0})
    for done in range(1, 109):
        bar("a", done / 108)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10
    assert lines[-1] == "a: 100%, 00:00 since the start"
