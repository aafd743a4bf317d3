"""The steps of a run ranked by what they gain over their control: the largest cause comes first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lvm.events import Event, Events
from lvm.metrics import FINEST_FIRST
from lvm.triage.step import Role


def steps_by_gain(events: Events) -> list[dict[str, Any]]:
    """Return every step that was measured, the largest gain in MRR over its control first.

    Keys: `step`, `arm`, `split` and `gains` (metric -> gate result). A step that was trained in
    full is told by its gain over the unchanged recipe on test, any other by its best arm on dev.
    """
    steps = [e for e in events.of("step_started") if "number" in e and not e.get("extended")]
    measured = [found for started in steps if (found := _measured(events, started["step"]))]
    return sorted(measured, key=lambda found: -_size(found["gains"]))


def _measured(events: Events, step: str) -> dict[str, Any] | None:
    confirmed = events.last("confirmed", step=step)
    if confirmed is not None and (gains := _gains(confirmed["gates"])):
        return {"step": step, "arm": confirmed["arm"], "split": "test", "gains": gains}
    arms = [e for e in events.of("arm_judged", step=step) if e.get("role") == Role.ARM]
    known = [(e["name"], gains) for e in arms if (gains := _gains(e.get("gains", ())))]
    if not known:
        return None
    name, gains = max(known, key=lambda arm: _size(arm[1]))
    return {"step": step, "arm": name, "split": "dev", "gains": gains}


def _gains(gates: Iterable[Event]) -> dict[str, Event]:
    """Return the gains over the control that have an estimate, by metric."""
    kept = [
        g for g in gates if g["gate"] == "gain" and g["metric"] in FINEST_FIRST and g["estimate"]
    ]
    return {g["metric"]: g for g in kept}


def _size(gains: Mapping[str, Event]) -> float:
    sizes = [float(gains[m]["estimate"]["value"]) for m in FINEST_FIRST if m in gains]
    return sizes[0] if sizes else float("-inf")
