"""What a seed changes: the models behind the verdict, trained with several."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from lvm.metrics import METRICS
from lvm.report import Block, Figure, Paragraph, Run, Table
from lvm.report.plots import NUM_COLOURS, WIDTH, draw_marker, drawing, round_ticks
from lvm.text import NONE, number, title_of
from lvm.triage.events import ArmJudged, StepStarted
from lvm.triage.seeds import basis, interval, over_seeds, per_seed
from lvm.triage.summary import SeedsShown

PITCH, TOP, BOTTOM, EDGE = 44, 8, 24, 16  # of the plot: a row, and what surrounds the rows


def seeds_section(run: Run) -> Iterator[Block]:
    """Yield the answer, the gains over AR-only as a plot, and both tables."""
    repeated = run.document["seeds"]
    holds = over_seeds(repeated)
    if holds:
        yield Paragraph(holds, "lead")
    yield Paragraph(
        f"The verdict rests on {basis(repeated)} and was not judged anew. An interval "
        "over seeds holds what another seed would change as well as other articles; with two seeds "
        "it is so wide that it says nothing, for two tell little of a third.",
        "note",
    )
    against = [c for c in repeated["comparisons"] if c["over"] == run.baseline]
    if against:
        caption = "A mark is the gain with one seed, a bar the interval over all of them."
        yield Figure(_plot(repeated, against), caption)
    yield _levels(repeated)
    if repeated["comparisons"]:
        yield _gains(repeated["comparisons"])
    yield from _lost(run, repeated)


def _levels(repeated: SeedsShown) -> Table:
    """Return the test metrics of every model, seed by seed."""
    seeds = repeated["seeds"]
    rows = []
    for name, model in repeated["models"].items():
        known = {result["seed"]: result for result in model["per_seed"]}
        for metric in (*METRICS.judged, "eval_cosine"):
            values = [v for s in seeds if (v := known.get(s, {}).get(metric)) is not None]
            spread = number(statistics.stdev(values)) if len(values) > 1 else NONE
            mean = number(statistics.fmean(values)) if values else NONE
            cells = [number(known.get(s, {}).get(metric)) for s in seeds]
            rows.append([name, title_of(metric), *cells, mean, spread])
    return Table(
        "the models on the test split, seed by seed; SD is that of the values of the seeds",
        "ll" + "r" * (len(seeds) + 2),
        ("Model", "Metric", *(f"seed {s}" for s in seeds), "Mean", "SD"),
        rows,
    )


def _gains(comparisons: Sequence[Mapping[str, Any]]) -> Table:
    rows = []
    for c in comparisons:
        found = c["estimate"]
        deviation = number(found["between_seeds"] ** 0.5)
        rows.append(
            [
                c["model"],
                c["over"],
                title_of(c["metric"]),
                number(c["bound"], sign=True),
                interval(c),
                deviation,
                str(found["num_seeds"]),
                f"{found['num_articles']:,}",
            ]
        )
    return Table(
        "gains over seeds and articles together; SD is what a seed alone moves a gain by, the "
        "chance of a few articles taken out",
        "lllrrrrr",
        ("Model", "Over", "Metric", "Bound", "Gain [interval]", "SD", "Seeds", "Articles"),
        rows,
    )


def _lost(run: Run, repeated: SeedsShown) -> Iterator[Block]:
    """Yield which trainings left nothing to compare, and why."""
    for started in (e for e in run.all(StepStarted) if e.get("seed") in repeated["seeds"]):
        seed = started["seed"]
        for judged in run.all(ArmJudged, step=started["step"]):
            if judged["reason"] not in ("finished", "gate held"):
                why = f": {judged['detail']}" if judged["detail"] else ""
                text = f"{judged['name']} left no result with seed {seed} ({judged['reason']}{why})"
                yield Paragraph(f"{text}.", "warning")


def _plot(repeated: SeedsShown, against: Sequence[Mapping[str, Any]]) -> str:
    """Return a row per gain: its seeds, its interval, and its bound."""
    values = {_key(c): per_seed(repeated, c) for c in against}
    ends = [c["estimate"][k] for c in against for k in ("lower", "upper")]
    ends += [c["bound"] for c in against] + [v for found in values.values() for v in found]
    ticks = round_ticks(min([0.0, *ends]), max([0.1, *ends]))
    low, high = ticks[0], ticks[-1]
    height = TOP + PITCH * len(against) + BOTTOM

    def x(value: float) -> float:
        return EDGE + (WIDTH - 2 * EDGE) * (value - low) / (high - low)

    parts = [
        f'<line class="grid" x1="{x(t):.1f}" x2="{x(t):.1f}" y1="{TOP}" y2="{height - BOTTOM}"/>'
        f'<text x="{x(t):.1f}" y="{height - 8}" text-anchor="middle">{t:g}</text>'
        for t in ticks
    ]
    models = list(dict.fromkeys(c["model"] for c in against))
    for place, c in enumerate(against):
        middle, found = TOP + PITCH * place + 28, c["estimate"]
        marks = "".join(draw_marker("circle", x(v), middle, 3.5) for v in values[_key(c)])
        said = f"{_title(c)}: {interval(c)}"
        parts.append(
            f'<text class="name" x="0" y="{middle - 14}">{escape(_title(c))}</text>'
            f'<line class="gate" x1="{x(c["bound"]):.1f}" x2="{x(c["bound"]):.1f}" '
            f'y1="{middle - 10}" y2="{middle + 10}"/>'
            f'<g class="c{models.index(c["model"]) % NUM_COLOURS + 1}"><title>{escape(said)}'
            f'</title><line class="whisker" x1="{x(found["lower"]):.1f}" '
            f'x2="{x(found["upper"]):.1f}" y1="{middle}" y2="{middle}"/>{marks}</g>'
        )
    said = "; ".join(
        f"{_title(c)} {interval(c)}, bound {number(c['bound'], sign=True)}" for c in against
    )
    legend = (
        '<ul class="legend"><li><svg viewBox="0 0 30 12" aria-hidden="true"><g class="c1">'
        '<line class="whisker" x1="1" x2="29" y1="6" y2="6"/>'
        f"{draw_marker('circle', 15, 6, 3.5)}</g></svg>a seed, and the interval over all</li>"
        '<li><svg viewBox="0 0 30 12" aria-hidden="true"><line class="gate" x1="15" x2="15" '
        'y1="0" y2="12"/></svg>the bound of the success gate</li></ul>'
    )
    title = f"gain over {against[0]['over']} on test, seed by seed"
    drawn = drawing(WIDTH, height, f"{title}. {said}.", parts, title)
    return f'<div class="wide">{drawn}</div>{legend}'


def _key(comparison: Mapping[str, Any]) -> tuple[str, str]:
    return comparison["model"], comparison["metric"]


def _title(comparison: Mapping[str, Any]) -> str:
    return f"{comparison['model']}, {title_of(comparison['metric'])}"
