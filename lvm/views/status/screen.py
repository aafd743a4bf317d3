"""The state of a run on one screen of 24 lines."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

from lvm.core.command import shown
from lvm.core.records import RunVerdict
from lvm.core.text import counted, title_of
from lvm.triage.absence import in_short, sentences
from lvm.triage.summary import Judged
from lvm.views.status import title
from lvm.views.status.standing import EndedStep, GainStanding, RunningStep, Standing
from lvm.views.terminal import duration

WIDTH = 80
STEPS_SHOWN, ARMS_SHOWN, CODES_SHOWN = 5, 6, 3  # so that everything fits in 24 lines
LABEL = 8


def screen(seen: Standing) -> list[str]:
    """Return `status` as lines of at most 80 columns; only commands may be longer."""
    return [
        *textwrap.wrap(_headline(seen), WIDTH, max_lines=2 if seen.step else 3, placeholder=" …"),
        *(_folded("judged", _judged(seen.judged), 2) if seen.judged.stand_in else ()),
        *_folded("run", f"{shown(Path(seen.run))}, started {_clock(seen.started_at)}", 2),
        *_folded("spent", _cost(seen), 2),
        *_folded("audit", seen.audit.answer if seen.audit else "not done yet", 2),
        *_absent(seen),
        *_steps(seen.ended),
        *(_arms(seen.step) if seen.step else ()),
        *(_gates(seen.gains) if seen.state == "finished" else ()),
        *_advice(seen),
    ]


def _judged(judged: Judged) -> str:
    network = f"our {judged.trained} network" if judged.trained else "our network"
    return f"predictions in {judged.file}; trained in place of their model: {network}"


def _headline(seen: Standing) -> str:
    if seen.state == "finished":
        return str(seen.headline)
    step = seen.step
    doing = (seen.doing or "") + (f", {duration(step.seconds)} in this step" if step else "")
    if seen.state == "interrupted":
        return f"INTERRUPTED: {doing}"
    left = step.seconds_left if step else None
    return f"RUNNING: {doing}{f', about {duration(left)} left in it' if left else ''}"


def _cost(seen: Standing) -> str:
    more = f"last event {duration(seen.age_seconds)} ago"
    if seen.state == "finished":
        more = f"{seen.saved_seconds:.0f} s saved by stopping early"
    return (
        f"{duration(seen.seconds)}, {seen.train_seconds:.0f} s of training in "
        f"{counted(seen.trials, 'trial')}; {more}"
    )


def _absent(seen: Standing) -> list[str]:
    """Return which arms are missing from the evidence, unless the headline says so."""
    absent = seen.absent
    if not absent or (seen.headline and sentences(absent)[0] in seen.headline):
        return []
    return _folded("absent", in_short(absent), 2)


def _steps(ended: Sequence[EndedStep]) -> Iterator[str]:
    """Yield a line per ended step: its verdict, the arm it keeps, how many arms were stopped."""
    hidden = max(0, len(ended) - STEPS_SHOWN)
    if hidden:
        yield _labelled("ended", f"({hidden} earlier: see the report)")
    for index, step in enumerate(ended[hidden:]):
        kept = f", keeps {step.kept}" if step.kept else ""
        said = f"{step.verdict or 'not judged'}{kept}{_stopped(step)}"
        text = f"{title(step.number, step.title)}: {said}"
        yield _labelled("" if index or hidden else "ended", text)


def _stopped(step: EndedStep) -> str:
    """Count the arms that did not reach their last epoch, by reason."""
    reasons = [a.reason for a in step.arms if a.reason not in (None, "finished")]
    counts = [f"{reasons.count(reason)} {reason}" for reason in dict.fromkeys(reasons)]
    return f" ({', '.join(counts)})" if counts else ""


def _arms(step: RunningStep) -> Iterator[str]:
    """Yield the table of arms; running arms come first when not all can be shown."""
    arms = step.arms
    if len(arms) > ARMS_SHOWN:
        arms = sorted(arms, key=lambda arm: arm.reason is not None)
    gate = f"{step.gate:.2f}" if step.gate is not None else ""
    head = f"{'arm':27} {'epoch':>7} {'dev cosine':>10} {'gate':>4}"
    yield _labelled("now", head)
    for arm in arms[:ARMS_SHOWN]:
        reached = arm.measured["eval_cosine"]
        cosine = f"{reached:.3f}" if reached is not None else ""
        epoch = f"{arm.epoch}/{arm.of}"
        ended = ": ".join(x for x in (arm.reason, arm.detail) if x)
        why = ", ".join(x for x in (ended, arm.stage) if x)
        yield _labelled("", f"{_cut(arm.name, 27):27} {epoch:>7} {cosine:>10} {gate:>4} {why}")
    if len(arms) > ARMS_SHOWN:
        yield _labelled("", f"(and {len(arms) - ARMS_SHOWN} more arms)")


def _gates(gains: Sequence[GainStanding]) -> Iterator[str]:
    for index, gain in enumerate(gains):
        text = f"{title_of(gain.metric)} {gain.verdict}, {gain.reason}"
        yield from _folded("" if index else "gain", text, 2)


def _advice(seen: Standing) -> Iterator[str]:
    """Yield what to type next; commands are not wrapped, so that they can be copied."""
    blocked = seen.audit.blocked if seen.audit and seen.verdict is RunVerdict.BLOCKED else []
    for finding in blocked[:CODES_SHOWN]:
        yield from _folded("blocked", f"{finding.code}: {finding.seen}", 2)
    for command in dict.fromkeys(finding.next for finding in blocked[:CODES_SHOWN]):
        yield f"{'next':{LABEL}} {command}"
    yield f"{'then' if blocked else 'next':{LABEL}} {seen.next}"


def _folded(label: str, text: str, lines: int) -> list[str]:
    """Return text under a label on a limited number of lines."""
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=f"{label:{LABEL}} ",
        subsequent_indent=" " * (LABEL + 1),
        max_lines=lines,
        placeholder=" …",
    )


def _labelled(label: str, text: str) -> str:
    return _cut(f"{label:{LABEL}} {text}".rstrip(), WIDTH)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _clock(at: float) -> str:
    return datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M:%S")
