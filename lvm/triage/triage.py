"""The main path: ask the tree what to do, do it, write down what happened, until it says stop."""

from __future__ import annotations

import functools
from concurrent.futures import Future

from lvm.core.beside import beside, products_alone
from lvm.core.device import claim_if_there
from lvm.data.windows import Dataset
from lvm.evaluation.ladder import fit_ladder, judge_ladder
from lvm.evaluation.metrics import PerQuery
from lvm.triage.actions import Action, Confirm, Outcome, Repeat, RunPhase1, RunStep, Settle, Stop
from lvm.triage.against_ladder import compare_with_ladder, rung_file
from lvm.triage.confirm import Confirmations
from lvm.triage.events import Decision, Epoch, Event, Ladder, event_of
from lvm.triage.journal import Journal
from lvm.triage.order import Order
from lvm.triage.phase1 import run_phase1
from lvm.triage.question import Questions
from lvm.triage.race import Executor, Note
from lvm.triage.reopen import reopening
from lvm.triage.repeat import Repetitions
from lvm.triage.request import Request
from lvm.triage.runner import Runner
from lvm.triage.tidy import Tidier
from lvm.triage.tree import next_action


class Triage:
    """One run: the tree's actions carried out by an executor and written to the journal."""

    def __init__(
        self, request: Request, dataset: Dataset, executor: Executor, journal: Journal, note: Note
    ) -> None:
        self._request, self._executor = request, executor
        self._ladder: Future[None] | None = None
        self._note = note
        self._runner = Runner(request, dataset, executor, journal, self._noted)
        self._questions = Questions(self._runner)
        self._confirmations = Confirmations(self._runner)
        self._repetitions = Repetitions(self._runner)
        self._tidier = Tidier(request.out, request.config.schedule, note)

    def _noted(self, event: Event) -> None:
        """Note an event; with the first epoch all processes are up, and time for others."""
        self._note(event)
        if isinstance(event, Epoch) and self._ladder is None and self._beside:
            self._begin_ladder()

    @property
    def _beside(self) -> bool:
        """Whether the ladder is measured while arms train, which they do elsewhere."""
        return self._executor.elsewhere and on_cpu(self._request)

    def _begin_ladder(self) -> None:
        if self._ladder is None:
            self._ladder = beside(self._measure_alone, "ladder")

    def _measure_alone(self) -> None:
        with products_alone():
            measure_ladder(self._runner)

    def _ladder_measured(self) -> None:
        if self._beside:
            self._begin_ladder()
        if self._ladder is not None:
            self._ladder.result()

    def run(self) -> Stop:
        """Walk the tree to its end; a resumed run first tries again what was absent."""
        again = reopening(self._runner.journal.events)
        if again is not None:
            self._runner.note(again)
        if not self._beside:  # on a GPU before the arms, which need its room
            measure_ladder(self._runner)
        request, history = self._request, list[Outcome]()
        order = Order(self._runner, elsewhere=self._beside)
        while True:
            action = next_action(
                order.names,
                history,
                independent=request.independent,
                all_steps=request.all_steps,
                extended=[step.name for step in request.extended],
                more_seeds=request.more_seeds,
            )
            if isinstance(action, Stop):
                self._ladder_measured()
                compare_with_ladder(self._runner)
                self._tidier.at_the_end(self._runner.journal.events)
            if not isinstance(
                action, Settle
            ):  # not a decision; its result is recorded as `settled`
                self._runner.once(_decision(action, len(history)), "number")
            if isinstance(action, Stop):
                return action
            history.append(self._perform(action))
            order.settle()
            self._tidier.after(self._runner.journal.events)
            if isinstance(action, RunPhase1):
                self._ladder_measured()  # the models are compared with it
                order.after_phase1()

    def _perform(self, action: Action) -> Outcome:
        match action:
            case RunPhase1():
                return run_phase1(self._runner)
            case RunStep():
                return self._questions.ask(action)
            case Confirm():
                return self._confirmations.confirm(action)
            case Settle():
                return self._confirmations.settle()
            case Repeat():
                return self._repetitions.repeat(action, self._confirmations.judged)
        raise AssertionError(action)  # Stop never gets here


def on_cpu(request: Request) -> bool:
    """Whether this process computes on its CPU."""
    return claim_if_there(request.config.schedule.use_gpu).type == "cpu"


def measure_ladder(runner: Runner) -> None:
    """Measure every untrained predictor with the gates, on dev and on test."""
    if all(runner.journal.events.last(Ladder, split=split) for split in ("dev", "test")):
        return
    dataset = runner.dataset
    predictors = fit_ladder(dataset, seed=runner.base.seed)
    device = claim_if_there(runner.request.config.schedule.use_gpu)
    for split in ("dev", "test"):
        rows = judge_ladder(
            predictors,
            dataset,
            split,
            device,
            functools.partial(_kept, runner, split),
        )
        runner.once(event_of(Ladder, split=split, rows=rows), "split")
    dataset.bank.leave(device)  # the arms need the room


def _kept(runner: Runner, split: str, name: str, found: PerQuery) -> None:
    """Keep what models are compared with, window by window."""
    path = rung_file(runner.request.out, name, split)
    path.parent.mkdir(parents=True, exist_ok=True)
    found.save(path)


def _decision(action: Action, number: int) -> Decision:
    return event_of(Decision, action=type(action).__name__, number=number, **vars(action))
