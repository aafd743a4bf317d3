"""What the audit's plots show, in words and as plain text: one sentence each, and the numbers.

The sentences stand under the drawings of `small_plots` as well; the text is what Markdown shows
instead of a drawing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lvm.text import number

Part = Mapping[str, Any]
RIGHT_OFFSET = -1  # of the chunk that a last context is, from its target
LINES = {  # line plot -> title, horizontal axis
    "position_profile": ("Contexts against the target", "place of the context from the target"),
    "lag_profile": ("Vectors of a window against each other", "places apart"),
    "offset_sweep": ("Last context against the text around the target", "chunk, from the target"),
}
BLOCKS = "Coherence by block of articles"
RULES = {
    "position_profile": "Rises to the right where text is in order",
    "lag_profile": "Falls to the right where text is in order",
    "offset_sweep": f"Peaks at {RIGHT_OFFSET} where the target is the next chunk",
}
FLAT = 0.05  # a sweep that moves less has no peak worth naming: a sound one reaches 1
NUM_LISTED = 10  # blocks of articles in text
BARS = " ▁▂▃▄▅▆▇█"


# --- what there is --------------------------------------------------------------------------------


def line_plots(plots: Part) -> dict[str, dict[str, list[tuple[int, float, float]]]]:
    """Return for each line plot the points (x, mean, error) of each side that has any."""
    found = {}
    for name in LINES:
        sides = {side: known(values) for side, values in (plots.get(name) or {}).items()}
        if any(sides.values()):
            found[name] = {side: points for side, points in sides.items() if points}
    return found


def known(values: Part) -> list[tuple[int, float, float]]:
    """Return (x, mean, error) where there is a mean."""
    means = values.get("mean", [])
    errors = values.get("error") or [None] * len(means)
    rows = zip(values.get("x", []), means, errors, strict=False)
    return [(x, mean, error or 0.0) for x, mean, error in rows if mean is not None]


def known_blocks(plots: Part) -> list[tuple[int, Part]]:
    """Return the blocks of articles that have a number, with their place from 1."""
    blocks = (plots.get("coherence_blocks") or {}).get("blocks", [])
    return [(i, block) for i, block in enumerate(blocks, 1) if block.get("near") is not None]


def histograms(plots: Part) -> list[tuple[str, Part]]:
    """Return title and numbers of every histogram."""
    sides = plots.get("cosine_histograms") or {}
    found = [(f"Mean of the contexts against targets, {side}", sides[side]) for side in sides]
    if plots.get("prediction_histogram"):
        found.append(("Predictions against targets, eval", plots.prediction_histogram))
    return found


# --- one sentence each ----------------------------------------------------------------------------


def line_reading(name: str, sides: Mapping[str, Sequence[tuple[int, float, float]]]) -> str:
    """Return how to read a line plot, and what it shows for each side."""
    seen = "; ".join(f"{side} {_seen(name, points)}" for side, points in sides.items())
    return f"{RULES[name]}: {seen}."


def _seen(name: str, points: Sequence[tuple[int, float, float]]) -> str:
    if name == "offset_sweep":
        place, value, _ = max(points, key=lambda point: point[1])
        low = min(mean for _, mean, _ in points)
        if value - low < FLAT:
            return f"is flat ({number(low)} to {number(value)})"
        return f"peaks at {place} ({number(value)})"
    return f"goes from {number(points[0][1])} to {number(points[-1][1])}"


def blocks_reading(plots: Part) -> str:
    """Return how the blocks of articles lie beside the train side."""
    part, near = plots.coherence_blocks, [block.near for _, block in known_blocks(plots)]
    rule = "What neighbours share beyond random pairs"
    if part.get("low") is None or part.get("high") is None:
        return f"{rule}, eval only: {number(min(near))} to {number(max(near))}."
    outside = sum(not part.low <= value <= part.high for value in near)
    return (
        f"{rule}. Eval blocks should lie within 20% of the train level "
        f"{number((part.get('train') or {}).get('near'))}: {outside} of {len(near)} lie outside."
    )


def histogram_reading(part: Part) -> str:
    """Return how far apart the two histograms of a plot are."""
    rule = "Own targets should lie right of those of other articles"
    paired, shuffled = part.get("paired_mean"), part.get("shuffled_mean")
    if paired is None or shuffled is None:
        return f"{rule}."
    return f"{rule}: the means differ by {number(paired - shuffled, sign=True)}."


def block_name(block: Part, plots: Part) -> str:
    """Return which articles a block holds, or which stretches of the file where none are known."""
    if block.get("first") is None:
        return "articles unknown"
    span = str(block.first)
    if block.last != block.first:
        span += f"–{block.last}"
    if not plots.coherence_blocks.get("by_article", True):
        return f"stretch {span} of the file"
    return f"articles {span}"


# --- as text --------------------------------------------------------------------------------------


def as_text(plots: Part) -> str:
    """Return the numbers of all plots as aligned text; "" without any."""
    return "\n\n".join("\n".join(lines) for lines in _texts(plots))


def _texts(plots: Part) -> Iterator[list[str]]:
    for name, sides in line_plots(plots).items():
        title, axis = LINES[name]
        places = sorted({x for points in sides.values() for x, _, _ in points})
        rows = [[axis, *(str(x) for x in places)]]
        for side, points in sides.items():
            at = {x: mean for x, mean, _ in points}
            rows.append([side, *(number(at.get(x)) for x in places)])
        yield [f"{title} (cosine)", *_aligned(rows), line_reading(name, sides)]
    if known_blocks(plots):
        yield [*_blocks(plots), blocks_reading(plots)]
    for title, part in histograms(plots):
        yield [f"{title} (cosine)", *_bars(part), histogram_reading(part)]


def _blocks(plots: Part) -> list[str]:
    """Return the blocks of articles; of many, those that lie farthest from the train level."""
    blocks, train = known_blocks(plots), plots.coherence_blocks.get("train") or {}
    level = train.get("near") or sum(block.near for _, block in blocks) / len(blocks)
    worst = sorted(blocks, key=lambda item: -abs(item[1].near - level))[:NUM_LISTED]
    rows = [
        [f"{i}: {block_name(b, plots)}", number(b.near), f"± {number(b.get('error'))}"]
        for i, b in sorted(worst, key=lambda item: item[0])
    ]
    some = f", the {NUM_LISTED} of {len(blocks)} farthest off" if len(rows) < len(blocks) else ""
    return [f"{BLOCKS} (cosine above that of random pairs{some})", *_aligned(rows)]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    ]


def _bars(part: Part) -> list[str]:
    """Return both histograms as rows of block letters, on one scale."""
    top = max([1e-9, *(share or 0.0 for name in ("paired", "shuffled") for share in part[name])])
    low, high = number(part.edges[0], 2), number(part.edges[-1], 2)
    rows = []
    for name, title in (("paired", "own target"), ("shuffled", "other article")):
        drawn = "".join(_bar(share or 0.0, top) for share in part[name])
        rows.append([title, low, f"|{drawn}|", high, f"mean {number(part.get(f'{name}_mean'))}"])
    return _aligned(rows)


def _bar(share: float, top: float) -> str:
    """Return a letter as high as the share; anything above zero shows."""
    return BARS[max(int(share > 0), round((len(BARS) - 1) * share / top))]
