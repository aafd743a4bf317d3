"""The main path: ask the tree what to do, do it, write down what happened, until it says stop."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lvm.config import Recipe, RunConfig, fingerprint
from lvm.data.windows import Dataset
from lvm.errors import UsageError
from lvm.evaluation.evaluate import evaluate
from lvm.evaluation.metrics import PerQuery, summarise
from lvm.gates import gain, stage_gate, success_gates
from lvm.models.ladder import fit_ladder
from lvm.records import Evaluation, GateResult, StopReason, Verdict, to_plain
from lvm.statistics import holm
from lvm.triage.arm import ArmSpec, arm_id, dev_file
from lvm.triage.journal import Journal
from lvm.triage.race import Executor, Lane, Note, Race
from lvm.triage.rungs import rung_epochs
from lvm.triage.step import Arm, Facts, Role, Step
from lvm.triage.tree import (
    Action,
    Confirm,
    ConfirmOutcome,
    Outcome,
    Phase1Outcome,
    RunPhase1,
    RunStep,
    StepOutcome,
    Stop,
    next_action,
)

AR_ONLY = "AR-only"
PHASE1 = "phase_1"
CONTROL = "control"
SUCCESS_METRICS = ("r_at_5", "mrr")
REACHED_BUDGET = (StopReason.GATE_HELD, StopReason.FINISHED)


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be triaged, and how."""

    config: RunConfig
    out: Path
    steps: Sequence[Step]
    code: str  # version of the code that trains, part of every arm's name
    commit: str | None = None
    checkpoint: Path | None = None  # stands in for the base recipe's phase-1 training
    predictions: Path | None = None  # likewise, one row per test window
    independent: bool = False


@dataclass(frozen=True, kw_only=True)
class ArmResult:
    """An arm as the judge sees it."""

    lane: Lane
    dev: PerQuery | None  # at the epoch that counts

    @property
    def spec(self) -> ArmSpec:
        """What was run."""
        return self.lane.spec

    @property
    def reason(self) -> StopReason:
        """Why it ended."""
        return self.lane.ending.reason if self.lane.ending else StopReason.CANCELLED


