"""Files that are written whole or not at all, and the folder of a cache."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a file that takes the place of `path` when the block ends.

    It is on the disk by then. An error or a kill leaves the old file as it was.
    """
    fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with fresh.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """Replace a file by one with this text; an error or a kill leaves the old one as it was."""
    with whole_file(path) as file:
        file.write(text.encode("utf-8", "backslashreplace"))


def write_json(path: Path, document: object) -> None:
    """Replace a file by one with this document; ValueError for a number that JSON cannot hold."""
    write_whole(path, json.dumps(document, indent=1, allow_nan=False) + "\n")


def cache_file(name: str) -> Path:
    """Return the path of a file in the person's cache folder; OSError for a user without one."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    if not base.is_absolute():  # a user without a home
        raise OSError("no cache folder")
    return base / "lvm" / name
