"""The pen of a run: events go to the journal first, then to whoever watches."""

from __future__ import annotations

import threading
from typing import Any

from lvm.command import nobody_reads
from lvm.errors import LvmError
from lvm.progress import JsonLines
from lvm.signals import whole
from lvm.terminal import Screen
from lvm.tracking import Tracker
from lvm.triage.journal import Event, Journal
from lvm.triage.lock import Lock

TRACKED = ("step_ended", "confirmed", "phase_1_judged")  # after these MLflow is brought up to date


class Writer:
    """Writes the events of a run for the process that holds its lock, from any thread.

    No event follows one that was refused: a gap in a journal would read as if nothing were missing.
    None follows the last one either, which may come while arms still run.
    """

    def __init__(self, journal: Journal, lock: Lock, lines: JsonLines) -> None:
        self.journal, self._lock, self._lines = journal, lock, lines
        self.screen: Screen | None = None
        self.tracker: Tracker | None = None
        self.refused: LvmError | None = None
        self._over = self._trains = False
        self._hand = threading.Lock()

    def note(self, event: str, **values: Any) -> None:
        """Write one event and show it.

        Raises RunTakenError when another process drives the run now, UsageError when the disk is
        full or cannot be written to; and that again for every event after it.
        """
        with whole(), self._hand:
            self._write(event, values)

    def end(self, event: str, **values: Any) -> None:
        """Write the last event of this process, once; later ones are dropped."""
        with whole(), self._hand:
            if not self._over:
                try:
                    self._write(event, values)
                finally:
                    self._over = True

    def _write(self, event: str, values: dict[str, Any]) -> None:
        if self._over:
            return
        if self.refused is not None:
            raise self.refused
        try:
            self._lock.check()
            record = self.journal.append(event, **values)
        except LvmError as error:
            self.refused = error
            raise
        self._tell(record)

    def _tell(self, record: Event) -> None:
        try:
            if self.screen is not None:
                self.screen.event(record)
            self._lines.tell(self.journal)
        except OSError:  # hours of training are worth more than who reads of them
            nobody_reads()
        first = record["event"] == "epoch" and not self._trains  # until then Ray starts
        self._trains |= first
        if self.tracker is not None and (first or record["event"] in TRACKED):
            self.tracker.sync(self.journal.events)
