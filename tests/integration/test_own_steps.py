"""The steps of the page on own steps, in a world where the remedy is known: are they the cause?"""

from __future__ import annotations

import re
from pathlib import Path
from unittest import mock

import pytest
import tiny
import worlds

from lvm.core.config.read import load_run_config
from lvm.core.records import RunVerdict
from lvm.jobs.options import TriageOptions
from lvm.jobs.steps import chosen_steps
from lvm.triage import arm
from lvm.triage.events import RunStarted, event_of
from lvm.triage.importance import swept
from lvm.triage.journal import Journal
from lvm.triage.local import LocalExecutor
from lvm.triage.request import Request
from lvm.triage.triage import Triage
from lvm.triage.verdict import build_verdict

pytestmark = pytest.mark.integration  # a whole triage, for its seconds; it starts no process

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/your-steps.md").read_text()
WRONG = (ROOT / "lvm/recipes/wrong_temperature.toml").read_text()


def test_a_sweep_of_the_page_finds_what_is_wrong_with_a_recipe(tmp_path) -> None:
    example = re.search(r"```toml\n(.*?)```", PAGE, flags=re.S)
    (tmp_path / "recipe.toml").write_text(WRONG + example.group(1))
    config = load_run_config(tmp_path / "recipe.toml", worlds.base_config(0))
    chosen = chosen_steps(TriageOptions(steps=("pace", "sharpness")), config)
    assert [step.name for step in chosen.steps] == ["pace", "sharpness"]
    journal = Journal(tmp_path / "run")
    journal.append(event_of(RunStarted, **tiny.started(config)))
    request = Request(config=config, out=journal.folder, steps=chosen.steps, code="test")
    with mock.patch.object(arm, "MAX_LATENCY_QUERIES", tiny.LATENCY_QUERIES):
        data = worlds.planted(0).dataset
        Triage(request, data, LocalExecutor(), journal, journal.append).run()

    document = build_verdict(journal.events, resume="again")
    assert document.verdict == RunVerdict.FIXED
    assert document.cause.split("+")[0] == "sharpness"  # a pace that beat its control is carried
    assert document.arm.step == "sharpness"
    assert document.arm.recipe.objective.temperature > 0.02
    claimed = {entry.id: entry.status for entry in document.hypotheses}
    assert claimed["sharpness"] == "confirmed"
    assert claimed["pace"] in {"confirmed", "refuted", "inconclusive"}
    assert len(swept(journal.events, "sharpness").arms) == 6
