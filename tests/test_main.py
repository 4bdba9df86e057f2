"""The command line: what it says and how it ends."""

from __future__ import annotations

import shlex
import subprocess
import sys
from types import SimpleNamespace

import pytest

import monai_infoaug
from monai_infoaug import __main__ as command_line
from monai_infoaug.__main__ import main, require_extra
from monai_infoaug._console import Failure
from monai_infoaug.bundles import find_bundle

MATCH = ["match", "--checkpoint", "c.pt", "--template", "t.png", "--landmarks", "t.csv", "images"]


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["demo", "--help"], ["init", "--help"], ["match", "--help"], ["calibrate", "--help"], ["--version"]],
)
def test_help_and_version_end_well(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 0
    said = capsys.readouterr().out
    assert monai_infoaug.__version__ in said if arguments == ["--version"] else said.startswith("usage: ")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["dance"],
        ["demo", "--epochs", "many"],
        ["demo", "--colour"],
        ["match", "a.png"],
        [*MATCH, "--set", "pixdim"],
    ],
)
def test_bad_usage_exits_2(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("usage: monai-infoaug")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--epochs", "0"], "`epochs` must be at least 1, got 0"),
        (["--seed", "-1"], "`seed` must be at least 0 and below 2 ** 32, got -1"),
        (["--device", "abacus"], "`device` must be one that PyTorch finds here, such as cpu, got abacus"),
        (["--out", __file__], __file__),
    ],
)
def test_user_errors_are_one_line_and_exit_2(arguments, named, capsys, tmp_path, monkeypatch):
    pytest.importorskip("nilearn", reason="the demo needs its extra")
    monkeypatch.chdir(tmp_path)
    assert main(["demo", *arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("monai-infoaug demo: ")
    assert said.count("\n") == 1
    assert named in said


def test_missing_extra_names_what_to_install(capsys, monkeypatch):
    monkeypatch.setattr(command_line, "find_spec", lambda name: None if name == "nilearn" else SimpleNamespace())
    assert main(["demo"]) == 2
    said = capsys.readouterr().err
    assert "nilearn" in said
    assert "pip install monai_infoaug[demo]" in said
    assert "ignite" not in said


@pytest.mark.parametrize(("there", "command"), [(False, "demo"), (True, "demo"), (False, "match")])
def test_says_once_what_would_make_a_command_faster(there, command, monkeypatch, capsys):
    found = {"numba": SimpleNamespace() if there else None}
    monkeypatch.setattr(command_line, "find_spec", lambda name: found.get(name, SimpleNamespace()))
    monkeypatch.setattr(command_line, command, lambda args: 0)
    assert main(MATCH if command == "match" else [command]) == 0
    said = capsys.readouterr().err
    assert said.count("pip install monai_infoaug[fast]") == (not there and command == "demo")


def test_require_extra_accepts_what_is_there():
    require_extra("any", "json", "csv")


@pytest.mark.parametrize(
    ("error", "status"),
    [(KeyboardInterrupt(), 130), (ValueError("a\nb"), 2), (OSError("a"), 2), (Failure("a stage ended with: b"), 2)],
)
def test_exit_status(error, status, monkeypatch, capsys):
    def fail(args):
        raise error

    monkeypatch.setattr(command_line, "demo", fail)
    assert main(["demo"]) == status
    assert capsys.readouterr().err.count("\n") == (status == 2)


@pytest.mark.parametrize("error", [AssertionError("bug"), RuntimeError("shapes")])
def test_a_fault_of_ours_keeps_its_traceback(monkeypatch, error):
    def fail(args):
        raise error

    monkeypatch.setattr(command_line, "demo", fail)
    with pytest.raises(type(error)):
        main(["demo"])


def test_arguments_reach_the_demo(monkeypatch):
    pytest.importorskip("nilearn", reason="the demo needs its extra")
    seen = []
    monkeypatch.setattr("monai_infoaug.commands.demo.run_demo", lambda *args: seen.append(args))
    assert main(["demo", "--out", "here", "--seed", "3", "--epochs", "2", "--device", "cpu"]) == 0
    assert seen == [("here", 3, 2, "cpu")]


@pytest.mark.parametrize("arguments", [[], ["--list"]])
def test_init_lists_the_bundles(arguments, capsys):
    assert main(["init", *arguments]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[said.index("landmark_pretraining") + 1].startswith("    Pre-trains")


@pytest.mark.parametrize("folder", [["my bundle"], []])
def test_init_copies_and_says_what_is_next(folder, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("monai_infoaug.__main__.find_spec", str)  # as if all extras were there
    monkeypatch.chdir(tmp_path)
    assert main(["init", "landmark_pretraining", *folder]) == 0
    said = capsys.readouterr().out.splitlines()
    copied = tmp_path / (folder or ["landmark_pretraining"])[0]
    assert (copied / "configs" / "train.json").exists()
    assert shlex.split(said[1]) == ["cd", copied.name]
    assert (
        said[2] == "  python -m monai.bundle run --config_file configs/train.json --dataset_dir IMAGES --output_dir OUT"
    )
    assert said[3:] == [
        "Then:",
        "  monai-infoaug match IMAGES --checkpoint OUT/checkpoint.pt --template IMAGE --landmarks TABLE",
        "       IMAGES: folder of images",
        "        TABLE: landmarks in millimetres: .csv, .fcsv or .mrk.json",
        "        IMAGE: the annotated one",
        "          OUT: folder for the results",
    ]
    assert main(["init", "landmark_pretraining", *folder]) == 2  # it is no longer empty
    assert "must be new or empty" in capsys.readouterr().err


def test_init_says_which_packages_the_bundle_lacks(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("monai_infoaug.__main__.find_spec", lambda name: None if name == "ignite" else name)
    assert main(["init", "segmentation", str(tmp_path / "mine")]) == 0
    assert capsys.readouterr().out.endswith("\nThe bundle needs ignite: pip install monai_infoaug[train]\n")


def test_init_says_how_to_train_by_each_method(capsys, tmp_path):
    assert main(["init", "segmentation", str(tmp_path / "mine")]) == 0
    methods = [line for line in capsys.readouterr().out.splitlines() if "['configs/train.json','configs/" in line]
    assert len(methods) == 5
    assert all(line.endswith("--dataset_dir IMAGES --labels_dir LABELS --output_dir OUT") for line in methods)
    assert main(["init"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert (
        said[said.index("segmentation") + 2]
        == "    Methods: attention_guided, consistency, label_efficient, local_contrast, segmenter"
    )


def test_the_name_that_a_bundle_had_is_told_in_one_line(capsys, tmp_path):
    assert main(["init", "label_efficient_segmentation", str(tmp_path / "mine")]) == 2
    said = capsys.readouterr().err
    assert said.startswith(
        "monai-infoaug init: `bundle` must be segmentation, trained with its configs/label_efficient.json"
    )
    assert said.count("\n") == 1


def test_what_low_landmarks_tell_is_said_on_one_page(capsys):
    """Figures in the help, in a docstring and on a page had become three sets of them."""
    pytest.importorskip("tqdm", reason="matching needs the extra train")
    from monai_infoaug.commands.match import match_images

    with pytest.raises(SystemExit):
        main(["match", "--help"])
    page = (find_bundle("landmark_pretraining") / "docs" / "README.md").read_text(encoding="utf-8")
    assert "errors above 5 mm" in page
    for text in (capsys.readouterr().out, match_images.__doc__):
        assert "landmark_pretraining" in text
        assert "%" not in text


def test_arguments_reach_match(monkeypatch):
    pytest.importorskip("tqdm", reason="matching needs the extra train")
    seen = []
    monkeypatch.setattr(
        "monai_infoaug.commands.match.match_images", lambda *args: seen.append(args) or {"bad.png": "why"}
    )
    options = [
        "--pixdim",
        "[0.3, 0.4]",
        "--set",
        "modality=mr",
        "--set",
        "origin=2",
        "--min-score",
        "0.5",
        "--consensus",
        "5",
    ]
    assert main([*MATCH, "more", *options, "--out", "here", "--bundle", "b"]) == 1  # some image failed
    settings = {"pixdim": [0.3, 0.4], "modality": "mr", "origin": 2}
    assert seen == [("c.pt", ["t.png"], ["t.csv"], ["images", "more"], "here", "b", settings, 0.5, 3.0, "cpu", 5, None)]


def test_help_and_init_import_nothing_heavy():
    code = (
        "import sys\n"
        "from monai_infoaug.__main__ import main\n"
        "try: main(['demo', '--help'])\n"
        "except SystemExit: pass\n"
        "if any(name in sys.modules for name in ('torch', 'monai', 'numpy', 'matplotlib')): sys.exit(1)\n"
        "main(['init', '--list'])\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'monai', 'matplotlib')))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_python_m_runs_the_command_line():
    command = [sys.executable, "-m", "monai_infoaug", "--version"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == f"monai-infoaug {monai_infoaug.__version__}"
