"""The scripts in examples/ run from a folder outside the repository and say what they should."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

ROOT = Path(__file__).resolve().parents[2]
SAYS = {
    "audit_a_bank": ["warn: GATE_BELOW_TRIVIAL", "36 checks, WARNINGS"],
    "judge_predictions": ["copy: cosine 0.493, R@5 0.361", "eval_cosine, mine over copy: PASS"],
    "own_model": ["epoch 1: loss", "epoch 2: loss"],
}


def test_every_example_is_run():
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} == set(SAYS)


@pytest.mark.parametrize("name", SAYS)
def test_an_example_runs_anywhere(name: str, tmp_path: Path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / f"{name}.py")],
        cwd=tmp_path,
        text=True,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    for words in SAYS[name]:
        assert words in done.stdout
