"""Files are whole or not there, and other people's stay as they are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from monai_infoaug._files import RECORD, Ledger, digest_of, files_of, ledger_for, save_whole, write_whole

WRITE_FOREVER = """
import sys
from monai_infoaug._files import write_whole
print(flush=True)
while True:
    for letter in "ab":
        write_whole(sys.argv[1], letter * 5_000_000)
"""


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


@pytest.mark.parametrize("content", ["ä\r\nb\n", b"\x00\xff"])
def test_what_is_written_is_there_as_it_was_given(content, tmp_path):
    write_whole(tmp_path / "file", content)
    assert (tmp_path / "file").read_bytes() == (content if isinstance(content, bytes) else content.encode())
    assert names(tmp_path) == {"file"}


def test_on_a_full_disk_the_old_file_stays_and_nothing_is_left(tmp_path, full_disk):
    (tmp_path / "old.csv").write_text("old")
    for name in ("old.csv", "new.csv"):
        with full_disk(), pytest.raises(OSError, match=rf"File too large: '.*{name}'"):
            write_whole(tmp_path / name, "x" * 2000)
    assert names(tmp_path) == {"old.csv"}
    assert (tmp_path / "old.csv").read_text() == "old"


def test_tensors_on_a_full_disk_leave_the_old_file(tmp_path, full_disk):
    (tmp_path / "old.pt").write_text("old")
    for name in ("old.pt", "new.pt"):
        with full_disk(), pytest.raises(OSError, match=rf"File too large: '.*{name}'"):
            save_whole({"a": torch.rand(1000)}, tmp_path / name)
    assert names(tmp_path) == {"old.pt"}
    assert (tmp_path / "old.pt").read_text() == "old"


def test_what_cannot_be_saved_leaves_the_old_file(tmp_path):
    save_whole({"a": 1}, tmp_path / "old.pt")
    with pytest.raises(AttributeError, match="pickle"):
        save_whole({"a": lambda: 0}, tmp_path / "old.pt")
    assert names(tmp_path) == {"old.pt"}
    assert torch.load(tmp_path / "old.pt", weights_only=True) == {"a": 1}


def test_a_text_that_is_no_unicode_leaves_the_old_file(tmp_path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(tmp_path / "a", "\udcf6")
    assert (tmp_path / "a").read_text() == "old"


def test_a_folder_that_is_missing_is_named_with_the_file_that_was_asked_for(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere/file'$"):
        write_whole(tmp_path / "nowhere" / "file", "x")


def test_a_name_as_long_as_the_file_system_takes(tmp_path):
    write_whole(tmp_path / ("n" * 255), "x")
    assert names(tmp_path) == {"n" * 255}


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "there").write_text("old")
    (tmp_path / "link").symlink_to("there")
    write_whole(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "there").read_text() == "new"


@pytest.mark.slow
def test_killed_at_any_time_the_file_is_whole_and_the_next_writer_clears_up(tmp_path):
    path = tmp_path / "file"
    write_whole(path, "a" * 5_000_000)
    for _ in range(4):
        process = subprocess.Popen([sys.executable, "-c", WRITE_FOREVER, path], stdout=subprocess.PIPE)
        process.stdout.readline()
        for _ in range(20):  # of a reader beside it
            assert path.read_text() in ("a" * 5_000_000, "b" * 5_000_000)
        process.kill()
        process.communicate()
        assert path.read_text() in ("a" * 5_000_000, "b" * 5_000_000)
    write_whole(path, "end")
    assert names(tmp_path) == {"file"}


def test_what_was_written_is_known_again_until_somebody_changes_it(tmp_path):
    Ledger(tmp_path).write("a.csv", "1")
    Ledger(tmp_path).write("a.csv", b"2")
    (tmp_path / "b.csv").write_text("2")
    ledger = Ledger(tmp_path)
    assert [ledger.is_ours(name) for name in ("a.csv", "b.csv", "none.csv")] == [True, False, False]
    ledger.require_ours(["a.csv", "none.csv"])
    (tmp_path / "a.csv").write_text("1")  # as it was once: a kill may come between record and file
    assert ledger.is_ours("a.csv")
    (tmp_path / "a.csv").write_text("corrected")
    for ask in (lambda: ledger.require_ours(["none.csv", "a.csv"]), lambda: ledger.write("a.csv", "3")):
        with pytest.raises(ValueError, match=r"^`out` must be new, or .* got '.*a.csv', which is somebody else's"):
            ask()
    assert (tmp_path / "a.csv").read_text() == "corrected"


def test_what_another_process_has_written_is_ours_too(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.write("a", "1")
    Ledger(tmp_path).write("a", "2")
    ledger.write("a", "3")
    assert (tmp_path / "a").read_text() == "3"


@pytest.mark.parametrize("kind", ["same", "link", "hard link", "other spelling", "folder"])
def test_an_input_is_refused_even_if_it_is_ours(kind, tmp_path):
    ledger = Ledger(tmp_path)
    ledger.write("a", "1")
    read = tmp_path / {"same": "a", "folder": ""}.get(kind, "b")
    if kind == "link":
        read.symlink_to("a")
    elif kind == "hard link":
        os.link(tmp_path / "a", read)
    elif kind == "other spelling":
        read = tmp_path / ".." / tmp_path.name / "a"
    with pytest.raises(ValueError, match=r"^`out` must be apart from what is read, got '.*a', which is read"):
        ledger.require_ours(["a"], [read])


def test_folders_pipes_and_links_to_nothing_are_not_ours(tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("nothing")
    for name in names(tmp_path):
        with pytest.raises(ValueError, match=name):
            Ledger(tmp_path).require_ours([name])


def test_a_record_that_a_kill_has_torn_is_passed_over(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.write("a", "1")
    with open(tmp_path / RECORD, "ab") as file:
        file.write(b'\n{"file": "b", "sha2')
    ledger.note({"done": 1})
    assert [set(record) for record in Ledger(tmp_path).records()] == [{"file", "sha256"}, {"done"}]
    assert Ledger(tmp_path).is_ours("a")


def test_on_a_full_disk_the_record_is_named(tmp_path, full_disk):
    with full_disk(), pytest.raises(OSError, match=rf"File too large: '.*{RECORD}'"):
        Ledger(tmp_path).note({"x": "y" * 2000})


def test_a_file_is_recorded_where_it_really_lies(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link.html").symlink_to("real/page.html")
    ledger, name = ledger_for(tmp_path / "link.html")
    ledger.write(name, "x")
    assert names(tmp_path / "real") == {"page.html", RECORD}


def test_digests_tell_contents_and_names_in_folders(tmp_path):
    for folder, name, content in (("1", "a", "x"), ("2", "a", "x"), ("3", "b", "x"), ("4", "a", "y")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text(content)
    one, two, *others = (digest_of(tmp_path / folder) for folder in "1234")
    assert one == two
    assert len({one, *others}) == 3
    assert files_of(tmp_path / "1") == [tmp_path / "1" / "a"]
