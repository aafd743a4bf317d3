"""Golden numbers: two epochs on the tiny bank, compared with the file beside this one.

A difference means that a change altered training or evaluation. When it was meant to, renew the
file and say so in the commit:

    python tests/golden/test_tiny_run.py
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import pytest
import tiny
import torch

from lvm.core.config.run import GateConfig
from lvm.triage.arm import ArmSpec, run_arm
from lvm.triage.step import Role

GOLDEN = Path(__file__).with_name("tiny_run.json")
TOLERANCE = 1e-4  # absolute; another processor sums in another order
KEYS = (
    "loss",
    "contrastive",
    "ar",
    "mmd",
    "gradient_norm",
    "num_negatives",
    "eval_cosine",
    "r_at_5",
    "mrr",
)
RECIPES = {
    "base": {},
    "ar_only": {"objective.contrastive_weight": 0.0, "objective.ar_weight": 1.0},
    "raw_space_sampled_negatives": {
        "objective.space": "raw",
        "negatives.same_article": 1,
        "negatives.random": 2,
    },
    "whole_bank_and_anchor": {
        "negatives.candidates": "bank",
        "objective.mmd_weight": 0.5,
        "objective.mmd_balance": "gradient",
        "objective.stop_gradient": "none",
        "search_space": "projected",
    },
}


def measure(name: str) -> list[dict[str, float]]:
    """Train one recipe for two epochs; return what it logs per epoch."""
    recipe = tiny.recipe(**{"training.epochs": 2, **RECIPES[name]})
    with tempfile.TemporaryDirectory() as folder:
        spec = ArmSpec(
            id=name,
            step="golden",
            name=name,
            role=Role.PHASE1,
            recipe=recipe,
            folder=Path(folder),
            gates=GateConfig(),
        )
        epochs = run_arm(spec, tiny.dataset(tiny.bank(articles=24, chunks=15)))
        records = [epoch.record() for epoch in epochs]
        return [{k: record[k] for k in KEYS if k in record} for record in records]


@pytest.mark.parametrize("name", RECIPES)
def test_a_seeded_run_gives_the_golden_numbers(name) -> None:
    before = torch.get_num_threads()
    try:
        measured = measure(name)
    finally:
        torch.set_num_threads(before)
    golden = json.loads(GOLDEN.read_text())[name]
    assert len(measured) == len(golden) == 2
    for found, wanted in zip(measured, golden, strict=True):
        assert found == pytest.approx(wanted, abs=TOLERANCE)


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps({name: measure(name) for name in RECIPES}, indent=1) + "\n")
