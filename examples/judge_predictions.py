"""Judge any model by its predictions: cosine, ranks, and the gain over copying, with an interval.

python examples/judge_predictions.py

Put your own model where `predict` is: it maps contexts [M, T, D] to next vectors [M, D].
"""

from __future__ import annotations

import numpy as np
import torch

from lvm.core.config.run import GateConfig
from lvm.data.sample import load_sample
from lvm.data.windows import dataset_from_bank
from lvm.evaluation.evaluate import evaluate
from lvm.evaluation.gates import gain


def predict(contexts: np.ndarray) -> np.ndarray:
    """Return unit rows: here the mean of the last two context vectors."""
    mean = contexts[:, -2:].mean(axis=1)
    unit: np.ndarray = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    return unit


def main() -> None:
    """Print what the model reaches on the test split."""
    dataset = dataset_from_bank(load_sample(), context_length=5)
    test, bank = dataset.test, dataset.bank
    contexts = bank.rows(test.contexts)
    measured, judged = {}, {}
    for name, rows in {"copy": contexts[:, -1], "mine": predict(contexts)}.items():
        queries = torch.from_numpy(np.ascontiguousarray(rows, dtype=np.float32))
        measured[name], judged[name] = evaluate(queries, test, bank, space="raw", split="test")
        masked = measured[name].masked
        print(f"{name}: cosine {masked['eval_cosine']:.3f}, R@5 {masked['r_at_5']:.3f}")
    for metric in ("eval_cosine", "r_at_5"):
        result = gain(judged["mine"], judged["copy"], metric, GateConfig(), seed=0)
        print(f"{metric}, mine over copy: {result.verdict}, {result.reason}")


if __name__ == "__main__":
    main()
