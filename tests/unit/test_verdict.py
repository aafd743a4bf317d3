from __future__ import annotations

import dataclasses
import itertools
import json

import made
import numpy as np
import pytest
import tiny
import torch
from msgspec.structs import replace

from lvm.core.config.run import GateConfig
from lvm.core.records import FrontPosition, Pool, Position, Verdict, to_plain
from lvm.evaluation.metrics import PerQuery, Ranks
from lvm.triage.actions import Attribution
from lvm.triage.events import (
    ArmEnded,
    ArmJudged,
    Compared,
    Confirmed,
    Decision,
    Epoch,
    Forecast,
    Interrupted,
    Ladder,
    Phase1Judged,
    Resumed,
    RunStarted,
    Settled,
    StepEnded,
    StepStarted,
    TestJudged,
)
from lvm.triage.events.parts import ControlTold
from lvm.triage.journal import Journal, read_run
from lvm.triage.judge_confirmation import judge_confirmation
from lvm.triage.spent import saved_seconds
from lvm.triage.state import RunState
from lvm.triage.step import STEPS
from lvm.triage.summary import Compute
from lvm.triage.verdict import build_verdict


@pytest.fixture(scope="module")
def events(tiny_folder):
    return read_run(tiny_folder)


def test_the_document_is_json_and_repeats_the_journal(events) -> None:
    document = build_verdict(events, resume="again")
    plain = to_plain(document)
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    stop = events.of(Decision)[-1]
    assert (document.schema, document.resume) == (1, "again")
    assert (document.verdict, document.since) == (stop.verdict, stop.since)
    assert (document.cause, document.arm) == (None, None)
    assert document.headline.startswith(stop.verdict)
    assert [s.step for s in document.steps] == ["projection_head", "temperature"]
    judged = {(e.step, e.arm): e for e in events.of(ArmJudged)}
    for step in document.steps:
        for arm in step.arms:
            event = judged[step.step, arm.id]
            assert arm.evaluation == event.evaluation
            assert (arm.reason, arm.stage) == (event.reason, event.stage)
    tested = events.of(TestJudged)
    assert [m.arm for m in document.models] == [e.arm for e in tested]
    assert [m.masked for m in document.models] == [e.evaluation.masked for e in tested]
    assert document.phase1.verdict == events.of(Phase1Judged)[0].verdict
    assert {m.name for m in document.phase1.arms} == {"AR-only", "InfoNCE+AR"}
    ladder = next(e for e in events.of(Ladder) if e.split == "test")
    assert document.ladder == ladder.rows


def test_compute_is_the_sum_of_the_epochs(events) -> None:
    compute = build_verdict(events, resume="").compute
    epochs = events.of(Epoch)
    assert len({(e.arm, e.epoch) for e in epochs}) == len(epochs)
    assert compute.train_seconds == pytest.approx(sum(e.seconds for e in epochs), abs=0.06)
    assert compute.trials == len({e.arm for e in epochs})


def test_saved_seconds_are_the_epochs_that_early_stopping_did_not_run() -> None:
    budgets = {"pruned": 10, "cancelled": 5, "finished": 4, "diverged": 20}
    arms = [made.arm(name, epochs=epochs) for name, epochs in budgets.items()]
    arms.append(made.arm("searched", epochs=9, source="x"))
    epochs = [
        made.event(Epoch, at=1.0, arm=arm, epoch=i, seconds=2.0)
        for arm, n in (("pruned", 3), ("cancelled", 3), ("finished", 4), ("diverged", 1))
        for i in range(1, n + 1)
    ]
    searched = made.event(Epoch, at=9.5, arm="searched", epoch=0)
    ran = [made.event(StepStarted, arms=arms), *epochs, searched]
    assert build_verdict(ran, resume="").compute.saved_seconds == 0.0  # they may still run
    over = [made.event(ArmEnded, at=9.5, arm=name, reason=name) for name in budgets]
    compute = build_verdict([*ran, *over], resume="").compute
    assert compute == Compute(  # 7 epochs of the pruned arm, 2 of the cancelled, none of the other
        train_seconds=22.0, trials=5, saved_seconds=18.0, wall_seconds=9.5
    )
    assert compute.saved_seconds == sum(saved_seconds(RunState([*ran, *over])).values())


