"""A sweep by TPE: rounds that follow from what was reached, and the same ones after a kill."""

from __future__ import annotations

import math
import sys
from unittest import mock

import pytest
import tiny
from msgspec.structs import replace

from lvm.core.config.read import load_run_config
from lvm.core.config.steps import OwnStep, Sweep, Values
from lvm.core.errors import ConfigError, MissingExtraError
from lvm.core.records import StopReason
from lvm.jobs.options import TriageOptions
from lvm.jobs.steps import chosen_steps
from lvm.triage import arm
from lvm.triage.draws import Draws, drawn_arms
from lvm.triage.events import ArmEnded, ArmsAdded, Epoch, Rung, RunStarted, StepStarted, event_of
from lvm.triage.importance import swept
from lvm.triage.journal import Journal, read_run
from lvm.triage.local import LocalExecutor
from lvm.triage.pace import Progress
from lvm.triage.plan import plan_races
from lvm.triage.request import Request
from lvm.triage.state import RunState
from lvm.triage.step import Tried
from lvm.triage.tpe import more_arms
from lvm.triage.triage import Triage
from lvm.triage.verdict import build_verdict
from lvm.views.report import Run
from lvm.views.report.markdown import render, report_sections

RATE = Values(kind="log_uniform", values=(1e-5, 1.0))
SHARE = Values(kind="uniform", values=(0.0, 1.0))
KEYS = {"training.learning_rate": RATE, "model.dropout": SHARE}
MIXED = {
    **KEYS,
    "model.num_layers": Values(kind="int", values=(1, 4)),
    "model.name": Values(kind="list", values=("mamba2", "gru", "mlp")),
}
RECIPE = """
[[steps]]
name = "tuned"
question = "Is the network badly tuned?"

[steps.sweep]
arms = 9
round = 3
sampler = "tpe"
"training.learning_rate" = { log_uniform = [1e-4, 3e-2] }
"training.batch_size" = [16, 32]
"""


# --- what is proposed ----------------------------------------------------------------------------


def reached(changes) -> float:
    """Return a value that is best at a learning rate of 1e-2 and a dropout of .3."""
    rate, share = changes["training.learning_rate"], changes["model.dropout"]
    return -((math.log10(rate) + 2) ** 2) / 4 - 4 * (share - 0.3) ** 2


def tried(changes, *, epoch: int = 4, finished: bool = True) -> Tried:
    return Tried(changes=changes, values={epoch: reached(changes)}, finished=finished)


def searched(sweep: Sweep, seed: int) -> list[Tried]:
    """Return every arm of a sweep, each round proposed from those before it."""
    arms = [tried(changes) for changes in drawn_arms(sweep, seed, "s")]
    while more := more_arms(sweep, seed, "s", arms):
        arms += [tried(changes) for changes in more]
    return arms


