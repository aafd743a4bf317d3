from __future__ import annotations

import json

import pytest
import tiny
import torch

from lvm.triage.journal import Journal, read_journal
from lvm.triage.verdict import build_verdict

CONFIG = tiny.config(base=tiny.recipe(**{"training.epochs": 2}), stage=0.3)


@pytest.fixture(scope="module")
def events(tmp_path_factory, tiny_dataset):
    threads = torch.get_num_threads()
    folder = tmp_path_factory.mktemp("run")
    tiny.triage(folder, tiny_dataset, CONFIG, num_steps=2)
    torch.set_num_threads(threads)
    return list(read_journal(folder))


def kind(events, name):
    return [e for e in events if e["event"] == name]


def test_the_document_is_json_and_repeats_the_journal(events) -> None:
    document = build_verdict(events, resume="again")
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    stop = kind(events, "decision")[-1]
    assert (document["schema"], document["resume"]) == (1, "again")
    assert (document["verdict"], document["since"]) == (stop["verdict"], stop["since"])
    assert (document["cause"], document["arm"]) == (None, None)
    assert document["headline"].startswith(stop["verdict"])
    assert [s["step"] for s in document["steps"]] == ["projection_head", "temperature"]
    judged = {(e["step"], e["arm"]): e for e in kind(events, "arm_judged")}
    for step in document["steps"]:
        for arm in step["arms"]:
            event = judged[step["step"], arm["id"]]
            assert arm["evaluation"] == event["evaluation"]
            assert (arm["reason"], arm["stage"]) == (event["reason"], event["stage"])
    tested = kind(events, "test_judged")
    assert [m["arm"] for m in document["models"]] == [e["arm"] for e in tested]
    assert [m["masked"] for m in document["models"]] == [e["evaluation"]["masked"] for e in tested]
    assert document["phase1"]["verdict"] == kind(events, "phase_1_judged")[0]["verdict"]
    assert {m["name"] for m in document["phase1"]["arms"]} == {"AR-only", "InfoNCE+AR"}
    ladder = next(e for e in kind(events, "ladder") if e["split"] == "test")
    assert document["ladder"] == ladder["rows"]


def test_compute_is_the_sum_of_the_epochs(events) -> None:
    compute = build_verdict(events, resume="")["compute"]
    epochs = kind(events, "epoch")
    assert len({(e["arm"], e["epoch"]) for e in epochs}) == len(epochs)
    assert compute["train_seconds"] == pytest.approx(sum(e["seconds"] for e in epochs), abs=0.06)
    assert compute["trials"] == len({e["arm"] for e in epochs})


def test_saved_seconds_are_the_epochs_that_early_stopping_did_not_run() -> None:
    def spec(arm, epochs, source=None):
        return {"id": arm, "source": source, "recipe": {"training": {"epochs": epochs}}}

    started = {"event": "step_started", "at": 0.0, "step": "s", "arms": [
        spec("pruned", 10), spec("finished", 4), spec("searched", 9, source="x"),
    ]}  # fmt: skip
    epochs = [
        {"event": "epoch", "at": 1.0, "arm": arm, "epoch": i, "seconds": 2.0}
        for arm, n in (("pruned", 3), ("finished", 4))
        for i in range(1, n + 1)
    ]
    searched = {"event": "epoch", "at": 9.5, "arm": "searched", "epoch": 0, "seconds": 0.0}
    compute = build_verdict([started, *epochs, searched], resume="")["compute"]
    assert compute == {
        "train_seconds": 14.0, "trials": 3, "saved_seconds": 14.0, "wall_seconds": 9.5,
    }  # fmt: skip


def test_every_prefix_of_a_journal_gives_an_unfinished_document(events) -> None:
    for cut in range(1, len(events) - 1):
        document = build_verdict(events[:cut], resume="again")
        assert document["verdict"] is None
        assert document["headline"].startswith("UNFINISHED")
        json.dumps(document, allow_nan=False)


def fixed(folder, *, cosine, ladder):
    """A run whose second step, on top of the first, passed."""
    journal = Journal(folder)
    recipe = {"training": {"epochs": 2}}
    spec = {"id": "abc", "source": None, "folder": "/f/abc", "recipe": recipe}
    metrics = {"r_at_5": 0.5, "eval_cosine": cosine}
    evaluation = {
        "space": "raw", "pool": {}, "num_windows": 1, "num_articles": 1, "masked": metrics,
        "raw": metrics,
    }  # fmt: skip
    rows = {
        name: {"masked": {"r_at_5": 0.1, "eval_cosine": value}} for name, value in ladder.items()
    }
    gate = {"gate": "success", "metric": "mrr", "verdict": "PASS", "reason": "clear"}
    journal.append("run_started", schema=1)
    journal.append("ladder", split="test", rows=rows)
    journal.append("step_started", step="confirm_two", arms=[spec])
    journal.append(
        "test_judged", arm="abc", name="arm two", role="confirm", evaluation=evaluation, epochs=2
    )
    journal.append(
        "confirmed", step="two", arm="arm two", verdict="PASS", gates=[gate], spec="abc",
        run_as="confirm_two",
    )  # fmt: skip
    journal.append(
        "decision", action="Stop", number=5, verdict="FIXED", cause=["one", "two"], since="it holds"
    )
    return build_verdict(journal.events, resume="r")


def test_a_fix_names_its_cause_its_arm_and_its_checkpoint(tmp_path) -> None:
    document = fixed(tmp_path, cosine=0.6, ladder={"copy_last": 0.4, "oracle": 1.0})
    assert (document["verdict"], document["cause"]) == ("FIXED", "one+two")
    assert document["arm"]["checkpoint"] == "/f/abc/checkpoint"
    assert (document["arm"]["name"], document["arm"]["step"]) == ("arm two", "two")
    assert "one+two" in document["headline"]
    assert document["warnings"] == []


def test_a_fix_that_does_not_beat_the_ladder_says_so(tmp_path) -> None:
    document = fixed(tmp_path, cosine=0.3, ladder={"copy_last": 0.4, "ridge": 0.5, "oracle": 1.0})
    (warning,) = document["warnings"]
    assert "cosine 0.300" in warning
    assert "ridge 0.500" in warning
    assert "copy_last 0.400" in warning
    assert "oracle" not in warning
