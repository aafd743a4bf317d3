"""What the findings mean for the five steps: nothing runs, or in which order and why.

The signatures are those of the catalogue; steps go by their number in the failure report.

    anything that blocks                      nothing runs
    SPLIT_SPACE                               1, then the others
    COLLAPSE                                  2 and 5 first
    cosine above the ladder, recall low       4 first
    none of these                             1 to 5
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lvm.metrics import FRONT
from lvm.records import LIMITS

IN_ORDER = (1, 2, 3, 4, 5)
LOW_RECALL = 0.5  # of the best trivial predictor's R@5
REPAIRED_ARMS = {
    "NEGATIVES_FEWER": "the stated number of negatives is not what was trained on, so the control "
    "arm, which is, stands beside every arm",
    "UNDERTRAINED": "the given model was judged before it had learned, so the control arm decides",
    "LOSS_SCALE": "one term of the loss drowns the others, so the control arm decides",
    "ANN_LOSS": "the index loses answers, so every arm is judged by exact search",
}


@dataclass(frozen=True, kw_only=True)
class Route:
    """The order of the steps by number, and why."""

    order: Sequence[int]
    reasons: Sequence[str]


def route(
    codes: Sequence[str],
    *,
    model: Mapping[str, Any] | None = None,
    ladder: Mapping[str, Mapping[str, Any]] | None = None,
) -> Route:
    """Return the order of the five steps for the codes that were found.

    `model` holds the masked metrics of the model under triage and `ladder` those of the trivial
    predictors on the same windows, where they are known.
    """
    first: list[int] = []
    reasons: list[str] = []
    if "SPLIT_SPACE" in codes:
        first.append(1)
        reasons.append("step 1 first: the model is better in a space that it is not searched in")
    if "COLLAPSE" in codes:
        first += [2, 5]
        reasons.append("steps 2 and 5 first: predictions have collapsed towards their mean")
    if _lacks_discrimination(model, ladder):
        first.append(4)
        reasons.append(
            "step 4 first: the cosine beats every trivial predictor, but the target is rarely found"
        )
    order = list(dict.fromkeys([*first, *IN_ORDER]))
    reasons += [text for code, text in REPAIRED_ARMS.items() if code in codes]
    if not first:
        reasons.append("steps 1 to 5 in order: no finding points to one of them")
    return Route(order=order, reasons=reasons)


def _lacks_discrimination(
    model: Mapping[str, Any] | None, ladder: Mapping[str, Mapping[str, Any]] | None
) -> bool:
    if not model or not ladder:
        return False
    rungs = [row for name, row in ladder.items() if name not in LIMITS]
    if not rungs:
        return False
    best = {key: max(row[key] for row in rungs) for key in FRONT["raw"]}
    low = float(model["r_at_5"]) < LOW_RECALL * best["r_at_5"]
    return low and float(model["eval_cosine"]) > float(best["eval_cosine"])