@pytest.mark.parametrize("seed", range(3))
def test_later_rounds_lie_nearer_to_the_best_than_an_even_draw(seed) -> None:
    sweep = Sweep(keys=KEYS, arms=60, sampler="tpe", round=10)
    evenly = Sweep(keys=KEYS, arms=60, sampler="sobol")
    arms = searched(sweep, seed)
    assert len(arms) == 60
    found = sorted(reached(a.changes) for a in arms[30:])
    drawn = sorted(map(reached, drawn_arms(evenly, seed, "s")))
    assert found[len(found) // 2] > drawn[-len(drawn) // 4]  # their median, its best quarter
    assert found[-1] > -0.02


def test_a_round_follows_from_seed_step_and_what_was_tried_alone() -> None:
    sweep = Sweep(keys=MIXED, arms=20, sampler="tpe", round=5)
    first = [
        Tried(changes=c, values={1: 0.1 * i}, finished=False)
        for i, c in enumerate(drawn_arms(sweep, 0, "s"))
    ]
    more = more_arms(sweep, 0, "s", first)
    assert more == more_arms(sweep, 0, "s", first)
    assert more != more_arms(sweep, 1, "s", first)
    assert more != more_arms(sweep, 0, "other", first)
    best_last = [Tried(changes=t.changes, values={1: -t.values[1]}, finished=False) for t in first]
    assert more != more_arms(sweep, 0, "s", best_last)


def test_what_is_proposed_lies_in_its_range_and_differs_from_all_before() -> None:
    sweep = Sweep(keys=MIXED, arms=43, sampler="tpe", round=10)
    arms = searched(sweep, 0)
    assert len({repr(dict(a.changes)) for a in arms}) == len(arms) == 43
    for changes in (a.changes for a in arms):
        assert list(changes) == list(MIXED)
        assert 1e-5 <= changes["training.learning_rate"] <= 1.0
        rate = changes["training.learning_rate"]
        assert float(f"{rate:.4g}") == rate
        assert type(changes["model.num_layers"]) is int
        assert changes["model.num_layers"] in range(1, 5)
        assert changes["model.name"] in ("mamba2", "gru", "mlp")


def test_a_small_space_is_left_when_nothing_new_can_be_found() -> None:
    keys = {"model.num_layers": Values(kind="int", values=(1, 4))}
    sweep = Sweep(keys=keys, arms=4, sampler="tpe", round=2)
    first = [Tried(changes=c, values={1: 1.0}, finished=True) for c in drawn_arms(sweep, 0, "s")]
    more = more_arms(sweep, 0, "s", first)
    assert {c["model.num_layers"] for c in more} <= {1, 2, 3, 4} - {
        t.changes["model.num_layers"] for t in first
    }
    assert 1 <= len(more) <= 2


def test_an_arm_that_went_further_counts_for_more_than_one_that_was_pruned() -> None:
    """Values of different epochs do not compare: a pruned arm ranks below every finished one."""
    sweep = Sweep(keys={"model.dropout": SHARE}, arms=60, sampler="tpe", round=20)
    drawn = drawn_arms(sweep, 0, "s")
    arms = [
        Tried(
            changes=c,
            values={1: 1.0} if c["model.dropout"] < 0.5 else {4: 0.1},  # high, at an early epoch
            finished=c["model.dropout"] >= 0.5,
        )
        for c in drawn
    ]
    more = more_arms(sweep, 0, "s", arms)
    assert sum(c["model.dropout"] >= 0.5 for c in more) > 0.75 * len(more)


def test_arms_that_left_no_value_are_avoided() -> None:
    sweep = Sweep(keys={"model.dropout": SHARE}, arms=60, sampler="tpe", round=20)
    more = []
    for seed in range(5):
        arms = [
            Tried(changes=c, values={} if c["model.dropout"] > 0.5 else {2: 0.1}, finished=False)
            for c in drawn_arms(sweep, seed, "s")
        ]
        more += more_arms(sweep, seed, "s", arms)
    assert sum(c["model.dropout"] <= 0.5 for c in more) > 0.65 * len(more) == 65  # chance: 50


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "size"),
    [({"arms": 60}, 12), ({"arms": 9}, 4), ({"arms": 3}, 3), ({"arms": 60, "round": 7}, 7)],
)
def test_a_round_is_a_fifth_of_the_arms_unless_it_is_given(changes, size) -> None:
    sweep = Sweep(keys=KEYS, sampler="tpe", **changes)
    assert sweep.size_of_round == size == len(drawn_arms(sweep, 0, "s"))


@pytest.mark.parametrize(
    "changes",
    [
        {"sampler": "tpe", "round": -1},
        {"sampler": "tpe", "round": 10},
        {"sampler": "sobol", "round": 3},
    ],
)
def test_a_round_that_cannot_be_is_refused(changes) -> None:
    with pytest.raises(ConfigError, match=r"^sweep\.round "):
        Sweep(keys=KEYS, arms=9, **changes)


