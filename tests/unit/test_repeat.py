"""Repeated seeds: what is trained again, what is compared, and that no verdict changes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import made
import numpy as np
import pytest
import tiny
from msgspec.structs import replace

from lvm.core.errors import UsageError
from lvm.core.records import RunVerdict, Verdict
from lvm.evaluation.metrics import PerQuery
from lvm.jobs.doors import triage_parser as parser
from lvm.triage.actions import (
    COMBINATION,
    Attribution,
    ConfirmOutcome,
    Phase1Outcome,
    Repeat,
    RepeatedOutcome,
    RunStep,
    StepOutcome,
    Stop,
)
from lvm.triage.events import ArmEnded, Confirmed, Epoch, Event, Repeated, StepStarted, TestJudged
from lvm.triage.events.evidence import Comparison, OfSeed, RepeatedModel
from lvm.triage.over_seeds import gain_over_seeds, level_over_seeds
from lvm.triage.repeat import behind_verdict
from lvm.triage.seeds import basis, over_seeds, rests_on_one_seed
from lvm.triage.summary import SeedsShown, Summary
from lvm.triage.tree import next_action
from lvm.triage.verdict import build_verdict
from lvm.views.report import Run
from lvm.views.report.tree import _as_text, _nodes
from lvm.views.status import status

PASS, FAIL = Verdict.PASS, Verdict.FAIL
FIXED_BY_ONE = [
    Phase1Outcome(verdict=FAIL),
    StepOutcome(step="one", stage=PASS, candidate="arm", carried="arm"),
    ConfirmOutcome(step="one", arm="arm", verdict=PASS, control=FAIL, over_control=PASS),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Any:
    """A triage with three seeds that ends FIXED or not; its journal."""
    folder = tmp_path_factory.mktemp("seeds")
    stop, journal = tiny.triage(folder, tiny.dataset(), tiny.config(), num_steps=1, num_seeds=3)
    return SimpleNamespace(stop=stop, journal=journal, folder=folder)


# --- the tree -------------------------------------------------------------------------------------


def test_seeds_come_after_the_verdict_and_before_the_open_questions() -> None:
    def then(*after: Any) -> Any:
        return next_action(
            ["one", "two"], [*FIXED_BY_ONE, *after], extended=["open"], more_seeds=[1, 2]
        )

    first = then()
    assert isinstance(first, Repeat)
    assert first.seed == 1
    assert first.since == "FIXED stands, but so far on one seed"
    second = then(RepeatedOutcome(seed=1))
    assert isinstance(second, Repeat)
    assert second.seed == 2
    question = then(RepeatedOutcome(seed=1), RepeatedOutcome(seed=2))
    assert isinstance(question, RunStep)
    assert question.step == "open"


@pytest.mark.parametrize("phase1", list(Verdict))
@pytest.mark.parametrize("stage", list(Verdict))
@pytest.mark.parametrize("success", list(Verdict))
def test_no_verdict_depends_on_repeated_seeds(phase1, stage, success) -> None:
    history: list[Any] = [Phase1Outcome(verdict=phase1)]
    candidate = "arm" if stage in (PASS, Verdict.INCONCLUSIVE) else None
    history.append(StepOutcome(step="one", stage=stage, candidate=candidate, carried=candidate))
    if candidate:
        history.append(
            ConfirmOutcome(
                step="one", arm="arm", verdict=success, control=FAIL, over_control=success
            )
        )
    if phase1 is PASS:
        history = history[:1]
    without = next_action(["one"], history)
    while not isinstance(action := next_action(["one"], history, more_seeds=[7, 8]), Stop):
        assert isinstance(action, Repeat)
        history.append(RepeatedOutcome(seed=action.seed))
    assert action == without
    assert [o.seed for o in history if isinstance(o, RepeatedOutcome)] == [7, 8]


# --- which models ---------------------------------------------------------------------------------


def confirmed(step: str, attribution: Attribution, mrr: float) -> Any:
    """A full training as far as the choice goes."""
    return SimpleNamespace(step=step, mrr=mrr), SimpleNamespace(attribution=attribution)


def test_the_step_that_is_the_cause_is_repeated() -> None:
    open_ended = confirmed("open", Attribution.OPEN, 0.9)
    cause = confirmed("cause", Attribution.STEP, 0.2)
    weaker = confirmed("weaker", Attribution.STEP, 0.1)
    together = confirmed(COMBINATION, Attribution.STEP, 0.8)
    assert behind_verdict([open_ended, weaker, cause, together]).step == "cause"
    assert behind_verdict([open_ended, together]).step == COMBINATION
    failed = confirmed("failed", Attribution.NOBODY, 0.95)
    assert behind_verdict([open_ended, failed]).step == "open"
    assert behind_verdict([failed]).step == "failed"


def test_where_the_unchanged_recipe_passes_nothing_else_is_repeated() -> None:
    both = confirmed("one", Attribution.MORE_TRAINING, 0.5), confirmed("two", Attribution.OPEN, 0.4)
    assert behind_verdict(both) is None
    assert behind_verdict([]) is None
    assert behind_verdict([confirmed("one", Attribution.NOT_JUDGED, -1.0)]) is None


# --- a run ----------------------------------------------------------------------------------------


def test_every_model_behind_the_verdict_is_trained_with_every_seed(whole) -> None:
    events = whole.journal.events.of(Repeated)
    assert [event.seed for event in events] == [1, 2]
    models = events[-1].models
    (confirmed,) = whole.journal.events.of(Confirmed)
    assert list(models) == ["AR-only", "InfoNCE+AR", confirmed.arm]
    for name, model in models.items():
        assert [result.seed for result in model.per_seed] == [0, 1, 2], name
        values = [result.mrr for result in model.per_seed]
        assert len(set(values)) == 3, f"{name} is the same model under another seed: {values}"
        assert model.over_seeds["mrr"].value == pytest.approx(np.mean(values))


def test_the_first_seed_is_the_model_that_was_judged(whole) -> None:
    models = whole.journal.events.of(Repeated)[-1].models
    judged = {(e.name, e.role): e for e in whole.journal.events.of(TestJudged)}
    for name in ("AR-only", "InfoNCE+AR"):
        masked = judged[name, "phase 1"].evaluation.masked
        assert models[name].per_seed[0].mrr == masked["mrr"]


def test_only_the_seed_differs(whole) -> None:
    started = {e.step: e for e in whole.journal.events.of(StepStarted)}
    first = {spec.name: spec for spec in started["phase_1"].arms}
    again = {spec.name: spec for spec in started["seed_2"].arms}
    for name, spec in first.items():
        assert again[name].recipe == dataclasses.replace(spec.recipe, seed=2)
        assert again[name].id != spec.id


def test_gains_over_seeds_come_from_the_files_of_the_arms(whole) -> None:
    event = whole.journal.events.of(Repeated)[-1]
    found = {(c.model, c.over, c.metric): c for c in event.comparisons}
    started = {e.step: e for e in whole.journal.events.of(StepStarted)}

    def results(name: str) -> list[PerQuery]:
        specs = [
            next(spec for spec in started[step].arms if spec.name == name)
            for step in ("phase_1", "seed_1", "seed_2")
        ]
        return [PerQuery.load(whole.journal.folder / spec.folder / "test.npz") for spec in specs]

    expected = gain_over_seeds(
        results("InfoNCE+AR"), results("AR-only"), "mrr", tiny.config().gates
    )
    assert found["InfoNCE+AR", "AR-only", "mrr"].estimate.lower == expected.lower
    assert found["InfoNCE+AR", "AR-only", "mrr"].bound == 0.05
    level = level_over_seeds(results("AR-only"), "mrr", tiny.config().gates)
    assert event.models["AR-only"].over_seeds["mrr"].between_seeds == level.between_seeds


def test_repeated_models_stay_out_of_the_table_of_models(whole) -> None:
    document = build_verdict(whole.journal.events, resume="")
    assert document.seeds.seeds == [0, 1, 2]
    assert [model.role for model in document.models] == ["phase 1", "phase 1", "confirm"]


def test_a_resumed_run_trains_no_seed_twice(whole, tmp_path: Path) -> None:
    """Cut after the first arm of the second repetition: the first is not trained again."""
    events = whole.journal.events
    cut = next(i for i, e in enumerate(events) if isinstance(e, ArmEnded) and e.step == "seed_2")
    lines = whole.journal.path.read_text().splitlines(keepends=True)[: cut + 1]
    kept = whole.journal.path.read_text()
    try:
        whole.journal.path.write_text("".join(lines))
        told: list[Event] = []

        def note(journal: Any, event: Event) -> None:
            told.append(event)
            journal.append(event)

        _, journal = tiny.triage(
            whole.folder, tiny.dataset(), tiny.config(), num_steps=1, num_seeds=3, note=note
        )
        assert told
        assert not [e for e in told if isinstance(e, Epoch) and e.step == "seed_1"]
        again = journal.events.of(Repeated)[-1]
        before = whole.journal.events.last(Repeated)
        assert replace(again, at=before.at) == before
    finally:
        whole.journal.path.write_text(kept)


# --- what is said ---------------------------------------------------------------------------------


def repeated(lower: float, upper: float, seeds: tuple[float, ...] = (0.3,) * 3) -> SeedsShown:
    """Results in which one model gains over AR-only, whose MRR is 0: `seeds` of the model."""
    estimate = made.seeded((lower + upper) / 2, lower, upper)
    numbers = list(range(len(seeds)))

    def model(values: Sequence[float]) -> RepeatedModel:
        results = [OfSeed(seed=s, eval_cosine=0.0, r_at_5=0.0, mrr=v) for s, v in enumerate(values)]
        return RepeatedModel(arm="a", per_seed=results)

    def gain(model: str, over: str, bound: float) -> Comparison:
        about = {"metric": "mrr", "bound": bound, "seeds": numbers, "estimate": estimate}
        return Comparison(model=model, over=over, **about)

    nothing = model([0.0] * len(seeds))
    return SeedsShown(
        seeds=numbers,
        models={"AR-only": nothing, "InfoNCE+AR": nothing, "arm": model(seeds)},
        comparisons=[
            gain("InfoNCE+AR", "AR-only", 0.05),
            gain("arm", "AR-only", 0.05),
            gain("arm", "InfoNCE+AR", 0.0),
        ],
    )


@pytest.mark.parametrize(
    ("lower", "upper", "said", "alone"),
    [
        (0.05, 0.09, "a gain is clear of its bound", False),
        (0.04, 0.09, "no gain is clear of its bound", True),
        (0.01, 0.04, "every gain lies below its bound", True),
    ],
)
def test_the_answer_over_seeds_names_the_last_model(lower, upper, said, alone) -> None:
    found = repeated(lower, upper)
    assert over_seeds(found).startswith(f"Over 3 seeds {said}: arm gains MRR")
    assert rests_on_one_seed(found) is alone


@pytest.mark.parametrize(("second", "alone"), [(0.06, False), (0.04, True)])
def test_two_seeds_are_told_one_by_one(second, alone) -> None:
    found = repeated(-0.5, 0.6, seeds=(0.07, second))
    assert over_seeds(found) == (
        f"Per seed, arm gains MRR +0.070, +{second:.3f} against +0.050 over AR-only; an "
        "interval over seeds needs at least 3."
    )
    assert rests_on_one_seed(found) is alone


def test_a_claim_that_other_seeds_do_not_bear_out_is_warned_of(whole) -> None:
    def document(found: SeedsShown) -> Summary:
        events = list(whole.journal.events)
        last, stop = events.index(whole.journal.events.last(Repeated)), whole.journal.events.stop
        events[last] = replace(events[last], models=found.models, comparisons=found.comparisons)
        events[events.index(stop)] = replace(stop, verdict=RunVerdict.PASSED, cause=[])
        return build_verdict(events, resume="")

    assert any("rests on seed 0" in text for text in document(repeated(0.04, 0.09)).warnings)
    assert not any("rests on seed 0" in text for text in document(repeated(0.06, 0.09)).warnings)


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", ""])
def test_a_number_of_seeds_that_is_none_is_refused(text) -> None:
    with pytest.raises(UsageError, match="must be a whole number of at least 1"):
        parser().parse_args(["--seeds", text])


def test_a_model_handed_in_as_predictions_has_no_first_seed(tmp_path: Path) -> None:
    """Nobody knows its seed: its recipe is trained with the others alone."""
    data = tiny.dataset()
    rows = np.random.default_rng(0).standard_normal((len(data.test), tiny.WIDTH))
    np.save(tmp_path / "predictions.npy", rows.astype(np.float32))
    _, journal = tiny.triage(
        tmp_path / "run",
        data,
        tiny.config(stage=0.999),
        num_steps=0,
        num_seeds=3,
        predictions=tmp_path / "predictions.npy",
    )
    event = journal.events.of(Repeated)[-1]
    seeds = {n: [r.seed for r in m.per_seed] for n, m in event.models.items()}
    assert seeds == {"AR-only": [0, 1, 2], "InfoNCE+AR": [1, 2]}
    assert {tuple(c.seeds) for c in event.comparisons} == {(1, 2)}
    repeated_runs = build_verdict(journal.events, resume="").seeds
    assert repeated_runs.seeds == [0, 1, 2]
    assert basis(repeated_runs) == "the model that you gave"


def test_a_repetition_is_told_as_one_by_the_tree_and_by_status(whole, tmp_path: Path) -> None:
    events = whole.journal.events
    told = {step.step: step.verdict for step in status(events, tmp_path, 0.0).ended}
    assert (told["seed_1"], told["seed_2"]) == ("repeated", "repeated")
    assert told["phase_1"] != "repeated"
    drawn = _as_text(list(_nodes(Run(events, build_verdict(events, resume="")))), "", "")
    text = "\n".join(drawn)
    assert "Seed 1" in text
    assert "so far on one seed" in text
