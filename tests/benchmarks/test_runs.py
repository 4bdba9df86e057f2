"""What the benchmarks share: processes that end when they should."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import os, time
from pathlib import Path
from benchmarks._runs import side_by_side

def work(folder, number):
    Path(folder, str(os.getpid())).touch()
    time.sleep(60)

if __name__ == "__main__":
    side_by_side(work, [(os.environ["FOLDER"], number) for number in range(2)], 2)
"""


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat").read_text() if Path(f"/proc/{pid}").exists() else ""
    return stat.rpartition(")")[2].split()[:1] not in ([], ["Z"])  # a zombie only waits to be noticed


def wait_until(condition) -> None:
    end = time.time() + 60
    while not condition():
        assert time.time() < end
        time.sleep(0.2)


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux to end processes with their parent")
def test_trainings_end_with_a_run_that_is_killed(tmp_path):
    program, found = tmp_path / "program.py", tmp_path / "found"
    program.write_text(PROGRAM)
    found.mkdir()
    environment = os.environ | {"FOLDER": str(found), "PYTHONPATH": str(ROOT)}
    run = subprocess.Popen([sys.executable, str(program)], env=environment)
    try:
        wait_until(lambda: len(list(found.iterdir())) == 2)
    finally:
        run.send_signal(signal.SIGKILL)
        run.wait()
    wait_until(lambda: not any(alive(int(path.name)) for path in found.iterdir()))
