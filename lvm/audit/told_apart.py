"""Can a linear rule tell eval from train vectors of articles that it has not seen?"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Float, Int
from scipy.special import expit  # type: ignore[import-untyped]  # scipy has no stubs

from lvm.audit.coherence import Coherence, coherence
from lvm.audit.finding import Seen, Severity
from lvm.audit.material import Material
from lvm.core.randomness import numpy_generator

TELLING_ROWS = 1500  # rows of each file that the linear rule is fitted to
ACCURACY_WARN = 0.9


def told_apart(material: Material) -> Iterator[Seen]:
    """Classifier two-sample test (Lopez-Paz and Oquab 2017), folds by article."""
    if material.quick:
        return
    eval_, train = coherence(material, "eval"), coherence(material, "train")
    accuracy = _accuracy(eval_, train, material.seed)
    if accuracy <= ACCURACY_WARN:
        return
    yield Seen(
        severity=Severity.WARN,
        seen="a linear classifier separates eval from train vectors of unseen articles in "
        f"{accuracy:.0%} of cases",
        allowed=f"at most {ACCURACY_WARN:.0%} (.5 is chance)",
        where=material.side("eval").where(),
        meaning="All eval vectors share a mark: a detail of their embedding, or their subject.",
        next="embed both files in one run (lvm embed), or draw both from one collection",
        values={"accuracy": accuracy},
    )


def _accuracy(eval_: Coherence, train: Coherence, seed: int) -> float:
    rng = numpy_generator(seed, "audit", "two samples")
    picked = [_some(len(side.targets), rng) for side in (eval_, train)]
    x = np.concatenate([eval_.targets[picked[0]], train.targets[picked[1]]])
    y = np.repeat([0, 1], [len(p) for p in picked])
    articles = np.concatenate([eval_.clusters[picked[0]] * 2, train.clusters[picked[1]] * 2 + 1])
    ids, place = np.unique(articles, return_inverse=True)
    fold = (rng.permutation(len(ids)) % 3)[place]
    right = []
    for k in range(3):
        test = fold == k
        if len(set(y[test])) < 2 or len(set(y[~test])) < 2:
            continue
        guess = _linear_rule(x[~test], y[~test])(x[test])
        right += [float((guess[y[test] == side] == side).mean()) for side in (0, 1)]
    return float(np.mean(right)) if right else 0.5


def _linear_rule(
    x: Float[np.ndarray, "m D"], y: Int[np.ndarray, " m"]
) -> Callable[[Float[np.ndarray, "n D"]], Int[np.ndarray, " n"]]:
    """Fit a logistic regression in which both sides weigh alike; return what says 0 or 1 of rows.

    Ridge penalty |w|^2 / 2 against the sum of all losses, as is usual where none is chosen.
    (scikit-learn does the same; its import alone would be a third of the time of an audit.)
    """
    from scipy.optimize import minimize  # type: ignore[import-untyped]  # scipy has no stubs

    rows = np.column_stack([x.astype(np.float64), np.ones(len(x))])
    weight = 0.5 / (np.bincount(y, minlength=2) / len(y))[y]
    penalty = np.append(np.ones(x.shape[1]), 0.0)

    def loss(rule: Float[np.ndarray, " C"]) -> tuple[float, Float[np.ndarray, " C"]]:
        said = rows @ rule
        value = weight @ (np.logaddexp(0.0, said) - y * said) + penalty @ rule**2 / 2
        return float(value), rows.T @ (weight * (expit(said) - y)) + penalty * rule

    options = {"maxiter": 300}
    rule = minimize(loss, np.zeros(rows.shape[1]), jac=True, method="L-BFGS-B", options=options).x
    return lambda new: np.asarray(new @ rule[:-1] + rule[-1] > 0, dtype=np.int64)


def _some(count: int, rng: np.random.Generator) -> Int[np.ndarray, " m"]:
    return np.sort(rng.choice(count, min(count, TELLING_ROWS), replace=False))
