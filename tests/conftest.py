"""What every test shares: shapes checked at run time, tiny data, one rule on markers."""

from __future__ import annotations

import functools
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

# Before anything imports these packages: every annotated function then checks its shapes and types.
install_import_hook(
    ["lvm.losses", "lvm.models", "lvm.evaluation", "lvm.training"], "beartype.beartype"
)

TESTS = Path(__file__).parent
INTEGRATION = TESTS / "integration"


def pytest_collection_modifyitems(items) -> None:
    """Refuse a test whose folder and marker disagree: `-m "not integration"` must mean fast."""
    for item in items:
        in_folder = INTEGRATION in item.path.parents
        marked = item.get_closest_marker("integration") is not None
        if in_folder and not marked:
            raise pytest.UsageError(
                f"{item.nodeid} lies in tests/integration without the marker integration; set "
                "pytestmark = pytest.mark.integration in its file."
            )
        if marked and not in_folder:
            raise pytest.UsageError(
                f"{item.nodeid} is marked integration outside tests/integration; move it there."
            )


@functools.cache
def _is_on_ray(file: Path) -> bool:
    words = re.compile(r"\b(ray|cluster|tune_jobs)\b", re.IGNORECASE)
    return INTEGRATION in file.parents and words.search(file.read_text()) is not None


@functools.cache
def _is_of_plants(file: Path) -> bool:
    return "audit_of" in file.read_text()


@pytest.hookimpl(optionalhook=True)  # of xdist, without which tests run one after the other
def pytest_xdist_make_scheduler(config, log):
    """Keep in one process what shares a Ray cluster, audits of plants, or a file."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = TESTS.parent / nodeid.split("::", 1)[0]
            if _is_on_ray(file):
                return "on Ray"
            return "of plants" if _is_of_plants(file) else str(file)

    return ByFile(config, log)


SERVE = """
import importlib, json, sys
sys.path[:0] = sys.argv[1:]
for line in sys.stdin:
    module, function = line.split()
    print(json.dumps(getattr(importlib.import_module(module), function)()), flush=True)
"""


@pytest.fixture(scope="session")
def other_process():
    """Return what a function of a unit test file answers in another process, with other hashes.

    One process answers for all tests: importing torch is most of what it costs.
    """
    command = [sys.executable, "-c", SERVE, str(TESTS), str(TESTS / "unit")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:

        def ask(function):
            process.stdin.write(f"{function.__module__} {function.__name__}\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        yield ask
        process.stdin.close()


@pytest.fixture
def shapes_checked_before():
    """Repeat what another test of the file does with every shape checked; check none again."""
    import tiny

    with tiny.shapes_known():
        yield


@pytest.fixture(scope="session")
def tiny_bank():
    """360 unit vectors of width 16 in 24 articles; a chunk is the last one, turned, plus noise."""
    import tiny

    return tiny.bank()


@pytest.fixture(scope="session")
def tiny_dataset(tiny_bank):
    """The tiny bank in windows of 5 contexts, split by article."""
    import tiny

    return tiny.dataset(tiny_bank)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory, tiny_dataset):
    """Run folder of a whole tiny triage of two steps; to be read, not to be written to."""
    import tiny
    import torch

    threads, folder = torch.get_num_threads(), tmp_path_factory.mktemp("tiny")
    config = tiny.config(base=tiny.recipe(**{"training.epochs": 2}), stage=0.3)
    tiny.triage(folder, tiny_dataset, config, num_steps=2)
    torch.set_num_threads(threads)
    return folder


@pytest.fixture
def tiny_recipe():
    """A recipe that trains an epoch of the tiny dataset in about 20 ms."""
    import tiny

    return tiny.recipe()
