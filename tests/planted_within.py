"""Plants that train and eval share, so that no comparison of the two sees them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from planted import Parts, change, parts_of, plants, some

SIZE = 5  # of a batch that is shuffled


@plants("mixed_encoders", "SPACE_MISMATCH")
def _mixed_encoders(parts: Parts, rng: np.random.Generator, share: float) -> Parts:
    """Up to half of all articles were embedded by another encoder."""
    vectors = parts.bank.vectors.copy()
    turn = np.linalg.qr(rng.standard_normal((parts.bank.width,) * 2))[0].astype(np.float32)
    articles = np.unique(parts.bank.articles)
    other = np.isin(parts.bank.articles, articles[some(len(articles), 0.5 * share, rng)])
    vectors[other] = vectors[other] @ turn
    return parts_of(vectors, parts.bank.keys)


@plants("contexts_in_another_space", "SPACE_MISMATCH", "EVAL_UNPAIRED")
def _contexts_in_another_space(parts: Parts, rng: np.random.Generator, share: float) -> Parts:
    """The contexts of both sides are of another encoder than targets and bank."""
    turn = np.linalg.qr(rng.standard_normal((parts.bank.width,) * 2))[0].astype(np.float32)
    files = {}
    for name in ("train", "eval"):
        file = getattr(parts, name)
        contexts = file.contexts.copy()
        rows = some(len(contexts), share, rng)
        contexts[rows] = contexts[rows] @ turn
        files[name] = change(file, contexts=contexts)
    return dataclasses.replace(parts, **files)


@plants("order_as_text", "ORDER_BROKEN")
def _order_as_text(parts: Parts, rng: np.random.Generator, share: float) -> Parts:
    """Chunks in the order of their numbers as text."""
    return _reordered(parts, rng, share, lambda n: np.array(sorted(range(n), key=str)))


@plants("order_pairs_swapped", "ORDER_BROKEN")
def _order_pairs_swapped(parts: Parts, rng: np.random.Generator, share: float) -> Parts:
    return _reordered(parts, rng, share, lambda n: np.minimum(np.arange(n) ^ 1, n - 1))


@plants("order_batches_shuffled", "ORDER_BROKEN")
def _order_batches_shuffled(parts: Parts, rng: np.random.Generator, share: float) -> Parts:
    """Batches of five, as they came back from workers, each in any order."""

    def shuffled(n: int) -> np.ndarray:
        return np.lexsort((rng.random(n), np.arange(n) // SIZE))

    return _reordered(parts, rng, share, shuffled)


def _reordered(
    parts: Parts, rng: np.random.Generator, share: float, order: Callable[[int], np.ndarray]
) -> Parts:
    vectors = parts.bank.vectors.copy()
    articles = np.unique(parts.bank.articles)
    for article in articles[some(len(articles), share, rng)]:
        rows = np.flatnonzero(parts.bank.articles == article)
        vectors[rows] = parts.bank.vectors[rows[order(len(rows))]]
    return parts_of(vectors, parts.bank.keys)


@plants("order_merged_in_runs", "ORDER_BROKEN")
def _order_merged_in_runs(parts: Parts, rng: np.random.Generator, share: float) -> Parts:
    """Two documents merged in runs of three chunks."""
    articles = np.unique(parts.bank.articles)
    merged = set(some(len(articles) // 2, share, rng).tolist())
    order, keys = [], []
    for pair in range(len(articles) // 2):
        a, b = (np.flatnonzero(parts.bank.articles == articles[2 * pair + i]) for i in (0, 1))
        if pair not in merged:
            order += [a, b]
            keys += [parts.bank.keys[a], parts.bank.keys[b]]
            continue
        n = min(len(a), len(b)) // 3 * 3
        rows = np.stack([a[:n].reshape(-1, 3), b[:n].reshape(-1, 3)], axis=1).ravel()
        order.append(rows)
        keys.append(np.column_stack([np.full(len(rows), articles[2 * pair]), range(len(rows))]))
    return parts_of(
        parts.bank.vectors[np.concatenate(order)], np.concatenate(keys).astype(np.int32)
    )


@plants("eval_signs_alone", "SPACE_MISMATCH")
def _eval_signs_alone(parts: Parts, rng: np.random.Generator, share: float) -> Parts:
    """The eval articles are kept as signs, in the bank as well."""
    return _coded(parts, rng, share, np.sign)


@plants("eval_cut_and_padded", "SPACE_MISMATCH")
def _eval_cut_and_padded(parts: Parts, rng: np.random.Generator, share: float) -> Parts:
    """The eval articles are kept as half of their numbers, and zeros."""
    kept = np.arange(parts.bank.width) < parts.bank.width // 2
    return _coded(parts, rng, share, lambda rows: rows * kept)


def _coded(
    parts: Parts, rng: np.random.Generator, share: float, code: Callable[[np.ndarray], np.ndarray]
) -> Parts:
    vectors = parts.bank.vectors.astype(np.float32)
    assert parts.eval.truth_keys is not None
    articles = np.unique(parts.eval.truth_keys[:, 0])
    mine = np.isin(parts.bank.articles, articles[some(len(articles), share, rng)])
    rows = code(vectors[mine])
    vectors[mine] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return parts_of(vectors.astype(parts.bank.vectors.dtype), parts.bank.keys)
