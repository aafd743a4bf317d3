"""Small data sets with exactly one defect each, and the code that the audit must answer with.

The clean corpus is made so that its statistics are those of the failure report's text: random
pairs .144, lag cosines .46 falling to .34. A vector is a direction common to all text, a direction
of its article, a local state that fades within a few chunks, and noise of its own; axes differ in
scale as those of real encoders do.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from lvm.audit.material import Material, Side
from lvm.data.bank import Bank
from lvm.data.window_files import WindowFile
from lvm.data.windows import article_windows, split_articles
from lvm.evaluation.index import TorchIndex

T = 5
# Squared shares of the parts of a vector.
COMMON, ARTICLE, LOCAL = 0.145, 0.185, 0.24
FADE = 0.52  # of the local state from chunk to chunk


@dataclass(frozen=True, kw_only=True)
class Family:
    """Kind of corpus: other widths, lengths and correlations."""

    articles: int = 120
    chunks: int = 40
    width: int = 64
    length_cv: float = 0.5
    common: float = COMMON
    article: float = ARTICLE
    local: float = LOCAL
    fade: float = FADE
    dtype: Any = np.float32


@dataclass(frozen=True, kw_only=True, eq=False)
class Parts:
    """The report's three files in memory."""

    train: WindowFile
    eval: WindowFile
    bank: Bank
    more: dict[str, Any] = field(default_factory=dict)  # further parts of the material

    def material(self, **changes: Any) -> Material:
        """Return these parts as the audit reads them."""
        given = {
            "train": Side("train", "train.npz", file=self.train),
            "eval": Side("eval", "eval.npz", file=self.eval),
            "bank": self.bank,
        }
        return Material(**{**given, **self.more, **changes})


def corpus(seed: int, family: Family = Family()) -> tuple[np.ndarray, np.ndarray]:
    """Return unit vectors [N, D] and keys [N, 2] of one clean corpus."""
    rng = np.random.default_rng([seed, 1])
    scales = (1 + np.arange(family.width)) ** -0.35
    size = np.linalg.norm(scales)
    turn = np.linalg.qr(rng.standard_normal((family.width, family.width)))[0]

    def draw(n: int) -> np.ndarray:
        return rng.standard_normal((n, family.width)) * scales / size

    spread = np.log1p(family.length_cv**2) ** 0.5
    lengths = np.exp(rng.normal(np.log(family.chunks) - spread**2 / 2, spread, family.articles))
    lengths = np.maximum(T + 3, np.round(lengths)).astype(int)
    common = draw(1)
    common /= np.linalg.norm(common)
    noise = 1 - family.common - family.article - family.local
    rows, keys = [], []
    for article, length in enumerate(lengths):
        # In the order of the draws: a first state, its steps, the article, noise.
        state, steps, of_article, own = np.split(draw(2 * length + 2), [1, length + 1, length + 2])
        local = np.concatenate([state, (1 - family.fade**2) ** 0.5 * steps[:-1]])
        for before, now in itertools.pairwise(local):
            now += family.fade * before
        rows.append(
            family.common**0.5 * common
            + family.article**0.5 * of_article
            + family.local**0.5 * local
            + noise**0.5 * own
        )
        keys.append(np.column_stack([np.full(length, article), np.arange(length)]))
    vectors = np.concatenate(rows) @ turn
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(family.dtype), np.concatenate(keys).astype(np.int32)


def parts_of(vectors: np.ndarray, keys: np.ndarray, context_length: int = T) -> Parts:
    """Cut a corpus into the report's files: windows of disjoint articles, all rows as payload."""
    bank = Bank(vectors, keys, {"count": len(vectors)}, source="payload.npz")
    windows = article_windows(keys, context_length)
    split = split_articles(windows.articles.tolist())
    files = {}
    for name, articles in (("train", split["train"] + split["dev"]), ("eval", split["test"])):
        part = windows.select(np.isin(windows.articles, articles))
        files[name] = WindowFile(
            vectors[part.contexts],
            vectors[part.targets],
            keys[part.targets],
            {"num_windows": len(part)},
            f"{name}.npz",
        )
    return Parts(train=files["train"], eval=files["eval"], bank=bank)