def test_without_optuna_nothing_starts(config, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'lvm\[tpe\]'"):
        chosen_steps(TriageOptions(), config)


# --- in a triage ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "recipe.toml"
    path.write_text(RECIPE)
    return load_run_config(path, tiny.config(stage=0.99, epochs=4))


def walked(config, data, journal, note=None):
    chosen = chosen_steps(TriageOptions(steps=("tuned",)), config)
    request = Request(config=config, out=journal.folder, code="test", steps=chosen.steps)
    with mock.patch.object(arm, "MAX_LATENCY_QUERIES", tiny.LATENCY_QUERIES):
        return Triage(request, data, LocalExecutor(), journal, note or journal.append).run()


@pytest.fixture(scope="module")
def run(config, tiny_dataset, tmp_path_factory):
    """A run, and the same one after it was killed in its second and in its third round."""
    folders = [tmp_path_factory.mktemp(name) / "run" for name in ("whole", "killed")]
    stops, journals = [], []
    for folder, kills in zip(folders, ((), (2, 3)), strict=True):
        journal = Journal(folder)
        journal.append(event_of(RunStarted, **tiny.started(config)))
        for number in kills:

            def until(event, journal=journal, number=number):
                journal.append(event)
                if isinstance(event, Rung) and event.round == number:
                    raise KeyboardInterrupt

            with pytest.raises(KeyboardInterrupt):
                walked(config, tiny_dataset, journal, until)
            journal = Journal(folder)
        stops.append(walked(config, tiny_dataset, journal))
        journals.append(Journal(folder))
    return stops, journals


def test_a_step_goes_on_by_rounds_until_it_has_its_arms(run) -> None:
    _, (journal, _) = run
    (started,) = journal.events.of(StepStarted, step="tuned")
    added = journal.events.of(ArmsAdded, step="tuned")
    assert [(a.round, len(a.arms)) for a in added] == [(2, 3), (3, 3)]
    assert [a.role for a in started.arms] == ["control", *["arm"] * 9]
    assert len({a.id for a in started.arms}) == 10
    assert [a.id for e in added for a in e.arms] == [a.id for a in started.arms[4:]]
    rungs = journal.events.of(Rung, step="tuned", epoch=1)
    assert [rung.round for rung in rungs] == [1, 2, 3]
    assert [len(rung.values) for rung in rungs] == [4, 3, 3]  # with the control


def test_a_run_that_was_killed_twice_proposes_the_same_arms_and_trains_none_twice(run) -> None:
    (stop, again), (whole, killed) = run
    assert stop == again
    ids = [[a.id for a in j.events.last(StepStarted, step="tuned").arms] for j in (whole, killed)]
    assert ids[0] == ids[1]
    once = {Epoch: ("arm", "epoch"), ArmEnded: ("arm", "step"), ArmsAdded: ("round",)}
    for kind, fields in once.items():
        told = [tuple(getattr(e, f) for f in fields) for e in killed.events.of(kind)]
        assert len(told) == len(set(told)), kind
        assert sorted(told) == sorted(
            tuple(getattr(e, f) for f in fields) for e in whole.events.of(kind)
        )


def test_the_arms_of_all_rounds_are_judged_compared_and_told_together(run) -> None:
    _, (journal, _) = run
    document = build_verdict(journal.events, resume="again")
    (step,) = [s for s in document.steps if s.step == "tuned"]
    assert len(step.arms) == 10
    assert all(a.reason is not None for a in step.arms)
    found = swept(journal.events, "tuned")
    assert len(found.arms) + found.num_without == 9
    text = render(report_sections(Run(journal.events, document)), "NOT_FIXED")
    assert "round 2, epoch 1: dev MRR" in text
    for added in journal.events.of(ArmsAdded):
        assert all(a.name in text for a in added.arms)


def test_later_arms_are_added_once_however_often_a_journal_is_folded(run) -> None:
    _, (journal, _) = run
    folded = RunState(list(read_run(journal.folder)))
    again = RunState(list(folded))
    assert again == folded
    assert len(again.last(StepStarted, step="tuned").arms) == 10


def test_what_is_left_counts_arms_when_they_are_proposed(run) -> None:
    _, (journal, _) = run
    progress = Progress(())
    for event in journal.events:
        if isinstance(event, StepStarted) and event.step == "tuned":
            event = replace(event, arms=event.arms[:4])  # as it was when it was told
        progress.take(event)
        if isinstance(event, ArmsAdded):
            assert all(progress.of(a.id) == 4 for a in event.arms)


def test_a_plan_counts_on_every_arm(config, tiny_dataset) -> None:
    chosen = chosen_steps(TriageOptions(steps=("tuned",)), config)
    races = plan_races(config, chosen.steps, (), tiny_dataset, all_steps=True)
    (tuned,) = [race for race in races if race.name == "tuned"]
    assert len(tuned.arms) >= 9  # and the control


def test_a_step_without_time_proposes_nothing_more(config, tiny_dataset, tmp_path) -> None:
    (tmp_path / "recipe.toml").write_text(RECIPE.replace("round = 3", "round = 3\nminutes = 1e-6"))
    config = load_run_config(tmp_path / "recipe.toml", tiny.config(stage=0.99, epochs=4))
    journal = Journal(tmp_path / "run")
    journal.append(event_of(RunStarted, **tiny.started(config)))
    walked(config, tiny_dataset, journal)
    assert not journal.events.of(ArmsAdded)
    ended = journal.events.of(ArmEnded, step="tuned")
    assert {e.reason for e in ended} == {StopReason.CANCELLED}


def test_a_step_without_a_sweep_has_no_rounds() -> None:
    own = OwnStep(
        name="s",
        question="?",
        sweep=Sweep(keys=KEYS, arms=6, sampler="sobol"),
    )
    assert len(Draws(0).first(own)) == 6
    assert Draws(0).more(own, []) == []
