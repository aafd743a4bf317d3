"""Full trainings: an arm at the full budget, and the unchanged recipe as its control."""

from __future__ import annotations

from dataclasses import dataclass

from lvm.core.records import Absence, StopReason
from lvm.evaluation.metrics import PerQuery
from lvm.triage.actions import COMBINATION, Confirm
from lvm.triage.arm import ArmSpec
from lvm.triage.judge import REACHED_ITS_END, ArmResult, absent_arms
from lvm.triage.runner import CONTROL, Runner
from lvm.triage.step import Role


@dataclass(frozen=True, kw_only=True)
class FullTraining:
    """One arm at the full budget, and the unchanged recipe at the same."""

    step: str
    arm: str
    result: ArmResult
    test: PerQuery | None  # the arm's results on the test split, if it reached its end
    control: ArmSpec
    control_reason: StopReason
    control_test: PerQuery | None  # those of the unchanged recipe
    trained_control: bool  # for this confirmation; else it is the model of phase 1
    absent: tuple[Absence, ...] = ()  # of the two that were trained

    @property
    def mrr(self) -> float:
        """Test MRR, or -1 without results."""
        return -1.0 if self.test is None else float(self.test.reciprocal_rank.mean())


def train_in_full(runner: Runner, action: Confirm) -> FullTraining:
    """Train one arm at the full budget, and the unchanged recipe where phase 1 has none."""
    base = runner.carried_recipe(action.carried)
    if action.arm is None:
        name, recipe, trains = "carried recipe", base, True
        if action.step == COMBINATION:
            name = " + ".join(arm for _, arm in action.carried)
    else:
        arm = runner.proposals[action.step][action.arm]
        name, trains = arm.name, arm.trains or bool(action.carried)
        recipe = base.with_changes(arm.changes)
    step = f"confirm_{action.step}"
    if action.arm is None and action.step != COMBINATION:
        step = "confirm_carried"
    trained, source = runner.base_model, None
    if not trains and trained is not None:
        source = trained.source or trained.folder / "checkpoint"
    workers = 1 if source else runner.request.config.schedule.confirm_workers
    spec = runner.spec(step, name, Role.CONFIRM, recipe, source=source, test=True, workers=workers)
    control, specs = trained, [spec]
    if source is None and not _is_control(runner, trained):
        control = runner.spec(step, CONTROL, Role.CONTROL, runner.base, test=True, workers=workers)
        specs.append(control)
    runner.begin(step, specs, title=f"Confirm: {name}", epochs=runner.budget)
    results = runner.race(step, specs, runner.budget)
    for result in results.values():
        runner.judge_dev(result)
        if result.reason in REACHED_ITS_END:
            runner.note_test(result.spec)
    assert control is not None  # given, or trained just now
    carried_arm = next((arm for step, arm in action.carried if step == action.step), name)
    return FullTraining(
        step=action.step,
        arm=action.arm or carried_arm,
        result=results[spec.id],
        test=runner.test_results(spec),
        control=control,
        control_reason=runner.reason(control),
        control_test=runner.test_results(control),
        trained_control=control in specs,
        absent=absent_arms(results.values()),
    )


def _is_control(runner: Runner, trained: ArmSpec | None) -> bool:
    """Whether phase 1 trained the unchanged recipe itself, and its model is there."""
    if trained is None or trained.source is not None:
        return False
    return runner.came_to_its_end(trained)
