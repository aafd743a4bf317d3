"""What one thread hands to another: of a growing journal only the events that are new."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from lvm.triage.events import Event


class Inbox:
    """Events that were handed over and not yet taken up."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._new: list[Event] = []
        self._anew = True  # what waits begins a journal, or replaces the one that was taken up
        self._num_seen = 0
        self._last: Event | None = None

    def put(self, events: Sequence[Event]) -> None:
        """Hand over what follows the events of the last call; all, where these are not the same."""
        with self._lock:
            grown = len(events) >= self._num_seen and (
                self._num_seen == 0 or events[self._num_seen - 1] is self._last
            )
            if not grown:
                self._new, self._anew, self._num_seen = [], True, 0
            self._new += events[self._num_seen :]
            self._num_seen, self._last = len(events), events[-1] if events else None

    def take(self) -> tuple[bool, list[Event]]:
        """Return what waits, and whether it is a whole journal and not what follows the last."""
        with self._lock:
            found = self._anew, self._new
            self._anew, self._new = False, []
            return found
