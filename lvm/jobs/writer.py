"""Writes the events of a run: to the journal first, then to the views."""

from __future__ import annotations

import threading

from lvm.core.command import nobody_reads
from lvm.core.errors import LvmError
from lvm.core.signals import whole
from lvm.triage.events import Confirmed, Epoch, Event, Phase1Judged, StepEnded
from lvm.triage.journal import Journal
from lvm.triage.lock import Lock
from lvm.views.progress import JsonLines
from lvm.views.terminal import Screen
from lvm.views.tracking import Tracker

TRACKED = (StepEnded, Confirmed, Phase1Judged)  # after these MLflow is brought up to date


class Writer:
    """Writes the events of a run for the process that holds its lock, from any thread.

    After a failed write it writes nothing more: nobody would notice a gap in a journal. It writes
    nothing after the last event either, which may come while arms still run.
    """

    def __init__(self, journal: Journal, lock: Lock, lines: JsonLines) -> None:
        self.journal, self._lock, self._lines = journal, lock, lines
        self.screen: Screen | None = None
        self.tracker: Tracker | None = None
        self.refused: LvmError | None = None
        self._over = self._trains = False
        self._hand = threading.Lock()

    def note(self, event: Event) -> None:
        """Write one event and show it.

        Raises RunTakenError when another process drives the run now, UsageError when the disk is
        full or cannot be written to; and that again for every event after it.
        """
        with whole(), self._hand:
            self._write(event)

    def end(self, event: Event) -> None:
        """Write the last event of this process, once; later ones are dropped."""
        with whole(), self._hand:
            if not self._over:
                try:
                    self._write(event)
                finally:
                    self._over = True

    def _write(self, event: Event) -> None:
        if self._over:
            return
        if self.refused is not None:
            raise self.refused
        try:
            self._lock.check()
            event = self.journal.append(event)
        except LvmError as error:
            self.refused = error
            raise
        self._tell(event)

    def _tell(self, event: Event) -> None:
        try:
            if self.screen is not None:
                self.screen.event(event)
            self._lines.tell(self.journal)
        except OSError:  # a reader that is gone must not end hours of training
            nobody_reads()
        first = isinstance(event, Epoch) and not self._trains  # until then Ray starts
        self._trains |= first
        if self.tracker is not None and (first or isinstance(event, TRACKED)):
            self.tracker.sync(self.journal.events)