class Triage:
    """One run: the tree's actions carried out by an executor and written to the journal."""

    def __init__(
        self, request: Request, dataset: Dataset, executor: Executor, journal: Journal, note: Note
    ) -> None:
        self.request, self.dataset, self.executor = request, dataset, executor
        self.journal, self._note = journal, note
        self.base = request.config.recipe
        self._confirm_p_values: list[float] = []
        self._proposals: dict[str, dict[str, Arm]] = {}
        self._phase1: dict[str, ArmSpec] = {}
        self._budget = self.base.training.epochs

    def run(self) -> Stop:
        """Walk the tree to its end."""
        self._measure_ladder()
        plan = [step.name for step in self.request.steps]
        history: list[Outcome] = []
        while True:
            action = next_action(plan, history, independent=self.request.independent)
            self._once("decision", ("number",), number=len(history), **_describe(action))
            if isinstance(action, Stop):
                return action
            history.append(self._perform(action))

    def _perform(self, action: Action) -> Outcome:
        match action:
            case RunPhase1():
                return self._run_phase1()
            case RunStep():
                return self._run_step(action)
            case Confirm():
                return self._confirm(action)
        raise AssertionError(action)  # Stop never gets here

    # --- phase 1 ---------------------------------------------------------------------------------

    def _run_phase1(self) -> Phase1Outcome:
        ar_recipe = self.base.ar_only()
        specs = {AR_ONLY: self._spec(PHASE1, AR_ONLY, Role.PHASE1, ar_recipe, test=True)}
        base_name = objective_name(self.base)
        if self.request.predictions is None:
            specs[base_name] = self._spec(
                PHASE1, base_name, Role.PHASE1, self.base, test=True, source=self.request.checkpoint
            )
        self._begin(PHASE1, list(specs.values()), title="Phase 1", epochs=self._budget)
        results = self._race(PHASE1, list(specs.values()), self._budget)
        for name, spec in specs.items():
            self._phase1[name] = spec
            self._judge_dev(results[spec.id], None)
        verdict, gates = self._judge_phase1(specs, results, base_name)
        self._once("phase_1_judged", (), verdict=verdict, gates=gates, baseline=AR_ONLY)
        return Phase1Outcome(verdict=verdict)

    def _judge_phase1(
        self, specs: Mapping[str, ArmSpec], results: Mapping[str, ArmResult], base_name: str
    ) -> tuple[Verdict, list[GateResult]]:
        for name, spec in specs.items():
            reason = results[spec.id].reason
            if reason not in REACHED_BUDGET:
                why = f"{name} {reason}: {results[spec.id].lane.detail}"
                return Verdict.NOT_EVALUABLE, [_not_judged(why)]
            self._note_test(spec)
        if self.request.predictions is not None:
            judged = self._judge_predictions(self.request.predictions)
        else:
            judged = PerQuery.load(specs[base_name].folder / "test.npz")
        baseline = PerQuery.load(specs[AR_ONLY].folder / "test.npz")
        return success_gates(judged, baseline, self.request.config.gates, self.base.seed)

    def _judge_predictions(self, path: Path) -> PerQuery:
        """Judge a plain file of predictions, one row per test window, in the raw space."""
        rows = _read_predictions(path, len(self.dataset.test), self.dataset.bank.width)
        evaluation, per_query = evaluate(
            rows, self.dataset.test, self.dataset.bank, space="raw", split="test"
        )
        name = objective_name(self.base)
        self._once(
            "test_judged", ("arm",), arm="predictions", step=PHASE1, name=f"{name} (predictions)",
            role=Role.PHASE1, evaluation=evaluation, ann={}, epochs=0,
        )  # fmt: skip
        return per_query

    # --- a step ----------------------------------------------------------------------------------

    def _run_step(self, action: RunStep) -> StepOutcome:
        step = next(s for s in self.request.steps if s.name == action.step)
        schedule = self.request.config.schedule
        epochs = step.epochs(schedule)
        base = self._carried_recipe(action.carried)
        budgeted = base.with_changes({"training.epochs": epochs})
        facts = Facts(
            num_train_windows=len(self.dataset.train), width=self.dataset.bank.width
        )
        proposal = step.propose(budgeted, facts)
        self._proposals[step.name] = {arm.name: arm for arm in proposal.arms}
        specs = self._step_specs(step, proposal.arms, base, budgeted, bool(action.carried))
        self._begin(
            step.name, specs, title=step.title, epochs=epochs, left_out=proposal.left_out,
            question=step.question, hypothesis=step.hypothesis, rules_out=step.rules_out,
            number=step.number, carried=[list(pair) for pair in action.carried],
        )  # fmt: skip
        if not proposal.arms:
            return self._end_step(step.name, Verdict.NOT_EVALUABLE, None, None, [])
        results = self._race(step.name, specs, epochs)
        return self._judge_step(step.name, list(results.values()))

    def _step_specs(
        self, step: Step, arms: Sequence[Arm], base: Recipe, budgeted: Recipe, carried: bool
    ) -> list[ArmSpec]:
        """Return the specs of a step: the control first, unless no arm trains."""
        trained_model = self._phase1.get(objective_name(self.base))
        specs: list[ArmSpec] = []
        for arm in arms:
            source = None
            if not arm.trains and not carried and trained_model is not None:
                source = trained_model.source or trained_model.folder / "checkpoint"
            recipe = (base if source else budgeted).with_changes(arm.changes)
            specs.append(
                self._spec(step.name, arm.name, Role.ARM, recipe, source=source, changes=arm)
            )
        if any(spec.source is None for spec in specs):
            specs.insert(0, self._spec(step.name, CONTROL, Role.CONTROL, budgeted))
        return specs

    def _judge_step(self, step: str, results: list[ArmResult]) -> StepOutcome:
        control = next((r for r in results if r.spec.role is Role.CONTROL), None)
        arms = [r for r in results if r.spec.role is Role.ARM]
        if control is not None:
            self._judge_dev(control, None)
        against = {r.spec.id: self._control_of(r, control) for r in arms}
        gains = self._gains(arms, against)
        stages: dict[str, Verdict] = {}
        for result in arms:
            gates = self._judge_dev(result, against[result.spec.id], gains.get(result.spec.id, []))
            stages[result.spec.id] = gates.verdict
        beats = [r for r in arms if _beats(gains.get(r.spec.id, []))]
        conflicts = [
            r.spec.name for r in beats
            if stages[r.spec.id] is Verdict.FAIL
            and any(g.metric == "r_at_5" and g.verdict is Verdict.PASS for g in gains[r.spec.id])
        ]  # fmt: skip
        stage, candidate = _candidate(arms, stages)
        best = max(beats, key=_mrr, default=None)
        carried = candidate if candidate in beats else best
        return self._end_step(
            step, stage, candidate.spec.name if candidate else None,
            carried.spec.name if carried else None, conflicts,
        )  # fmt: skip

    def _end_step(
        self, step: str, stage: Verdict, candidate: str | None, carried: str | None,
        conflicts: list[str],
    ) -> StepOutcome:  # fmt: skip
        self._once(
            "step_ended", ("step",), step=step, stage=stage, candidate=candidate, kept=carried,
            conflicts=conflicts,
        )  # fmt: skip
        return StepOutcome(step=step, stage=stage, candidate=candidate, carried=carried)

    def _control_of(self, result: ArmResult, control: ArmResult | None) -> PerQuery | None:
        """Return the control's dev results at the arm's own epoch: the same budget, or nothing."""
        if result.lane.ending is None or result.dev is None:
            return None
        if result.spec.source is not None:  # searched another way: against the same trained model
            spec = self._phase1[objective_name(self.base)]
            path = dev_file(spec.folder, 0 if spec.source else self._budget)
        elif control is None:
            return None
        else:
            path = dev_file(control.spec.folder, result.lane.ending.epoch)
        return PerQuery.load(path) if path.exists() else None

    def _gains(
        self, arms: Sequence[ArmResult], against: Mapping[str, PerQuery | None]
    ) -> dict[str, list[GateResult]]:
        """Return each arm's gains over its control; PASS means above zero after Holm over all."""
        gates, seed = self.request.config.gates, self.base.seed
        found: dict[str, list[GateResult]] = {}
        for result in arms:
            control = against[result.spec.id]
            if result.dev is not None and control is not None:
                found[result.spec.id] = [
                    gain(result.dev, control, metric, gates, seed) for metric in SUCCESS_METRICS
                ]
        flat = [g for results in found.values() for g in results if g.p_value is not None]
        corrected = holm([g.p_value for g in flat if g.p_value is not None])
        level = (1 - gates.confidence) / 2
        passed = {id(g) for g, p in zip(flat, corrected, strict=True) if p <= level}
        return {
            arm: [_as_verdict(g, passed=id(g) in passed) for g in results]
            for arm, results in found.items()
        }

    # --- confirmation ----------------------------------------------------------------------------

    def _confirm(self, action: Confirm) -> ConfirmOutcome:
        base = self._carried_recipe(action.carried)
        if action.arm is None:
            name, recipe, trains = "carried recipe", base, True
        else:
            arm = self._proposals[action.step][action.arm]
            name, trains = arm.name, arm.trains or bool(action.carried)
            recipe = base.with_changes(arm.changes)
        step = f"confirm_{action.step}" if action.arm else "confirm_carried"
        trained = self._phase1.get(objective_name(self.base))
        source = None
        if not trains and trained is not None:
            source = trained.source or trained.folder / "checkpoint"
        workers = 1 if source else self.request.config.schedule.confirm_workers
        spec = self._spec(
            step, name, Role.CONFIRM, recipe, source=source, test=True, workers=workers
        )
        self._begin(step, [spec], title=f"Confirm: {name}", epochs=self._budget)
        result = self._race(step, [spec], self._budget)[spec.id]
        self._judge_dev(result, None)
        verdict, gates = self._judge_confirmation(result)
        arm_name = action.arm or self._carried_arm(action)
        self._once(
            "confirmed", ("spec",), step=action.step, arm=arm_name, verdict=verdict, gates=gates,
            spec=spec.id, run_as=step,
        )  # fmt: skip
        return ConfirmOutcome(step=action.step, arm=arm_name, verdict=verdict)

    def _carried_arm(self, action: Confirm) -> str:
        return next(arm for step, arm in action.carried if step == action.step)

    def _judge_confirmation(self, result: ArmResult) -> tuple[Verdict, list[GateResult]]:
        """Judge the success gate against AR-only, and the gain over the unchanged recipe."""
        if result.reason not in REACHED_BUDGET:
            return Verdict.NOT_EVALUABLE, [_not_judged(f"{result.reason}: {result.lane.detail}")]
        self._note_test(result.spec)
        gates, seed = self.request.config.gates, self.base.seed
        judged = PerQuery.load(result.spec.folder / "test.npz")
        baseline = PerQuery.load(self._phase1[AR_ONLY].folder / "test.npz")
        verdict, results = success_gates(judged, baseline, gates, seed, self._confirm_p_values)
        self._confirm_p_values += [r.p_value for r in results if r.p_value is not None]
        unchanged = self._phase1.get(objective_name(self.base))
        if unchanged is not None:
            control = PerQuery.load(unchanged.folder / "test.npz")
            over = [gain(judged, control, metric, gates, seed) for metric in SUCCESS_METRICS]
            results = [*results, *over]
            # Without this, more training of the same recipe could be sold as a cause.
            if verdict is Verdict.PASS and not any(g.verdict is Verdict.PASS for g in over):
                verdict = Verdict.INCONCLUSIVE
        return verdict, results

    # --- shared ----------------------------------------------------------------------------------

    def _measure_ladder(self) -> None:
        """Put every trivial predictor beside the gates, on dev and on test."""
        if all(self.journal.find("ladder", split=split) for split in ("dev", "test")):
            return
        predictors = fit_ladder(self.dataset, seed=self.base.seed)
        for split in ("dev", "test"):
            windows = self.dataset.split(split)
            rows = {}
            for name, predict in predictors.items():
                rows[name], _ = evaluate(
                    torch.from_numpy(predict(windows)), windows, self.dataset.bank,
                    space="raw", split=split,
                )  # fmt: skip
            self._once("ladder", ("split",), split=split, rows=rows)

    def _spec(
        self, step: str, name: str, role: Role, recipe: Recipe, *, source: Path | None = None,
        test: bool = False, workers: int | None = None, changes: Arm | None = None,
    ) -> ArmSpec:  # fmt: skip
        schedule = self.request.config.schedule
        workers = workers or (1 if source else schedule.workers_per_arm)
        identity = arm_id(
            recipe, data=self.dataset.fingerprint, code=self.request.code, workers=workers,
            source=str(source or ""),
        )  # fmt: skip
        ar_only = self._phase1.get(AR_ONLY)
        return ArmSpec(
            id=identity,
            step=step,
            name=name,
            role=role,
            recipe=recipe,
            folder=(self.request.out / "arms" / identity).absolute(),
            gates=self.request.config.gates,
            source=source,
            baseline=dev_file(ar_only.folder, self._budget) if ar_only else None,
            evaluate_test=test,
            workers=workers,
            threads=schedule.threads_per_worker,
            device="cuda" if schedule.use_gpu else "cpu",
            commit=self.request.commit,
            why=changes.why if changes else "",
            changes=dict(changes.changes) if changes else {},
        )

    def _begin(self, step: str, specs: Sequence[ArmSpec], **about: Any) -> None:
        arms = [spec.to_plain() for spec in specs]
        self._once("step_started", ("step",), step=step, arms=arms, **about)

    def _race(self, step: str, specs: Sequence[ArmSpec], budget: int) -> dict[str, ArmResult]:
        """Run the arms that the journal does not hold already; return all of them."""
        schedule = self.request.config.schedule
        epochs = rung_epochs(schedule.first_rung, budget, schedule.reduction_factor)
        if all(spec.role is not Role.ARM for spec in specs):
            epochs = [budget]
        race = Race(step, specs, self._note_progress, epochs=epochs, factor=schedule.reduction_factor)
        self._replay(race)
        if race.waiting:
            self.executor.run(race, self.dataset)
        results = {}
        for arm, lane in race.lanes.items():
            path = dev_file(lane.spec.folder, lane.ending.epoch) if lane.ending else None
            dev = PerQuery.load(path) if path is not None and path.exists() else None
            results[arm] = ArmResult(lane=lane, dev=dev)
        return results

    def _replay(self, race: Race) -> None:
        """Feed a race what the journal knows of its arms, from this step or an earlier one."""
        final = (StopReason.DIVERGED, StopReason.NOT_EVALUABLE)
        unfinished = {
            arm for arm, lane in race.lanes.items()
            if lane.spec.evaluate_test and not (lane.spec.folder / "test.json").exists()
        }  # fmt: skip
        for event in list(self.journal.events):
            if event.get("arm") not in race.lanes or event["arm"] in unfinished:
                continue
            if event["event"] == "epoch":
                keep = {k: v for k, v in event.items() if k not in _EPOCH_ENVELOPE}
                race.record(event["arm"], keep)
            elif event["event"] == "arm_ended" and event["reason"] in final:
                race.failed(event["arm"], StopReason(event["reason"]), event["detail"])

    def _carried_recipe(self, carried: Sequence[tuple[str, str]]) -> Recipe:
        recipe = self.base
        for step, arm in carried:
            recipe = recipe.with_changes(self._proposals[step][arm].changes)
        return recipe

    def _judge_dev(
        self, result: ArmResult, control: PerQuery | None, gains: Sequence[GateResult] = ()
    ) -> GateResult:
        """Judge the stage gate of an arm on dev and write down all that was measured."""
        spec, gates = result.spec, self.request.config.gates
        if result.dev is None:
            gate = _not_judged(result.lane.detail or str(result.reason))
        elif spec.recipe.search_space == "raw" or spec.baseline is None:
            gate = stage_gate(result.dev, gates, self.base.seed)
        else:
            verdict, both = success_gates(
                result.dev, PerQuery.load(spec.baseline), gates, self.base.seed
            )
            gate = next((g for g in both if g.verdict is verdict), both[0])
        self._once(
            "arm_judged", ("arm", "step"), arm=spec.id, step=spec.step, name=spec.name,
            role=spec.role, reason=result.reason, detail=result.lane.detail,
            epoch=result.lane.ending.epoch if result.lane.ending else 0,
            epochs_run=max(result.lane.records, default=0),
            train_seconds=round(result.lane.train_seconds, 3),
            evaluation=_dev_evaluation(result.dev), stage=gate, gains=list(gains),
        )  # fmt: skip
        return gate

    def _note_test(self, spec: ArmSpec) -> None:
        stored = json.loads((spec.folder / "test.json").read_text())
        self._once(
            "test_judged", ("arm",), arm=spec.id, step=spec.step, name=spec.name, role=spec.role,
            epochs=0 if spec.source else spec.recipe.training.epochs, **stored,
        )  # fmt: skip

    def _once(self, event: str, keys: Sequence[str], **values: Any) -> None:
        """Write an event unless the journal of a resumed run holds it already."""
        plain = to_plain({key: values[key] for key in keys})
        if self.journal.find(event, **plain) is None:
            self._note(event, **values)

    def _note_progress(self, event: str, **values: Any) -> None:
        """Write an event of a race once; epochs of an arm count once over all steps."""
        keys = {"epoch": ("arm", "epoch"), "rung": ("step", "epoch"), "arm_ended": ("arm", "step")}
        self._once(event, keys[event], **values)