def test_every_prefix_of_a_journal_gives_an_unfinished_document(events) -> None:
    for cut in range(1, len(events) - 1):
        document = build_verdict(events[:cut], resume="again")
        assert document.verdict is None
        assert document.headline.startswith("UNFINISHED")
        json.dumps(to_plain(document), allow_nan=False)


def fixed(folder, *, cosine, ladder, front=None):
    """A run whose second step, on top of the first, passed."""
    journal = Journal(folder)
    spec = made.arm("abc", epochs=2)
    rows = {name: made.evaluation(r_at_5=0.1, eval_cosine=v) for name, v in ladder.items()}
    gate = made.gate("success", "r_at_5", verdict="PASS", estimate=made.estimate(0.27, 0.2, 0.3))
    evaluation = made.evaluation(r_at_5=0.5, eval_cosine=cosine)
    journal.append(made.event(RunStarted))
    journal.append(made.event(Ladder, split="test", rows=rows))
    journal.append(made.event(StepStarted, step="confirm_two", arms=[spec]))
    journal.append(
        made.event(TestJudged, arm="abc", name="arm two", role="confirm", evaluation=evaluation)
    )
    journal.append(
        made.event(
            Confirmed,
            step="two",
            arm="arm two",
            verdict="PASS",
            gates=[gate],
            spec="abc",
            run_as="confirm_two",
        )
    )
    if front is not None:
        journal.append(made.event(Compared, of="abc", front={"abc": front}))
    journal.append(
        made.event(
            Decision,
            action="Stop",
            number=5,
            verdict="FIXED",
            cause=["one", "two"],
            since="it holds",
        )
    )
    return build_verdict(journal.events, resume="r")


def test_a_fix_names_its_cause_its_arm_and_its_checkpoint(tmp_path) -> None:
    document = fixed(tmp_path, cosine=0.6, ladder={"copy_last": 0.4, "oracle": 1.0})
    assert (document.verdict, document.cause) == ("FIXED", "one+two")
    assert document.arm.checkpoint == "/f/abc/checkpoint"
    assert (document.arm.name, document.arm.step) == ("arm two", "two")
    assert "one+two" in document.headline
    assert document.warnings == []


def test_a_fix_whose_mean_is_below_the_ladder_says_so_where_nothing_was_compared(tmp_path) -> None:
    document = fixed(tmp_path, cosine=0.3, ladder={"copy_last": 0.4, "ridge": 0.5, "oracle": 1.0})
    (warning,) = document.warnings
    assert "cosine 0.300; ridge reaches 0.500 without training" in warning
    assert (document.beats_ladder, document.front) == (None, {})


def lies(position: str) -> FrontPosition:
    """Where the model of `fixed` lies against the front."""
    distance = made.estimate(0.01, -0.02, 0.04)
    metrics = ("eval_cosine", "r_at_5")
    return FrontPosition(
        position=Position(position),
        metrics=metrics,
        distance=distance,
        rung="copy_last",
        gains=dict.fromkeys(metrics, distance),
        mixture={"copy_last": 1.0},
        reason="",
    )


@pytest.mark.parametrize(
    ("position", "beats", "clause"),
    [
        ("above", True, ", above the front of untrained baselines by 0.010 in both "),
        ("on", False, ", on the front of untrained baselines."),
        ("below", False, ", below the front of untrained baselines, where copy_last"),
    ],
)
def test_the_headline_and_one_warning_tell_what_a_fix_is_worth(
    tmp_path, position, beats, clause
) -> None:
    document = fixed(tmp_path, cosine=0.3, ladder={"copy_last": 0.4}, front=lies(position))
    assert document.beats_ladder is beats
    assert document.front["abc"].position == position
    assert "(R@5 +0.270 over AR-only)" + clause in document.headline
    assert len(document.warnings) == (0 if beats else 1)


def test_a_model_on_the_front_has_its_clear_losses_in_the_headline(tmp_path) -> None:
    found = lies("on")
    lost = made.estimate(-0.05, -0.06, -0.04)
    found = dataclasses.replace(found, gains={**found.gains, "eval_cosine": lost})
    document = fixed(tmp_path, cosine=0.3, ladder={"copy_last": 0.4}, front=found)
    assert document.headline.endswith("baselines (cosine -0.050 against copy_last).")


