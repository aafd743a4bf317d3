"""What a seed changes: the models behind the verdict, trained with several."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from lvm.report import NONE, Block, Figure, Paragraph, Run, Table, counted, number, title_of
from lvm.report.plots import NUM_COLOURS, WIDTH, draw_marker, drawing, round_ticks

METRICS = ("r_at_5", "mrr", "eval_cosine")
ENOUGH = 3  # seeds; two say so little of a third that their interval is ten times their distance
PITCH, TOP, BOTTOM, EDGE = 44, 8, 24, 16  # of the plot: a row, and what surrounds the rows

Repeated = Mapping[str, Any]  # verdict.json's `seeds`


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


def basis(repeated: Repeated) -> str:
    """Return what the verdict rests on: the first seed, or a model whose seed nobody knows."""
    first, models = repeated["seeds"][0], list(repeated["models"].values())
    known = [result["seed"] for result in models[-1]["per_seed"]] if models else []
    return f"seed {first}" if first in known else "the model that was handed in"


def over_seeds(repeated: Repeated) -> str:
    """Say in one sentence whether the verdict's gain holds over all seeds; "" without a gain."""
    gains = _behind(repeated)
    if not gains:
        return ""
    first = gains[0]
    if len(first["seeds"]) < ENOUGH:
        words = " and ".join(
            f"{title_of(c['metric'])} "
            + ", ".join(number(value, sign=True) for value in _per_seed(repeated, c))
            + f" against {number(c['bound'], sign=True)}"
            for c in gains
        )
        return (
            f"Seed by seed {first['model']} gains {words} over {first['over']}; an interval over "
            f"seeds says something from {ENOUGH} on."
        )
    words = " and ".join(
        f"{title_of(c['metric'])} {_interval(c)} against {number(c['bound'], sign=True)}"
        for c in gains
    )
    clear = any(c["estimate"]["lower"] >= c["bound"] for c in gains)
    below = all(c["estimate"]["upper"] < c["bound"] for c in gains)
    answer = "no gain is clear of its bound"
    if clear or below:
        answer = "a gain is clear of its bound" if clear else "every gain lies below its bound"
    return (
        f"Over {counted(len(first['seeds']), 'seed')} {answer}: {first['model']} gains {words} "
        f"over {first['over']}."
    )


def rests_on_one_seed(repeated: Repeated) -> bool:
    """Return whether other seeds do not bear out the gain that a verdict claims.

    From three seeds on, no interval is clear of its bound; with two, one of them gains too little.
    """
    gains = _behind(repeated)
    if gains and len(gains[0]["seeds"]) < ENOUGH:
        return all(min(_per_seed(repeated, c)) < c["bound"] for c in gains)
    return bool(gains) and all(c["estimate"]["lower"] < c["bound"] for c in gains)


def _behind(repeated: Repeated) -> list[Mapping[str, Any]]:
    """Return the gains over AR-only of the model that the verdict rests on: the last repeated."""
    baseline = next(iter(repeated["models"]), None)
    against = [c for c in repeated["comparisons"] if c["over"] == baseline]
    return [c for c in against if c["model"] == against[-1]["model"]]


def _interval(comparison: Mapping[str, Any]) -> str:
    found = comparison["estimate"]
    value, low, high = (number(found[k], sign=True) for k in ("value", "lower", "upper"))
    return f"{value} [{low}, {high}]"


def _levels(repeated: Repeated) -> Table:
    """Return the test metrics of every model, seed by seed."""
    seeds = repeated["seeds"]
    rows = []
    for name, model in repeated["models"].items():
        known = {result["seed"]: result for result in model["per_seed"]}
        for metric in METRICS:
            values = [known[s][metric] for s in seeds if s in known]
            spread = number(statistics.stdev(values)) if len(values) > 1 else NONE
            mean = number(statistics.fmean(values)) if values else NONE
            cells = [number(known[s][metric]) if s in known else NONE for s in seeds]
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
            [c["model"], c["over"], title_of(c["metric"]), number(c["bound"], sign=True),
             _interval(c), deviation, str(found["num_seeds"]), f"{found['num_articles']:,}"]
        )  # fmt: skip
    return Table(
        "gains over seeds and articles together; SD is what a seed alone moves a gain by, the "
        "chance of a few articles taken out",
        "lllrrrrr",
        ("Model", "Over", "Metric", "Bound", "Gain [interval]", "SD", "Seeds", "Articles"),
        rows,
    )


def _lost(run: Run, repeated: Repeated) -> Iterator[Block]:
    """Yield which trainings left nothing to compare, and why."""
    for started in (e for e in run.all("step_started") if e.get("seed") in repeated["seeds"]):
        seed = started["seed"]
        for judged in run.all("arm_judged", step=started["step"]):
            if judged["reason"] not in ("finished", "gate held"):
                why = f": {judged['detail']}" if judged["detail"] else ""
                text = f"{judged['name']} left no result with seed {seed} ({judged['reason']}{why})"
                yield Paragraph(f"{text}.", "warning")


def _plot(repeated: Repeated, against: Sequence[Mapping[str, Any]]) -> str:
    """Return a row per gain: its seeds, its interval, and its bound."""
    values = {_key(c): _per_seed(repeated, c) for c in against}
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
        said = f"{_title(c)}: {_interval(c)}"
        parts.append(
            f'<text class="name" x="0" y="{middle - 14}">{escape(_title(c))}</text>'
            f'<line class="gate" x1="{x(c["bound"]):.1f}" x2="{x(c["bound"]):.1f}" '
            f'y1="{middle - 10}" y2="{middle + 10}"/>'
            f'<g class="c{models.index(c["model"]) % NUM_COLOURS + 1}"><title>{escape(said)}'
            f'</title><line class="whisker" x1="{x(found["lower"]):.1f}" '
            f'x2="{x(found["upper"]):.1f}" y1="{middle}" y2="{middle}"/>{marks}</g>'
        )
    said = "; ".join(
        f"{_title(c)} {_interval(c)}, bound {number(c['bound'], sign=True)}" for c in against
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


def _per_seed(repeated: Repeated, comparison: Mapping[str, Any]) -> list[float]:
    """Return the gain of every seed that both models have."""
    ours, theirs = (
        {r["seed"]: r[comparison["metric"]] for r in repeated["models"][name]["per_seed"]}
        for name in (comparison["model"], comparison["over"])
    )
    return [ours[seed] - theirs[seed] for seed in comparison["seeds"]]
