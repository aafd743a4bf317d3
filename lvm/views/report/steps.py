"""What each step of the tree tried, measured, decided and ruled out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from lvm.core.few import foremost
from lvm.core.metrics import FINEST_FIRST, METRICS, Shown
from lvm.core.records import GateResult, Verdict
from lvm.core.text import NONE, estimate, number, title_of
from lvm.triage.absence import CONFIRMATION, sentences
from lvm.triage.events import ArmJudged, ArmRestarted, Confirmed, Epoch, Rung
from lvm.triage.events.parts import Arm
from lvm.triage.summary import ArmShown, StepShown
from lvm.views.report import Block, Facts, Figure, Heading, Items, Paragraph, Run, Table, plots
from lvm.views.report.many import (
    CURVES,
    NAMES,
    left_out,
    measured,
    named,
    shown_arms,
    specs_by_id,
)
from lvm.views.report.models import confirmed_name
from lvm.views.report.origin import unreached
from lvm.views.report.sweeps import sweep_blocks

RESTARTS_SHOWN = 10


def steps_section(run: Run) -> Iterator[Block]:
    """Yield phase 1 and every step: asked, tried, measured, decided."""
    if run.specs("phase_1"):
        yield from _phase1(run)
    if len(run.summary.by_gain) > 1:
        yield _by_gain(run)
    for step in run.summary.steps:
        yield from _step(run, step)
    for name in unreached(run):
        yield Heading(f"{name}: not tried")


def _phase1(run: Run) -> Iterator[Block]:
    verdict, metrics = run.summary.phase1.verdict, METRICS.shown(Shown.DEV)
    yield Heading("Phase 1: does the base recipe beat AR-only?", "success gate", verdict or "")
    rows = []
    for spec in run.specs("phase_1"):
        judged = run.state.last(ArmJudged, arm=spec.id, step="phase_1")
        numbers = [number(measured(run, spec.id, judged, metric)) for metric in metrics]
        rows.append([spec.name, *_ran(run, spec, judged), *numbers])
    header = ("Model", "Epochs", "Ended", *(f"dev {title_of(m)}" for m in metrics))
    yield Table("the two models of phase 1", "lll" + "r" * len(metrics), header, rows)
    yield Figure(
        plots.step_curves(run, run.specs("phase_1")), "Phase 1, per epoch on the dev split."
    )
    yield from _items("Resumed after a failure", _restarts(run, "phase_1"))
    yield from _items("Absent, so not evidence", _absent(run, "phase_1"))
    if verdict is None:
        yield Paragraph("Phase 1 was not judged yet when this was written.", "note")


def _step(run: Run, step: StepShown) -> Iterator[Block]:
    yield Heading(f"Step {step.number}: {step.title}", "stage gate", step.stage or "")
    carried = ", ".join(f"{arm} ({run.title(name)})" for name, arm in step.carried)
    yield Facts(
        [
            ("Question", step.question),
            (_whose(run, step), step.hypothesis),
            ("Starts from", f"the base recipe with {carried}" if carried else "the base recipe"),
        ]
    )
    specs = specs_by_id(run, step.step)
    if step.arms:
        arms = shown_arms(run, step)
        yield _tried_table(run, arms, specs)
        yield _dev_table(run, step, arms, specs)
        yield from _rest(step, arms)
        yield _curves(run, step, specs)
        yield from sweep_blocks(run, step)
    yield from _items(
        "Rungs", (_rung(event, specs) for event in run.state.of(Rung, step=step.step))
    )
    yield from _items("Left out", (f"{n}: {reason}" for n, reason in step.left_out.items()))
    yield from _items("Gate conflicts", _conflicts(step))
    absent = list(_absent(run, step.step, f"{CONFIRMATION}{step.step}"))
    races = (step.step, f"{CONFIRMATION}{step.step}")
    yield from _items("Resumed after a failure", _restarts(run, *races))
    yield from _items("Absent, so not evidence", iter(absent))
    yield from _items("Outcome", _outcome(run, step, absent))


def _whose(run: Run, step: StepShown) -> str:
    if step.step in [own.name for own in run.started.config.steps]:
        return "Hypothesis of the recipe"
    return "Hypothesis of the failure report" if step.reported else "Our hypothesis"


def _by_gain(run: Run) -> Table:
    """Return the steps ranked by their gain over the control."""
    rows = [
        [
            run.title(found.step),
            found.arm,
            found.split,
            *(_gain(found.gains.get(metric)) for metric in FINEST_FIRST),
        ]
        for found in run.summary.by_gain
    ]
    header = ("Step", "Arm", "On", *(f"{title_of(m)} over its control" for m in FINEST_FIRST))
    return Table("the steps by gain, largest first", "lllrr", header, rows)


def _gain(gate: GateResult | None) -> str:
    return NONE if gate is None else estimate(gate)


def _restarts(run: Run, *races: str) -> Iterator[str]:
    """Yield the arms that broke and were restarted: a limited number, and a count of the rest."""
    events = [event for race in races for event in run.state.of(ArmRestarted, step=race)]
    for event in events[:RESTARTS_SHOWN]:
        yield f"{event.name} at epoch {max(0, event.epoch)}: {event.detail}."
    if len(events) > RESTARTS_SHOWN:
        yield f"{len(events) - RESTARTS_SHOWN:,} more, in journal.jsonl."


def _absent(run: Run, *races: str) -> Iterator[str]:
    absent = [one for one in run.summary.absent if one.step in races]
    yield from (f"{text}." for text in sentences(absent))


def _rest(step: StepShown, shown: Sequence[ArmShown]) -> Iterator[Block]:
    """Say which arms the tables leave out."""
    if rest := left_out(step, shown):
        text = (
            "The tables show the control, the chosen arms and the best by MRR on dev; "
            f"{rest} of this step are in verdict.json."
        )
        yield Paragraph(text, "note")


def _curves(run: Run, step: StepShown, specs: Mapping[str, Arm]) -> Figure:
    arms = shown_arms(run, step, CURVES)
    shown = [*(specs[arm.id] for arm in arms), *run.specs(f"confirm_{step.step}")]
    caption = f"{step.title}, per epoch on the dev split."
    if len(arms) < len(step.arms):
        caption += f" Drawn: {len(arms)} of {len(step.arms):,} arms."
    return Figure(plots.step_curves(run, shown), caption)


def _items(label: str, items: Iterator[str]) -> Iterator[Block]:
    found = list(items)
    if found:
        yield Items(label, found)


def _tried_table(run: Run, arms: Sequence[ArmShown], specs: Mapping[str, Arm]) -> Table:
    rows = []
    for arm in arms:
        changes = ", ".join(f"{key} = {value}" for key, value in arm.changes.items())
        ran = _ran(run, specs[arm.id], arm if arm.reason else None)
        rows.append([arm.name, changes or "nothing", arm.why, *ran])
    header = ("Arm", "Change", "Why", "Epochs", "Ended")
    return Table("what was tried", "lllll", header, rows)


def _ran(run: Run, spec: Arm, judged: ArmShown | ArmJudged | None) -> list[str]:
    """Return how many epochs an arm trained and why it ended there."""
    epochs = judged.epochs_run if judged else max(run.curve(spec.id), default=0)
    went = f"{epochs} of {spec.recipe.training.epochs}"
    if spec.source is not None:
        went = "no training"
    if judged is None:
        return [went, "had not ended"]
    at = "" if spec.source is not None else f" at epoch {judged.epoch}"
    return [went, f"{judged.reason}{at}" + (f": {judged.detail}" if judged.detail else "")]


def _dev_table(
    run: Run, step: StepShown, arms: Sequence[ArmShown], specs: Mapping[str, Arm]
) -> Table:
    rows, metrics, judged = [], METRICS.shown(Shown.DEV), METRICS.judged
    for arm in arms:
        spec = specs[arm.id]
        control = _control(run, step, spec, arm)
        cells = []
        elsewhere = spec.recipe.search_space != run.started.config.recipe.search_space
        for metric in metrics:
            split = elsewhere and not METRICS.get(metric).across_spaces
            mark = f" ({spec.recipe.search_space})" if split else ""
            cells += [number(measured(run, arm.id, arm, metric)) + mark]
            cells += [number(control.measured(metric)) if control and not split else NONE]
        gains = {g.metric: g for g in arm.gains or []}
        found = [gains.get(metric) for metric in judged]
        cells.append(arm.stage.verdict if arm.stage else NONE)
        cells += [f"{g.verdict} {estimate(g)}" if g else NONE for g in found]
        rows.append([arm.name, *cells])
    numbers = [word for m in metrics for word in (title_of(m), "control")]
    header = ("Arm", *numbers, "Stage gate", *(f"gain in {title_of(m)}" for m in judged))
    caption = "dev split, at the epoch where each arm ended, against the control at the same epoch"
    aligned = "l" + "rr" * len(metrics) + "l" * (1 + len(judged))
    return Table(caption, aligned, header, rows)


def _control(run: Run, step: StepShown, spec: Arm, arm: ArmShown) -> Epoch | None:
    """Return the control's record at the arm's own epoch; a searched model has the model itself."""
    if arm.role == "control" or arm.epoch is None:
        return None
    if spec.source is not None:
        curve = run.curve(run.unchanged.id) if run.unchanged else {}
        return curve[max(curve)] if curve else None
    control = next((a.id for a in step.arms if a.role == "control"), "")
    return run.curve(control).get(arm.epoch)


def _rung(event: Rung, specs: Mapping[str, Arm]) -> str:
    def names(arms: Sequence[str]) -> str:
        return named([specs[arm].name for arm in arms])

    every = list(event.values.items())
    best = foremost(every, NAMES, lambda item: -math.inf if item[1] is None else item[1])
    values = "; ".join(f"{specs[a].name} {number(v)}" for a, v in best)
    more = f"; and {len(every) - NAMES:,} more" if len(every) > NAMES else ""
    text = f"round {event.round}, " if event.round > 1 else ""
    text += f"epoch {event.epoch}: dev {title_of(event.metric)} {values}{more}."
    if event.cutoff is not None:
        text += f" Cutoff {number(event.cutoff)}, pruned: {names(event.pruned) or 'none'}."
    if event.held:
        text += f" The stage gate is held by {names(event.held)}; the step ends."
    return text


def _conflicts(step: StepShown) -> Iterator[str]:
    arms = {arm.name: arm for arm in step.arms}
    yield from (_conflict(arms[name]) for name in step.conflicts[:NAMES])
    if len(step.conflicts) > NAMES:
        yield f"The same of {named(step.conflicts[NAMES:])}."


def _conflict(arm: ArmShown) -> str:
    gain = next(g for g in arm.gains or () if g.metric == "r_at_5")
    stage = arm.stage
    assert stage is not None  # it was judged
    return (
        f"{arm.name} fails the stage gate ({title_of(stage.metric)} {stage.reason}), "
        f"yet beats its control at R@5 by {estimate(gain)}."
    )


def _outcome(run: Run, step: StepShown, absent: Sequence[str]) -> Iterator[str]:
    """Say what the step decided: confirmed, kept, ruled out, or nothing."""
    confirmed = run.state.of(Confirmed, step=step.step)
    for event in confirmed:
        gates = "; ".join(
            f"{g.gate} {title_of(g.metric)} {estimate(g)} {g.verdict}" for g in event.gates
        )
        yield f"Confirmation of {confirmed_name(run, event)}: {event.verdict} ({gates})."
    if step.kept:
        yield f"Kept: {step.kept} beats its control, and later steps may start from it."
    elif step.stage is None:
        yield "This step was not finished when this was written."
    elif step.extended:
        yield "An open question, measured only on dev; Hypotheses has its answer."
    elif not step.arms:
        yield "Nothing could be tried, so nothing is ruled out."
    elif absent and all(event.verdict != Verdict.PASS for event in confirmed):
        yield "Nothing is ruled out: an absent arm might have shown it."
    elif step.stage == Verdict.NOT_EVALUABLE:
        yield "No arm could be judged, so nothing is ruled out."
    elif step.stage == Verdict.FAIL or any(e.verdict == Verdict.FAIL for e in confirmed):
        yield f"Ruled out as a cause on its own, for the arms above: {step.rules_out}."
    elif not confirmed:
        yield f"Not confirmed yet: {step.candidate}."
    elif all(event.verdict != Verdict.PASS for event in confirmed):
        yield "Nothing is ruled out: the interval crosses the bound."
