"""The hypothesis ledger: what the steps suppose, and what this run says of it.

Each step states its predictions, before any run. Their status comes from the journal alone:

    confirmed     an arm beats its control in R@5 or MRR: the interval, corrected by Holm over the
                  arms of its step, lies above zero. Where the arm was trained in full, the gain
                  over the unchanged recipe on the test split decides, because no arm was chosen by
                  that split.
    refuted       an arm reached its budget and had learned, and no interval of any arm lies above
                  zero even uncorrected, or reaches what the success gate asks for: that is too
                  little to explain the failure; no arm that tests it is absent
    inconclusive  anything between
    untested      no arm was judged, and why

Intervals are not corrected over the entries of the ledger.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

from lvm.events import Event, Events, indexed
from lvm.few import foremost
from lvm.metrics import METRICS
from lvm.records import ABSENT, RunVerdict, StopReason, Verdict
from lvm.text import title_of
from lvm.triage.step import Hypothesis, Step, hypotheses

AT_ITS_END = (StopReason.GATE_HELD, StopReason.FINISHED)
NUM_SAID = 12  # arms of one entry that are told in words


class Status(StrEnum):
    """What a run says of a hypothesis."""

    CONFIRMED = "confirmed"
    REFUTED = "refuted"
    INCONCLUSIVE = "inconclusive"
    UNTESTED = "untested"


def ledger(events: Sequence[Event]) -> list[dict[str, Any]]:
    """Return every entry with its status, as plain values; no journal is too short."""
    events = indexed(events)
    return [_entry(events, hypothesis, steps) for hypothesis, steps in hypotheses()]


def _entry(events: Events, hypothesis: Hypothesis, steps: Sequence[Step]) -> dict[str, Any]:
    arms = _evidence(events, hypothesis, [step.name for step in steps])
    judged = [arm for arm in arms if arm["gains"]]
    complete = all(arm["reason"] not in ABSENT for arm in arms)
    status = _status(judged, complete=complete) if judged else Status.UNTESTED
    result = _all_in_words(judged) or _why_untested(events, hypothesis, steps, arms)
    if judged and not complete:
        gone = [f"{a['arm']} {a['reason']}" for a in arms if a["reason"] in ABSENT]
        result += f"; not judged: {', '.join(gone)}"
    return {
        "id": hypothesis.id,
        "kind": hypothesis.kind.value,
        "claim": hypothesis.claim,
        "predicts": hypothesis.predicts,
        "statistic": hypothesis.statistic,
        "status": status.value,
        "result": result,
        "arms": arms,
    }


def _evidence(events: Events, hypothesis: Hypothesis, steps: Sequence[str]) -> list[dict[str, Any]]:
    """Return what each arm that tests the hypothesis came to; of one arm twice, the longer run."""
    found: dict[str, dict[str, Any]] = {}
    for step in steps:
        started = events.last("step_started", step=step)
        if started is None:
            continue
        recipes = {spec["role"]: spec["recipe"] for spec in started["arms"]}
        for spec in started["arms"]:
            control = recipes.get("control", spec["recipe"])
            if spec["role"] != "arm" or not hypothesis.tests(spec["changes"], control):
                continue
            arm = _arm(events, step, spec)
            if spec["id"] not in found or arm["epoch"] >= found[spec["id"]]["epoch"]:
                found[spec["id"]] = arm
    return list(found.values())


def _arm(events: Events, step: str, spec: Event) -> dict[str, Any]:
    """Return the gains of one arm: on test over the unchanged recipe if confirmed, else on dev."""
    judged = events.last("arm_judged", step=step, arm=spec["id"]) or {}
    confirmed = events.last("confirmed", step=step, arm=spec["name"]) or {"gates": []}
    dev = judged.get("gains") or []
    test = [gate for gate in confirmed["gates"] if gate["gate"] == "gain" and gate["estimate"]]
    alone = not (events.last("step_started", step=step) or {}).get("carried")
    gates = test if test and alone else [gate for gate in dev if gate["estimate"]]
    evaluation = judged.get("evaluation") or {}
    behind = evaluation.get("space") == "projected"
    bounds = METRICS.bounds(spec["gates"])
    return {
        "arm": spec["name"],
        "step": step,
        "split": "test" if gates is test else "dev",
        "epoch": judged.get("epoch", 0),
        "reason": judged.get("reason"),
        "detail": judged.get("detail", ""),
        "learned": (judged.get("stage") or {}).get("verdict") != Verdict.NOT_EVALUABLE,
        "projected_cosine": evaluation["masked"]["eval_cosine"] if behind else None,
        "gains": [
            {
                "metric": gate["metric"],
                "value": gate["estimate"]["value"],
                "lower": gate["estimate"]["lower"],
                "upper": gate["estimate"]["upper"],
                "verdict": gate["verdict"],
                "success_bound": bounds[gate["metric"]],
            }
            for gate in gates
            if gate["metric"] in bounds
        ],
    }


def _status(judged: Sequence[Mapping[str, Any]], *, complete: bool) -> Status:
    """Return the status; not refuted unless every arm that tests the claim is there."""
    gains = [gain for arm in judged for gain in arm["gains"]]
    if any(gain["verdict"] == Verdict.PASS for gain in gains):
        return Status.CONFIRMED
    ended = any(arm["reason"] in AT_ITS_END and arm["learned"] for arm in judged)
    none_helps = all(g["lower"] <= 0 and g["upper"] < g["success_bound"] for g in gains)
    return Status.REFUTED if complete and ended and none_helps else Status.INCONCLUSIVE


def _all_in_words(judged: Sequence[Mapping[str, Any]]) -> str:
    """Return a clause on each arm; of very many, on those with the clearest gains."""
    best = foremost(judged, NUM_SAID, lambda arm: max(gain["lower"] for gain in arm["gains"]))
    return _joined([_in_words(arm) for arm in best], len(judged))


def _joined(clauses: Sequence[str], num_arms: int) -> str:
    more = [f"and {num_arms - NUM_SAID:,} more arms"] if num_arms > NUM_SAID else []
    return "; ".join([*clauses, *more])


def _in_words(arm: Mapping[str, Any]) -> str:
    """Return one clause on one arm."""
    gains = ", ".join(
        f"{title_of(g['metric'])} {g['value']:+.3f} [{g['lower']:+.3f}, {g['upper']:+.3f}]"
        for g in arm["gains"]
    )
    notes = [] if arm["split"] == "dev" else ["test split, over the unchanged recipe"]
    if arm["reason"] not in AT_ITS_END:
        notes.append(f"{arm['reason']} at epoch {arm['epoch']}")
    elif not arm["learned"]:
        notes.append("judged before it had learned enough")
    if arm["projected_cosine"] is not None:
        notes.append(f"cosine behind the head {arm['projected_cosine']:.3f}")
    return f"{arm['arm']}: {gains}" + (f" ({'; '.join(notes)})" if notes else "")


def _why_untested(
    events: Events,
    hypothesis: Hypothesis,
    steps: Sequence[Step],
    arms: Sequence[Mapping[str, Any]],
) -> str:
    if arms:
        ends = [f"{a['arm']}: {a['detail'] or _without_gain(a)}" for a in arms[:NUM_SAID]]
        return _joined(ends, len(arms))
    started = [e for s in steps if (e := events.last("step_started", step=s.name))]
    left_out = [f"{n}: {why}" for event in started for n, why in event["left_out"].items()]
    if left_out:
        return "; ".join(left_out)
    if started:
        return "the recipe leaves no arm that would test it"
    stop = events.last("decision", action="Stop")
    if stop is None:
        return "the run has not come to it yet"
    if stop["verdict"] == RunVerdict.BLOCKED:
        return "the audit stopped the run before any training"
    flag = next(step.flag for step in steps if hypothesis in step.hypotheses)
    return f"the run ended {stop['verdict']} before; {flag} tests it"


def _without_gain(arm: Mapping[str, Any]) -> str:
    if arm["reason"] is None:
        return "has not been judged yet"
    lacks = "" if arm["reason"] in ABSENT else ", with no control to compare with"
    return f"{arm['reason']}{lacks}"
