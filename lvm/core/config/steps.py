"""Steps that a recipe adds to the tree: `[[steps]]`, each a question with arms or a sweep.

These checks need no step of the tree. `lvm.triage.own_steps` checks, before a run starts, that
names are free and keys are known.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from lvm.core.errors import ConfigError
from lvm.core.metrics import METRICS, Shown
from lvm.core.outside import brief
from lvm.core.setting import require, require_one_of

Value = str | int | float | bool | None  # of a key of the recipe
Changes = dict[str, Value]  # dotted keys with their values

NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
SAMPLERS = ("grid", "random", "sobol", "tpe")
TPE = "tpe"  # proposes its arms in rounds, from what earlier arms have reached
LIST = "list"
BOUNDED = ("uniform", "log_uniform", "int")
DIGITS = 4  # of a drawn number, significant: as a report shows it
MOST_ARMS = 1000  # of one step
FEWEST_IN_ROUND, ROUNDS = 4, 5  # of TPE, where a recipe leaves them out
LARGEST = 2**53  # bound of a range: floats hold every whole number up to it


@dataclass(frozen=True, kw_only=True)
class Values:
    """The values of a swept key: one of a list, or a number between two bounds, both included."""

    kind: str
    values: tuple[Value, ...]  # the list, or the two bounds

    def __post_init__(self) -> None:
        require_one_of("kind", self.kind, (LIST, *BOUNDED))
        if self.kind == LIST:
            require(bool(self.values), "the list", [], "at least one value")
            once = len(set(map(repr, self.values))) == len(self.values)
            require(once, "the list", list(self.values), "of values that differ")
        else:
            self._require_bounds()

    @property
    def low(self) -> float:
        """The lower bound of a range."""
        return self._numbers[0]

    @property
    def high(self) -> float:
        """The upper bound of a range."""
        return self._numbers[1]

    @property
    def count(self) -> int | None:
        """How many values there are; None where a range has infinitely many."""
        if self.kind == LIST:
            return len(self.values)
        return int(self.high) - int(self.low) + 1 if self.kind == "int" else None

    def in_digits(self, number: float) -> float:
        """Return a number in the digits that a report shows, and still within the range."""
        return min(max(float(f"{number:.{DIGITS}g}"), self.low), self.high)

    @property
    def _numbers(self) -> list[float]:
        return [v for v in self.values if isinstance(v, int | float)]

    def _require_bounds(self) -> None:
        number = int if self.kind == "int" else (int, float)
        ok = len(self.values) == 2 and all(
            isinstance(v, number) and not isinstance(v, bool) and abs(v) <= LARGEST
            for v in self.values
        )
        word = "two whole numbers" if self.kind == "int" else "two numbers"
        require(ok, self.kind, list(self.values), f"{word}, [low, high]")
        require(self.low < self.high, self.kind, list(self.values), "[low, high] with low < high")
        above = self.kind != "log_uniform" or self.low > 0
        require(above, self.kind, list(self.values), "[low, high] with low above 0")


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Arms that a sampler draws from the values of each key."""

    keys: Mapping[str, Values] = field(hash=False)  # dotted keys of the recipe
    arms: int = 0  # how many are drawn; a grid has all its points
    sampler: str = "grid"
    round: int = 0  # arms that TPE proposes at once; 0: a fifth of them, at least 4
    metric: str = (
        "mrr"  # ranks the arms at the rungs, and the importance of a key is its share of this
    )
    direction: str = ""  # "max" or "min", as the metric says itself
    minutes: float = 0.0  # after which every arm stops; 0: no limit

    def __post_init__(self) -> None:
        require(bool(self.keys), "sweep", {}, "at least one key of the recipe with its values")
        _require_apart("sweep", self.keys)
        require_one_of("sweep.sampler", self.sampler, SAMPLERS)
        known = METRICS.shown(Shown.DEV)
        require_one_of("sweep.metric", self.metric, known)
        high = METRICS.get(self.metric).higher_is_better
        own, word = ("max", "higher") if high else ("min", "lower")
        allowed = f'"{own}", because a {word} {self.metric} is better'
        require(self.direction in ("", own), "sweep.direction", self.direction, allowed)
        ok = 0 <= self.minutes < math.inf
        require(ok, "sweep.minutes", self.minutes, "a finite number of at least 0")
        self._require_number_of_arms()
        self._require_round()

    @property
    def size_of_round(self) -> int:
        """How many arms start at once: of TPE a round, else all of them."""
        if self.sampler != TPE:
            return self.arms
        return min(self.arms, self.round or max(FEWEST_IN_ROUND, -(-self.arms // ROUNDS)))

    @property
    def size(self) -> int | None:
        """How many arms there are in all; None where a range has infinitely many values."""
        counts = [values.count for values in self.keys.values()]
        finite = [count for count in counts if count is not None]
        return math.prod(finite) if len(finite) == len(counts) else None

    def _require_round(self) -> None:
        own = self.sampler == TPE
        ok = 0 <= self.round <= self.arms if own else self.round == 0
        allowed = (
            f"from 1 to the {self.arms} arms" if own else f'left out unless sampler is "{TPE}"'
        )
        require(ok, "sweep.round", self.round, allowed)

    def _require_number_of_arms(self) -> None:
        size = self.size
        if self.sampler == "grid":
            endless = [key for key, values in self.keys.items() if values.count is None]
            if endless:
                raise ConfigError(
                    f"sweep.sampler is grid, but {endless[0]} is a range without end; give a list "
                    'of its values, or sampler = "random" or "sobol" with a number of arms.'
                )
            ok = self.arms in (0, size)
            require(ok, "sweep.arms", self.arms, f"the {size} of the grid, or left out")
            require((size or 0) <= MOST_ARMS, "the grid", size, f"at most {MOST_ARMS} arms")
            return
        most = MOST_ARMS if size is None else min(MOST_ARMS, size)
        why = "" if size is None or size > MOST_ARMS else ", which is all there are"
        ok = 1 <= self.arms <= most
        require(ok, "sweep.arms", self.arms, f"from 1 to {most}{why}")


@dataclass(frozen=True, kw_only=True)
class OwnArm:
    """One variant of the recipe."""

    name: str
    changes: Mapping[str, Value] = field(hash=False)  # dotted keys of the recipe
    why: str = ""

    def __post_init__(self) -> None:
        require(bool(self.name.strip()), "name", self.name, "some words")
        require(self.name != "control", "name", self.name, "another one than the control's")
        require(bool(self.changes), "changes", {}, "at least one key of the recipe with its value")
        _require_apart("changes", self.changes)


@dataclass(frozen=True, kw_only=True)
class OwnStep:
    """A question of the tree, as a recipe asks it."""

    name: str
    question: str
    title: str = ""  # in the report; else made from the name
    claim: str = ""  # the step's hypothesis; else that one of its arms helps
    order: int = 0  # place among the steps; 0: after all others
    budget: int = 0  # epochs of an arm; 0: those of a slow step of the schedule
    arms: tuple[OwnArm, ...] = ()
    sweep: Sweep | None = None

    def __post_init__(self) -> None:
        ok = NAME.fullmatch(self.name) is not None
        require(ok, "name", self.name, "a lower-case word of letters, digits and _")
        require(bool(self.question.strip()), "question", self.question, "a question")
        require(self.order >= 0, "order", self.order, "a whole number of at least 1")
        require(self.budget >= 0, "budget", self.budget, "at least 1 epoch")
        if bool(self.arms) == (self.sweep is not None):
            seen = "both" if self.arms else "neither"
            raise ConfigError(f"a step has either arms or a sweep (got {seen}); give one of them.")
        names = [arm.name for arm in self.arms]
        twice = next((name for name in names if names.count(name) > 1), None)
        require(twice is None, "arms", twice, "arms of different names")
        require(len(names) <= MOST_ARMS, "arms", len(names), f"at most {MOST_ARMS}")


def _require_apart(where: str, keys: Collection[str]) -> None:
    """Refuse two keys where one is inside the other."""
    for key in keys:
        inner = next((other for other in keys if other.startswith(f"{key}.")), None)
        if inner is not None:
            raise ConfigError(
                f"{where} has both {brief(key)} and {brief(inner)}, which is in it; leave out one."
            )


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Return the last word of every key, or the whole key where two end alike."""
    last = [key.rpartition(".")[2] for key in keys]
    return {
        key: word if last.count(word) == 1 else key for key, word in zip(keys, last, strict=True)
    }
