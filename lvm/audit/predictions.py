"""Do the predictions of a model depend on what it read, and do they spread as targets do?

Whether they are *right* is not asked: a model that is merely bad, or is judged on windows whose
targets are not theirs, still says different things of different contexts and the like of like ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
from jaxtyping import Float

from lvm.audit.check import About, check
from lvm.audit.coherence import MIN_WINDOWS, Coherence, Level
from lvm.audit.finding import NotEvaluable, Seen, Severity
from lvm.audit.location import unit
from lvm.audit.material import Material
from lvm.audit.queries import Queries, affine_mix, dispersion, queries, run
from lvm.data.rows import take

RETRAIN = "train it again from the data (lvm train), then evaluate that checkpoint"
LIFT = 0.01  # own target against another one: less is nothing
LIFT_SHARE = 0.15  # and this share of what the mean of the contexts has
CONSTANT = 1e-3  # of the targets' spread: outputs that differ by less are one output
UNRELATED = 0.25  # of what the last contexts of like windows share
OFFSETS = range(-4, 5)
BLOCK, WARN = 0.05, 0.25  # of the targets' dispersion
# Text that says little of its next chunk makes the best predictor cautious, so a bound is at most a
# share of the dispersion of the best affine mix of the contexts. Ridge on few windows of such text
# has half of it. Below the floor no text excuses anything.
OF_MIX_BLOCK, OF_MIX_WARN, FLOOR = 0.2, 0.4, 0.005
# Of the least effective rank among mean context and affine mix. Honest networks on real text have
# .35 of it (AR-only Mamba-2, 128 wide) to 1.1, and ridge .65; narrow banks hide a subspace of 8.
LOW_RANK = 0.2


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


# --- their spread ---------------------------------------------------------------------------------
#
# Shrinking and losing directions are two defects, so each number is made blind to the other one.
# The dispersion is a mean over pairs and hardly sees how many directions there are. The effective
# rank is taken after centring, which leaves it as it is under any blend with the mean; uncentred,
# the mean would be one large singular value, and a shrunken set would look like one of low rank.
# No honest predictor spreads like the targets, since nobody knows the next chunk. How much less is
# a matter of the text, so both numbers also stand beside mixes of the contexts of the same windows.


@check(
    "COLLAPSE",
    "are predictions as spread out as targets?",
    About(blocks=True, of_model=True, because="predictions have collapsed towards their mean"),
)
def collapse(material: Material) -> Iterator[Seen]:
    """Report predictions that have shrunk towards their mean, relative to targets and text."""
    given = queries(material)
    spread, targets = dispersion(given.predictions), dispersion(given.truth)
    if targets <= 0:
        raise NotEvaluable("all targets are the same vector", "fix the eval file")
    mix = dispersion(affine_mix(material, given.windows)) / dispersion(given.windows.targets)
    ratio = spread / targets
    block = max(FLOOR, min(BLOCK, OF_MIX_BLOCK * mix))
    warn = max(block, min(WARN, OF_MIX_WARN * mix))
    if ratio >= warn:
        return
    yield Seen(
        severity=Severity.BLOCK if ratio < block else Severity.WARN,
        seen=f"predictions have a spread of {ratio:.3g} times that of targets; the best affine mix "
        f"of contexts has {mix:.3g} times",
        allowed=f"at least {warn:.3g} (blocking below {block:.3g})",
        where=given.whole,
        meaning="Predictions have shrunk towards their mean, so a search can hardly separate them, "
        "while their cosine with any target stays fair.",
        next="run steps 2 (temperature) and 5 (anchor) first; a loss that rewards the mean, or too "
        "much weight decay, causes this",
        values={"ratio": ratio, "mix": mix, "dispersion": spread, "target_dispersion": targets},
    )


@check("LOW_RANK", "do predictions use as many directions as the text?", About(of_model=True))
def low_rank(material: Material) -> Iterator[Seen]:
    """Report predictions that lie in a subspace: effective rank far below that of context mixes.

    A ladder's rank is taken relative to the targets of the bank, the predictions' relative to those
    that they are searched among, which a document tower may have changed.
    """
    given = queries(material)
    windows = given.windows
    if dispersion(given.predictions) <= 1e-9:
        raise NotEvaluable("all predictions are the same vector", "fix what COLLAPSE names")
    targets = effective_rank(windows.targets)
    mixes = (np.nan_to_num(unit(windows.contexts.mean(axis=1))), affine_mix(material, windows))
    usual = min(effective_rank(rows) for rows in mixes) / targets
    rank, own = effective_rank(given.predictions), effective_rank(given.truth)
    if rank >= LOW_RANK * usual * own:
        return
    yield Seen(
        seen=f"effective rank {rank:.1f}, that of the targets is {own:.1f}, of mixes of their "
        f"contexts {usual * targets:.1f}",
        allowed=f"at least {LOW_RANK * usual * own:.1f}",
        where=given.whole,
        meaning="All predictions lie in a small subspace, so targets that differ in other "
        "directions cannot be separated.",
        next="look for a narrow layer before the output (model.hidden), or an objective computed "
        "only behind a narrow head; step 1 has arms for this",
        values={"rank": rank, "target_rank": own, "mix_rank": usual * targets},
    )


def effective_rank(rows: Float[np.ndarray, "m D"]) -> float:
    """Return exp(entropy of the normalised singular values) of the centred rows, 1 to min(m-1, D).

    RankMe (Garrido et al. 2023, equation 2), but centred: see above.
    """
    centred = rows - rows.mean(axis=0, dtype=np.float64)
    gram = centred.T @ centred if len(rows) > rows.shape[1] else centred @ centred.T
    values = np.sqrt(np.linalg.eigvalsh(gram).clip(min=0))
    share = values / values.sum()
    share = share[share > 0]
    return math.exp(-float(share @ np.log(share)))