def test_a_front_that_could_not_be_measured_is_neither_beaten_nor_not(tmp_path) -> None:
    unknown = dataclasses.replace(
        lies("not evaluable"), distance=None, gains={}, reason="the pools differ"
    )
    document = fixed(tmp_path, cosine=0.6, ladder={"copy_last": 0.4}, front=unknown)
    assert document.beats_ladder is None
    assert "front" not in document.headline


# --- attribution ---------------------------------------------------------------------------------

ARTICLES = np.repeat(np.arange(12), 10)


def found(share: float, seed: int = 0) -> PerQuery:
    """Results in which about this share of the targets is at rank 1 and the rest far below."""
    hit = np.random.default_rng(seed).random(len(ARTICLES)) < share
    greater = np.where(hit, 0, 400).astype(np.int64)
    ranks = Ranks(greater, np.zeros_like(greater), np.full_like(greater, 500))
    return PerQuery(
        cosine=np.full(len(ARTICLES), 0.5, dtype=np.float32),
        masked=ranks,
        raw=ranks,
        articles=ARTICLES,
        space="raw",
        pool=Pool(id="p", size=500, mask="own contexts"),
    )


def confirmation(arm, control, **values):
    return judge_confirmation(arm, found(0.05), control, GateConfig(), 0, **values)


@pytest.mark.parametrize(
    ("arm", "control", "attribution", "verdict"),
    [
        (0.7, 0.1, Attribution.STEP, Verdict.PASS),
        (0.7, 0.7, Attribution.MORE_TRAINING, Verdict.INCONCLUSIVE),  # of another seed
        (0.1, 0.7, Attribution.MORE_TRAINING, Verdict.INCONCLUSIVE),
        (0.0, 0.0, Attribution.NOBODY, Verdict.FAIL),
    ],
)
def test_a_fix_that_the_control_shares_is_more_training(arm, control, attribution, verdict) -> None:
    judged = confirmation(found(arm, seed=1), found(control, seed=2))
    assert judged.attribution is attribution
    assert judged.verdict is verdict


def test_a_fix_that_does_not_clearly_beat_its_control_has_no_cause_yet() -> None:
    control, arm = found(0.14, seed=3), found(0.30, seed=4)
    judged = confirmation(arm, control)
    assert (judged.success, judged.control) == (Verdict.PASS, Verdict.INCONCLUSIVE)
    close = confirmation(arm, arm)
    assert close.attribution is Attribution.MORE_TRAINING
    unseen = confirmation(arm, None)
    assert (unseen.attribution, unseen.verdict) == (Attribution.OPEN, Verdict.INCONCLUSIVE)
    diverged = confirmation(arm, None, control_diverged=True)
    assert (diverged.attribution, diverged.verdict) == (Attribution.STEP, Verdict.PASS)


def test_what_left_no_results_is_not_judged() -> None:
    assert confirmation(None, found(0.1)).success is Verdict.NOT_EVALUABLE
    without = judge_confirmation(found(0.5), None, found(0.1), GateConfig(), 0)
    assert without.attribution is Attribution.NOT_JUDGED


def test_gains_over_the_control_are_corrected_with_those_of_the_other_trainings() -> None:
    arm, control = found(0.7, seed=1), found(0.1, seed=2)
    alone = confirmation(arm, control)
    (p_value, *_) = [g.p_value for g in alone.gates if g.gate == "gain"]
    many = [0.9] * int(0.025 / p_value + 2)
    beside = confirmation(arm, control, other_gains=many)
    assert alone.over_control is Verdict.PASS
    assert beside.over_control is Verdict.INCONCLUSIVE
    assert beside.attribution is Attribution.OPEN


