"""How often is a model that lies on the front called above it, or below?

    python benchmarks/front.py [--write] [--rounds 400]

Predictions on the real articles of the bundled train split are moved by constants until their means
lie exactly on the front of the ladder. Then articles are drawn with replacement and each draw is
judged as a run judges a model. About a minute on one core; `--write` keeps the output in
reports/statistics/.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from keep import REPORTS, origin, show

from lvm.core.config.run import GateConfig
from lvm.core.randomness import numpy_generator
from lvm.core.records import Pool, Position
from lvm.data.sample import load_sample
from lvm.data.windows import Dataset, dataset_from_bank
from lvm.evaluation.front import front_position, solve
from lvm.evaluation.ladder import TrivialPredictor, fit_ladder, judge_ladder

OUT = REPORTS / "statistics" / "front.md"
CONTEXT_LENGTH = 5
ARTICLES = (8, 17, 40)
LEFT_OUT = ("oracle", "random", "ridge")  # ridge is fitted on these windows
CONFIG = GateConfig()


@dataclass(frozen=True)
class Scores:
    """What a gate reads of an evaluation, with R@5 as plain numbers that can be moved."""

    cosine: np.ndarray  # [M]
    hits: np.ndarray  # [M], R@5 of each window
    articles: np.ndarray  # [M]
    pool: Pool
    space: str = "raw"

    @property
    def reciprocal_rank(self) -> np.ndarray:
        """Not read in the raw space."""
        return self.hits

    def hit(self, k: int) -> np.ndarray:
        """Return R@5 of each window, the one k that is read."""
        return self.hits

    @property
    def place(self) -> np.ndarray:
        """Return mean cosine and R@5."""
        return np.array([self.cosine.mean(), self.hits.mean()])

    def moved(self, cosine: float, hits: float) -> Scores:
        """Return the scores with constants added."""
        return Scores(self.cosine + cosine, self.hits + hits, self.articles, self.pool)


def scores(dataset: Dataset, predictors: Mapping[str, TrivialPredictor]) -> dict[str, Scores]:
    """Return what predictors reach on every train window."""
    found: dict[str, Scores] = {}
    judge_ladder(
        predictors,
        dataset,
        "train",
        torch.device("cpu"),
        lambda name, q: found.__setitem__(
            name, Scores(q.cosine.astype(np.float64), q.hit(5), q.articles, q.pool)
        ),
    )
    return found


def models(dataset: Dataset, fitted: Mapping[str, TrivialPredictor]) -> dict[str, TrivialPredictor]:
    """Return predictors that err otherwise than the rungs do."""
    noise = numpy_generator(0, "front", "noise")
    shape = len(dataset.train), dataset.bank.width
    shaken = 0.03 * noise.standard_normal(shape).astype(np.float32)
    near = fitted["mix_plus_0.2_last"]
    return {
        "a part of ridge": lambda w: near(w) + 0.5 * fitted["ridge"](w),
        "noise": lambda w: near(w) + shaken,
        "mean_context": fitted["mean_context"],
    }


def places(rungs: Mapping[str, Scores]) -> dict[str, np.ndarray]:
    """Return points of the front, and one beside each of its ends."""
    mix, some, last = (
        rungs[n].place for n in ("weighted_mix", "mix_plus_0.2_last", "mix_plus_0.8_last")
    )
    return {
        "best cosine": mix,
        "between": some,
        "best R@5": last,
        "same cosine, less R@5": mix - [0, 0.02],
        "same R@5, less cosine": last - [0.02, 0],
    }


def onto(model: Scores, rungs: Mapping[str, Scores], place: np.ndarray) -> Scores:
    """Return a model moved to a place, and from there onto the edge of what the rungs reach."""
    there = model.moved(*(place - model.place))
    distance = solve(there.place - np.array([rung.place for rung in rungs.values()])).value
    return there.moved(-distance, -distance)


def drawn(found: Scores, chosen: np.ndarray, rows: Mapping[int, np.ndarray]) -> Scores:
    """Return the windows of some articles; one that was drawn twice counts as two."""
    places = np.concatenate([rows[article] for article in chosen])
    articles = np.repeat(np.arange(len(chosen)), [len(rows[article]) for article in chosen])
    return Scores(found.cosine[places], found.hits[places], articles, found.pool)


def positions(
    model: Scores, rungs: Mapping[str, Scores], num_articles: int, rounds: int
) -> Counter[Position]:
    """Count the positions of a model over draws of articles."""
    known = np.unique(model.articles)
    rows = {article: np.flatnonzero(model.articles == article) for article in known}
    draw = numpy_generator(num_articles, "front", "articles")
    counts: Counter[Position] = Counter()
    for _ in range(rounds):
        chosen = draw.choice(known, num_articles)
        beside = {name: drawn(rung, chosen, rows) for name, rung in rungs.items()}
        counts[front_position(drawn(model, chosen, rows), beside, CONFIG).position] += 1
    return counts


def report(rounds: int) -> Iterator[str]:
    """Yield the report line by line."""
    command = f"python benchmarks/front.py --write --rounds {rounds}"
    yield from origin("Positions of models on the front", __doc__.splitlines()[0], command)
    dataset = dataset_from_bank(load_sample(), CONTEXT_LENGTH)
    fitted = fit_ladder(dataset, seed=0, ridge_strength=1.0)
    rungs = scores(dataset, {n: p for n, p in fitted.items() if n not in LEFT_OUT})
    known = len(np.unique(dataset.train.articles))
    error = 100 * np.sqrt(0.025 * 0.975 / rounds)
    yield (
        f"{rounds} draws a row of the {known} train articles of the bundled sample; 2.5 % is "
        f"wanted on each side, with a Monte-Carlo error of {error:.1f} points. `less` is .02: "
        "there `below` would be right, and is seldom seen, for so small a loss may be a trade."
    )
    yield ""
    yield "| model | moved to | articles | above, % | on, % | below, % |"
    yield "|---|---|--:|--:|--:|--:|"
    for name, model in scores(dataset, models(dataset, fitted)).items():
        for where, place in places(rungs).items():
            there = onto(model, rungs, place)
            for num_articles in ARTICLES:
                counts = positions(there, rungs, num_articles, rounds)
                cells = [f"{100 * counts[p] / rounds:.1f}" for p in tuple(Position)[:3]]
                yield f"| {name} | {where} | {num_articles} | {' | '.join(cells)} |"


def main() -> None:
    """Print the table, and keep it when told to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"keep the output in {OUT}")
    parser.add_argument("--rounds", type=int, default=400, help="draws of articles per row")
    arguments = parser.parse_args()
    show(report(arguments.rounds), OUT if arguments.write else None)


if __name__ == "__main__":
    main()
