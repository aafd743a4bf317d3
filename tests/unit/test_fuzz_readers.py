"""Whatever stands in a file, its reader reads it or refuses it in one sentence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from readers import READERS, write_files

FUZZ = Path(__file__).parents[1] / "fuzz_readers.py"
COUNT = 60  # damaged files of each reader
SECONDS = 100


@pytest.fixture(scope="module")
def answered():
    """The outcomes of a fixed set of damaged files, by reader."""
    done = subprocess.run(
        [sys.executable, FUZZ, "--seed", "0", "--count", str(COUNT), "--depth", "1"],
        capture_output=True, text=True, timeout=SECONDS, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", READERS)
def test_every_damaged_file_is_read_or_refused(name: str, answered) -> None:
    ends = answered["ends"][name]
    assert [wrong for wrong in answered["wrong"] if wrong["reader"] == name] == []
    assert ends["read"] >= 1  # the file as it is
    assert ends["refused"] >= 5


# --- what damaged files once did ------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("valid")
    write_files(made)
    return made
