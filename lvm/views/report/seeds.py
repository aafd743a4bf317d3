"""The effect of the seed: the models behind the verdict, trained with several seeds."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

from lvm.core.metrics import METRICS
from lvm.core.text import NONE, interval, number, title_of
from lvm.triage.events import ArmJudged, StepStarted
from lvm.triage.events.evidence import Comparison
from lvm.triage.seeds import basis, over_seeds, per_seed
from lvm.triage.summary import SeedsShown
from lvm.views.report import Block, Figure, Paragraph, Run, Table
from lvm.views.report.charts.chart import IN_ROW, Axis, Chart, Point
from lvm.views.report.charts.svg import Style, line_sample, sample, style_of, tag, wide

ROW, TOP, BOTTOM, EDGE = 44, 8, 24, 16  # of the plot: height of a row, and the margins


def seeds_section(run: Run) -> Iterator[Block]:
    """Yield the answer, the gains over AR-only as a plot, and both tables."""
    repeated = run.summary.seeds
    if repeated is None:
        return
    holds = over_seeds(repeated)
    if holds:
        yield Paragraph(holds, "lead")
    yield Paragraph(
        f"The verdict rests on {basis(repeated)} and was not judged again. An interval over "
        "seeds covers other seeds as well as other articles. With two seeds it is too wide to "
        "be informative.",
        "note",
    )
    against = [c for c in repeated.comparisons if c.over == run.baseline]
    if against:
        caption = "A mark is the gain with one seed; a bar is the interval over all seeds."
        yield Figure(_plot(repeated, against), caption)
    yield _levels(repeated)
    if repeated.comparisons:
        yield _gains(repeated.comparisons)
    yield from _lost(run, repeated)


def _levels(repeated: SeedsShown) -> Table:
    """Return the test metrics of every model, seed by seed."""
    seeds = repeated.seeds
    rows = []
    for name, model in repeated.models.items():
        known = {result.seed: result for result in model.per_seed}
        for metric in (*METRICS.judged, "eval_cosine"):
            per = [known[s].of(metric) if s in known else None for s in seeds]
            values = [value for value in per if value is not None]
            spread = number(statistics.stdev(values)) if len(values) > 1 else NONE
            mean = number(statistics.fmean(values)) if values else NONE
            cells = [number(value) for value in per]
            rows.append([name, title_of(metric), *cells, mean, spread])
    return Table(
        "the models on the test split, per seed; SD is over seeds",
        "ll" + "r" * (len(seeds) + 2),
        ("Model", "Metric", *(f"seed {s}" for s in seeds), "Mean", "SD"),
        rows,
    )


def _gains(comparisons: Sequence[Comparison]) -> Table:
    rows = []
    for c in comparisons:
        found = c.estimate
        deviation = number(found.between_seeds**0.5)
        rows.append(
            [
                c.model,
                c.over,
                title_of(c.metric),
                number(c.bound, sign=True),
                interval(found),
                deviation,
                str(found.num_seeds),
                f"{found.num_articles:,}",
            ]
        )
    return Table(
        "gains over seeds and articles; SD is the effect of the seed alone, without the "
        "sampling error of the articles",
        "lllrrrrr",
        ("Model", "Over", "Metric", "Bound", "Gain [interval]", "SD", "Seeds", "Articles"),
        rows,
    )


def _lost(run: Run, repeated: SeedsShown) -> Iterator[Block]:
    """Yield which trainings left nothing to compare, and why."""
    for started in (e for e in run.state.of(StepStarted) if e.seed in repeated.seeds):
        seed = started.seed
        for judged in run.state.of(ArmJudged, step=started.step):
            if judged.reason not in ("finished", "gate held"):
                why = f": {judged.detail}" if judged.detail else ""
                text = f"{judged.name} has no result with seed {seed} ({judged.reason}{why})"
                yield Paragraph(f"{text}.", "warning")


def _plot(repeated: SeedsShown, against: Sequence[Comparison]) -> str:
    """Return a row per gain: its seeds, its interval, and its bound."""
    ends = [end for c in against for end in (c.estimate.lower, c.estimate.upper)]
    ends += [c.bound for c in against] + [v for c in against for v in per_seed(repeated, c)]
    gains, names = Axis.around([0.0, 0.1, *ends]), Axis(len(against), 0)
    height = TOP + ROW * len(against) + BOTTOM
    chart = Chart(gains, names, height, EDGE, EDGE, TOP, BOTTOM, x_grid=True)
    models = list(dict.fromkeys(c.model for c in against))
    rows = [
        _row(chart, row, c, per_seed(repeated, c), models.index(c.model))
        for row, c in enumerate(against)
    ]
    values = "; ".join(
        f"{_title(c)} {interval(c.estimate)}, bound {number(c.bound, sign=True)}" for c in against
    )
    drawing = chart.draw(f"gain over {against[0].over} on test, per seed", f". {values}.", *rows)
    bound = sample(tag("line", class_="gate", x1=15, x2=15, y1=0, y2=12))
    return wide(
        drawing,
        (line_sample(Style("c1")), "one seed, and the interval over all"),
        (bound, "the bound of the success gate"),
    )


def _row(chart: Chart, row: int, comparison: Comparison, gains: Sequence[float], model: int) -> str:
    y, bound, found = row + IN_ROW, comparison.bound, comparison.estimate
    hint = f"{_title(comparison)}: {interval(found)}"
    bar = (found.lower, y), (found.upper, y)
    seeds = chart.dots(Style(style_of(model).colour), *(Point(x, y, hint, bar) for x in gains))
    mark = chart.line("gate", (bound, y - 0.2), (bound, y + 0.2))
    return chart.row_name(row, _title(comparison)) + mark + seeds


def _title(comparison: Comparison) -> str:
    return f"{comparison.model}, {title_of(comparison.metric)}"
