"""A verdict on a model that may have read the test articles, and the trace that reading leaves."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import made
import numpy as np
import pytest
import tiny
import torch

from lvm.audit.open import joined
from lvm.core.records import Estimate, RunVerdict, Verdict, to_plain
from lvm.data.seen import SeenArticles
from lvm.data.windows import Dataset
from lvm.evaluation.evaluate import evaluate
from lvm.evaluation.ladder import fit_ladder
from lvm.training.loop import train
from lvm.triage.actions import (
    MORE_TRAINING,
    Attribution,
    ConfirmOutcome,
    Phase1Outcome,
    SettledOutcome,
    StepOutcome,
    Stop,
    TrainedOutcome,
)
from lvm.triage.confirm import Confirmations
from lvm.triage.events import Confirmed, Event, RunStarted
from lvm.triage.journal import Journal
from lvm.triage.off_contexts import agreement
from lvm.triage.trace import difference, nearest_train_cosines, trace
from lvm.triage.tree import next_action
from lvm.triage.verdict import build_verdict
from lvm.views.report import Run
from lvm.views.report.markdown import render, report_sections
from lvm.views.tracking.views import confirmed_arm, parent_view

PASS, FAIL = Verdict.PASS, Verdict.FAIL
ARTICLES = 90  # of the tiny bank here: a dozen test articles

# --- the tree -------------------------------------------------------------------------------------


def confirmed(
    step: str = "s", *, unread: str = "", gain: float = 0.0, **verdicts
) -> ConfirmOutcome:
    seen = {"verdict": PASS, "control": FAIL, "over_control": PASS, **verdicts}
    return ConfirmOutcome(step=step, arm=f"arm {step}", unread=unread, gain=gain, **seen)


def end(*history, **asked) -> Stop:
    action = next_action(["s"], history, **asked)
    assert isinstance(action, Stop)
    return action


def test_a_model_that_may_have_read_the_test_articles_passes_on_one_condition() -> None:
    plain = end(Phase1Outcome(verdict=PASS))
    assert (plain.verdict, plain.if_unseen) == (RunVerdict.PASSED, None)
    stop = end(Phase1Outcome(verdict=PASS, unread="m.pt"))
    assert (stop.verdict, stop.if_unseen) == (RunVerdict.INCONCLUSIVE, RunVerdict.PASSED)
    assert stop.verdict.exit_status == 1
    assert "m.pt" in stop.since


@pytest.mark.parametrize(("control", "cause"), [(FAIL, "s"), (PASS, MORE_TRAINING)])
def test_so_does_what_is_found_in_it_and_not_what_is_trained_here(control, cause) -> None:
    """The model of phase 1 is unknown in both; what matters is what the confirmation rests on."""
    phase1 = Phase1Outcome(verdict=FAIL, unread="m.pt")
    step = StepOutcome(step="s", stage=PASS, candidate="arm s", carried=None)
    trained = end(phase1, step, confirmed(control=control))
    assert (trained.verdict, trained.cause) == (RunVerdict.FIXED, (cause,))
    searched = end(phase1, step, confirmed(control=control, unread="m.pt"))
    assert (searched.verdict, searched.cause) == (RunVerdict.INCONCLUSIVE, ())
    assert (searched.if_unseen, searched.cause_if_unseen) == (RunVerdict.FIXED, (cause,))


def test_of_all_steps_one_that_was_trained_here_is_the_cause() -> None:
    steps = [StepOutcome(step=s, stage=PASS, candidate=s, carried=None) for s in "s"]
    better = confirmed("searched", unread="m.pt", gain=0.9)
    known = confirmed("trained", gain=0.4)
    for order in itertools.permutations([better, known]):
        history = [
            Phase1Outcome(verdict=FAIL),
            *steps,
            TrainedOutcome(step="s", arm="s"),
            SettledOutcome(confirmed=order),
        ]
        stop = end(*history, all_steps=True)
        assert (stop.verdict, stop.cause) == (RunVerdict.FIXED, ("trained",))
    alone = [*history[:-1], SettledOutcome(confirmed=(better,))]
    stop = end(*alone, all_steps=True)
    assert (stop.verdict, stop.cause_if_unseen) == (RunVerdict.INCONCLUSIVE, ("searched",))


def test_a_failure_needs_no_lineage() -> None:
    history = (
        Phase1Outcome(verdict=FAIL, unread="m.pt"),
        StepOutcome(step="s", stage=FAIL, candidate=None, carried=None),
    )
    assert end(*history).verdict is RunVerdict.NOT_FIXED


# --- whole runs -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data() -> Dataset:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "ARTICLES", ARTICLES)
        return tiny.dataset()


GOOD = {"objective.space": "raw", "training.epochs": 6, "training.weight_decay": 0.0}
# What is trained here learns next to nothing, so that the gate is easy for what is handed in.
CONFIG = tiny.config(
    base=tiny.recipe(**{"training.epochs": 1, "training.learning_rate": 1e-6}), stage=-0.9
)


def model(folder, data: Dataset, read: str, **changes):
    """Train a model on splits of the data and take its statement of them away."""
    parts = [data.split(name) for name in read.split("+")]
    windows = parts[0] if len(parts) == 1 else joined(*parts)
    recipe = tiny.recipe(**{**GOOD, **changes})
    other = dataclasses.replace(data, train=windows)
    tiny.records(train(recipe, other, folder, validate=lambda p, e: {"eval_cosine": 0.0}))
    place = folder / "checkpoint" / "manifest.json"
    manifest = json.loads(place.read_text())
    for key in ("articles_seen", "text_seen", "bank", "data"):
        manifest.pop(key, None)
    place.write_text(json.dumps(manifest))
    return folder / "checkpoint"


@pytest.fixture(scope="module")
def given(tmp_path_factory, data):
    """A model that read the test articles alone, one that read train, and predictions."""
    threads, folder = torch.get_num_threads(), tmp_path_factory.mktemp("given")
    leaky = model(folder / "leaky", data, "test", **{"training.epochs": 30})
    honest = model(folder / "honest", data, "train")
    np.save(folder / "p.npy", fit_ladder(data, seed=0)["ridge"](data.test))
    torch.set_num_threads(threads)
    return {"leaky": leaky, "honest": honest, "p": folder / "p.npy"}


def ran(out, data, given: dict, stated: list[int] | None = None):
    """Run a triage of one handed-in model; return its verdict document and its journal."""
    threads, seen = torch.get_num_threads(), None
    if stated is not None:
        seen = SeenArticles(source="ids", articles=np.array(stated, np.int64))
    out.mkdir()
    Journal(out).append(made.event(RunStarted, config=CONFIG, again="triage"))
    _, journal = tiny.triage(out, data, CONFIG, num_steps=0, seen=seen, **given)
    torch.set_num_threads(threads)
    return build_verdict(journal.events, resume="again"), journal


def test_a_memoriser_of_unknown_lineage_does_not_pass_and_is_seen(tmp_path, data, given) -> None:
    document, journal = ran(tmp_path / "run", data, {"checkpoint": given["leaky"]})
    lineage = document.lineage
    assert (document.verdict, document.cause, document.arm) == ("INCONCLUSIVE", None, None)
    assert (lineage.articles, lineage.verdict_if_unseen) == ("unknown", "PASSED")
    assert document.phase1.verdict == "PASS"  # what was measured stays
    assert lineage.trace.found
    assert lineage.trace.surplus.lower > 0
    assert lineage.sentence in document.warnings
    off = lineage.off_contexts
    assert off["model"].lower > off["ar_only"].upper
    assert "--seen FILE" in document.headline
    plain = to_plain(document)
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    text = render(report_sections(Run(journal.events, document)), document.verdict)
    assert text.index(document.headline) < text.index(lineage.sentence)
    assert "triage --seen FILE" in text
    assert confirmed_arm(journal.events, document) is None
    tags = parent_view(journal.events, document, closed=True).tags
    assert (tags["verdict"], tags["verdict_if_unseen"]) == ("INCONCLUSIVE", "PASSED")
    assert tags["lineage"] == "unknown"


def test_an_honest_model_passes_plainly_once_its_articles_are_stated(tmp_path, data, given) -> None:
    unknown, _ = ran(tmp_path / "unknown", data, {"checkpoint": given["honest"]})
    assert (unknown.verdict, unknown.lineage.verdict_if_unseen) == (
        "INCONCLUSIVE",
        "PASSED",
    )
    assert not unknown.lineage.trace.found
    train_articles = np.unique(data.train.articles).tolist()
    stated, _ = ran(tmp_path / "stated", data, {"checkpoint": given["honest"]}, train_articles)
    assert (stated.verdict, stated.lineage.articles) == ("PASSED", "stated")
    assert stated.lineage.verdict_if_unseen is None
    assert stated.headline.startswith("PASSED: ")
    # The audit blocks a statement of test articles; a person who overrides it is told how many.
    test_articles = np.unique(data.test.articles).tolist()
    leaked, _ = ran(tmp_path / "leaked", data, {"checkpoint": given["honest"]}, test_articles)
    assert leaked.lineage.read == len(test_articles)


def test_predictions_say_nothing_of_what_was_read(tmp_path, data, given) -> None:
    document, _ = ran(tmp_path / "run", data, {"predictions": given["p"]})
    lineage = document.lineage
    assert (document.verdict, lineage.verdict_if_unseen) == ("INCONCLUSIVE", "PASSED")
    assert "p.npy" in lineage.model
    assert lineage.trace is None
    assert lineage.off_contexts["model"].num_articles == data.test.num_articles
    assert "proves nothing" in lineage.sentence
    stated, _ = ran(tmp_path / "stated", data, {"predictions": given["p"]}, [])
    assert (stated.verdict, stated.lineage.articles) == ("PASSED", "stated")


@pytest.mark.parametrize("source", [Path("given"), None])
def test_a_confirmation_names_the_model_that_its_arm_searches(source) -> None:
    """An arm without a source was trained here, whatever model was handed in."""
    notes: list[Event] = []
    runner = SimpleNamespace(
        unread="m.pt",
        once=lambda event, *a, **k: notes.append(event),
        request=SimpleNamespace(reported_only=True),
    )
    spec = SimpleNamespace(id="a", step="confirm_s", source=source)
    trained = SimpleNamespace(
        step="s",
        arm="arm",
        result=SimpleNamespace(spec=spec),
        mrr=0.5,
        absent=(),
        control=SimpleNamespace(id="c", name="control"),
        control_reason="finished",
    )
    judged = SimpleNamespace(
        verdict=PASS,
        success=PASS,
        control=FAIL,
        over_control=PASS,
        gates=[],
        control_gates=[],
        attribution=Attribution.STEP,
        gain=0.1,
    )
    outcome = Confirmations(runner)._note(trained, judged)
    assert outcome.unread == ("m.pt" if source else "")
    assert [type(event) for event in notes] == [Confirmed]


def test_a_model_that_the_run_trains_has_a_known_lineage(tiny_folder) -> None:
    document = build_verdict(Journal(tiny_folder).events, resume="")
    assert document.lineage.articles == "known"
    assert (document.lineage.model, document.lineage.sentence) == (None, "")


def test_a_journal_without_a_lineage_is_still_told() -> None:
    document = build_verdict([made.event(RunStarted)], resume="")
    assert document.lineage.articles is None
    assert document.lineage.verdict_if_unseen is None


# --- the trace ------------------------------------------------------------------------------------


def results(data: Dataset, rows, split: str):
    return evaluate(
        torch.from_numpy(np.asarray(rows, np.float32)),
        data.split(split),
        data.bank,
        space="raw",
        split=split,
    )[1]


def recalled(data: Dataset, split: str, read: str):
    """What a memoriser says: what followed the nearest window that it has read."""
    parts = [data.split(name) for name in read.split("+")]
    known = parts[0] if len(parts) == 1 else joined(*parts)
    last, asked = (data.bank.rows(w.contexts[:, -1]) for w in (known, data.split(split)))
    return data.bank.rows(known.targets[(asked @ last.T).argmax(axis=1)])


@pytest.fixture(scope="module")
def worlds_of_seeds():
    """The bank of each seed, and a mix of its contexts in the place of AR-only."""
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "ARTICLES", ARTICLES)
        for seed in range(8):
            data = tiny.dataset(tiny.bank(seed))
            mix = fit_ladder(data, seed=seed)["weighted_mix"]
            found.append((data, {s: results(data, mix(data.split(s)), s) for s in ("test", "dev")}))
    return found


def traced(world, rows: dict):
    data, ar_only = world
    test, dev = (results(data, rows[split], split) for split in ("test", "dev"))
    return trace(test, dev, ar_only["test"], ar_only["dev"], data, 0)


@pytest.mark.parametrize(
    ("read", "found"),
    [("train", [0]), ("test", [8]), ("train+test", [7, 8]), ("dev", [0]), ("dev+test", [0])],
)
def test_a_memoriser_is_found_where_it_read_test_and_not_dev(worlds_of_seeds, read, found) -> None:
    """One that read dev as well as test is the blind spot; it must not be called clean either."""
    seen = [
        traced(world, {split: recalled(world[0], split, read) for split in ("test", "dev")})
        for world in worlds_of_seeds
    ]
    assert sum(one.found for one in seen) in found
    if read == "dev":
        assert all(one.surplus.upper < 0 for one in seen)


@pytest.mark.parametrize("rung", ["ridge", "mean_context", "copy_last"])
def test_honest_predictors_show_no_trace(worlds_of_seeds, rung) -> None:
    for world in worlds_of_seeds:
        predict = fit_ladder(world[0], seed=0)[rung]
        rows = {split: predict(world[0].split(split)) for split in ("test", "dev")}
        assert not traced(world, rows).found


def test_train_text_that_stands_in_the_test_split_is_no_trace(worlds_of_seeds) -> None:
    """A memoriser of train does well on test windows that repeat train text; it read no other."""
    data, _ = worlds_of_seeds[0]
    bank = dataclasses.replace(data.bank, vectors=np.array(data.bank.vectors))
    rows, copied = data.test, data.train.select(np.arange(len(data.test)))
    for place in (rows.contexts, rows.targets):
        source = copied.contexts if place is rows.contexts else copied.targets
        bank.vectors[place.ravel()] = data.bank.vectors[source.ravel()]
    twin = dataclasses.replace(data, bank=bank)
    mix = fit_ladder(twin, seed=0)["constant"]
    ar_only = {s: results(twin, mix(twin.split(s)), s) for s in ("test", "dev")}
    found = traced((twin, ar_only), {s: recalled(twin, s, "train") for s in ("test", "dev")})
    assert found.surplus.lower > 0
    assert not found.found


def test_no_trace_is_measured_on_other_windows(worlds_of_seeds) -> None:
    data, ar_only = worlds_of_seeds[0]
    less = dataclasses.replace(data, test=data.test.select(np.arange(9)))
    both = ar_only["test"], ar_only["dev"]
    assert trace(*both, *both, less, 0) is None


def test_nearest_train_windows_are_found_in_blocks(worlds_of_seeds, monkeypatch) -> None:
    data, _ = worlds_of_seeds[0]
    whole = nearest_train_cosines(data, 0)
    targets = data.bank.rows(data.test.targets)
    expected = np.einsum("md,md->m", recalled(data, "test", "train"), targets)
    assert np.allclose(whole[0], expected, atol=1e-6)
    monkeypatch.setattr("lvm.triage.trace.BLOCK", 7)
    for once, again in zip(whole, nearest_train_cosines(data, 0), strict=True):
        assert np.allclose(once, again, atol=1e-6)
    monkeypatch.setattr("lvm.triage.trace.MOST_REMEMBERED", 50)
    few = nearest_train_cosines(data, 0)
    assert few[0].mean() < whole[0].mean()
    assert np.array_equal(few[0], nearest_train_cosines(data, 0)[0])


def test_agreement_off_the_contexts_is_of_what_they_do_not_say(worlds_of_seeds) -> None:
    data, _ = worlds_of_seeds[0]
    test, targets = data.test, data.bank.rows(data.test.targets)
    rng = np.random.default_rng(0)

    def mean(rows) -> float:
        return float(agreement(np.asarray(rows, np.float32), data, test).mean())

    assert mean(targets) == pytest.approx(1.0)
    assert mean(-targets) == pytest.approx(-1.0)
    contexts = data.bank.rows(test.contexts.ravel()).reshape(*test.contexts.shape, -1)
    mixed = np.einsum("mtd,mt->md", contexts, rng.random(test.contexts.shape))
    assert abs(mean(mixed)) < 0.1  # nothing but contexts: rounding alone is left
    assert mean(mixed + 0.3 * targets) > 0.99  # however little of the target shows
    assert abs(mean(rng.standard_normal(targets.shape))) < 0.1


def test_contexts_that_repeat_span_no_more_than_they_do(worlds_of_seeds) -> None:
    data, _ = worlds_of_seeds[0]
    same = np.repeat(data.test.contexts[:, -1:], data.test.context_length, axis=1)
    windows = dataclasses.replace(data.test, contexts=same)
    assert agreement(data.bank.rows(windows.targets), data, windows).mean() == pytest.approx(1.0)
    assert abs(agreement(data.bank.rows(same[:, -1]), data, windows).mean()) < 0.1


def test_the_interval_of_a_difference_joins_the_nearer_half_widths() -> None:
    def level(value, lower, upper):
        return Estimate(
            value=value, lower=lower, upper=upper, confidence=0.99, num_windows=5, num_articles=2
        )

    found = difference(level(0.5, 0.2, 0.6), level(0.1, 0.0, 0.5))
    assert found.value == pytest.approx(0.4)
    assert found.lower == pytest.approx(0.4 - np.hypot(0.3, 0.4))
    assert found.upper == pytest.approx(0.4 + np.hypot(0.1, 0.1))
    assert (found.num_windows, found.num_articles) == (10, 4)
