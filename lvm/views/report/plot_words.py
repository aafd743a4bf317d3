"""The audit's plots in words and as plain text: one sentence each, and the numbers.

The sentences are also the captions of the drawings in `small_plots`; Markdown shows the text
instead of a drawing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from lvm.audit.document import Block, Coherence, Histogram, Plots, Profile
from lvm.core.text import number

Points = list[tuple[int, float, float]]  # place, mean, error
RIGHT_OFFSET = -1  # of the chunk that a last context is, from its target
LINES = {  # line plot -> title, horizontal axis
    "position_profile": ("Contexts against the target", "place of the context from the target"),
    "lag_profile": ("Vectors of a window against each other", "places apart"),
    "offset_sweep": ("Last context against the text around the target", "chunk, from the target"),
}
BLOCKS = "Coherence by block of articles"
RULES = {
    "position_profile": "Should rise to the right if text is in order",
    "lag_profile": "Should fall to the right if text is in order",
    "offset_sweep": f"Should peak at {RIGHT_OFFSET} if the target is the next chunk",
}
FLAT = 0.05  # a smaller range has no peak worth naming: good data reach 1
NUM_LISTED = 10  # blocks of articles in text
BARS = " ▁▂▃▄▅▆▇█"


# --- what there is --------------------------------------------------------------------------------


def line_plots(plots: Plots) -> dict[str, dict[str, Points]]:
    """Return for each line plot the points (x, mean, error) of each side that has some."""
    found = {}
    for name in LINES:
        sides = {side: known(values) for side, values in profiles(plots, name).items()}
        if any(sides.values()):
            found[name] = {side: points for side, points in sides.items() if points}
    return found


def profiles(plots: Plots, name: str) -> dict[str, Profile]:
    """Return the sides of a line plot."""
    found: dict[str, Profile] | None = getattr(plots, name)
    return found or {}


def known(values: Profile) -> Points:
    """Return (x, mean, error) where there is a mean."""
    errors = values.error or [None] * len(values.mean)
    rows = zip(values.x, values.mean, errors, strict=False)
    return [(x, mean, error or 0.0) for x, mean, error in rows if mean is not None]


def known_blocks(part: Coherence | None) -> list[tuple[int, Block, float]]:
    """Return the blocks of articles that have a number: place from 1, block, number."""
    blocks = part.blocks if part else []
    return [(i, block, block.near) for i, block in enumerate(blocks, 1) if block.near is not None]


def histograms(plots: Plots) -> list[tuple[str, Histogram]]:
    """Return title and numbers of every histogram."""
    sides = plots.cosine_histograms or {}
    found = [(f"Mean of the contexts against targets, {side}", sides[side]) for side in sides]
    if plots.prediction_histogram:
        found.append(("Predictions against targets, eval", plots.prediction_histogram))
    return found


# --- one sentence each ----------------------------------------------------------------------------


def line_reading(name: str, sides: Mapping[str, Points]) -> str:
    """Return how to read a line plot, and what it shows for each side."""
    seen = "; ".join(f"{side} {_seen(name, points)}" for side, points in sides.items())
    return f"{RULES[name]}: {seen}."


def _seen(name: str, points: Points) -> str:
    if name == "offset_sweep":
        place, value, _ = max(points, key=lambda point: point[1])
        low = min(mean for _, mean, _ in points)
        if value - low < FLAT:
            return f"is flat ({number(low)} to {number(value)})"
        return f"peaks at {place} ({number(value)})"
    return f"goes from {number(points[0][1])} to {number(points[-1][1])}"


def blocks_reading(part: Coherence) -> str:
    """Return how the blocks of articles compare with the train side."""
    near = [value for _, _, value in known_blocks(part)]
    rule = "Similarity of neighbours beyond random pairs"
    if part.low is None or part.high is None:
        return f"{rule}, eval only: {number(min(near))} to {number(max(near))}."
    outside = sum(not part.low <= value <= part.high for value in near)
    return (
        f"{rule}. Eval blocks should lie within 20% of the train level "
        f"{number(part.train.near if part.train else None)}: {outside} of {len(near)} lie outside."
    )


def histogram_reading(part: Histogram) -> str:
    """Return how far apart the two histograms of a plot are."""
    rule = "Own targets should lie to the right of targets of other articles"
    paired, shuffled = part.paired_mean, part.shuffled_mean
    if paired is None or shuffled is None:
        return f"{rule}."
    return f"{rule}: the means differ by {number(paired - shuffled, sign=True)}."


def block_name(block: Block, part: Coherence) -> str:
    """Return which articles a block holds, or which rows of the file if articles are unknown."""
    if block.first is None:
        return "articles unknown"
    span = str(block.first)
    if block.last != block.first:
        span += f"–{block.last}"
    if not part.by_article:
        return f"stretch {span} of the file"
    return f"articles {span}"


# --- as text --------------------------------------------------------------------------------------


def as_text(plots: Plots) -> str:
    """Return the numbers of all plots as aligned text; "" without any."""
    return "\n\n".join("\n".join(lines) for lines in _texts(plots))


def _texts(plots: Plots) -> Iterator[list[str]]:
    for name, sides in line_plots(plots).items():
        title, axis = LINES[name]
        places = sorted({x for points in sides.values() for x, _, _ in points})
        rows = [[axis, *(str(x) for x in places)]]
        for side, points in sides.items():
            at = {x: mean for x, mean, _ in points}
            rows.append([side, *(number(at.get(x)) for x in places)])
        yield [f"{title} (cosine)", *_aligned(rows), line_reading(name, sides)]
    part = plots.coherence_blocks
    if part is not None and known_blocks(part):
        yield [*_blocks(part), blocks_reading(part)]
    for title, histogram in histograms(plots):
        yield [f"{title} (cosine)", *_bars(histogram), histogram_reading(histogram)]


def _blocks(part: Coherence) -> list[str]:
    """Return the blocks of articles; of many, those that lie farthest from the train level."""
    blocks, train = known_blocks(part), part.train.near if part.train else None
    level = train or sum(near for _, _, near in blocks) / len(blocks)
    worst = sorted(blocks, key=lambda item: -abs(item[2] - level))[:NUM_LISTED]
    rows = [
        [f"{i}: {block_name(block, part)}", number(near), f"± {number(block.error)}"]
        for i, block, near in sorted(worst, key=lambda item: item[0])
    ]
    some = f", the {NUM_LISTED} of {len(blocks)} farthest off" if len(rows) < len(blocks) else ""
    return [f"{BLOCKS} (cosine above that of random pairs{some})", *_aligned(rows)]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    ]


def _bars(part: Histogram) -> list[str]:
    """Return both histograms as rows of block letters, on one scale."""
    top = max([1e-9, *(share or 0.0 for share in (*part.paired, *part.shuffled))])
    low, high = number(part.edges[0], 2), number(part.edges[-1], 2)
    rows = []
    paired = ("own target", part.paired, part.paired_mean)
    shuffled = ("other article", part.shuffled, part.shuffled_mean)
    for title, shares, mean in (paired, shuffled):
        drawn = "".join(_bar(share or 0.0, top) for share in shares)
        rows.append([title, low, f"|{drawn}|", high, f"mean {number(mean)}"])
    return _aligned(rows)


def _bar(share: float, top: float) -> str:
    """Return a block letter of the share's height; anything above zero is visible."""
    return BARS[max(int(share > 0), round((len(BARS) - 1) * share / top))]
