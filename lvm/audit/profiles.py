"""The numbers behind the audit's small plots, from the statistics that its checks have measured.

Nothing here judges. A part is left out where there is nothing to look at; a number that does not
exist is None, so that the whole can be written as JSON.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping

import numpy as np
from jaxtyping import Float, Int

from lvm.audit.coherence import MIN_WINDOWS, Coherence, Level, coherence, level
from lvm.audit.finding import NotEvaluable
from lvm.audit.location import unit
from lvm.audit.material import SIDES, Material, or_none
from lvm.data.rows import take
from lvm.evaluation.evidence import shares

OFFSETS = range(-4, 5)  # chunks from the target
SWEPT = 1024  # windows whose surroundings are looked up in the bank
ARTICLES_PER_BLOCK = 9
MAX_BLOCKS = 30  # more cannot be told apart in a small plot
BAND = 0.2  # a block within this share of the train side's level is usual
NUM_BINS = 40
BIN_GRID = 0.05  # ends of a histogram are multiples of it
DIGITS = 4


def plot_data(material: Material) -> dict[str, object]:
    """Return the numbers of every plot that can be drawn, as plain JSON values.

    Keys: `position_profile`, `lag_profile` and `offset_sweep` (side -> {"x", "mean", "error",
    "windows"}), `coherence_blocks`, `cosine_histograms` (side -> histogram) and
    `prediction_histogram`. Cosines throughout; errors are standard errors over articles.
    """
    parts: dict[str, Callable[[Material], Mapping[str, object]]] = {
        "position_profile": functools.partial(_by_side, _position_profile),
        "lag_profile": functools.partial(_by_side, _lag_profile),
        "offset_sweep": functools.partial(_by_side, _offset_sweep),
        "coherence_blocks": _coherence_blocks,
        "cosine_histograms": _cosine_histograms,
        "prediction_histogram": _prediction_histogram,
    }
    found = {name: or_none(part, material) for name, part in parts.items()}
    return {name: values for name, values in found.items() if values}


def _by_side(
    profile: Callable[[Material, Coherence], dict[str, object]], material: Material
) -> dict[str, object]:
    """Return a profile of each side that has one."""
    sides = {name: or_none(coherence, material, name) for name in SIDES}
    found = {n: or_none(profile, material, side) for n, side in sides.items() if side is not None}
    return {name: values for name, values in found.items() if values is not None}


# --- profiles -------------------------------------------------------------------------------------


def _position_profile(_: Material, side: Coherence) -> dict[str, object]:
    """Cosine of each context with the target; x = -T .. -1, the distance to the target."""
    length = side.contexts.shape[1]
    levels = [side.of(side.to_target[:, i]) for i in range(length)]
    return _profile(range(-length, 0), levels, len(side.rows))


def _lag_profile(_: Material, side: Coherence) -> dict[str, object]:
    """Cosine of vectors x places apart in a window, x = 1 .. T."""
    lags = range(1, side.contexts.shape[1] + 1)
    return _profile(lags, [side.of(side.lag(k)) for k in lags], len(side.rows))


def _offset_sweep(material: Material, side: Coherence) -> dict[str, object]:
    """Cosine of the last context with the chunk x places after the target, x = -4 .. 4.

    The last context is the chunk before the target, so a sound file peaks at -1.
    """
    located = side.located
    known = np.flatnonzero(located.found[:, -1]) if located is not None else np.empty(0, int)
    if located is None or len(known) < MIN_WINDOWS:
        raise NotEvaluable("too few targets are in the bank", "give --payload")
    known = known[np.linspace(0, len(known) - 1, min(SWEPT, len(known))).astype(int)]
    last = side.contexts[known, -1]
    levels = []
    for offset in OFFSETS:
        rows = located.places[known, -1]
        if offset:  # a target itself lies where its content was found, not where a key leads
            rows = material.by_key.step(located.keys[known, -1], offset)
        levels.append(_to_rows(material, last, rows, side.clusters[known]))
    return _profile(OFFSETS, levels, len(known))


def _to_rows(
    material: Material,
    vectors: Float[np.ndarray, "m D"],
    rows: Int[np.ndarray, " m"],
    clusters: Int[np.ndarray, " m"],
) -> Level | None:
    """Return the mean cosine of vectors with bank rows; None where too few rows exist."""
    there = np.flatnonzero(rows >= 0)
    cosines = np.einsum("md,md->m", vectors[there], unit(take(material.pool.vectors, rows[there])))
    usable = np.isfinite(cosines)
    if int(usable.sum()) < MIN_WINDOWS:
        return None
    return level(cosines[usable], clusters[there][usable])


def _profile(
    places: Iterable[int], levels: Iterable[Level | None], windows: int
) -> dict[str, object]:
    kept = list(levels)
    return {
        "x": list(places),
        "mean": [_number(found.value if found else None) for found in kept],
        "error": [_number(found.error if found else None) for found in kept],
        "windows": windows,
    }


# --- blocks of articles ---------------------------------------------------------------------------


def _coherence_blocks(material: Material) -> dict[str, object]:
    """What neighbours share beyond random pairs, per block of eval articles in order of their id.

    `train` is the level that the blocks are compared with, `low` and `high` its band; all three are
    missing without a train side.
    """
    side = coherence(material, "eval")
    values = side.to_target[:, -1] - side.random_pairs
    articles = np.unique(side.clusters)
    count = min(MAX_BLOCKS, max(1, round(len(articles) / ARTICLES_PER_BLOCK)))
    blocks = [_block(values, side.clusters, part) for part in np.array_split(articles, count)]
    return {"blocks": blocks, "by_article": side.by_article, **_train_level(material)}


def _block(
    values: Float[np.ndarray, " m"], clusters: Int[np.ndarray, " m"], mine: Int[np.ndarray, " a"]
) -> dict[str, object]:
    inside = np.isin(clusters, mine)
    near = level(values[inside], clusters[inside])
    named = mine[mine >= 0]  # a window without a place in the bank has no article
    return {
        "first": int(named[0]) if len(named) else None,
        "last": int(named[-1]) if len(named) else None,
        "articles": len(mine),
        "windows": int(inside.sum()),
        "near": _number(near.value),
        "error": _number(near.error),
    }


def _train_level(material: Material) -> dict[str, object]:
    train = or_none(coherence, material, "train")
    if train is None:
        return {}
    near = train.near
    low, high = sorted((near.value * (1 - BAND), near.value * (1 + BAND)))
    return {
        "train": {"near": _number(near.value), "error": _number(near.error)},
        "low": _number(low),
        "high": _number(high),
    }


# --- histograms -----------------------------------------------------------------------------------


def _cosine_histograms(material: Material) -> Mapping[str, object]:
    """Mean context against its own target and against that of another article, per side."""
    sides = {name: or_none(coherence, material, name) for name in SIDES}
    pairs = {n: (s.paired, s.shuffled) for n, s in sides.items() if s is not None}
    return _histograms(pairs)


def _prediction_histogram(material: Material) -> dict[str, object]:
    """Predictions against their own target and against that of another article."""
    side = coherence(material, "eval")
    given = material.predictions
    if given is None or given.ndim != 2 or len(given) <= int(side.rows[-1]):
        raise NotEvaluable("there are no predictions for these windows", "give --predictions")
    if given.shape[1] != side.targets.shape[1]:
        raise NotEvaluable("the predictions have a different width", "predict vectors of the bank")
    predicted = unit(given[side.rows].detach().cpu().float().numpy())
    cosines = [
        np.einsum("md,md->m", predicted, targets)
        for targets in (side.targets, side.targets[side.partner])
    ]
    usable = np.isfinite(cosines).all(axis=0)
    if int(usable.sum()) < MIN_WINDOWS:
        raise NotEvaluable("too few predictions are finite numbers", "predict again")
    return _histograms({"eval": (cosines[0][usable], cosines[1][usable])})["eval"]


def _histograms(
    pairs: Mapping[str, tuple[np.ndarray, np.ndarray]],
) -> dict[str, dict[str, object]]:
    """Return histograms that share their bins, so that they compare by eye."""
    if not pairs:
        return {}
    everything = np.concatenate([values for pair in pairs.values() for values in pair])
    low = math.floor(float(everything.min()) / BIN_GRID) * BIN_GRID
    high = max(math.ceil(float(everything.max()) / BIN_GRID) * BIN_GRID, low + BIN_GRID)
    edges = np.linspace(low, high, NUM_BINS + 1)
    return {name: _histogram(edges, *pair) for name, pair in pairs.items()}


def _histogram(
    edges: Float[np.ndarray, " e"],
    paired: Float[np.ndarray, " m"],
    shuffled: Float[np.ndarray, " m"],
) -> dict[str, object]:
    return {
        "edges": [_number(edge) for edge in edges],
        "paired": shares(paired, edges),
        "shuffled": shares(shuffled, edges),
        "paired_mean": _number(paired.mean()),
        "shuffled_mean": _number(shuffled.mean()),
        "windows": len(paired),
    }


def _number(value: float | None) -> float | None:
    """Return a rounded float, None for one that does not exist."""
    return round(float(value), DIGITS) if value is not None and math.isfinite(value) else None