@functools.lru_cache(maxsize=8)
def clean(seed: int = 0, family: Family = Family()) -> Parts:
    """Return a data set without a defect; tests share it, so nothing in it can be written to."""
    parts = parts_of(*corpus(seed, family))
    for file in (parts.train, parts.eval):
        for array in (file.contexts, file.targets, file.truth_keys):
            array.flags.writeable = False
    for array in (parts.bank.vectors, parts.bank.keys):
        array.flags.writeable = False
    return parts


# --- planting -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Plant:
    """A way to break a data set, and the code that must answer."""

    name: str
    code: str
    related: frozenset[str]  # further blocking codes that say the same truth
    apply: Callable[[Parts, np.random.Generator, float], Parts]


PLANTS: dict[str, Plant] = {}


def plants(name: str, code: str, *related: str) -> Callable[[Any], Any]:
    def register(apply: Any) -> Any:
        PLANTS[name] = Plant(name=name, code=code, related=frozenset(related), apply=apply)
        return apply

    return register


def plant(name: str, seed: int, share: float = 1.0, family: Family = Family()) -> Parts:
    """Return the clean data set of `seed` with one defect in `share` of the rows concerned."""
    rng = np.random.default_rng([seed, 2])
    return PLANTS[name].apply(clean(seed, family), rng, share)


def some(n: int, share: float, rng: np.random.Generator) -> np.ndarray:
    """Return a share of n rows (at least one), sorted."""
    return np.sort(rng.choice(n, max(1, round(share * n)), replace=False))


def change(file: WindowFile, **changes: Any) -> WindowFile:
    """Return a window file with some parts replaced."""
    return dataclasses.replace(file, **changes)


@plants("nan", "NONFINITE")
def _nan(parts: Parts, rng: np.random.Generator, share: float) -> Parts:
    targets = parts.eval.targets.copy()
    targets[some(len(targets), 0.01 * share, rng), 3] = np.nan
    return dataclasses.replace(parts, eval=change(parts.eval, targets=targets))


@plants("nan_in_bank", "NONFINITE")
def _nan_in_bank(parts: Parts, rng: np.random.Generator, share: float) -> Parts:
    return _with_rows(parts, rng, 0.01 * share, lambda rows: rows * np.nan)


@plants("zero_rows", "ZERO_ROWS")
def _zero_rows(parts: Parts, rng: np.random.Generator, share: float) -> Parts:
    return _with_rows(parts, rng, 0.01 * share, lambda rows: rows * 0)


def _with_rows(
    parts: Parts, rng: np.random.Generator, share: float, do: Callable[[np.ndarray], np.ndarray]
) -> Parts:
    vectors = parts.bank.vectors.copy()
    rows = some(len(vectors), share, rng)
    vectors[rows] = do(vectors[rows])
    return dataclasses.replace(parts, bank=dataclasses.replace(parts.bank, vectors=vectors))


@plants("unnormalised", "UNNORMALISED")
def _unnormalised(parts: Parts, rng: np.random.Generator, share: float) -> Parts:
    targets, contexts = parts.eval.targets.copy(), parts.eval.contexts.copy()
    rows = some(len(targets), share, rng)
    targets[rows] *= np.abs(rng.normal(1, 0.3, (len(rows), 1))).astype(targets.dtype)
    contexts[rows] *= np.abs(rng.normal(1, 0.3, (len(rows), T, 1))).astype(targets.dtype)
    return dataclasses.replace(parts, eval=change(parts.eval, targets=targets, contexts=contexts))


@plants("duplicates", "DUPLICATES")
def _duplicates(parts: Parts, rng: np.random.Generator, share: float) -> Parts:
    bank, n = parts.bank, len(parts.bank)
    rows = some(n, 0.03 * share, rng)
    vectors = np.concatenate([bank.vectors, bank.vectors[rows]])
    keys = np.concatenate([bank.keys, bank.keys[rows]])
    manifest = {"count": len(vectors)}
    return dataclasses.replace(parts, bank=Bank(vectors, keys, manifest, source=bank.source))


@plants("keys_collapsed", "KEYS_DEGENERATE", "KEYS_WRONG")
def _keys_collapsed(parts: Parts, rng: np.random.Generator, share: float) -> Parts:
    keys = _keys(parts)
    rows = some(len(keys), share, rng)
    keys[rows] = keys[rng.choice(len(keys), 16)][rng.integers(16, size=len(rows))]
    return _with_keys(parts, keys)


