"""Untrusted input: files that may be devices, JSON of any depth, text with control characters."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import shlex
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

BOM = "\ufeff"  # some editors write it before a text
MAX_DIGITS = 19  # of a whole number that 64 bits hold
MOST_SHOWN, MOST_NAMED, MOST_SIGNS = 120, 10, 60  # characters of a value; names, characters of each
# Control characters except white space, changes of text direction, lone surrogates.
_COMMANDS = re.compile(
    r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
MAX_TEXT_BYTES = 256 << 20  # of a manifest, a recipe or a journal


def regular(path: Path) -> Path:
    """Return a path that names a regular file; OSError for a folder, a pipe or a device.

    Reading a pipe would block, and a device may never end.
    """
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return path


def read_text(path: Path, errors: str = "strict") -> str:
    """Return the UTF-8 text of a regular file of bounded size; OSError or ValueError without it.

    The byte order mark that some editors put first is removed.
    """
    size = regular(path).stat().st_size
    if size > MAX_TEXT_BYTES:
        raise OSError(errno.EFBIG, f"{size / 2**20:.0f} MiB of text", str(path))
    return path.read_text(encoding="utf-8-sig", errors=errors)


def lower_limit(kind: int, amount: int) -> None:
    """Lower a limit of this process, as `resource` names it; a lower one stays."""
    hard = resource.getrlimit(kind)[1]
    lowest = amount if hard == resource.RLIM_INFINITY else min(amount, hard)
    resource.setrlimit(kind, (lowest, hard))


def parse_json(text: str) -> Any:  # a caller tries the value as what it expects to find
    """Return the value of a JSON text; ValueError, in one line, for whatever is wrong with it.

    Python's own reader raises other errors as well: for deep nesting, for long numbers.
    """
    try:
        return json.loads(text.removeprefix(BOM), parse_int=_whole_number)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _whole_number(digits: str) -> int:
    if len(digits.lstrip("-")) > MAX_DIGITS:
        raise ValueError(f"a number with {len(digits.lstrip('-'))} digits")
    return int(digits)


def brief(value: object) -> str:
    """Return a value from outside for a sentence, shortened."""
    return shortened(repr(value))


def shortened(text: str, most: int = MOST_SHOWN) -> str:
    """Return text, cut where it is too long for a sentence."""
    return text if len(text) <= most else f"{text[:most]}..."


def listed(names: Iterable[object]) -> str:
    """Return names from outside for a sentence: ten at most, each of them short."""
    every = list(names)
    few = [shortened(str(name), MOST_SIGNS) for name in every[:MOST_NAMED]]
    more = [f"and {len(every) - MOST_NAMED:,} more"] if len(every) > MOST_NAMED else []
    return ", ".join(few + more)


def printable(text: str) -> str:
    """Return text in one line, with control characters escaped.

    Names in a file, a pickle or a checkpoint are chosen by whoever made it.
    """
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else _escaped(sign) for sign in text)


def harmless(text: str) -> str:
    """Return text of several lines, with control characters escaped.

    Unlike `printable`, it keeps line breaks, spaces of every kind and the joiners of scripts.
    """
    return _COMMANDS.sub(lambda found: _escaped(found[0]), text)


def quoted(text: str) -> str:
    """Return text quoted as one shell word, with every character visible."""
    if text.isprintable():
        return shlex.quote(text)
    signs = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"$'{printable(signs)}'"  # of bash, zsh and POSIX 2024


def _escaped(sign: str) -> str:
    return sign.encode("unicode_escape").decode("ascii")
