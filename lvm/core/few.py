"""Show a bounded number of very many items, chosen by one rule, and count the rest."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

Item = TypeVar("Item")


def foremost(items: Sequence[Item], room: int, rank: Callable[[Item], object]) -> list[Item]:
    """Return the `room` items of the highest rank in their own order; ties go to the earlier."""
    if len(items) <= room:
        return list(items)
    ranked = ((rank(item), -place) for place, item in enumerate(items))
    return [items[place] for place in sorted(-p for _, p in heapq.nlargest(room, ranked))]


def tally(every: Iterable[str], left_out: Iterable[str] = ()) -> str:
    """Count words, without those of `left_out`, the most frequent first: "3 pruned, 1 finished"."""
    counts = Counter(every)
    counts.subtract(left_out)
    return ", ".join(f"{count:,} {word}" for word, count in counts.most_common() if count)
