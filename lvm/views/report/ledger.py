"""The hypothesis ledger of a run, the joint gain of steps, and the forecast time."""

from __future__ import annotations

from collections.abc import Iterator

from lvm.core.text import estimate, seconds, title_of
from lvm.triage.summary import CombinationShown, ForecastShown
from lvm.views.report import Block, Facts, Paragraph, Run, Section, Table

KINDS = (
    ("hypothesis", "the failure report's hypotheses"),
    ("open question", "its open questions; confirmed means yes, refuted means no"),
    ("beyond the report", "hypotheses beyond the report that the steps test"),
)


def ledger_sections(run: Run) -> list[Section]:
    """Return the sections that have content in this run."""
    found = []
    if run.summary.combination is not None:
        blocks = list(_together(run, run.summary.combination))
        found.append(Section("combination", "What the steps achieve together", blocks))
    if run.summary.hypotheses:
        found.append(Section("hypotheses", "Hypotheses", list(_ledger(run))))
    if run.summary.forecast:
        found.append(
            Section("forecast", "Predicted and actual time", list(_forecast(run.summary.forecast)))
        )
    return found


def _ledger(run: Run) -> Iterator[Block]:
    entries = run.summary.hypotheses
    counts = [
        f"{sum(e.status == status for e in entries)} {status}"
        for status in ("confirmed", "refuted", "inconclusive", "untested")
    ]
    yield Paragraph(f"{len(entries)} entries: {', '.join(counts)}.")
    header = ("", "Claim", "Prediction, stated before the run", "Result", "Status")
    for kind, caption in KINDS:
        rows = [[e.id, e.claim, e.predicts, e.result, e.status] for e in entries if e.kind == kind]
        if rows:
            yield Table(caption, "lllll", header, rows)
    yield Paragraph(
        "The statistic is the gain in R@5 and MRR over the control at the same budget and "
        "seed, on the dev split; for an arm trained in full, the gain over the unchanged "
        "recipe on the test split. Confirmed: an interval, corrected by Holm over the arms of "
        "the step, lies above zero. Refuted: an arm reached its budget, and no interval lies "
        "above zero even uncorrected, or reaches the bound of the success gate. Every arm "
        "starts from the recipe named in its step, so a status holds for that recipe. "
        "Intervals are not corrected over the entries of this table.",
        "note",
    )


def _together(run: Run, together: CombinationShown) -> Iterator[Block]:
    best_step, best_arm = together.best_alone or ("", "none")
    arms = ", ".join(
        f"{arm} ({run.title(step)})"
        for step, arm in zip(together.steps, together.arms, strict=True)
    )
    yield Facts(
        [
            ("Applied together", arms),
            ("Verdict", together.verdict),
            ("Best step alone", f"{best_arm} ({run.title(best_step)})" if best_step else best_arm),
        ]
    )
    rows = [
        [title_of(g.metric), over, estimate(g), g.verdict]
        for over, gates in (
            (run.baseline, [g for g in together.gates if g.gate == "success"]),
            ("the unchanged recipe", [g for g in together.gates if g.gate == "gain"]),
            ("the best step alone", together.adds),
        )
        for g in gates
    ]
    yield Table(
        "gains of the combination on the test split",
        "llll",
        ("Metric", "Over", "Gain [interval]", "Verdict"),
        rows,
    )
    yield Paragraph(
        "Every full training of this run was judged once, by Holm over all "
        f"{together.comparisons} success gates.",
        "note",
    )


def _forecast(said: ForecastShown) -> Iterator[Block]:
    took = said.actual_seconds
    pairs = [
        (
            "Predicted",
            f"{seconds(said.seconds)}, from {seconds(said.lower)} to {seconds(said.upper)}",
        ),
        ("Took", seconds(took) if took is not None else "the run has not ended"),
    ]
    if took:
        pairs.append(("Took / predicted", f"{took / said.seconds:.2f}"))
    yield Facts(pairs)
    probe = said.probe
    yield Paragraph(
        f"Measured before the run, in {probe.seconds:.0f} s: one update of the base recipe "
        f"{1000 * probe.update_seconds:.0f} ms, one evaluation on dev "
        f"{probe.dev_seconds:.2f} s, on test {probe.test_seconds:.2f} s, the start of a "
        f"process {probe.start_seconds:.1f} s.",
        "note",
    )
