"""One truth: a resumed run judges again from the files of its arms, and must get what it wrote.

Nothing that decides may differ from the journal, or the run would report one thing and have
written another. Pure functions.
"""

from __future__ import annotations

from lvm.triage.events import Confirmed, Decision, Event, Phase1Judged, Settled, StepEnded

# What the rest of the run follows from; an interval may differ in rounding.
DECIDES: dict[type[Event], tuple[str, ...]] = {
    Decision: ("action", "step", "arm", "seed", "verdict", "cause"),
    Phase1Judged: ("verdict",),
    StepEnded: ("stage", "candidate", "kept"),
    Confirmed: ("verdict", "attribution"),
    Settled: ("best",),
}


def disagreement(written: Event, now: Event) -> str:
    """Say in which deciding value an event differs from what the journal holds; "" in none."""
    for name in DECIDES.get(type(written), ()):
        before, value = getattr(written, name), getattr(now, name)
        if before != value:
            return f"{name} {before} in the journal, but {value} from the arm files"
    return ""
