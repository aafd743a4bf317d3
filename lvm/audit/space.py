"""Are train, eval and bank vectors of one encoder and one pooling?

Coherence alone cannot tell: a rotation leaves every cosine within a file as it was. What changes is
where vectors lie: their mean, the axes that carry their length, and whether a linear rule can tell
the two files apart. Each is held against how much parts of the train side, with as many articles,
differ among themselves, since articles have subjects. Files of wholly different kinds of text can
look like files of two encoders; the finding says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.special import expit  # type: ignore[import-untyped]  # scipy has no stubs

from lvm.audit.centring import shifted_articles
from lvm.audit.check import About, check
from lvm.audit.coherence import VECTORS, Coherence, coherence
from lvm.audit.finding import Finding, NotEvaluable, Severity, where_found
from lvm.audit.location import unit
from lvm.audit.material import Material, once
from lvm.audit.mixed import mixed_spaces
from lvm.audit.number_code import number_code
from lvm.audit.own_rows import contexts_elsewhere
from lvm.audit.reembed import reembedded
from lvm.data.rows import take
from lvm.randomness import numpy_generator

NUM_PARTS = 24  # random parts of the train side
MIN_ARTICLES = 6  # of the train side: half of them fit the axes, parts of the others are held to it
SAMPLE = 4096  # bank rows
ENERGY = 0.5  # share of the train side's squared length that its leading axes carry
ENERGY_WARN, ENERGY_BLOCK = 0.8, 0.6  # of what parts of the train side keep in these axes
MEAN_BLOCK = 0.5  # of the cosine of means that parts of the train side have
MEAN_TELLS = 0.5  # cosine of means among parts below which means are mostly noise
MEAN_FAR, MEAN_ERRORS = 0.5, 6.0  # then: how far below the parts, and in spreads of the parts
MEAN_WARN = 0.1  # below the least of the parts
RANDOM_RATIO = (0.8, 1.25)
TELLING_ROWS = 1500  # rows of each file that the linear rule is fitted to
ACCURACY_WARN = 0.9


@dataclass(frozen=True, kw_only=True)
class Frame:
    """The mean and the leading axes of half the train articles, and how parts of the rest fit."""

    mean: Float[np.ndarray, " D"]
    axes: Float[np.ndarray, "D k"]
    part_means: Float[np.ndarray, " P"]  # cosine of each part's mean with `mean`
    part_energy: Float[np.ndarray, " P"]

    def mean_cosine(self, vectors: Float[np.ndarray, "m D"]) -> float:
        """Cosine between the mean of `vectors` and the mean of the frame."""
        return float(unit(vectors.mean(axis=0)) @ unit(self.mean))

    def energy(self, vectors: Float[np.ndarray, "m D"]) -> float:
        """Share of the squared length of unit `vectors` in the axes of the frame."""
        return float(np.square(vectors @ self.axes).sum(axis=1).mean())


@dataclass(frozen=True, kw_only=True)
class Likeness:
    """How one set of vectors fits the frame of the train side."""

    mean_cosine: float
    mean_usual: float  # median over parts of the train side
    mean_least: float
    mean_spread: float
    energy: float  # beside the median of the parts
    mean_tells: bool

    @property
    def blocks(self) -> bool:
        """Whether these cannot be vectors of one encoder on one kind of text."""
        below = self.mean_usual - self.mean_cosine
        # Where any two chunks have little in common, means of few articles are noisy, yet do not
        # point the other way: in the bundled text parts lie at .4, and a flipped mean at -.5.
        far = below > max(MEAN_FAR, MEAN_ERRORS * self.mean_spread)
        if self.mean_tells:
            far = self.mean_cosine < MEAN_BLOCK * self.mean_usual
        return self.energy < ENERGY_BLOCK or far

    @property
    def warns(self) -> bool:
        """Whether they lie further apart than parts of the train side do."""
        off_mean = self.mean_tells and self.mean_cosine < self.mean_least - MEAN_WARN
        return self.energy < ENERGY_WARN or off_mean

    def __str__(self) -> str:
        return (
            f"cosine of means {self.mean_cosine:.2f} (parts of train: {self.mean_usual:.2f}), "
            f"length in train's leading axes {self.energy:.0%} of the usual"
        )


@once
def frame(material: Material) -> Frame:
    """Return the frame of the train side; NotEvaluable with few articles."""
    train = coherence(material, "train")
    rng = numpy_generator(material.seed, "audit", "space")
    articles = rng.permutation(np.unique(train.clusters))
    if len(articles) < MIN_ARTICLES:
        raise NotEvaluable(
            f"the train side has {len(articles)} articles, needed are {MIN_ARTICLES}",
            "give windows of more articles",
        )
    half = len(articles) // 2
    fitted = train.targets[np.isin(train.clusters, articles[:half])]
    values, axes = np.linalg.eigh(fitted.T.astype(np.float64) @ fitted / len(fitted))
    count = 1 + int(np.searchsorted(np.cumsum(values[::-1]) / values.sum(), ENERGY))
    made = Frame(
        mean=fitted.mean(axis=0),
        axes=axes[:, ::-1][:, :count].astype(np.float32),
        part_means=np.empty(0),
        part_energy=np.empty(0),
    )
    parts = list(_parts(train, articles[half:], _num_eval_articles(material), rng))
    return Frame(
        mean=made.mean,
        axes=made.axes,
        part_means=np.array([made.mean_cosine(p) for p in parts]),
        part_energy=np.array([made.energy(p) for p in parts]),
    )


def _parts(
    train: Coherence, articles: np.ndarray, size: int, rng: np.random.Generator
) -> Iterator[Float[np.ndarray, "m D"]]:
    """Yield the targets of random sets of articles, as many as the eval side has."""
    size = max(3, min(size, len(articles) // 2))
    for _ in range(NUM_PARTS):
        chosen = rng.choice(articles, min(size, len(articles)), replace=False)
        yield train.targets[np.isin(train.clusters, chosen)]


def _num_eval_articles(material: Material) -> int:
    try:
        return len(np.unique(coherence(material, "eval").clusters))
    except NotEvaluable:
        return 1 << 30


def likeness(material: Material, name: str) -> Likeness:
    """Return how the eval side or the bank ("eval", "bank") fits the train side."""
    reference = frame(material)
    vectors = coherence(material, "eval").targets if name == "eval" else _bank_rows(material)
    if vectors.shape[1] != len(reference.mean):
        raise NotEvaluable("the widths differ", "mend what SCHEMA names")
    usual = float(np.median(reference.part_energy))
    if usual == 0:
        raise NotEvaluable("the train vectors differ in nothing that could be compared", VECTORS)
    return Likeness(
        mean_cosine=reference.mean_cosine(vectors),
        mean_usual=float(np.median(reference.part_means)),
        mean_least=float(reference.part_means.min()),
        mean_spread=float(reference.part_means.std()),
        energy=reference.energy(vectors) / usual,
        mean_tells=float(np.median(reference.part_means)) >= MEAN_TELLS,
    )


def _bank_rows(material: Material) -> Float[np.ndarray, "m D"]:
    bank = material.pool
    rows = np.arange(len(bank.pool_rows))
    if len(rows) > SAMPLE:
        generator = numpy_generator(material.seed, "audit", "bank")
        rows = np.sort(generator.choice(rows, SAMPLE, replace=False))
    vectors = unit(take(bank.vectors, rows))
    good: Float[np.ndarray, "m D"] = vectors[np.isfinite(vectors).all(axis=1)]
    if len(good) == 0:
        raise NotEvaluable("no bank row has a direction", "mend NONFINITE or ZERO_ROWS first")
    return good


def another_space(material: Material) -> str:
    """Return why eval vectors cannot be compared with the bank, or an empty string."""
    odd = [name for name in ("eval", "bank") if _differs(material, name)]
    return f"the {odd[0]} side lies in another space than train" if len(odd) == 1 else ""


def _differs(material: Material, name: str) -> bool:
    try:
        return likeness(material, name).blocks
    except NotEvaluable:
        return False


@check(
    "SPACE_MISMATCH",
    "are all vectors from one encoder and one pooling?",
    About(blocks=True, cause=90),
)
def space_mismatch(material: Material) -> Iterator[Finding]:
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


def _between(material: Material) -> Iterator[Finding]:
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
            yield from _told_apart(material)
            yield from shifted_articles(material)


def _finding(material: Material, name: str, like: Likeness, severity: Severity) -> Finding:
    source = {"bank": material.bank, "eval": material.eval, "train": material.train}[name]
    return Finding(
        code="SPACE_MISMATCH",
        severity=severity,
        seen=f"{name} against the rest: {like}",
        allowed=f"means as alike as parts of train (at least {like.mean_least:.2f}), "
        f"{ENERGY_WARN:.0%} of the usual length ({ENERGY_BLOCK:.0%} blocks)",
        where=where_found(name, source.source if source is not None else ""),
        meaning="These vectors lie elsewhere than the others: another encoder, another pooling, a "
        "further layer, or a wholly different kind of text. A model of one cannot predict the "
        "other.",
        next=f"embed the text of the {name} side again with the model of the others (lvm embed "
        "--model NAME); if it is the same model on other text, go on with --allow SPACE_MISMATCH",
        values={
            "mean_cosine": like.mean_cosine,
            "mean_usual": like.mean_usual,
            "energy": like.energy,
        },
    )


def _random_pairs(material: Material) -> Iterator[Finding]:
    eval_, train = coherence(material, "eval"), coherence(material, "train")
    mine, theirs = eval_.of(eval_.random_pairs), train.of(train.random_pairs)
    low, high = (bound * theirs.value for bound in RANDOM_RATIO)
    noise = 3 * (mine.error + theirs.error) + 0.05
    if theirs.value <= 0 or low - noise <= mine.value <= high + noise:
        return
    yield Finding(
        code="SPACE_MISMATCH",
        severity=Severity.WARN,
        seen=f"random pairs have a cosine of {mine.value:.3f} in eval, {theirs.value:.3f} in train",
        allowed=f"a ratio of {RANDOM_RATIO[0]} to {RANDOM_RATIO[1]}",
        where=where_found("eval", material.side("eval").source),
        meaning="The eval text is of fewer or of more kinds than the train text, so cosines of the "
        "two do not mean the same.",
        next="draw train and eval articles from one collection",
        values={"random_eval": mine.value, "random_train": theirs.value},
    )


def _told_apart(material: Material) -> Iterator[Finding]:
    """Classifier two-sample test (Lopez-Paz and Oquab 2017), folds by article."""
    if material.quick:
        return
    eval_, train = coherence(material, "eval"), coherence(material, "train")
    accuracy = _accuracy(eval_, train, material.seed)
    if accuracy <= ACCURACY_WARN:
        return
    yield Finding(
        code="SPACE_MISMATCH",
        severity=Severity.WARN,
        seen=f"a linear rule tells eval from train vectors of articles it has not seen in "
        f"{accuracy:.0%} of cases",
        allowed=f"at most {ACCURACY_WARN:.0%} (.5 is chance)",
        where=where_found("eval", material.side("eval").source),
        meaning="Something marks all eval vectors: a detail of their embedding, or their subject.",
        next="embed both files in one run (lvm embed), or draw both from one collection",
        values={"accuracy": accuracy},
    )


def _accuracy(eval_: Coherence, train: Coherence, seed: int) -> float:
    rng = numpy_generator(seed, "audit", "two samples")
    picked = [_some(len(side.targets), rng) for side in (eval_, train)]
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


def _some(count: int, rng: np.random.Generator) -> Int[np.ndarray, " m"]:
    return np.sort(rng.choice(count, min(count, TELLING_ROWS), replace=False))
