"""The main path: ask the tree what to do, do it, write down what happened, until it says stop."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lvm.audit.training import training_findings
from lvm.config import Recipe, RunConfig, fingerprint
from lvm.data.windows import Dataset, recut
from lvm.errors import DataError
from lvm.evaluation.evaluate import evaluate
from lvm.evaluation.evidence import View, gather
from lvm.evaluation.metrics import PerQuery
from lvm.evaluation.predictions import read_predictions
from lvm.evaluation.words import in_words
from lvm.gates import success_gates
from lvm.models.ladder import fit_ladder
from lvm.records import GateResult, StopReason, Verdict, to_plain
from lvm.triage.arm import ArmSpec, arm_id, dev_file
from lvm.triage.confirm import FullTraining, judge_one, settle
from lvm.triage.inspect import inspect_model
from lvm.triage.journal import Journal
from lvm.triage.judge import (
    REACHED_ITS_END,
    ArmResult,
    Confirmation,
    decisive,
    dev_evaluation,
    judge_gains,
    judge_stage,
    judge_step,
    not_judged,
    training_of,
)
from lvm.triage.race import Executor, Note, Race
from lvm.triage.rungs import rung_epochs
from lvm.triage.step import Arm, Facts, Proposal, Role, Step
from lvm.triage.tree import (
    COMBINATION,
    Action,
    Confirm,
    ConfirmOutcome,
    Outcome,
    Phase1Outcome,
    RunPhase1,
    RunStep,
    Settle,
    SettledOutcome,
    StepOutcome,
    Stop,
    TrainedOutcome,
    next_action,
)

AR_ONLY = "AR-only"
PHASE1 = "phase_1"
CONTROL = "control"


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
    all_steps: bool = False  # measure every step, though an earlier one passed
    extended: Sequence[Step] = ()  # steps that ask the open questions, after the others
    from_bank: bool = True  # windows are cut from the bank, and can be cut to another length


class Triage:
    """One run: the tree's actions carried out by an executor and written to the journal."""

    def __init__(
        self, request: Request, dataset: Dataset, executor: Executor, journal: Journal, note: Note
    ) -> None:
        self.request, self.dataset, self.executor = request, dataset, executor
        self.journal, self._note = journal, note
        self.base = request.config.recipe
        self._gain_p_values: list[float] = []  # on dev, of the steps so far
        self._confirm_p_values: list[float] = []
        self._trained: list[FullTraining] = []
        self._reasons: dict[str, StopReason] = {}  # arm -> why it ended
        self._cuts: dict[int, Dataset | str] = {}  # T -> windows of T, or why none
        self._proposals: dict[str, dict[str, Arm]] = {}
        self._phase1: dict[str, ArmSpec] = {}
        self._budget = self.base.training.epochs

    def run(self) -> Stop:
        """Walk the tree to its end."""
        self._measure_ladder()
        plan = [step.name for step in self.request.steps]
        history: list[Outcome] = []
        while True:
            action = next_action(
                plan, history, independent=self.request.independent,
                all_steps=self.request.all_steps,
                extended=[step.name for step in self.request.extended],
            )  # fmt: skip
            if not isinstance(action, Settle):  # it decides nothing and is told by its result
                self._once("decision", ("number",), number=len(history), **_describe(action))
            if isinstance(action, Stop):
                return action
            history.append(self._perform(action))
            if isinstance(action, RunPhase1):
                plan = self._routed(plan)

    def _perform(self, action: Action) -> Outcome:
        match action:
            case RunPhase1():
                return self._run_phase1()
            case RunStep():
                return self._run_step(action)
            case Confirm():
                return self._confirm(action)
            case Settle():
                return self._settle()
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
            self._judge_dev(results[spec.id])
        verdict, gates = self._judge_phase1(specs, results, base_name)
        self._once("phase_1_judged", (), verdict=verdict, gates=gates, baseline=AR_ONLY)
        return Phase1Outcome(verdict=verdict)

    def _judge_phase1(
        self, specs: Mapping[str, ArmSpec], results: Mapping[str, ArmResult], base_name: str
    ) -> tuple[Verdict, list[GateResult]]:
        for name, spec in specs.items():
            reason = results[spec.id].reason
            if reason not in REACHED_ITS_END:
                why = f"{name} {reason}: {results[spec.id].lane.detail}"
                return Verdict.NOT_EVALUABLE, [not_judged(why)]
            self._note_test(spec)
        if self.request.predictions is not None:
            judged = self._judge_predictions(self.request.predictions)
        else:
            judged = _test_results(specs[base_name])
        baseline = _test_results(specs[AR_ONLY])
        return success_gates(judged, baseline, self.request.config.gates, self.base.seed)

    def _judge_predictions(self, path: Path) -> PerQuery:
        """Judge a plain file of predictions, one row per test window, in the raw space."""
        rows = read_predictions(path, len(self.dataset.test), self.dataset.bank.width)
        evaluation, per_query = evaluate(
            rows, self.dataset.test, self.dataset.bank, space="raw", split="test"
        )
        name, bank = objective_name(self.base), self.dataset.bank
        view = View("raw", rows, bank.tensor[: len(bank.pool_rows)], per_query)
        evidence = in_words(gather(view, self.dataset, seed=self.base.seed), bank)
        self._once(
            "test_judged", ("arm",), arm="predictions", step=PHASE1, name=f"{name} (predictions)",
            role=Role.PHASE1, evaluation=evaluation, ann={}, epochs=0, evidence=evidence,
        )  # fmt: skip
        return per_query

    def _routed(self, plan: list[str]) -> list[str]:
        """Return the order of the steps that the findings on the phase-1 model give."""
        spec = self._phase1.get(objective_name(self.base))
        if self.request.checkpoint is not None or spec is None:
            return plan  # the model was there before phase 1, and the audit has looked at it
        checkpoint = spec.folder / "checkpoint"
        judged = self.journal.find("arm_judged", arm=spec.id, step=PHASE1)
        if judged is None or not checkpoint.exists() or judged["reason"] not in REACHED_ITS_END:
            return plan
        if self.journal.find("inspected", arm=spec.id) is None:
            rungs = (self.journal.find("ladder", split="dev") or {"rows": {}})["rows"]
            found = inspect_model(
                checkpoint, self.dataset, spec.recipe, self.request.config.gates,
                model=(judged["evaluation"] or {}).get("masked"),
                ladder={name: row["masked"] for name, row in rungs.items()},
            )  # fmt: skip
            self._note("inspected", arm=spec.id, name=spec.name, **found)
        seen = self.journal.find("inspected", arm=spec.id) or {"order": []}
        numbered = {str(step.number): step.name for step in self.request.steps}
        first = [numbered[n] for n in seen["order"] if n in numbered]
        return [*first, *(name for name in plan if name not in first)]

    # --- a step ----------------------------------------------------------------------------------

    def _run_step(self, action: RunStep) -> StepOutcome:
        asked = (*self.request.steps, *self.request.extended)
        step = next(s for s in asked if s.name == action.step)
        schedule = self.request.config.schedule
        epochs = step.epochs(schedule)
        base = self._carried_recipe(action.carried)
        budgeted = base.with_changes({"training.epochs": epochs})
        facts = Facts(
            num_train_windows=len(self.dataset.train), width=self.dataset.bank.width,
            why_not_cut=self._why_not_cut,
        )  # fmt: skip
        proposal = step.propose(budgeted, facts)
        dataset = self._cut_for(proposal.arms)
        self._proposals[step.name] = {arm.name: arm for arm in proposal.arms}
        specs = self._step_specs(
            step, proposal, base, budgeted, dataset, carried=bool(action.carried)
        )
        self._begin(
            step.name, specs, title=step.title, epochs=epochs, left_out=proposal.left_out,
            question=step.question, hypothesis=step.hypothesis, rules_out=step.rules_out,
            number=step.number, carried=[list(pair) for pair in action.carried],
            extended=step.extended,
        )  # fmt: skip
        if not proposal.arms:
            return self._end_step(step.name, Verdict.NOT_EVALUABLE, None, None, [])
        results = self._race(step.name, specs, epochs, dataset=dataset, to_the_end=step.extended)
        return self._judge_step(step, budgeted, list(results.values()))

    def _why_not_cut(self, context_length: int) -> str:
        """Return why the data has no windows of this length, or an empty text."""
        if not self.request.from_bank:
            return (
                "the windows were given as they are and cannot be cut to another length; embed the "
                "text and give --data BANK"
            )
        if context_length not in self._cuts:
            try:
                self._cuts[context_length] = recut(self.dataset, context_length)
            except DataError as error:
                self._cuts[context_length] = str(error)
        found = self._cuts[context_length]
        return found if isinstance(found, str) else ""

    def _cut_for(self, arms: Sequence[Arm]) -> Dataset:
        """Return the windows of the longest context that an arm reads: every arm has its end."""
        lengths = [int(str(arm.changes.get("context_length", 0))) for arm in arms]
        longest = max([self.base.context_length, *lengths])
        if not any(lengths) or longest == self.base.context_length:
            return self.dataset
        found = self._cuts[longest]
        return found if isinstance(found, Dataset) else self.dataset

    def _step_specs(
        self, step: Step, proposal: Proposal, base: Recipe, budgeted: Recipe, dataset: Dataset, *,
        carried: bool,
    ) -> list[ArmSpec]:  # fmt: skip
        """Return the specs of a step: the control first, unless no arm trains."""
        trained_model = self._phase1.get(objective_name(self.base))
        specs: list[ArmSpec] = []
        for arm in proposal.arms:
            source = None
            if not arm.trains and not carried and trained_model is not None:
                source = trained_model.source or trained_model.folder / "checkpoint"
            recipe = (base if source else budgeted).with_changes(arm.changes)
            specs.append(
                self._spec(
                    step.name, arm.name, Role.ARM, recipe, source=source, changes=arm,
                    dataset=dataset,
                )
            )  # fmt: skip
        if any(spec.source is None for spec in specs):
            unchanged = Arm(name=CONTROL, changes=proposal.control, why="")
            recipe = budgeted.with_changes(proposal.control)
            control = self._spec(
                step.name, CONTROL, Role.CONTROL, recipe, changes=unchanged, dataset=dataset
            )
            specs.insert(0, control)
        return specs

    def _judge_step(self, step: Step, base: Recipe, results: list[ArmResult]) -> StepOutcome:
        control = next((r for r in results if r.spec.role is Role.CONTROL), None)
        arms = [r for r in results if r.spec.role is Role.ARM]
        if control is not None:
            self._judge_dev(control)
        controls = {r.spec.id: self._control_of(r, control) for r in arms}
        gains = judge_gains(
            arms, controls, self.request.config.gates, self.base.seed,
            () if step.extended else self._gain_p_values,
        )  # fmt: skip
        if not step.extended:  # those carry nothing, and are a family of their own
            tested = [g.p_value for found in gains.values() for g in decisive(found)]
            self._gain_p_values += [p for p in tested if p is not None]
        stages = {r.spec.id: self._judge_dev(r, gains.get(r.spec.id, ())).verdict for r in arms}
        judged = judge_step(arms, stages, gains)
        if step.extended:  # a question, not a remedy: what beats its control is said by its gains
            return self._end_step(step.name, judged.stage, None, None, judged.conflicts)
        kept, changes, gain = judged.kept, frozenset[str](), 0.0
        if kept is not None:
            asked = kept.spec.changes
            changes = frozenset(k for k, v in asked.items() if base.with_changes({k: v}) != base)
            found = [g.estimate for g in gains[kept.spec.id] if g.metric == "mrr"]
            gain = next((estimate.value for estimate in found if estimate is not None), 0.0)
        return self._end_step(
            step.name,
            judged.stage,
            judged.candidate.spec.name if judged.candidate else None,
            kept.spec.name if kept else None,
            judged.conflicts,
            gain=gain,
            changes=changes,
        )

    def _end_step(
        self, step: str, stage: Verdict, candidate: str | None, carried: str | None,
        conflicts: Sequence[str], *, gain: float = 0.0, changes: frozenset[str] = frozenset(),
    ) -> StepOutcome:  # fmt: skip
        self._once(
            "step_ended", ("step",), step=step, stage=stage, candidate=candidate, kept=carried,
            conflicts=conflicts,
        )  # fmt: skip
        return StepOutcome(
            step=step, stage=stage, candidate=candidate, carried=carried, gain=gain,
            changes=changes,
        )  # fmt: skip

    def _control_of(self, result: ArmResult, control: ArmResult | None) -> PerQuery | None:
        """Return the control's dev results at the arm's own epoch: the same budget, or nothing."""
        if result.dev is None:
            return None
        if result.spec.source is not None:  # searched another way: against the same trained model
            spec = self._phase1[objective_name(self.base)]
            path = dev_file(spec.folder, 0 if spec.source else self._budget)
        elif control is None:
            return None
        else:
            path = dev_file(control.spec.folder, result.epoch)
        return PerQuery.load(path) if path.exists() else None

    # --- confirmation ----------------------------------------------------------------------------

    def _confirm(self, action: Confirm) -> Outcome:
        trained = self._train_in_full(action)
        self._trained.append(trained)
        if self.request.all_steps:
            return TrainedOutcome(step=trained.step, arm=trained.arm)
        judged = judge_one(
            trained, self._ar_only_test(), self.request.config.gates, self.base.seed,
            others=self._confirm_p_values,
        )  # fmt: skip
        tested = [*judged.gates, *(judged.control_gates if trained.trained_control else ())]
        self._confirm_p_values += [
            g.p_value for g in tested if g.gate == "success" and g.p_value is not None
        ]
        return self._note_confirmed(trained, judged)

    def _train_in_full(self, action: Confirm) -> FullTraining:
        """Train one arm at the full budget, and the unchanged recipe where phase 1 did not."""
        base = self._carried_recipe(action.carried)
        if action.arm is None:
            name, recipe, trains = "carried recipe", base, True
            if action.step == COMBINATION:
                name = " + ".join(arm for _, arm in action.carried)
        else:
            arm = self._proposals[action.step][action.arm]
            name, trains = arm.name, arm.trains or bool(action.carried)
            recipe = base.with_changes(arm.changes)
        step = f"confirm_{action.step}"
        if action.arm is None and action.step != COMBINATION:
            step = "confirm_carried"
        trained = self._phase1.get(objective_name(self.base))
        source = None
        if not trains and trained is not None:
            source = trained.source or trained.folder / "checkpoint"
        workers = 1 if source else self.request.config.schedule.confirm_workers
        spec = self._spec(
            step, name, Role.CONFIRM, recipe, source=source, test=True, workers=workers
        )
        control, specs = trained, [spec]
        if source is None and (trained is None or trained.source is not None):
            control = self._spec(step, CONTROL, Role.CONTROL, self.base, test=True, workers=workers)
            specs.append(control)
        self._begin(step, specs, title=f"Confirm: {name}", epochs=self._budget)
        results = self._race(step, specs, self._budget)
        for result in results.values():
            self._judge_dev(result)
            if result.reason in REACHED_ITS_END:
                self._note_test(result.spec)
        assert control is not None  # given, or trained just now
        return FullTraining(
            step=action.step,
            arm=action.arm or self._carried_arm(action, name),
            result=results[spec.id],
            control=control,
            control_reason=self._reasons[control.id],
            trained_control=control in specs,
        )

    def _carried_arm(self, action: Confirm, name: str) -> str:
        return next((arm for step, arm in action.carried if step == action.step), name)

    def _ar_only_test(self) -> PerQuery | None:
        spec = self._phase1[AR_ONLY]
        path = spec.folder / "test.npz"
        return PerQuery.load(path) if self._reasons[spec.id] in REACHED_ITS_END else None

    def _note_confirmed(self, trained: FullTraining, judged: Confirmation) -> ConfirmOutcome:
        spec = trained.result.spec
        self._once(
            "confirmed", ("spec",), step=trained.step, arm=trained.arm, verdict=judged.verdict,
            gates=judged.gates, spec=spec.id, run_as=spec.step, success=judged.success,
            attribution=judged.attribution, over_control=judged.over_control,
            control={
                "spec": trained.control.id, "name": trained.control.name,
                "reason": trained.control_reason, "verdict": judged.control,
                "gates": judged.control_gates,
            },
        )  # fmt: skip
        return ConfirmOutcome(
            step=trained.step, arm=trained.arm, verdict=judged.success, control=judged.control,
            over_control=judged.over_control, value=trained.mrr,
        )  # fmt: skip

    def _settle(self) -> SettledOutcome:
        """Judge all full trainings together, and what the combination adds to the best of them."""
        settled = settle(
            self._trained, self._ar_only_test(), self.request.config.gates, self.base.seed
        )
        outcomes = [
            self._note_confirmed(trained, judged)
            for trained, judged in zip(self._trained, settled.judged, strict=True)
        ]
        best = settled.best
        self._once(
            "settled", (), best=None if best is None else [best.step, best.arm],
            comparisons=settled.comparisons, adds=settled.adds,
        )  # fmt: skip
        return SettledOutcome(confirmed=tuple(outcomes))

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
        dataset: Dataset | None = None,
    ) -> ArmSpec:  # fmt: skip
        schedule = self.request.config.schedule
        workers = workers or (1 if source else schedule.workers_per_arm)
        identity = arm_id(
            recipe, data=(dataset or self.dataset).fingerprint, code=self.request.code,
            workers=workers, source=str(source or ""),
        )  # fmt: skip
        ar_only = self._phase1.get(AR_ONLY)
        if dataset is not None and dataset is not self.dataset:
            ar_only = None  # it was judged on other windows
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

    def _race(
        self, step: str, specs: Sequence[ArmSpec], budget: int, *,
        dataset: Dataset | None = None, to_the_end: bool = False,
    ) -> dict[str, ArmResult]:  # fmt: skip
        """Run the arms that the journal does not hold already; return all of them.

        `to_the_end` leaves out the rungs: no arm is pruned, and none ends the step.
        """
        schedule = self.request.config.schedule
        epochs = rung_epochs(schedule.first_rung, budget, schedule.reduction_factor)
        if to_the_end or all(spec.role is not Role.ARM for spec in specs):
            epochs = [budget]
        race = Race(
            step, specs, self._note_progress, epochs=epochs, factor=schedule.reduction_factor
        )
        self._replay(race)
        if race.waiting:
            self.executor.run(race, self.dataset if dataset is None else dataset)
        results = {}
        for arm, lane in race.lanes.items():
            path = dev_file(lane.spec.folder, lane.ending.epoch) if lane.ending else None
            dev = PerQuery.load(path) if path is not None and path.exists() else None
            results[arm] = ArmResult(lane=lane, dev=dev)
            # An arm that finished once has its model, however it ends in a step that it serves.
            if self._reasons.get(arm) not in REACHED_ITS_END:
                self._reasons[arm] = results[arm].reason
        return results

    def _replay(self, race: Race) -> None:
        """Feed a race what the journal knows of its arms, from this step or an earlier one."""
        final = {StopReason.DIVERGED, StopReason.NOT_EVALUABLE}
        if self.journal.find("step_ended", step=race.step) is not None:
            final.add(StopReason.CRASHED)  # judged already; before that a crash is tried again
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

    def _judge_dev(self, result: ArmResult, gains: Sequence[GateResult] = ()) -> GateResult:
        """Judge the stage gate of an arm on dev and write down all that was measured."""
        spec, gate = result.spec, judge_stage(result, self.base.seed)
        self._once(
            "arm_judged", ("arm", "step"), arm=spec.id, step=spec.step, name=spec.name,
            role=spec.role, reason=result.reason, detail=result.lane.detail, epoch=result.epoch,
            epochs_run=max(result.lane.records, default=0),
            train_seconds=round(result.lane.train_seconds, 3),
            evaluation=dev_evaluation(result.dev), stage=gate, gains=list(gains),
            findings=training_findings(training_of(result)),
        )  # fmt: skip
        return gate

    def _note_test(self, spec: ArmSpec) -> None:
        stored = json.loads((spec.folder / "test.json").read_text())
        if "evidence" in stored:
            stored["evidence"] = in_words(stored["evidence"], self.dataset.bank)
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
            "steps": sorted(step.name for step in request.steps),
            "checkpoint": str(request.checkpoint or ""),
            "predictions": str(request.predictions or ""),
            "independent": request.independent,
            "all_steps": request.all_steps,
            "extended": sorted(step.name for step in request.extended),
        }
    )


def _describe(action: Action) -> dict[str, Any]:
    return {"action": type(action).__name__, **to_plain(vars(action))}


def _test_results(spec: ArmSpec) -> PerQuery:
    return PerQuery.load(spec.folder / "test.npz")
