"""Is the eval side really unseen: by this train side, and by every ancestor of the checkpoint?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Int

from lvm.audit.check import About, check
from lvm.audit.coherence import Coherence, Level, coherence, level
from lvm.audit.finding import REPAIR, Finding, Seen, Severity
from lvm.audit.lineage import Places, require_known, seen_before, seen_findings
from lvm.audit.material import Material, Side, most_frequent
from lvm.audit.paraphrase import paraphrases
from lvm.audit.target_keys import copies_of_train, halves, target_keys
from lvm.data.rows import digests, key_codes

SAME_CONTENT = 0.05  # share of eval targets that are train targets too, where keys say nothing
MEMORISER_GAP = 0.1
PAIRED = 0.9  # of eval's lift: below, train targets are in part of other text
COPIED_WINDOWS = 0.01  # of all eval windows, from which copies block


@check("SPLIT_LEAK", "is the eval side free of training text?", About(blocks=True, cause=120))
def split_leak(material: Material) -> Iterator[Finding | Seen]:
    """Report shared articles, overlapping windows, shared content, a seen lineage."""
    yield from (f for f in material.problems if f.code == "SPLIT_LEAK")
    mine = None if material.eval is None else target_keys(material, material.eval)
    seen = seen_before(material, mine)
    yield from seen_findings(material, mine, seen)
    eval_, train = material.side("eval"), material.side("train")
    theirs = target_keys(material, train)
    if theirs is not None and mine is not None:
        shared = [*_by_key(eval_, theirs, mine), *_by_likeness(material, eval_, theirs, mine)]
        yield from shared
        if not shared:  # else the same text would be counted again
            said_again = [*paraphrases(material, mine, theirs)]
            yield from said_again or halves(material, mine, theirs)
    else:
        yield from _by_content(material, eval_, train)
    yield from _by_memory(material, eval_)
    require_known(seen)


def _by_key(eval_: Side, theirs: Places, mine: Places) -> Iterator[Seen]:
    """Compare the places of windows: those in the bank by content, else the stated keys."""
    (train_keys, train_known), (eval_keys, eval_known) = theirs, mine
    seen = np.unique(train_keys[train_known, 0])
    shared = eval_known & np.isin(eval_keys[:, 0], seen)
    if not shared.any():
        return
    reach = _within(eval_keys, train_keys[train_known], eval_.context_length) & eval_known
    articles = most_frequent(eval_keys[shared, 0])
    total = len(np.unique(eval_keys[eval_known, 0]))
    yield Seen(
        seen=f"{len(articles)} of {total} eval articles are train articles too "
        f"({int(shared.sum())} windows); {int(reach.sum())} eval windows lie within "
        f"{eval_.context_length} chunks of a train window",
        allowed="0 articles, 0 windows",
        where=eval_.where(
            count=shared.sum(),
            of=len(eval_),
            rows=np.flatnonzero(reach if reach.any() else shared),
            articles=articles,
        ),
        meaning="The model has read this text, so a score on it says nothing about text that it "
        "has not read.",
        next=REPAIR,
        values={
            "articles": float(len(articles)),
            "windows": float(shared.sum()),
            "near": float(reach.sum()),
        },
    )


def _within(
    keys: Int[np.ndarray, "m 2"], others: Int[np.ndarray, "n 2"], distance: int
) -> Bool[np.ndarray, " m"]:
    codes, taken = key_codes(keys), np.unique(key_codes(others))
    near = np.zeros(len(codes), dtype=bool)
    for step in range(-distance, distance + 1):
        near |= np.isin(codes + step, taken)
    return near


def _by_likeness(material: Material, eval_: Side, theirs: Places, mine: Places) -> Iterator[Seen]:
    """Report articles under ids of their own whose text is a train article's."""
    copied, rows = copies_of_train(material)
    own = np.setdiff1d(copied, theirs[0][theirs[1], 0])  # others are shared by their id already
    if len(own) == 0:
        return
    keys, known = mine
    rows = rows[np.isin(keys[rows, 0], own)]
    share = len(rows) / len(eval_)
    total = len(np.unique(keys[known, 0]))
    yield Seen(
        severity=Severity.BLOCK if share > COPIED_WINDOWS else Severity.WARN,
        seen=f"{len(own)} of {total} eval articles are copies of train articles under different "
        f"ids ({len(rows)} windows, {share:.1%})",
        allowed=f"{COPIED_WINDOWS:.0%} of the windows",
        where=eval_.where(count=len(rows), of=len(eval_), rows=rows, articles=own),
        meaning="The same text was embedded twice and the model has read one copy, so a score "
        "on the other says nothing about unread text.",
        next=REPAIR,
        values={"articles": float(len(own)), "windows": float(len(rows)), "share": share},
    )


