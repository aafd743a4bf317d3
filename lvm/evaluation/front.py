"""The front: what needs no training, and where a model lies against it.

No single rung of the ladder is the one to beat. `weighted_mix` has the best cosine, another rung
the best R@5, and a model between them may beat each in one metric and still be worth nothing. Let
r_i be the pair (cosine, R@5) of rung i. Who answers each window by one of several rungs, drawn at
random with shares s_i, gets sum_i s_i r_i, so every point of their convex hull can be had for
nothing. The front is the upper right edge of that hull.

The distance D of a model m is the largest amount that can be taken from both of its metrics before
the front reaches it, negative where the front has to retreat:

    D = max over w of min over i of  w . (m - r_i),    w = (t, 1 - t), 0 <= t <= 1

This is the directional distance function of Chambers, Chung and Färe (Benefit and Distance
Functions, Journal of Economic Theory 70, 1996) in direction (1, 1), and the value of a matrix game.
D > 0: no point of the front is as good in both. D < 0: some point is better in both.

Interval: by the envelope theorem D moves with the data as w . (m - sum_i s_i r_i) does at the
solution, a mean over windows, so it has the interval of any such mean. The position follows from
it, with one addition. D is 0 for a model that equals a rung in one metric, however bad the other,
so a model is below as well where it loses to a rung in one metric, clearly, more than TRADE times
what it can have gained in the other.

On articles drawn from the 64 of the bundled train split, with models moved exactly onto the front,
2.6 % were called above and 2.6 % below (2.5 each are wanted; single rows of 100 draws up to 8 and
7; `python benchmarks/front.py`).

A cosine in a learned space does not compare with one in the raw space. There the pair is
(MRR, R@5).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from lvm.core.config.run import GateConfig
from lvm.core.metrics import FRONT
from lvm.core.records import Estimate, FrontPosition, Position
from lvm.core.statistics import article_mean
from lvm.evaluation.measured import Measured, pair_problem, values_of

TRADE = 10  # between weighted_mix and its neighbour 9 points of R@5 cost one of cosine
LEVEL = 1e-12  # rungs whose payoffs differ by less are equally near


@dataclass(frozen=True)
class Saddle:
    """Solution of the game between a model and the rungs."""

    value: float  # D
    weights: Float[np.ndarray, " 2"]  # of the metrics; they sum to 1
    shares: Float[np.ndarray, " K"]  # of the rungs; they sum to 1, at most two are not 0


def front_position(
    model: Measured, rungs: Mapping[str, Measured], config: GateConfig
) -> FrontPosition:
    """Say where a model lies against the front of `rungs`, measured on the same windows.

    `rungs` are competitors: leave out the oracle and the random rows. Without any rung, or where
    windows or pools differ, the position is NOT_EVALUABLE, with the reason.
    """
    metrics = FRONT[model.space]
    problems = [pair_problem(model, rung) for rung in rungs.values()]
    reason = (
        next(filter(None, problems), None) if rungs else ("no baseline of the ladder was measured")
    )
    if reason is not None:
        return FrontPosition(position=Position.NOT_EVALUABLE, metrics=metrics, reason=reason)
    ours = _values(model, metrics)
    theirs = np.stack([_values(rung, metrics) for rung in rungs.values()])
    gains = ours - theirs  # [K, 2, M]
    means = gains.mean(axis=2)
    saddle = solve(means)
    names, articles = list(rungs), model.articles

    def estimate(values: np.ndarray, confidence: float) -> Estimate:
        return article_mean(values, articles).estimate(confidence)

    nearest = np.einsum("k,w,kwm->m", saddle.shares, saddle.weights, gains)
    distance = estimate(nearest, config.confidence)
    position = _position(distance)
    rival = int(means.max(axis=1).argmin())
    if position is Position.ON:
        # One test per rung and metric: any of them could call the model worse.
        together = 1 - (1 - config.confidence) / means.size
        for rung, metric in _bad_trades(means):
            loss = -estimate(gains[rung, metric], together).upper
            gain = estimate(gains[rung, 1 - metric], together).upper
            if loss > 0 and gain * TRADE <= loss:
                position, rival = Position.BELOW, rung
                break
    return FrontPosition(
        position=position,
        metrics=metrics,
        distance=distance,
        rung=names[rival],
        gains={
            metric: estimate(gains[rival, place], config.confidence)
            for place, metric in enumerate(metrics)
        },
        mixture={n: float(s) for n, s in zip(names, saddle.shares, strict=True) if s > 0},
    )


def distance_to_front(model: Measured, rungs: Mapping[str, Measured]) -> float | None:
    """Return D in cosine and R@5 as measured; None without rungs or in a learned space."""
    if model.space != "raw" or not rungs or any(pair_problem(model, r) for r in rungs.values()):
        return None
    theirs = np.stack([_values(rung, FRONT["raw"]) for rung in rungs.values()])
    return solve((_values(model, FRONT["raw"]) - theirs).mean(axis=2)).value


def solve(gains: Float[np.ndarray, "K 2"]) -> Saddle:
    """Solve max over t of min over i of t gains[i, 0] + (1 - t) gains[i, 1], 0 <= t <= 1.

    The minimum is a concave line of K pieces, so its top lies at an end or where two pieces cross.
    """
    slopes = gains[:, 0] - gains[:, 1]
    with np.errstate(divide="ignore", invalid="ignore"):  # parallel pieces never cross
        crossings = (gains[None, :, 1] - gains[:, None, 1]) / (slopes[:, None] - slopes[None, :])
    inside = crossings[(crossings > 0) & (crossings < 1)]
    places = np.concatenate([[0.0, 1.0], inside])
    payoffs = gains[:, 1, None] + slopes[:, None] * places
    best = int(payoffs.min(axis=0).argmax())
    t, value = float(places[best]), float(payoffs[:, best].min())
    active = np.flatnonzero(payoffs[:, best] <= value + LEVEL)
    rising, falling = active[slopes[active].argmax()], active[slopes[active].argmin()]
    shares = np.zeros(len(gains))
    if t == 0 or t == 1 or slopes[rising] - slopes[falling] < LEVEL:
        shares[falling if t == 0 else rising] = 1.0
    else:
        shares[rising] = -slopes[falling] / (slopes[rising] - slopes[falling])
        shares[falling] = 1 - shares[rising]
    return Saddle(value, np.array([t, 1 - t]), shares)


def _position(distance: Estimate) -> Position:
    if distance.lower > 0:
        return Position.ABOVE
    return Position.BELOW if distance.upper < 0 else Position.ON


def _bad_trades(means: Float[np.ndarray, "K 2"]) -> list[tuple[int, int]]:
    """Return (rung, metric) where the model loses over TRADE times what it gains in the other.

    The largest loss comes first.
    """
    found = [
        (rung, metric)
        for rung in range(len(means))
        for metric in (0, 1)
        if means[rung, metric] < min(0.0, -TRADE * means[rung, 1 - metric])
    ]
    return sorted(found, key=lambda place: float(means[place]))


def _values(measured: Measured, metrics: tuple[str, str]) -> Float[np.ndarray, "2 M"]:
    return np.stack([values_of(measured, metric).astype(np.float64) for metric in metrics])
