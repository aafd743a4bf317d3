"""The gates of a report: every judged gate, its certainty, and how it was judged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lvm.core.records import GateResult
from lvm.core.text import NONE, estimate, number, title_of
from lvm.evaluation.gates import FAIL_ARTICLES, MIN_ARTICLES, SKEWED
from lvm.triage.events import Confirmed
from lvm.views.report import Block, Folded, Paragraph, Run, Table
from lvm.views.report.many import ARMS, shown_arms
from lvm.views.report.models import added, confirmed_name, is_combination

DECIDES = (
    "Every difference is paired by window, with the article as its unit. The corrected p-value "
    "decides: a Student's t test of the mean with the CR2 error and Bell and McCaffrey's "
    "degrees of freedom for articles of these lengths. The sign-flip p-value next to it "
    "assumes that gains and losses are symmetric about the bound and is then exact for any "
    "number of articles. It is a second opinion and decides nothing; where the two disagree, a "
    "few articles drive the result. The design effect is the factor by which the similarity of "
    "windows within an article inflates the variance; windows divided by it is the equivalent "
    "number of independent windows. Effective articles is the equivalent number of articles of "
    f"equal length, (sum n)^2 / (sum n^2). Fewer than {MIN_ARTICLES} articles give neither PASS "
    f"nor FAIL. Below {FAIL_ARTICLES} articles, a FAIL on gains with a skewness of {SKEWED:g} or "
    "more needs twice the half-width, because a few articles with large gains may be missing."
)
PEEKING = (
    "Dev is looked at often, but no verdict rests on it: the cosine of each epoch may stop or "
    "prune an arm, the stage gate chooses the arm to confirm, and the gains over the control "
    "choose the arm that later steps start from (each step spends an equal part of the level, "
    "by Holm over its arms). The chosen arm is trained in full and judged on test, which no "
    "choice has seen. Test is looked at once per model, after a training of fixed length, and "
    "these looks are corrected. PASSED and FIXED are two claims, each at a one-sided level of "
    "half the intervals' error (2.5 % of 5 %), so a run makes a false one at most in their sum "
    "of cases. PASSED is judged once, by Holm over its two metrics. FIXED may be judged once "
    "per step, once for the kept steps together, and once for the unchanged recipe if phase 1 "
    "was given a model. This maximum is known before the run, each look spends an equal part "
    "of the level (2.5 % / 7 with six steps), and Holm divides it between the two metrics. The "
    "gains over the control that name the cause are corrected the same way. With --all-steps, "
    "all of them are judged once, at the end, by Holm over all. Repeated seeds look at test "
    "once more and decide nothing. Other triages on the same test split are not corrected for."
)

GATE = ("Model or arm", "Split", "Gate", "Metric", "Bound")  # columns that name a gate
SIZES = ("Articles", "Effective articles", "Correlation with size", "Design effect")
Row = tuple[str, str, GateResult]  # model or arm, split, gate


def gates_section(run: Run) -> Iterator[Block]:
    """Yield every gate with its interval, then how the intervals are computed."""
    rows = list(_rows(run))
    if not rows:
        yield Paragraph("No gate judged yet.", "note")
        return
    yield Table(
        "every gate judged; the arms' gains over their control are listed by step",
        "llllrrrrrrll",
        (*GATE, "Value [interval]", *SIZES, "Verdict", "Reason"),
        [_gate(*row) for row in rows],
    )
    if any(len(step.arms) > ARMS for step in run.summary.steps):
        yield Paragraph(f"Of a step with many arms, the best {ARMS} are shown.", "note")
    rows += _gains(run)
    differences = [row for row in rows if row[2].estimate and row[2].p_value is not None]
    behind: list[Block] = [Paragraph(DECIDES), Paragraph(PEEKING)]
    if differences:
        behind.insert(0, _p_values(differences))
    yield Folded("How certain each difference is, and how repeated looks are corrected", behind)


def independent(gate: GateResult) -> str:
    """Say how many independent windows a gate has, by its design effect; "" where unknown."""
    effect, found = gate.design_effect, gate.estimate
    if not effect or not found:
        return ""
    return (
        f"design effect {number(effect, 1)}: {found.num_windows:,} windows are worth "
        f"{found.num_windows / effect:,.0f} independent ones"
    )


def _rows(run: Run) -> Iterator[Row]:
    base = f"{run.unchanged.name if run.unchanged else 'predictions'} (phase 1)"
    yield from ((base, "test", gate) for gate in run.summary.phase1.gates)
    for step in run.summary.steps:
        arms = shown_arms(run, step)
        yield from ((arm.name, "dev", arm.stage) for arm in arms if arm.stage)
        for event in run.state.of(Confirmed, step=step.step):
            yield from _confirmed(run, event)
    for event in run.state.of(Confirmed):
        if is_combination(run.state, event):
            yield from _confirmed(run, event)


def _confirmed(run: Run, event: Confirmed) -> Iterator[Row]:
    """Yield the gates of a confirmation, and a combination's gains over its best single arm."""
    name = confirmed_name(run, event)
    best, adds = added(run.state, event)
    yield from ((f"{name} (confirmation)", "test", gate) for gate in event.gates)
    yield from ((f"{name} over {best} alone", "test", gate) for gate in adds)


def _gains(run: Run) -> list[Row]:
    """Return the gains of arms over their control, on dev."""
    return [
        (f"{arm.name} over its control", "dev", gate)
        for step in run.summary.steps
        for arm in shown_arms(run, step)
        for gate in arm.gains or ()
    ]


def _named(name: str, split: str, gate: GateResult) -> list[str]:
    """Return the cells that name a gate; the bound of a difference has a sign."""
    bound = number(gate.bound, sign=gate.gate != "stage") if gate.estimate else NONE
    return [name, split, gate.gate, title_of(gate.metric), bound]


def _gate(name: str, split: str, gate: GateResult) -> list[str]:
    found = gate.estimate
    return [
        *_named(name, split, gate),
        estimate(gate),
        f"{found.num_articles:,}" if found else NONE,
        number(gate.effective_articles, 1),
        number(gate.size_correlation, 2, sign=True),
        number(gate.design_effect, 1),
        gate.verdict,
        gate.reason,
    ]


def _p_values(rows: Sequence[Row]) -> Table:
    return Table(
        "one-sided p-values of the differences against their bounds; the corrected one decides",
        "llllrrrrrr",
        (*GATE, "p", "p corrected", "over", "p by sign flips", "Independent windows"),
        [_p_value(*row) for row in rows],
    )


def _p_value(name: str, split: str, gate: GateResult) -> list[str]:
    effect, windows = gate.design_effect, gate.estimate.num_windows if gate.estimate else 0
    return [
        *_named(name, split, gate),
        _chance(gate.p_value),
        _chance(gate.adjusted_p),
        str(gate.num_tests or NONE),
        _chance(gate.sign_flip_p),
        f"{windows / effect:,.0f} of {windows:,}" if effect else NONE,
    ]


def _chance(p_value: float | None) -> str:
    """Return a p-value as text, never as 0."""
    return "< 0.0001" if p_value is not None and p_value < 5e-5 else number(p_value, 4)
