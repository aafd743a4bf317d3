"""What a sweep shows about its keys: how much each explains, and charts of its arms."""

from __future__ import annotations

from collections.abc import Iterator

from lvm.core.config.steps import LIST, Values
from lvm.core.few import foremost
from lvm.core.metrics import METRICS
from lvm.core.text import counted, number, title_of
from lvm.triage.importance import FEWEST, Swept, swept
from lvm.triage.summary import StepShown
from lvm.views.report import Block, Figure, Paragraph, Run, Table
from lvm.views.report.sweep_plots import parallel, slices

DRAWN = 200  # most arms of a chart
KEYS = 6  # most keys of a chart


def sweep_blocks(run: Run, step: StepShown) -> Iterator[Block]:
    """Yield what the arms of a sweep show about its keys; nothing for other steps."""
    found = swept(run.state, step.step)
    if found is None:
        return
    yield _table(found)
    for text in _notes(found):
        yield Paragraph(text, "note")
    keys = [*found.shares, *(key for key in found.sweep.keys if key not in found.shares)][:KEYS]
    sign = 1 if METRICS.get(found.sweep.metric).higher_is_better else -1
    arms = foremost(found.arms, DRAWN, lambda arm: sign * arm.value)
    caption = f"{step.title}: {title_of(found.sweep.metric)} on dev at epoch {found.epoch}"
    if len(arms) < len(found.arms):
        caption += f", of the best {len(arms)} of {len(found.arms):,} arms"
    if len(keys) < len(found.sweep.keys):
        caption += f", by the first {len(keys)} of {len(found.sweep.keys)} keys"
    yield Figure(slices(found, keys, arms), f"{caption}, key by key.")
    if len(keys) > 1:
        yield Figure(parallel(found, keys, arms), f"{caption}. A line is an arm.")


def _table(found: Swept) -> Table:
    """Return the keys, the one that explains most first."""
    sign = 1 if METRICS.get(found.sweep.metric).higher_is_better else -1
    best = max(found.arms, key=lambda arm: sign * arm.value)
    shares = found.shares
    keys = [*shares, *(key for key in found.sweep.keys if key not in shares)]
    rows = [
        [key, _range(found.sweep.keys[key]), number(shares.get(key), 2), str(best.changes[key])]
        for key in keys
    ]
    metric = title_of(found.sweep.metric)
    caption = (
        f"the keys of the sweep: share of the variance of {metric} that each explains alone, over "
        f"{counted(len(found.arms), 'arm')} on dev at epoch {found.epoch}"
    )
    header = ("Key", "Values", "Share", f"Of the arm with the best {metric}")
    return Table(caption, "llrl", header, rows)


def _notes(found: Swept) -> Iterator[str]:
    """Say how far the shares and the best arm can be trusted."""
    if len(found.arms) < FEWEST:
        yield f"With fewer than {FEWEST} arms the share of a key is not computed."
    if found.num_without:
        yield f"{counted(found.num_without, 'arm')} left no value at this epoch and is not counted."
    yield (
        f"The best of {counted(len(found.arms), 'arm')} is partly the luckiest. Its gain over the "
        "control is judged with a correction for all arms, and its full training on other articles."
    )


def _range(values: Values) -> str:
    if values.kind == LIST:
        return ", ".join(str(value) for value in values.values)
    word = " on a log scale" if values.kind == "log_uniform" else ""
    return f"{values.values[0]} to {values.values[1]}{word}"
