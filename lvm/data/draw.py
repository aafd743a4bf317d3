"""The dev windows that judge an epoch: as many as an epoch can afford, drawn once for a whole run.

    dev split      61,737 windows, 3,000 articles
    draw            8,192 windows,   412 articles      whole articles, the same for every arm

Whole articles, because the article is the unit of every interval; one draw for a run, because arms
are compared window by window. The test split is never drawn from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from jaxtyping import Int

from lvm.core.randomness import numpy_generator
from lvm.data.windows import MIN_ARTICLES, Dataset, Size, Windows

SPREAD_OVER = 32  # articles that a draw holds where there are as many


def drawn(dataset: Dataset, num_windows: int, seed: int) -> Dataset:
    """Return the dataset with at most `num_windows` dev windows, of articles drawn from `seed`.

    Only an article that would leave no room for 31 others (or for all others, where these are few
    or short) is cut: it keeps its first windows. Two articles are kept in any case, since one has
    no interval. A dev split that is small enough stays as it is.
    """
    dev = dataset.dev
    if len(dev) <= num_windows:
        return dataset
    articles, sizes = np.unique(dev.articles, return_counts=True)
    sizes = np.minimum(sizes, max(1, num_windows // SPREAD_OVER, _level(sizes, num_windows)))
    order = numpy_generator(seed, "dev_windows").permutation(len(articles))
    fitting = int(np.searchsorted(np.cumsum(sizes[order]), num_windows, side="right"))
    kept = order[: max(fitting, MIN_ARTICLES["dev"])]
    counts = dict(zip(articles[kept].tolist(), sizes[kept].tolist(), strict=True))
    whole = Size(windows=len(dev), articles=len(articles))
    return replace(dataset, dev=leading(dev, counts), dev_drawn_from=whole)


def _level(sizes: Int[np.ndarray, " A"], num_windows: int) -> int:
    """Return the length at which cut articles leave room for all; they hold more windows whole."""
    rising = np.sort(sizes)
    left = num_windows - np.concatenate([[0], np.cumsum(rising)[:-1]])
    levels = left // np.arange(len(sizes), 0, -1)  # where the shorter ones stay whole
    return int(levels[np.argmax(levels < rising)])


def leading(windows: Windows, counts: Mapping[int, int]) -> Windows:
    """Return the first so many windows of each article in `counts`, in their order."""
    articles, inverse = np.unique(windows.articles, return_inverse=True)
    limit = np.array([counts.get(article, 0) for article in articles.tolist()], dtype=np.int64)
    return windows.select(_place_in_article(windows) < limit[inverse])


def count_by_article(windows: Windows) -> dict[int, int]:
    """Return how many windows each article has: what `leading` finds the same windows by."""
    articles, counts = np.unique(windows.articles, return_counts=True)
    return dict(zip(articles.tolist(), counts.tolist(), strict=True))


def _place_in_article(windows: Windows) -> Int[np.ndarray, " M"]:
    """Return for every window how many of its article come before it."""
    order = np.argsort(windows.articles, kind="stable")
    together = windows.articles[order]
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order)) - np.searchsorted(together, together)
    return place
