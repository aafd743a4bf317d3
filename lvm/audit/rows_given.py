"""A file of predictions row by row: each prediction with the window that it is said to belong to.

The checks that look for damage in part of a file need every row in its place, not a random sample.
A file of more rows is looked at in runs of neighbours, spread evenly over it.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import stdtrit  # type: ignore[import-untyped]  # scipy has no stubs

from lvm.audit.coherence import MIN_WINDOWS, ROWS_PER_CLUSTER, Level, level, partners
from lvm.audit.finding import NotEvaluable
from lvm.audit.location import unit
from lvm.audit.material import Material, Side, once
from lvm.audit.queries import queries

MOST_ROWS = 8192
CHANCE = 3e-5  # of a level that is clear though there is nothing: hundreds are looked at
RUN = 64  # neighbours that are kept together where not all rows are looked at


@dataclass(frozen=True, eq=False)
class GivenRows:
    """Rows of a file of predictions, in its order, beside what the eval side has in these rows."""

    total: int  # M, rows of the file
    rows: Int[np.ndarray, " m"]  # rising
    predictions: Float[np.ndarray, "m D"]  # unit rows
    targets: Float[np.ndarray, "m D"]
    contexts: Float[np.ndarray, "m T D"]
    articles: Int[np.ndarray, " m"]  # as the keys state them, else stretches of the file

    def at(self, rows: Int[np.ndarray, " k"]) -> Int[np.ndarray, " k"]:
        """Return the places of rows of the file among those looked at, -1 for the others."""
        place = np.searchsorted(self.rows, rows).clip(max=len(self.rows) - 1)
        return np.where(self.rows[place] == rows, place, -1)

    def of(self, values: Float[np.ndarray, " k"], which: np.ndarray | None = None) -> Level:
        """Return the mean of one value per row, with its error over articles."""
        return level(values, self.articles if which is None else self.articles[which])

    @functools.cached_property
    def partner(self) -> Int[np.ndarray, " m"]:
        """For every row another one, of another article wherever there is one."""
        return partners(self.articles)

    @functools.cached_property
    def parts(self) -> tuple[Float[np.ndarray, "m D"], ...]:
        """Predictions, targets and mean contexts less their means, as unit rows.

        What all rows share says nothing of where a row belongs.
        """
        means = self.contexts.mean(axis=1)
        return tuple(
            np.nan_to_num(unit(x - x.mean(axis=0))) for x in (self.predictions, self.targets, means)
        )

    @functools.cached_property
    def weights(self) -> Float[np.ndarray, " 2"]:
        """How much targets and contexts tell of a prediction's place, over the whole file.

        A model need not resemble its contexts, and its eval side may hold the wrong targets.
        """
        lifts = [self.of(x) for x in self.own_fits - self.fits_by_chance]
        told = np.array([max(lift.value, 0.0) if lift.z > 3 else 0.0 for lift in lifts])
        return told / told.max() if told.any() else np.ones(2)

    @functools.cached_property
    def own_fits(self) -> Float[np.ndarray, "2 m"]:
        """The fits of every prediction with its own row."""
        own = np.arange(len(self.rows))
        return self.fits(own, own)

    @functools.cached_property
    def fits_by_chance(self) -> Float[np.ndarray, "2 m"]:
        """The fits of every prediction with the row of its partner."""
        return self.fits(np.arange(len(self.rows)), self.partner)

    def fits(self, i: Int[np.ndarray, " k"], j: Int[np.ndarray, " k"]) -> Float[np.ndarray, "2 k"]:
        """Return the cosines of predictions i with the targets, and the contexts, of rows j."""
        predictions, *others = self.parts
        mine = predictions[i]
        return np.stack([np.einsum("kd,kd->k", mine, x[j], dtype=np.float64) for x in others])

    def scores(self, rows: Int[np.ndarray, " q"]) -> Float[np.ndarray, "q m"]:
        """Return how well each of some predictions fits every window, targets and contexts."""
        predictions, *others = self.parts
        both = [
            weight * (predictions[rows] @ x.T)
            for weight, x in zip(self.weights, others, strict=True)
            if weight > 0
        ]
        return np.asarray(sum(both))


@once
def given_rows(material: Material) -> GivenRows | None:
    """Return the rows of a file of predictions; None where a model was run here.

    Raises NotEvaluable when there is nothing to look at, or too little.
    """
    if queries(material).predictor is not None:
        return None
    return _read(material, material.side("eval"))


def _read(material: Material, side: Side) -> GivenRows:
    assert material.predictions is not None  # queries() has refused anything else
    rows = chosen_rows(len(side))
    predictions = unit(material.predictions[rows].detach().cpu().float().numpy())
    contexts, targets = unit(side.contexts(rows)), unit(side.targets(rows))
    good = np.isfinite(predictions).all(axis=1) & np.isfinite(targets).all(axis=1)
    good &= np.isfinite(contexts).all(axis=(1, 2))
    if int(good.sum()) < MIN_WINDOWS:
        raise NotEvaluable(
            f"{int(good.sum())} rows have a usable prediction, context and target (need "
            f"{MIN_WINDOWS})",
            "predict them again",
        )
    return GivenRows(
        len(side),
        rows[good],
        predictions[good],
        targets[good],
        contexts[good],
        _articles(side, rows)[good],
    )


def chosen_rows(total: int) -> Int[np.ndarray, " m"]:
    """Return all rows of a file, or runs of neighbours evenly spread over it."""
    if total <= MOST_ROWS:
        return np.arange(total)
    starts = np.linspace(0, total - RUN, MOST_ROWS // RUN).astype(int)
    return np.unique(starts[:, None] + np.arange(RUN))


def _articles(side: Side, rows: Int[np.ndarray, " m"]) -> Int[np.ndarray, " m"]:
    stretches = rows // ROWS_PER_CLUSTER
    if side.keys is None:
        return np.asarray(stretches)
    stated = side.keys[rows, 0].astype(np.int64)
    return stated if len(np.unique(stated)) >= min(3, len(np.unique(stretches))) else stretches


def clear(found: Level) -> bool:
    """Whether a level is above zero beyond doubt, the fewer articles the further."""
    needed = float(stdtrit(max(1, found.clusters - 1), 1 - CHANCE))
    return found.value > needed * found.error


def runs(mask: Bool[np.ndarray, " m"]) -> list[tuple[int, int]]:
    """Return the first and last place of every stretch of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return [(int(a), int(b) - 1) for a, b in edges.reshape(-1, 2)]
