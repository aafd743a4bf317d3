"""What was not tried, and where the numbers come from."""

from __future__ import annotations

import datetime
from collections.abc import Iterator

from lvm.core.few import tally
from lvm.core.text import counted, title_of
from lvm.triage.events import Resumed, StepStarted, Tidied
from lvm.triage.events.parts import DataSeen
from lvm.triage.step import steps_in_order
from lvm.triage.summary import StepShown
from lvm.views.report import Block, Facts, Items, Preformatted, Run
from lvm.views.report.many import ARMS, ends


def unreached(run: Run) -> list[str]:
    """Return the names of the planned steps that the run never began."""
    reached = {step.step for step in run.summary.steps}
    return [name for name in run.started.plan if name not in reached]


def not_asked(run: Run) -> list[str]:
    """Return the names of the steps that a person left out of --steps."""
    if not run.started.arguments.steps:
        return []
    own = [step.name for step in run.started.config.steps]
    known = [step.name for step in steps_in_order()] + own
    return [name for name in known if name not in run.started.plan]


def not_tried_section(run: Run) -> Iterator[Block]:
    """Yield what this run did not cover."""
    found = [f"{name}: the run ended before this step." for name in unreached(run)]
    found += [f"{name}: it was not among --steps." for name in not_asked(run)]
    for step in run.summary.steps:
        found += [f"{n} ({step.title}): {why}" for n, why in step.left_out.items()]
        found += _cut_short(step)
    found += _never_varied(run)
    yield Items("A verdict holds only for what was tried. Not tried", found)


def _cut_short(step: StepShown) -> list[str]:
    """Return the arms of a step that did not train to their budget, the first of many."""
    ended = ("finished", "gate held")
    arms = [a for a in step.arms if a.role == "arm" and a.reason not in ended]
    found = []
    for arm in arms[:ARMS]:
        why = f"{arm.reason} at epoch {arm.epoch}" if arm.reason else "not ended"
        found.append(f"{arm.name} ({step.title}) to its full budget: {why}.")
    if rest := arms[ARMS:]:
        counts = f"{counted(len(rest), 'more arm')} ({step.title}) to their full budget"
        found.append(f"{counts}: {tally(ends(rest))}.")
    return found


def _never_varied(run: Run) -> list[str]:
    """Return the settings that were the same in every arm of the run."""
    recipes = [spec.recipe for step in run.state.of(StepStarted) for spec in step.arms]
    recipes = recipes or [run.started.config.recipe]
    first, found = recipes[0], []
    if len({recipe.seed for recipe in recipes}) == 1:
        found.append(f"Another seed: every number is from seed {first.seed}.")
    if first.trainer is not None:
        found.append("Another network: every arm is trained by the same code.")
    elif len({recipe.model.name for recipe in recipes}) == 1:
        layers = counted(first.model.num_layers, "layer")
        found.append(
            f"Another network: every arm is {first.model.name}, hidden "
            f"{first.model.hidden}, {layers}."
        )
    if len({recipe.context_length for recipe in recipes}) == 1:
        found.append(f"Another context length: every window has {first.context_length} vectors.")
    return found


def origin_section(run: Run) -> Iterator[Block]:
    """Yield data, code, versions, machine, seed and command."""
    started = run.started
    data, machine = started.data, started.environment
    versions = ", ".join(f"{k} {v}" for k, v in machine.versions.items())
    at = datetime.datetime.fromtimestamp(started.at, datetime.UTC)
    gates = started.config.gates
    bounds = " or ".join(f"{title_of(m)} +{b:g}" for m, b in gates.success_bounds.items())
    pairs = [
        ("Started", f"{at:%Y-%m-%d %H:%M} UTC"),
        ("Data", f"{data.source}; {data.rows:,} vectors of width {data.width}"),
        ("Data fingerprint", data.fingerprint or "not computed: the data was not loaded"),
        ("Splits", "; ".join(_split(data, name) for name in data.windows)),
        ("Seed", str(started.config.recipe.seed)),
        (
            "Gates",
            f"stage: dev cosine >= {gates.stage_eval_cosine:g}; success: "
            f"{bounds} over {run.baseline}; "
            f"{gates.confidence:.0%} intervals over articles",
        ),
        ("Code version", started.code),
        ("Commit", started.commit or "no git checkout"),
        ("Versions", versions),
        ("Machine", f"{machine.platform}, {machine.cpus} CPUs, {machine.memory_gib} GiB"),
    ]
    resumed = len(run.state.of(Resumed))
    if resumed:
        pairs.append(("Resumed", counted(resumed, "time")))
    if gone := removed(run):
        pairs.append(("Removed from disk", gone))
    yield Facts(pairs)
    yield Preformatted(started.command)


def removed(run: Run) -> str:
    """Return which files of its arms the run removed from disk; "" for none."""
    events = run.state.of(Tidied)
    states = {arm for event in events for arm in event.states}
    weights = {arm for event in events for arm in event.weights}
    said = [f"optimiser states of {counted(len(states), 'arm')}"] if states else []
    if weights:
        bound = f" (schedule.max_disk_gib = {run.started.config.schedule.max_disk_gib:g})"
        said.append(f"weights of {counted(len(weights), 'arm')} that did not win{bound}")
    return "; ".join(said)


def _split(data: DataSeen, name: str) -> str:
    """Return windows and articles of a split, and the numbers it was drawn from, if it was."""
    windows, articles = data.windows[name], data.articles.get(name)
    whole = data.drawn_from.get(name)
    if whole is not None:
        return (
            f"{name} {windows:,} of {counted(whole.windows, 'window')}, {articles:,} of "
            f"{counted(whole.articles, 'article')} (drawn once for all arms)"
        )
    counts = f"{name} {counted(windows, 'window')}"
    return counts if articles is None else f"{counts} of {counted(articles, 'article')}"
