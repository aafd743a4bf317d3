"""Arms carried through an executor: what each action of the tree does with its arms."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lvm.audit.training import training_findings
from lvm.core.config.recipe import Recipe
from lvm.core.parts import TERMS
from lvm.core.provenance import checkpoint_digest
from lvm.core.records import ABSENT, GateResult, StopReason
from lvm.data.windows import Dataset
from lvm.evaluation.metrics import PerQuery
from lvm.evaluation.words import in_words
from lvm.triage.arm import ArmSpec, arm_id, dev_file
from lvm.triage.events import (
    ArmJudged,
    StepStarted,
    TestJudged,
    event_of,
)
from lvm.triage.journal import Journal
from lvm.triage.judge import (
    REACHED_ITS_END,
    ArmResult,
    dev_evaluation,
    judge_stage,
    not_judged,
    training_of,
)
from lvm.triage.pen import Pen
from lvm.triage.race import PLAIN, Executor, Lane, Note, Race, Terms, race_of
from lvm.triage.replay import BY_ITSELF, replay
from lvm.triage.request import Request
from lvm.triage.spent import seconds_of_race
from lvm.triage.step import Arm, Role

AR_ONLY = "AR-only"
CONTROL = "control"


class Runner:
    """Runs arms, keeps what they left, and writes every result once to the journal."""

    def __init__(
        self, request: Request, dataset: Dataset, executor: Executor, journal: Journal, note: Note
    ) -> None:
        self.request, self.dataset, self.journal, self.note = request, dataset, journal, note
        self._pen = Pen(journal, note)
        self.once = self._pen.once
        self._executor = executor
        self.base = request.config.recipe
        self.gates = request.config.gates
        self.budget = self.base.training.epochs
        self.phase1: dict[str, ArmSpec] = {}  # name -> AR-only, and the base recipe's model
        self.ar_only: ArmResult | None = None  # what phase 1 made of it
        self.proposals: dict[str, dict[str, Arm]] = {}  # step -> its arms by name
        self.unread = ""  # the given model, if it is unknown what it has read
        self._reasons: dict[str, StopReason] = {}  # arm -> why it ended

    # --- what is there ---------------------------------------------------------------------------

    @property
    def base_model(self) -> ArmSpec | None:
        """The base recipe's model of phase 1; None where predictions stood in for it."""
        return self.phase1.get(objective_name(self.base))

    @property
    def looks(self) -> int:
        """The most success gates of trained arms that this run can judge, known before it starts.

        One confirmation per step, one of what the steps keep together, and one of the unchanged
        recipe where phase 1 was handed its model and confirmations train it. It is one model,
        however many arms it is compared with.
        """
        request = self.request
        together = 0 if request.independent else 1
        handed_in = request.checkpoint is not None or request.predictions is not None
        return len(request.steps) + together + (1 if handed_in else 0)

    def split_share(self, split: str) -> float | None:
        """Return the share of the corpus's articles in a split; None where files fixed the split.

        Articles too short for one window count in neither.
        """
        if not self.request.from_bank:
            return None
        parts = {
            name: np.unique(getattr(self.dataset, name).articles)
            for name in ("train", "dev", "test")
        }
        total = sum(len(articles) for articles in parts.values())
        return len(parts[split]) / total if total else None

    def carried_recipe(self, carried: Sequence[tuple[str, str]]) -> Recipe:
        """Return the base recipe with the changes of carried (step, arm)."""
        recipe = self.base
        for step, arm in carried:
            recipe = recipe.with_changes(self.proposals[step][arm].changes)
        return recipe

    def reason(self, spec: ArmSpec) -> StopReason:
        """Return why an arm that was raced ended."""
        return self._reasons[spec.id]

    def came_to_its_end(self, spec: ArmSpec) -> bool:
        """Whether an arm that was raced has all of its training, or failed by what it is.

        An arm that phase 1 lacks may have run as far as a rung of a step that it serves.
        """
        return self.reason(spec) in (*REACHED_ITS_END, *BY_ITSELF)

    def test_results(self, spec: ArmSpec) -> PerQuery | None:
        """Return an arm's results on the test split, if it reached its end."""
        path = spec.folder / "test.npz"
        there = self.reason(spec) in REACHED_ITS_END and path.exists()
        return PerQuery.load(path) if there else None

    # --- a race ----------------------------------------------------------------------------------

    def spec(
        self,
        step: str,
        name: str,
        role: Role,
        recipe: Recipe,
        *,
        source: Path | None = None,
        test: bool = False,
        workers: int | None = None,
        changes: Arm | None = None,
        dataset: Dataset | None = None,
    ) -> ArmSpec:
        """Return what a trial needs to run one arm."""
        schedule = self.request.config.schedule
        workers = workers or (1 if source else schedule.workers_per_arm)
        workers = (
            1 if recipe.trainer is not None else workers
        )  # it is one process, as it is written
        identity = arm_id(
            recipe,
            data=(dataset or self.dataset).fingerprint,
            code=self.request.code,
            plugins=self.request.plugins,
            trainer=self.request.trainer,
            workers=workers,
            source=checkpoint_digest(source) if source else "",
        )
        ar_only = self.phase1.get(AR_ONLY)
        if dataset is not None and dataset is not self.dataset:
            ar_only = None  # it was judged on other windows
        return ArmSpec(
            id=identity,
            step=step,
            name=name,
            role=role,
            recipe=recipe,
            folder=(self.request.out / "arms" / identity).absolute(),
            gates=self.gates,
            source=source,
            baseline=dev_file(ar_only.folder, self.budget) if ar_only else None,
            evaluate_test=test,
            workers=workers,
            threads=schedule.threads_per_worker,
            device="cuda" if schedule.use_gpu else "cpu",
            commit=self.request.commit,
            why=changes.why if changes else "",
            changes=dict(changes.changes) if changes else {},
        )

    def begin(self, step: str, specs: Sequence[ArmSpec], **about: object) -> None:
        """Write down that a step starts, with its arms."""
        arms = [spec.in_journal(self.request.out.absolute()) for spec in specs]
        self.once(event_of(StepStarted, step=step, arms=arms, **about), "step")

    def race(
        self,
        step: str,
        specs: Sequence[ArmSpec],
        budget: int,
        *,
        dataset: Dataset | None = None,
        terms: Terms = PLAIN,
    ) -> dict[str, ArmResult]:
        """Run the arms that the journal does not hold already; return all of them by id."""
        race = race_of(
            step,
            specs,
            self._pen.progress,
            budget=budget,
            schedule=self.request.config.schedule,
            terms=terms,
        )
        replay(race, self.journal.events)
        self._end_without_model(race)
        race.start(seconds_of_race(self.journal.events, step))
        if race.waiting:
            self._executor.run(race, self.dataset if dataset is None else dataset)
        results = {}
        for arm, lane in race.lanes.items():
            results[arm] = ArmResult(lane=lane, dev=_dev_results(lane))
            # An arm that finished once has its model, however it ends in a step that it serves.
            if self._reasons.get(arm) not in REACHED_ITS_END:
                self._reasons[arm] = results[arm].reason
        return results

    def _end_without_model(self, race: Race) -> None:
        """End the arms that would search the base recipe's model, where that model is absent.

        Its folder may hold a checkpoint all the same, of a training that was cut short.
        """
        model = self.base_model
        if model is None or model.id not in self._reasons or self.came_to_its_end(model):
            return
        for spec in race.waiting:
            if spec.source == model.folder / "checkpoint":
                why = f"there is no model to search: phase 1 lacks {model.name}"
                race.failed(spec.id, StopReason.CRASHED, why)

    # --- the journal -----------------------------------------------------------------------------

    def judge_dev(
        self, result: ArmResult, gains: Sequence[GateResult] = (), *, copy: bool = False
    ) -> GateResult:
        """Judge the stage gate of an arm on dev and write down all that was measured.

        A `copy` of its control is not judged: a trainer of one's own ignored what the arm changes.
        """
        spec = result.spec
        gate = not_judged(copy_of(spec)) if copy else judge_stage(result, self.base.seed)
        judged = event_of(
            ArmJudged,
            arm=spec.id,
            step=spec.step,
            name=spec.name,
            role=spec.role,
            reason=result.reason,
            detail=result.lane.detail,
            epoch=result.epoch,
            epochs_run=max(result.lane.records, default=0),
            train_seconds=round(result.lane.train_seconds, 3),
            evaluation=dev_evaluation(result.dev),
            stage=gate,
            gains=list(gains),
            findings=[] if result.absent else training_findings(training_of(result)),
        )
        self.once(judged, "arm", "step")
        return gate

    def note_test(self, spec: ArmSpec) -> None:
        """Write down what an arm left of its look at the test split."""
        stored = json.loads((spec.folder / "test.json").read_text())
        if "evidence" in stored:
            stored["evidence"] = in_words(stored["evidence"], self.dataset.bank)
        judged = event_of(
            TestJudged,
            arm=spec.id,
            step=spec.step,
            name=spec.name,
            role=spec.role,
            epochs=0 if spec.source else spec.recipe.training.epochs,
            **stored,
        )
        self.once(judged, "arm")


def copy_of(spec: ArmSpec) -> str:
    """Return why an arm that predicts exactly what its control does is not judged."""
    keys = " and ".join(spec.changes)
    return f"it predicts exactly what the control does: the trainer ignores {keys}"


def _dev_results(lane: Lane) -> PerQuery | None:
    """Return what an arm measured on dev at the epoch that counts; nothing of an absent one."""
    if lane.ending is None or lane.ending.reason in ABSENT:
        return None
    path = dev_file(lane.spec.folder, lane.ending.epoch)
    return PerQuery.load(path) if path.exists() else None


def objective_name(recipe: Recipe) -> str:
    """Return the name of a recipe's objective as the report's table writes it."""
    names = [TERMS.get(name).title or name for name in recipe.objective.weights]
    return "AR-only recipe" if names == ["AR"] else "+".join(names)
