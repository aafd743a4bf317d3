"""The ladder: untrained predictors that every trained model is compared with.

They have no network and, but for ridge, next to nothing to fit. A model below `copy_last` has not
learned to predict; a metric on which `oracle` is not perfect is broken.

No single rung is the one to beat: `weighted_mix` has the best cosine, and more of the last context
buys R@5 for it. The rungs between, `mix_plus_A_last`, trace that exchange (`lvm.evaluation.front`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from jaxtyping import Float

from lvm.core.randomness import numpy_generator
from lvm.core.records import Evaluation
from lvm.data.bank import Bank
from lvm.data.windows import Dataset, Windows
from lvm.evaluation.evaluate import evaluate
from lvm.evaluation.metrics import PerQuery

TrivialPredictor = Callable[[Windows], np.ndarray]
Contexts = Float[np.ndarray, "M T D"]

BLOCK = 1024  # windows in memory at once
RIDGE_STRENGTHS = (0.03, 0.3, 3.0)  # shares of the mean diagonal of the normal matrix
RIDGE_COLUMNS = 5120  # T * D that ridge reads; its matrix is this squared, in float64
# Doubling: a step costs cosine as it gains R@5, and past 0.8 of the last R@5 stops to grow.
LAST_ADDED = (0.1, 0.2, 0.4, 0.8)


def fit_ladder(
    dataset: Dataset, *, seed: int, ridge_strength: float | None = None
) -> dict[str, TrivialPredictor]:
    """Fit the trivial predictors on the train split; each maps M windows to unit rows [M, D].

    constant      the mean target of the train split, whatever the context
    copy_last     the last context vector
    mean_context  the mean of the context
    weighted_mix  the context under one weight per position, by least squares
    mix_plus_A_last  weighted_mix, unnormalised, plus A times the last context vector
    ridge         a linear map from the whole context, by penalised least squares; from the last
                  positions alone where T * D passes 5120
    random        the vector of a row drawn at random, the same for the same target
    oracle        the target itself

    `ridge_strength` is the penalty as a share of the mean diagonal of the normal matrix; by default
    the best of three by cosine on the dev split. The random row depends on `seed`.
    """
    bank, train = dataset.bank, dataset.train
    draw = numpy_generator(seed, "ladder", "random").permutation(len(bank))
    mean_target = sum(y.sum(0, dtype=np.float64) for _, y in _blocks(bank, train)) / len(train)
    mix = _fit_mix(bank, train).astype(np.float32)
    last = np.eye(1, len(mix), len(mix) - 1, dtype=np.float32)[0]
    mixes = {"weighted_mix": mix} | {f"mix_plus_{a}_last": mix + a * last for a in LAST_ADDED}
    strengths = RIDGE_STRENGTHS if ridge_strength is None else (ridge_strength,)
    ridge = _fit_ridge(dataset, strengths).astype(np.float32)
    constant = np.asarray(mean_target, dtype=np.float32)
    context_rules: dict[str, Callable[[Contexts], np.ndarray]] = {
        "constant": lambda c: np.broadcast_to(constant, (len(c), bank.width)),
        "copy_last": lambda c: c[:, -1],
        "mean_context": lambda c: c.mean(axis=1),
        **{name: functools.partial(_apply_mix, weights) for name, weights in mixes.items()},
        "ridge": lambda c: _apply_ridge(ridge, c),
    }
    return {
        **{name: functools.partial(_predict, bank, rule) for name, rule in context_rules.items()},
        "random": lambda windows: _unit(bank.rows(draw[windows.targets])),
        "oracle": lambda windows: _unit(bank.rows(windows.targets)),
    }


def _blocks(bank: Bank, windows: Windows) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (contexts [m, T, D], targets [m, D]) float32, block by block."""
    for start in range(0, len(windows), BLOCK):
        part = slice(start, start + BLOCK)
        yield bank.rows(windows.contexts[part]), bank.rows(windows.targets[part])


