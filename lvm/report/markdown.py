"""Write the report of a run: `report.md` in plain GitHub Markdown, and `report.html` beside it."""

from __future__ import annotations

import datetime
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lvm.errors import UsageError
from lvm.records import Pool, RunVerdict, Verdict
from lvm.report import (
    NONE,
    Block,
    Event,
    Facts,
    Figure,
    Heading,
    Items,
    Node,
    Paragraph,
    Preformatted,
    Run,
    Section,
    Table,
    counted,
    estimate,
    html,
    number,
    plots,
    seconds,
    title_of,
)

RETRIEVAL = ("r_at_1", "r_at_5", "r_at_10", "mrr", "contain_at_50", "eff_at_5", "percentile")
DEV = ("eval_cosine", "r_at_5", "mrr")


def write_report(events: Sequence[Event], document: Mapping[str, Any], folder: Path) -> Path:
    """Write report.md and report.html into `folder`; return the path of report.md.

    Each file is replaced whole or not at all. `events` is the journal and `document` the verdict
    built from it; an unfinished run gives a report that says so. Raises UsageError when the folder
    cannot be written.
    """
    run = Run(events, document)
    sections = report_sections(run)
    title = str(document["verdict"] or "UNFINISHED")
    _write(folder / "report.html", html.render(sections, title))
    return _write(folder / "report.md", render(sections, title))


def report_sections(run: Run) -> list[Section]:
    """Return everything the report says, verdict first."""
    return [
        Section("verdict", "Verdict", list(_verdict(run))),
        Section("models", "Models on the test split", list(_models(run))),
        Section("gates", "Gates", [_gates(run)]),
        Section("steps", "Step by step", list(_steps(run))),
        Section("tree", "The path through the tree", list(_tree(run))),
        Section("cost", "Cost", list(_cost(run))),
        Section("not-tried", "What was not tried", list(_not_tried(run))),
        Section("origin", "Where the numbers come from", list(_origin(run))),
    ]


# --- verdict -------------------------------------------------------------------------------------


def _verdict(run: Run) -> Iterator[Block]:
    document = run.document
    yield Paragraph(document["headline"], "lead")
    for warning in document.get("warnings", []):
        yield Paragraph(warning, "warning")
    pairs = [("Cause", document.get("cause") or _no_cause(run)), ("Confidence", _confidence(run))]
    if document.get("codes"):
        pairs.append(("Audit codes", ", ".join(document["codes"])))
    compute = document["compute"]
    pairs.append(
        (
            "Cost",
            f"{seconds(compute['train_seconds'])} of training in "
            f"{counted(compute['trials'], 'trial')}; "
            f"{seconds(compute['saved_seconds'])} saved by gates and pruning",
        )
    )
    changes = _changes(run)
    text, command = _next(run, bool(changes))
    yield Facts([*pairs, ("Next", text)])
    if changes and document.get("arm"):
        lines = [f"{key} = {json.dumps(value)}" for key, value in changes.items()]
        yield Preformatted("# fix.toml: what to change in the recipe\n" + "\n".join(lines))
    yield Preformatted(command)


def _no_cause(run: Run) -> str:
    return "none found" if run.document["verdict"] else "not known yet"


def _confidence(run: Run) -> str:
    """Describe the success gate that stands behind the verdict, or the one that came nearest."""
    arm = run.document.get("arm") or {}
    candidates = [(run.unchanged.get("name", "phase 1"), run.last("phase_1_judged"))]
    candidates += [(_confirmed_name(run, event), event) for event in run.all("confirmed")]
    if arm:
        candidates = [(arm["name"], arm)]
    name, event = max(candidates, key=lambda item: _nearest(item[1]))
    gates = [g for g in event.get("gates", []) if g["gate"] == "success" and g["estimate"]]
    if not gates:
        return "no success gate has been judged"
    parts = [
        f"{title_of(g['metric'])} {estimate(g)} against {number(g['bound'], sign=True)}: "
        f"{g['verdict']}"
        for g in gates
    ]
    level, articles = gates[0]["estimate"]["confidence"], gates[0]["estimate"]["num_articles"]
    return (
        f"gain of {name} over {run.baseline} on the test split: {'; '.join(parts)} "
        f"({level:.0%} intervals over {counted(articles, 'article')}; one PASS is enough)"
    )


