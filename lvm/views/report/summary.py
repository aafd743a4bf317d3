"""The first screen of a report: the verdict, its cause, confidence, cost, and what to do next."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from lvm.audit.document import answer, cautions
from lvm.core.printed import job_command
from lvm.core.records import GateResult, RunVerdict, Verdict, flatten
from lvm.core.text import counted, estimate, number, seconds, title_of
from lvm.triage.events import Confirmed, StepStarted
from lvm.triage.seeds import over_seeds
from lvm.triage.subject import TRAINER
from lvm.views.report import Block, Facts, Paragraph, Preformatted, Run
from lvm.views.report.audit import audit_of, first_screen
from lvm.views.report.cost import saved_in_words
from lvm.views.report.gates import independent
from lvm.views.report.models import confirmed_name


def stopped_by_audit(run: Run) -> bool:
    """Whether the audit ended the run before anything was tried."""
    return run.summary.verdict == RunVerdict.BLOCKED and not run.state.of(StepStarted)


def verdict_section(run: Run) -> Iterator[Block]:
    """Yield the first screen."""
    summary, audit = run.summary, audit_of(run)
    if summary.judged.sentence:
        yield Paragraph(summary.judged.sentence, "lead")
    if audit and stopped_by_audit(run):
        yield from first_screen(audit)
        yield Preformatted(f"# when that is done\n{_again(run)}")
        return
    yield Paragraph(summary.headline, "lead")
    said = [*(cautions(audit) if audit else ()), *summary.warnings]
    for warning in dict.fromkeys(said):
        yield Paragraph(warning, "warning")
    pairs = [("Cause", summary.cause or _no_cause(run)), ("Confidence", _confidence(run))]
    lineage = summary.lineage.sentence
    if lineage and lineage not in said:
        pairs.append(("Lineage", lineage))
    seeds = over_seeds(summary.seeds) if summary.seeds else ""
    if seeds and not any(seeds in warning for warning in said):
        pairs.append(("Seeds", seeds))
    if audit:
        pairs.append(("Audit", answer(audit)))
    elif summary.codes:
        pairs.append(("Audit codes", ", ".join(summary.codes)))
    compute = summary.compute
    pairs.append(
        (
            "Cost",
            f"{seconds(compute.train_seconds)} of training in "
            f"{counted(compute.trials, 'trial')}; {saved_in_words(run)}",
        )
    )
    changes = _changes(run)
    text, command = _next(run, bool(changes))
    yield Facts([*pairs, ("Next", text)])
    if changes and summary.arm:
        lines = [f"{key} = {json.dumps(value)}" for key, value in changes.items()]
        yield Preformatted("# fix.toml: what to change in the recipe\n" + "\n".join(lines))
    yield Preformatted(command)


def _no_cause(run: Run) -> str:
    return "none found" if run.summary.verdict else "not known yet"


def _confidence(run: Run) -> str:
    """Describe the success gate behind the verdict, or the one that came closest."""
    arm, phase1 = run.summary.arm, run.summary.phase1
    candidates = [(_phase1_name(run), phase1.verdict, phase1.gates)]
    candidates += [(confirmed_name(run, e), e.verdict, e.gates) for e in run.state.of(Confirmed)]
    if arm is not None:
        candidates = [(arm.name, None, arm.gates)]
    name, _, judged = max(candidates, key=lambda item: _nearest(*item[1:]))
    gates = [(g, g.estimate) for g in judged if g.gate == "success" and g.estimate]
    if not gates:
        return "no success gate has been judged"
    parts = [
        f"{title_of(g.metric)} {estimate(g)} against {number(g.bound, sign=True)}: {g.verdict}"
        for g, _ in gates
    ]
    first, found = gates[0]
    level, articles, effect = found.confidence, found.num_articles, independent(first)
    return (
        f"gain of {name} over {run.baseline} on the test split: {'; '.join(parts)} "
        f"({level:.0%} intervals over {counted(articles, 'article')}"
        f"{f', {effect}' if effect else ''}; one PASS is enough)"
    )


def _phase1_name(run: Run) -> str:
    """Return the name of what phase 1 judged: the base recipe's model, or predictions."""
    judged = run.summary.judged
    given = f"{judged.file} (predictions)" if judged.stand_in else "phase 1"
    return run.unchanged.name if run.unchanged else given


def _nearest(verdict: Verdict | None, gates: Sequence[GateResult]) -> tuple[int, float]:
    """Return a sort key for judged models: by verdict, then by gain in R@5."""
    found = [g for g in gates if g.gate == "success" and g.metric == "r_at_5"]
    gained = [g.estimate.value for g in found if g.estimate]
    rank = {Verdict.PASS: 3, Verdict.INCONCLUSIVE: 2, Verdict.FAIL: 1}
    return rank.get(verdict, 0) if verdict else 0, max(gained, default=-1.0)


def _next(run: Run, changed: bool) -> tuple[str, str]:
    """Return what to do next and the command for it."""
    job = job_command("triage", kept=True)
    own = run.summary.judged.kind == TRAINER
    match run.summary.verdict:
        case RunVerdict.FIXED if changed and own and run.summary.arm:
            return (
                "make the changes below in your recipe and judge them on data this run has not "
                f"seen; what your code has written is in {run.summary.arm.checkpoint}",
                f"{job} --recipe RECIPE --data BANK",
            )
        case RunVerdict.FIXED if changed and run.summary.arm:
            return (
                "save the changes below as fix.toml and judge them on data this run has not seen; "
                f"the checkpoint is {run.summary.arm.checkpoint}",
                f"{job} --recipe fix.toml --data BANK",
            )
        case RunVerdict.PASSED | RunVerdict.FIXED:
            return "judge the recipe on data this run has not seen", f"{job} --data BANK"
        case RunVerdict.BLOCKED:
            return "fix the audit's findings, then start again", _again(run)
        case RunVerdict.INCONCLUSIVE if run.summary.absent:
            text = "see why the absent arms ended; when that is fixed, retry them"
            return text, run.summary.resume
        case RunVerdict.INCONCLUSIVE if run.summary.lineage.verdict_if_unseen:
            text = "name the articles that the model has read, in a file of ids or a bank"
            return text, f"{_again(run)} --seen FILE"
        case RunVerdict.INCONCLUSIVE if not _crosses(run):
            text = "see why no model could be judged; change the recipe accordingly"
            return text, f"{job} --recipe FILE"
        case RunVerdict.INCONCLUSIVE:
            return "give a bank with more articles to narrow the interval", f"{job} --data BANK"
        case RunVerdict.NOT_FIXED:
            text = "see what was not tried; change the recipe accordingly and start again"
            return text, f"{job} --recipe FILE"
        case _:
            return "continue the run", run.summary.resume


def _crosses(run: Run) -> bool:
    """Whether an interval crosses its bound, so that more articles would help."""
    confirmed = run.state.of(Confirmed)
    gates = [*run.summary.phase1.gates, *(gate for event in confirmed for gate in event.gates)]
    gates += [gate for e in confirmed if e.control for gate in e.control.gates]
    return any(gate.verdict == Verdict.INCONCLUSIVE for gate in gates)


def _again(run: Run) -> str:
    """Return the command of a new run with the same options; an old journal has only its own."""
    return run.started.again or run.started.command


def _changes(run: Run) -> dict[str, object]:
    """Return the dotted recipe keys in which the fix differs from the base recipe."""
    arm = run.summary.arm
    recipe = arm.recipe.to_plain() if arm and arm.recipe else {}
    base = dict(flatten(run.started.config.recipe.to_plain()))
    return {k: v for k, v in flatten(recipe) if v != base.get(k)}
