"""What comes from outside: JSON of any depth and size, and text that a terminal would obey."""

from __future__ import annotations

import json
import shlex
from typing import Any

MAX_DIGITS = 19  # of a whole number that 64 bits hold


def parse_json(text: str) -> Any:
    """Return the value of a JSON text; ValueError, in one line, for whatever is wrong with it.

    Python's own reader raises other errors as well: for deep nesting, for long numbers.
    """
    try:
        return json.loads(text, parse_int=_whole_number)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _whole_number(digits: str) -> int:
    if len(digits.lstrip("-")) > MAX_DIGITS:
        raise ValueError(f"a number of {len(digits.lstrip('-'))} digits")
    return int(digits)


def printable(text: str) -> str:
    """Return text in one line that moves no cursor, rings no bell and turns no direction.

    Names in a file, a pickle or a checkpoint are chosen by whoever made it.
    """
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else _escaped(sign) for sign in text)


def quoted(text: str) -> str:
    """Return text as one word of a shell that shows what is in it."""
    if text.isprintable():
        return shlex.quote(text)
    signs = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"$'{printable(signs)}'"  # of bash, zsh and POSIX 2024


def _escaped(sign: str) -> str:
    return sign.encode("unicode_escape").decode("ascii")
