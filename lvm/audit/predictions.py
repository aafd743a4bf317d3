"""Do the predictions of a model depend on what it read?

Whether they are *right* is not asked: a model that is merely bad, or is judged on windows whose
targets are not theirs, still says different things of different contexts and the like of like ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from jaxtyping import Float

from lvm.audit.check import About, check
from lvm.audit.coherence import MIN_WINDOWS, Coherence, Level
from lvm.audit.finding import Seen
from lvm.audit.location import unit
from lvm.audit.material import Material
from lvm.audit.queries import Queries, dispersion, queries, run
from lvm.data.rows import take

RETRAIN = "train it again from the data (lvm train), then evaluate that checkpoint"
LIFT = 0.01  # own target against another one: less is nothing
LIFT_SHARE = 0.15  # and this share of what the mean of the contexts has
CONSTANT = 1e-3  # of the targets' spread: outputs that differ by less are one output
UNRELATED = 0.25  # of what the last contexts of like windows share
OFFSETS = range(-4, 5)


@check(
    "IGNORES_INPUT",
    "does the output depend on the context?",
    About(blocks=True, cause=180, of_model=True),
)
def ignores_input(material: Material) -> Iterator[Seen]:
    """Report one output for every context, or outputs that have nothing to do with the contexts.

    The cosine with the own target being that with another one is needed, and is not enough: a bad
    model, and a good one on a broken eval side, show the same. So either the outputs must not move
    when the model is given the contexts of other articles; or, where they move, windows that read
    nearly the same must get no more alike outputs than any others. The latter is asked of a file of
    predictions alone: a model that was run here, and moved, depends on what it read.
    """
    given = queries(material)
    windows = given.windows
    lift = windows.of(_cos(given.predictions, given.truth - given.truth[windows.partner]))
    moved = _moved(given)
    spread = 1 - float(windows.random_pairs.mean())
    values = {"lift": lift.value, "moved": moved, **_sweep(material, given)}
    if moved < CONSTANT * spread and abs(lift.value) < LIFT:
        yield _ignores(
            given,
            values,
            f"outputs for contexts of different articles have a cosine of {1 - moved:.6f}; "
            f"their cosine with their own target is {lift.value:+.4f} above that with another "
            "one",
            "The model's output does not depend on its input, so searching with it finds nothing.",
            RETRAIN if given.predictor else "check that the contexts reach the model that predicts",
        )
        return
    honest = max(LIFT, LIFT_SHARE * windows.lift.value)
    follows, usual = follow(windows, given.predictions), follow(windows, windows.contexts[:, -1])
    unrelated = follows.above(2) < UNRELATED * usual.value
    if given.predictor is None and lift.above(2) < honest and unrelated:
        yield _ignores(
            given,
            {**values, "follows": follows.value, "usual": usual.value},
            f"cosine with their own target {lift.value:+.4f} above that with another one; "
            f"outputs for similar contexts are {follows.value:+.3f} more similar than any two, "
            f"their last contexts {usual.value:+.3f}",
            "The outputs vary, but not with the input: they are noise, or rows of other windows.",
            "predict again, one row per eval window in the order of the file, with dropout off",
        )


def _moved(given: Queries) -> float:
    """How far outputs move, in 1 - cosine, when each window gets the contexts of its partner."""
    partner, rows = given.windows.partner, given.predictions
    other = rows[partner]
    if given.predictor is not None:
        other = run(given.predictor, given.windows.contexts[partner], "raw")
    apart = np.linalg.norm(rows.astype(np.float64) - other, axis=1)  # exact where a cosine is not
    return float(np.nanmean(apart**2)) / 2


def follow(windows: Coherence, rows: Float[np.ndarray, "m D"]) -> Level:
    """How much more alike rows of the most alike windows are than any two, beside their spread."""
    means = np.nan_to_num(unit(windows.contexts.mean(axis=1)))
    alike = means @ means.T
    np.fill_diagonal(alike, -2)
    spread = max(dispersion(rows), 1e-12)
    return windows.of((_cos(rows, rows[alike.argmax(axis=1)]) - (1 - spread)) / spread)


def _sweep(material: Material, given: Queries) -> Mapping[str, float]:
    """Cosine with the chunk k places after the target less that with the target, and its range."""
    located = given.windows.located
    if located is None:
        return {}
    known = np.flatnonzero(located.found[:, -1])
    found = {0: 0.0}
    for offset in OFFSETS:
        rows = material.by_key.step(located.keys[known, -1], offset)
        there = known[rows >= 0]
        if offset == 0 or len(there) < MIN_WINDOWS:
            continue
        chunks = np.nan_to_num(unit(take(material.pool.vectors, rows[rows >= 0])))
        gap = given.documents(chunks, "raw") - given.truth[there]
        found[offset] = float(_cos(given.predictions[there], gap).mean())
    swept = {f"offset_{offset:+d}": value for offset, value in sorted(found.items())}
    return {**swept, "sweep_range": max(found.values()) - min(found.values())}


def _ignores(
    given: Queries, values: Mapping[str, float], seen: str, meaning: str, next: str
) -> Seen:
    return Seen(
        seen=seen,
        allowed="outputs that change with the context, and similar outputs for similar contexts",
        where=given.whole,
        meaning=meaning,
        next=next,
        values=values,
    )


def _cos(a: Float[np.ndarray, "m D"], b: Float[np.ndarray, "m D"]) -> Float[np.ndarray, " m"]:
    return np.asarray(np.einsum("md,md->m", a, b, dtype=np.float64))
