"""The tables of a report: every model beside the ladder, and every gate that was judged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lvm.triage.events import ArmJudged, Confirmed, Ladder, Phase1Judged, Settled, StepStarted, TestJudged
from lvm.metrics import METRICS, Shown
from lvm.records import Pool
from lvm.report import Block, Event, Figure, Folded, Paragraph, Run, Table, plots
from lvm.text import NONE, counted, estimate, number, title_of


def models_section(run: Run) -> Iterator[Block]:
    """Yield the test tables: all models, the ladder, unmasked values, the cost of IVF."""
    models, ladder = run.document.models, run.document.ladder
    if not models and not ladder:
        yield Paragraph("No model has been judged on the test split yet.", "note")
        return
    first = (models or list(ladder.values()))[0]
    pool = Pool(**first.pool)
    metrics = [title_of(m) for m in METRICS.shown(Shown.MODELS)]
    fixed = (run.document.get("arm") or {}).get("id")
    rows = [_model_row(run, model) for model in models]
    strong = frozenset(i for i, model in enumerate(models) if model.arm == fixed)
    rows += [_delta_row(run, model) for model in models if model.name != run.baseline]
    rows += [_ladder_row(run, name, row) for name, row in ladder.items()]
    yield Table(
        f"own contexts masked out of the pool; Δ is the difference to {run.baseline}",
        "lrrrl" + "r" * (len(metrics) + 2),
        ("Model", "Epochs", "Dev cosine", "Eval cosine", "Space", *metrics, "P50 ms", "P95 ms"),
        [row for row in rows if row],
        strong,
    )
    yield Paragraph(
        f"Pool {pool.id}, N = {pool.size:,} rows, mask: {pool.mask}, ties: {pool.ties}; chance R@5 "
        f"is {pool.chance(5):.2g}. {counted(first.num_windows, 'window')} of "
        f"{counted(first.num_articles, 'article')}. A cosine in the projected space does not "
        "compare with one in the raw space. The ladder rows are predictors without training; "
        "oracle and random are the ends of the scale.",
        "note",
    )
    if models:
        yield Figure(plots.comparison(run), "Models against the ladder on the test split.")
        lost = list(_ann_table(run))
        more = ", and what approximate search loses" if lost else ""
        yield Folded(f"Nothing masked{more}", [_raw_table(run), *lost])


def _model_row(run: Run, model: Mapping[str, Any]) -> list[str]:
    dev = _dev_of(run, model.arm)
    masked, latency = model.masked, model.latency
    return [
        model_name(model),
        str(model.epochs),
        number(dev.get("eval_cosine")),
        number(masked["eval_cosine"]),
        model.space,
        *_retrieval(masked),
        *(number(latency.get(key), 2) for key in ("p50_ms", "p95_ms")),
    ]


def _dev_of(run: Run, arm: str) -> Mapping[str, Any]:
    """Return what an arm reached on dev when it had trained longest.

    A model of phase 1 may be the control of a step as well, which judges it at an earlier epoch.
    """
    judged = [e for e in run.all(ArmJudged, arm=arm) if e.get("evaluation")]
    latest = max(judged, key=lambda event: event.epoch, default=None)
    found: Mapping[str, Any] = {} if latest is None else latest.evaluation.masked
    return found


def model_name(model: Mapping[str, Any]) -> str:
    """Return what a judged model is called; a confirmation bears the name of its arm."""
    return f"{model.name} (confirmation)" if model.role == "confirm" else str(model.name)


def confirmed_name(run: Run, event: Event) -> str:
    """Return what was confirmed: an arm, or the recipe carried up to and with it."""
    name = str(run.last(TestJudged, arm=event.spec).get("name", event.arm))
    return name if name == event.arm else f"{name} (with {event.arm})"


def is_combination(run: Run, confirmed: Event) -> bool:
    """Whether a confirmation speaks for several steps together, and so for none that was begun."""
    return not run.last(StepStarted, step=confirmed.step)


def added(run: Run, confirmed: Event) -> tuple[str, list[Event]]:
    """Return the best arm alone, and the gains of a combination over it as gates named "adds".

    "" and no gate where nothing was settled, or the confirmation is not that of a combination.
    """
    settled = run.last(Settled) if is_combination(run, confirmed) else {}
    _, best = settled.get("best") or ("", "")
    return str(best), [{**gate, "gate": "adds"} for gate in settled.get("adds", [])]


def _delta_row(run: Run, model: Mapping[str, Any]) -> list[str]:
    """Return the gains of a model over AR-only, with intervals where a gate judged them."""
    base = next((m for m in run.document.models if m.name == run.baseline), None)
    if base is None:
        return []
    judged = run.last(Confirmed, spec=model.arm)
    if model.role == "phase 1":
        judged = run.last(Phase1Judged)
    gates = {g.metric: g for g in judged.get("gates", []) if g.gate == "success"}

    def delta(metric: str, part: str = "masked", digits: int = 3) -> str:
        if part == "masked" and (gates.get(metric) or {}).get("estimate"):
            return estimate(_as_difference(gates[metric]))
        value, other = model[part].get(metric), base[part].get(metric)
        missing = value is None or other is None
        return NONE if missing else number(value - other, digits, sign=True)

    cosine = delta("eval_cosine") if model.space == base.space else NONE
    return [
        f"Δ {model_name(model)}",
        NONE,
        NONE,
        cosine,
        "",
        *(delta(metric) for metric in METRICS.shown(Shown.MODELS)),
        *(delta(key, "latency", 2) for key in ("p50_ms", "p95_ms")),
    ]


def _as_difference(gate: Event) -> Event:
    """Return a judged improvement as the difference that it is: a fall where lower is better."""
    found = gate.estimate
    if gate.metric not in METRICS.names() or METRICS.get(gate.metric).higher_is_better:
        return gate
    turned = {"value": -found.value, "lower": -found.upper, "upper": -found.lower}
    return {**gate, "estimate": {**found, **turned}}


def _ladder_row(run: Run, name: str, row: Mapping[str, Any]) -> list[str]:
    dev = run.last(Ladder, split="dev").get("rows", {}).get(name, {}).get("masked", {})
    masked = row.masked
    return [
        f"ladder: {name}",
        NONE,
        number(dev.get("eval_cosine")),
        number(masked["eval_cosine"]),
        row.space,
        *_retrieval(masked),
        NONE,
        NONE,
    ]


def _raw_table(run: Run) -> Table:
    rows = [[model_name(model), *_retrieval(model.raw)] for model in run.document.models]
    header = ("Model", *map(title_of, METRICS.shown(Shown.MODELS)))
    return Table("the same, nothing masked", "l" + "r" * (len(header) - 1), header, rows)


def _retrieval(metrics: Mapping[str, Any]) -> list[str]:
    return [number(metrics.get(metric)) for metric in METRICS.shown(Shown.MODELS)]


def _ann_table(run: Run) -> Iterator[Block]:
    keys = ("contain_at_50_exact", "contain_at_50_approximate", "difference")
    rows = [
        [model_name(model), *(number(model.ann.get(key)) for key in keys)]
        for model in run.document.models
        if model.ann
    ]
    if rows:
        header = ("Model", "exact", "approximate (IVF)", "lost")
        yield Table("Contain@50 lost to approximate search", "lrrr", header, rows)
