"""Are the files of a bank those that its manifest was written for? Hashed once, and remembered.

A hash of gigabytes takes seconds. What was hashed is remembered by path, size and time of change in
the person's cache folder, never beside the data.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lvm.core.files import cache_file, write_json
from lvm.core.outside import parse_json

REMEMBERED = "sha256.json"
MAX_REMEMBERED = 1000


def changed_files(folder: Path, manifest: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield (name, hash of the file, hash that the manifest states) of every file that differs.

    Files that are missing are another reader's to name.
    """
    for name, stated in sorted(manifest.get("sha256", {}).items()):
        path = folder / name
        if path.is_file() and (seen := _sha256(path)) != stated:
            yield name, seen, str(stated)


def _sha256(path: Path) -> str:
    """Return the hash of a file, from memory where it has not changed since."""
    about = path.stat()
    key = f"{path.resolve()}|{about.st_size}|{about.st_mtime_ns}"
    known = _remembered()
    if key not in known:
        with path.open("rb") as handle:
            known[key] = hashlib.file_digest(handle, "sha256").hexdigest()
        _remember(known)
    return known[key]


def _remembered() -> dict[str, str]:
    with contextlib.suppress(OSError, ValueError):
        known = parse_json(cache_file(REMEMBERED).read_text(encoding="utf-8"))
        if isinstance(known, dict):
            return {str(key): str(value) for key, value in known.items()}
    return {}


def _remember(known: Mapping[str, str]) -> None:
    """Keep the newest hashes; where nothing can be written, the next audit hashes again."""
    with contextlib.suppress(OSError):
        place = cache_file(REMEMBERED)
        place.parent.mkdir(parents=True, exist_ok=True)
        write_json(place, dict(list(known.items())[-MAX_REMEMBERED:]))
