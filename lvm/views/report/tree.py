"""The tree of a run: the path taken, how every arm on it ended, what was skipped, and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from lvm.audit.document import answer
from lvm.core.records import StopReason
from lvm.core.text import counted, number, one_line, title_of
from lvm.triage.events import ArmEnded, ArmJudged, Confirmed, Decision, Rung, StepStarted
from lvm.triage.events.parts import Arm
from lvm.triage.summary import StepShown
from lvm.views.report import Block, Figure, Preformatted, Run, tone
from lvm.views.report.audit import audit_of
from lvm.views.report.html import colour_word
from lvm.views.report.many import left_out, named, shown_arms, specs_by_id
from lvm.views.report.models import confirmed_name
from lvm.views.report.origin import unreached

MARKS = {  # kind of a leaf -> mark, what the mark means
    "confirmed": ("◆", "confirmation, judged on the test split"),
    "ended": ("●", "ran to its end"),
    "stopped": ("■", "stopped when another arm held the gate"),
    "pruned": ("✕", "pruned"),
    "broke": ("!", "failed or could not be judged"),
    "left": ("○", "left out, not reached or not finished"),
}
ATTRIBUTED = {  # which cause a confirmation supports
    "step": "it beats the unchanged recipe at the same budget",
    "more training": "the unchanged recipe also holds the gate, so more training is the cause",
    "open": "an interval crosses its bound",
}


@dataclass(frozen=True)
class Leaf:
    """An arm of a step, or a confirmation that follows it."""

    kind: str  # of MARKS
    name: str
    said: str
    verdict: str = ""


@dataclass(frozen=True)
class Node:
    """A node of the tree."""

    title: str
    why: str  # it was entered, or was not
    visited: bool
    gate: str = ""
    verdict: str = ""  # of the gate; "" when the node was not reached or has not ended
    leaves: Sequence[Leaf] = ()


def tree_section(run: Run) -> Iterator[Block]:
    """Yield the tree with the path taken."""
    nodes, end = list(_nodes(run)), _end(run)
    caption = "The solid line is the path taken; dotted lines were not taken. " + "; ".join(
        f"{mark} {meaning}" for mark, meaning in MARKS.values()
    )
    yield Figure(_drawn(nodes, *end), f"{caption}.")
    yield Preformatted("\n".join(_as_text(nodes, *end)), only_markdown=True)


# --- places ---------------------------------------------------------------------------------------


def _nodes(run: Run) -> Iterator[Node]:
    """Yield the nodes of the tree in the order of the run, those not reached last."""
    if audit := audit_of(run):
        yield Node("Audit", answer(audit), True, "", audit.verdict)
    specs = run.specs("phase_1")
    leaves = [_arm(run, "phase_1", spec) for spec in specs]
    verdict = run.summary.phase1.verdict or ""
    why = _since(run, "RunPhase1") if specs else "not begun"
    yield Node("Phase 1", why, bool(specs), "success gate", verdict, leaves)
    for step in run.summary.steps:
        yield _step(run, step)
    yield from _together(run)
    for started in (e for e in run.state.of(StepStarted) if e.seed is not None):
        leaves = [_arm(run, started.step, spec) for spec in started.arms]
        why = _since(run, "Repeat", seed=started.seed)
        yield Node(started.title, why, True, "", "", leaves)
    ended = bool(run.state.last(Decision, action="Stop"))
    why = "not reached: the run ended first" if ended else "not reached yet"
    for name in unreached(run):
        yield Node(name, why, False)


def _since(run: Run, action: str, **values: object) -> str:
    decided = run.state.last(Decision, action=action, **values)
    return f"since {decided.since}" if decided and decided.since else ""


def _end(run: Run) -> tuple[str, str]:
    """Return the result of the run, and why it stopped there."""
    headline = run.summary.headline
    return headline.split(":")[0], _since(run, "Stop")


def _step(run: Run, step: StepShown) -> Node:
    name = step.step
    specs, arms = specs_by_id(run, name), shown_arms(run, step)
    leaves = [_arm(run, name, specs[arm.id], step) for arm in arms]
    if rest := left_out(step, arms):
        leaves.append(Leaf("left", "not shown", rest))
    leaves += [Leaf("left", arm, f"left out: {why}") for arm, why in step.left_out.items()]
    leaves += _confirmations(run, name)
    title = f"Step {step.number}: {step.title}"
    why = _since(run, "RunStep", step=name)
    return Node(title, why, True, "stage gate", step.stage or "", leaves)


def _confirmations(run: Run, step: str) -> list[Leaf]:
    why = _since(run, "Confirm", step=step)
    leaves = []
    for event in run.state.of(Confirmed, step=step):
        cause = ATTRIBUTED.get(event.attribution, "")
        said = "; ".join(text for text in (why, cause) if text)
        name = f"confirmation of {confirmed_name(run, event)}"
        leaves.append(Leaf("confirmed", name, said, event.verdict))
    return leaves


def _together(run: Run) -> Iterator[Node]:
    """Yield the confirmations that belong to no single step."""
    known = {step.step for step in run.summary.steps}
    for step in dict.fromkeys(event.step for event in run.state.of(Confirmed)):
        if step not in known:
            tried = run.state.last(Decision, action="Confirm", step=step)
            carried = tried.carried if tried else []
            arms = ", ".join(f"{arm} ({run.title(of)})" for of, arm in carried)
            leaves = _confirmations(run, step)
            title = f"Together: {arms}" if arms else str(step)
            yield Node(title, "", True, "success gate", leaves[-1].verdict, leaves)


# --- arms -----------------------------------------------------------------------------------------


def _arm(run: Run, step: str, spec: Arm, about: StepShown | None = None) -> Leaf:
    """Return how an arm ended and why, and what became of it."""
    ended = run.state.last(ArmEnded, arm=spec.id, step=step)
    if not ended:
        return Leaf("left", spec.name, _shared(run, step, spec) or "had not ended")
    kind, said = _ending(run, step, spec, ended)
    found = [said, _shared(run, step, spec)]
    if about is not None and spec.name == about.candidate:
        found.append("chosen for confirmation")
    if about is not None and spec.name == about.kept:
        found.append("kept: it beats its control")
    judged = run.state.last(ArmJudged, arm=spec.id, step=step)
    compared = about is not None and spec.role == "arm"
    verdict = judged.stage.verdict if judged and compared else ""
    return Leaf(kind, spec.name, "; ".join(text for text in found if text), verdict)


def _ending(run: Run, step: str, spec: Arm, ended: ArmEnded) -> tuple[str, str]:
    epoch, budget = ended.epoch, spec.recipe.training.epochs
    at = f"at epoch {epoch} of {budget}"
    match ended.reason:
        case StopReason.FINISHED if spec.source is not None:
            return "ended", "searched without training"
        case StopReason.FINISHED:
            return "ended", f"trained for {counted(epoch, 'epoch')}"
        case StopReason.GATE_HELD:
            return "ended", f"held the stage gate {at}"
        case StopReason.CANCELLED:
            return "stopped", f"stopped {at}: {ended.detail or _holders(run, step, epoch)}"
        case StopReason.PRUNED:
            return "pruned", f"pruned {at}: {_cut(run, step, spec.id, epoch)}"
        case reason:
            detail = f": {ended.detail}" if ended.detail else ""
            return "broke", f"{reason} {at}{detail}"


def _holders(run: Run, step: str, epoch: int) -> str:
    rung = run.state.last(Rung, step=step, epoch=epoch)
    ended = [run.state.last(ArmEnded, arm=arm, step=step) for arm in (rung.held if rung else ())]
    held = [event.name for event in ended if event]
    return f"{named(held)} held the stage gate" if held else "the step had ended"


def _cut(run: Run, step: str, arm: str, epoch: int) -> str:
    decided = run.state.of(Rung, step=step, epoch=epoch)
    rung = next((r for r in reversed(decided) if arm in r.values), None)
    value, cutoff = (rung.values.get(arm), rung.cutoff) if rung else (None, None)
    digits = 3 if number(value) != number(cutoff) else 5  # or they would look like a tie
    metric = title_of(rung.metric if rung else "eval_cosine")
    return f"dev {metric} {number(value, digits)}, below the cutoff {number(cutoff, digits)}"


def _shared(run: Run, step: str, spec: Arm) -> str:
    """Say which earlier step already trained an arm."""
    first = run.first_start[spec.id]
    if first.step == step:
        return ""
    return f"same training as {first.title}"


# --- drawn ----------------------------------------------------------------------------------------


def _drawn(nodes: Sequence[Node], end: str, since: str) -> str:
    """Return the tree as a nested list, which a screen reader can read too."""
    taken = "".join(_place(node) for node in nodes if node.visited)
    passed = "".join(_place(node) for node in nodes if not node.visited)
    kind = tone(end.split()[0])
    why = f'<p class="why">{escape(since)}</p>' if since else ""
    return (
        f'<ol class="tree">{taken}<li class="end"><span class="mark {kind}" aria-hidden="true">■'
        f'</span><p class="place"><strong class="{kind}">{escape(end)}</strong></p>{why}</li>'
        f"{passed}</ol>"
    )


def _place(node: Node) -> str:
    kind = tone(node.verdict) if node.visited else "none"
    mark = "●" if node.visited else "○"
    gate = f" <small>{escape(node.gate)}</small>" if node.gate and node.verdict else ""
    return (
        f'<li class="{"taken" if node.visited else "passed"}"><span class="mark {kind}" '
        f'aria-hidden="true">{mark}</span><p class="place"><strong>{escape(node.title)}</strong>'
        f'{gate}{_word(node.verdict)}</p><p class="why">{escape(node.why)}</p>{_twigs(node)}</li>'
    )


def _twigs(node: Node) -> str:
    rows = "".join(
        f'<li class="{leaf.kind}"><span class="mark" aria-hidden="true">{MARKS[leaf.kind][0]}'
        f"</span><strong>{escape(leaf.name)}</strong>{_word(leaf.verdict)} "
        f"<span>{escape(leaf.said)}</span></li>"
        for leaf in node.leaves
    )
    return f"<ul>{rows}</ul>" if rows else ""


def _word(verdict: str) -> str:
    return f" {colour_word(verdict)}" if verdict else ""


def _as_text(nodes: Sequence[Node], end: str, since: str) -> Iterator[str]:
    for node in nodes:
        if not node.visited:
            continue
        yield _line("●", node.title, node.verdict, node.why)
        yield from (
            _line(f"├── {MARKS[x.kind][0]}", x.name, x.verdict, x.said) for x in node.leaves
        )
        yield "│"
    yield _line("■", end, "", since)
    for node in nodes:
        if not node.visited:
            yield from ("┆", _line("○", node.title, "", node.why))


def _line(mark: str, name: str, verdict: str, said: str) -> str:
    title = f"{name}: {verdict}" if verdict else name
    return one_line(f"{mark} {title} - {said}" if said else f"{mark} {title}")
