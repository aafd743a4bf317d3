"""The bench on which gates are tried before any training: windows, a pool and predictors known.

An oracle has to pass every gate, random rows and shuffled pairs have to fail it, and the ladder
says what a gate is worth. All is measured on a sample of windows, drawn article by article, so that
it takes seconds at any size of the data.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from lvm.audit.location import unit
from lvm.audit.material import Material, once
from lvm.audit.ranking import Placed, PoolRows
from lvm.audit.samples import Sample, draw_samples, sample_by_article
from lvm.core.config.run import GateConfig
from lvm.core.randomness import numpy_generator
from lvm.core.records import GateResult, Pool
from lvm.data.rows import take
from lvm.data.windows import Windows
from lvm.evaluation.gates import stage_gate, success_gates
from lvm.evaluation.measured import improvement
from lvm.evaluation.metrics import PerQuery, Ranks, summarise

TRIVIAL = ("constant", "copy_last", "mean_context", "weighted_mix", "ridge")  # rising by effort
BLIND = ("random", "shuffled")  # know nothing of the window that they are judged on
# Additions and multiplications of one pass over the pool, some 8 and 4 seconds on two cores.
RANKING_WORK = {False: 9e11, True: 3e11}  # True: quick
NUM_RANKED = (64, 512)  # fewest and most windows that are ranked

Judge = Callable[[Float[np.ndarray, "M D"], Windows], Sequence[GateResult]]


@dataclass(frozen=True, kw_only=True)
class GateUnderTest:
    """A gate of the run, and how it judges M predictions for M windows.

    A gate with several metrics passes by one of them.
    """

    name: str
    metric: str
    bound: float
    split: str  # "dev" or "test"
    judge: Judge
    bounds: str  # in words
    perfect: Mapping[str, float]  # metric -> what a right gate measures for the oracle
    against: str = ""  # the predictor that a gain is measured from


@dataclass(frozen=True, eq=False)
class Bench:
    """Windows of both splits, what each predictor says of them, and the pool they are ranked in."""

    dev: Sample  # the stage gate's
    test: Sample  # the success gate's: the part that is ranked
    cosines: Sample  # of the test split, more windows
    rows: PoolRows
    mask: str
    config: GateConfig
    seed: int

    @functools.cached_property
    def pool(self) -> Pool:
        """The pool, as reported with every number."""
        return Pool(id=self.rows.bank.fingerprint, size=len(self.rows), mask=self.mask)

    def sample(self, split: str) -> Sample:
        """Return the windows on which a gate of the run is judged."""
        return {"dev": self.dev, "test": self.test}[split]

    def cosine(self, predictions: Float[np.ndarray, "M D"], windows: Windows) -> PerQuery:
        """Measure cosines alone; every rank is unknown."""
        targets = np.nan_to_num(unit(take(self.rows.bank.vectors, windows.targets)))
        none = np.zeros(len(windows), dtype=np.int64)
        return PerQuery(
            cosine=np.einsum("md,md->m", predictions, targets),
            masked=Ranks(none, none, none),
            raw=Ranks(none, none, none),
            articles=windows.articles,
            space="raw",
            pool=self.pool,
        )

    def measure(self, predictions: Float[np.ndarray, "M D"], windows: Windows) -> PerQuery:
        """Measure cosines and ranks under the run's mask."""
        return self._per_query(predictions, windows, self.rows.place(predictions, windows))

    @functools.cached_property
    def ranked(self) -> dict[str, tuple[PerQuery, Placed]]:
        """Every predictor on the test sample, by name, ranked in one pass over the pool."""
        predictions, windows = self.test.predictions, self.test.windows
        count = len(windows)
        repeated = windows.select(np.tile(np.arange(count), len(predictions)))
        placed = self.rows.place(np.concatenate(list(predictions.values())), repeated)
        found = {}
        for i, (name, rows) in enumerate(predictions.items()):
            part = placed.part(slice(i * count, (i + 1) * count))
            found[name] = (self._per_query(rows, windows, part), part)
        return found

    def known(self, predictions: Float[np.ndarray, "M D"], windows: Windows) -> PerQuery:
        """Measure as `measure`, from what is already ranked where these are the bench's own."""
        if windows is self.test.windows:
            for name, rows in self.test.predictions.items():
                if rows is predictions:
                    return self.ranked[name][0]
        return self.measure(predictions, windows)

    def ladder(self) -> dict[str, dict[str, float | None]]:
        """Return the metrics of the ladder under the run's mask, by predictor."""
        found = {}
        for name in (*TRIVIAL, "random", "oracle"):
            metrics, _ = summarise(self.ranked[name][0])
            cosine = self.cosine(self.cosines.predictions[name], self.cosines.windows).cosine
            found[name] = {**metrics, "eval_cosine": float(cosine.mean(dtype=np.float64))}
        return found

    def gates(self) -> list[GateUnderTest]:
        """Return the gates of the run. No AR-only model exists yet: a gain is over `constant`."""
        config, seed, bounds = self.config, self.seed, self.config.success_bounds
        constant, oracle = self.ranked["constant"][0], self.ranked["oracle"][0]

        def stage(predictions: np.ndarray, windows: Windows) -> list[GateResult]:
            return [stage_gate(self.cosine(predictions, windows), config)]

        def success(predictions: np.ndarray, windows: Windows) -> list[GateResult]:
            return success_gates(self.known(predictions, windows), constant, config, seed)[1]

        return [
            GateUnderTest(
                name="stage",
                metric="eval_cosine",
                bound=config.stage_eval_cosine,
                bounds=f"eval_cosine >= {config.stage_eval_cosine:g}",
                split="dev",
                judge=stage,
                perfect={"eval_cosine": 1.0},
            ),
            GateUnderTest(
                name="success",
                metric=" or ".join(bounds),
                bound=next(iter(bounds.values())),
                bounds="a gain " + " or ".join(f"in {m} >= {b:g}" for m, b in bounds.items()),
                split="test",
                judge=success,
                perfect={
                    m: float(np.subtract(*improvement(oracle, constant, m)).mean()) for m in bounds
                },
                against="constant",
            ),
        ]

    def _per_query(
        self, predictions: Float[np.ndarray, "M D"], windows: Windows, placed: Placed
    ) -> PerQuery:
        return PerQuery(
            cosine=self.cosine(predictions, windows).cosine,
            masked=placed.raw if self.mask == "none" else placed.masked,
            raw=placed.raw,
            articles=windows.articles,
            space="raw",
            pool=self.pool,
        )


@once
def ladder(material: Material) -> dict[str, dict[str, float | None]]:
    """Return the ladder on a sample of eval windows: predictor -> metrics; NotEvaluable as bench.

    The cosine is over up to 512 windows, ranks over fewer where the pool is large.
    """
    return bench(material).ladder()


@once
def bench(material: Material) -> Bench:
    """Return the bench of a material; NotEvaluable without windows in a bank."""
    bank, samples = draw_samples(material)
    test = samples["test"]
    places = len(bank.pool_rows) * len(test.predictions)
    count = int(np.clip(RANKING_WORK[material.quick] / (2 * bank.width * places), *NUM_RANKED))
    generator = numpy_generator(material.seed, "self-test", "ranked")
    return Bench(
        dev=samples["dev"],
        test=test.select(sample_by_article(test.windows.articles, count, generator)),
        cosines=test,
        rows=PoolRows(bank, bank.duplicate_group),
        mask=material.mask,
        config=material.gates,
        seed=material.seed,
    )
