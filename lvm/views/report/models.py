"""The tables of a report: every model and the ladder, and every gate that was judged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from lvm.core.metrics import METRICS, Shown
from lvm.core.records import Evaluation, GateResult
from lvm.core.text import NONE, counted, estimate, number, title_of
from lvm.triage.events import ArmJudged, Confirmed, Settled, StepStarted, TestJudged
from lvm.triage.state import RunState
from lvm.triage.summary import ModelShown
from lvm.views.report import Block, Figure, Folded, Paragraph, Run, Table, plots


def models_section(run: Run) -> Iterator[Block]:
    """Yield the test tables: all models, the ladder, unmasked values, the cost of IVF."""
    models, ladder = run.summary.models, run.summary.ladder
    if not models and not ladder:
        yield Paragraph("No model has been judged on the test split yet.", "note")
        return
    first = models[0] if models else next(iter(ladder.values()))
    pool = first.pool
    metrics = [title_of(m) for m in METRICS.shown(Shown.MODELS)]
    fixed = run.summary.arm.id if run.summary.arm else None
    rows = [_model_row(run, model) for model in models]
    strong = frozenset(i for i, model in enumerate(models) if model.arm == fixed)
    rows += [_delta_row(run, model) for model in models if model.name != run.baseline]
    rows += [_ladder_row(run, name, row) for name, row in ladder.items()]
    yield Table(
        f"own contexts masked out of the pool; Δ is the difference from {run.baseline}",
        "lrrrl" + "r" * (len(metrics) + 2),
        ("Model", "Epochs", "Dev cosine", "Eval cosine", "Space", *metrics, "P50 ms", "P95 ms"),
        [row for row in rows if row],
        strong,
    )
    yield Paragraph(
        f"Pool {pool.id}, N = {pool.size:,} rows, mask: {pool.mask}, ties: {pool.ties}; chance "
        f"R@5 is {pool.chance(5):.2g}. {counted(first.num_windows, 'window')} of "
        f"{counted(first.num_articles, 'article')}. A cosine in the projected space does not "
        "compare with one in the raw space. The ladder rows are untrained baselines; oracle "
        "and random are the ends of the scale.",
        "note",
    )
    if models:
        yield Figure(plots.comparison(run), "Models against the ladder on the test split.")
        lost = list(_ann_table(run))
        more = ", and the loss from approximate search" if lost else ""
        yield Folded(f"Nothing masked{more}", [_raw_table(run), *lost])


def _model_row(run: Run, model: ModelShown) -> list[str]:
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


def _dev_of(run: Run, arm: str) -> Mapping[str, float | None]:
    """Return the dev metrics of an arm after its longest training.

    A model of phase 1 may also be the control of a step, which judges it at an earlier epoch.
    """
    judged = [(e.epoch, e.evaluation) for e in run.state.of(ArmJudged, arm=arm) if e.evaluation]
    _, latest = max(judged, key=lambda found: found[0], default=(0, None))
    return latest.masked if latest else {}


def model_name(model: ModelShown | TestJudged) -> str:
    """Return the name of a judged model; a confirmation has the name of its arm."""
    return f"{model.name} (confirmation)" if model.role == "confirm" else model.name


def confirmed_name(run: Run, event: Confirmed) -> str:
    """Return what was confirmed: an arm, or an arm with the changes carried into it."""
    test = run.state.last(TestJudged, arm=event.spec)
    name = test.name if test else event.arm
    return name if name == event.arm else f"{name} (with {event.arm})"


def is_combination(state: RunState, confirmed: Confirmed) -> bool:
    """Whether this confirms a combination rather than a single step."""
    return state.last(StepStarted, step=confirmed.step) is None


def added(state: RunState, confirmed: Confirmed) -> tuple[str, list[GateResult]]:
    """Return the best arm alone, and the gains of a combination over it as gates named "adds".

    "" and no gate where nothing was settled, or the confirmation is of a single step.
    """
    settled = state.last(Settled) if is_combination(state, confirmed) else None
    if settled is None:
        return "", []
    _, best = settled.best or ("", "")
    return best, [replace(gate, gate="adds") for gate in settled.adds]


def _delta_row(run: Run, model: ModelShown) -> list[str]:
    """Return the gains of a model over AR-only, with intervals where a gate judged them."""
    base = next((m for m in run.summary.models if m.name == run.baseline), None)
    if base is None:
        return []
    confirmed = run.state.last(Confirmed, spec=model.arm)
    judged = run.summary.phase1.gates if model.role == "phase 1" else ()
    found = confirmed.gates if confirmed and not judged else judged
    gates = {g.metric: g for g in found if g.gate == "success" and g.estimate}

    def delta(metric: str) -> str:
        if metric in gates:
            return estimate(_as_difference(gates[metric]))
        return _difference(model.masked.get(metric), base.masked.get(metric))

    cosine = delta("eval_cosine") if model.space == base.space else NONE
    latency = ((model.latency.get(key), base.latency.get(key)) for key in ("p50_ms", "p95_ms"))
    return [
        f"Δ {model_name(model)}",
        NONE,
        NONE,
        cosine,
        "",
        *(delta(metric) for metric in METRICS.shown(Shown.MODELS)),
        *(_difference(own, other, 2) for own, other in latency),
    ]


def _difference(own: float | None, other: float | None, digits: int = 3) -> str:
    if own is None or other is None:
        return NONE
    return number(own - other, digits, sign=True)


def _as_difference(gate: GateResult) -> GateResult:
    """Return a judged improvement as a signed difference: a fall where lower is better."""
    found = gate.estimate
    known = gate.metric in METRICS.names()
    if found is None or not known or METRICS.get(gate.metric).higher_is_better:
        return gate
    turned = replace(found, value=-found.value, lower=-found.upper, upper=-found.lower)
    return replace(gate, estimate=turned)


def _ladder_row(run: Run, name: str, row: Evaluation) -> list[str]:
    dev, masked = run.rungs("dev").get(name), row.masked
    return [
        f"ladder: {name}",
        NONE,
        number(dev.masked.get("eval_cosine") if dev else None),
        number(masked["eval_cosine"]),
        row.space,
        *_retrieval(masked),
        NONE,
        NONE,
    ]


def _raw_table(run: Run) -> Table:
    rows = [[model_name(model), *_retrieval(model.raw)] for model in run.summary.models]
    header = ("Model", *map(title_of, METRICS.shown(Shown.MODELS)))
    return Table("same, nothing masked", "l" + "r" * (len(header) - 1), header, rows)


def _retrieval(metrics: Mapping[str, float | None]) -> list[str]:
    return [number(metrics.get(metric)) for metric in METRICS.shown(Shown.MODELS)]


def _ann_table(run: Run) -> Iterator[Block]:
    keys = ("contain_at_50_exact", "contain_at_50_approximate", "difference")
    rows = [
        [model_name(model), *(number(model.ann.get(key)) for key in keys)]
        for model in run.summary.models
        if model.ann
    ]
    if rows:
        header = ("Model", "exact", "approximate (IVF)", "lost")
        yield Table("Contain@50 lost to approximate search", "lrrr", header, rows)
