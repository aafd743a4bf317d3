"""MLflow's own page on the store of a finished triage, in a real browser."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from lvm.views import tracking
from tests.browser import MISSING, Page, chromium, find_chromium
from tests.tracked import (
    CONFIRMED,
    REGISTERED,
    free_port,
    serving,
    track,
    whole_journal,
    write_checkpoint,
    write_documents,
)

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(find_chromium() is None, reason=MISSING),
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
]

TABLE = [  # as the report's: the run, then all that it measured, in the order in which it did
    ("my runs/1", "FIXED", "-", "-", "-"),
    ("Ladder: copy_last", "-", "-", "0.21", "0.105"),
    ("Ladder: random", "-", "-", "0.01", "0.005"),
    ("phase_1: AR-only", "FAIL", "3", "0.31", "0.155"),
    ("phase_1: InfoNCE+AR", "FAIL", "3", "0.25", "0.125"),
    ("Step 1, temperature: control", "FAIL", "3", "0.25", "-"),
    ("Step 1, temperature: tau 0.2", "PASS", "3", "0.43", "-"),
    ("Step 1, temperature: tau 0.5", "FAIL", "2", "0.22", "-"),
    ("Step 1, temperature: tau 0.01", "NOT_EVALUABLE", "1", "-", "-"),
    ("Confirm temperature: tau 0.2", "PASS", "3", "0.44", "0.22"),
]
COLUMNS = [
    "attributes.`Run Name`",
    "tags.`verdict`",
    "metrics.`Epochs`",
    "metrics.`Dev cosine`",
    "metrics.`R at 5`",
]
# A row lies in several pieces, one per part of the table that scrolls by itself.
CELLS = """Object.fromEntries([...document.querySelectorAll('.ag-row .ag-cell')].map(cell =>
    [cell.closest('.ag-row').getAttribute('row-index') + ' ' + cell.getAttribute('col-id'),
     cell.innerText.trim().split('\\n').pop()]))"""
NUM_ROWS = "new Set([...document.querySelectorAll('.ag-row')].map(r => r.ariaRowIndex)).size"
# MLflow asks for a user that a store without accounts lacks, and its table uses old options.
THEIRS = ("ajax-api/2.0/mlflow/users/current", "AG Grid: since v27.1")


class Opened:
    """The page on one store."""

    def __init__(self, page: Page, address: str, state: dict[str, Any]) -> None:
        self.page, self.address, self.state = page, address, state

    def open(self, path: str, word: str) -> None:
        """Show a part of the page, and wait until a word is on it."""
        self.page.open("about:blank")
        self.page.open(f"{self.address}/#/{path}")
        self.page.wait_for(f"document.body.innerText.includes({json.dumps(word)})")

    def check(self) -> None:
        """Nothing was asked of another machine, and no error is ours."""
        asked = [url for url in self.page.requests if not url.startswith(("data:", "blob:"))]
        assert asked
        assert [url for url in asked if not url.startswith(self.address)] == []
        ours = [c for c in self.page.complaints if not any(known in c for known in THEIRS)]
        assert ours == []


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    place = tmp_path_factory.mktemp("browser")
    folder = place / "my runs" / "1"
    with mock.patch.dict(os.environ):
        for name in ("MLFLOW_TRACKING_URI", *tracking.SETTINGS):
            os.environ.pop(name, None)
        events = whole_journal(folder)
        write_checkpoint(folder, CONFIRMED)
        write_documents(folder)
        tracker = track(folder, events)
        assert tracker.problem is None
        state = json.loads((folder / "mlflow.json").read_text())
        port = free_port()
        words = [*shlex.split(tracker.ui_command())[:-1], str(port)]
        (profile := place / "profile").mkdir()
        with serving(words, port, place), chromium(profile) as page:
            page.show(width=3400, height=900)
            yield Opened(page, f"http://127.0.0.1:{port}", state)


def test_the_table_of_a_run_reads_like_the_reports(opened: Opened, tmp_path: Path) -> None:
    page, state = opened.page, opened.state
    view = f"experiments/{state['experiment']}/runs?viewStateShareKey={state['view']}"
    opened.open(view, "my runs/1")
    assert page.wait_for(NUM_ROWS) == 1  # the children are folded into their parent
    page.ask("document.querySelector('.ag-row button').click()")
    page.wait_for(f"{NUM_ROWS} == {len(TABLE)}")
    cells = page.ask(CELLS)
    found = [tuple(cells[f"{row} {column}"] for column in COLUMNS) for row in range(len(TABLE))]
    assert found == TABLE
    page.picture(tmp_path / "table.png")
    opened.check()


def test_the_description_of_a_run_gives_the_verdict(opened: Opened) -> None:
    runs = opened.state["runs"]
    opened.open(f"experiments/{opened.state['experiment']}/runs/{runs['triage']}", "holds the")
    said = opened.page.ask("document.body.innerText")
    assert "FIXED by temperature: tau 0.2 holds the success gate" in said
    assert "ladder: copy_last" in said
    links = opened.page.ask("[...document.links].map(link => link.getAttribute('href'))")
    assert any(f"viewStateShareKey={opened.state['view']}" in link for link in links)
    opened.check()


def test_the_confirmed_model_is_in_the_registry(opened: Opened) -> None:
    opened.open(f"models/{REGISTERED}", "Version 1")
    assert "confirmed" in opened.page.ask("document.body.innerText")
    opened.check()