def _nearest(event: Mapping[str, Any]) -> tuple[int, float]:
    """Return how near a judged model came, for ordering: by verdict, then by its gain in R@5."""
    found = [g for g in event.get("gates", []) if g["gate"] == "success" and g["estimate"]]
    gained = [g["estimate"]["value"] for g in found if g["metric"] == "r_at_5"]
    rank = {Verdict.PASS: 3, Verdict.INCONCLUSIVE: 2, Verdict.FAIL: 1}
    return rank.get(event.get("verdict", ""), 0), max(gained, default=-1.0)


def _next(run: Run, changed: bool) -> tuple[str, str]:
    """Return what to do next and the command for it."""
    job = "python tune_jobs/triage.py"
    match run.document["verdict"]:
        case RunVerdict.FIXED if changed:
            return (
                "save the changes below as fix.toml and judge them on data this run has not seen; "
                f"the checkpoint is {run.document['arm']['checkpoint']}",
                f"{job} --recipe fix.toml --data BANK",
            )
        case RunVerdict.PASSED | RunVerdict.FIXED:
            return "judge the recipe on data this run has not seen", f"{job} --data BANK"
        case RunVerdict.BLOCKED:
            return "repair what the audit names, then start again", run.started.get("command", job)
        case RunVerdict.INCONCLUSIVE:
            return "give a bank with more articles: they narrow the interval", f"{job} --data BANK"
        case RunVerdict.NOT_FIXED:
            text = "see what was not tried; change the recipe accordingly and start again"
            return text, f"{job} --recipe FILE"
        case _:
            return "go on with the run", str(run.document["resume"])


def _changes(run: Run) -> dict[str, Any]:
    """Return the dotted recipe keys in which the fix differs from the base recipe."""
    recipe = (run.document.get("arm") or {}).get("recipe") or {}
    base = _flat(run.started.get("config", {}).get("recipe", {}))
    return {k: v for k, v in _flat(recipe).items() if v != base.get(k)}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        nested = isinstance(value, Mapping)
        flat |= _flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat


# --- models and gates ----------------------------------------------------------------------------


def _models(run: Run) -> Iterator[Block]:
    models, ladder = run.document["models"], run.document["ladder"]
    if not models and not ladder:
        yield Paragraph("No model has been judged on the test split yet.", "note")
        return
    first = (models or list(ladder.values()))[0]
    pool = Pool(**first["pool"])
    metrics = [title_of(m) for m in RETRIEVAL]
    fixed = (run.document.get("arm") or {}).get("id")
    rows = [_model_row(run, model) for model in models]
    strong = frozenset(i for i, model in enumerate(models) if model["arm"] == fixed)
    rows += [_delta_row(run, model) for model in models if model["name"] != run.baseline]
    rows += [_ladder_row(run, name, row) for name, row in ladder.items()]
    yield Table(
        f"own contexts masked out of the pool; Δ is the difference to {run.baseline}",
        "lrrrl" + "r" * (len(RETRIEVAL) + 2),
        ("Model", "Epochs", "Dev cosine", "Eval cosine", "Space", *metrics, "P50 ms", "P95 ms"),
        [row for row in rows if row],
        strong,
    )
    yield Paragraph(
        f"Pool {pool.id}, N = {pool.size:,} rows, mask: {pool.mask}, ties: {pool.ties}; chance R@5 "
        f"is {pool.chance(5):.2g}. {counted(first['num_windows'], 'window')} of "
        f"{counted(first['num_articles'], 'article')}. A cosine in the projected space does not "
        "compare with one in the raw space. The ladder rows are predictors without training; "
        "oracle and random are the ends of the scale.",
        "note",
    )
    if models:
        yield Figure(plots.comparison(run), "Models against the ladder on the test split.")
        yield _raw_table(run)
        yield from _ann_table(run)


def _model_row(run: Run, model: Mapping[str, Any]) -> list[str]:
    dev = (run.last("arm_judged", arm=model["arm"]).get("evaluation") or {}).get("masked", {})
    masked, latency = model["masked"], model["latency"]
    return [
        _model_name(model), str(model["epochs"]), number(dev.get("eval_cosine")),
        number(masked["eval_cosine"]), model["space"],
        *(number(masked.get(metric)) for metric in RETRIEVAL),
        *(number(latency.get(key), 2) for key in ("p50_ms", "p95_ms")),
    ]  # fmt: skip


