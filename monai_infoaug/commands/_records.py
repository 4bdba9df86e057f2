"""What commands keep of their work, image by image, and what they say about it."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from tqdm import tqdm

from monai_infoaug import __version__
from monai_infoaug._console import printable
from monai_infoaug._files import digest_of, files_of


def is_full(error: BaseException) -> bool:
    """Whether it is the disk's, so that the other images would fail, too."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def stamp_of(path: str | os.PathLike) -> list[list[int]]:
    """What tells whether an image is as it was."""
    return [[found.st_size, found.st_mtime_ns] for found in (file.stat() for file in files_of(path))]


def key_of(*parts: Any) -> str:
    """A hash of values, and of this version; files and folders, given as paths, count by their content."""
    plain = [digest_of(part) if isinstance(part, Path) else part for part in parts]
    return hashlib.sha256(json.dumps([__version__, *plain], default=str).encode()).hexdigest()


def warn(line: str) -> None:
    """Say a line beside a progress bar."""
    with suppress(OSError):  # nobody reads it any more
        tqdm.write(printable(line), file=sys.stderr)
