"""What the findings mean for the steps: nothing runs, or in which order and why.

Steps go by their numbers. A step names the findings on which it is asked first; the catalogue says
why. Where something blocks, nothing runs; where nothing points to a step, the failure report's
steps come in order.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from lvm.audit.check import CHECKS
from lvm.core.metrics import FRONT
from lvm.core.records import LIMITS

LOW_RECALL = 0.5  # of the best trivial predictor's R@5
RARELY_FOUND = "RARELY_FOUND"  # no check: the model's metrics beside the ladder's show it
WHY_RARELY_FOUND = "the cosine beats every trivial predictor, but the target is rarely found"


class Routed(Protocol):
    """The part of a step that routing needs."""

    @property
    def number(self) -> int:
        """Its place in the order."""

    @property
    def reported(self) -> bool:
        """Whether it is one of the failure report's."""

    @property
    def first_on(self) -> Collection[str]:
        """The finding codes that put it first."""


@dataclass(frozen=True, kw_only=True)
class Route:
    """The order of the steps by number, and why."""

    order: Sequence[int]
    reasons: Sequence[str]


def route(
    codes: Sequence[str],
    steps: Collection[Routed],
    *,
    model: Mapping[str, object] | None = None,
    ladder: Mapping[str, Mapping[str, object]] | None = None,
) -> Route:
    """Return the order of `steps` for the codes that were found.

    `model` holds the masked metrics of the model under triage and `ladder` those of the trivial
    predictors on the same windows, where they are known.
    """
    signs = [*codes, *([RARELY_FOUND] if _lacks_discrimination(model, ladder) else [])]
    rows = {row.code: row for row in CHECKS}
    pointed: list[tuple[list[int], str]] = []
    because = {code: row.because for code, row in rows.items()} | {RARELY_FOUND: WHY_RARELY_FOUND}
    for sign in dict.fromkeys(signs):
        if numbers := sorted(step.number for step in steps if sign in step.first_on):
            pointed.append((numbers, because.get(sign) or f"{sign} was found"))
    pointed.sort()
    in_order = sorted(step.number for step in steps if step.reported)
    reasons = [f"{_named(numbers)} first: {why}" for numbers, why in pointed]
    reasons += [row.for_arms for row in rows.values() if row.for_arms and row.code in codes]
    if not pointed and in_order:
        span = f"{in_order[0]} to {in_order[-1]}"
        reasons.append(f"steps {span} in order: no finding points to any of them")
    first = [number for numbers, _ in pointed for number in numbers]
    return Route(order=list(dict.fromkeys([*first, *in_order])), reasons=reasons)


def _named(numbers: Sequence[int]) -> str:
    *most, last = map(str, numbers)
    return f"steps {', '.join(most)} and {last}" if most else f"step {last}"


def _lacks_discrimination(
    model: Mapping[str, object] | None, ladder: Mapping[str, Mapping[str, object]] | None
) -> bool:
    if not model or not ladder:
        return False
    rungs = [row for name, row in ladder.items() if name not in LIMITS]
    if not rungs:
        return False
    best = {key: max(_number(row[key]) for row in rungs) for key in FRONT["raw"]}
    low = _number(model["r_at_5"]) < LOW_RECALL * best["r_at_5"]
    return low and _number(model["eval_cosine"]) > best["eval_cosine"]


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
