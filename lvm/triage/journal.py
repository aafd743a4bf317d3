"""The journal: one JSON line per event, synced before the run continues. It is the truth of a run.

Everything else in the run folder (verdict, report, MLflow) is a view that can be rebuilt from it.
A line cut short by a kill is dropped on reading; a foreign or damaged line in the middle is named.
Each line ends with a checksum of what it says: a view need not doubt what it reads.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from msgspec.structs import replace

from lvm.core.errors import ResumeError, UsageError
from lvm.core.outside import parse_json, read_text
from lvm.core.plain_json import Json
from lvm.core.records import to_plain
from lvm.triage.events import Event, NotToldError, Reopened, as_read, told
from lvm.triage.reopen import effective
from lvm.triage.state import RunState

SCHEMA = 2
READS = (1, 2)  # `lvm.triage.events.migrated` says what has changed
FILE_NAME = "journal.jsonl"
SEAL = ', "sum": "'
LATEST_SECONDS = 1e11  # since 1970: the year 5138

E = TypeVar("E", bound=Event)


class Journal:
    """Append-only events of one run folder; `events` leaves out what was taken back."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / FILE_NAME
        self.events = RunState(effective(read_events(folder)) if self.path.exists() else ())
        self._trim()

    def discard(self) -> None:
        """Remove the file, and forget its events: the run did not begin after all."""
        self.path.unlink(missing_ok=True)
        self.events = RunState()

    def append(self, event: E) -> E:
        """Write one event and wait until it is on disk; return it as it is read back.

        Raises UsageError when the disk is full.
        """
        event = as_read(replace(event, at=round(time.time(), 3)))
        line = _sealed(json.dumps(to_plain(event), allow_nan=False)) + "\n"
        end: int | None = None  # of what is there already
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                end = file.tell()
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            self._undo(end)
            then = f"continue with --resume {self.folder}" if self.events else "start again"
            raise UsageError(
                f"{self.path} cannot be written ({error.strerror}); free some space or choose "
                f"another --out, then {then}."
            ) from None
        self.events.append(event)
        if isinstance(event, Reopened):
            self.events = RunState(effective(self.events))
        return event

    def _undo(self, end: int | None) -> None:
        """Leave nothing of an event that was refused, and no folder of a run that never began.

        A whole line may be there although the disk did not confirm it: it would come twice.
        """
        with contextlib.suppress(OSError):
            if end is not None:
                os.truncate(self.path, end)
            if not self.events:
                self.path.unlink(missing_ok=True)
                self.folder.rmdir()

    def _trim(self) -> None:
        """Cut off a last line that a kill left unfinished, so that the next one starts clean."""
        if not self.path.exists():
            return
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) != len(data):
            with self.path.open("r+b") as file:
                file.truncate(len(whole))


def read_run(folder: Path) -> RunState:
    """Return the state of the run in `folder`, which may still be going.

    What the run has taken back (`lvm.triage.reopen`) is not in it.

    Raises ResumeError when the journal is not one of this program, is damaged, or has no event yet.
    """
    state = RunState(effective(read_events(folder)))
    if not state:
        raise ResumeError(f"{folder / FILE_NAME} is empty: the run has not started yet.")
    return state


def read_events(folder: Path) -> Iterator[Event]:
    """Yield the events in `folder` of the kinds that this version knows.

    Raises ResumeError when the journal is not one of this program, or is damaged.
    """
    for number, record in enumerate(read_journal(folder), start=1):
        try:
            event = told(record)
        except NotToldError as error:
            raise ResumeError(
                f"{folder / FILE_NAME} line {number} ({record['event']}): {error}; it was "
                "changed or comes from another version; use that version, or start a new run."
            ) from None
        if event is not None:
            yield event


def _is_event(record: Mapping[str, Json]) -> bool:
    at = record.get("at")
    return (
        isinstance(record.get("event"), str)
        and isinstance(at, int | float)
        and abs(at) < LATEST_SECONDS
    )


def _sealed(line: str) -> str:
    """Return a JSON object with its checksum as its last key."""
    return f'{line[:-1]}{SEAL}{zlib.crc32(line.encode()):08x}"}}'


def _unsealed(line: str) -> str:
    """Return a line without its checksum; ValueError where that is of another line.

    A line without one was written by an earlier version.
    """
    body, mark, seal = line.rpartition(SEAL)
    if not mark:
        return line
    if seal != f'{zlib.crc32(f"{body}}}".encode()):08x}"}}':
        raise ValueError("its checksum does not match")
    return f"{body}}}"


def read_journal(folder: Path) -> Iterator[dict[str, Json]]:
    """Yield the lines in `folder` as they are; ResumeError when they are not of this program."""
    path = folder / FILE_NAME
    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ResumeError(
            f"{path} cannot be read ({error}); give the folder of a run (--out of an earlier one)."
        ) from None
    lines = text.split("\n")
    for number, line in enumerate(lines, start=1):
        if number == len(lines):  # what follows the last newline: nothing, or a cut line
            break
        try:
            record = parse_json(_unsealed(line))
            known = isinstance(record, dict) and _is_event(record)
        except ValueError:
            known = False
        if not known or (number == 1 and record.get("event") != "run_started"):
            raise ResumeError(
                f"{path} line {number} is not a valid lvm event; the file was changed, or "
                "another program wrote it. Start a new run in another --out."
            )
        if number == 1 and record.get("schema") not in READS:
            raise ResumeError(
                f"{path} has schema {record.get('schema')}, but this version reads {READS[0]} to "
                f"{READS[-1]}; use the "
                "version that wrote it, or start a new run."
            )
        yield record
