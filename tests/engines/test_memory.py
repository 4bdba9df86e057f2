from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from monai_infoaug.engines.memory import keep_freed_memory

GLIBC = platform.libc_ver()[0] == "glibc"
FAULTS = """
import resource, sys, torch
from monai_infoaug.engines.memory import keep_freed_memory
if "keep" in sys.argv:
    keep_freed_memory()
torch.zeros(2**22)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.zeros(2**24)[0]  # 64 MiB, above every threshold that glibc takes by itself
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_tells_whether_it_was_taken():
    # a process of its own, because the setting cannot be taken back
    code = "from monai_infoaug.engines.memory import keep_freed_memory as k; print(k(), k(2**20), k(2**31 - 1))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split() == [str(GLIBC)] * 3


@pytest.mark.skipif(not GLIBC, reason="a setting of glibc")
def test_memory_is_not_mapped_anew():
    def faults(*arguments: str) -> int:
        command = [sys.executable, "-c", FAULTS, *arguments]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert faults("keep") < faults() / 5


def test_elsewhere_it_does_nothing(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_freed_memory() is False


@pytest.mark.parametrize("threshold", [0, -1, 2**31])
def test_threshold_that_the_c_library_cannot_take(threshold):
    with pytest.raises(ValueError, match="`threshold` must be from 1 to 2147483647 bytes"):
        keep_freed_memory(threshold)