def test_a_checkpoint_is_held_against_its_own_recipe_trained_as_long(
    tiny_dataset, tmp_path
) -> None:
    """The checkpoint had one epoch; without that control any more training would be a fix."""
    short = tiny.recipe(**{"training.epochs": 1})
    config = tiny.config(base=short, stage=0.9)
    tiny.triage(tmp_path / "first", tiny_dataset, config, num_steps=0)
    (phase1,) = read_run(tmp_path / "first").of(StepStarted)
    checkpoint = tmp_path / "first" / "arms" / phase1.arms[1].id / "checkpoint"
    config = tiny.config(base=tiny.recipe(**{"training.epochs": 2}), stage=0.1)
    steps = [STEPS.get("temperature")]
    _, journal = tiny.triage(
        tmp_path / "second", tiny_dataset, config, steps=steps, checkpoint=checkpoint
    )
    (confirmed,) = journal.events.of(Confirmed)
    started = journal.events.last(StepStarted, step=confirmed.run_as)
    arm, control = started.arms
    assert (control.role, control.source) == ("control", None)
    assert control.recipe.training == arm.recipe.training
    assert control.recipe.seed == arm.recipe.seed
    assert confirmed.control.spec == control.id
    assert journal.events.last(TestJudged, arm=control.id) is not None
    gains = [g for g in confirmed.gates if g.gate == "gain"]
    assert [g.metric for g in gains] == ["r_at_5", "mrr"]


def test_more_training_is_named_with_the_model_that_passed(tmp_path) -> None:
    journal = Journal(tmp_path)
    specs = [made.arm(i, epochs=8) for i in "ab"]
    gate = made.gate("success", "r_at_5", verdict="PASS", estimate=made.estimate(0.27, 0.2, 0.3))
    journal.append(made.event(RunStarted))
    journal.append(made.event(StepStarted, step="confirm_two", arms=specs))
    journal.append(
        made.event(
            Confirmed,
            step="two",
            arm="arm two",
            verdict="INCONCLUSIVE",
            gates=[],
            spec="a",
            run_as="confirm_two",
            attribution="more training",
            control=ControlTold(spec="b", name="control", verdict="PASS", gates=[gate]),
        )
    )
    journal.append(
        made.event(
            Decision, action="Stop", number=3, verdict="FIXED", cause=["more_training"], since="so"
        )
    )
    document = build_verdict(journal.events, resume="r")
    assert (document.verdict, document.cause) == ("FIXED", "more_training")
    assert document.arm.checkpoint == "/f/b/checkpoint"
    assert document.arm.gates == [gate]
    assert "8 epochs" in document.headline
    assert "no step is the cause" in document.headline


# --- every step, and the open questions ----------------------------------------------------------

ASKED = ("projection_at_inference", "infonce_alone", "context_length")


@pytest.fixture(scope="module")
def longer():
    """The tiny data with articles of 15 chunks."""
    return tiny.dataset(tiny.bank(chunks=15))


@pytest.fixture(scope="module")
def whole(tmp_path_factory, longer):
    """A run of two steps with `all_steps`, then three open questions, killed once on the way."""
    threads = torch.get_num_threads()
    folder = tmp_path_factory.mktemp("all")
    base = tiny.recipe(**{"training.epochs": 2, "training.batch_size": 16})
    config = tiny.config(base=base, stage=0.3)
    config = dataclasses.replace(
        config, schedule=dataclasses.replace(config.schedule, first_rung=2)
    )
    count = itertools.count()

    def die_in_the_middle(journal, event):
        journal.append(event)
        if next(count) == 45:
            raise KeyboardInterrupt

    values = {"num_steps": 2, "all_steps": True, "extended": [STEPS.get(n) for n in ASKED]}
    with pytest.raises(KeyboardInterrupt):
        tiny.triage(folder, longer, config, note=die_in_the_middle, **values)
    stop, journal = tiny.triage(folder, longer, config, **values)
    torch.set_num_threads(threads)
    return stop, journal


def test_every_step_starts_from_the_base_and_all_are_judged_together(whole) -> None:
    _, journal = whole
    started = journal.events.steps
    assert [e.step for e in started] == ["projection_head", "temperature", *ASKED]
    assert all(e.carried == [] for e in started)
    confirmed = journal.events.of(Confirmed)
    assert len(confirmed) >= 2  # the first one did not end the run
    assert len({e.spec for e in confirmed}) == len(confirmed)
    first = list(journal.events).index(confirmed[0])
    full = [e for e in journal.events.of(ArmEnded) if e.step.startswith("confirm")]
    assert first > max(map(list(journal.events).index, full))
    settled = journal.events.last(Settled)
    tests = [g for e in confirmed for g in e.gates if g.gate == "success"]
    assert settled.comparisons == len(tests)