def _model_name(model: Mapping[str, Any]) -> str:
    return f"{model['name']} (confirmation)" if model["role"] == "confirm" else str(model["name"])


def _confirmed_name(run: Run, event: Event) -> str:
    """Return what was confirmed: an arm, or the recipe carried up to and with it."""
    name = str(run.last("test_judged", arm=event["spec"]).get("name", event["arm"]))
    return name if name == event["arm"] else f"{name} (with {event['arm']})"


def _delta_row(run: Run, model: Mapping[str, Any]) -> list[str]:
    """Return the gains of a model over AR-only, with intervals where a gate judged them."""
    base = next((m for m in run.document["models"] if m["name"] == run.baseline), None)
    if base is None:
        return []
    judged = run.last("confirmed", spec=model["arm"])
    if model["role"] == "phase 1":
        judged = run.last("phase_1_judged")
    gates = {g["metric"]: g for g in judged.get("gates", []) if g["gate"] == "success"}

    def delta(metric: str, part: str = "masked", digits: int = 3) -> str:
        if part == "masked" and (gates.get(metric) or {}).get("estimate"):
            return estimate(gates[metric])
        value, other = model[part].get(metric), base[part].get(metric)
        missing = value is None or other is None
        return NONE if missing else number(value - other, digits, sign=True)

    cosine = delta("eval_cosine") if model["space"] == base["space"] else NONE
    return [
        f"Δ {_model_name(model)}", NONE, NONE, cosine, "",
        *(delta(metric) for metric in RETRIEVAL),
        *(delta(key, "latency", 2) for key in ("p50_ms", "p95_ms")),
    ]  # fmt: skip


def _ladder_row(run: Run, name: str, row: Mapping[str, Any]) -> list[str]:
    dev = run.last("ladder", split="dev").get("rows", {}).get(name, {}).get("masked", {})
    masked = row["masked"]
    return [
        f"ladder: {name}", NONE, number(dev.get("eval_cosine")), number(masked["eval_cosine"]),
        row["space"], *(number(masked.get(metric)) for metric in RETRIEVAL), NONE, NONE,
    ]  # fmt: skip


def _raw_table(run: Run) -> Table:
    rows = [
        [_model_name(model), *(number(model["raw"].get(metric)) for metric in RETRIEVAL)]
        for model in run.document["models"]
    ]
    header = ("Model", *(title_of(metric) for metric in RETRIEVAL))
    return Table("the same, nothing masked", "l" + "r" * len(RETRIEVAL), header, rows)


def _ann_table(run: Run) -> Iterator[Block]:
    keys = ("contain_at_50_exact", "contain_at_50_approximate", "difference")
    rows = [
        [_model_name(model), *(number(model["ann"].get(key)) for key in keys)]
        for model in run.document["models"]
        if model["ann"]
    ]
    if rows:
        header = ("Model", "exact", "approximate (IVF)", "lost")
        yield Table("Contain@50 lost to approximate search", "lrrr", header, rows)


def _gates(run: Run) -> Block:
    base = f"{run.unchanged.get('name', 'predictions')} (phase 1)"
    rows = [(base, "test", gate) for gate in run.last("phase_1_judged").get("gates", [])]
    for step in run.document["steps"]:
        rows += [(arm["name"], "dev", arm["stage"]) for arm in step["arms"] if arm["stage"]]
        for event in run.all("confirmed", step=step["step"]):
            rows += [
                (f"{_confirmed_name(run, event)} (confirmation)", "test", g) for g in event["gates"]
            ]
    if not rows:
        return Paragraph("No gate has been judged yet.", "note")
    return Table(
        "every gate that was judged; the gains of arms over their control are in the steps",
        "llllrrrll",
        ("Model or arm", "Split", "Gate", "Metric", "Bound", "Value [interval]", "Articles",
         "Verdict", "Reason"),
        [_gate_row(*row) for row in rows],
    )  # fmt: skip


def _gate_row(name: str, split: str, gate: Mapping[str, Any]) -> list[str]:
    found = gate["estimate"]
    bound = number(gate["bound"], sign=gate["gate"] != "stage") if found else NONE
    articles = f"{found['num_articles']:,}" if found else NONE
    return [
        name, split, gate["gate"], title_of(gate["metric"]), bound, estimate(gate), articles,
        gate["verdict"], gate["reason"],
    ]  # fmt: skip


