"""The hypothesis ledger: what the failure report supposed, and what this run says of it.

Each entry states its prediction here, before any run. Its status comes from the journal alone:

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

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from lvm.events import Event, Events, indexed
from lvm.few import foremost
from lvm.metrics import METRICS
from lvm.records import ABSENT, RunVerdict, StopReason, Verdict
from lvm.text import title_of

OVER_CONTROL = "gain over the control at the same budget and seed in R@5 and MRR, dev split"
AT_ITS_END = (StopReason.GATE_HELD, StopReason.FINISHED)
NUM_SAID = 12  # arms of one entry that are told in words
HIGH_COSINE = 0.70  # what the report expects behind the head if it is to be used


class Status(StrEnum):
    """What a run says of a hypothesis."""

    CONFIRMED = "confirmed"
    REFUTED = "refuted"
    INCONCLUSIVE = "inconclusive"
    UNTESTED = "untested"


@dataclass(frozen=True, kw_only=True)
class Hypothesis:
    """One entry, with its prediction and the arms that test it."""

    id: str
    kind: str  # "hypothesis", "open question" or "beyond the report"
    claim: str  # the failure report's, in short
    predicts: str
    steps: tuple[str, ...]
    # (arm's changed keys, control's recipe) -> whether the arm tests the claim
    tests: Callable[[Mapping[str, Any], Mapping[str, Any]], bool] = lambda changes, control: True
    statistic: str = OVER_CONTROL
    remedy: str = "--all-steps"  # what has a later run test it


def _above(key: str, section: str, name: str) -> Callable[[Mapping[str, Any], Event], bool]:
    """Return a test for arms that raise a number of the recipe above the control's."""

    def raises(changes: Mapping[str, Any], control: Event) -> bool:
        own = (control.get(section, {}) if section else control).get(name)
        new = changes.get(key)
        return isinstance(new, int | float) and isinstance(own, int | float) and new > own

    return raises


def _one_space(changes: Mapping[str, Any], control: Event) -> bool:
    return "search_space" in changes or "objective.space" in changes


def _behind_the_head(changes: Mapping[str, Any], control: Event) -> bool:
    return list(changes) == ["search_space"] and changes["search_space"] == "projected"


def _same_objective(changes: Mapping[str, Any], control: Event) -> bool:
    return not any(key.startswith("objective.") for key in changes)


def _network(*names: str) -> Callable[[Mapping[str, Any], Event], bool]:
    return lambda changes, control: changes.get("model.name") in names


