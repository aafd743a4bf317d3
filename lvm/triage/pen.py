"""The pen of a walk through the tree: what it has written before is not written again."""

from __future__ import annotations

from lvm.core.errors import ResumeError
from lvm.triage.agreement import disagreement
from lvm.triage.events import ArmEnded, Epoch, Event, Rung, as_read, kind_of
from lvm.triage.journal import Journal
from lvm.triage.race import Note

ONCE: dict[type[Event], tuple[str, ...]] = {  # of a race; epochs of an arm count over all steps
    Epoch: ("arm", "epoch"),
    Rung: ("step", "round", "epoch", "arrived"),
    ArmEnded: ("arm", "step"),
}


class Pen:
    """Writes what a journal does not hold yet."""

    def __init__(self, journal: Journal, note: Note) -> None:
        self._journal, self._note = journal, note

    def once(self, event: Event, *fields: str) -> None:
        """Write an event unless a resumed run has written one with the same `fields` already.

        Raises ResumeError where that differs from this one in what the run follows from.
        """
        event = as_read(event)
        same = {field: getattr(event, field) for field in fields}
        written = self._journal.events.last(type(event), **same)
        if written is None:
            self._note(event)
        elif problem := disagreement(written, event):
            raise ResumeError(
                f"{self._journal.folder} cannot continue: {kind_of(event)} has {problem}. Its "
                "files were changed or removed; restore them, or start a new run in another "
                "--out."
            )

    def progress(self, event: Event) -> None:
        """Write an event of a race, once where it can come twice."""
        if type(event) in ONCE:
            self.once(event, *ONCE[type(event)])
        else:  # it happened again
            self._note(event)