# --- steps ---------------------------------------------------------------------------------------


def _steps(run: Run) -> Iterator[Block]:
    if run.specs("phase_1"):
        yield from _phase1(run)
    for step in run.document["steps"]:
        yield from _step(run, step)
    for name in _unreached(run):
        yield Heading(f"{name}: not tried")


def _phase1(run: Run) -> Iterator[Block]:
    verdict = run.document["phase1"]["verdict"]
    started = run.last("step_started", step="phase_1")
    yield Heading("Phase 1: does the base recipe beat AR-only?", "success gate", verdict or "")
    rows = []
    for spec in started["arms"]:
        judged = run.last("arm_judged", arm=spec["id"], step="phase_1")
        rows.append([spec["name"], *_ran(run, spec, judged), *_dev_numbers(run, spec, judged)])
    header = ("Model", "Epochs", "Ended", *(f"dev {title_of(m)}" for m in DEV))
    yield Table("the two models of phase 1", "lllrrr", header, rows)
    yield Figure(plots.step_curves(run, "phase_1"), "Phase 1, per epoch on the dev split.")
    if verdict is None:
        yield Paragraph("Phase 1 had not been judged when this was written.", "note")


def _step(run: Run, step: Mapping[str, Any]) -> Iterator[Block]:
    yield Heading(f"Step {step['number']}: {step['title']}", "stage gate", step["stage"] or "")
    carried = ", ".join(f"{arm} ({run.title(name)})" for name, arm in step["carried"])
    yield Facts(
        [
            ("Question", step["question"]),
            ("Hypothesis of the failure report", step["hypothesis"]),
            ("Starts from", f"the base recipe with {carried}" if carried else "the base recipe"),
        ]
    )
    specs = {spec["id"]: spec for spec in run.specs(step["step"])}
    if step["arms"]:
        yield _tried_table(run, step, specs)
        yield _dev_table(run, step, specs)
        curves = plots.step_curves(run, step["step"])
        yield Figure(curves, f"{step['title']}, per epoch on the dev split.")
    yield from _items(
        "Rungs", (_rung(event, specs) for event in run.all("rung", step=step["step"]))
    )
    yield from _items("Left out", (f"{n}: {reason}" for n, reason in step["left_out"].items()))
    yield from _items("Gate conflicts", (_conflict(step, name) for name in step["conflicts"]))
    yield from _items("Outcome", _outcome(run, step))


def _items(label: str, items: Iterator[str]) -> Iterator[Block]:
    found = list(items)
    if found:
        yield Items(label, found)


def _tried_table(run: Run, step: Mapping[str, Any], specs: Mapping[str, Any]) -> Table:
    rows = []
    for arm in step["arms"]:
        changes = ", ".join(f"{key} = {value}" for key, value in arm["changes"].items())
        ran = _ran(run, specs[arm["id"]], arm if arm["reason"] else {})
        rows.append([arm["name"], changes or "nothing", arm["why"], *ran])
    header = ("Arm", "Change", "Why", "Epochs", "Ended")
    return Table("what was tried", "lllll", header, rows)


def _ran(run: Run, spec: Mapping[str, Any], judged: Mapping[str, Any]) -> list[str]:
    """Return how far an arm went and why it ended there."""
    epochs = judged.get("epochs_run", max(run.curve(spec["id"]), default=0))
    went = f"{epochs} of {spec['recipe']['training']['epochs']}"
    if spec["source"] is not None:
        went = "no training"
    if not judged:
        return [went, "had not ended"]
    at = "" if spec["source"] is not None else f" at epoch {judged['epoch']}"
    return [went, f"{judged['reason']}{at}" + (f": {judged['detail']}" if judged["detail"] else "")]


def _measured(
    run: Run, spec: Mapping[str, Any], judged: Mapping[str, Any]
) -> Mapping[str, float | None]:
    """Return the dev metrics of an arm at the epoch that counts, or so far."""
    if judged.get("reason"):
        evaluation: Mapping[str, Any] = judged["evaluation"] or {}
        masked: Mapping[str, float | None] = evaluation.get("masked", {})
        return masked
    curve = run.curve(spec["id"])
    return curve[max(curve)] if curve else {}


def _dev_numbers(run: Run, spec: Mapping[str, Any], judged: Mapping[str, Any]) -> list[str]:
    measured = _measured(run, spec, judged)
    return [number(measured.get(metric)) for metric in DEV]


