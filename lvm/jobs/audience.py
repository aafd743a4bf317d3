"""Where a job prints: to a person at a terminal, to a program that reads JSON lines, or nowhere."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TextIO

from lvm.core.command import nobody_reads
from lvm.views.progress import JsonLines


class Nowhere(io.StringIO):
    """A stream that discards what is written to it."""

    def write(self, text: str) -> int:
        """Drop the text."""
        return len(text)


@dataclass(frozen=True, kw_only=True)
class Audience:
    """Where a job prints its result and its progress."""

    answer: TextIO
    progress: TextIO
    lines: JsonLines = field(default_factory=lambda: JsonLines(None))

    @contextlib.contextmanager
    def heard(self) -> Iterator[None]:
        """Print to the audience; a reader that is gone does not stop the job."""
        try:
            yield
            self.answer.flush()
        except OSError:
            nobody_reads()


def at_terminal(lines: JsonLines | None = None) -> Audience:
    """Return the audience of a command: standard output and standard error as they are now."""
    return Audience(answer=sys.stdout, progress=sys.stderr, lines=lines or JsonLines(None))


def of_call(*, progress: bool) -> Audience:
    """Return the audience of a function call, whose answer is its return value."""
    return Audience(answer=Nowhere(), progress=sys.stderr if progress else Nowhere())
