"""Are train, eval and bank vectors of one encoder and one pooling?

Coherence alone cannot tell: a rotation leaves every cosine within a file as it was. What changes is
where vectors lie: their mean, the axes that carry their length, and whether a linear rule can tell
the two files apart. Each is held against how much parts of the train side, with as many articles,
differ among themselves, since articles have subjects. Files of wholly different kinds of text can
look like files of two encoders; the finding says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import bdtrc, expit  # type: ignore[import-untyped]  # scipy has no stubs

from lvm.audit.check import About, check
from lvm.audit.coherence import Coherence, coherence
from lvm.audit.finding import NotEvaluable, Seen, Severity
from lvm.audit.likeness import ENERGY_BLOCK, ENERGY_WARN, Likeness, likeness
from lvm.audit.location import unit
from lvm.audit.material import Material, where_found
from lvm.audit.mixed import mixed_spaces
from lvm.audit.number_code import contexts_elsewhere, number_code
from lvm.audit.reembed import reembedded
from lvm.core.randomness import numpy_generator

RANDOM_RATIO = (0.8, 1.25)
TELLING_ROWS = 1500  # rows of each file that the linear rule is fitted to
ACCURACY_WARN = 0.9
MIN_ARTICLES = 6
CLEAR = 5.0  # standard errors
TELLS = 1.5  # of the train articles' own spread: nearer to 0 the direction says nothing
SHIFT, SHIFT_SPREAD = 0.25, 1.5  # of the usual length along it, or of the articles' own spread
OUTSIDE, RARE = 0.5, 0.01  # of the median of train, and where so few train articles lie
OUT_BLOCK = 0.2  # share of eval articles
CHANCE_WARN, CHANCE_BLOCK = 1e-3, 1e-5  # that as many lie there, if twice as many as in train did


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


def told_apart(material: Material) -> Iterator[Seen]:
    """Classifier two-sample test (Lopez-Paz and Oquab 2017), folds by article."""
    if material.quick:
        return
    eval_, train = coherence(material, "eval"), coherence(material, "train")
    accuracy = _accuracy(eval_, train, material.seed)
    if accuracy <= ACCURACY_WARN:
        return
    yield Seen(
        severity=Severity.WARN,
        seen="a linear classifier separates eval from train vectors of unseen articles in "
        f"{accuracy:.0%} of cases",
        allowed=f"at most {ACCURACY_WARN:.0%} (.5 is chance)",
        where=material.side("eval").where(),
        meaning="All eval vectors share a mark: a detail of their embedding, or their subject.",
        next="embed both files in one run (lvm embed), or draw both from one collection",
        values={"accuracy": accuracy},
    )


def _accuracy(eval_: Coherence, train: Coherence, seed: int) -> float:
    rng = numpy_generator(seed, "audit", "two samples")
    picked = [_picked(len(side.targets), rng) for side in (eval_, train)]
    x = np.concatenate([eval_.targets[picked[0]], train.targets[picked[1]]])
    y = np.repeat([0, 1], [len(p) for p in picked])
    articles = np.concatenate([eval_.clusters[picked[0]] * 2, train.clusters[picked[1]] * 2 + 1])
    ids, place = np.unique(articles, return_inverse=True)
    fold = (rng.permutation(len(ids)) % 3)[place]
    right = []
    for k in range(3):
        test = fold == k
        if len(set(y[test])) < 2 or len(set(y[~test])) < 2:
            continue
        guess = _linear_rule(x[~test], y[~test])(x[test])
        right += [float((guess[y[test] == side] == side).mean()) for side in (0, 1)]
    return float(np.mean(right)) if right else 0.5


def _linear_rule(
    x: Float[np.ndarray, "m D"], y: Int[np.ndarray, " m"]
) -> Callable[[Float[np.ndarray, "n D"]], Int[np.ndarray, " n"]]:
    """Fit a logistic regression in which both sides weigh alike; return what says 0 or 1 of rows.

    Ridge penalty |w|^2 / 2 against the sum of all losses, as is usual where none is chosen.
    (scikit-learn does the same; its import alone would be a third of the time of an audit.)
    """
    from scipy.optimize import minimize  # type: ignore[import-untyped]  # scipy has no stubs

    rows = np.column_stack([x.astype(np.float64), np.ones(len(x))])
    weight = 0.5 / (np.bincount(y, minlength=2) / len(y))[y]
    penalty = np.append(np.ones(x.shape[1]), 0.0)

    def loss(rule: Float[np.ndarray, " C"]) -> tuple[float, Float[np.ndarray, " C"]]:
        said = rows @ rule
        value = weight @ (np.logaddexp(0.0, said) - y * said) + penalty @ rule**2 / 2
        return float(value), rows.T @ (weight * (expit(said) - y)) + penalty * rule

    options = {"maxiter": 300}
    rule = minimize(loss, np.zeros(rows.shape[1]), jac=True, method="L-BFGS-B", options=options).x
    return lambda new: np.asarray(new @ rule[:-1] + rule[-1] > 0, dtype=np.int64)


def _picked(count: int, rng: np.random.Generator) -> Int[np.ndarray, " m"]:
    return np.sort(rng.choice(count, min(count, TELLING_ROWS), replace=False))


def shifted_articles(material: Material) -> Iterator[Seen]:
    """Report eval articles that lie less, or more, far along the mean of train than train's.

    Vectors of one encoder share a direction. How far each article lies along it hardly depends on
    its subject; a mean that was subtracted, in some articles or in part, shows there and nowhere
    else.
    """
    eval_, train = coherence(material, "eval"), coherence(material, "train")
    if eval_.targets.shape[1] != train.targets.shape[1]:
        return
    axis = unit(train.contexts[:, -1].mean(axis=0))
    (articles, mine), (_, theirs) = _lengths(eval_, axis), _lengths(train, axis)
    if min(len(mine), len(theirs)) < MIN_ARTICLES:
        return
    usual, spread = float(theirs.mean()), float(theirs.std(ddof=1))
    if usual < TELLS * spread:
        return
    shift = float(mine.mean()) - usual
    clear = CLEAR * float(np.hypot(*(v.std(ddof=1) / len(v) ** 0.5 for v in (mine, theirs))))
    large = min(SHIFT * usual, SHIFT_SPREAD * spread)
    out = _outside(mine, theirs)
    expected = 2 * max(RARE, 1 / (1 + len(theirs)))
    chance = float(bdtrc(int(out.sum()) - 1, len(out), expected))
    if chance > CHANCE_WARN and abs(shift) <= max(clear, large):
        return
    block = float(out.mean()) >= OUT_BLOCK and chance <= CHANCE_BLOCK
    worst = articles[np.argsort(-np.abs(mine - usual), kind="stable")]
    yield Seen(
        severity=Severity.BLOCK if block else Severity.WARN,
        seen=f"eval articles lie {mine.mean():.2f} along the mean of train, train "
        f"articles {usual:.2f}; {int(out.sum())} of {len(out)} lie where almost no train "
        "article does",
        allowed=f"a shift of {large:.2f}, {expected:.0%} there ({OUT_BLOCK:.0%} blocks)",
        where=material.side("eval").where(count=out.sum(), of=len(out), articles=worst),
        meaning="Some of these vectors had a mean subtracted and the others did not, so "
        "cosines between the two kinds mean nothing.",
        next="embed all articles with the same settings (lvm embed), or subtract one mean from all",
        values={"shift": shift, "usual": usual, "outside": float(out.mean())},
    )


def _lengths(
    side: Coherence, axis: Float[np.ndarray, " D"]
) -> tuple[Int[np.ndarray, " A"], Float[np.ndarray, " A"]]:
    """Return articles and how far their chunks lie along an axis; by contexts, which are intact."""
    along = side.contexts[:, -1] @ axis
    articles, place, count = np.unique(side.clusters, return_inverse=True, return_counts=True)
    return articles, np.bincount(place, weights=along) / count


def _outside(
    mine: Float[np.ndarray, " A"], theirs: Float[np.ndarray, " B"]
) -> Bool[np.ndarray, " A"]:
    """Say which articles lie where few train articles do, and at half their median or twice it."""
    middle, low, high = np.quantile(theirs, [0.5, RARE, 1 - RARE])
    below = (mine < low) & (mine < OUTSIDE * middle)
    return np.asarray(below | ((mine > high) & (mine > middle / OUTSIDE)))
