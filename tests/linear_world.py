"""A linear world: x_next = normalise(A x + noise), whose best prediction by cosine is known.

A row is a unit vector of 32 axes. But for one rotation of all axes, A turns 5 strong axes by one
rotation at full length, and 27 weak axes by another at .64 of it; the noise is isotropic, of length
about .7. So the strong axes change little along an article, and a sixth of all axes holds half of
what can be told of the next vector.

The best prediction by cosine is normalise(A x), x the last context vector. The chain is Markov, so
earlier vectors add nothing. Write m = A x and n for the noise:

    direction   a rotation R about m leaves m as it is, and R n is as likely as n. So R turns the
                law of y = (m + n) / |m + n| into itself, and E[y | x], which every such R leaves as
                it is, lies along m. That holds after the normalisation too.
    sign        let n have a along m and b across it; -a is as likely. The two cosines of y to m are
                t / sqrt(t^2 + b^2) at t = |m| + a and t = |m| - a, a rising odd function of t, and
                |m| + a > -(|m| - a), so their sum is above 0.

The mean cosine of a unit prediction p is p . E[y | x], largest at p = normalise(m): about .75 here.
Of the ladder, ridge comes within 1 or 2 % of it, for the world is linear, and so does AR-only; the
other rungs stay below .4, and copying the last vector below 0.

What is best by cosine is not best to search with. The strong axes are few, so that many rows of the
bank agree in them, and they outweigh the weak ones, which tell those rows apart. Shrunk by a
quarter (`shrunk`) they cost 1 % of the optimum's cosine, and R@5 and MRR rise by .05 and .065; by
half, 5 %, .055 and .08. That is the room in which contrast can gain over AR-only, which tends to
the optimum itself. The report's objective in the raw space, weights .7 and .3 and temperature .07,
settles between the two.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from lvm.core.config.recipe import HeadConfig, ModelConfig, ObjectiveConfig, Recipe, TrainingConfig
from lvm.core.config.run import RunConfig, ScheduleConfig
from lvm.core.randomness import numpy_generator
from lvm.data.bank import Bank
from lvm.data.windows import Dataset, Windows, dataset_from_bank

ARTICLES, CHUNKS, CONTEXT = 480, 25, 5
STRONG, WEAK = 5, 27  # axes of each part
WIDTH = STRONG + WEAK
WEAK_GAIN = 0.64  # length that A leaves to a vector of the weak axes; 1 to one of the strong
NOISE = 0.5**0.5  # root mean square length of the noise
BURN_IN = 40  # steps after which nothing is left of how an article began


@dataclass(frozen=True, eq=False)
class LinearWorld:
    """A dataset, and the process that made it."""

    dataset: Dataset
    axes: np.ndarray  # [D, D] orthogonal, the strong axes first
    transition: np.ndarray  # [D, D], A

    def optimum(self, windows: Windows) -> Float[np.ndarray, "M D"]:
        """Return normalise(A x) of the last context vector, the best prediction by cosine."""
        return self.shrunk(windows, 1.0)

    def shrunk(self, windows: Windows, share: float) -> Float[np.ndarray, "M D"]:
        """Return the optimum with its strong axes shrunk to a share of their length."""
        parts = self._last(windows) @ self.transition.T @ self.axes
        parts[:, :STRONG] *= share
        return _unit(parts @ self.axes.T).astype(np.float32)

    def cosine(self, predictions: Float[np.ndarray, "M D"], windows: Windows) -> float:
        """Return the mean cosine of unit predictions to the targets."""
        targets = self.dataset.bank.rows(windows.targets)
        return float(np.einsum("md,md->m", predictions, targets).mean(dtype=np.float64))

    def step(
        self, rows: Float[np.ndarray, "M D"], rng: np.random.Generator
    ) -> Float[np.ndarray, "M D"]:
        """Return a draw of the vectors that follow unit rows."""
        return _step(self.transition, rows, rng)

    def _last(self, windows: Windows) -> Float[np.ndarray, "M D"]:
        return self.dataset.bank.rows(windows.contexts[:, -1]).astype(np.float64)


def linear(seed: int) -> LinearWorld:
    """Return the world of a seed: its own A, and chains drawn from it."""
    rng = numpy_generator(seed, "linear world")
    axes, strong, weak = (_rotation(n, rng) for n in (WIDTH, STRONG, WEAK))
    turn = np.zeros((WIDTH, WIDTH))
    turn[:STRONG, :STRONG], turn[STRONG:, STRONG:] = strong, WEAK_GAIN * weak
    transition = axes @ turn @ axes.T
    rows = _unit(rng.standard_normal((ARTICLES, WIDTH)))
    chunks = []
    for _ in range(BURN_IN + CHUNKS):  # all articles take a step together
        rows = _step(transition, rows, rng)
        chunks.append(rows)
    vectors = np.stack(chunks[BURN_IN:], axis=1).reshape(-1, WIDTH).astype(np.float32)
    keys = np.stack(np.divmod(np.arange(len(vectors)), CHUNKS), axis=1).astype(np.int32)
    return LinearWorld(dataset_from_bank(Bank(vectors, keys), CONTEXT), axes, transition)


def base_config(seed: int = 0) -> RunConfig:
    """Return a run of seconds per training: the report's objective in the raw space, its gates."""
    return RunConfig(
        recipe=Recipe(
            model=ModelConfig(hidden=40, num_layers=1, state=8, head_dim=16),
            head=HeadConfig(hidden=64, width=32),
            objective=ObjectiveConfig(space="raw"),
            training=TrainingConfig(epochs=8, batch_size=128, learning_rate=5e-3),
            context_length=CONTEXT,
            seed=seed,
        ),
        schedule=ScheduleConfig(first_rung=4, confirm_workers=1),
    )


def _step(transition: np.ndarray, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    noise = NOISE * rng.standard_normal(rows.shape) / WIDTH**0.5
    return _unit(rows @ transition.T + noise)


def _rotation(size: int, rng: np.random.Generator) -> np.ndarray:
    turn: np.ndarray = np.linalg.qr(rng.standard_normal((size, size)))[0]
    return turn


def _unit(rows: np.ndarray) -> np.ndarray:
    unit: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit
