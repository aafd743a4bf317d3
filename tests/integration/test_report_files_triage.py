"""The report's own files lead to the verdict of the bank they were written from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_form import write_report_files

import lvm.jobs.job
from lvm.core.records import to_plain
from lvm.data.files import write_bank
from lvm.data.report_files import dataset_from_report_files
from lvm.data.windows import SPLITS, dataset_from_bank
from lvm.triage.events import ArmJudged, RunStarted
from lvm.triage.local import LocalExecutor

pytestmark = [
    pytest.mark.integration,
    # MLflow 3.17 maps two of its tables in a way that SQLAlchemy 2.1 will drop.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
]

ARTICLES, CHUNKS, CONTEXT = 80, 12, 5
TEST_ARTICLES = 10
JUDGED = ("name", "reason", "epoch", "evaluation", "stage", "gains")


class WithoutRay(LocalExecutor):
    """Takes the place of Ray: the data is what is tested here."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def start(self) -> None:
        pass

    def stop(self) -> None:
        pass


@pytest.fixture(scope="module")
def folder(make_bank, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `npz/` and `pickled/`, the report's files, and `bank/` with the same split.

    The report's format has no dev file: its reader holds out train articles. The bank is given
    exactly that split, so that the two ways in lead to the same windows.
    """
    path = tmp_path_factory.mktemp("report")
    bank = make_bank(ARTICLES, CHUNKS)
    last = ARTICLES - TEST_ARTICLES
    # The last two for dev: they go to the end of the train file, and the reader splits it anew.
    parts = {"train": range(last - 2), "dev": range(last - 2, last), "test": range(last, ARTICLES)}
    dataset = dataset_from_bank(bank, CONTEXT, parts)
    files = write_report_files(dataset, path / "npz")
    write_report_files(dataset, path / "pickled", pickled=True)
    read = dataset_from_report_files(*files, CONTEXT)
    split = {name: np.unique(read.split(name).articles).tolist() for name in SPLITS}
    write_bank(path / "bank", bank.vectors, bank.keys, {"split": split})
    return path


@pytest.fixture(scope="module")
def runs(folder: Path, world, triage) -> Iterator[dict[str, Any]]:
    """The triage of the bank and of the files in both forms, by name."""
    given = {
        "bank": ["--data", str(folder / "bank")],
        "npz": report_flags(folder / "npz", "payload.npz"),
        "pickled": report_flags(folder / "pickled", "payload.npy"),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lvm.jobs.job, "RayExecutor", WithoutRay)
        recipe = ["--recipe", str(world.recipe), "--five-steps"]
        yield {
            name: triage(
                world.runs / f"report_{name}",
                [*flags, *recipe, "--out", str(world.runs / f"report_{name}")],
            )
            for name, flags in given.items()
        }


def report_flags(folder: Path, payload: str) -> list[str]:
    names = {"--train": "train.npz", "--eval": "eval.npz", "--payload": payload}
    return [part for flag, name in names.items() for part in (flag, str(folder / name))]


@pytest.mark.parametrize("form", ["npz", "pickled"])
def test_the_verdict_is_that_of_the_bank(form: str, runs):
    def found(name: str) -> tuple[int, dict[str, Any]]:
        document = json.loads((runs[name].folder / "verdict.json").read_text())
        return runs[name].status, {key: document[key] for key in ("verdict", "cause", "ladder")}

    assert found(form) == found("bank")
    assert found("bank")[1]["verdict"] == "FIXED"
    assert found("bank")[1]["cause"] == "projection_head"


def without_outlook(value: Any) -> Any:
    """Leave out of gates how many more documents it takes: files of windows do not say of what."""
    if isinstance(value, list):
        return [without_outlook(one) for one in value]
    if not isinstance(value, dict):
        return value
    kept = {
        key: one for key, one in value.items() if key not in ("articles_needed", "articles_range")
    }
    if "gate" in value:
        kept["reason"] = value["reason"].split("; for an 80 % chance")[0]
    return {key: without_outlook(one) for key, one in kept.items()}


@pytest.mark.parametrize("form", ["npz", "pickled"])
def test_every_arm_is_judged_as_from_the_bank(form: str, runs):
    def judged(name: str) -> list[dict[str, Any]]:
        return [
            {key: without_outlook(to_plain(getattr(event, key))) for key in JUDGED}
            for event in runs[name].of(ArmJudged)
        ]

    assert len(judged("bank")) == 12
    assert judged(form) == judged("bank")


@pytest.mark.parametrize("form", ["npz", "pickled"])
def test_the_run_says_where_its_data_came_from(form: str, runs):
    (started,) = runs[form].of(RunStarted)
    (from_bank,) = runs["bank"].of(RunStarted)
    for key in ("rows", "width", "windows", "articles", "fingerprint"):
        assert getattr(started.data, key) == getattr(from_bank.data, key)
    assert started.arguments.train.endswith(f"{form}/train.npz")
    assert started.arguments.data is None
    assert Path(started.arguments.payload).is_file()


def test_a_run_of_the_files_can_be_resumed(runs, triage):
    run = runs["pickled"]
    again = triage(run.folder, ["--resume", str(run.folder)])
    assert (again.status, again.printed) == (run.status, run.printed)
