"""The cost section: where the training time went, and what was saved."""

from __future__ import annotations

from collections.abc import Iterator

from lvm.core.text import NONE, counted, number, seconds
from lvm.triage.spent import GATE, PRUNING, Spent, saved_seconds, spent_by_arm
from lvm.views.report import Block, Paragraph, Run, Table
from lvm.views.report.origin import unreached


def saved_in_words(run: Run) -> str:
    """Return in one clause what was saved, and by what."""
    saved = saved_seconds(run.state)
    return (
        f"{seconds(saved[GATE])} saved by the stage gate, "
        f"{seconds(saved[PRUNING])} by pruning (ASHA)"
    )


def cost_section(run: Run) -> Iterator[Block]:
    """Yield what each part cost, and what the stage gate and ASHA saved in it."""
    arms = spent_by_arm(run.state)
    parts = {
        step: [a for a in arms if a.step == step] for step in dict.fromkeys(a.step for a in arms)
    }
    rows = [_row(run.title(step), found) for step, found in parts.items()]
    rows.append(_row("all", arms))
    header = ("Part", "Trials", "Epochs", "Training s", "Saved by gate", "Saved by ASHA")
    strong = frozenset({len(rows) - 1})
    yield Table("training spent and saved, by step", "lrrrrr", header, rows, strong)
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
    wall = run.summary.compute.wall_seconds
    said = [
        f"Wall time {seconds(wall)}, interruptions included.",
        "The stage gate saves the rest of a step once one arm holds it; ASHA saves the rest of "
        "each arm that it prunes at a rung. Both are counted at each arm's own pace.",
        "An arm shared by two steps was trained once and counts in the first.",
    ]
    broken = [arm for arm in arms if arm.left and not arm.stopped_by]
    if broken:
        said.append(
            f"{counted(len(broken), 'arm')} ended otherwise; that is not counted as a saving."
        )
    if names := unreached(run):
        said.append(
            f"The cost of the steps that did not start ({', '.join(names)}) is not counted."
        )
    return " ".join(said)
