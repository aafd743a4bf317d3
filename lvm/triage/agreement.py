"""One truth: a resumed run judges again from the files of its arms, and must get what it wrote.

Nothing that decides may differ from the journal, or the run would report one thing and have
written another. Pure functions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lvm.records import to_plain

DECIDES = {  # event -> what the rest of the run follows from; an interval may differ in rounding
    "decision": ("action", "step", "arm", "seed", "verdict", "cause"),
    "phase_1_judged": ("verdict",),
    "step_ended": ("stage", "candidate", "kept"),
    "confirmed": ("verdict", "attribution"),
    "settled": ("best",),
}


def disagreement(written: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Say in which deciding value an event differs from what the journal holds; "" in none."""
    for key in DECIDES.get(written["event"], ()):
        value = to_plain(now.get(key))
        if key in written and written[key] != value:
            return f"{key} {written[key]} in the journal, {value} from the files of the arms"
    return ""