HYPOTHESES: tuple[Hypothesis, ...] = (
    Hypothesis(
        id="H1",
        kind="hypothesis",
        claim="Objective mismatch: InfoNCE shapes a projected space, inference searches the raw "
        "one.",
        predicts="The model finds more once training and search share a space: searched behind its "
        "head, or trained in the raw space.",
        steps=("projection_head",),
        tests=_one_space,
    ),
    Hypothesis(
        id="H2",
        kind="hypothesis",
        claim="The contrastive weight of .7 is too low against the autoregressive term.",
        predicts="A weight of .85 or .90 finds more than .70.",
        steps=("contrastive_weight",),
    ),
    Hypothesis(
        id="H3",
        kind="hypothesis",
        claim="Negatives are too weak or too few.",
        predicts="Harder negatives, a larger batch or the whole bank find more than the batch.",
        steps=("negatives",),
    ),
    Hypothesis(
        id="H4",
        kind="hypothesis",
        claim="The temperature is too low and over-sharpens the distribution.",
        predicts="A higher temperature finds more.",
        steps=("temperature",),
        tests=_above("objective.temperature", "objective", "temperature"),
    ),
    Hypothesis(
        id="H5",
        kind="hypothesis",
        claim="The stop-gradient is on the wrong branch.",
        predicts="No stop-gradient, or one on the prediction, finds more than one on the target.",
        steps=("projection_head", "stop_gradient"),
        tests=lambda changes, control: "objective.stop_gradient" in changes,
        remedy="--extended",
    ),
    Hypothesis(
        id="Q1",
        kind="open question",
        claim="Should the projection head be used at inference?",
        predicts="If yes, one and the same model finds more behind its head than in the raw space.",
        steps=("projection_head", "projection_at_inference"),
        tests=_behind_the_head,
        statistic="gain of one model searched behind its head over itself searched in the raw "
        f"space, R@5 and MRR, dev split; its cosine behind the head against {HIGH_COSINE:.2f}",
        remedy="--extended",
    ),
    Hypothesis(
        id="Q2",
        kind="open question",
        claim="Is InfoNCE fundamentally incompatible with autoregressive prediction?",
        predicts="If yes, InfoNCE alone finds more than both terms together in the same space.",
        steps=("infonce_alone",),
        remedy="--extended",
    ),
    Hypothesis(
        id="Q3",
        kind="open question",
        claim="Should two towers take the place of Mamba?",
        predicts="If yes, two towers find more than the recipe's network at the same budget.",
        steps=("architecture",),
        tests=_network("two_tower"),
        remedy="--extended",
    ),
    Hypothesis(
        id="Q4",
        kind="open question",
        claim="Is a context of 5 vectors too short?",
        predicts="If yes, a longer context finds more of the same targets in the same pool.",
        steps=("context_length",),
        tests=_above("context_length", "", "context_length"),
        remedy="--extended",
    ),
    Hypothesis(
        id="B1",
        kind="beyond the report",
        claim="Predictions leave the distribution of the vectors (step 5; the report gives this "
        "remedy and no hypothesis).",
        predicts="An anchor to that distribution finds more.",
        steps=("anchor_mmd",),
    ),
    Hypothesis(
        id="B3",
        kind="beyond the report",
        claim="The network has no path by which it could as much as copy its context.",
        predicts="A residual from the context, or a network as wide as the vectors, finds more "
        "under the same objective.",
        steps=("context_path",),
        tests=_same_objective,
    ),
    Hypothesis(
        id="B2",
        kind="beyond the report",
        claim="The network is at fault, whichever it is.",
        predicts="A GRU, a transformer or Mamba-2 in place of the recipe's network finds more.",
        steps=("architecture",),
        tests=_network("gru", "transformer", "mamba2"),
        remedy="--extended",
    ),
)


def ledger(events: Sequence[Event]) -> list[dict[str, Any]]:
    """Return every entry with its status, as plain values; no journal is too short."""
    events = indexed(events)
    return [_entry(events, hypothesis) for hypothesis in HYPOTHESES]


def _entry(events: Events, hypothesis: Hypothesis) -> dict[str, Any]:
    arms = _evidence(events, hypothesis)
    judged = [arm for arm in arms if arm["gains"]]
    complete = all(arm["reason"] not in ABSENT for arm in arms)
    status = _status(judged, complete=complete) if judged else Status.UNTESTED
    result = _all_in_words(judged) or _why_untested(events, hypothesis, arms)
    if judged and not complete:
        gone = [f"{a['arm']} {a['reason']}" for a in arms if a["reason"] in ABSENT]
        result += f"; not judged: {', '.join(gone)}"
    return {
        "id": hypothesis.id,
        "kind": hypothesis.kind,
        "claim": hypothesis.claim,
        "predicts": hypothesis.predicts,
        "statistic": hypothesis.statistic,
        "status": status.value,
        "result": result,
        "arms": arms,
    }


def _evidence(events: Events, hypothesis: Hypothesis) -> list[dict[str, Any]]:
    """Return what each arm that tests the hypothesis came to; of one arm twice, the longer run."""
    found: dict[str, dict[str, Any]] = {}
    for step in hypothesis.steps:
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


def _why_untested(events: Events, hypothesis: Hypothesis, arms: Sequence[Mapping[str, Any]]) -> str:
    if arms:
        ends = [f"{a['arm']}: {a['detail'] or _without_gain(a)}" for a in arms[:NUM_SAID]]
        return _joined(ends, len(arms))
    started = [e for s in hypothesis.steps if (e := events.last("step_started", step=s))]
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
    return f"the run ended {stop['verdict']} before; {hypothesis.remedy} tests it"


def _without_gain(arm: Mapping[str, Any]) -> str:
    if arm["reason"] is None:
        return "has not been judged yet"
    lacks = "" if arm["reason"] in ABSENT else ", with no control to compare with"
    return f"{arm['reason']}{lacks}"
