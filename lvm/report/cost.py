"""What a run has spent on training, and what stopping early has saved, by who stopped it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from lvm.records import StopReason
from lvm.report import NONE, Block, Paragraph, Run, Table, counted, number, seconds
from lvm.report.origin import unreached

GATE, PRUNING = "stage gate", "pruning"
STOPPED_BY = {
    StopReason.GATE_HELD: GATE,  # the arm that ends its step, and those that this ends
    StopReason.CANCELLED: GATE,
    StopReason.PRUNED: PRUNING,
}


@dataclass(frozen=True)
class Spent:
    """The training of one arm, counted where it ran first."""

    step: str
    epochs: int
    seconds: float
    left: int  # epochs of its budget that were not run
    saved: float  # seconds that these would have taken, at the arm's own pace
    stopped_by: str  # GATE, PRUNING, or "" for an arm that ended by itself or has not ended


def spent_by_arm(run: Run) -> list[Spent]:
    """Return what every arm has cost and saved; epochs that two steps share count once."""
    budgets = {
        spec["id"]: spec["recipe"]["training"]["epochs"]
        for started in run.all("step_started")
        for spec in started["arms"]
        if spec["source"] is None
    }
    steps: dict[str, str] = {}
    for event in run.all("epoch"):
        steps.setdefault(event["arm"], event["step"])
    return [_spent(run, arm, step, budgets.get(arm, 0)) for arm, step in steps.items()]


def _spent(run: Run, arm: str, step: str, budget: int) -> Spent:
    records = run.curve(arm)
    trained = [e for e in records if e > 0]
    cost = sum(record.get("seconds") or 0.0 for record in records.values())
    ended = run.last("arm_ended", arm=arm).get("reason", "")
    left = max(0, budget - max(records)) if ended else 0
    return Spent(
        step=step, epochs=len(trained), seconds=cost, left=left,
        saved=left * cost / max(1, len(trained)), stopped_by=STOPPED_BY.get(ended, ""),
    )  # fmt: skip


def saved_seconds(run: Run) -> Mapping[str, float]:
    """Return the seconds of training saved by the stage gate and by pruning."""
    arms = spent_by_arm(run)
    return {by: sum(a.saved for a in arms if a.stopped_by == by) for by in (GATE, PRUNING)}


def saved_in_words(run: Run) -> str:
    """Return what was saved, and by what, in one clause."""
    saved = saved_seconds(run)
    return (
        f"{seconds(saved[GATE])} saved by the stage gate, "
        f"{seconds(saved[PRUNING])} by pruning (ASHA)"
    )


def cost_section(run: Run) -> Iterator[Block]:
    """Yield what each part cost, and what the stage gate and ASHA saved in it."""
    arms = spent_by_arm(run)
    parts = {
        step: [a for a in arms if a.step == step] for step in dict.fromkeys(a.step for a in arms)
    }
    rows = [_row(run.title(step), found) for step, found in parts.items()]
    rows.append(_row("all", arms))
    header = ("Part", "Trials", "Epochs", "Training s", "Saved by gate",
              "Saved by ASHA")  # fmt: skip
    strong = frozenset({len(rows) - 1})
    yield Table("where the training went, and what was not trained", "lrrrrr", header, rows, strong)
    yield Paragraph(_note(run, arms), "note")


def _row(name: str, arms: list[Spent]) -> list[str]:
    saved = []
    for by in (GATE, PRUNING):
        mine = [arm for arm in arms if arm.stopped_by == by and arm.left]
        epochs, time = sum(arm.left for arm in mine), sum(arm.saved for arm in mine)
        saved.append(f"{number(time, 1)} s, {counted(epochs, 'epoch')}" if mine else NONE)
    trained = number(sum(arm.seconds for arm in arms), 1)
    return [name, str(len(arms)), str(sum(arm.epochs for arm in arms)), trained, *saved]


def _note(run: Run, arms: list[Spent]) -> str:
    wall = run.document["compute"].get("wall_seconds", 0.0)
    said = [
        f"Wall time {seconds(wall)}, interruptions included.",
        "The stage gate saves the rest of a step as soon as one arm holds it; ASHA saves the rest "
        "of the arms that it prunes at a rung; both at each arm's own pace.",
        "An arm that two steps share was trained once and counts in the first.",
    ]
    broken = [arm for arm in arms if arm.left and not arm.stopped_by]
    if broken:
        said.append(f"{counted(len(broken), 'arm')} ended without either; that is no saving.")
    if names := unreached(run):
        said.append(
            f"What the steps not begun would have cost ({', '.join(names)}) is not counted."
        )
    return " ".join(said)
