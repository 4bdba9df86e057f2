"""Install a version of PyTorch without its gigabytes of GPU libraries: ``python .ci/cpu_torch.py VERSION``.

What the registry has for Linux is built for GPUs. It loads the libraries when it is imported and calls none of them on
a CPU. So stand-ins with the same names whose functions return an error do; what computes on the CPU is PyTorch's own.
"""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path
from shutil import which

from pip._vendor.packaging.requirements import Requirement

RUNTIME = re.compile("nvidia-cuda-runtime")  # small, and called when PyTorch is imported
SITE = Path(sysconfig.get_paths()["purelib"])
LIBRARIES = SITE / "torch" / "lib"


def output(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "install", "--no-compile", *arguments], check=True)


def stand_in_for_library(name: str, symbols: list[tuple[str, str]]) -> None:
    """A shared library with the functions that PyTorch names, in the version of symbols that it names."""
    stem = re.split(r"\W", name.removeprefix("lib"))[0]
    functions = sorted({s for s, version in symbols if version == name or (not version and s.startswith(stem))})
    script = SITE / "symbols"
    version = name if any(version == name for _, version in symbols) else ""
    script.write_text(f"{version} {{ {' '.join(f'{f};' for f in functions)} }};")
    source = "\n".join(f"int {f}(void) {{ return 1; }}" for f in functions)
    flags = ["-w", "-shared", "-fno-builtin", f"-Wl,-soname,{name}", f"-Wl,--version-script={script}", "-x", "c", "-"]
    subprocess.run(["gcc", *flags, "-o", LIBRARIES / name], input=source, text=True, check=True)
    script.unlink()


def stand_in_for_package(requirement: Requirement) -> None:
    """What tells pip that a package is there."""
    (pinned,) = requirement.specifier
    folder = SITE / f"{requirement.name.replace('-', '_')}-{pinned.version}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {requirement.name}\nVersion: {pinned.version}\n")


def main(version: str) -> None:
    if not all(map(which, ("gcc", "nm", "objdump"))):
        return pip(f"torch=={version}")
    pip("--no-deps", f"torch=={version}")
    needs = map(Requirement, metadata.requires("torch") or [])
    needs = [r for r in needs if re.match("nvidia-|triton$", r.name) and (not r.marker or r.marker.evaluate())]
    if not needs:
        return None
    pip("--no-deps", *(str(r).partition(";")[0] for r in needs if RUNTIME.match(r.name)))
    for requirement in needs:
        if not RUNTIME.match(requirement.name):
            stand_in_for_package(requirement)
    built = sorted(LIBRARIES.glob("*.so*"))
    wanted = set(re.findall(r"NEEDED +(lib(?:cu|nccl|nv)[\w.]*)", output("objdump", "-p", *built)))
    symbols = re.findall(r" U (\w+)(?:@(\S+))?$", output("nm", "-D", "--undefined-only", *built), re.M)
    there = {file.name for file in [*built, *SITE.glob("nvidia/*/lib/*")]}
    for name in sorted(wanted - there - {"libcuda.so.1"}):  # the driver's
        stand_in_for_library(name, symbols)
    return None


if __name__ == "__main__":
    main(*sys.argv[1:])
