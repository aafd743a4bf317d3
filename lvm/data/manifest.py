"""The manifest of a bank: what its keys must hold, and whether the files are those it states.

A hash of gigabytes takes seconds. What was hashed is remembered by path, size and time of change in
the person's cache folder, never next to the data.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath

from lvm.core.errors import DataError
from lvm.core.files import cache_file, write_json
from lvm.core.outside import parse_json

SPLITS = ("train", "dev", "test")
REMEDY = "write the manifest again, or remove the key"
REMEMBERED = "sha256.json"
MAX_REMEMBERED = 1000


def json_object(text: str, where: str) -> dict[str, object]:
    """Return the JSON object in a text that begins with a byte order mark or not."""
    try:
        value = parse_json(text.removeprefix("\ufeff"))
    except ValueError as error:
        raise DataError(f"{where} is not JSON ({error}); write it again.") from None
    if not isinstance(value, dict):
        raise DataError(f"{where} must hold a JSON object (got {_kind(value)}); write it again.")
    return value


def check_manifest(manifest: Mapping[str, object], where: str) -> None:
    """Refuse a manifest whose known keys hold something else than they should (DataError)."""
    for key in ("count", "width"):
        if key in manifest and not _is_whole(manifest[key]):
            raise _wrong(where, key, "a whole number", manifest[key])
    if "titles" in manifest:
        check_titles(manifest, where)
    if "split" in manifest:
        _check_split(manifest["split"], where)
    if "sha256" in manifest:
        _check_hashes(manifest["sha256"], where)


def check_titles(manifest: Mapping[str, object], where: str) -> None:
    """Refuse titles that are not one per article id."""
    titles = manifest["titles"]
    if not isinstance(titles, Mapping):
        raise _wrong(where, "titles", "an object of titles by article id", titles)
    for article in titles:
        if not article.removeprefix("-").isdecimal():
            raise _wrong(where, "titles", "an object whose keys are article ids", article)


def _check_split(split: object, where: str) -> None:
    if not isinstance(split, Mapping) or not set(split) <= set(SPLITS):
        wanted = f"an object with {', '.join(SPLITS)}"
        raise _wrong(where, "split", wanted, split)
    for name, ids in split.items():
        if not isinstance(ids, list):
            raise _wrong(where, f"split.{name}", "a list of article ids", ids)
        for article in ids:
            if not _is_whole(article) or isinstance(article, float):
                raise _wrong(where, f"split.{name}", "a list of article ids", article)


def _check_hashes(hashes: object, where: str) -> None:
    if not isinstance(hashes, Mapping):
        raise _wrong(where, "sha256", "an object of hashes by file name", hashes)
    for name, value in hashes.items():
        if PurePath(name).name != name or not isinstance(value, str):
            raise _wrong(
                where, "sha256", "an object of names in this folder and their hashes", name
            )


def _is_whole(value: object) -> bool:
    if isinstance(value, float):
        return value.is_integer()
    return isinstance(value, int) and not isinstance(value, bool)


def _wrong(where: str, key: str, wanted: str, value: object) -> DataError:
    return DataError(f"{where}: {key} must be {wanted} (got {_kind(value)}); {REMEDY}.")


def _kind(value: object) -> str:
    """Return a value as it is named in a sentence: short, whatever it holds."""
    match value:
        case None:
            return "null"
        case list():
            return f"a list of {len(value)}"
        case Mapping():
            return f"an object with {', '.join(map(repr, list(value)[:3])) or 'no keys'}"
    return repr(value)[:60]


def stated_hashes(manifest: Mapping[str, object]) -> dict[str, str]:
    """Return the hashes that a manifest states, by the name of the file."""
    stated = manifest.get("sha256")
    return {n: str(h) for n, h in stated.items()} if isinstance(stated, Mapping) else {}


def changed_files(folder: Path, manifest: Mapping[str, object]) -> Iterator[tuple[str, str, str]]:
    """Yield (name, hash of the file, hash that the manifest states) of every file that differs.

    Files that are missing are another reader's to name.
    """
    for name, stated in sorted(stated_hashes(manifest).items()):
        path = folder / name
        if path.is_file() and (seen := _sha256(path)) != stated:
            yield name, seen, stated


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
