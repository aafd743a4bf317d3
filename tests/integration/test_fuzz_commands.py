"""Commands over damaged files end as DESIGN says: a status, one sentence, nothing left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import fuzz_commands
import pytest

from lvm.core.errors import ExitStatus

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]
MEANT = {ExitStatus.OK, ExitStatus.USAGE, ExitStatus.BLOCKED, ExitStatus.TOO_LITTLE}


@pytest.fixture(scope="module")
def answers():
    done = subprocess.run(
        [sys.executable, fuzz_commands.__file__],
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("number", range(len(fuzz_commands.COMMANDS)))
def test_a_command_over_damaged_files(number: int, answers) -> None:
    mine = [answer for answer in answers if answer["number"] == number]
    assert len(mine) == len(fuzz_commands.PLACES) + fuzz_commands.NUM_DAMAGED
    for answer in mine:
        assert answer["status"] in MEANT, answer
        assert "Traceback" not in answer["stdout"] + answer["stderr"], answer
        if answer["status"] == ExitStatus.USAGE and answer["stderr"]:
            assert answer["stderr"].startswith("error: "), answer
            assert answer["stderr"].count("\n") == 1, answer
            assert answer["left"] == [], answer
    assert any(answer["status"] == ExitStatus.USAGE for answer in mine)
