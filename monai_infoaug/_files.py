"""Files that are written whole or not at all, and never over one that is not ours."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from monai_infoaug._require import refusal

RECORD = ".monai_infoaug.jsonl"  # in each folder that a command writes into: what it wrote there, a line a file


def write_whole(path: str | os.PathLike, content: str | bytes) -> None:
    """Write a file in one step: whoever reads it, at any time and after a kill, finds the old content or the new one.

    Args:
        path: file, in a folder that exists; a link stays one, and what it points to is written.
        content: text, which is written as UTF-8, or bytes.

    Raises:
        OSError: naming the file and the reason, such as a full disk; the file is then as it was.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "table.csv")
        >>> write_whole(path, "image,x")
        >>> path.read_text(), len(list(path.parent.iterdir()))
        ('image,x', 1)
    """
    # of one length for all, since a name may be as long as the file system takes; the same for a file each time, so
    # that a second try leaves nothing of one that was killed
    target = Path(os.path.realpath(path))
    with _replacing(path, f".{_digest(os.fsencode(target.name))[:16]}.partial") as file:
        file.write(content.encode() if isinstance(content, str) else content)


def save_whole(content: Any, path: str | os.PathLike, suffix: str = ".partial") -> None:
    """``torch.save`` in one step, see :func:`write_whole`; what is there afterwards outlives a power cut, too.

    Args:
        content: what is saved.
        path: file, in a folder that exists.
        suffix: end of the name of the file until it is whole; processes that may write one at once need different ones.

    Raises:
        OSError: naming the file and the reason, such as a full disk; the file is then as it was.
    """
    import torch  # which takes a second that `monai-infoaug init` need not wait

    with _replacing(path, f"{Path(os.path.realpath(path)).name}{suffix}") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):
                raise error.__context__ from error  # the reason, which PyTorch does not say
            raise
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _replacing(path: str | os.PathLike, partial_name: str) -> Iterator[IO[bytes]]:
    """A file to write that becomes the one of ``path``, unless an error leaves that as it was."""
    target = Path(os.path.realpath(path))
    partial = target.with_name(partial_name)
    try:
        try:
            with partial.open("wb") as file:
                yield file
            os.replace(partial, target)
        finally:
            with suppress(OSError):
                partial.unlink()  # of what did not become the file
    except OSError as error:
        raise _named(error, path) from error


class Ledger:
    """What has been written into a folder, kept in the folder, so that it is known again by its content.

    A file is ours if it has the content that was written to it, now or at any time: one that somebody has corrected is
    theirs. A kill loses nothing: a file is recorded before it is there.

    Args:
        folder: folder, which need not exist before something is written.
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        self.folder = Path(folder)
        self._known: set[tuple[Any, Any]] = set()  # names with a content that was written

    def write(self, name: str, content: str | bytes) -> None:
        """Write a file of the folder, see :func:`write_whole`.

        Raises:
            ValueError: if there is one that is not ours.
            OSError: naming the file and the reason.
        """
        self.require_ours([name])
        data = content.encode() if isinstance(content, str) else content
        self.note({"file": name, "sha256": _digest(data)})
        write_whole(self.folder / name, data)

    def note(self, record: Mapping[str, Any]) -> None:
        """Add a line of JSON to what is kept.

        Raises:
            OSError: naming the file and the reason.
        """
        path = self.folder / RECORD
        self._known.add((record.get("file"), record.get("sha256")))
        try:
            with open(path, "ab") as file:
                file.write(b"\n" + json.dumps(record).encode())  # after a line of which a kill has left a half, too
        except OSError as error:
            raise _named(error, path) from error

    def records(self) -> Iterator[dict[str, Any]]:
        """The lines that are kept, in the order they were added."""
        with suppress(FileNotFoundError, NotADirectoryError):
            for line in (self.folder / RECORD).read_bytes().splitlines():
                with suppress(ValueError):  # a half of a line
                    record = json.loads(line)
                    if isinstance(record, dict):
                        yield record

    def is_ours(self, name: str) -> bool:
        """Whether a file of the folder is what was written to it."""
        path = self.folder / name
        if not path.is_file():
            return False
        found = (name, digest_of(path))
        if found not in self._known:  # by another process, perhaps
            self._known |= {(record.get("file"), record.get("sha256")) for record in self.records()}
        return found in self._known

    def require_ours(self, names: Iterable[str], inputs: Iterable[str | os.PathLike] = ()) -> None:
        """Refuse to write to files of the folder that exist and are not ours, or are read.

        Args:
            names: files that are to be written.
            inputs: files that are read, and folders with such.

        Raises:
            ValueError: naming the first of them.
        """
        read = {_identity(file) for given in inputs for file in files_of(given)}
        for name in names:
            path = self.folder / name
            if not os.path.lexists(path):
                continue
            if _identity(path) in read:
                raise refusal("out", f"'{path}', which is read", "apart from what is read")
            if not self.is_ours(name):
                got = f"'{path}', which is somebody else's, or was changed since: move it away, or name another `out`"
                raise refusal("out", got, "new, or a file as this command has written it")


def ledger_for(path: str | os.PathLike) -> tuple[Ledger, str]:
    """The ledger of the folder that a file really lies in, and the file's name there."""
    target = Path(os.path.realpath(path))
    return Ledger(target.parent), target.name


def files_of(path: str | os.PathLike) -> list[Path]:
    """A file, or the files of a folder in order."""
    return sorted(each for each in Path(path).iterdir() if each.is_file()) if Path(path).is_dir() else [Path(path)]


def digest_of(path: str | os.PathLike) -> str:
    """SHA-256 of the content of a file; of a folder that of its files with their names."""
    if not Path(path).is_dir():
        return _digest(Path(path).read_bytes())
    return _digest(b"".join(os.fsencode(file.name) + digest_of(file).encode() for file in files_of(path)))


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _identity(path: Path) -> tuple[int, int] | None:
    """What a file is, under whatever name; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _named(error: OSError, path: str | os.PathLike) -> OSError:
    """The error of a file that a user knows, not of one beside it."""
    return OSError(error.errno, error.strerror, os.fspath(path))