def _by_content(material: Material, eval_: Side, train: Side) -> Iterator[Seen]:
    if not material.quick:
        kind = np.dtype(np.float32)
        theirs = digests(train.stored_targets, kind)
        mine = digests(eval_.contexts(np.arange(len(eval_)))[:, -1], kind)
        share = float(np.isin(mine, theirs).mean())
        if share > SAME_CONTENT:
            rows = np.flatnonzero(np.isin(mine, theirs))
            yield _content(
                eval_,
                f"{share:.1%} of the last eval contexts are train targets, bit by bit",
                rows,
                Severity.BLOCK,
                {"share": share},
            )


def _by_memory(material: Material, eval_: Side) -> Iterator[Seen]:
    mine, theirs = coherence(material, "eval"), coherence(material, "train")
    if theirs.lift.over(mine.lift).above() < PAIRED:  # EVAL_UNPAIRED speaks of the train side
        return
    gap = memoriser_gap(mine, theirs)
    if gap is not None and gap.value > MEMORISER_GAP and gap.below() > MEMORISER_GAP / 3:
        yield _content(
            eval_,
            "answering with the target of the most similar train context scores "
            f"{gap.value:.3f} more on eval than on unseen train articles",
            np.empty(0, np.int64),
            Severity.WARN,
            {"gap": gap.value},
        )


def _content(
    eval_: Side, seen: str, rows: np.ndarray, severity: Severity, values: dict[str, float]
) -> Seen:
    return Seen(
        severity=severity,
        seen=seen,
        allowed=f"{SAME_CONTENT:.0%} equal targets, a gap of {MEMORISER_GAP}",
        where=eval_.where(count=len(rows), of=len(eval_), rows=rows),
        meaning="Text of the eval side, or copies of it, are in the train side under other keys.",
        next="remove duplicate articles before splitting, then cut the windows again",
        values=values,
    )


def memoriser_gap(eval_: Coherence, train: Coherence) -> Level | None:
    """Return how much better a memoriser of train does on eval than on train articles it has not.

    It answers with the target of the train window whose last context is nearest. Half the train
    articles are remembered; the other half is the unseen text. None where there are few articles.
    """
    articles = np.unique(train.clusters)
    if len(articles) < 8:
        return None
    kept = np.isin(train.clusters, articles[::2])
    known, answers = train.contexts[kept, -1], train.targets[kept]

    def score(side: Coherence, rows: np.ndarray) -> np.ndarray:
        """Beyond what the answer has in common with any target of this side."""
        guess = answers[(side.contexts[rows, -1] @ known.T).argmax(axis=1)]
        other = side.targets[side.partner[rows]]
        return np.asarray(np.einsum("md,md->m", guess, side.targets[rows] - other))

    mine = eval_.of(score(eval_, np.arange(len(eval_.rows))))
    unseen = level(score(train, np.flatnonzero(~kept)), train.clusters[~kept])
    error = float(np.hypot(mine.error, unseen.error))
    return Level(value=mine.value - unseen.value, error=error, clusters=mine.clusters)
