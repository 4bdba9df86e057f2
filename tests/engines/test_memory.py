from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from monai_infoaug.engines import memory
from monai_infoaug.engines.memory import keep_freed_memory

GLIBC = platform.libc_ver()[0] == "glibc"


def in_another_process(code: str) -> str:
    """The setting cannot be taken back, hence is not for the process of the other tests."""
    code = f"import resource, runpy\nkeep = runpy.run_path({memory.__file__!r})['keep_freed_memory']\n{code}"
    plain = {
        name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")
    }  # it may be set already
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=plain).stdout


def test_tells_whether_it_was_taken():
    assert in_another_process("print(keep(), keep(2**20), keep(2**31 - 1))").split() == [str(GLIBC)] * 3


@pytest.mark.skipif(not GLIBC, reason="a setting of glibc")
def test_memory_is_not_mapped_anew():
    faults = "resource.getrusage(resource.RUSAGE_SELF).ru_minflt"
    # 64 MiB a time, above every threshold that glibc takes by itself
    code = f"b'x' * 2**26\nbefore = {faults}\nfor n in range(20): bytes([n]) * 2**26\nprint({faults} - before)"
    assert int(in_another_process(f"keep()\n{code}")) < int(in_another_process(code)) / 5


def test_elsewhere_it_does_nothing(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_freed_memory() is False


@pytest.mark.parametrize("threshold", [0, -1, 2**31, 2.0**20, "1"])
def test_threshold_that_the_c_library_cannot_take(threshold):
    with pytest.raises(ValueError, match="`threshold` must be from 1 to 2147483647 bytes"):
        keep_freed_memory(threshold)
