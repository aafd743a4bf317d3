"""Arms that a step proposes while it runs: round after round, from what the earlier ones reached.

    first arms --race--> what they reached --propose--> the next round --race--> ... --> all arms

A round is written to the journal before it is raced. A resumed run races the rounds that it finds
there, and proposes only those that come after them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from lvm.core.config.recipe import Recipe
from lvm.core.metrics import METRICS
from lvm.core.records import StopReason
from lvm.data.windows import Dataset
from lvm.triage.arm import ArmSpec
from lvm.triage.events import ArmsAdded, Epoch, event_of
from lvm.triage.judge import ArmResult
from lvm.triage.race import Terms, rung_metric
from lvm.triage.reaching import reachable
from lvm.triage.runner import Runner
from lvm.triage.spent import OUT_OF_TIME
from lvm.triage.step import Arm, Facts, Later, Proposal, Role, Step, Tried


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """The rounds of one step."""

    runner: Runner
    step: Step
    recipe: Recipe  # which the arms change, with the budget of the step
    facts: Facts
    dataset: Dataset
    terms: Terms
    specs_of: Callable[[Proposal], list[ArmSpec]]

    def race(self, later: Later, first: Mapping[str, ArmResult]) -> dict[str, ArmResult]:
        """Race every round after the first; return the results of all arms."""
        results, number = dict(first), 1
        while not any(_out_of_time(result) for result in results.values()):
            number += 1
            proposal = self._proposed(later, number, list(results.values()))
            specs = [s for s in self.specs_of(proposal) if s.id not in results]
            if not specs:
                break
            self.runner.proposals[self.step.name] |= {arm.name: arm for arm in proposal.arms}
            self._write(number, specs, proposal)
            results |= self.runner.race(
                self.step.name,
                specs,
                self.recipe.training.epochs,
                dataset=self.dataset,
                terms=replace(self.terms, round=number),
            )
        return results

    def _proposed(self, later: Later, number: int, results: Sequence[ArmResult]) -> Proposal:
        """Return a round: the journal's, if an earlier process has written it there."""
        written = self.runner.journal.events.last(ArmsAdded, step=self.step.name, round=number)
        if written is not None:
            arms = [Arm(name=a.name, changes=a.changes, why=a.why) for a in written.arms]
            return Proposal(arms=arms, left_out=written.left_out)
        tried = [self._tried(result, self._metric(results)) for result in results if _drawn(result)]
        return reachable(self.recipe, later.propose(self.recipe, self.facts, tried))

    def _metric(self, results: Sequence[ArmResult]) -> str:
        specs = [result.spec for result in results if _drawn(result)]
        return rung_metric(specs, self.runner.request.config.schedule, self.terms.metric)

    def _tried(self, result: ArmResult, metric: str) -> Tried:
        sign = 1.0 if METRICS.get(metric).higher_is_better else -1.0
        epochs = self.runner.journal.events.of(Epoch, arm=result.spec.id)
        return Tried(
            changes=result.spec.changes,
            values={
                e.epoch: sign * value
                for e in epochs
                if e.epoch <= result.epoch and (value := e.measured(metric)) is not None
            },
            finished=result.reason is StopReason.FINISHED,
        )

    def _write(self, number: int, specs: Sequence[ArmSpec], proposal: Proposal) -> None:
        out = self.runner.request.out.absolute()
        added = event_of(
            ArmsAdded,
            step=self.step.name,
            round=number,
            arms=[spec.in_journal(out) for spec in specs],
            left_out=proposal.left_out,
        )
        self.runner.once(added, "step", "round")


def _drawn(result: ArmResult) -> bool:
    return result.spec.role is Role.ARM


def _out_of_time(result: ArmResult) -> bool:
    return result.reason is StopReason.CANCELLED and result.lane.detail == OUT_OF_TIME
