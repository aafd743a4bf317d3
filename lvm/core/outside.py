"""What comes from outside: files that are none, JSON of any depth, text that a terminal obeys."""

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
from typing import Any, TypeAlias

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

BOM = "\ufeff"  # some editors write it before a text
MAX_DIGITS = 19  # of a whole number that 64 bits hold
MOST_SHOWN, MOST_NAMED, MOST_SIGNS = 120, 10, 60  # signs of a value; names, and signs of each
# Control signs that are no white space, embedding and isolation of a direction, half characters.
_COMMANDS = re.compile(
    r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
MAX_TEXT_BYTES = 256 << 20  # of a manifest, a recipe or a journal


def regular(path: Path) -> Path:
    """Return a path that names a regular file; OSError for a folder, a pipe or a device.

    A pipe would be waited for, and a device may never end.
    """
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return path


def read_text(path: Path, errors: str = "strict") -> str:
    """Return the UTF-8 text of a regular file of bounded size; OSError or ValueError without it.

    The mark that some editors put before the text (BOM) is no part of it.
    """
    size = regular(path).stat().st_size
    if size > MAX_TEXT_BYTES:
        raise OSError(errno.EFBIG, f"{size / 2**20:.0f} MiB of text", str(path))
    return path.read_text(encoding="utf-8-sig", errors=errors)


def lower_limit(kind: int, amount: int) -> None:
    """Lower a limit of this process, as `resource` names it; one that is lower already stays."""
    hard = resource.getrlimit(kind)[1]
    lowest = amount if hard == resource.RLIM_INFINITY else min(amount, hard)
    resource.setrlimit(kind, (lowest, hard))


def parse_json(text: str) -> Any:
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
    """Return a value from outside as a sentence names it: whatever it holds, it stays short."""
    return shortened(repr(value))


def shortened(text: str, most: int = MOST_SHOWN) -> str:
    """Return text that is cut where it is longer than a sentence bears."""
    return text if len(text) <= most else f"{text[:most]}..."


def listed(names: Iterable[object]) -> str:
    """Return names from outside as a sentence lists them: ten at most, each of them short."""
    every = list(names)
    few = [shortened(str(name), MOST_SIGNS) for name in every[:MOST_NAMED]]
    more = [f"and {len(every) - MOST_NAMED:,} more"] if len(every) > MOST_NAMED else []
    return ", ".join(few + more)


def printable(text: str) -> str:
    """Return text in one line that moves no cursor, rings no bell and turns no direction.

    Names in a file, a pickle or a checkpoint are chosen by whoever made it.
    """
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else _escaped(sign) for sign in text)


def harmless(text: str) -> str:
    """Return text of several lines that moves no cursor, rings no bell and turns no direction.

    Unlike `printable`, it keeps lines, spaces of every kind and the joiners of scripts.
    """
    return _COMMANDS.sub(lambda found: _escaped(found[0]), text)


def quoted(text: str) -> str:
    """Return text as one word of a shell that shows what is in it."""
    if text.isprintable():
        return shlex.quote(text)
    signs = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"$'{printable(signs)}'"  # of bash, zsh and POSIX 2024


def _escaped(sign: str) -> str:
    return sign.encode("unicode_escape").decode("ascii")
