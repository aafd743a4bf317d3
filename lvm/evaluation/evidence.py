"""The evidence behind the metrics of a model: distributions, both spaces, and windows to look at.

The numbers are bounded whatever the data: histograms of at most 40 bins, nine windows, ranks at
round places. They go into the journal, so that a report can be drawn from it alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lvm.core.device import ids_on
from lvm.core.metrics import METRICS, Shown
from lvm.core.randomness import numpy_generator
from lvm.data.windows import Dataset, Windows
from lvm.evaluation.evaluate import evaluate
from lvm.evaluation.index import TorchIndex
from lvm.evaluation.inference import by_block, predict, search_pool
from lvm.evaluation.metrics import PerQuery, Ranks, own_groups, summarise
from lvm.models.predictor import Predictor

MAX_WINDOWS = 2048  # that are looked at; more change no picture and cost time
BIN_WIDTHS = (0.025, 0.05)  # of a cosine histogram; the second one holds -1 to 1 in 40 bins
MAX_BINS = 40
PER_KIND = 3  # windows of each kind that are shown
SHOWN_CONTEXTS = 2  # the last ones of a window
SHOWN_RETRIEVED = 3
MAX_COPIES = 22  # of own contexts that are skipped among the rows retrieved first
NEAR = 10  # a target at ranks 2 to 10 is a near miss; beyond it is missed
DIGITS = 4


@dataclass(frozen=True, eq=False)
class View:
    """Windows judged in one space: what `evaluate` took and gave."""

    space: str  # "raw" or "projected"
    queries: Float[Tensor, "M W"]
    pool: Float[Tensor, "P W"]
    per_query: PerQuery


def gather(
    searched: View,
    dataset: Dataset,
    *,
    seed: int,
    predictor: Predictor | None = None,
    context_length: int | None = None,
) -> dict[str, object]:
    """Return the evidence on a model's test windows as plain JSON values.

    `searched` holds all test windows in the space of the search. A `predictor` with a head is also
    looked at in its other space; it reads the last `context_length` vectors of a window. Keys:
    `windows` (how many were looked at), `spaces` (name -> see `_space`; the searched one first),
    `reach` (share of targets within the first k, per k), `ranks` (quartiles), `found` (windows per
    kind), `hubs` and `examples`; rows are row ids of the bank.
    """
    kept = np.linspace(0, len(dataset.test) - 1, min(MAX_WINDOWS, len(dataset.test))).astype(int)
    windows = dataset.test.select(kept)
    views = [_selected(searched, kept)]
    if predictor is not None and predictor.head is not None:
        read = windows.last(context_length or windows.context_length)
        views.append(_other_view(predictor, predictor.head, dataset, windows, read, views[0]))
    partner = _partners(windows.articles, seed)
    nearest = _nearest(views[0], windows, dataset.bank.duplicate_group)
    return {
        "windows": len(windows),
        "spaces": {view.space: _space(view, windows, partner) for view in views},
        "reach": _reach(views[0].per_query.masked),
        "ranks": np.percentile(views[0].per_query.rank, [25, 50, 75]).round(1).tolist(),
        **_windows_to_look_at(views[0].per_query, windows, nearest, seed),
    }


# --- the spaces -----------------------------------------------------------------------------------


def _selected(view: View, kept: Int[np.ndarray, " m"]) -> View:
    if len(kept) == len(view.queries):
        return view
    found = view.per_query

    def ranks(of: Ranks) -> Ranks:
        return Ranks(of.greater[kept], of.equal[kept], of.candidates[kept])

    per_query = replace(
        found,
        cosine=found.cosine[kept],
        masked=ranks(found.masked),
        raw=ranks(found.raw),
        articles=found.articles[kept],
    )
    return View(view.space, view.queries[ids_on(kept, view.queries.device)], view.pool, per_query)


def _other_view(
    predictor: Predictor,
    head: nn.Module,
    dataset: Dataset,
    windows: Windows,
    read: Windows,
    searched: View,
) -> View:
    """Return the same windows in the space in which the model is not searched."""
    if searched.space == "raw":  # the head alone has not been applied yet
        space, queries = "projected", by_block(head, searched.queries)
        pool = by_block(head, searched.pool)
    else:
        space, queries = "raw", predict(predictor, dataset, read, "raw")
        pool = search_pool(predictor, dataset, "raw")[: len(searched.pool)]
    _, per_query = evaluate(
        queries, windows, dataset.bank, pool_vectors=pool, space=space, split="test"
    )
    return View(space, queries, pool, per_query)


def _partners(articles: Int[np.ndarray, " M"], seed: int) -> Int[np.ndarray, " M"]:
    """Return for each window one of another article; -1 where every window is of one article."""
    order = numpy_generator(seed, "evidence", "partners").permutation(len(articles))
    partner = np.full(len(articles), -1)
    for shift in range(1, len(articles)):
        other = np.roll(order, shift)
        open_ = (partner[order] < 0) & (articles[order] != articles[other])
        partner[order[open_]] = other[open_]
        if (partner >= 0).all():
            break
    return partner


def _space(view: View, windows: Windows, partner: Int[np.ndarray, " M"]) -> dict[str, object]:
    """Return cosines to the own target and to another article's, and retrieval, in one space.

    Keys: `low`, `width`, `paired`, `shuffled` (shares per bin), their means, `closer` (share of
    windows that lie closer to their own target) and the masked retrieval metrics.
    """
    paired = view.per_query.cosine
    there = np.flatnonzero((partner >= 0) & np.isfinite(paired))
    device = view.pool.device
    targets = view.pool[ids_on(windows.targets[partner[there]], device)].float()
    queries = view.queries[ids_on(there, device)].float()
    shuffled = (queries * targets).sum(dim=1).cpu().numpy()
    paired = paired[there]
    masked, _ = summarise(view.per_query)
    return {
        **_histograms(paired, shuffled),
        "paired_mean": _mean(paired),
        "shuffled_mean": _mean(shuffled),
        "closer": _mean(paired > shuffled),
        **{metric: masked[metric] for metric in METRICS.shown(Shown.SPACES)},
    }


def _histograms(
    paired: Float[np.ndarray, " m"], shuffled: Float[np.ndarray, " m"]
) -> dict[str, object]:
    """Return both histograms over the same bins, which lie on a grid common to every model."""
    if not len(paired):
        return {"low": 0.0, "width": BIN_WIDTHS[0], "paired": [], "shuffled": []}
    low = max(-1.0, float(min(paired.min(), shuffled.min())))
    high = min(1.0, float(max(paired.max(), shuffled.max())))
    for width in BIN_WIDTHS:
        first, last = (
            math.floor(low / width),
            max(math.ceil(high / width), 1 + math.floor(low / width)),
        )
        if last - first <= MAX_BINS:
            break
    edges = width * np.arange(first, last + 1)
    return {
        "low": round(first * width, DIGITS),
        "width": width,
        "paired": shares(paired, edges),
        "shuffled": shares(shuffled, edges),
    }


def shares(values: Float[np.ndarray, " m"], edges: Float[np.ndarray, " e"]) -> list[float]:
    """Return the share of values per bin; rounding may leave one a hair outside the last edge."""
    counts = np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0]
    return [round(float(count) / len(values), DIGITS) for count in counts]


def _mean(values: np.ndarray) -> float | None:
    return round(float(np.mean(values)), DIGITS) if len(values) else None


# --- ranks ----------------------------------------------------------------------------------------


def _reach(ranks: Ranks) -> dict[str, list[object]]:
    """Return the share of targets within the first k for k = 1, 2, 5, 10, ... below the pool."""
    most = int(ranks.candidates.max(initial=1))
    decades = range(math.ceil(math.log10(most + 1)) + 1)
    places = [k for power in decades for k in (10**power, 2 * 10**power, 5 * 10**power)]
    places = [*(k for k in places if k < most), most]
    return {"k": places, "share": [_mean(ranks.hit(k)) for k in places]}


# --- windows to look at ---------------------------------------------------------------------------


def _nearest(
    view: View, windows: Windows, group: Int[np.ndarray, " R"]
) -> tuple[Int[np.ndarray, "M k"], Float[np.ndarray, "M k"]]:
    """Return ids and scores of the rows retrieved first, own contexts and copies left out."""
    target = windows.targets[:, None]
    own = np.where(windows.contexts == target, -1, windows.contexts)
    index = TorchIndex(view.pool)  # not FAISS: the last digits must not depend on what is installed
    ids, scores = index.search(view.queries, min(NEAR + MAX_COPIES, index.size), own)
    copied = own_groups(group, windows.contexts, index.size)
    left_out = (group[ids][:, :, None] == copied[:, None, :]).any(axis=2) & (ids != target)
    order = np.argsort(left_out, axis=1, kind="stable")[:, : min(NEAR, index.size)]
    ids, scores = np.where(left_out, -1, ids), np.where(left_out, -np.inf, scores)
    return np.take_along_axis(ids, order, axis=1), np.take_along_axis(scores, order, axis=1)


def _windows_to_look_at(
    per_query: PerQuery,
    windows: Windows,
    nearest: tuple[Int[np.ndarray, "M k"], Float[np.ndarray, "M k"]],
    seed: int,
) -> dict[str, object]:
    """Return `hubs` (the rows retrieved most often), `found` (windows per kind) and `examples`."""
    ids, rank = nearest[0], per_query.rank
    order = numpy_generator(seed, "evidence", "examples").permutation(len(windows))
    kinds = {"hit": rank == 1, "near miss": (rank > 1) & (rank <= NEAR), "miss": rank > NEAR}
    hubs = _hubs(ids)
    chosen: list[tuple[str, int, int | None]]
    chosen = [(k, w, None) for k in ("hit", "near miss") for w in _drawn(order, kinds[k], windows)]
    for hub in hubs:
        led_away = (ids[:, :SHOWN_RETRIEVED] == hub["row"]).any(axis=1) & kinds["miss"]
        chosen += [("hub", w, hub["row"]) for w in _drawn(order, led_away, windows)[:1]]
    return {
        "hubs": hubs,
        "found": {kind: int(mask.sum()) for kind, mask in kinds.items()},
        "examples": [_example(*c, per_query, windows, nearest) for c in chosen],
    }


def _hubs(ids: Int[np.ndarray, "M k"]) -> list[dict[str, int]]:
    """Return the rows that most windows retrieve among their first ten."""
    rows, counts = np.unique(ids[ids >= 0], return_counts=True)
    most = np.lexsort((rows, -counts))[:PER_KIND]
    return [{"row": int(rows[i]), "windows": int(counts[i])} for i in most if counts[i] > 1]


def _drawn(
    order: Int[np.ndarray, " M"], wanted: Bool[np.ndarray, " M"], windows: Windows
) -> list[int]:
    """Return some of the wanted windows in a random order, of as many articles as there are."""
    there = [int(w) for w in order if wanted[w]]
    seen: set[int] = set()
    first: list[int] = []
    again: list[int] = []
    for window in there:
        article = int(windows.articles[window])
        (again if article in seen else first).append(window)
        seen.add(article)
    return [*first, *again][:PER_KIND]


def _example(
    kind: str,
    window: int,
    hub: int | None,
    per_query: PerQuery,
    windows: Windows,
    nearest: tuple[Int[np.ndarray, "M k"], Float[np.ndarray, "M k"]],
) -> dict[str, object]:
    ids, scores = (part[window, :SHOWN_RETRIEVED] for part in nearest)
    there = ids >= 0
    return {
        "kind": kind,
        "contexts": windows.contexts[window, -SHOWN_CONTEXTS:].tolist(),
        "target": int(windows.targets[window]),
        "rank": round(float(per_query.rank[window]), 1),
        "cosine": round(float(per_query.cosine[window]), DIGITS),
        "retrieved": ids[there].tolist(),
        "scores": [round(float(s), DIGITS) for s in scores[there]],
        **({} if hub is None else {"hub": hub}),
    }
