"""The order in which the steps are asked, as the models of phase 1 change it."""

from __future__ import annotations

from concurrent.futures import Future

from lvm.core.beside import beside, products_alone
from lvm.triage.below_ladder import ask_whether_below, asked_first
from lvm.triage.events import ArmJudged, Inspected, Ladder
from lvm.triage.inspect import inspect_model
from lvm.triage.judge import REACHED_ITS_END
from lvm.triage.phase1 import PHASE1
from lvm.triage.runner import Runner


class Order:
    """The names of the steps, first to last.

    The findings on the base recipe's model order the steps. Where AR-only says which is asked first
    and arms train elsewhere, the model is looked at while that step is trained.
    """

    def __init__(self, runner: Runner, *, elsewhere: bool) -> None:
        self._runner, self._elsewhere = runner, elsewhere
        self._looking: Future[Inspected | None] | None = None
        self.names = [step.name for step in runner.request.steps]

    def after_phase1(self) -> None:
        """Let the models of phase 1 change the order."""
        runner = self._runner
        if runner.ar_only is not None and runner.ar_only.dev is not None:
            ask_whether_below(runner, runner.ar_only)
        if runner.request.reported_only or runner.request.order:
            return  # the report's literal order, or a person's
        head = asked_first(runner, self.names)
        if head and self._elsewhere:
            self._looking = beside(self._look_alone, "inspection")
            self.names = [*head, *(name for name in self.names if name not in head)]
        else:
            self._take(self._look(), head)

    def settle(self) -> None:
        """Take in the findings made while a step ran."""
        if self._looking is not None:
            found, self._looking = self._looking.result(), None
            self._take(found, asked_first(self._runner, self.names))

    def _look_alone(self) -> Inspected | None:
        with products_alone():
            return self._look()

    def _look(self) -> Inspected | None:
        """Return the findings on the base recipe's model; None without one, or where known."""
        runner, spec = self._runner, self._runner.base_model
        if runner.request.checkpoint is not None or spec is None:
            return None  # the model was there before phase 1, and the audit has looked at it
        checkpoint = spec.folder / "checkpoint"
        judged = runner.journal.events.last(ArmJudged, arm=spec.id, step=PHASE1)
        if judged is None or not checkpoint.exists() or judged.reason not in REACHED_ITS_END:
            return None
        if runner.journal.events.last(Inspected, arm=spec.id) is not None:
            return None
        ladder = runner.journal.events.last(Ladder, split="dev")
        rungs = ladder.rows if ladder is not None else {}
        return inspect_model(
            spec,
            runner.dataset,
            model=judged.evaluation.masked if judged.evaluation is not None else None,
            ladder={name: row.masked for name, row in rungs.items()},
            steps=runner.request.steps,
        )

    def _take(self, found: Inspected | None, head: list[str]) -> None:
        """Note the findings, then order the steps: fixed ones first, then those that the findings
        point to, then all.
        """
        runner = self._runner
        if found is not None:
            runner.note(found)
        spec = runner.base_model
        seen = None if spec is None else runner.journal.events.last(Inspected, arm=spec.id)
        numbered = {str(step.number): step.name for step in runner.request.steps}
        pointed = [numbered[n] for n in (seen.order if seen is not None else ()) if n in numbered]
        first = list(dict.fromkeys([*head, *pointed]))
        self.names = [*first, *(name for name in self.names if name not in first)]