@plants("keys_made_up", "KEYS_WRONG")
def _keys_made_up(parts: Parts, rng: np.random.Generator, share: float) -> Parts:
    keys = _keys(parts)
    rows = some(len(keys), share, rng)
    keys[rows] = np.column_stack([rows // 100, rows % 100])
    return _with_keys(parts, keys)


@plants("keys_next_article", "KEYS_WRONG")
def _keys_next_article(parts: Parts, rng: np.random.Generator, share: float) -> Parts:
    keys = _keys(parts)
    keys[some(len(keys), share, rng), 0] += 1
    return _with_keys(parts, keys)


@plants("keys_next_chunk", "KEYS_WRONG")
def _keys_next_chunk(parts: Parts, rng: np.random.Generator, share: float) -> Parts:
    keys = _keys(parts)
    keys[some(len(keys), share, rng), 1] += 1
    return _with_keys(parts, keys)


def _keys(parts: Parts) -> np.ndarray:
    assert parts.eval.truth_keys is not None
    return parts.eval.truth_keys.copy()


def _with_keys(parts: Parts, keys: np.ndarray) -> Parts:
    return dataclasses.replace(parts, eval=change(parts.eval, truth_keys=keys))


@plants("eval_not_in_bank", "TARGET_NOT_IN_BANK")
def _eval_not_in_bank(parts: Parts, rng: np.random.Generator, share: float) -> Parts:
    articles = np.unique(_keys(parts)[:, 0])
    gone = rng.choice(articles, max(1, round(share * len(articles))), replace=False)
    keep = ~np.isin(parts.bank.articles, gone)
    bank = Bank(
        parts.bank.vectors[keep],
        parts.bank.keys[keep],
        {"count": int(keep.sum())},
        source=parts.bank.source,
    )
    return dataclasses.replace(parts, bank=bank)


@plants("rows_dropped", "ROWS_DROPPED")
def _rows_dropped(parts: Parts, rng: np.random.Generator, share: float) -> Parts:
    file, n = parts.eval, len(parts.eval)
    keep = np.setdiff1d(np.arange(n), some(n, 0.27 * share, rng))
    assert file.truth_keys is not None
    dropped = WindowFile(
        file.contexts[keep], file.targets[keep], file.truth_keys[keep], file.provenance, file.source
    )
    return dataclasses.replace(parts, eval=dropped)


@plants("unpaired_targets", "EVAL_UNPAIRED", "KEYS_WRONG")
def _unpaired_targets(parts: Parts, rng: np.random.Generator, share: float) -> Parts:
    """Targets of other articles; the keys say where they really come from."""
    targets, keys = parts.eval.targets.copy(), _keys(parts)
    rows = some(len(targets), share, rng)
    drawn = rng.choice(len(parts.bank), len(rows), replace=False)
    targets[rows], keys[rows] = parts.bank.vectors[drawn], parts.bank.keys[drawn]
    return dataclasses.replace(parts, eval=change(parts.eval, targets=targets, truth_keys=keys))


@plants("unpaired_keys_kept", "EVAL_UNPAIRED", "KEYS_WRONG")
def _unpaired_keys_kept(parts: Parts, rng: np.random.Generator, share: float) -> Parts:
    targets = parts.eval.targets.copy()
    rows = some(len(targets), share, rng)
    targets[rows] = parts.bank.vectors[rng.integers(len(parts.bank), size=len(rows))]
    return dataclasses.replace(parts, eval=change(parts.eval, targets=targets))


@plants("eval_rotated", "SPACE_MISMATCH")
def _eval_rotated(parts: Parts, rng: np.random.Generator, share: float) -> Parts:
    turn = np.linalg.qr(rng.standard_normal((parts.bank.width,) * 2))[0]
    return _mapped(parts, share, rng, lambda x: x @ turn)


@plants("eval_through_a_layer", "SPACE_MISMATCH")
def _eval_through_a_layer(parts: Parts, rng: np.random.Generator, share: float) -> Parts:
    d = parts.bank.width
    weights = rng.standard_normal((d, d)) / d**0.5
    return _mapped(parts, share, rng, lambda x: np.tanh(x @ weights))


@plants("eval_mean_flipped", "SPACE_MISMATCH")
def _eval_mean_flipped(parts: Parts, rng: np.random.Generator, share: float) -> Parts:
    mean = parts.bank.vectors.mean(axis=0)
    axis = mean / np.linalg.norm(mean)
    return _mapped(parts, share, rng, lambda x: x - 2 * (x @ axis)[..., None] * axis)


@plants("eval_and_its_rows_rotated", "SPACE_MISMATCH")
def _eval_and_its_rows_rotated(parts: Parts, rng: np.random.Generator, share: float) -> Parts:
    """The eval articles were embedded by another encoder, in the bank as well."""
    turn = np.linalg.qr(rng.standard_normal((parts.bank.width,) * 2))[0]
    parts = _mapped(parts, 1.0, rng, lambda x: x @ turn)
    vectors = parts.bank.vectors.copy()
    mine = np.isin(parts.bank.articles, np.unique(_keys(parts)[:, 0]))
    vectors[mine] = _unit(vectors[mine] @ turn).astype(vectors.dtype)
    return dataclasses.replace(parts, bank=dataclasses.replace(parts.bank, vectors=vectors))


def _mapped(parts: Parts, share: float, rng: np.random.Generator, do: Any) -> Parts:
    targets, contexts = parts.eval.targets.copy(), parts.eval.contexts.copy()
    rows = some(len(targets), share, rng)
    targets[rows] = _unit(do(targets[rows]))
    contexts[rows] = _unit(do(contexts[rows]))
    return dataclasses.replace(parts, eval=change(parts.eval, targets=targets, contexts=contexts))


def _unit(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True))


@plants("order_shuffled", "ORDER_BROKEN")
def _order_shuffled(parts: Parts, rng: np.random.Generator, share: float) -> Parts:
    """Chunks of every article in random order, before windows were cut: both sides are broken."""
    vectors = parts.bank.vectors.copy()
    articles = np.unique(parts.bank.articles)
    for article in articles[some(len(articles), share, rng)]:
        rows = np.flatnonzero(parts.bank.articles == article)
        vectors[rows] = vectors[rng.permutation(rows)]
    return parts_of(vectors, parts.bank.keys)


@plants("eval_order_shuffled", "ORDER_BROKEN", "KEYS_WRONG")
def _eval_order_shuffled(parts: Parts, rng: np.random.Generator, share: float) -> Parts:
    """Contexts of the eval windows in random order."""
    contexts = parts.eval.contexts.copy()
    for row in some(len(contexts), share, rng):
        contexts[row] = contexts[row, rng.permutation(T)]
    return dataclasses.replace(parts, eval=change(parts.eval, contexts=contexts))


@plants("order_reversed", "ORDER_BROKEN", "KEYS_WRONG", "TARGET_SHIFTED")
def _order_reversed(parts: Parts, rng: np.random.Generator, share: float) -> Parts:
    """Contexts newest first."""
    contexts = parts.eval.contexts.copy()
    rows = some(len(contexts), share, rng)
    contexts[rows] = contexts[rows, ::-1]
    return dataclasses.replace(parts, eval=change(parts.eval, contexts=contexts))


@plants("order_interleaved", "ORDER_BROKEN")
def _order_interleaved(parts: Parts, rng: np.random.Generator, share: float) -> Parts:
    """Two articles merged round-robin, as parallel ingestion does."""
    order, keys = [], []
    articles = np.unique(parts.bank.articles)
    merged = set(some(len(articles) // 2, share, rng).tolist())
    for pair in range(len(articles) // 2):
        a, b = (np.flatnonzero(parts.bank.articles == articles[2 * pair + i]) for i in (0, 1))
        if pair in merged:
            n = min(len(a), len(b))
            rows = np.column_stack([a[:n], b[:n]]).ravel()
            order.append(rows)
            keys.append(np.column_stack([np.full(len(rows), articles[2 * pair]), range(len(rows))]))
        else:
            order += [a, b]
            keys += [parts.bank.keys[a], parts.bank.keys[b]]
    rows = np.concatenate(order)
    return parts_of(parts.bank.vectors[rows], np.concatenate(keys).astype(np.int32))


@plants("windows_across_articles", "ORDER_BROKEN", "KEYS_WRONG")
def _windows_across_articles(parts: Parts, rng: np.random.Generator, share: float) -> Parts:
    """Windows cut from the eval articles as if they were one document."""
    mine = np.isin(parts.bank.articles, np.unique(_keys(parts)[:, 0]))
    rows = np.flatnonzero(mine)
    starts = np.arange(len(rows) - T)
    ids = rows[starts[:, None] + np.arange(T + 1)]
    vectors, keys = parts.bank.vectors, parts.bank.keys
    file = WindowFile(
        vectors[ids[:, :-1]],
        vectors[ids[:, -1]],
        keys[ids[:, -1]],
        {"num_windows": len(ids)},
        parts.eval.source,
    )
    return dataclasses.replace(parts, eval=file)


@plants("target_is_last", "TARGET_SHIFTED", "KEYS_WRONG")
def _target_is_last(parts: Parts, rng: np.random.Generator, share: float) -> Parts:
    targets = parts.eval.targets.copy()
    rows = some(len(targets), share, rng)
    targets[rows] = parts.eval.contexts[rows, -1]
    return dataclasses.replace(parts, eval=change(parts.eval, targets=targets))


@plants("target_two_ahead", "TARGET_SHIFTED", "KEYS_WRONG")
def _target_two_ahead(parts: Parts, rng: np.random.Generator, share: float) -> Parts:
    """The target is the chunk after the next one, and its key says so."""
    keys = _keys(parts)
    row_of = {tuple(key): row for row, key in enumerate(parts.bank.keys.tolist())}
    chosen = set(some(len(keys), share, rng).tolist())
    kept, targets = [], []
    for i, (article, chunk) in enumerate(keys.tolist()):
        row = row_of.get((article, chunk + 1) if i in chosen else (article, chunk))
        if row is not None:
            kept.append(i)
            targets.append(row)
    file = parts.eval
    shifted = WindowFile(
        file.contexts[kept],
        parts.bank.vectors[targets],
        parts.bank.keys[targets],
        {"num_windows": len(kept)},
        file.source,
    )
    return dataclasses.replace(parts, eval=shifted)


@plants("easy_region", "EASY_REGION")
def _easy_region(parts: Parts, rng: np.random.Generator, share: float) -> Parts:
    """Articles of the eval side cohere far more than those of the train side."""
    vectors = parts.bank.vectors.astype(np.float64)
    for article in np.unique(_keys(parts)[:, 0]):
        rows = np.flatnonzero(parts.bank.articles == article)
        smooth = vectors[rows].copy()
        for i in range(1, len(rows)):
            smooth[i] = 0.6 * smooth[i - 1] + 0.8 * vectors[rows[i]]
        vectors[rows] = (1 - share) * vectors[rows] + share * smooth
    return parts_of(_unit(vectors).astype(np.float32), parts.bank.keys)


@plants("split_leak", "SPLIT_LEAK")
def _split_leak(parts: Parts, rng: np.random.Generator, share: float) -> Parts:
    """A random split of overlapping windows."""
    windows = article_windows(parts.bank.keys, T)
    n = len(windows)
    mine = rng.permutation(n) < round(0.2 * n)
    leaked = rng.random(n) < share
    held = np.isin(windows.articles, np.unique(_keys(parts)[:, 0]))
    to_eval = np.where(leaked, mine, held)
    files = {}
    for name, index in (("train", ~to_eval), ("eval", to_eval)):
        part = windows.select(index)
        files[name] = WindowFile(
            parts.bank.vectors[part.contexts],
            parts.bank.vectors[part.targets],
            parts.bank.keys[part.targets],
            {"num_windows": len(part)},
            f"{name}.npz",
        )
    return Parts(train=files["train"], eval=files["eval"], bank=parts.bank)


@plants("keys_missing", "SCHEMA")
def _keys_missing(parts: Parts, rng: np.random.Generator, share: float) -> Parts:
    return dataclasses.replace(parts, eval=change(parts.eval, truth_keys=None))


@plants("index_rolled", "INDEX_MISMATCH")
def _index_rolled(parts: Parts, rng: np.random.Generator, share: float) -> Parts:
    """The ids of the first rows of a person's own index are off by one."""
    vectors = parts.bank.vectors.astype(np.float32)
    count = max(2, round(share * len(vectors)))
    vectors[:count] = np.roll(vectors[:count], 1, axis=0)
    index = TorchIndex(torch.from_numpy(vectors))
    return dataclasses.replace(parts, more={**parts.more, "index": index})


# --- text in other words, in two parts, shifted, overlapping --------------------------------------


def _eval_articles(parts: Parts, share: float, rng: np.random.Generator) -> np.ndarray:
    articles = np.unique(_keys(parts)[:, 0])
    return articles[some(len(articles), share, rng)]


def _reworded(rows: np.ndarray, rng: np.random.Generator, apart: float = 0.2) -> np.ndarray:
    """Return vectors at a cosine of .98: what a revision or a translation comes to."""
    noise = rng.standard_normal(rows.shape) / rows.shape[1] ** 0.5
    return _unit(rows + apart * noise).astype(rows.dtype)


def recut(parts: Parts, vectors: np.ndarray, keys: np.ndarray) -> Parts:
    """Cut a changed corpus into windows; eval articles are those that the parts had."""
    windows = article_windows(keys, T)
    mine = np.isin(windows.articles, np.unique(_keys(parts)[:, 0]))
    files = {}
    for name, index in (("train", ~mine), ("eval", mine)):
        part = windows.select(index)
        files[name] = WindowFile(
            vectors[part.contexts],
            vectors[part.targets],
            keys[part.targets],
            {"num_windows": len(part)},
            f"{name}.npz",
        )
    bank = Bank(vectors, keys, {"count": len(vectors)}, source=parts.bank.source)
    return Parts(train=files["train"], eval=files["eval"], bank=bank)


@plants("reworded_in_bank", "DUPLICATES")
def _reworded_in_bank(parts: Parts, rng: np.random.Generator, share: float) -> Parts:
    """The bank holds articles again, in other words and under other ids."""
    bank, articles = parts.bank, np.unique(parts.bank.articles)
    again = np.isin(bank.articles, articles[some(len(articles), share, rng)])
    vectors = np.concatenate([bank.vectors, _reworded(bank.vectors[again], rng)])
    keys = np.concatenate([bank.keys, bank.keys[again] + [1 + articles.max(), 0]])
    more = Bank(vectors, keys.astype(np.int32), {"count": len(vectors)}, source=bank.source)
    return dataclasses.replace(parts, bank=more)


@plants("reworded_across", "SPLIT_LEAK")
def _reworded_across(parts: Parts, rng: np.random.Generator, share: float) -> Parts:
    """Eval articles say what train articles say, in other words."""
    bank, chosen = parts.bank, _eval_articles(parts, share, rng)
    trained = np.setdiff1d(np.unique(bank.articles), np.unique(_keys(parts)[:, 0]))
    keep = ~np.isin(bank.articles, chosen)
    vectors, keys = [bank.vectors[keep]], [bank.keys[keep]]
    for article, source in zip(chosen, rng.choice(trained, len(chosen), False), strict=True):
        rows = bank.articles == source
        vectors.append(_reworded(bank.vectors[rows], rng))
        keys.append(np.column_stack([np.full(rows.sum(), article), bank.keys[rows, 1]]))
    return recut(parts, np.concatenate(vectors), np.concatenate(keys).astype(np.int32))


@plants("articles_cut_in_two", "SPLIT_LEAK")
def _articles_cut_in_two(parts: Parts, rng: np.random.Generator, share: float) -> Parts:
    """The second half of eval articles stands in train under another id."""
    keys = parts.bank.keys.copy()
    for article in _eval_articles(parts, share, rng):
        rows = np.flatnonzero(parts.bank.articles == article)
        later = rows[len(rows) // 2 :]
        keys[later] += [1 + parts.bank.articles.max(), -keys[later[0], 1]]
    return recut(parts, parts.bank.vectors, keys)


@plants("eval_partly_centred", "SPACE_MISMATCH")
def _eval_partly_centred(parts: Parts, rng: np.random.Generator, share: float) -> Parts:
    """The mean is subtracted from half the eval articles, in the bank as well."""
    vectors = parts.bank.vectors.copy()
    mine = np.isin(parts.bank.articles, _eval_articles(parts, 0.5 * share, rng))
    vectors[mine] = _unit(vectors[mine] - vectors.mean(axis=0)).astype(vectors.dtype)
    return recut(parts, vectors, parts.bank.keys)


@plants("chunks_overlap", "DUPLICATES")
def _chunks_overlap(parts: Parts, rng: np.random.Generator, share: float) -> Parts:
    """Each chunk holds, at share 1, as much of the one before it as of its own."""
    vectors, keys = parts.bank.vectors, parts.bank.keys
    later = 1 + np.flatnonzero(keys[1:, 0] == keys[:-1, 0])
    mixed = vectors.copy()
    mixed[later] = _unit(vectors[later] + share * vectors[later - 1]).astype(vectors.dtype)
    return recut(parts, mixed, keys)
