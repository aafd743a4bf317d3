"""Do the intervals of the gates hold the truth as often as they say, when windows come in articles?

    python benchmarks/coverage.py [--write] [--rounds 2000]

Two arms without a cause rank the targets of unequal articles, so the truth of every gain is known.
How alike the windows of an article are is the correlation of the latent scores behind their ranks;
half of it, and half of what is left, both arms share. A few minutes on one core; `--write` keeps
the output in reports/statistics/.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from keep import REPORTS, origin, show
from scipy.special import ndtr  # type: ignore[import-untyped]  # scipy has no stubs

from lvm.statistics import bootstrap_difference, design_effect, mean_over_seeds, sign_flip_mean_p

OUT = REPORTS / "statistics"
ARTICLES = (10, 17, 40, 120)
ALIKE = (0.02, 0.1, 0.3)
METRICS = ("r_at_5", "mrr")
POOL_SIZE = 500
CONFIDENCE = 0.95
LEVEL = (1 - CONFIDENCE) / 2
NORMAL_LIMIT = 1.959964  # the same level for windows that are taken to be independent


@dataclass(frozen=True)
class RankLaw:
    """How likely each rank of the target is: a share in the top 5, the rest log-uniform."""

    in_top_5: float
    fall: float  # from one of the first five ranks to the next

    @cached_property
    def shares(self) -> np.ndarray:
        """Probability of the ranks 1 to POOL_SIZE."""
        top = self.fall ** np.arange(5)
        rest = 1 / np.arange(6, POOL_SIZE + 1)
        found = [self.in_top_5 * top / top.sum(), (1 - self.in_top_5) * rest / rest.sum()]
        return np.concatenate(found)

    @property
    def mrr(self) -> float:
        """Expected reciprocal rank."""
        return float(self.shares @ (1 / np.arange(1, POOL_SIZE + 1)))

    def ranks(self, score: np.ndarray) -> np.ndarray:
        """Return the ranks of standard normal scores; a high score is a low rank."""
        ranks: np.ndarray = 1 + np.searchsorted(np.cumsum(self.shares)[:-1], ndtr(-score))
        return ranks


@dataclass(frozen=True)
class Windows:
    """Windows in articles, with what every arm finds easy or hard in them."""

    articles: np.ndarray  # [M]
    shared: np.ndarray  # [M] latent score that all arms share
    alike: float  # correlation of the scores of two windows of one article
    own: float  # share of the latent variance that each arm draws for itself

    def scores(self, rng: np.random.Generator) -> np.ndarray:
        """Return the latent scores of one arm, standard normal, [M]."""
        return _mixed(self.shared, _score(rng, self.articles, self.alike), self.own)


def windows(
    rng: np.random.Generator, num_articles: int, alike: float, own: float = 0.5, mean: float = 4.3
) -> Windows:
    """Draw articles of unequal length, some 100 windows on average (mean is of their logarithm)."""
    sizes = np.maximum(5, rng.lognormal(mean, 0.8, num_articles)).astype(int)
    articles = np.repeat(np.arange(num_articles), sizes)
    return Windows(articles, _score(rng, articles, alike), alike, own)


def _score(rng: np.random.Generator, articles: np.ndarray, alike: float) -> np.ndarray:
    of_article = rng.standard_normal(articles[-1] + 1)[articles]
    return _mixed(rng.standard_normal(len(articles)), of_article, alike)


def _mixed(a: np.ndarray, b: np.ndarray, share: float) -> np.ndarray:
    return np.sqrt(1 - share) * a + np.sqrt(share) * b


def values(ranks: np.ndarray, metric: str) -> np.ndarray:
    """Return the metric of every window."""
    return (ranks <= 5).astype(np.float64) if metric == "r_at_5" else 1 / ranks


ARM, BASE = RankLaw(0.17, 0.6), RankLaw(0.07, 0.6)
TRUTH = {"r_at_5": ARM.in_top_5 - BASE.in_top_5, "mrr": ARM.mrr - BASE.mrr}


@dataclass
class Misses:
    """How often the truth lay outside, over the rounds of one row."""

    above: int = 0  # the truth above the upper limit: a FAIL that is none
    below: int = 0  # the truth below the lower limit: a PASS that is none
    flips: int = 0  # the sign-flip test would have passed
    windows_only: int = 0  # outside the interval that takes windows to be independent
    effect: float = 0.0  # sum of the design effects

    @property
    def missed(self) -> int:
        """On either side."""
        return self.above + self.below


def misses(
    num_articles: int, alike: float, metric: str, *, rounds: int, resamples: int, seed: int
) -> Misses:
    """Draw two arms `rounds` times and count on which side the truth was missed."""
    rng, found, truth = np.random.default_rng(seed), Misses(), TRUTH[metric]
    for number in range(rounds):
        drawn = windows(rng, num_articles, alike)
        a, b = (values(law.ranks(drawn.scores(rng)), metric) for law in (ARM, BASE))
        got, _ = bootstrap_difference(
            a, b, drawn.articles, confidence=CONFIDENCE, resamples=resamples, seed=number,
            purpose=metric, bound=truth,
        )  # fmt: skip
        found.above += got.upper < truth
        found.below += got.lower > truth
        found.flips += sign_flip_mean_p(a - b, drawn.articles, bound=truth, seed=number) <= LEVEL
        error = np.std(a - b, ddof=1) / np.sqrt(len(a))
        found.windows_only += bool(abs(got.value - truth) > NORMAL_LIMIT * error)
        found.effect += design_effect(a - b, drawn.articles)
    return found


def seed_misses(
    num_seeds: int, of_seed: float, *, rounds: int, num_articles: int = 17, seed: int = 0
) -> tuple[int, int]:
    """Count misses of the interval over seeds and articles, and of the one of the first seed alone.

    `of_seed` is the standard deviation of the gain from seed to seed; that of an article is .08.
    """
    rng, both, first = np.random.default_rng(seed), 0, 0
    for number in range(rounds):
        sizes = np.maximum(5, rng.lognormal(3.3, 0.6, num_articles)).astype(int)
        articles = np.repeat(np.arange(num_articles), sizes)
        level = rng.normal(0, of_seed, (num_seeds, 1)) + rng.normal(0, 0.08, num_articles)
        level = level + rng.normal(0, 0.03, level.shape)
        gains = level[:, articles] + rng.normal(0, 0.3, (num_seeds, len(articles)))
        got = mean_over_seeds(gains, articles, confidence=CONFIDENCE)
        both += not got.lower <= 0 <= got.upper
        alone, _ = bootstrap_difference(
            gains[0], np.zeros(len(articles)), articles, confidence=CONFIDENCE, resamples=500,
            seed=number, purpose="seeds",
        )  # fmt: skip
        first += not alone.lower <= 0 <= alone.upper
    return both, first


def main() -> None:
    """Print the tables, and keep them when told to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"keep the output in {OUT}")
    parser.add_argument("--rounds", type=int, default=2000, help="splits drawn per row")
    arguments = parser.parse_args()
    show(report(arguments.rounds), OUT / "coverage.md" if arguments.write else None)


