"""The arms of a sweep, drawn from what each of its keys may be.

    grid     every combination, the last key fastest
    random   each key by itself
    sobol    a scrambled Sobol sequence, which fills the space more evenly than chance does
    tpe      a first round by Sobol; `lvm.triage.tpe` proposes the others while the step runs

A draw depends on the recipe's seed and the name of its step alone, so a resumed run has the same
arms. No combination comes twice. Numbers have four significant digits, as a report shows them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lvm.core.config.steps import (
    DIGITS,
    LIST,
    TPE,
    Changes,
    OwnStep,
    Sweep,
    Value,
    Values,
    short_names,
)
from lvm.core.errors import ConfigError
from lvm.core.randomness import derive_seed, numpy_generator
from lvm.triage.step import Arm, Tried
from lvm.triage.tpe import more_arms

PATIENCE = 1000  # points that are drawn for each arm until as many differ
MOST_POINTS = 12  # binary logarithm of how far a Sobol sequence is followed


@dataclass(frozen=True)
class Draws:
    """The arms of the steps that a recipe adds, whatever recipe they change."""

    seed: int

    def first(self, own: OwnStep) -> list[Arm]:
        """Return the arms with which a step starts: all of them, but for TPE."""
        if own.sweep is None:
            return [Arm(name=arm.name, changes=arm.changes, why=arm.why) for arm in own.arms]
        return swept_arms(own.sweep, drawn_arms(own.sweep, self.seed, own.name))

    def more(self, own: OwnStep, tried: Sequence[Tried]) -> list[Arm]:
        """Return the next round of a sweep by TPE; nothing once it has all of its arms."""
        sweep = own.sweep
        if sweep is None or sweep.sampler != TPE:
            return []
        return swept_arms(sweep, more_arms(sweep, self.seed, own.name, tried))

    def like_all(self, own: OwnStep) -> list[Arm]:
        """Return as many arms as a sweep by TPE will have, to plan with."""
        sweep = own.sweep
        if sweep is None:
            return []
        return swept_arms(sweep, drawn_arms(sweep, self.seed, own.name, sweep.arms))


def swept_arms(sweep: Sweep, drawn: Sequence[Changes]) -> list[Arm]:
    """Return arms of a sweep, each named by what it changes."""
    short, why = short_names(list(sweep.keys)), f"drawn by {sweep.sampler}"
    return [Arm(name=_named(changes, short), changes=changes, why=why) for changes in drawn]


def drawn_arms(sweep: Sweep, seed: int, step: str, wanted: int | None = None) -> list[Changes]:
    """Return the changes of the arms with which a sweep starts, or of as many as are wanted."""
    wanted = sweep.size_of_round if wanted is None else wanted
    if sweep.sampler == "grid":
        every = [_grid(values) for values in sweep.keys.values()]
        return [dict(zip(sweep.keys, one, strict=True)) for one in itertools.product(*every)]
    found: dict[str, Changes] = {}
    for point in itertools.islice(_points(sweep, seed, step), PATIENCE * wanted):
        chosen = zip(sweep.keys.items(), point, strict=True)
        changes = {key: at(values, share) for (key, values), share in chosen}
        found.setdefault(repr(changes), changes)
        if len(found) == wanted:
            return list(found.values())
    raise ConfigError(
        f"sweep.arms is {wanted}, but only {len(found)} arms were found that differ in "
        f"{DIGITS} digits; widen a range or lower the number of arms."
    )


def at(values: Values, share: float) -> Value:
    """Return the value that lies at a share, from 0 to below 1, of the way through a range."""
    if values.count is not None:
        place = min(int(share * values.count), values.count - 1)
        return values.values[place] if values.kind == LIST else int(values.low) + place
    low, high = values.low, values.high
    if values.kind == "uniform":
        number = low + share * (high - low)
    else:
        number = math.exp((1 - share) * math.log(low) + share * math.log(high))
    return values.in_digits(number)


def _grid(values: Values) -> Sequence[Value]:
    if values.kind == LIST:
        return values.values
    return range(int(values.low), int(values.high) + 1)


def _points(sweep: Sweep, seed: int, step: str) -> Iterator[Sequence[float]]:
    """Yield points of the unit cube without end: the sampler's, and then at random."""
    if sweep.sampler in ("sobol", TPE):
        yield from _sobol(len(sweep.keys), sweep.arms, derive_seed(seed, "sweep", step, "sobol"))
    generator = numpy_generator(seed, "sweep", step, "random")
    while True:
        yield generator.random(len(sweep.keys)).tolist()


def _sobol(width: int, num_arms: int, seed: int) -> Iterator[Sequence[float]]:
    """Yield a power of two of points, with some to spare for combinations that come twice."""
    from scipy.stats import qmc  # type: ignore[import-untyped]  # scipy has no stubs

    power = min(MOST_POINTS, math.ceil(math.log2(num_arms)) + 2)
    sequence = qmc.Sobol(width, scramble=True, seed=np.random.default_rng(seed))
    yield from sequence.random_base2(power).tolist()


def _named(changes: Mapping[str, Value], short: Mapping[str, str]) -> str:
    return ", ".join(f"{short[key]} {value}" for key, value in changes.items())
