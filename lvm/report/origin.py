"""The path through the tree, the cost, what was not tried, and where the numbers come from."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping
from typing import Any

from lvm.report import (
    Block,
    Event,
    Facts,
    Figure,
    Items,
    Node,
    Paragraph,
    Preformatted,
    Run,
    Table,
    counted,
    number,
    one_line,
    plots,
    seconds,
)
from lvm.report.models import confirmed_name


def tree_section(run: Run) -> Iterator[Block]:
    """Yield the tree with the path taken."""
    nodes = _nodes(run)
    end = str(run.document["headline"]).split(":")[0]
    yield Figure(plots.tree(nodes, end), "The path taken; open circles were not reached.")
    lines = []
    for node in nodes:
        mark, verdict = "●" if node.visited else "○", f": {node.verdict}" if node.verdict else ""
        lines.append(one_line(f"{mark} {node.title}{verdict} - {node.detail}"))
        lines += [one_line(f"├──● {text}: {verdict}") for text, verdict in node.branches]
        lines.append("│" if node.visited else "┆")
    yield Preformatted("\n".join([*lines, f"■ {end}"]), only_markdown=True)


def _nodes(run: Run) -> list[Node]:
    """Return the places of the tree in the order of the run, those not reached last."""
    phase1 = run.document["phase1"]["verdict"] or ""
    names = " and ".join(spec["name"] for spec in run.specs("phase_1"))
    nodes = [Node("Phase 1", names, phase1, bool(names))]
    for step in run.document["steps"]:
        branches = [
            (f"confirmation of {confirmed_name(run, e)}", e["verdict"])
            for e in run.all("confirmed", step=step["step"])
        ]
        detail = f"kept {step['kept']}" if step["kept"] else counted(_num_arms(step), "arm")
        title = f"Step {step['number']}: {step['title']}"
        nodes.append(Node(title, detail, step["stage"] or "", True, branches))
    return nodes + [Node(name, "not tried", "", False) for name in unreached(run)]


def _num_arms(step: Mapping[str, Any]) -> int:
    return sum(arm["role"] == "arm" for arm in step["arms"])


def unreached(run: Run) -> list[str]:
    """Return the names of the planned steps that the run never began."""
    reached = {step["step"] for step in run.document["steps"]}
    return [name for name in run.started.get("plan", []) if name not in reached]


def cost_section(run: Run) -> Iterator[Block]:
    """Yield what each arm cost, and what stopping early saved."""
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


def not_tried_section(run: Run) -> Iterator[Block]:
    """Yield what this run cannot speak of."""
    found = [f"{name}: the run ended before this step." for name in unreached(run)]
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


def origin_section(run: Run) -> Iterator[Block]:
    """Yield data, code, versions, machine, seed and command."""
    started = run.started
    if "environment" not in started:
        yield Paragraph("The journal does not say how the run was started.", "note")
        return
    data, machine = started["data"], started["environment"]
    versions = ", ".join(f"{k} {v}" for k, v in machine["versions"].items())
    articles = data["articles"]
    splits = "; ".join(
        f"{name} {counted(windows, 'window')}"
        + (f" of {counted(articles[name], 'article')}" if name in articles else "")
        for name, windows in data["windows"].items()
    )
    at = datetime.datetime.fromtimestamp(started["at"], datetime.UTC)
    gates = run.gates
    pairs = [
        ("Started", f"{at:%Y-%m-%d %H:%M} UTC"),
        ("Data", f"{data['source']}; {data['rows']:,} vectors of width {data['width']}"),
        ("Data fingerprint", data["fingerprint"] or "not taken: the data was not loaded"),
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
