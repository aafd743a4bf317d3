"""Do the intervals of the gates hold the truth as often as they say, when windows come in articles?

    python benchmarks/coverage.py [--write] [--rounds 20000]

Gains are drawn for articles whose sizes are as the bundled sample's and go with the gains or not,
and taken from real articles: trivial predictors over each other, articles drawn with replacement.
Then gains that few articles hold, for the upper limit; whether "N more articles" settle what they
promise; and repeated seeds. Three minutes on one core; `--write` keeps the output in
reports/statistics/.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import stdtrit  # type: ignore[import-untyped]  # scipy has no stubs

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tests")]  # the corpora are test data

import corpora  # noqa: E402  # found through the path above
import torch  # noqa: E402
from keep import REPORTS, origin, show  # noqa: E402

from lvm.core.outlook import POWER, more_for_a_chance  # noqa: E402
from lvm.core.statistics import article_mean, bell_mccaffrey, cr2_error, mean_over_seeds  # noqa: E402
from lvm.data.bank import Bank  # noqa: E402
from lvm.data.sample import load_sample  # noqa: E402
from lvm.data.windows import article_windows, dataset_from_bank  # noqa: E402
from lvm.evaluation.evaluate import evaluate  # noqa: E402
from lvm.evaluation.gates import FAIL_ARTICLES, SKEWED  # noqa: E402
from lvm.evaluation.ladder import fit_ladder  # noqa: E402
from lvm.evaluation.measured import values_of  # noqa: E402

OUT = REPORTS / "statistics"
ARTICLES = (5, 10, 17, 40, 200)
FEW = (10, 17, 30)
CONFIDENCE = 0.95
LEVEL = (1 - CONFIDENCE) / 2
LONGEST = 381  # windows of the longest article of the bundled sample
MEAN = 4.2  # of the logarithm of an article's windows, as there
MOST_DRAWN = 4_000_000  # articles at once

Draw = Callable[[np.random.Generator, int, int], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Population:
    """Articles that splits are drawn from: `draw(rng, R, G)` gives sums and sizes, [R, G] each."""

    title: str
    draw: Draw
    truth: float  # mean over all windows


def drawn(correlation: float, spread: float) -> Population:
    """Gains of sd .1 that go with log sizes of this spread; hits are drawn for every window."""

    def draw(rng: np.random.Generator, rounds: int, articles: int) -> tuple[np.ndarray, np.ndarray]:
        size_score, sizes = _sizes(rng, (rounds, articles), spread)
        free = rng.standard_normal(size_score.shape)
        gain = 0.12 + 0.1 * (correlation * size_score + np.sqrt(1 - correlation**2) * free)
        return _hits(rng, sizes, 0.35, np.clip(gain, -0.3, 0.6)), sizes.astype(np.float64)

    title = f"log sizes of sd {spread:g}, correlation {correlation:+.2f}"
    return Population(title, draw, _truth(draw))


def skewed(
    title: str, gains: Callable[[np.random.Generator, tuple[int, int]], np.ndarray]
) -> Population:
    """Gains that few articles hold, whatever their size."""

    def draw(rng: np.random.Generator, rounds: int, articles: int) -> tuple[np.ndarray, np.ndarray]:
        _, sizes = _sizes(rng, (rounds, articles), 0.9)
        gain = np.minimum(gains(rng, sizes.shape), 0.85)
        return _hits(rng, sizes, 0.07, gain), sizes.astype(np.float64)

    return Population(title, draw, _truth(draw))


SKEWED_GAINS = (
    ("normal", lambda rng, shape: 0.1 + 0.06 * rng.standard_normal(shape)),
    ("exponential", lambda rng, shape: rng.exponential(0.1, shape)),
    ("exponential to the power 1.5", lambda rng, shape: 2.38 * rng.exponential(0.1, shape) ** 1.5),
    ("every fourth article", lambda rng, shape: _some(rng, shape, 0.25, 0.2, 0.6)),
    ("every eighth article", lambda rng, shape: _some(rng, shape, 0.125, 0.5, 0.9)),
)


def _some(
    rng: np.random.Generator, shape: tuple[int, int], share: float, low: float, high: float
) -> np.ndarray:
    return np.where(rng.random(shape) < share, rng.uniform(low, high, shape), 0.01)


def _sizes(
    rng: np.random.Generator, shape: tuple[int, int], spread: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return standard normal scores of the log sizes, and the sizes."""
    logs = rng.normal(MEAN, spread, shape)
    sizes = np.clip(np.exp(logs), 1, LONGEST).astype(int)
    return (np.log(sizes) - MEAN) / spread, sizes