_EPOCH_ENVELOPE = {"event", "at", "arm", "step", "name"}


def objective_name(recipe: Recipe) -> str:
    """Return the name of a recipe's objective as the report's table writes it."""
    objective = recipe.objective
    parts = [
        ("InfoNCE", objective.contrastive_weight),
        ("AR", objective.ar_weight),
        ("MMD", objective.mmd_weight),
    ]
    names = [name for name, weight in parts if weight > 0]
    return "AR-only recipe" if names == ["AR"] else "+".join(names)


def request_fingerprint(request: Request) -> str:
    """Return a hash of what a resumed run must share with the interrupted one."""
    return fingerprint(
        {
            "config": fingerprint(request.config),
            "steps": [step.name for step in request.steps],
            "checkpoint": str(request.checkpoint or ""),
            "predictions": str(request.predictions or ""),
            "independent": request.independent,
        }
    )


def _describe(action: Action) -> dict[str, Any]:
    return {"action": type(action).__name__, **to_plain(vars(action))}


def _dev_evaluation(per_query: PerQuery | None) -> Evaluation | None:
    if per_query is None:
        return None
    masked, raw = summarise(per_query)
    return Evaluation(
        split="dev",
        space=per_query.space,
        num_windows=len(per_query),
        num_articles=len(np.unique(per_query.articles)),
        pool=per_query.pool,
        masked=masked,
        raw=raw,
    )


