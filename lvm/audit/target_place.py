"""Is the target the chunk that follows its contexts?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int

from lvm.audit.blame import wrong_bank
from lvm.audit.check import About, check
from lvm.audit.coherence import Coherence, coherence
from lvm.audit.finding import REPAIR, NotEvaluable, Seen, Severity
from lvm.audit.material import Material

SHIFTED_WARN, SHIFTED_BLOCK = 0.02, 0.2  # of windows whose target is one and the same step away
LAST_IS_TARGET = 0.99  # of the way from any two chunks to one: cosine of last context and target


@check(
    "TARGET_SHIFTED",
    "is the target the chunk that follows the contexts?",
    About(blocks=True, cause=110),
)
def target_shifted(material: Material) -> Iterator[Seen]:
    """Find where the last context and the target lie in the bank, and how far apart."""
    if not material.sides:
        material.side("eval")
    told, reasons = False, []
    for side in material.sides:
        try:
            yield from _side_shifted(material, coherence(material, side.name))
            told = True
        except NotEvaluable as reason:
            reasons.append(reason)
    if not told:
        raise reasons[0]


def _side_shifted(material: Material, side: Coherence) -> Iterator[Seen]:
    # Where all vectors are alike, any two have a cosine of .99.
    random = max(0.0, side.of(side.random_pairs).value)
    limit = random + LAST_IS_TARGET * (1 - random)
    if side.copy_last.value > limit:
        share = float((side.to_target[:, -1] > limit).mean())
        yield _shifted(side, 0, share)
        return
    if wrong_bank(material) is not None:
        raise NotEvaluable("the keys of the bank are wrong", "fix KEYS_WRONG first")
    steps, share = place_of_target(side)
    if share >= SHIFTED_WARN:
        yield _shifted(side, steps, share)


def place_of_target(side: Coherence) -> tuple[int, float]:
    """Return how many chunks after the newest context most misplaced targets lie, and their share.

    Only windows count whose contexts and target lie in one article of the bank. Contexts may stand
    in any order: that is ORDER_BROKEN's to say, and must not hide where the target is. Raises
    NotEvaluable when next to no vector is found there.
    """
    located = side.located
    if located is None:
        raise NotEvaluable("there is no bank to find the windows in", "give --payload")
    articles, contexts = located.keys[..., 0], np.sort(located.ranks[:, :-1], axis=1)
    one = (articles[:, :-1] == articles[:, :1]).all(axis=1)
    both = located.found.all(axis=1) & one & (np.diff(contexts, axis=1) == 1).all(axis=1)
    if float(both.mean()) < 0.05:
        raise NotEvaluable(
            "almost no window is a run of consecutive bank chunks",
            "fix what the other findings name first",
        )
    same = both & (articles[:, -1] == articles[:, 0])
    ahead: Int[np.ndarray, " m"] = (located.ranks[:, -1] - contexts[:, -1])[same]
    values, counts = np.unique(ahead[ahead != 1], return_counts=True)
    if len(values) == 0:
        return 1, 0.0
    return int(values[counts.argmax()]), float(counts.max() / both.sum())


def _shifted(side: Coherence, steps: int, share: float) -> Seen:
    what = {0: "the last context itself", 2: "the chunk after the next one"}.get(
        steps, f"{abs(steps)} chunks {'after' if steps > 0 else 'before'} the last context"
    )
    return Seen(
        severity=Severity.BLOCK if share >= SHIFTED_BLOCK else Severity.WARN,
        seen=f"in {share:.0%} of {side.whole.name} windows the target is {what}; "
        f"cosine of the last context with the target {side.copy_last.value:.3f}",
        allowed="the chunk after the last context",
        where=side.whole.where(count=round(share * len(side.rows)), of=len(side.rows)),
        meaning="The model is asked for a chunk other than the next one.",
        next=REPAIR,
        values={"steps": float(steps), "share": share, "copy_last": side.copy_last.value},
    )
