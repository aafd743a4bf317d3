"""What every view says of six kept runs, to the byte.

A sentence that changes on purpose is kept by `python tests/frozen_runs.py`; its commit says why.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from frozen_runs import FROZEN, RUNS, rendered

FILES = (
    "verdict.json",
    "report.md",
    "status.json",
    "status.txt",
    "mlflow.jsonl",
    "progress.jsonl",
)


@pytest.fixture(scope="module", params=RUNS)
def run(request: pytest.FixtureRequest) -> tuple[Path, dict[str, str]]:
    folder = FROZEN / request.param
    return folder, rendered(folder)


@pytest.mark.parametrize("file", FILES)
def test_a_view_says_of_a_kept_run_what_it_said(run: tuple[Path, dict[str, str]], file: str):
    folder, seen = run
    assert seen[file].splitlines() == (folder / file).read_text(encoding="utf-8").splitlines()


def test_the_kept_runs_are_told_whole():
    for name in RUNS:
        assert {path.name for path in (FROZEN / name).iterdir()} == {"journal.jsonl", *FILES}