def _dev_table(run: Run, step: Mapping[str, Any], specs: Mapping[str, Any]) -> Table:
    rows = []
    for arm in step["arms"]:
        spec = specs[arm["id"]]
        own, control = _measured(run, spec, arm), _control(run, step, spec, arm)
        cells = []
        for metric in DEV:
            split = metric == "eval_cosine" and spec["recipe"]["search_space"] != _space(run)
            mark = f" ({spec['recipe']['search_space']})" if split else ""
            cells += [number(own.get(metric)) + mark]
            cells += [NONE if split else number(control.get(metric))]
        gains = {g["metric"]: g for g in arm["gains"] or []}
        found = [gains.get(metric) for metric in DEV[1:]]
        cells.append((arm["stage"] or {}).get("verdict", NONE))
        cells += [f"{g['verdict']} {estimate(g)}" if g else NONE for g in found]
        rows.append([arm["name"], *cells])
    numbers = [word for m in DEV for word in (title_of(m), "control")]
    header = ("Arm", *numbers, "Stage gate", *(f"gain in {title_of(m)}" for m in DEV[1:]))
    caption = "dev split, at the epoch where each arm ended; the control at the same epoch"
    return Table(caption, "lrrrrrrlll", header, rows)


def _space(run: Run) -> str:
    space: str = run.started.get("config", {}).get("recipe", {}).get("search_space", "raw")
    return space