def _candidate(
    arms: Sequence[ArmResult], stages: Mapping[str, Verdict]
) -> tuple[Verdict, ArmResult | None]:
    """Return the best stage verdict, and the arm worth confirming: the best MRR at that verdict."""
    complete = [r for r in arms if r.reason in REACHED_BUDGET and r.dev is not None]
    for verdict in (Verdict.PASS, Verdict.INCONCLUSIVE):
        ready = [r for r in complete if stages[r.spec.id] is verdict]
        if ready:
            return verdict, max(ready, key=_mrr)
    judged = [v for v in stages.values() if v is not Verdict.NOT_EVALUABLE]
    return (Verdict.FAIL if judged else Verdict.NOT_EVALUABLE), None


def _mrr(result: ArmResult) -> float:
    return -1.0 if result.dev is None else float(result.dev.reciprocal_rank.mean())


def _beats(gains: Sequence[GateResult]) -> bool:
    return any(g.verdict is Verdict.PASS for g in gains)


def _as_verdict(result: GateResult, *, passed: bool) -> GateResult:
    verdict = result.verdict
    if verdict is Verdict.PASS and not passed:
        verdict = Verdict.INCONCLUSIVE
    return GateResult(**{**vars(result), "verdict": verdict})


def _not_judged(reason: str) -> GateResult:
    return GateResult(
        gate="stage", metric="eval_cosine", bound=0.0, estimate=None,
        verdict=Verdict.NOT_EVALUABLE, reason=reason,
    )  # fmt: skip


def _read_predictions(path: Path, rows: int, width: int) -> torch.Tensor:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(
            f"the predictions {path} cannot be read ({error}); save them with numpy.save."
        ) from None
    if not isinstance(array, np.ndarray) or array.shape != (rows, width) or array.dtype.kind != "f":
        shape = getattr(array, "shape", "no array")
        raise UsageError(
            f"the predictions {path} have shape {shape}, allowed is ({rows}, {width}) floats, one "
            "row per evaluation window in order; predict for exactly these windows."
        )
    tensor = torch.from_numpy(np.array(array, dtype=np.float32))
    norms = tensor.norm(dim=1)
    if not bool(torch.isfinite(norms).all()) or bool((norms < 1e-6).any()):
        bad = int((~torch.isfinite(norms) | (norms < 1e-6)).sum())
        raise UsageError(
            f"the predictions {path} hold {bad} rows that are zero or not finite, allowed are 0; "
            "predict them again."
        )
    return torch.nn.functional.normalize(tensor, dim=1)
