"""The MLflow runs of the untrained baselines, next to those of the arms."""

from __future__ import annotations

from collections.abc import Sequence

from lvm.core.records import LIMITS
from lvm.triage.events import Ladder
from lvm.triage.state import RunState
from lvm.views.tracking.views import RunView, data_view, milliseconds

LADDER = "ladder"  # tag `role` and `step` of these runs, for filters
NOTE = "An untrained baseline, measured on the same windows and pool as the models."
END_NOTE = f"{NOTE} It marks an end of the scale and is not a competitor."


def ladder_views(events: RunState) -> list[RunView]:
    """Return a run per predictor of the ladder, in its order; none before it is measured."""
    found = (events.last(Ladder, split=split) for split in ("dev", "test"))
    measured = [event for event in found if event is not None]
    names = dict.fromkeys(name for event in measured for name in event.rows)
    return [_view(events, measured, name, len(names) - n) for n, name in enumerate(names)]


def _view(events: RunState, measured: Sequence[Ladder], name: str, earlier: int) -> RunView:
    """Return the run of one predictor, with the metrics of an arm on dev and on test."""
    # They were measured together before the event was written; this sorts them before all arms.
    started = milliseconds(measured[0].at) - earlier
    view = RunView(
        key=f"{LADDER} / {name}",
        name=f"Ladder: {name}",
        status="FINISHED",
        started=started,
        ended=max(started, milliseconds(measured[-1].at)),
        data=data_view(events, "evaluation"),
    )
    view.add_tags({"step": LADDER, "role": LADDER, "arm": name, "arm.name": name})
    view.add_tags({"mlflow.note.content": END_NOTE if name in LIMITS else NOTE})
    for event in measured:
        if name in event.rows:
            view.add_evaluation(event.rows[name], event.at)
    return view
