"""What one thread hands to another: only the new events of a growing journal."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from lvm.triage.events import Event


class Inbox:
    """Events that were handed over and not yet taken."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._new: list[Event] = []
        self._anew = True  # the waiting events start a journal, or replace the one taken so far
        self._num_seen = 0
        self._last: Event | None = None

    def put(self, events: Sequence[Event]) -> None:
        """Hand over the events after those of the last call; all, if these are not the same."""
        with self._lock:
            grown = len(events) >= self._num_seen and (
                self._num_seen == 0 or events[self._num_seen - 1] is self._last
            )
            if not grown:
                self._new, self._anew, self._num_seen = [], True, 0
            self._new += events[self._num_seen :]
            self._num_seen, self._last = len(events), events[-1] if events else None

    def take(self) -> tuple[bool, list[Event]]:
        """Return the waiting events, and whether they are a whole journal, not a continuation."""
        with self._lock:
            found = self._anew, self._new
            self._anew, self._new = False, []
            return found
