"""Candidates of the contrastive loss: which bank rows are negatives of each target.

    candidates = "batch":   targets of the global batch | sampled negatives of its windows
    candidates = "bank":    every row of the train split's articles

Every worker knows the indices of the whole global batch, so each lists the same candidates without
talking to the others. A row is never a negative of a window whose target or context it is, or
equals exactly: such columns are listed as excluded, whichever window brought them in.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from lvm.core.config.recipe import NegativesConfig
from lvm.core.errors import ConfigError
from lvm.core.randomness import numpy_generator
from lvm.data.bank import Bank
from lvm.data.windows import Windows

NUM_NEARBY = 8  # articles that count as nearby
MAX_ROUNDS = 16  # redraws of a row that is not allowed, before the draw falls back


@dataclass(frozen=True)
class Candidates:
    """C bank rows and, for each of the B local rows, the right one and the forbidden ones."""

    ids: Int[np.ndarray, " C"]  # bank rows; one row may appear more than once
    positive: Int[np.ndarray, " B"]  # column of the target of each local row
    excluded: Int[np.ndarray, "E 2"]  # (local row, column) that must get no probability


class NegativeSampler:
    """Candidates of every batch, and the table of sampled negatives behind them.

    `windows` are those of the train split: no row of another split's articles is ever a candidate.
    Raises ConfigError when extra negatives are requested on top of the whole bank.
    """

    def __init__(self, bank: Bank, windows: Windows, config: NegativesConfig, seed: int) -> None:
        if config.candidates == "bank" and config.sampled:
            raise ConfigError(
                f"negatives.candidates is 'bank' with {config.sampled} sampled negatives per "
                "window, but every row is a candidate already; set same_article, "
                "nearby_article and random to 0, or candidates to 'batch'."
            )
        self._config = config
        self._seed = seed
        self._targets = windows.targets
        self._groups = bank.duplicate_group
        own = np.column_stack([windows.targets, windows.contexts])
        self._forbidden = self._groups[own]  # [M, 1 + T] groups of the target and the contexts
        self._rows = _TrainRows(bank, windows)
        num_nearby = NUM_NEARBY if config.nearby_article else 0
        self._nearby = _nearest_articles(bank, self._rows, num_nearby)  # [A, K]
        self._table: np.ndarray | None = None  # [M, S] sampled negatives

    @functools.cached_property
    def _bank_columns(self) -> _Columns:
        return _Columns(self._rows.ids, self._groups)

    @property
    def same_groups(self) -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, "M F"]]:
        """Groups of equal rows: of every bank row, and those that each window forbids."""
        return self._groups, self._forbidden

    @property
    def sampled(self) -> Int[np.ndarray, "M S"]:
        """The rows drawn for every window by the last refresh; ValueError before the first."""
        if self._table is None:
            raise ValueError("call refresh(epoch) before using the negatives of an epoch")
        return self._table

    @property
    def whole_bank(self) -> tuple[Int[np.ndarray, " C"], Int[np.ndarray, " N"]]:
        """Every row of the train split's articles, and the column of each bank row among them."""
        return self._rows.ids, self._rows.column_of

    def refresh(self, epoch: int) -> dict[str, float]:
        """Draw the negatives of every train window for this epoch; return what was drawn.

        The shares of `in_batch` (or `bank`), `same_article`, `nearby_article` and `random` among
        the candidates sum to 1. `num_fell_back` draws found no allowed row in their tier and were
        made from `random` (where they are counted); `num_unusable` found none there either, and
        hold a row that the mask drops.
        """
        counts = {"same_article": 0, "nearby_article": 0, "random": 0}
        if self._config.candidates == "bank":
            return {"bank": 1.0, **counts, "num_fell_back": 0, "num_unusable": 0}
        rng = numpy_generator(self._seed, "negatives", epoch)
        num_windows = len(self._targets)
        columns = []
        num_fell_back = num_unusable = 0
        for tier in counts:
            window = np.repeat(np.arange(num_windows), getattr(self._config, tier))
            drawn, missing = self._draw(tier, window, rng)
            counts[tier] += len(window) - len(missing)
            if tier != "random":
                drawn[missing], unusable = self._draw("random", window[missing], rng)
                counts["random"] += len(missing)
                num_fell_back += len(missing)
                missing = unusable
            num_unusable += len(missing)
            columns.append(drawn.reshape(num_windows, -1))
        self._table = np.concatenate(columns, axis=1)
        total = num_windows + self._table.size
        shares = {tier: count / total for tier, count in counts.items()}
        return {
            "in_batch": num_windows / total,
            **shares,
            "num_fell_back": num_fell_back,
            "num_unusable": num_unusable,
        }

    def candidates(self, batch: Int[np.ndarray, " G"], rows: slice) -> Candidates:
        """Return the candidates of the windows `batch[rows]` within the global batch `batch`.

        `batch` holds positions of train windows, the same on every worker. In the mode "batch" the
        first G columns are the targets of `batch`. ValueError before the first refresh.
        """
        local = batch[rows]
        if self._config.candidates == "bank":
            columns = self._bank_columns
            positive = self._rows.column_of[self._targets[local]]
        else:
            ids = np.concatenate([self._targets[batch], self.sampled[batch].ravel()])
            columns = _Columns(ids, self._groups)
            positive = np.arange(len(batch), dtype=np.int64)[rows]
        return Candidates(columns.ids, positive, columns.of(self._forbidden[local], positive))

    def _draw(
        self, tier: str, window: Int[np.ndarray, " R"], rng: np.random.Generator
    ) -> tuple[Int[np.ndarray, " R"], Int[np.ndarray, " F"]]:
        """Draw one allowed row per entry of `window`; also return where none was found."""
        drawn = self._propose(tier, window, rng)
        missing = np.flatnonzero(self._is_forbidden(window, drawn))
        for _ in range(MAX_ROUNDS):
            if len(missing) == 0:
                break
            drawn[missing] = self._propose(tier, window[missing], rng)
            missing = missing[self._is_forbidden(window[missing], drawn[missing])]
        return drawn, missing

    def _is_forbidden(
        self, window: Int[np.ndarray, " R"], row: Int[np.ndarray, " R"]
    ) -> Bool[np.ndarray, " R"]:
        return np.asarray((self._forbidden[window] == self._groups[row][:, None]).any(axis=1))

    def _propose(
        self, tier: str, window: Int[np.ndarray, " R"], rng: np.random.Generator
    ) -> Int[np.ndarray, " R"]:
        """Draw uniformly from the tier; where it is empty, return the (forbidden) target."""
        rows = self._rows
        article = rows.article_of[window]
        start, count = rows.start[article], rows.count[article]
        if tier == "same_article":
            # Draw from the rows outside the window's own stretch, then step over it.
            first, span = rows.first[window], self._forbidden.shape[1]
            size = count - span
            place = start + _below(size, rng)
            place += np.where(place >= first, span, 0)
        elif tier == "random":
            size = len(rows.ids) - count
            place = _below(size, rng)
            place += np.where(place >= start, count, 0)
        else:
            size = np.full(len(window), self._nearby.shape[1])
            pick = _below(size, rng)
            other = self._nearby[article, pick] if self._nearby.size else article
            place = rows.start[other] + _below(rows.count[other], rng)
        usable = size > 0
        drawn = rows.ids[np.where(usable, place, 0)]
        return np.where(usable, drawn, self._targets[window])


