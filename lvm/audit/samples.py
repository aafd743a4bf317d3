"""Windows that gates are tried on, and what trivial predictors say of them.

Everything that predictors read is gathered into one small bank of its own, so that a ladder is
fitted in seconds whatever the size of the data, and whether or not train windows lie in the bank.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from lvm.audit.coherence import coherence
from lvm.audit.finding import NotEvaluable
from lvm.audit.location import unit
from lvm.audit.material import Material
from lvm.core.randomness import numpy_generator
from lvm.data.bank import Bank
from lvm.data.rows import take
from lvm.data.windows import Dataset, Windows, drawn
from lvm.evaluation.ladder import fit_ladder

NUM_TRAIN = 8000  # windows that the ladder is fitted on
NUM_EVAL = 512  # windows of a split that are looked at
MIN_TRAIN = 30
MIN_ARTICLES = 3
SPREAD_OVER = 32  # articles that a sample touches where there are as many
RIDGE_STRENGTH = 1.0  # more than on a whole train split: the sample is small for T * D columns


@dataclass(frozen=True, eq=False)
class Split:
    """All windows of a split as row ids of the bank, and their places in the eval side."""

    windows: Windows
    places: Int[np.ndarray, " M"]


@dataclass(frozen=True, eq=False)
class Sample:
    """Windows of a split that are looked at, and the unit predictions of each predictor."""

    windows: Windows  # row ids of the bank
    places: Int[np.ndarray, " m"]  # in the eval side
    sizes: Int[np.ndarray, " G"]  # windows per article of the whole split
    predictions: dict[str, Float[np.ndarray, "m D"]]

    def select(self, index: Int[np.ndarray, " k"]) -> Sample:
        """Return a part of the sample."""
        predictions = {name: rows[index] for name, rows in self.predictions.items()}
        return Sample(self.windows.select(index), self.places[index], self.sizes, predictions)


def draw_samples(material: Material) -> tuple[Bank, dict[str, Sample]]:
    """Return the bank and the samples of "dev" and "test" with the predictions of the ladder.

    Further predictors are "shuffled" (the last context of a window of another article) and, where
    the material has some, "predictions". Files know one eval side, which then serves as both
    splits. Raises NotEvaluable when too few windows lie in the bank.
    """
    bank, splits = _splits(material)
    train = _train_sequences(material)
    chosen = {name: _choose(bank, split, material.seed) for name, split in splits.items()}
    said = _predictions(train, [sequences for _, sequences in chosen.values()], material.seed)
    samples = {}
    for (name, split), (rows, _), predictions in zip(
        splits.items(), chosen.values(), said, strict=True
    ):
        windows = split.windows.select(rows)
        partner = other_article(windows.articles, numpy_generator(material.seed, "shuffled"))
        predictions["shuffled"] = predictions["copy_last"][partner]
        sizes = np.unique(split.windows.articles, return_counts=True)[1]
        samples[name] = Sample(windows, split.places[rows], sizes, predictions)
    _add_given(material, bank, samples["test"])
    return bank, samples


def sample_by_article(
    articles: Int[np.ndarray, " M"], limit: int, generator: np.random.Generator
) -> Int[np.ndarray, " m"]:
    """Return at most `limit` places, whole articles where these leave room for 32 of them."""
    if len(articles) <= limit:
        return np.arange(len(articles))
    unique = generator.permutation(np.unique(articles))
    per_article = max(1, limit // min(len(unique), SPREAD_OVER))
    taken: list[np.ndarray] = []
    left = limit
    for article in unique:
        rows = generator.permutation(np.flatnonzero(articles == article))
        taken.append(rows[: min(per_article, left)])
        left -= len(taken[-1])
        if left == 0:
            break
    return np.sort(np.concatenate(taken))


def other_article(
    articles: Int[np.ndarray, " m"], generator: np.random.Generator
) -> Int[np.ndarray, " m"]:
    """Return for every window a random one of another article; there are two articles or more."""
    partner = np.empty(len(articles), dtype=np.int64)
    for article in np.unique(articles):
        mine = articles == article
        partner[mine] = generator.choice(np.flatnonzero(~mine), int(mine.sum()))
    return partner


def _splits(material: Material) -> tuple[Bank, dict[str, Split]]:
    if material.dataset is not None:
        dataset = drawn(material.dataset, material.gates.dev_windows, material.seed)
        return dataset.bank, {
            name: Split(windows, np.arange(len(windows)))
            for name, windows in (("dev", dataset.dev), ("test", dataset.test))
        }
    located = coherence(material, "eval").located
    if located is None:
        raise NotEvaluable(
            "the eval windows cannot be looked up in a bank", "give --payload, or fix its SCHEMA"
        )
    whole = np.flatnonzero(located.found.all(axis=1))
    rows = located.places[whole]
    articles = located.keys[whole, -1, 0].astype(np.int64)
    split = Split(Windows(rows[:, :-1], rows[:, -1], articles), located.rows[whole])
    return material.pool, {"dev": split, "test": split}


def _train_sequences(material: Material) -> Float[np.ndarray, "m S D"]:
    """Return a sample of train sequences, contexts and target, as unit vectors."""
    if material.dataset is not None:
        bank, windows = material.dataset.bank, material.dataset.train
        chosen = material.sample(len(windows), NUM_TRAIN, "self-test", "train")
        rows = take(bank.vectors, np.column_stack([windows.contexts, windows.targets])[chosen])
    else:
        side = material.side("train")
        chosen = material.sample(len(side), NUM_TRAIN, "self-test", "train")
        rows = np.concatenate([side.contexts(chosen), side.targets(chosen)[:, None]], axis=1)
    sequences: np.ndarray = unit(rows)
    sequences = sequences[np.isfinite(sequences).all(axis=(1, 2))]
    if len(sequences) < MIN_TRAIN:
        raise NotEvaluable(
            f"{len(sequences)} train windows are usable (need {MIN_TRAIN} to fit the ladder)",
            "give more train windows",
        )
    return sequences


def _choose(
    bank: Bank, split: Split, seed: int
) -> tuple[Int[np.ndarray, " m"], Float[np.ndarray, "m S D"]]:
    """Return the windows to look at and their vectors; those that are no vectors are left out."""
    windows = split.windows
    rows = sample_by_article(windows.articles, NUM_EVAL, numpy_generator(seed, "self-test", "eval"))
    sequences = unit(take(bank.vectors, np.column_stack([windows.contexts, windows.targets])[rows]))
    good = np.isfinite(sequences).all(axis=(1, 2))
    articles = len(np.unique(windows.articles[rows[good]]))
    if articles < MIN_ARTICLES:
        raise NotEvaluable(
            f"{int(good.sum())} eval windows of {articles} articles are in the bank (need "
            f"{MIN_ARTICLES} articles)",
            "give a bank (--payload) that holds the contexts and targets of the eval windows",
        )
    return rows[good], sequences[good]


def _predictions(
    train: Float[np.ndarray, "m S D"], parts: list[Float[np.ndarray, "n S D"]], seed: int
) -> list[dict[str, Float[np.ndarray, "n D"]]]:
    """Fit the ladder on train sequences; return what it predicts for each part."""
    span, width = train.shape[1:]
    sequences = np.concatenate([train, *parts])
    ids = np.arange(len(sequences) * span).reshape(-1, span)
    vectors = sequences.reshape(-1, width)
    keys = np.column_stack([np.repeat(ids[:, 0], span), np.tile(np.arange(span), len(ids))])
    bounds = np.cumsum([0, len(train), *map(len, parts)])
    windows = [
        Windows(ids[a:b, :-1], ids[a:b, -1], ids[a:b, 0]) for a, b in itertools.pairwise(bounds)
    ]
    dataset = Dataset(Bank(vectors, keys), windows[0], windows[1], windows[-1])
    predictors = fit_ladder(dataset, seed=seed, ridge_strength=RIDGE_STRENGTH)
    return [{name: predict(part) for name, predict in predictors.items()} for part in windows[1:]]


def _add_given(material: Material, bank: Bank, test: Sample) -> None:
    """Add the user's predictions to the ladder if there is one per eval window."""
    given = material.predictions
    if material.dataset is not None:
        expected = len(material.dataset.test)
    else:
        expected = len(material.side("eval"))
    if given is not None and tuple(given.shape) == (expected, bank.width):
        test.predictions["predictions"] = unit(given[test.places].cpu().float().numpy())
