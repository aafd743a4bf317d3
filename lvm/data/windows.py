"""Windows of a bank: T context rows and the row that follows them, as indices; draws of them.

        chunk of the article:   c0  c1  c2  c3  c4  c5  c6
        window 0 (T = 5):      [c0  c1  c2  c3  c4] c5
        window 1:                  [c1  c2  c3  c4  c5] c6

A window never crosses the border of an article, and a split never shares an article.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int

from lvm.core.errors import DataError, SplitError
from lvm.core.randomness import numpy_generator
from lvm.data.bank import Bank
from lvm.data.rows import chunk_unit

SPLITS = ("train", "dev", "test")
MIN_ARTICLES = {"train": 4, "dev": 2, "test": 3}
SPREAD_OVER = 32  # articles that a draw holds where there are as many


@dataclass(frozen=True, eq=False)
class Windows:
    """M windows: context row ids [M, T], target row ids [M], article ids [M]."""

    contexts: np.ndarray  # [M, T] int64, oldest first
    targets: np.ndarray  # [M] int64
    articles: np.ndarray  # [M] int64, the unit of every interval

    def __post_init__(self) -> None:
        m = len(self.targets)
        if self.contexts.ndim != 2 or len(self.contexts) != m or self.articles.shape != (m,):
            raise ValueError(
                f"windows of shapes {self.contexts.shape}, {self.targets.shape}, "
                f"{self.articles.shape}; wanted [M, T], [M], [M]"
            )

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def context_length(self) -> int:
        """T, the number of context vectors."""
        return int(self.contexts.shape[1])

    @property
    def num_articles(self) -> int:
        """Number of distinct articles."""
        return len(np.unique(self.articles))

    def last(self, context_length: int) -> Windows:
        """Return the same targets after their last `context_length` vectors; all of them as is."""
        if context_length >= self.context_length:
            return self
        return Windows(self.contexts[:, -context_length:], self.targets, self.articles)

    def select(self, index: np.ndarray) -> Windows:
        """Return the windows at the given positions (integers or a mask)."""
        return Windows(self.contexts[index], self.targets[index], self.articles[index])


@dataclass(frozen=True)
class Size:
    """How much a split holds."""

    windows: int
    articles: int


@dataclass(frozen=True, eq=False)
class Dataset:
    """A bank with its windows by split: what every trial reads."""

    bank: Bank
    train: Windows
    dev: Windows
    test: Windows
    dev_drawn_from: Size | None = None  # the whole dev split, where `dev` is a draw from it

    def split(self, name: str) -> Windows:
        """Return the windows of "train", "dev" or "test"."""
        return {"train": self.train, "dev": self.dev, "test": self.test}[name]

    def narrowed(self, context_length: int) -> Dataset:
        """Return the dataset with at most `context_length` vectors in every context."""
        if context_length >= self.train.context_length:
            return self
        train, dev, test = (self.split(name).last(context_length) for name in SPLITS)
        return replace(self, train=train, dev=dev, test=test)

    @property
    def fingerprint(self) -> str:
        """Return 12 hex digits over the bank and every window id."""
        digest = hashlib.sha256(self.bank.fingerprint.encode())
        for name in SPLITS:
            windows = self.split(name)
            digest.update(np.ascontiguousarray(windows.contexts, dtype=np.int64).tobytes())
            digest.update(np.ascontiguousarray(windows.targets, dtype=np.int64).tobytes())
        return digest.hexdigest()[:12]


def recut(dataset: Dataset, context_length: int) -> Dataset:
    """Return windows of another length from the same bank, with the same articles in each split.

    Longer windows of dev are those with a target that dev has already, so that a draw stays one.
    Raises DataError when too few articles are long enough.
    """
    split = {name: np.unique(dataset.split(name).articles).tolist() for name in SPLITS}
    cut = dataset_from_bank(dataset.bank, context_length, split)
    if context_length <= dataset.dev.context_length:
        return cut
    dev = cut.dev.select(np.isin(cut.dev.targets, dataset.dev.targets))
    _require_articles(dev, "dev", cut.bank)
    return replace(cut, dev=dev)


def article_windows(keys: np.ndarray, context_length: int) -> Windows:
    """Return all windows of T consecutive chunks and the next, within articles.

    `keys` [N, 2]; rows may lie in any order. Chunks of an article are consecutive when their
    numbers differ by 1, or by 10 where all are counted by ten. No window reaches across a gap.
    """
    order = np.lexsort((keys[:, 1], keys[:, 0])).astype(np.int64)
    article, chunk = keys[order, 0].astype(np.int64), keys[order, 1].astype(np.int64)
    span = context_length + 1
    if len(order) < span:
        starts = np.empty(0, dtype=np.int64)
    else:
        last = len(order) - span + 1
        same = article[:last] == article[span - 1 :]
        # Equal end-to-end distance could hide a repeated and a missing chunk: ask for every step.
        step_ok = (np.diff(chunk) == chunk_unit(keys)) & (np.diff(article) == 0)
        run = np.concatenate([[0], np.cumsum(step_ok)])
        starts = np.flatnonzero(same & (run[span - 1 :] - run[:last] == span - 1))
    contexts = order[starts[:, None] + np.arange(context_length)]
    return Windows(contexts, order[starts + context_length], article[starts])


def ranked_articles(articles: Iterable[int]) -> list[int]:
    """Return the distinct article ids in an order that depends on nothing but the ids."""
    unique = {int(a) for a in articles}
    return sorted(unique, key=lambda a: hashlib.sha256(f"split/{a}".encode()).digest())


def split_articles(articles: Sequence[int]) -> dict[str, list[int]]:
    """Split article ids 70 / 12 / 18 % into train, dev, test by a hash of the id.

    The order depends on nothing but the ids, so that the same bank is always split alike. Raises
    DataError with fewer articles than every split needs.
    """
    ranked = ranked_articles(articles)
    needed = sum(MIN_ARTICLES.values())
    if len(ranked) < needed:
        raise DataError(
            f"{len(ranked)} articles have windows, but at least {needed} are needed "
            f"({', '.join(f'{n} {k}' for k, n in MIN_ARTICLES.items())}); embed more documents."
        )
    num_dev = max(MIN_ARTICLES["dev"], round(0.12 * len(ranked)))
    num_test = max(MIN_ARTICLES["test"], round(0.18 * len(ranked)))
    return {
        "test": sorted(ranked[:num_test]),
        "dev": sorted(ranked[num_test : num_test + num_dev]),
        "train": sorted(ranked[num_test + num_dev :]),
    }


def dataset_from_bank(
    bank: Bank, context_length: int, split: Mapping[str, Sequence[int]] | None = None
) -> Dataset:
    """Cut a bank into windows and article-disjoint splits.

    `split` gives the article ids of train, dev and test; by default the manifest's `split`, else a
    split by hash. Raises DataError when a split has no windows or shares an article.
    """
    windows = article_windows(bank.keys, context_length)
    if len(windows) == 0:
        raise DataError(
            f"{bank.source}: no article has {context_length + 1} consecutive chunks, as a "
            "window needs; use longer documents or a shorter context_length."
        )
    try:
        chosen = split or bank.manifest.get("split") or split_articles(windows.articles.tolist())
    except DataError as error:
        raise DataError(f"{bank.source}: {error}") from None
    parts: dict[str, Windows] = {}
    seen: dict[int, str] = {}
    for name in SPLITS:
        ids = list(dict.fromkeys(int(a) for a in chosen.get(name, [])))
        for article in ids:
            if article in seen:
                raise SplitError(
                    f"{bank.source}: article {article} is in the splits {seen[article]} and "
                    f"{name}; remove it from one of them."
                )
            seen[article] = name
        parts[name] = windows.select(np.isin(windows.articles, ids))
        _require_articles(parts[name], name, bank)
    return Dataset(bank, parts["train"], parts["dev"], parts["test"])


def _require_articles(windows: Windows, name: str, bank: Bank) -> None:
    if windows.num_articles < MIN_ARTICLES[name]:
        raise DataError(
            f"{bank.source}: the {name} split has {windows.num_articles} articles with windows, "
            f"but needs at least {MIN_ARTICLES[name]}; embed more documents."
        )


# --- the dev windows that judge an epoch: as many as it can afford, drawn once for a run ----------
#
#     dev split      61,737 windows, 3,000 articles
#     draw            8,192 windows,   412 articles      whole articles, the same for every arm
#
# Whole articles, because the article is the unit of every interval; one draw for a run, because
# arms are compared window by window. The test split is never drawn from.


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
