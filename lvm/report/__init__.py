"""The report of a run: what is said, as blocks; `markdown` and `html` write the same blocks.

Every number comes from the journal or from the verdict document computed from it. Both are taken as
plain mappings, and any part of them may be missing: a run can be reported before it has finished.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lvm.triage.events import Epoch, Ladder, Phase1Judged, RunStarted, StepStarted
from lvm.triage.events import Event
from lvm.triage.state import RunState, indexed
from lvm.metrics import METRICS
from lvm.records import LIMITS

# --- blocks --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Paragraph:
    """Running text; the tone is "", "lead", "warning", "note" or "label"."""

    text: str
    tone: str = ""


@dataclass(frozen=True)
class Heading:
    """A heading inside a section; `verdict` is set beside it, with the gate that gave it."""

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
    strong: frozenset[int] = frozenset()  # rows to set off


@dataclass(frozen=True)
class Preformatted:
    """Text whose spaces and line ends count."""

    text: str
    only_markdown: bool = False  # HTML draws it as a figure


@dataclass(frozen=True)
class Figure:
    """A drawing that only HTML shows: finished, escaped markup."""

    markup: str
    caption: str


@dataclass(frozen=True)
class Folded:
    """Blocks that open when asked for; in Markdown they follow their summary."""

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
    """A journal and the verdict computed from it."""

    events: Sequence[Event]
    document: Mapping[str, Any]

    @cached_property
    def index(self) -> RunState:
        """The events, as they are looked up."""
        return indexed(self.events)

    def all(self, kind: str, **values: Any) -> list[Event]:
        """Return the events of one kind with these values in order."""
        return self.index.of(kind, **values)

    def last(self, kind: str, **values: Any) -> Event:
        """Return the last such event, or an empty mapping."""
        return self.index.last(kind, **values) or {}

    def curve(self, arm: str) -> dict[int, Event]:
        """Return the record of every epoch of an arm; steps that share an arm share its epochs."""
        return {event.epoch: event for event in self.all(Epoch, arm=arm)}

    def specs(self, step: str) -> list[Mapping[str, Any]]:
        """Return the arms that a step started with, and an empty list before it started."""
        return list(self.last(StepStarted, step=step).get("arms", []))

    def span(self, metric: str) -> tuple[float, float, int]:
        """Return 0 or lower, the highest value of a metric on dev, and its last epoch.

        Over all arms; a cosine counts in the raw space alone. Read from the events once.
        """
        if metric not in self._spans:
            events = [e for e in self.all(Epoch) if e.get(metric) is not None]
            compared = {
                spec.id
                for started in self.all(StepStarted)
                for spec in started.arms
                if METRICS.get(metric).across_spaces or spec.recipe.search_space == "raw"
            }
            values = [event[metric] for event in events if event.arm in compared]
            last = max([1, *(event.epoch for event in events)])
            self._spans[metric] = min([0.0, *values]), max([0.1, *values]), last
        return self._spans[metric]

    @cached_property
    def _spans(self) -> dict[str, tuple[float, float, int]]:
        return {}

    @cached_property
    def first_start(self) -> Mapping[str, Event]:
        """For every arm the event that began the first part of the run it belongs to."""
        found: dict[str, Event] = {}
        for started in self.all(StepStarted):
            for spec in started.arms:
                found.setdefault(spec.id, started)
        return found

    @property
    def started(self) -> Event:
        """The event that opens the journal."""
        return self.last(RunStarted)

    @property
    def gates(self) -> Mapping[str, Any]:
        """The bounds of the run."""
        gates: Mapping[str, Any] = self.started.get("config", {}).get("gates", {})
        return gates

    @property
    def baseline(self) -> str:
        """Name of the model that the success gate compares with."""
        return str(self.last(Phase1Judged).get("baseline", "AR-only"))

    @property
    def unchanged(self) -> Mapping[str, Any]:
        """Spec of the base recipe's model of phase 1, or an empty mapping."""
        others = [spec for spec in self.specs("phase_1") if spec.name != self.baseline]
        return others[0] if others else {}

    def ladder(self, split: str, metric: str) -> dict[str, float]:
        """Return the predictors without training that a model competes with, best first."""
        rows = self.last(Ladder, split=split).get("rows", {})
        values = {name: row.masked.get(metric) for name, row in rows.items()}
        kept = {n: v for n, v in values.items() if v is not None and n not in LIMITS}
        sign = -1 if METRICS.get(metric).higher_is_better else 1
        return dict(sorted(kept.items(), key=lambda item: sign * item[1]))

    def title(self, step: str) -> str:
        """Return the title of a step, or its name when it was not started."""
        return str(self.last(StepStarted, step=step).get("title", step))


# --- verdicts -----------------------------------------------------------------------------------


TONES = {
    "pass": ("PASS", "PASSED", "FIXED", "CLEAN"),
    "fail": ("FAIL", "NOT_FIXED", "BLOCKED"),
    "unsure": ("INCONCLUSIVE", "WARNINGS", "UNSURE"),
}


def tone(verdict: str) -> str:
    """Return what a verdict means for its reader: pass, fail, unsure or none."""
    return next((name for name, verdicts in TONES.items() if verdict in verdicts), "none")