def report(rounds: int) -> Iterator[str]:
    """Yield the report line by line."""
    yield from origin(
        "Coverage of the intervals", __doc__.splitlines()[0],
        f"python benchmarks/coverage.py --write --rounds {rounds}",
    )  # fmt: skip
    error = 100 * np.sqrt(0.05 * 0.95 / rounds)
    yield (
        f"95 % intervals of the gain of an arm (R@5 {ARM.in_top_5:.2f}) over another "
        f"({BASE.in_top_5:.2f}), {rounds} splits a row; 5 % of misses are wanted, 2.5 % on each "
        f"side, and the Monte-Carlo error of 5 % is {error:.1f} points. `truth below` is the side "
        "of a false PASS. `windows only` takes windows to be independent."
    )
    yield ""
    yield (
        "| metric | articles | alike | design effect | missed | truth below | truth above "
        "| sign flips pass | windows only missed |"
    )
    yield "|---|--:|--:|--:|--:|--:|--:|--:|--:|"
    rows: list[Misses] = []
    for metric in METRICS:
        for num_articles in ARTICLES:
            for alike in ALIKE:
                found = misses(
                    num_articles, alike, metric, rounds=rounds, resamples=2000,
                    seed=num_articles + round(1000 * alike),
                )  # fmt: skip
                rows.append(found)
                yield _row(metric, num_articles, alike, found, rounds)
    yield ""
    yield _verdict(rows, rounds)
    yield ""
    yield from _seeds(rounds)


def _verdict(rows: list[Misses], rounds: int) -> str:
    def between(counts: list[int]) -> str:
        return f"{100 * min(counts) / rounds:.1f} to {100 * max(counts) / rounds:.1f} %"

    return (
        f"The intervals of the gates missed the truth in {between([r.missed for r in rows])}, on "
        f"the side of a false PASS in {between([r.below for r in rows])}; those that take windows "
        f"to be independent in {between([r.windows_only for r in rows])}."
    )


def _row(metric: str, num_articles: int, alike: float, found: Misses, rounds: int) -> str:
    counts = found.missed, found.below, found.above, found.flips, found.windows_only
    cells = [f"{100 * count / rounds:.1f} %" for count in counts]
    about = (metric, str(num_articles), f"{alike:g}", f"{found.effect / rounds:.1f}")
    return f"| {' | '.join([*about, *cells])} |"


def _seeds(rounds: int) -> Iterator[str]:
    yield "## Repeated seeds"
    yield ""
    yield (
        "The interval over seeds and articles together (17 articles) against that of the first "
        "seed alone, by how far the gain moves from seed to seed (an article moves it by .08)."
    )
    yield ""
    yield "| seeds | moved by a seed | missed | first seed alone missed |"
    yield "|--:|--:|--:|--:|"
    for num_seeds in (2, 3, 5):
        for of_seed in (0.0, 0.02, 0.05):
            both, first = seed_misses(num_seeds, of_seed, rounds=rounds)
            shares = f"{100 * both / rounds:.1f} % | {100 * first / rounds:.1f} %"
            yield f"| {num_seeds} | {of_seed:g} | {shares} |"


if __name__ == "__main__":
    main()