def _below(size: Int[np.ndarray, " R"], rng: np.random.Generator) -> Int[np.ndarray, " R"]:
    """Draw from 0..size-1 for each entry; 0 where the size is not positive."""
    drawn: np.ndarray = rng.integers(np.maximum(size, 1))
    return drawn


class _TrainRows:
    """Rows of the train split's articles, sorted by article and chunk.

    Articles are numbered 0..A-1 in the order of their ids.
    """

    def __init__(self, bank: Bank, windows: Windows) -> None:
        articles, self.article_of = np.unique(windows.articles, return_inverse=True)  # [A], [M]
        order = np.lexsort((bank.keys[:, 1], bank.keys[:, 0])).astype(np.int64)
        self.ids = order[np.isin(bank.articles[order], articles)]  # [R] bank rows
        owner = bank.articles[self.ids]
        self.start = np.searchsorted(owner, articles)  # [A] place in ids
        self.count = np.searchsorted(owner, articles, side="right") - self.start  # [A]
        self.column_of = np.full(len(bank), -1, dtype=np.int64)  # [N] place in ids, or -1
        self.column_of[self.ids] = np.arange(len(self.ids))
        # A window's rows follow each other in this order: the oldest context comes first.
        self.first = self.column_of[windows.contexts[:, 0]]  # [M]


def _nearest_articles(
    bank: Bank, rows: _TrainRows, num_nearby: int, *, block: int = 1024
) -> Int[np.ndarray, "A K"]:
    """Return for each article those with the highest cosine between centroids, in no order."""
    num_articles = len(rows.start)
    k = min(num_nearby, num_articles - 1)
    nearest = np.empty((num_articles, k), dtype=np.int64)
    if k == 0:
        return nearest
    spans = zip(rows.start, rows.start + rows.count, strict=True)
    centroids = np.stack([bank.rows(rows.ids[a:b]).mean(axis=0) for a, b in spans])
    centroids /= np.linalg.norm(centroids, axis=1, keepdims=True) + 1e-12
    for low in range(0, num_articles, block):
        cosines = centroids[low : low + block] @ centroids.T
        here = np.arange(len(cosines))
        cosines[here, low + here] = -np.inf
        nearest[low : low + block] = np.argpartition(-cosines, k - 1, axis=1)[:, :k]
    return nearest


class _Columns:
    """A list of candidates that finds the columns of a group of duplicates by bisection."""

    def __init__(self, ids: Int[np.ndarray, " C"], groups: Int[np.ndarray, " N"]) -> None:
        self.ids = ids
        group = groups[ids]
        self._order = np.argsort(group, kind="stable")
        self._sorted = group[self._order]

    def of(
        self, forbidden: Int[np.ndarray, "B F"], positive: Int[np.ndarray, " B"]
    ) -> Int[np.ndarray, "E 2"]:
        """Return each pair (row, column in a forbidden group of the row), save the positive."""
        wanted = np.sort(forbidden, axis=1)
        low = np.searchsorted(self._sorted, wanted)
        size = np.searchsorted(self._sorted, wanted, side="right") - low
        size[:, 1:][wanted[:, 1:] == wanted[:, :-1]] = 0  # a group listed twice counts once
        row = np.repeat(np.arange(len(wanted)), size.sum(axis=1))
        low, size = low.ravel(), size.ravel()
        within = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)
        column = self._order[np.repeat(low, size) + within]
        keep = column != positive[row]
        return np.column_stack([row[keep], column[keep]])
