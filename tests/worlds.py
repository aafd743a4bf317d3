"""Planted worlds: banks with a known best predictor, on which a known recipe fails and is fixed.

A row is a unit vector that, but for one rotation of all axes, has three parts:

    topic   3 axes, most of the length: a corner of a tetrahedron, shared by a quarter of all rows
    key    16 axes, a third of the squared length: a direction that tells rows apart
    quiet  13 axes, short: fresh noise in every row

From one chunk to the next the topic stays with probability 5/8 (else it is one of the others), the
key is turned by one fixed rotation with a little noise, or with probability 1/4 drawn anew, and
the quiet part is drawn anew. Only the last context vector matters, and nothing can find the
quarter of the targets whose key is new.

What the best predictors are. Cosine asks for E[next | context]: half the topic and three quarters
of the turned key. The topic is so long that its half still outweighs the key: all rows of the
expected topic come before a target that changed its topic. Only targets that kept topic and key
are found, 5/8 * 3/4 = .47. A softmax over negatives at a healthy temperature punishes what raises
the score of many rows alike, so it shrinks the topic and keeps the key: .75 can be found, at a
lower cosine (about .4). `planted` measures both predictors by construction.

What the wrong recipes do in it:

    head only    the head learns to weigh the topic down, for predictions and targets alike. The
                 raw prediction need not, so the raw search finds no more than AR-only. Searched
                 behind the head, or trained in the raw space, the key decides.
    tau .005     so sharp a softmax costs a miss its distance to the hardest negative, two hundred
                 times over. Targets with a new key are all misses, and their cost falls with the
                 spread of the scores: predictions turn into the quiet axes, where all scores are
                 nearly equal (84 % of their squared length lies there, 7 % at tau .07), and quiet
                 noise drowns what is left of the key. No axis may be free of variance: a network
                 hides there at no cost, and finds the target as well as at tau .07.
    weight .02   the gradient of InfoNCE is about 1 / tau = 14 times that of the cosine, so .02
                 counts as .29 against .98: the topic shrinks, but still outweighs the key. No
                 temperature from .05 to .15 changes that, for .02 then counts as .13 to .4.

`drifting` has one part alone: each chunk is the last one with a little noise, in 32 axes. To copy
is best, and a network can learn it unless it is narrower than the rows:

    width 4      the network sees 4 of 32 axes of its context, under every objective. A residual, or
                 a network as wide as the rows, lets the context through.

`without_signal` has the same parts, with one topic per article and every key new: the cosine of a
prediction can be high, and no predictor finds its target among the rows of the topic.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from lvm.core.config.recipe import HeadConfig, ModelConfig, Recipe, TrainingConfig
from lvm.core.config.run import RunConfig, ScheduleConfig
from lvm.core.randomness import numpy_generator
from lvm.data.bank import Bank
from lvm.data.windows import Dataset, Windows, dataset_from_bank

ARTICLES, CHUNKS, CONTEXT = 120, 30, 5
TOPIC, KEY, QUIET = 3, 16, 13  # axes of each part
WIDTH = TOPIC + KEY + QUIET
KEY_SHARE = 0.33  # of the squared length of topic and key
QUIET_LENGTH = 0.15  # beside a topic and key of length 1
KEY_NOISE = 0.1  # length of the noise that a turn adds to a unit key
DRIFT = 0.6  # length of the noise between two rows of a drifting article
KEEP_TOPIC, NEW_KEY = 0.5, 0.25  # a topic that is not kept is drawn from all four
TETRAHEDRON = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / 3**0.5


@dataclass(frozen=True, eq=False)
class World:
    """A dataset, and what made it."""

    dataset: Dataset
    axes: np.ndarray  # [D, D] orthogonal: row = parts @ axes
    turn: np.ndarray  # [KEY, KEY] orthogonal: next key = turn @ key
    keep_topic: float
    new_key: float

    def expected(self, windows: Windows) -> Float[np.ndarray, "M D"]:
        """Return the direction of E[next | context], the best prediction by cosine."""
        topic, key = self._last(windows)
        return self._row(self.keep_topic * topic, (1 - self.new_key) * key @ self.turn.T)

    def key_alone(self, windows: Windows) -> Float[np.ndarray, "M D"]:
        """Return the turned key without the topic, the best prediction for a search."""
        topic, key = self._last(windows)
        return self._row(0 * topic, key @ self.turn.T)

    def shares(self, rows: Float[np.ndarray, "M D"]) -> Float[np.ndarray, " parts"]:
        """Return the mean share of topic, key and quiet in the squared length of unit rows."""
        squared = (rows @ self.axes.T) ** 2
        parts = np.split(squared, [TOPIC, TOPIC + KEY], axis=1)
        return np.array([part.sum(axis=1).mean() for part in parts])

    def _last(self, windows: Windows) -> tuple[np.ndarray, np.ndarray]:
        parts = self.dataset.bank.rows(windows.contexts[:, -1]) @ self.axes.T
        return parts[:, :TOPIC], parts[:, TOPIC : TOPIC + KEY]

    def _row(self, topic: np.ndarray, key: np.ndarray) -> np.ndarray:
        rows = np.hstack([topic, key, np.zeros((len(key), QUIET))]) @ self.axes
        unit: np.ndarray = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
        return unit


def planted(seed: int) -> World:
    """Return the world in which contrast, taken in the space of the search, is what helps."""
    return _world(seed, keep_topic=KEEP_TOPIC, new_key=NEW_KEY)


def drifting(seed: int) -> World:
    """Return the world in which the last vector, passed on as it is, is the best prediction."""
    rng = numpy_generator(seed, "drifting world")
    row, chunks = _unit(rng.standard_normal((ARTICLES, WIDTH))), []
    for _ in range(CHUNKS):
        chunks.append(row)
        row = _unit(row + DRIFT * rng.standard_normal(row.shape) / WIDTH**0.5)
    return World(_dataset(chunks), np.eye(WIDTH), np.eye(KEY), keep_topic=1.0, new_key=0.0)


def without_signal(seed: int) -> World:
    """Return the world whose next vector is independent of the context given the topic."""
    return _world(seed, keep_topic=1.0, new_key=1.0)


def base_config(seed: int = 0) -> RunConfig:
    """Return a run of seconds per training, with the report's gates.

    The first rung is epoch 4: an epoch is 16 updates here, and before the topic has been learned
    and suppressed the cosine only says who learned the topic first.
    """
    return RunConfig(
        recipe=Recipe(
            model=ModelConfig(hidden=40, num_layers=1, state=8, head_dim=16),
            head=HeadConfig(hidden=64, width=32),
            training=TrainingConfig(epochs=8, batch_size=128, learning_rate=5e-3),
            context_length=CONTEXT,
            seed=seed,
        ),
        schedule=ScheduleConfig(first_rung=4, confirm_workers=1),
    )


def _world(seed: int, *, keep_topic: float, new_key: float) -> World:
    rng = numpy_generator(seed, "planted world")
    axes, turn = (np.linalg.qr(rng.standard_normal((n, n)))[0] for n in (WIDTH, KEY))
    topic = rng.integers(len(TETRAHEDRON), size=ARTICLES)
    key = _unit(rng.standard_normal((ARTICLES, KEY)))
    chunks = []
    for _ in range(CHUNKS):  # all articles take a step together
        quiet = QUIET_LENGTH * rng.standard_normal((ARTICLES, QUIET)) / QUIET**0.5
        topic_part = (1 - KEY_SHARE) ** 0.5 * TETRAHEDRON[topic]
        chunks.append(_unit(np.hstack([topic_part, KEY_SHARE**0.5 * key, quiet]) @ axes))
        kept = rng.random(ARTICLES) < keep_topic
        topic = np.where(kept, topic, rng.integers(len(TETRAHEDRON), size=ARTICLES))
        turned = _unit(key @ turn.T + KEY_NOISE * rng.standard_normal(key.shape) / KEY**0.5)
        renewed = rng.random((ARTICLES, 1)) < new_key
        key = np.where(renewed, _unit(rng.standard_normal(key.shape)), turned)
    return World(_dataset(chunks), axes, turn, keep_topic, new_key)


def _dataset(chunks: list[np.ndarray]) -> Dataset:
    """Return the windows of articles whose chunks are given step by step, each [ARTICLES, D]."""
    vectors = np.stack(chunks, axis=1).reshape(-1, WIDTH).astype(np.float32)
    keys = np.stack(np.divmod(np.arange(len(vectors)), CHUNKS), axis=1).astype(np.int32)
    return dataset_from_bank(Bank(vectors, keys), CONTEXT)


def _unit(rows: np.ndarray) -> np.ndarray:
    unit: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit
