"""How the text of a side hangs together: what pairing, order and space are judged by.

For a window with contexts c_0 .. c_T-1 (oldest first) and target t, all of length 1:

    profile    cos(c_i, t) for each i: rises with i where text is in order
    lags       mean cosine of vectors k places apart, k = 1 .. T: falls with k
    near       cos(c_T-1, t) - cos of random pairs: what neighbours share beyond any two chunks
    lift       cos(mean of contexts, t) - the same with the target of another article
    direction  cos(c_T-1, t) - cos(c_0, t): zero where order means nothing, and it changes its sign
               when contexts are reversed

A statistic that compares E[cos(x_t, x_t+1)] with E[cos(x_t, x_t-1)] is not among them: the sums
telescope, so it is zero for every text. All come as a Level, a mean with the standard error over
articles, since windows of one article resemble each other.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from lvm.audit.finding import NotEvaluable
from lvm.audit.location import Located, locate, unit
from lvm.audit.material import Material, Side, once, or_none

SAMPLE = {False: 4096, True: 1536}  # windows of a side that are looked at; True: quick
MIN_WINDOWS = 30
MIN_CLUSTERS = 3
VECTORS = "give vectors of text: these repeat a few rows, or hold only ones and zeros"
ROWS_PER_CLUSTER = 50  # where no article is known, neighbours in the file stand for one


@dataclass(frozen=True, kw_only=True)
class Level:
    """A mean, its standard error over clusters (articles), and their number."""

    value: float
    error: float
    clusters: int

    @property
    def z(self) -> float:
        """The mean in standard errors."""
        return self.value / self.error if self.error > 0 else math.copysign(math.inf, self.value)

    def above(self, num_errors: float = 3.0) -> float:
        """Upper limit."""
        return self.value + num_errors * self.error

    def below(self, num_errors: float = 3.0) -> float:
        """Lower limit."""
        return self.value - num_errors * self.error

    def over(self, other: Level) -> Level:
        """Ratio to an independent level, its error to first order; NotEvaluable beside exact 0."""
        if other.value == 0:
            raise NotEvaluable(
                "the vectors do not differ in any direction that could be compared", VECTORS
            )
        ratio = self.value / other.value
        relative = math.hypot(self.error / other.value, ratio * other.error / other.value)
        return Level(value=ratio, error=relative, clusters=min(self.clusters, other.clusters))


def level(values: Float[np.ndarray, " m"], clusters: Int[np.ndarray, " m"]) -> Level:
    """Return the mean of `values` with the error of a ratio of cluster sums."""
    _, place = np.unique(clusters, return_inverse=True)
    sums, sizes = np.bincount(place, weights=values), np.bincount(place)
    mean = float(sums.sum() / sizes.sum())
    count = len(sizes)
    residual = sums - mean * sizes
    error = math.sqrt(float(residual @ residual) * count / max(1, count - 1)) / float(sizes.sum())
    return Level(value=mean, error=error, clusters=count)


def partners(articles: Int[np.ndarray, " m"]) -> Int[np.ndarray, " m"]:
    """Return for every row another one, of another article wherever there is one."""
    order = np.argsort(articles, kind="stable")
    partner = np.empty(len(order), dtype=np.int64)
    partner[order] = np.roll(order, len(order) // 2)
    return partner


@dataclass(frozen=True, eq=False)
class Coherence:
    """A sample of windows of one side, as unit vectors, and what they show."""

    whole: Side
    rows: Int[np.ndarray, " m"]  # windows of the side
    contexts: Float[np.ndarray, "m T D"]
    targets: Float[np.ndarray, "m D"]
    clusters: Int[np.ndarray, " m"]  # article, or a stretch of the file
    by_article: bool
    located: Located | None

    @functools.cached_property
    def to_target(self) -> Float[np.ndarray, "m T"]:
        """Cosine of every context with the target."""
        return np.asarray(np.einsum("mtd,md->mt", self.contexts, self.targets))

    @functools.cached_property
    def partner(self) -> Int[np.ndarray, " m"]:
        """For every window another one, of another article wherever there is one."""
        return partners(self.clusters)

    @functools.cached_property
    def random_pairs(self) -> Float[np.ndarray, " m"]:
        """Cosine of the target with the target of its partner."""
        return np.asarray(np.einsum("md,md->m", self.targets, self.targets[self.partner]))

    @functools.cached_property
    def paired(self) -> Float[np.ndarray, " m"]:
        """Cosine of the mean of the contexts with the target."""
        return np.asarray(np.einsum("md,md->m", self._mean_context, self.targets))

    @functools.cached_property
    def shuffled(self) -> Float[np.ndarray, " m"]:
        """Cosine of the mean of the contexts with the target of the partner."""
        return np.asarray(np.einsum("md,md->m", self._mean_context, self.targets[self.partner]))

    @functools.cached_property
    def _mean_context(self) -> Float[np.ndarray, "m D"]:
        return np.asarray(np.nan_to_num(unit(self.contexts.mean(axis=1))))

    @functools.cached_property
    def sequence(self) -> Float[np.ndarray, "m S D"]:
        """Contexts and target as one run of T + 1 vectors."""
        return np.concatenate([self.contexts, self.targets[:, None]], axis=1)

    def lag(self, k: int) -> Float[np.ndarray, " m"]:
        """Mean cosine of vectors k places apart in each window."""
        cosines = np.einsum("msd,msd->ms", self.sequence[:, k:], self.sequence[:, :-k])
        return np.asarray(cosines.mean(axis=1))

    def of(self, values: Float[np.ndarray, " m"]) -> Level:
        """Return the mean of one value per window, with its error over articles."""
        return level(values, self.clusters)

    def lowest(
        self, values: Float[np.ndarray, " m"]
    ) -> tuple[Int[np.ndarray, " m"], Int[np.ndarray, " a"] | None]:
        """Return rows, and articles where they are known, those with the lowest values first."""
        rows = self.rows[np.argsort(values, kind="stable")]
        if not self.by_article:
            return rows, None
        ids, place = np.unique(self.clusters, return_inverse=True)
        means = np.bincount(place, weights=values) / np.bincount(place)
        return rows, ids[np.argsort(means, kind="stable")]

    @property
    def copy_last(self) -> Level:
        """Cosine of the last context with the target."""
        return self.of(self.to_target[:, -1])

    @property
    def near(self) -> Level:
        """What neighbours share beyond random pairs."""
        return self.of(self.to_target[:, -1] - self.random_pairs)

    @property
    def lift(self) -> Level:
        """Mean of contexts with its own target against that of another article."""
        return self.of(self.paired - self.shuffled)

    @property
    def direction(self) -> Level:
        """Last context against the first one; changes its sign when contexts are reversed."""
        return self.of(self.to_target[:, -1] - self.to_target[:, 0])


def sample_rows(material: Material, side: Side, count: int = 0) -> Int[np.ndarray, " m"]:
    """Return up to `count` windows of a side, drawn from the seed, in the order of the file.

    By default as many as the audit's statistics look at.
    """
    count = count or SAMPLE[material.quick and side.name == "train"]
    return material.sample(len(side), count, "audit", side.name)


@once
def coherence(material: Material, name: str) -> Coherence:
    """Return the coherence of a side; NotEvaluable when too small."""
    side = material.side(name)
    rows = sample_rows(material, side)
    contexts, targets = unit(side.contexts(rows)), unit(side.targets(rows))
    good = np.isfinite(contexts).all(axis=(1, 2)) & np.isfinite(targets).all(axis=1)
    if int(good.sum()) < MIN_WINDOWS:
        raise NotEvaluable(
            f"{int(good.sum())} of {len(rows)} sampled {side.name} windows are usable (need "
            f"{MIN_WINDOWS})",
            "give more windows",
        )
    rows, contexts, targets = rows[good], contexts[good], targets[good]
    clusters, by_article, located = _clusters(material, side, rows)
    if len(np.unique(clusters)) < MIN_CLUSTERS:
        raise NotEvaluable(
            f"the {side.name} windows come from {len(np.unique(clusters))} articles (need "
            f"{MIN_CLUSTERS})",
            "give windows from more articles",
        )
    return Coherence(side, rows, contexts, targets, clusters, by_article, located)


def _clusters(
    material: Material, side: Side, rows: Int[np.ndarray, " m"]
) -> tuple[Int[np.ndarray, " m"], bool, Located | None]:
    """Return the article of each window as content says, else as keys say, else file stretches."""
    stretch = rows // ROWS_PER_CLUSTER
    located = or_none(locate, material, side, rows)
    if located is not None and (located.articles >= 0).mean() > 0.9:
        articles = located.articles
        return np.where(articles >= 0, articles, -1 - stretch), True, located
    if side.keys is not None and len(np.unique(side.keys[rows, 0])) >= MIN_CLUSTERS:
        return side.keys[rows, 0].astype(np.int64), True, located
    return stretch, False, located