def test_an_open_question_is_measured_to_its_end_and_never_confirmed(whole) -> None:
    _, journal = whole
    for name in ASKED[:2]:
        arms = [e for e in journal.events.of(ArmJudged) if e.step == name and e.role == "arm"]
        assert arms
        for arm in arms:
            assert arm.reason in ("finished", "gate held")
            assert [g.metric for g in arm.gains] == ["r_at_5", "mrr", "eval_cosine"]
        ended = journal.events.last(StepEnded, step=name)
        assert (ended.candidate, ended.kept) == (None, None)
    assert not {e.step for e in journal.events.of(Confirmed)} & set(ASKED)


def test_every_length_of_context_has_the_same_targets_and_the_same_pool(whole) -> None:
    """Articles of 15 chunks allow 10 vectors before a target, and not 20."""
    _, journal = whole
    started = journal.events.last(StepStarted, step="context_length")
    assert list(started.left_out) == ["context of 20"]
    assert "NOT_EVALUABLE" in started.left_out["context of 20"]
    lengths = {spec.name: spec.recipe.context_length for spec in started.arms}
    assert lengths == {"control": 5, "context of 10": 10}
    folders = [journal.folder / spec.folder for spec in started.arms]
    results = [PerQuery.load(folder / "dev_002.npz") for folder in folders]
    five, ten = results
    np.testing.assert_array_equal(five.articles, ten.articles)
    assert five.pool == ten.pool
    np.testing.assert_array_equal(five.masked.candidates, ten.masked.candidates)
    usual = journal.events.last(ArmJudged, step="projection_head", role="control")
    assert len(five) < usual.evaluation.num_windows


def test_the_document_says_what_the_combination_adds(whole) -> None:
    """Nothing is combined in this run, as no two steps helped; then it is told as written."""
    _, journal = whole
    assert build_verdict(journal.events, resume="r").combination is None
    first = journal.events.of(Confirmed)[0]
    adds = [dataclasses.replace(gate, gate="gain") for gate in first.gates[:2]]
    carried = [["projection_head", "arm a"], ["temperature", "arm b"]]
    best = ("temperature", "arm b")
    settled = replace(journal.events.last(Settled), best=best, adds=adds)
    combined = [
        made.event(Decision, action="Confirm", step="combination", carried=carried),
        replace(first, step="combination", verdict=Verdict.INCONCLUSIVE),
        settled,
    ]
    events = [*journal.events[:-1], *combined, journal.events[-1]]
    together = build_verdict(events, resume="r").combination
    assert together.steps == ["projection_head", "temperature"]
    assert together.arms == ["arm a", "arm b"]
    assert (together.verdict, together.best_alone) == ("INCONCLUSIVE", best)
    assert (together.adds, together.gates) == (adds, first.gates)
    assert together.comparisons == settled.comparisons


def test_the_document_of_a_run_with_open_questions_says_what_was_tested(whole) -> None:
    stop, journal = whole
    document = build_verdict(journal.events, resume="r")
    assert (document.verdict, document.cause) == (stop.verdict, "+".join(stop.cause) or None)
    statuses = {e.id: e.status for e in document.hypotheses}
    assert statuses["H1"] != "untested"
    assert statuses["Q2"] != "untested"
    assert statuses["H2"] == "untested"


def test_the_time_said_is_shown_beside_the_time_taken_without_interruptions(tmp_path) -> None:
    said = {"seconds": 100.0, "lower": 80.0, "upper": 120.0}
    events = [
        made.event(RunStarted),
        made.event(Forecast, at=10.0, **said, parts={"phase_1": 9.0}),
        Interrupted(at=40.0),
        Resumed(at=1000.0),
    ]
    assert build_verdict(events, resume="").forecast.actual_seconds is None
    stop = made.event(Decision, action="Stop", at=1050.0, verdict="NOT_FIXED", cause=[])
    forecast = build_verdict([*events, stop], resume="").forecast
    assert {name: getattr(forecast, name) for name in said} == said
    assert (forecast.parts, forecast.probe) == (events[1].parts, events[1].probe)
    assert forecast.actual_seconds == 80.0
    assert build_verdict(events[:1], resume="").forecast is None