def _control(
    run: Run, step: Mapping[str, Any], spec: Mapping[str, Any], arm: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Return the control's record at the arm's own epoch; a searched model has the model itself."""
    if arm["role"] == "control" or arm["epoch"] is None:
        return {}
    if spec["source"] is not None:
        curve = run.curve(run.unchanged.get("id", ""))
        return curve[max(curve)] if curve else {}
    control = next((a["id"] for a in step["arms"] if a["role"] == "control"), "")
    return run.curve(control).get(arm["epoch"], {})


def _rung(event: Event, specs: Mapping[str, Any]) -> str:
    def names(arms: Sequence[str]) -> str:
        return ", ".join(specs[arm]["name"] for arm in arms)

    values = "; ".join(f"{specs[a]['name']} {number(v)}" for a, v in event["values"].items())
    text = f"epoch {event['epoch']}: dev cosine {values}."
    if event["cutoff"] is not None:
        text += f" Cutoff {number(event['cutoff'])}, pruned: {names(event['pruned']) or 'none'}."
    if event["held"]:
        text += f" The stage gate is held by {names(event['held'])}; the step ends."
    return text


def _conflict(step: Mapping[str, Any], name: str) -> str:
    arm = next(arm for arm in step["arms"] if arm["name"] == name)
    gain = next(g for g in arm["gains"] if g["metric"] == "r_at_5")
    stage = arm["stage"]
    return (
        f"{name} fails the stage gate ({title_of(stage['metric'])} {stage['reason']}), "
        f"yet beats its control at R@5 by {estimate(gain)}."
    )


def _outcome(run: Run, step: Mapping[str, Any]) -> Iterator[str]:
    """Say what the step decided: confirmed, kept, ruled out, or nothing."""
    confirmed = run.all("confirmed", step=step["step"])
    for event in confirmed:
        gates = "; ".join(
            f"{g['gate']} {title_of(g['metric'])} {estimate(g)} {g['verdict']}"
            for g in event["gates"]
        )
        yield f"Confirmation of {_confirmed_name(run, event)}: {event['verdict']} ({gates})."
    if step["kept"]:
        yield f"Kept: {step['kept']} beats its control, and later steps may start from it."
    elif step["stage"] is None:
        yield "This step had not ended when this was written."
    elif not step["arms"]:
        yield "Nothing could be tried, so nothing is ruled out."
    elif step["stage"] == Verdict.NOT_EVALUABLE:
        yield "No arm could be judged, so nothing is ruled out."
    elif step["stage"] == Verdict.FAIL or any(e["verdict"] == Verdict.FAIL for e in confirmed):
        yield f"Ruled out as a cause on its own, for the arms above: {step['rules_out']}."
    elif not confirmed:
        yield f"Not confirmed yet: {step['candidate']}."
    elif all(event["verdict"] != Verdict.PASS for event in confirmed):
        yield "Nothing is ruled out: the interval crosses the bound."


# --- tree, cost, what is missing, origin ---------------------------------------------------------


def _tree(run: Run) -> Iterator[Block]:
    nodes = _nodes(run)
    end = str(run.document["headline"]).split(":")[0]
    yield Figure(plots.tree(nodes, end), "The path taken; open circles were not reached.")
    lines = []
    for node in nodes:
        mark, verdict = "●" if node.visited else "○", f": {node.verdict}" if node.verdict else ""
        lines.append(_line(f"{mark} {node.title}{verdict} - {node.detail}"))
        lines += [_line(f"├──● {text}: {verdict}") for text, verdict in node.branches]
        lines.append("│" if node.visited else "┆")
    yield Preformatted("\n".join([*lines, f"■ {end}"]), only_markdown=True)


def _nodes(run: Run) -> list[Node]:
    """Return the places of the tree in the order of the run, those not reached last."""
    phase1 = run.document["phase1"]["verdict"] or ""
    names = " and ".join(spec["name"] for spec in run.specs("phase_1"))
    nodes = [Node("Phase 1", names, phase1, bool(names))]
    for step in run.document["steps"]:
        branches = [
            (f"confirmation of {_confirmed_name(run, e)}", e["verdict"])
            for e in run.all("confirmed", step=step["step"])
        ]
        detail = f"kept {step['kept']}" if step["kept"] else counted(_num_arms(step), "arm")
        title = f"Step {step['number']}: {step['title']}"
        nodes.append(Node(title, detail, step["stage"] or "", True, branches))
    return nodes + [Node(name, "not tried", "", False) for name in _unreached(run)]


def _num_arms(step: Mapping[str, Any]) -> int:
    return sum(arm["role"] == "arm" for arm in step["arms"])


def _unreached(run: Run) -> list[str]:
    reached = {step["step"] for step in run.document["steps"]}
    return [name for name in run.started.get("plan", []) if name not in reached]


def _cost(run: Run) -> Iterator[Block]:
    epochs: dict[tuple[str, int], Event] = {}
    for event in run.all("epoch"):
        epochs[event["arm"], event["epoch"]] = event
    steps: dict[str, list[Event]] = {}
    for event in epochs.values():
        steps.setdefault(event["step"], []).append(event)
    rows = [
        [run.title(step), str(len({e["arm"] for e in events})),
         str(sum(e["epoch"] > 0 for e in events)),
         number(sum(e.get("seconds") or 0.0 for e in events), 1)]
        for step, events in steps.items()
    ]  # fmt: skip
    compute = run.document["compute"]
    total = str(sum(int(row[2]) for row in rows))
    rows.append(["all", str(compute["trials"]), total, number(compute["train_seconds"], 1)])
    header = ("Part", "Trials", "Epochs", "Training s")
    strong = frozenset({len(rows) - 1})
    yield Table("where the training went", "lrrr", header, rows, strong)
    yield Paragraph(
        f"Wall time {seconds(compute.get('wall_seconds', 0.0))}, interruptions included. Gates and "
        f"pruning saved {seconds(compute['saved_seconds'])} of training. An arm that two steps "
        "share was trained once and counts in the first.",
        "note",
    )


def _not_tried(run: Run) -> Iterator[Block]:
    found = [f"{name}: the run ended before this step." for name in _unreached(run)]
    for step in run.document["steps"]:
        found += [f"{n} ({step['title']}): {why}" for n, why in step["left_out"].items()]
        for arm in step["arms"]:
            if arm["role"] == "arm" and arm["reason"] not in ("finished", "gate held"):
                why = f"{arm['reason']} at epoch {arm['epoch']}" if arm["reason"] else "not ended"
                found.append(f"{arm['name']} ({step['title']}) to its full budget: {why}.")
    recipe = run.started.get("config", {}).get("recipe", {})
    if recipe:
        found += [
            f"Another seed: every number is from seed {recipe['seed']}.",
            f"Another network: every arm is {recipe['model']['name']}, hidden "
            f"{recipe['model']['hidden']}, {counted(recipe['model']['num_layers'], 'layer')}.",
            f"Another context length: every window has {recipe['context_length']} vectors.",
        ]
    yield Items("A verdict holds for what was tried. This was not", found)


def _origin(run: Run) -> Iterator[Block]:
    started = run.started
    if "environment" not in started:
        yield Paragraph("The journal does not say how the run was started.", "note")
        return
    data, machine = started["data"], started["environment"]
    versions = ", ".join(f"{k} {v}" for k, v in machine["versions"].items())
    splits = "; ".join(
        f"{name} {counted(windows, 'window')} of {counted(data['articles'][name], 'article')}"
        for name, windows in data["windows"].items()
    )
    at = datetime.datetime.fromtimestamp(started["at"], datetime.UTC)
    gates = run.gates
    pairs = [
        ("Started", f"{at:%Y-%m-%d %H:%M} UTC"),
        ("Data", f"{data['source']}; {data['rows']:,} vectors of width {data['width']}"),
        ("Data fingerprint", data["fingerprint"]),
        ("Splits", splits),
        ("Seed", str(started["config"]["recipe"]["seed"])),
        ("Gates", f"stage: dev cosine >= {gates['stage_eval_cosine']:g}; success: R@5 "
         f"+{gates['success_r_at_5']:g} or MRR +{gates['success_mrr']:g} over {run.baseline}; "
         f"{gates['confidence']:.0%} intervals from {gates['resamples']:,} resamples of articles"),
        ("Code version", started["code"]),
        ("Commit", started["commit"] or "no git checkout"),
        ("Versions", versions),
        ("Machine", f"{machine['platform']}, {machine['cpus']} CPUs, "
         f"{machine['memory_gib']} GiB"),
    ]  # fmt: skip
    resumed = len(run.all("resumed"))
    if resumed:
        pairs.append(("Resumed", counted(resumed, "time")))
    yield Facts(pairs)
    yield Preformatted(started["command"])


# --- Markdown ------------------------------------------------------------------------------------


def render(sections: Sequence[Section], verdict: str) -> str:
    """Return the sections as GitHub Markdown."""
    parts = [f"# Triage report: {plain(verdict)}"]
    for section in sections:
        parts.append(f"## {plain(section.title)}")
        parts += [text for block in section.blocks if (text := _block(block))]
    return "\n\n".join(parts) + "\n"


def _block(block: Block) -> str:
    match block:
        case Paragraph(text=text, tone="lead"):
            return f"**{plain(text)}**"
        case Paragraph(text=text, tone="warning"):
            return f"> **Warning:** {plain(text)}"
        case Paragraph(text=text):
            return plain(text)
        case Heading(text=text, verdict=""):
            return f"### {plain(text)}"
        case Heading(text=text, gate=gate, verdict=verdict):
            return f"### {plain(text)} ({plain(gate)}: {plain(verdict)})"
        case Items(label=label, items=items):
            return "\n".join([f"{plain(label)}:", "", *(f"- {plain(item)}" for item in items)])
        case Facts(pairs=pairs):
            return "\n".join(f"- **{plain(key)}**: {plain(value)}" for key, value in pairs)
        case Preformatted(text=text):
            fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
            return f"{fence}text\n{text}\n{fence}"
        case Table():
            return _table(block)
        case Figure():
            return ""


def _table(table: Table) -> str:
    rule = "|".join(" --- " if letter == "l" else " ---: " for letter in table.align)
    lines = [
        f"{plain(table.caption[:1].upper() + table.caption[1:])}:",
        "",
        _row(table.header),
        f"|{rule}|",
    ]
    for index, row in enumerate(table.rows):
        cells = [plain(cell) for cell in row]
        if index in table.strong:
            cells = [f"**{cell}**" if cell else "" for cell in cells]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(plain(cell) for cell in cells)} |"


_MARKUP = re.compile(
    r"[\\`*|$~<]|(?<!\w)_|_(?!\w)|\](?=\()|&(?=#?\w+;)|^>|^(?:[#+-]|\d+[.)])(?=\s)"
)


def plain(text: str) -> str:
    """Return text that Markdown shows as it is, on one line."""
    return _MARKUP.sub(lambda found: f"{found[0][:-1]}\\{found[0][-1]}", _line(text))


def _line(text: str) -> str:
    return " ".join(text.split())


def _write(path: Path, text: str) -> Path:
    fresh = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_bytes(text.encode("utf-8", "backslashreplace"))
        os.replace(fresh, path)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written ({error.strerror}); free some space or make the folder "
            "writable, then go on with --resume."
        ) from None
    return path
