"""Does the eval text hang together as the train text does?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from lvm.audit.check import About, check
from lvm.audit.coherence import Coherence, Level, coherence, level
from lvm.audit.finding import NotEvaluable, Seen
from lvm.audit.material import Material, where_found

CLEAR = 5.0  # standard errors from which a difference is beyond doubt
EASY_RATIO = 1.3
REGION = (0.8, 1.2)  # of the train side's coherence, per block of articles
ARTICLES_PER_BLOCK = 10


@check(
    "EASY_REGION",
    "is the eval text as coherent as the train text?",
    About(
        meaning="Numbers measured here describe this region of the text more than the model.",
        next="draw the eval articles at random from the whole collection",
    ),
)
def easy_region(material: Material) -> Iterator[Seen]:
    """Compare the coherence of the eval side, whole and by blocks of articles, with train's.

    Neighbouring contexts tell it; targets are left out, since they may be unpaired or shifted, and
    the direction of the contexts does not matter.
    """
    eval_, train = coherence(material, "eval"), coherence(material, "train")
    mine, theirs = eval_.of(_neighbours(eval_)), train.of(_neighbours(train))
    for name, near in (("train", theirs), ("eval", mine)):
        if near.z < CLEAR:
            raise NotEvaluable(
                f"neighbouring chunks of the {name} text are not similar", "see EVAL_UNPAIRED"
            )
    whole, blocks = mine.over(theirs), coherence_blocks(eval_)
    odd = []
    for articles, near in blocks:
        ratio = near.over(theirs)
        if ratio.below(4) > REGION[1] or ratio.above(4) < REGION[0]:
            odd.append((articles, ratio))
    if whole.below() <= EASY_RATIO and not odd:
        return
    worst = max(odd, key=lambda item: abs(item[1].value - 1), default=None)
    seen = f"neighbours share {whole.value:.2f} times what they share in train"
    if worst is not None:
        seen += (
            f"; articles {worst[0][0]} to {worst[0][-1]}: {worst[1].value:.2f} times "
            f"({len(odd)} of {len(blocks)} blocks are out)"
        )
    yield Seen(
        seen=seen,
        allowed=f"up to {EASY_RATIO} in all, {REGION[0]} to {REGION[1]} per block of "
        f"{ARTICLES_PER_BLOCK} articles",
        where=where_found(
            "eval",
            material.side("eval").source,
            articles=[a for articles, _ in odd for a in articles],
            blocks=[(articles[0], articles[-1]) for articles, _ in odd],
        ),
        values={"ratio": whole.value, "blocks_out": float(len(odd))},
    )


def _neighbours(side: Coherence) -> Float[np.ndarray, " m"]:
    """Return what neighbouring contexts of each window share beyond any two chunks.

    With one context a window has no neighbours but that and its target.
    """
    if side.contexts.shape[1] < 2:
        return np.asarray(side.to_target[:, -1] - side.random_pairs)
    first, second = side.contexts[:, :-1], side.contexts[:, 1:]
    random = np.einsum("md,md->m", side.contexts[:, 0], side.contexts[side.partner, 0])
    return np.asarray(np.einsum("msd,msd->ms", first, second).mean(axis=1) - random)


def coherence_blocks(side: Coherence) -> list[tuple[np.ndarray, Level]]:
    """Return what neighbours share, per block of about ten articles in the order of their ids."""
    if not side.by_article:
        return []
    ids = np.unique(side.clusters)
    parts = np.array_split(ids, max(1, round(len(ids) / ARTICLES_PER_BLOCK)))
    values = _neighbours(side)
    blocks = []
    for part in parts:
        mine = np.isin(side.clusters, part)
        if len(part) >= 3 and mine.any():
            blocks.append((part, level(values[mine], side.clusters[mine])))
    return blocks
