"""Data and recipes so small that a whole triage takes seconds; also used by processes of tests."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import jaxtyping
import numpy as np

from lvm.core.config.plain import to_dict
from lvm.core.config.recipe import HeadConfig, ModelConfig, Recipe, TrainingConfig
from lvm.core.config.run import GateConfig, RunConfig, ScheduleConfig
from lvm.core.records import to_plain
from lvm.data.bank import Bank
from lvm.data.windows import Dataset, dataset_from_bank
from lvm.triage import arm
from lvm.triage.actions import Stop
from lvm.triage.events import (
    ArmJudged,
    Confirmed,
    Decision,
    Phase1Judged,
    RunStarted,
    StepEnded,
    TestJudged,
    event_of,
    kind_of,
)
from lvm.triage.journal import SCHEMA, Journal
from lvm.triage.local import LocalExecutor
from lvm.triage.request import Request
from lvm.triage.step import steps_in_order
from lvm.triage.triage import Triage

WIDTH = 16
ARTICLES, CHUNKS = 60, 9  # six or more articles in every split: fewer settle no gate
NOISE = 0.25  # length of the noise that each turn adds to a unit vector
LATENCY_QUERIES = 2  # timed one by one; a hundred of them cost more than all epochs of an arm


def bank(seed: int = 0, articles: int = ARTICLES, chunks: int = CHUNKS) -> Bank:
    """Articles that walk along one shared rotation: the next vector can be learned."""
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.standard_normal((WIDTH, WIDTH)))[0]
    rows, keys = [], []
    for article in range(articles):
        vector = rng.standard_normal(WIDTH)
        for chunk in range(chunks):
            vector = vector / np.linalg.norm(vector)
            rows.append(vector)
            keys.append((article, chunk))
            vector = rotation @ vector + NOISE * rng.standard_normal(WIDTH) / WIDTH**0.5
    return Bank(np.array(rows, dtype=np.float32), np.array(keys, dtype=np.int32))


def dataset(of: Bank | None = None) -> Dataset:
    """Windows of 5 contexts and the splits of the tiny bank."""
    return dataset_from_bank(of or bank(), 5)


def recipe(**changes: Any) -> Recipe:
    """A recipe with a head, small in every dimension; `changes` are dotted keys with _ for dots."""
    base = Recipe(
        model=ModelConfig(hidden=32, num_layers=1, state=8, head_dim=16),
        head=HeadConfig(hidden=16, width=8),
        training=TrainingConfig(epochs=3, batch_size=32, learning_rate=5e-3),
    )
    return base.with_changes(changes)


def config(*, base: Recipe | None = None, stage: float = 0.35, epochs: int = 2) -> RunConfig:
    """A triage of `epochs` per step, rungs from the first epoch on, cheap intervals."""
    return RunConfig(
        recipe=base or recipe(),
        gates=GateConfig(stage_eval_cosine=stage),
        schedule=ScheduleConfig(
            short_epochs=epochs, long_epochs=epochs, first_rung=1, confirm_workers=1
        ),
    )


def started(run_config: RunConfig) -> dict[str, Any]:
    """What a command writes of a run at its start."""
    return {
        "schema": SCHEMA,
        "command": "python tune_jobs/triage.py --out here",
        "arguments": {},
        "code": "1",
        "commit": None,
        "config": to_dict(run_config),
        "plan": [],
        "environment": {"versions": {}, "platform": "here", "cpus": 1, "memory_gib": 1.0},
        "data": {
            "source": "a bank",
            "rows": 360,
            "width": 16,
            "fingerprint": None,
            "windows": {},
            "articles": {},
        },
    }


def triage(
    out: Path,
    data: Dataset,
    run_config: RunConfig,
    *,
    num_steps: int = 5,
    note: Any = None,
    **request: Any,
) -> tuple[Stop, Journal]:
    """Run or resume a triage in `out`; `note(journal, event)` writes, or refuses to."""
    out.mkdir(parents=True, exist_ok=True)
    journal = Journal(out)
    if not journal.events:
        journal.append(event_of(RunStarted, **started(run_config)))
    request.setdefault("steps", steps_in_order()[:num_steps])
    asked = Request(config=run_config, out=out, code="test", **request)

    write = journal.append if note is None else functools.partial(note, journal)
    walk = Triage(asked, data, LocalExecutor(), journal, write)
    with mock.patch.object(arm, "MAX_LATENCY_QUERIES", LATENCY_QUERIES):
        return walk.run(), journal


@contextlib.contextmanager
def shapes_known() -> Iterator[None]:
    """Leave out the checks of shapes, half the cost of a small model, where they were checked."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)


def records(training: Iterator[Any]) -> list[Any]:
    """Train to the end; later epochs have the shapes of the first one."""
    found = [next(training)]
    with shapes_known():
        return [*found, *training]


TIMINGS = {"at", "seconds", "wall", "train_seconds", "latency", "ann", "p50_ms", "p95_ms"}


def measured(value: Any) -> Any:
    """Drop what a clock or a folder decides from a journal event; what is left must repeat."""
    if isinstance(value, dict):
        return {k: measured(v) for k, v in value.items() if k not in TIMINGS}
    return [measured(item) for item in value] if isinstance(value, list) else value


JUDGED = (ArmJudged, TestJudged, Phase1Judged, Confirmed, StepEnded, Decision)


def judged(journal: Journal) -> dict[str, Any]:
    """Return every judgement of a run by its place in the tree, without timings."""
    found: dict[str, Any] = {}
    for event in journal.events:
        if isinstance(event, JUDGED):
            plain = to_plain(event)
            names = [str(plain.get(key)) for key in ("step", "name", "arm", "number")]
            found["/".join((kind_of(event), *names))] = measured(plain)
    return found
