"""The command line: what it says and how it ends."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest

import monai_infoaug
from monai_infoaug import __main__ as command_line
from monai_infoaug.__main__ import main, require_extra


@pytest.mark.parametrize("arguments", [["--help"], ["demo", "--help"], ["--version"]])
def test_help_and_version_end_well(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 0
    said = capsys.readouterr().out
    assert monai_infoaug.__version__ in said if arguments == ["--version"] else "demo" in said


@pytest.mark.parametrize("arguments", [[], ["dance"], ["demo", "--epochs", "many"], ["demo", "--colour"]])
def test_bad_usage_exits_2(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("usage: monai-infoaug")


@pytest.mark.parametrize(
    "arguments, named",
    [
        (["--epochs", "0"], "`epochs` must be at least 1, got 0"),
        (["--seed", "-1"], "`seed` must be at least 0, got -1"),
        (["--device", "abacus"], "`device` must be one that PyTorch finds here, such as cpu, got abacus"),
        (["--out", __file__], __file__),
    ],
)
def test_user_errors_are_one_line_and_exit_2(arguments, named, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["demo", *arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("monai-infoaug demo: ") and said.count("\n") == 1 and named in said


def test_missing_extra_names_what_to_install(capsys, monkeypatch):
    monkeypatch.setattr(command_line, "find_spec", lambda name: None if name == "nilearn" else SimpleNamespace())
    assert main(["demo"]) == 2
    said = capsys.readouterr().err
    assert "nilearn" in said and "pip install monai_infoaug[demo]" in said and "ignite" not in said


def test_require_extra_accepts_what_is_there():
    require_extra("any", "json", "csv")


@pytest.mark.parametrize("error, status", [(KeyboardInterrupt(), 130), (ValueError("a\nb"), 2), (OSError("a"), 2)])
def test_exit_status(error, status, monkeypatch, capsys):
    def fail(args):
        raise error

    monkeypatch.setattr(command_line, "demo", fail)
    assert main(["demo"]) == status
    assert capsys.readouterr().err.count("\n") == (status == 2)


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch):
    def fail(args):
        raise AssertionError("bug")

    monkeypatch.setattr(command_line, "demo", fail)
    with pytest.raises(AssertionError):
        main(["demo"])


def test_arguments_reach_the_demo(monkeypatch):
    seen = []
    monkeypatch.setattr("monai_infoaug.demo.run_demo", lambda *args: seen.append(args))
    assert main(["demo", "--out", "here", "--seed", "3", "--epochs", "2", "--device", "cpu"]) == 0
    assert seen == [("here", 3, 2, "cpu")]


def test_help_imports_nothing_heavy():
    code = (
        "import sys\n"
        "from monai_infoaug.__main__ import main\n"
        "try: main(['demo', '--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'monai', 'numpy', 'matplotlib')))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_python_m_runs_the_command_line():
    run = subprocess.run([sys.executable, "-m", "monai_infoaug", "--version"], capture_output=True, text=True)
    assert run.returncode == 0 and run.stdout.strip() == f"monai-infoaug {monai_infoaug.__version__}"
