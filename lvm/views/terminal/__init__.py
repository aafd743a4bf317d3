"""A triage on a terminal: a view of its journal."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TextIO

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from lvm.audit.document import (
    answer,
)
from lvm.core.few import foremost, tally
from lvm.core.metrics import METRICS, Shown
from lvm.core.outside import printable
from lvm.core.records import LIMITS
from lvm.core.text import title_of
from lvm.triage.events import (
    ArmEnded,
    ArmJudged,
    ArmRestarted,
    ArmsAdded,
    Audited,
    BelowLadder,
    Confirmed,
    Decision,
    Epoch,
    Event,
    Ladder,
    Reopened,
    Repeated,
    RunStarted,
    StepStarted,
    Waiting,
    kind_of,
)
from lvm.triage.state import RunState
from lvm.triage.subject import subject
from lvm.triage.summary import Summary
from lvm.views.terminal.live import LiveFrames

STYLES = {"PASS": "green", "FAIL": "red", "INCONCLUSIVE": "yellow", "NOT_EVALUABLE": "dim"}
ROWS, OTHER_LINES = 24, 6  # arms in a frame, and lines of the terminal left for the rest
NAMED = 3  # rows or articles of a finding, or arms, that are named


@dataclass
class Lane:
    """An arm of the running step."""

    name: str
    latest: Epoch | None = None
    ended: ArmEnded | None = None

    @property
    def epoch(self) -> int:
        """The last epoch that it has trained."""
        return self.latest.epoch if self.latest else 0

    @property
    def state(self) -> str:
        """Its state, in words."""
        return str(self.ended.reason) if self.ended else "begun" if self.epoch else "not begun"

    def measured(self, name: str) -> float | None:
        """Return what its last epoch measured."""
        return self.latest.measured(name) if self.latest else None

    def place(self) -> tuple[bool, float]:
        """Return its priority on the screen: running arms first, then the latest to end."""
        return self.ended is None, self.ended.at if self.ended else 0.0


class Screen(LiveFrames):
    """Shows the running step on a terminal, and plain lines elsewhere."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._started = time.monotonic()
        self._step: StepStarted | None = None
        self._step_started = self._started
        self._ladder: dict[str, float] = {}
        self._bound = 0.0
        self._lanes: dict[str, Lane] = {}  # by arm

    def say(self, line: str, style: str = "") -> None:
        """Print one line above the live part."""
        self.console.print(Text(printable(line), style=style), soft_wrap=True)

    def event(self, event: Event) -> None:
        """Take one journal event."""
        handler = getattr(self, f"_on_{kind_of(event)}", None)
        if handler is not None:
            handler(event)

    # --- events ----------------------------------------------------------------------------------

    def _on_run_started(self, event: RunStarted) -> None:
        if sentence := subject(RunState([event])).sentence:
            self.say(sentence, "bold")
        data = event.data
        self._bound = event.config.gates.stage_eval_cosine
        whole = {k: f" of {v.windows:,}" for k, v in data.drawn_from.items()}
        self.say(
            f"{data.source}: {data.rows:,} vectors of width {data.width}, windows "
            + ", ".join(f"{k} {v:,}{whole.get(k, '')}" for k, v in data.windows.items())
        )

    def _on_audited(self, event: Audited) -> None:
        self.say(f"{self._clock()} audit: {answer(event.audit)}", "bold")

    def _on_ladder(self, event: Ladder) -> None:
        if event.split == "dev":
            rows = event.rows.items()
            self._ladder = {name: row.masked["eval_cosine"] or 0.0 for name, row in rows}

    def _on_decision(self, event: Decision) -> None:
        what = {
            "RunPhase1": "Next: phase 1",
            "RunStep": f"Next: step {event.step}",
            "Confirm": f"Next: full training of {event.arm or 'the carried recipe'}",
            "Repeat": f"Next: the same models with seed {event.seed}",
            "Stop": f"Done: {event.verdict}",
        }[event.action]
        self.say(f"{self._clock()} {what} ({event.since}).", "bold")

    def _on_reopened(self, event: Reopened) -> None:
        names = [f"{arm.arm} of {arm.step}" for arm in event.arms]
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        self.say(f"{self._clock()} Retrying: {', '.join(names[:NAMED])}{more}.", "bold")

    def _on_step_started(self, event: StepStarted) -> None:
        self._step, self._step_started = event, time.monotonic()
        self._lanes = {arm.id: Lane(arm.name) for arm in event.arms}
        for name, reason in event.left_out.items():
            self.say(f"{self._clock()}   left out: {name}: {reason}", "dim")

    def _on_arms_added(self, event: ArmsAdded) -> None:
        self._lanes |= {arm.id: Lane(arm.name) for arm in event.arms}
        self.say(f"{self._clock()}   round {event.round}: {len(event.arms)} more arms proposed")

    def _on_epoch(self, event: Epoch) -> None:
        if event.arm in self._lanes:
            self._lanes[event.arm].latest = event

    def _on_arm_ended(self, event: ArmEnded) -> None:
        lane = self._lanes.get(event.arm)
        if lane is not None:
            lane.ended = event
        detail = f": {event.detail}" if event.detail else ""
        cosine = lane.measured("eval_cosine") if lane is not None else None
        shown = f", dev cosine {cosine:.3f}" if cosine is not None else ""
        self.say(
            f"{self._clock()}   {event.name}: {event.reason} at epoch {event.epoch}{shown}{detail}"
        )

    def _on_arm_restarted(self, event: ArmRestarted) -> None:
        where = f"from epoch {event.epoch}" if event.epoch > 0 else "from the start"
        self.say(f"{self._clock()}   {event.name}: {event.detail}; restarted {where}", "yellow")

    def _on_waiting(self, event: Waiting) -> None:
        self.say(f"{self._clock()}   {event.detail}", "yellow")

    def _on_arm_judged(self, event: ArmJudged) -> None:
        if event.role == "arm":
            stage = event.stage
            said = f"{event.name}: stage gate {stage.verdict}, {stage.reason}"
            self.say(f"{self._clock()}   {said}", STYLES[stage.verdict])

    def _on_below_ladder(self, event: BelowLadder) -> None:
        for found in event.findings:
            text = f"{found.code}: {found.seen}. {found.meaning}"
            self.say(f"{self._clock()}   {text}", "yellow")

    def _on_confirmed(self, event: Confirmed) -> None:
        for gate in event.gates:
            if gate.gate == "success":
                self.say(
                    f"{self._clock()}   {event.arm}: gain in {title_of(gate.metric)} "
                    f"{gate.verdict}, {gate.reason}",
                    STYLES[gate.verdict],
                )

    def _on_repeated(self, event: Repeated) -> None:
        for name, model in event.models.items():
            values = ", ".join(f"{result.r_at_5:.3f}" for result in model.per_seed)
            self.say(f"{self._clock()}   {name}: R@5 per seed: {values or 'none'}")

    # --- the live part ---------------------------------------------------------------------------

    def _clock(self) -> str:
        return duration(time.monotonic() - self._started)

    def _render(self) -> RenderableType:
        if self._step is None:
            return Text(f"{self._clock()} preparing", style="dim")
        table = Table(box=None, pad_edge=False)
        drawn = map(title_of, self._beside_cosine)
        for title in ("arm", "epoch", "dev cosine", "gate", *drawn, "loss", ""):
            table.add_column(title, justify="left" if title in ("arm", "") else "right")
        lanes = list(self._lanes.values())
        room = max(1, min(ROWS, self.console.height - OTHER_LINES))
        shown = foremost(lanes, room, Lane.place)
        for lane in shown:
            table.add_row(*self._row(lane, self._step))
        parts: list[RenderableType] = [Text(self._headline(self._step), style="bold"), table]
        if rest := tally((lane.state for lane in lanes), (lane.state for lane in shown)):
            parts.append(Text(f"and {len(lanes) - len(shown):,} more arms: {rest}", style="dim"))
        return Group(*parts)

    def _row(self, lane: Lane, step: StepStarted) -> list[str]:
        def number(key: str) -> str:
            value = lane.measured(key)
            return f"{value:.3f}" if value is not None else ""

        return [
            lane.name,
            f"{lane.epoch}/{step.epochs}",
            number("eval_cosine"),
            f"{self._bound:.2f}",
            *map(number, self._beside_cosine),
            number("loss"),
            str(lane.ended.reason if lane.ended else ""),
        ]

    @property
    def _beside_cosine(self) -> list[str]:
        return [name for name in METRICS.shown(Shown.CURVES) if name != "eval_cosine"]

    def _headline(self, step: StepStarted) -> str:
        best = max(
            ((v, k) for k, v in self._ladder.items() if k not in LIMITS),
            default=None,
        )
        ladder = f", ladder {best[1]} {best[0]:.3f}" if best else ""
        return f"{self._clock()} {step.title}{self._time_left(step)}{ladder}"

    def _time_left(self, step: StepStarted) -> str:
        done = sum(lane.epoch for lane in self._lanes.values())
        left = sum(step.epochs - lane.epoch for lane in self._lanes.values() if not lane.ended)
        if not done or not left:
            return ""
        seconds = (time.monotonic() - self._step_started) / done * left
        return f", at most {duration(seconds)} left in this step"


def duration(seconds: float) -> str:
    """Return seconds as minutes and seconds, 61:01 for an hour, a minute and a second."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}"


def models_table(document: Summary) -> Table:
    """Return the table of models and ladder on the test split, own contexts masked."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("test split")
    for name in METRICS.shown(Shown.TERMINAL):
        table.add_column(title_of(name), justify="right")
    for row in document.models:
        table.add_row(row.name, *_cells(row.masked))
    for name, rung in document.ladder.items():
        table.add_row(Text(f"ladder: {name}", style="dim"), *_cells(rung.masked))
    return table


def _cells(metrics: Mapping[str, float | None]) -> list[str]:
    found = [metrics.get(name) for name in METRICS.shown(Shown.TERMINAL)]
    return ["" if value is None else f"{value:.3f}" for value in found]
