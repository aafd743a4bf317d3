"""A question of the tree: the arms of one step, raced, judged and compared with their control."""

from __future__ import annotations

from collections.abc import Sequence

from lvm.core.config.recipe import Recipe
from lvm.core.errors import DataError
from lvm.core.records import Absence, Verdict
from lvm.data.windows import Dataset, recut
from lvm.evaluation.metrics import PerQuery
from lvm.triage.actions import RunStep, StepOutcome
from lvm.triage.against_ladder import rungs_on
from lvm.triage.arm import ArmSpec, dev_file
from lvm.triage.events import StepEnded
from lvm.triage.judge import ArmResult, absent_arms, is_copy, judge_gains, judge_step
from lvm.triage.race import Terms
from lvm.triage.reaching import propose_reachable
from lvm.triage.rounds import Rounds
from lvm.triage.runner import CONTROL, Runner
from lvm.triage.step import Arm, Facts, Proposal, Role, Step


class Questions:
    """Asks the steps of one run."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._cuts: dict[int, Dataset | str] = {}  # T -> windows of T, or why none

    def ask(self, action: RunStep) -> StepOutcome:
        """Race the arms of a step against their control and judge them."""
        asked = (*self._runner.request.steps, *self._runner.request.extended)
        step = next(s for s in asked if s.name == action.step)
        schedule = self._runner.request.config.schedule
        epochs = step.epochs(schedule)
        base = self._runner.carried_recipe(action.carried)
        budgeted = base.with_changes({"training.epochs": epochs})
        whole = self._runner.dataset
        facts = Facts(
            num_train_windows=len(whole.train),
            width=whole.bank.width,
            why_not_cut=self._why_not_cut,
        )
        proposal = propose_reachable(step, budgeted, facts)
        dataset = self._cut_for(proposal.arms)
        self._runner.proposals[step.name] = {arm.name: arm for arm in proposal.arms}
        specs = self._step_specs(
            step, proposal, base, budgeted, dataset, carried=bool(action.carried)
        )
        self._runner.begin(
            step.name,
            specs,
            title=step.title,
            epochs=epochs,
            left_out=proposal.left_out,
            question=step.question,
            hypothesis=step.hypothesis,
            rules_out=step.rules_out,
            number=step.number,
            carried=[list(pair) for pair in action.carried],
            reported=step.reported,
            extended=step.extended,
        )
        if not proposal.arms:
            return self._end_step(step.name, Verdict.NOT_EVALUABLE, None, None, [])
        terms = _terms(step)
        results = self._runner.race(step.name, specs, epochs, dataset=dataset, terms=terms)
        if step.later is not None:
            rounds = Rounds(
                runner=self._runner,
                step=step,
                recipe=budgeted,
                facts=facts,
                dataset=dataset,
                terms=terms,
                specs_of=lambda more: self._arm_specs(
                    step, more, base, budgeted, dataset, carried=bool(action.carried)
                ),
            )
            results = rounds.race(step.later, results)
        return self._judge_step(step, budgeted, list(results.values()))

    def _why_not_cut(self, context_length: int) -> str:
        """Return why the data has no windows of this length, or an empty text."""
        if not self._runner.request.from_bank:
            return (
                "the given windows cannot be cut to another length; embed the text and give "
                "--data BANK"
            )
        if context_length not in self._cuts:
            try:
                self._cuts[context_length] = recut(self._runner.dataset, context_length)
            except DataError as error:
                self._cuts[context_length] = str(error)
        found = self._cuts[context_length]
        return found if isinstance(found, str) else ""

    def _cut_for(self, arms: Sequence[Arm]) -> Dataset:
        """Return the windows of the longest context that an arm reads: every arm has its end."""
        lengths = [int(str(arm.changes.get("context_length", 0))) for arm in arms]
        longest = max([self._runner.base.context_length, *lengths])
        if not any(lengths) or longest == self._runner.base.context_length:
            return self._runner.dataset
        found = self._cuts[longest]
        return found if isinstance(found, Dataset) else self._runner.dataset

    def _step_specs(
        self,
        step: Step,
        proposal: Proposal,
        base: Recipe,
        budgeted: Recipe,
        dataset: Dataset,
        *,
        carried: bool,
    ) -> list[ArmSpec]:
        """Return the specs of a step: the control first, unless no arm trains."""
        specs = self._arm_specs(step, proposal, base, budgeted, dataset, carried=carried)
        if any(spec.source is None for spec in specs):
            unchanged = Arm(name=CONTROL, changes=proposal.control, why="")
            recipe = budgeted.with_changes(proposal.control)
            control = self._runner.spec(
                step.name, CONTROL, Role.CONTROL, recipe, changes=unchanged, dataset=dataset
            )
            specs.insert(0, control)
        return specs

    def _arm_specs(
        self,
        step: Step,
        proposal: Proposal,
        base: Recipe,
        budgeted: Recipe,
        dataset: Dataset,
        *,
        carried: bool,
    ) -> list[ArmSpec]:
        trained_model = self._runner.base_model
        specs: list[ArmSpec] = []
        for arm in proposal.arms:
            source = None
            if not arm.trains and not carried and trained_model is not None:
                source = trained_model.source or trained_model.folder / "checkpoint"
            recipe = (base if source else budgeted).with_changes(arm.changes)
            specs.append(
                self._runner.spec(
                    step.name,
                    arm.name,
                    Role.ARM,
                    recipe,
                    source=source,
                    changes=arm,
                    dataset=dataset,
                )
            )
        return specs

    def _judge_step(self, step: Step, base: Recipe, results: list[ArmResult]) -> StepOutcome:
        control = next((r for r in results if r.spec.role is Role.CONTROL), None)
        arms = [r for r in results if r.spec.role is Role.ARM]
        if control is not None:
            self._runner.judge_dev(control)
        controls = {r.spec.id: self._control_of(r, control) for r in arms}
        copies = {r.spec.id for r in arms if is_copy(r, controls[r.spec.id])}
        gains = judge_gains(
            [r for r in arms if r.spec.id not in copies],
            controls,
            self._runner.gates,
            self._runner.base.seed,
            # Open questions carry nothing, and are a family each.
            looks=1 if step.extended else len(self._runner.request.steps),
            split_share=self._runner.split_share("dev"),
        )
        stages = {
            r.spec.id: self._runner.judge_dev(
                r, gains.get(r.spec.id, ()), copy=r.spec.id in copies
            ).verdict
            for r in arms
        }
        judged, absent = (
            judge_step(arms, stages, gains, rungs_on(self._runner, "dev")),
            absent_arms(results),
        )
        if step.extended:  # a question, not a remedy: its gains show what beats the control
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
            absent=absent,
        )

    def _end_step(
        self,
        step: str,
        stage: Verdict,
        candidate: str | None,
        carried: str | None,
        conflicts: Sequence[str],
        *,
        gain: float = 0.0,
        changes: frozenset[str] = frozenset(),
        absent: tuple[Absence, ...] = (),
    ) -> StepOutcome:
        ended = StepEnded(
            step=step,
            stage=stage,
            candidate=candidate,
            kept=carried,
            conflicts=list(conflicts),
        )
        self._runner.once(ended, "step")
        return StepOutcome(
            step=step,
            stage=stage,
            candidate=candidate,
            carried=carried,
            gain=gain,
            changes=changes,
            absent=absent,
        )

    def _control_of(self, result: ArmResult, control: ArmResult | None) -> PerQuery | None:
        """Return the control's dev results at the arm's own epoch: the same budget, or nothing."""
        if result.dev is None:
            return None
        if result.spec.source is not None:  # searched another way: against the same trained model
            spec = self._runner.base_model
            assert spec is not None  # it was searched
            path = dev_file(spec.folder, 0 if spec.source else self._runner.budget)
        elif control is None:
            return None
        else:
            path = dev_file(control.spec.folder, result.epoch)
        return PerQuery.load(path) if path.exists() else None


def _terms(step: Step) -> Terms:
    """Return how the arms of a step are raced: those of an open question all go to their end."""
    return Terms(
        metric=step.metric,
        rungs=not step.extended,
        ends_at_gate=not step.seeks_the_best,
        seconds=60 * step.minutes,
    )