def _predict(
    bank: Bank, rule: Callable[[Contexts], np.ndarray], windows: Windows
) -> Float[np.ndarray, "M D"]:
    """Return the unit predictions of a rule on contexts, gathered block by block."""
    predictions = np.empty((len(windows), bank.width), dtype=np.float32)
    for start in range(0, len(windows), BLOCK):
        part = slice(start, start + BLOCK)
        predictions[part] = _unit(rule(bank.rows(windows.contexts[part])))
    return predictions


def _unit(rows: Float[np.ndarray, "M D"]) -> Float[np.ndarray, "M D"]:
    """Return rows of length 1; a row of zeros stays zero."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(lengths, 1e-12), dtype=np.float32)


def _fit_mix(bank: Bank, train: Windows) -> Float[np.ndarray, " T"]:
    """Return the weight of each position that minimises |sum_t w_t c_t - y|^2 over the train split.

    Of the many solutions where positions repeat each other, the one of least length is taken.
    """
    normal = np.zeros((train.context_length, train.context_length))
    moment = np.zeros(train.context_length)
    for contexts, targets in _blocks(bank, train):
        normal += np.matmul(contexts, contexts.transpose(0, 2, 1)).sum(0, dtype=np.float64)
        moment += np.matmul(contexts, targets[:, :, None]).sum(0, dtype=np.float64)[:, 0]
    return np.linalg.lstsq(normal, moment, rcond=1e-9)[0]


def _apply_mix(weights: Float[np.ndarray, " T"], contexts: Contexts) -> np.ndarray:
    return np.asarray(np.einsum("t,mtd->md", weights, contexts))


def _fit_ridge(dataset: Dataset, strengths: tuple[float, ...]) -> Float[np.ndarray, "C D"]:
    """Return the map W of (X^T X + penalty I) W = X^T Y that is best on dev, C = T * D columns."""
    bank, width = dataset.bank, dataset.bank.width
    positions = min(dataset.train.context_length, max(1, RIDGE_COLUMNS // width))
    normal = np.zeros((positions * width, positions * width))
    moment = np.zeros((positions * width, width))
    for contexts, targets in _blocks(bank, dataset.train):
        columns = contexts[:, -positions:].reshape(len(contexts), -1).astype(np.float64)
        normal += columns.T @ columns  # numpy computes half of it and mirrors
        moment += columns.T @ targets
    mean_diagonal = float(np.trace(normal)) / len(normal)
    solutions = []
    for strength in strengths:
        penalised = normal.copy()
        np.fill_diagonal(penalised, normal.diagonal() + strength * mean_diagonal)
        factor = torch.linalg.cholesky(torch.from_numpy(penalised))
        solutions.append(torch.cholesky_solve(torch.from_numpy(moment), factor).numpy())
    if len(solutions) == 1:
        return solutions[0]
    return max(solutions, key=lambda solution: _dev_cosine(dataset, solution))


def _dev_cosine(dataset: Dataset, solution: Float[np.ndarray, "C D"]) -> float:
    """Return the mean cosine of a linear map on the dev split."""
    weights = solution.astype(np.float32)
    rule = functools.partial(_apply_ridge, weights)
    predictions = _predict(dataset.bank, rule, dataset.dev)
    targets = _unit(dataset.bank.rows(dataset.dev.targets))
    return float(np.einsum("md,md->m", predictions, targets).mean())


def _apply_ridge(weights: Float[np.ndarray, "C D"], contexts: Contexts) -> np.ndarray:
    positions = len(weights) // contexts.shape[2]
    return np.asarray(contexts[:, -positions:].reshape(len(contexts), -1) @ weights)


def judge_ladder(
    predictors: Mapping[str, TrivialPredictor],
    dataset: Dataset,
    split: str,
    device: torch.device,
    keep: Callable[[str, PerQuery], None] = lambda name, per_query: None,
) -> dict[str, Evaluation]:
    """Return the evaluation of each predictor, ranked on `device`, where the pool is put once.

    `keep` receives the results of each predictor on every window.
    """
    windows, found = dataset.split(split), {}
    for name, predict in predictors.items():
        predictions = torch.from_numpy(predict(windows)).to(device)
        found[name], per_query = evaluate(
            predictions, windows, dataset.bank, space="raw", split=split
        )
        keep(name, per_query)
    return found
