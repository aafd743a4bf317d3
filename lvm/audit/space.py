"""Are train, eval and bank vectors of one encoder and one pooling?

Coherence alone cannot tell: a rotation leaves every cosine within a file as it was. What changes is
where vectors lie: their mean, the axes that carry their length, and whether a linear rule can tell
the two files apart. Each is held against how much parts of the train side, with as many articles,
differ among themselves, since articles have subjects. Files of wholly different kinds of text can
look like files of two encoders; the finding says so.
"""

from __future__ import annotations

from collections.abc import Iterator

from lvm.audit.centring import shifted_articles
from lvm.audit.check import About, check
from lvm.audit.coherence import coherence
from lvm.audit.finding import NotEvaluable, Seen, Severity
from lvm.audit.likeness import ENERGY_BLOCK, ENERGY_WARN, Likeness, likeness
from lvm.audit.material import Material
from lvm.audit.mixed import mixed_spaces
from lvm.audit.number_code import number_code
from lvm.audit.own_rows import contexts_elsewhere
from lvm.audit.reembed import reembedded
from lvm.audit.told_apart import told_apart
from lvm.audit.where import where_found

RANDOM_RATIO = (0.8, 1.25)


@check(
    "SPACE_MISMATCH",
    "are all vectors from one encoder and one pooling?",
    About(blocks=True, cause=90),
)
def space_mismatch(material: Material) -> Iterator[Seen]:
    """Hold the eval side and the bank against train, articles and contexts against their own."""
    if material.eval is None and material.bank is None:
        material.side("eval")
    within = [*number_code(material)] or [*mixed_spaces(material), *contexts_elsewhere(material)]
    yield from within
    blocked = any(finding.severity is Severity.BLOCK for finding in within)
    reasons = []
    for look in (reembedded,) if blocked else (_between, reembedded):
        try:
            yield from look(material)
        except NotEvaluable as reason:
            reasons.append(reason)
    if reasons:
        raise reasons[-1]


def _between(material: Material) -> Iterator[Seen]:
    found = {}
    for name in ("eval", "bank"):
        if (material.eval if name == "eval" else material.bank) is not None:
            found[name] = likeness(material, name)
    if all(like.blocks for like in found.values()) and len(found) == 2:
        # Both differ from train: then train is the one to look at.
        yield _finding(material, "train", found["eval"], Severity.BLOCK)
        return
    for name, like in found.items():
        if like.blocks:
            yield _finding(material, name, like, Severity.BLOCK)
        elif like.warns:
            yield _finding(material, name, like, Severity.WARN)
        elif name == "eval":
            yield from _random_pairs(material)
            yield from told_apart(material)
            yield from shifted_articles(material)


def _finding(material: Material, name: str, like: Likeness, severity: Severity) -> Seen:
    source = {"bank": material.bank, "eval": material.eval, "train": material.train}[name]
    return Seen(
        severity=severity,
        seen=f"{name} against the rest: {like}",
        allowed=f"means as similar as parts of train (at least {like.mean_least:.2f}), "
        f"{ENERGY_WARN:.0%} of the usual length ({ENERGY_BLOCK:.0%} blocks)",
        where=where_found(name, source.source if source is not None else ""),
        meaning="These vectors are in a different region from the others: another encoder, "
        "another pooling, an extra layer, or a very different kind of text. A model of "
        "one cannot predict the other.",
        next=f"embed the text of the {name} side again with the model of the others (lvm embed "
        "--model NAME); if it is the same model on other text, continue with --allow "
        "SPACE_MISMATCH",
        values={
            "mean_cosine": like.mean_cosine,
            "mean_usual": like.mean_usual,
            "energy": like.energy,
        },
    )


def _random_pairs(material: Material) -> Iterator[Seen]:
    eval_, train = coherence(material, "eval"), coherence(material, "train")
    mine, theirs = eval_.of(eval_.random_pairs), train.of(train.random_pairs)
    low, high = (bound * theirs.value for bound in RANDOM_RATIO)
    noise = 3 * (mine.error + theirs.error) + 0.05
    if theirs.value <= 0 or low - noise <= mine.value <= high + noise:
        return
    yield Seen(
        severity=Severity.WARN,
        seen=f"random pairs have a cosine of {mine.value:.3f} in eval, {theirs.value:.3f} in train",
        allowed=f"a ratio of {RANDOM_RATIO[0]} to {RANDOM_RATIO[1]}",
        where=material.side("eval").where(),
        meaning="The eval text is less or more varied than the train text, so cosines of the "
        "two do not compare.",
        next="draw train and eval articles from one collection",
        values={"random_eval": mine.value, "random_train": theirs.value},
    )
