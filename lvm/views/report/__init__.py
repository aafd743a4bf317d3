"""The report of a run as blocks; `markdown` and `html` write the same blocks.

Every number comes from the journal or from the verdict document computed from it. Both are taken as
plain mappings, and any part of them may be missing: a run can be reported before it has finished.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from lvm.core.metrics import METRICS
from lvm.core.records import LIMITS, Evaluation
from lvm.triage.events import Epoch, Ladder, Phase1Judged, RunStarted, StepStarted
from lvm.triage.events.parts import Arm
from lvm.triage.state import RunState
from lvm.triage.summary import Summary

# --- blocks --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Paragraph:
    """Running text; the tone is "", "lead", "warning", "note" or "label"."""

    text: str
    tone: str = ""


@dataclass(frozen=True)
class Heading:
    """A heading inside a section; `verdict` follows it, with the gate that gave it."""

    text: str
    gate: str = ""
    verdict: str = ""


@dataclass(frozen=True)
class Items:
    """A list under a short label."""

    label: str
    items: Sequence[str]


@dataclass(frozen=True)
class Facts:
    """Named values."""

    pairs: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Table:
    """Text cells; `align` holds one letter per column, l or r."""

    caption: str
    align: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    strong: frozenset[int] = frozenset()  # rows to highlight


@dataclass(frozen=True)
class Preformatted:
    """Text that keeps its spaces and line breaks."""

    text: str
    only_markdown: bool = False  # HTML draws it as a figure


@dataclass(frozen=True)
class Figure:
    """A drawing that only HTML shows: finished, escaped markup."""

    markup: str
    caption: str


@dataclass(frozen=True)
class Folded:
    """Blocks that open on a click; in Markdown they follow their summary."""

    summary: str
    blocks: Sequence[Block]
    shown: bool = False  # from the start
    only_html: bool = False


Block = Paragraph | Heading | Items | Facts | Table | Preformatted | Figure | Folded


@dataclass(frozen=True)
class Section:
    """A titled part of the report; `name` is its anchor."""

    name: str
    title: str
    blocks: Sequence[Block]


# --- the run -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """A run and its result."""

    state: RunState
    summary: Summary

    def curve(self, arm: str) -> dict[int, Epoch]:
        """Return the record of every epoch of an arm; steps that share an arm share its epochs."""
        return {event.epoch: event for event in self.state.of(Epoch, arm=arm)}

    def specs(self, step: str) -> list[Arm]:
        """Return the arms that a step started with, and an empty list before it started."""
        started = self.state.last(StepStarted, step=step)
        return started.arms if started else []

    def span(self, metric: str) -> tuple[float, float, int]:
        """Return 0 or lower, the highest value of a metric on dev, and its last epoch.

        Over all arms; a cosine counts in the raw space alone. Read from the events once.
        """
        if metric not in self._spans:
            events = self.state.of(Epoch)
            measured = [
                (e.arm, v, e.epoch) for e in events if (v := e.measured(metric)) is not None
            ]
            compared = {
                spec.id
                for started in self.state.of(StepStarted)
                for spec in started.arms
                if METRICS.get(metric).compares(spec.recipe.search_space)
            }
            values = [value for arm, value, _ in measured if arm in compared]
            last = max([1, *(epoch for _, _, epoch in measured)])
            self._spans[metric] = min([0.0, *values]), max([0.1, *values]), last
        return self._spans[metric]

    @cached_property
    def _spans(self) -> dict[str, tuple[float, float, int]]:
        return {}

    @cached_property
    def first_start(self) -> Mapping[str, StepStarted]:
        """For every arm, the event that started the first step with it."""
        found: dict[str, StepStarted] = {}
        for started in self.state.of(StepStarted):
            for spec in started.arms:
                found.setdefault(spec.id, started)
        return found

    @property
    def started(self) -> RunStarted:
        """The event that opens the journal."""
        assert self.state.started is not None
        return self.state.started

    @property
    def baseline(self) -> str:
        """Name of the model that the success gate compares with."""
        judged = self.state.last(Phase1Judged)
        return judged.baseline if judged else "AR-only"

    @property
    def unchanged(self) -> Arm | None:
        """The base recipe's model of phase 1; None where predictions replaced it."""
        return next((s for s in self.specs("phase_1") if s.name != self.baseline), None)

    def rungs(self, split: str) -> Mapping[str, Evaluation]:
        """Return what the untrained baselines reach on a split, if they were measured."""
        measured = self.state.last(Ladder, split=split)
        return measured.rows if measured else {}

    def ladder(self, split: str, metric: str) -> dict[str, float]:
        """Return the untrained baselines that a model competes with, best first."""
        values = {name: row.masked.get(metric) for name, row in self.rungs(split).items()}
        kept = {n: v for n, v in values.items() if v is not None and n not in LIMITS}
        sign = -1 if METRICS.get(metric).higher_is_better else 1
        return dict(sorted(kept.items(), key=lambda item: sign * item[1]))

    def title(self, step: str) -> str:
        """Return the title of a step, or its name when it was not started."""
        started = self.state.last(StepStarted, step=step)
        return started.title if started else step


# --- verdicts -----------------------------------------------------------------------------------


TONES = {
    "pass": ("PASS", "PASSED", "FIXED", "CLEAN"),
    "fail": ("FAIL", "NOT_FIXED", "BLOCKED"),
    "unsure": ("INCONCLUSIVE", "WARNINGS", "UNSURE"),
}


def tone(verdict: str) -> str:
    """Return the tone of a verdict: pass, fail, unsure or none."""
    return next((name for name, verdicts in TONES.items() if verdict in verdicts), "none")
