"""A run on a person's predictions: every view says what was judged, what was trained, and truly."""

from __future__ import annotations

import io
import json

import made
import numpy as np
import pytest
import tiny
import torch
from msgspec.structs import replace

from lvm.audit import gates
from lvm.audit.gates import below_trivial
from lvm.core.records import Estimate, GateResult, RunVerdict, Verdict, to_plain
from lvm.evaluation.ladder import fit_ladder
from lvm.evaluation.metrics import PerQuery
from lvm.triage.against_ladder import rung_file
from lvm.triage.events import Compared, Confirmed, RunStarted, StepStarted
from lvm.triage.journal import Journal
from lvm.triage.state import RunState
from lvm.triage.subject import subject
from lvm.triage.verdict import build_verdict
from lvm.views.report import Run
from lvm.views.report.html import render as html
from lvm.views.report.markdown import render, report_sections
from lvm.views.status import status
from lvm.views.status.screen import screen
from lvm.views.terminal import Screen

CONFIG = tiny.config(base=tiny.recipe(**{"training.epochs": 2}), stage=0.3)
FILE = "of my own.npy"


@pytest.fixture(scope="module")
def ran(tmp_path_factory, tiny_dataset):
    """A whole run of one step on a file of predictions: a ridge, and some noise."""
    threads, folder = torch.get_num_threads(), tmp_path_factory.mktemp("stand_in")
    rows = fit_ladder(tiny_dataset, seed=0)["ridge"](tiny_dataset.test)
    noise = np.random.default_rng(0).standard_normal(rows.shape) / rows.shape[1] ** 0.5
    np.save(folder / FILE, (rows + 0.5 * noise).astype(np.float32))
    out = folder / "run"
    out.mkdir()
    arguments = {"predictions": str(folder / FILE)}
    Journal(out).append(made.event(RunStarted, config=CONFIG, arguments=arguments))
    _, journal = tiny.triage(out, tiny_dataset, CONFIG, num_steps=1, predictions=folder / FILE)
    torch.set_num_threads(threads)
    return out, journal, build_verdict(journal.events, resume="again")


def test_the_verdict_names_what_was_judged_and_what_was_trained(ran) -> None:
    _, _, document = ran
    judged = document.judged
    assert (judged.kind, judged.file, judged.stand_in) == ("predictions", FILE, True)
    assert judged.trained == CONFIG.recipe.model.name
    assert FILE in judged.sentence
    assert "stand-in" in judged.sentence
    assert FILE in document.headline or document.verdict == "INCONCLUSIVE"
    own = next(m for m in document.models if m.arm == "predictions")
    assert own.name == f"{FILE} (predictions)"
    plain = to_plain(document)
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain


def test_first_lines_of_every_view_say_so(ran) -> None:
    out, journal, document = ran
    stream = io.StringIO()
    Screen(stream).event(journal.events[0])
    assert stream.getvalue().startswith(document.judged.sentence)
    run = Run(journal.events, document)
    text = render(report_sections(run), document.verdict)
    assert text.split("\n\n")[2] == f"**{document.judged.sentence}**"
    page = html(report_sections(run), document.verdict)
    first = page.index("as a stand-in for the model behind them")
    assert first < page.index(document.headline[:20])
    seen = status(journal.events, out, journal.events[-1].at)
    assert seen.judged == document.judged
    lines = screen(seen)
    assert any(FILE in line and line.startswith("judged") for line in lines)


def test_a_run_of_the_recipe_has_no_stand_in() -> None:
    assert subject(RunState()).kind == "recipe"
    found = subject(RunState([made.event(RunStarted, arguments={"checkpoint": "/a/b"})]))
    assert (found.kind, found.file, found.sentence) == ("checkpoint", "b", "")


def test_a_name_cannot_command_the_terminal() -> None:
    event = made.event(RunStarted, arguments={"predictions": "/a/\x1b[31mred.npy"})
    assert "\x1b" not in subject(RunState([event])).sentence


@pytest.mark.parametrize("verdict", ["PASSED", "NOT_FIXED", "FIXED"])
def test_no_headline_speaks_of_a_model_that_was_not_judged(ran, verdict: str) -> None:
    """Whatever was tried was tried on our network, and a fix of it is one of the stand-in."""
    _, journal, _ = ran
    *before, stop = journal.events
    gate = made.gate("success", "mrr", verdict=Verdict.PASS, reason="clear")
    spec = next(e for e in before if isinstance(e, StepStarted)).arms[0]
    about = {"step": "projection_head", "arm": "the arm", "run_as": "phase_1"}
    fixed = made.event(Confirmed, **about, gates=[gate], spec=spec.id)
    cause = ["projection_head"] if verdict == "FIXED" else []
    end = replace(stop, verdict=RunVerdict(verdict), cause=cause, by=None)
    headline = build_verdict([*before, fixed, end], resume="again").headline
    assert headline.startswith(verdict)
    assert FILE in headline
    if verdict == "FIXED":
        assert "on a stand-in" in headline
        assert "untested" in headline


# --- comparisons ----------------------------------------------------------------------------------


def test_every_model_is_held_against_the_front_on_the_same_windows(ran) -> None:
    out, journal, document = ran
    (compared,) = journal.events.of(Compared)
    assert set(compared.front) == {m.arm for m in document.models}
    assert document.front == compared.front
    own = compared.front["predictions"]
    assert own.position in ("above", "on", "below")
    rival = PerQuery.load(rung_file(out, own.rung))
    model = next(m for m in document.models if m.arm == "predictions")
    difference = model.masked["r_at_5"] - rival.hit(5).mean()
    assert own.gains["r_at_5"].value == pytest.approx(difference)
    assert set(own.mixture) <= set(document.ladder) - {"oracle", "random"}


def test_ridge_handed_in_as_predictions_does_not_beat_the_ladder_it_belongs_to(ran) -> None:
    _, _, document = ran
    assert document.front["predictions"].position != "above"
    assert document.beats_ladder is False
    told = [w for w in document.warnings if w.startswith(f"{FILE} (predictions)")]
    assert len(told) == 1
    assert document.front["predictions"].rung in told[0]
    assert not any(w.startswith("control") for w in document.warnings)


def estimated(value: float, lower: float, upper: float) -> GateResult:
    return GateResult(
        gate="stage",
        metric="eval_cosine",
        bound=0.35,
        verdict=Verdict.INCONCLUSIVE,
        reason="",
        estimate=Estimate(
            value=value, lower=lower, upper=upper, confidence=0.95, num_articles=9, num_windows=90
        ),
    )


def test_an_interval_that_holds_the_bound_does_not_attain_it() -> None:
    said = gates._attained_by(
        {"constant": estimated(0.27, 0.159, 0.403), "ridge": estimated(0.5, 0.45, 0.55)}
    )
    attained, _, open_ = said.partition(" and is not separable from ")
    assert attained.startswith("is reached by ridge (")
    assert open_.startswith("constant (eval_cosine 0.270 [0.159, 0.403]")
    alone = gates._attained_by({"constant": estimated(0.27, 0.159, 0.403)})
    assert "reached by" not in alone
    assert below_trivial is gates.below_trivial
