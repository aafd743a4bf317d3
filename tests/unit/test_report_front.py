"""The report's picture of the front, and the table of what lies where."""

from __future__ import annotations

import html
import re
from dataclasses import replace

import made
import numpy as np
import pytest

from lvm.core.records import Evaluation, FrontPosition, Position
from lvm.evaluation.front import solve
from lvm.triage.events import Compared, Ladder, RunStarted, TestJudged, event_of
from lvm.triage.state import RunState
from lvm.triage.verdict import build_verdict
from lvm.views.report import Figure, Paragraph, Run, Table
from lvm.views.report.front import front_blocks, front_line

LADDER = {
    "constant": (0.2, 0.0),
    "copy_last": (0.45, 0.36),
    "mean_context": (0.55, 0.2),
    "weighted_mix": (0.58, 0.31),
    "mix_plus_0.1_last": (0.575, 0.335),
    "mix_plus_0.4_last": (0.56, 0.355),
    "mix_plus_0.8_last": (0.53, 0.37),
    "inside": (0.57, 0.335),
    "oracle": (1.0, 1.0),
    "random": (0.04, 0.9),
}
CORNERS = ["weighted_mix", "mix_plus_0.1_last", "mix_plus_0.4_last", "mix_plus_0.8_last"]


def reached(cosine: float, hits: float) -> Evaluation:
    return made.evaluation(eval_cosine=cosine, r_at_5=hits, mrr=hits / 2)


def lies(position: str, value: float, first: str = "eval_cosine") -> FrontPosition:
    metrics = (first, "r_at_5")
    return FrontPosition(
        position=Position(position),
        metrics=metrics,
        distance=made.estimate(value),
        rung="weighted_mix",
        gains={m: made.estimate(value) for m in metrics},
    )


def model(arm: str, cosine: float, hits: float, space: str = "raw") -> TestJudged:
    evaluation = replace(reached(cosine, hits), space=space)
    return made.event(TestJudged, arm=arm, name=f"the {arm} one", evaluation=evaluation)


def run(models: list[TestJudged], front: dict[str, FrontPosition]) -> Run:
    rows = {name: reached(*place) for name, place in LADDER.items()}
    ladder = made.event(Ladder, rows=rows)
    compared = [event_of(Compared, of="", front=front)] if front else []
    state = RunState([made.event(RunStarted), ladder, *models, *compared])
    return Run(state, build_verdict(state, resume=""))


MODELS = [model("good", 0.65, 0.4), model("poor", 0.3, 0.1), model("other", 0.9, 0.3, "projected")]
FRONT = {
    "good": lies("above", 0.05),
    "poor": lies("below", -0.2),
    "other": lies("on", 0.01, "mrr"),
}


def test_the_line_goes_through_the_rungs_that_no_mixture_reaches() -> None:
    rows = {name: reached(*place) for name, place in LADDER.items()}
    line = front_line(rows)
    assert [name for name, _ in line] == CORNERS
    competitors = np.array([v for k, v in LADDER.items() if k not in ("oracle", "random")])
    for name, place in line:  # a little above a corner is above the front, a little below is not
        assert solve(np.array(place) + 1e-4 - competitors).value > 0, name
        assert solve(np.array(place) - 1e-4 - competitors).value < 0, name
    assert front_line({}) == []


def test_the_table_says_where_every_model_lies() -> None:
    (table,) = [b for b in front_blocks(run(MODELS, FRONT)) if isinstance(b, Table)]
    assert [row[0] for row in table.rows] == [f"{m.name} (confirmation)" for m in MODELS]
    assert [row[1] for row in table.rows] == ["above", "below", "on"]
    assert table.rows[0][2] == "+0.050 [+0.030, +0.070]"
    assert {len(row) for row in table.rows} == {len(table.header)} == {len(table.align)}


def test_the_picture_says_in_words_what_it_draws() -> None:
    (figure,) = [b for b in front_blocks(run(MODELS, FRONT)) if isinstance(b, Figure)]
    said = html.unescape(re.search(r'aria-label="([^"]*)"', figure.markup)[1])
    for name in CORNERS:
        assert f"{name} {LADDER[name][0]:.3f}, {LADDER[name][1]:.3f}" in said
    assert "the good one (confirmation) 0.650, 0.400, above the front, distance +0.050" in said
    assert "the other one" not in said  # its cosine is in another space
    assert "omitted" in figure.caption
    places = [float(x) for x in re.findall(r'c?[xy][12]?="(-?[\d.]+)"', figure.markup)]
    assert all(-1 <= place <= 457 for place in places)


@pytest.mark.parametrize(("cosine", "hits"), [(0.577, 0.325), (0.40, 0.20)])
def test_the_bar_of_a_model_crosses_the_line_where_its_interval_holds_zero(cosine, hits) -> None:
    competitors = np.array([v for k, v in LADDER.items() if k not in ("oracle", "random")])
    value = solve(np.array([cosine, hits]) - competitors).value
    found = {"good": lies("on", value)}
    (figure,) = [
        b for b in front_blocks(run([model("good", cosine, hits)], found)) if isinstance(b, Figure)
    ]
    drawn = re.findall(
        r'<line class="(whisker|curve|curve dashed)" '
        r'x1="([\d.]+)" y1="([\d.]+)" x2="([\d.]+)" y2="([\d.]+)"/>',
        figure.markup.split("</svg>")[0],
    )
    lines = [(kind, np.array(ends, dtype=float).reshape(2, 2)) for kind, *ends in drawn]
    (bar,) = [ends for kind, ends in lines if kind == "whisker"]
    front = [ends for kind, ends in lines if kind != "whisker"]
    assert len(front) == len(CORNERS) + 1
    assert (bar[1] - bar[0])[0] > 0 > (bar[1] - bar[0])[1]  # to the right and up
    assert any(cross(bar, piece) for piece in front) == (abs(value) < 0.02)


def cross(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two line segments meet: the ends of each lie on both sides of the other."""

    def sides(line: np.ndarray, points: np.ndarray) -> float:
        (dx, dy), moved = line[1] - line[0], points - line[0]
        return float(np.prod(dx * moved[:, 1] - dy * moved[:, 0]))

    return sides(one, other) <= 0 and sides(other, one) <= 0


def test_a_run_that_did_not_measure_the_front_shows_nothing_of_it() -> None:
    assert list(front_blocks(run(MODELS, {}))) == []


def test_a_model_that_could_not_be_compared_has_its_reason_in_the_table() -> None:
    unknown = FrontPosition(
        position=Position.NOT_EVALUABLE,
        metrics=("eval_cosine", "r_at_5"),
        reason="the pools differ",
    )
    blocks = list(front_blocks(run(MODELS[:1], {"good": unknown})))
    (table,) = [b for b in blocks if isinstance(b, Table)]
    assert table.rows[0][3] == "the pools differ"
    (figure,) = [b for b in blocks if isinstance(b, Figure)]
    assert "not compared" in figure.markup
    assert any(isinstance(b, Paragraph) for b in blocks)
