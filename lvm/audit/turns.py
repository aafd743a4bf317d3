"""What tells text that takes turns, or records of fields, from text whose order is broken.

A profile need not rise towards the target for its chunks to be in order: speakers alternate, and
the first field of a record is like the first field of the next. Each file is held to itself here.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from lvm.audit.coherence import Coherence, coherence, level
from lvm.audit.material import Material, or_none

FLAT = 0.1  # of the lift: text with less direction than this has no order
TURNS = 3.0  # standard errors from which neighbours are of one text after all
SHARED, CHANGES = 0.05, 0.2  # of what lag 2 shares beyond chance; of its distance to lag 1
OWN_LAG = 0.5  # of the lift: how far the target's lag 1 may lie from that of contexts


def takes_turns(side: Coherence, which: np.ndarray | None = None) -> bool:
    """Say whether chunks two apart are more alike than neighbours because the text takes turns.

    Neighbours of two documents merged chunk by chunk are as unlike as any two chunks, and so are
    those three apart. Where two speakers alternate, neighbours are still of one text; in records
    of five fields chunks three apart are as alike as those two apart. What is left of the longer
    document is plain text: windows that do not zigzag, by other lags, are left out.
    """
    length = side.contexts.shape[1]
    if length < 3:
        return False
    chosen = np.ones(len(side.rows), dtype=bool) if which is None else which
    if length >= 5:
        zigzag = side.lag(2) + side.lag(4) - 2 * side.lag(5)
        usual = float(np.quantile(zigzag[chosen], 0.9))
        if usual <= 0:
            return True
        chosen = chosen & (zigzag > usual / 2)
    chance, clusters = _opposite_phase(side), side.clusters[chosen]
    one, two, three = (side.lag(k)[chosen] for k in (1, 2, 3))
    shared, changes = level(one - chance[chosen], clusters), level(one - three, clusters)
    if shared.z >= TURNS and shared.value > SHARED * float((two - chance[chosen]).mean()):
        return True
    return abs(changes.z) >= TURNS and abs(changes.value) > CHANGES * float((two - one).mean())


def train_takes_turns(material: Material) -> bool:
    """Say so of the train side: the eval side may have too few articles to tell."""
    train = or_none(coherence, material, "train")
    return train is not None and train.contexts.shape[1] >= 3 and takes_turns(train)


def _opposite_phase(side: Coherence) -> Float[np.ndarray, " m"]:
    """Return the cosine of each target with a chunk of another article, an odd number of chunks on.

    Where the same speakers take turns in every article, any two chunks are alike in half the cases.
    """
    other = side.targets[side.partner]
    if side.located is not None:
        ranks = side.located.keys[:, -1, 1] // side.located.unit
        even = (ranks - ranks[side.partner]) % 2 == 0
        other = np.where(even[:, None], side.contexts[side.partner, -1], other)
    return np.asarray(np.einsum("md,md->m", side.targets, other))


def reads_backwards(side: Coherence) -> bool:
    """Say whether the profile of the target fits the lags of contexts better from the other end.

    Contexts alone have the same lags in either direction. In records of five fields the first of
    five contexts is nearest to the target, and still stands where it should.
    """
    length = side.contexts.shape[1]
    lags = [
        np.einsum("msd,msd->ms", side.contexts[:, k:], side.contexts[:, :-k]).mean()
        for k in range(1, length)
    ]
    profile = side.to_target.mean(axis=0)
    forward = np.abs(profile[:0:-1] - lags).sum()
    return bool(np.abs(profile[:-1] - lags).sum() < forward)


def is_flat(side: Coherence) -> bool:
    """Say whether no context is clearly nearer to the target than all of them are."""
    beside = side.to_target - side.to_target.mean(axis=1, keepdims=True)
    levels = [side.of(column) for column in beside.T]
    return all(abs(one.value) - 3 * one.error < FLAT * side.lift.value for one in levels)


def fits_itself(side: Coherence) -> bool:
    """Say whether the target is as near to the last context as contexts are to each other."""
    return abs(side.copy_last.value - _neighbours(side)) <= OWN_LAG * side.lift.value


def _neighbours(side: Coherence) -> float:
    first, second = side.contexts[:, :-1], side.contexts[:, 1:]
    return float(np.einsum("msd,msd->ms", first, second).mean())