def _hits(rng: np.random.Generator, sizes: np.ndarray, base: float, gain: np.ndarray) -> np.ndarray:
    """Return the hits of an arm less those of what it is compared with, per article."""
    arm = rng.binomial(sizes, np.clip(base + gain, 0, 1))
    return (arm - rng.binomial(sizes, base)).astype(np.float64)


def _truth(draw: Draw) -> float:
    sums, sizes = draw(np.random.default_rng(99), 1, MOST_DRAWN // 2)
    return float(sums.sum() / sizes.sum())


def of_articles(title: str, values: np.ndarray, articles: np.ndarray) -> Population:
    """Real articles, drawn with replacement."""
    _, place = np.unique(articles, return_inverse=True)
    sums, sizes = np.bincount(place, weights=values), np.bincount(place).astype(np.float64)

    def draw(rng: np.random.Generator, rounds: int, number: int) -> tuple[np.ndarray, np.ndarray]:
        picks = rng.integers(len(sizes), size=(rounds, number))
        return sums[picks], sizes[picks]

    with_size = np.corrcoef(sums / sizes, np.log(sizes))[0, 1]
    title = f"{title} ({len(sizes)} articles, correlation {with_size:+.2f})"
    return Population(title, draw, float(sums.sum() / sizes.sum()))


@dataclass(frozen=True)
class Misses:
    """Shares of splits whose interval missed the truth."""

    below: float  # the truth below the lower limit: a PASS that is none
    above: float  # the truth above the upper limit: a FAIL that is none
    above_by_rule: float  # of those, what the rule for skewed gains leaves
    below_before: float  # below, with G - 1 degrees of freedom
    degrees: float  # mean


def misses(population: Population, articles: int, *, rounds: int, seed: int = 0) -> Misses:
    """Draw splits of so many articles and count on which side the truth was missed."""
    rng, rounds = np.random.default_rng((seed, articles)), min(rounds, MOST_DRAWN // articles)
    sums, sizes = population.draw(rng, rounds, articles)
    value, error = sums.sum(axis=1) / sizes.sum(axis=1), cr2_error(sums, sizes)
    degrees = bell_mccaffrey(sizes)
    half_width = stdtrit(degrees, 1 - LEVEL) * error
    apart = sums / sizes - (sums / sizes).mean(axis=1, keepdims=True)
    spread = np.maximum(np.sqrt((apart**2).mean(axis=1)), 1e-12)
    doubled = (articles < FAIL_ARTICLES) & ((apart**3).mean(axis=1) / spread**3 >= SKEWED)
    truth = population.truth
    return Misses(
        below=float((value - half_width > truth).mean()),
        above=float((value + half_width < truth).mean()),
        above_by_rule=float((value + np.where(doubled, 2, 1) * half_width < truth).mean()),
        below_before=float((value - stdtrit(articles - 1, 1 - LEVEL) * error > truth).mean()),
        degrees=float(degrees.mean()),
    )


@dataclass(frozen=True)
class Promises:
    """What became of "N more articles"."""

    settled: float  # share of pilots where that many settled it
    fewest: float  # medians
    more: float
    most: float


def promises(
    population: Population,
    articles: int,
    *,
    distance: float,
    level: float,
    rounds: int,
    seed: int = 0,
) -> Promises:
    """Draw pilots, add the articles that each promises, and judge a gain `distance` over its bound.

    The gain is what the promise supposes it to be: the truth.
    """
    rng, bound = np.random.default_rng((seed, articles)), population.truth - distance
    kept, numbers = 0, []
    sums, sizes = population.draw(rng, rounds, articles)
    errors, degrees = cr2_error(sums, sizes), bell_mccaffrey(sizes)
    for i in range(rounds):
        outlook = more_for_a_chance(articles, errors[i], degrees[i], distance, level)
        if outlook is None:
            continue
        added = population.draw(rng, 1, outlook.articles)
        all_sums, all_sizes = (
            np.concatenate([first[i], later[0]])
            for first, later in zip((sums, sizes), added, strict=True)
        )
        reach = stdtrit(bell_mccaffrey(all_sizes), 1 - level) * cr2_error(all_sums, all_sizes)
        kept += bool(all_sums.sum() / all_sizes.sum() - reach >= bound)
        numbers.append((outlook.fewest, outlook.articles, outlook.most))
    fewest, more, most = np.median(numbers, axis=0)
    return Promises(settled=kept / len(numbers), fewest=fewest, more=more, most=most)


def seed_misses(
    num_seeds: int, of_seed: float, *, rounds: int, num_articles: int = 17, seed: int = 0
) -> tuple[int, int]:
    """Count misses of the interval over seeds and articles, and of the one of the first seed alone.

    `of_seed` is the standard deviation of the gain from seed to seed; that of an article is .08.
    """
    rng, both, first = np.random.default_rng(seed), 0, 0
    for _ in range(rounds):
        sizes = np.maximum(5, rng.lognormal(3.3, 0.6, num_articles)).astype(int)
        articles = np.repeat(np.arange(num_articles), sizes)
        level = rng.normal(0, of_seed, (num_seeds, 1)) + rng.normal(0, 0.08, num_articles)
        level = level + rng.normal(0, 0.03, level.shape)
        gains = level[:, articles] + rng.normal(0, 0.3, (num_seeds, len(articles)))
        got = mean_over_seeds(gains, articles, confidence=CONFIDENCE)
        both += not got.lower <= 0 <= got.upper
        alone = article_mean(gains[0], articles).estimate(CONFIDENCE)
        first += not alone.lower <= 0 <= alone.upper
    return both, first


def main() -> None:
    """Print the tables, and keep them when told to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"keep the output in {OUT}")
    parser.add_argument("--rounds", type=int, default=20_000, help="splits drawn per row")
    arguments = parser.parse_args()
    show(report(arguments.rounds), OUT / "coverage.md" if arguments.write else None)


def report(rounds: int) -> Iterator[str]:
    """Yield the report line by line."""
    yield from origin(
        "Coverage of the intervals",
        __doc__.splitlines()[0],
        f"python benchmarks/coverage.py --write --rounds {rounds}",
    )
    populations = [drawn(c, s) for s in (1.2, 1.4) for c in (-0.86, -0.4, 0.0)]
    yield from _intervals([*populations, *real_articles()], rounds)
    yield from _skewed(rounds)
    yield from _promises(populations[:3], rounds // 40)
    yield from _seeds(rounds // 20)


def real_articles() -> Iterator[Population]:
    """Yield gains of trivial predictors over each other: encyclopedia, verse and technical text."""
    yield from _gains_of("encyclopedia", load_sample())
    encoder = corpora.encoder()
    with tempfile.TemporaryDirectory() as folder:
        for title, kind in (("verse", corpora.verse), ("technical", corpora.documentation)):
            yield from _gains_of(title, corpora.embedded(kind, encoder, Path(folder) / title))


def _gains_of(kind: str, bank: Bank) -> Iterator[Population]:
    dataset, windows = dataset_from_bank(bank, 5), article_windows(bank.keys, 5)
    predictors = fit_ladder(dataset, seed=0)
    found = {
        name: evaluate(
            torch.from_numpy(predictors[name](windows)), windows, bank, space="raw", split="test"
        )[1]
        for name in ("copy_last", "weighted_mix", "mean_context")
    }
    for a, b in (("copy_last", "weighted_mix"), ("mean_context", "weighted_mix")):
        for metric in ("r_at_5", "mrr"):
            gains = values_of(found[a], metric) - values_of(found[b], metric)
            for sign, names in ((1, f"{a} - {b}"), (-1, f"{b} - {a}")):
                yield of_articles(f"{kind}: {names}, {metric}", sign * gains, windows.articles)


def _intervals(populations: list[Population], rounds: int) -> Iterator[str]:
    yield (
        f"95 % intervals of a gain, {rounds:,} splits a row (fewer of 200 articles); 2.5 % are "
        "wanted on each side, with a Monte-Carlo error of "
        f"{100 * np.sqrt(LEVEL * (1 - LEVEL) / rounds):.1f} points. `truth below` is the side of a "
        "false PASS; `with G - 1` has the same error and more degrees of freedom."
    )
    yield ""
    yield "| articles of | G | degrees | truth below | truth above | below, with G - 1 |"
    yield "|---|--:|--:|--:|--:|--:|"
    seen = []
    for population in populations:
        for articles in ARTICLES:
            found = misses(population, articles, rounds=rounds)
            seen += [found] if articles >= 10 else []
            shares = (found.below, found.above, found.below_before)
            cells = " | ".join(f"{100 * share:.1f} %" for share in shares)
            yield f"| {population.title} | {articles} | {found.degrees:.1f} | {cells} |"
    yield ""
    below = sorted(100 * found.below for found in seen)
    inside = sum(1.5 <= share <= 3.5 for share in below)
    yield (
        f"At 10 articles or more the truth lay below the lower limit in {below[0]:.1f} to "
        f"{below[-1]:.1f} %: in 1.5 to 3.5 % in {inside} of {len(below)} rows, in less in "
        f"{sum(share < 1.5 for share in below)}."
    )
    yield ""


def _skewed(rounds: int) -> Iterator[str]:
    yield "## Gains that few articles hold"
    yield ""
    yield (
        f"A FAIL on fewer than {FAIL_ARTICLES} articles whose gains have a skewness of {SKEWED:g} "
        "or more needs twice the half-width below the bound; the truth above that is a false FAIL."
    )
    yield ""
    yield "| gains | G | truth above | by the rule |"
    yield "|---|--:|--:|--:|"
    for title, gains in SKEWED_GAINS:
        population = skewed(title, gains)
        for articles in FEW:
            found = misses(population, articles, rounds=rounds)
            cells = f"{100 * found.above:.1f} % | {100 * found.above_by_rule:.1f} %"
            yield f"| {title} | {articles} | {cells} |"
    yield ""


def _promises(populations: list[Population], rounds: int) -> Iterator[str]:
    yield "## Does the promised number of articles settle it?"
    yield ""
    yield (
        f"{rounds} pilots a row; {100 * POWER:.0f} % are promised. The gain lies so far over its "
        "bound; the level is that of one look, or of one of six looks at two metrics. Numbers are "
        "medians."
    )
    yield ""
    yield "| articles of | G | over the bound | level | settled | more articles | range |"
    yield "|---|--:|--:|--:|--:|--:|--:|"
    for population in populations:
        for articles in (10, 17, 40):
            for distance, level in ((0.02, LEVEL), (0.04, LEVEL), (0.04, LEVEL / 12)):
                found = promises(
                    population, articles, distance=distance, level=level, rounds=rounds
                )
                about = f"{articles} | {distance:g} | {level:.4f} | {100 * found.settled:.0f} %"
                numbers = f"{found.more:,.0f} | {found.fewest:,.0f} to {found.most:,.0f}"
                yield f"| {population.title} | {about} | {numbers} |"
    yield ""


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
