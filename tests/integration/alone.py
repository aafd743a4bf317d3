"""The same triage without Ray, in this process, and what is compared with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lvm.core.provenance import code_version
from lvm.data.load import DataRequest, load_dataset
from lvm.jobs.presets import load_config
from lvm.triage.events import ArmJudged, Event
from lvm.triage.journal import Journal
from lvm.triage.local import LocalExecutor
from lvm.triage.request import Request
from lvm.triage.step import steps_in_order
from lvm.triage.triage import Triage


def alone(bank: Path, recipe: Path, folder: Path, *, reported_only: bool = False) -> list[Event]:
    """Run a triage without Ray, as with `--five-steps` or without; return its events."""
    config = load_config("laptop", recipe)
    dataset, _ = load_dataset(DataRequest(bank=bank), config.recipe.context_length)
    request = Request(
        config=config,
        out=folder,
        steps=steps_in_order(reported_only=reported_only),
        code=code_version(),
        reported_only=reported_only,
    )
    journal = Journal(folder)
    Triage(request, dataset, LocalExecutor(), journal, journal.append).run()
    return list(journal.events)


def measured(events: Sequence[Event]) -> dict[tuple[str, str], Any]:
    """Return verdicts and metrics by step and arm; two workers add in another order than one."""
    return {
        (e.step, e.name): (
            e.reason,
            e.epoch,
            e.stage.verdict,
            {k: pytest.approx(v, abs=1e-3) for k, v in e.evaluation.masked.items()},
        )
        for e in events
        if isinstance(e, ArmJudged) and e.evaluation is not None
    }
