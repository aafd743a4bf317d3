"""Phase 1: AR-only and the base recipe, judged on test by the success gate."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lvm.core.device import claim_if_there
from lvm.core.records import GateResult, Verdict
from lvm.evaluation.evaluate import evaluate
from lvm.evaluation.evidence import View, gather
from lvm.evaluation.gates import success_gates
from lvm.evaluation.metrics import PerQuery
from lvm.evaluation.predictions import predictions_of
from lvm.evaluation.words import in_words
from lvm.triage.absence import in_short
from lvm.triage.actions import Phase1Outcome
from lvm.triage.arm import ArmSpec
from lvm.triage.events import Phase1Judged, TestJudged, event_of
from lvm.triage.events.evidence import LineageTold
from lvm.triage.judge import REACHED_ITS_END, ArmResult, absent_arms, not_judged
from lvm.triage.lineage import judged_lineage, unread
from lvm.triage.off_contexts import off_contexts
from lvm.triage.runner import AR_ONLY, Runner, objective_name
from lvm.triage.step import Role
from lvm.triage.subject import PREDICTIONS
from lvm.triage.trace import trace

PHASE1 = "phase_1"


def run_phase1(runner: Runner) -> Phase1Outcome:
    """Train or load both models and judge the base recipe's gain over AR-only."""
    ar_recipe = runner.base.ar_only()
    specs = {AR_ONLY: runner.spec(PHASE1, AR_ONLY, Role.PHASE1, ar_recipe, test=True)}
    base_name = objective_name(runner.base)
    if runner.request.predictions is None:
        specs[base_name] = runner.spec(
            PHASE1, base_name, Role.PHASE1, runner.base, test=True, source=runner.request.checkpoint
        )
    runner.begin(PHASE1, list(specs.values()), title="Phase 1", epochs=runner.budget)
    results = runner.race(PHASE1, list(specs.values()), runner.budget)
    for name, spec in specs.items():
        runner.phase1[name] = spec
        runner.judge_dev(results[spec.id])
    runner.ar_only = results[specs[AR_ONLY].id]
    verdict, gates = _judge(runner, specs, results, base_name)
    written = runner.journal.events.last(Phase1Judged)
    lineage = written.lineage if written is not None else None
    if lineage is None:
        lineage = _lineage(runner, specs, results, base_name)
    runner.unread = unread(lineage)
    judged = event_of(Phase1Judged, verdict=verdict, gates=gates, baseline=AR_ONLY, lineage=lineage)
    runner.once(judged)
    missing = _missing(AR_ONLY, results[specs[AR_ONLY].id])
    absent = absent_arms(results.values())
    return Phase1Outcome(verdict=verdict, absent=absent, no_baseline=missing, unread=runner.unread)


def _lineage(
    runner: Runner, specs: Mapping[str, ArmSpec], results: Mapping[str, ArmResult], base_name: str
) -> LineageTold:
    """Return what is known of the articles that the judged model has read, with its traces."""
    request, ar_only = runner.request, specs[AR_ONLY]
    ar_test, ar_dev = runner.test_results(ar_only), results[ar_only.id].dev
    given: Path | np.ndarray | None = request.checkpoint
    if request.predictions is not None:
        given = predictions_of(
            request.predictions, runner.dataset, runner.base.context_length
        ).numpy()
    if given is None or ar_test is None or ar_dev is None:
        return judged_lineage(runner)
    trained, seed = ar_only.folder / "checkpoint", runner.base.seed
    found, model = None, specs.get(base_name)
    if model is not None:
        test, dev = runner.test_results(model), results[model.id].dev
        if test is None or dev is None:
            return judged_lineage(runner)
        found = trace(test, dev, ar_test, ar_dev, runner.dataset, seed)
    off = off_contexts(given, trained, runner.dataset, runner.gates, seed)
    return judged_lineage(runner, found, off)


def _missing(name: str, result: ArmResult) -> str:
    """Return why a model left nothing to judge, or an empty text."""
    if result.reason in REACHED_ITS_END:
        return ""
    if result.absent:
        return in_short(absent_arms([result]))
    detail = f": {result.lane.detail.rstrip('.')}" if result.lane.detail else ""
    return f"{name} ended as {result.reason}{detail}"


def _judge(
    runner: Runner, specs: Mapping[str, ArmSpec], results: Mapping[str, ArmResult], base_name: str
) -> tuple[Verdict, list[GateResult]]:
    missing = {name: _missing(name, results[spec.id]) for name, spec in specs.items()}
    for name, spec in specs.items():
        if not missing[name]:
            runner.note_test(spec)
    if any(missing.values()):
        why = "; ".join(text for text in missing.values() if text)
        return Verdict.NOT_EVALUABLE, [not_judged(why)]
    judged: PerQuery | None
    if runner.request.predictions is not None:
        judged = _judge_predictions(runner, runner.request.predictions)
    else:
        judged = runner.test_results(specs[base_name])
    baseline = runner.test_results(specs[AR_ONLY])
    if judged is None or baseline is None:
        return Verdict.NOT_EVALUABLE, [not_judged("a model has no results on the test split")]
    return success_gates(
        judged, baseline, runner.gates, runner.base.seed, split_share=runner.split_share("test")
    )


def _judge_predictions(runner: Runner, path: Path) -> PerQuery:
    """Judge a plain file of predictions, one row per test window, in the raw space."""
    device = claim_if_there(runner.request.config.schedule.use_gpu)
    rows = predictions_of(path, runner.dataset, runner.base.context_length).to(device)
    evaluation, per_query = evaluate(
        rows, runner.dataset.test, runner.dataset.bank, space="raw", split="test"
    )
    bank = runner.dataset.bank
    view = View("raw", rows, bank.on(device)[: len(bank.pool_rows)], per_query)
    evidence = in_words(gather(view, runner.dataset, seed=runner.base.seed), bank)
    bank.leave(device)
    judged = event_of(
        TestJudged,
        arm=PREDICTIONS,
        step=PHASE1,
        name=f"{path.name} (predictions)",
        role=Role.PHASE1,
        evaluation=evaluation,
        epochs=0,
        evidence=evidence,
    )
    runner.once(judged, "arm")
    return per_query
