"""What `init --advise` says and refuses."""

from __future__ import annotations

import pytest

from monai_infoaug.__main__ import main


def test_init_advises(capsys):
    assert main(["init", "--advise", "--task", "landmarks", "--labels", "5", "--unlabelled", "145"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "Take landmark_detection after landmark_pretraining."
    assert said[1].startswith("  pre-trained 2.33 against scratch 2.75 mm: -0.42 (95 % interval -0.60 to -0.26)")
    assert "  monai-infoaug init landmark_pretraining" in said
    assert "       IMAGES: folder of images" in said


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (
            ["segmentation", "--advise"],
            "`advise` must be given without a bundle: it chooses one, got it with segmentation",
        ),
        (["--list", "--advise"], "got it with --list"),
        (["--advise"], "`task` must be landmarks or segmentation"),
        (["--advise", "--task", "landmarks"], "`labels` must be a whole number of at least 1"),
        (["--labels", "5"], "`labels` must be given with --advise alone, got 5"),
        (["segmentation", "--other-site"], "`other_site` must be given with --advise alone"),
        (["--advise", "--task", "landmarks", "--labels", "5", "--other-site"], "`other_site` must be given with"),
    ],
)
def test_init_refuses_what_does_not_go_together(arguments, named, capsys):
    assert main(["init", *arguments]) == 2
    said = capsys.readouterr().err
    assert named in said
    assert said.count("\n") == 1
