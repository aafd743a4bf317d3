"""Where vectors lie, against where parts of the train side lie."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from lvm.audit.coherence import VECTORS, Coherence, coherence
from lvm.audit.finding import NotEvaluable
from lvm.audit.location import unit
from lvm.audit.material import Material, once, or_none
from lvm.core.randomness import numpy_generator
from lvm.data.rows import take

NUM_PARTS = 24  # random parts of the train side
MIN_ARTICLES = 6  # of the train side: half of them fit the axes, parts of the others are held to it
SAMPLE = 4096  # bank rows
ENERGY = 0.5  # share of the train side's squared length that its leading axes carry
ENERGY_WARN, ENERGY_BLOCK = 0.8, 0.6  # of what parts of the train side keep in these axes
MEAN_BLOCK = 0.5  # of the cosine of means that parts of the train side have
MEAN_TELLS = 0.5  # cosine of means among parts below which means are mostly noise
MEAN_FAR, MEAN_ERRORS = 0.5, 6.0  # then: how far below the parts, and in spreads of the parts
MEAN_WARN = 0.1  # below the least of the parts


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
    energy: float  # relative to the median of the parts
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
            f"the train side has {len(articles)} articles (need {MIN_ARTICLES})",
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
    return replace(
        made,
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
    eval_ = or_none(coherence, material, "eval")
    return 1 << 30 if eval_ is None else len(np.unique(eval_.clusters))


def likeness(material: Material, name: str) -> Likeness:
    """Return how the eval side or the bank ("eval", "bank") fits the train side."""
    reference = frame(material)
    vectors = coherence(material, "eval").targets if name == "eval" else _bank_rows(material)
    if vectors.shape[1] != len(reference.mean):
        raise NotEvaluable("the widths differ", "fix what SCHEMA names")
    usual = float(np.median(reference.part_energy))
    if usual == 0:
        raise NotEvaluable(
            "the train vectors do not differ in any direction that could be compared", VECTORS
        )
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
    rows = material.sample(len(bank.pool_rows), SAMPLE, "audit", "bank")
    vectors = unit(take(bank.vectors, rows))
    good: Float[np.ndarray, "m D"] = vectors[np.isfinite(vectors).all(axis=1)]
    if len(good) == 0:
        raise NotEvaluable("no bank row has a direction", "fix NONFINITE or ZERO_ROWS first")
    return good


def another_space(material: Material) -> str:
    """Return why eval vectors cannot be compared with the bank, or an empty string."""
    fits = {name: or_none(likeness, material, name) for name in ("eval", "bank")}
    odd = [name for name, fit in fits.items() if fit is not None and fit.blocks]
    return f"the {odd[0]} side is in a different space from train" if len(odd) == 1 else ""
