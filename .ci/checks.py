"""What .ci/run asks of the metadata, the wheel and an installation: ``python .ci/checks.py NAME ARGUMENTS``."""

from __future__ import annotations

import configparser
import json
import re
import subprocess
import sys
import time
import zipfile
from importlib import import_module, metadata
from pathlib import Path


def readme_tests() -> None:
    """Print the second fenced block of README.md: what a newcomer runs for the tests."""
    print(re.findall(r"^```bash\n(.*?)^```", Path("README.md").read_text(), re.S | re.M)[1])


def lowest() -> None:
    """Print the lowest versions that setup.cfg allows, as constraints."""
    config = configparser.ConfigParser()
    config.read("setup.cfg")
    lines = "\n".join([config["options"]["install_requires"], *config["options.extras_require"].values()])
    print("\n".join(f"{name}=={version}" for name, version in re.findall(r"^([\w-]+)>=([\w.]+)", lines, re.M)))


def wheel(path: str) -> None:
    """The wheel holds every file of the package and of the examples, and nothing else."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "monai_infoaug", "examples"]
    files = subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split()
    wanted = {re.sub("^examples/", "monai_infoaug/examples/", file) for file in files if Path(file).is_file()}
    names = {name for name in zipfile.ZipFile(path).namelist() if ".dist-info/" not in name}
    assert names == wanted, f"missing {sorted(wanted - names)}, not wanted {sorted(names - wanted)}"
    print(f"{len(names)} files")


def keeps(path: str) -> None:
    """The wheel, installed beside what is here, leaves MONAI, PyTorch and NumPy as they are."""
    dry = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--report", "-", path]
    report = json.loads(subprocess.run(dry, capture_output=True, text=True, check=True).stdout)
    changed = {each["metadata"]["name"].lower().replace("_", "-") for each in report["install"]}
    assert "monai-infoaug" in changed, "pip would not install the wheel itself"
    assert not changed & {"monai", "torch", "numpy"}, f"would change {sorted(changed)}"
    print(", ".join(f"{name} {metadata.version(name)}" for name in ("monai", "torch", "numpy")))


def plain_install() -> None:
    """Without extras: nothing but MONAI's needs, SimpleITK, nibabel and Pillow is there, and the import is fast."""
    from packaging.requirements import Requirement

    def needs(name: str) -> set[str]:
        requirements = map(Requirement, metadata.requires(name) or [])
        return {normal(r.name) for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})}

    def normal(name: str) -> str:
        return re.sub(r"[-_.]+", "-", name).lower()

    allowed, new = set(), {"monai", "nibabel", "pillow", "simpleitk"}
    while new:
        allowed |= new
        new = set().union(*map(needs, new)) - allowed
    installed = {normal(each.metadata["Name"]) for each in metadata.distributions()}
    more = installed - allowed - {"monai-infoaug", "pip", "setuptools"}
    assert not more, f"also installed: {sorted(more)}"

    import_module("monai")
    start = time.perf_counter()
    for room in ("transforms", "information", "losses", "networks", "inferers", "metrics", "data"):
        import_module(f"monai_infoaug.{room}")
    seconds = time.perf_counter() - start
    assert seconds < 2, f"the import takes {seconds:.1f} s more than that of MONAI"
    print(f"{len(installed)} packages, imported in {seconds:.2f} s more than MONAI")


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
