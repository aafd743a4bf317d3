"""Arms trained by a person's own script, in this process: what it writes, and how it may break."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import sys
import threading
import time
from pathlib import Path

import msgspec
import numpy as np
import own_trainer
import pytest
import tiny
import worlds
from own_trainer import processes_in

from lvm.core.config.read_steps import own_steps_of
from lvm.core.config.run import GateConfig
from lvm.core.errors import NonFiniteLossError, TrainerDiedError, TrainerError
from lvm.core.records import RunVerdict, StopReason, Verdict
from lvm.core.trainer import TrainerConfig
from lvm.evaluation.metrics import PerQuery
from lvm.jobs.options import TriageOptions
from lvm.jobs.steps import chosen_steps
from lvm.training.own import loop
from lvm.triage.arm import ArmSpec, dev_file
from lvm.triage.endings import failure_of
from lvm.triage.events import ArmJudged, StepEnded, StepStarted
from lvm.triage.own_arm import run_trial
from lvm.triage.step import Role
from lvm.triage.verdict import build_verdict

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]


def spec_of(run: Path, recipe, **more) -> ArmSpec:
    return ArmSpec(
        id="one",
        step="temperature",
        name="temperature 0.10",
        role=Role.ARM,
        recipe=recipe,
        folder=run / "arms" / "one",
        gates=GateConfig(),
        **more,
    )


def without_times(records):
    return [msgspec.structs.replace(record, seconds=0.0) for record in records]


def test_an_arm_is_judged_by_what_its_script_predicts(tiny_dataset, tmp_path) -> None:
    recipe = own_trainer.copying(tmp_path / "run")
    spec = spec_of(tmp_path / "run", recipe, evaluate_test=True)
    records = list(run_trial(spec, tiny_dataset))
    assert [r.epoch for r in records] == [1, 2, 3]
    assert [r.loss for r in records] == [1, 1 / 2, 1 / 3]
    rows, dev = tiny_dataset.bank.rows(tiny_dataset.dev.contexts[:, -1]), tiny_dataset.dev
    cosine = (rows * tiny_dataset.bank.rows(dev.targets)).sum(axis=1).mean()
    assert records[0].eval_cosine == pytest.approx(float(cosine), abs=1e-5)
    assert len(PerQuery.load(dev_file(spec.folder, 3))) == len(dev)
    test = json.loads((spec.folder / "test.json").read_text())
    assert test["evaluation"]["num_windows"] == len(tiny_dataset.test)
    assert test["evidence"]["windows"]
    assert not list((spec.folder / "own").glob("dev_*"))  # what counts is kept per query
    log = (spec.folder / "trainer.log").read_text()
    assert log.startswith(f"$ {sys.executable} {tmp_path}/run/trainer/copy.py 3 ")
    assert processes_in(tmp_path) == []


def test_an_arm_goes_on_after_its_last_epoch(tiny_dataset, tmp_path) -> None:
    whole = spec_of(tmp_path / "whole", own_trainer.copying(tmp_path / "whole"), evaluate_test=True)
    expected = list(run_trial(whole, tiny_dataset))
    recipe = own_trainer.copying(tmp_path / "run")
    spec = spec_of(tmp_path / "run", recipe, evaluate_test=True)
    part = run_trial(spec, tiny_dataset)
    assert without_times([next(part)]) == without_times(expected[:1])
    part.close()
    assert processes_in(tmp_path) == []
    with (spec.folder / "own" / "epochs.jsonl").open("a") as lines:
        lines.write('{"epoch": 2, "lo')  # a kill amid a line
    again = list(run_trial(spec, tiny_dataset))
    assert without_times(again) == without_times(expected)
    before = (spec.folder / "trainer.log").stat().st_size
    assert list(run_trial(spec, tiny_dataset)) == again  # all of it was there
    assert (spec.folder / "trainer.log").stat().st_size == before


def test_an_epoch_that_was_written_before_a_kill_is_taken_after_it(tiny_dataset, tmp_path) -> None:
    """The kill comes between the line of an epoch and its record; the script begins again after."""
    recipe = own_trainer.copying(tmp_path / "run")
    spec = spec_of(tmp_path / "run", recipe, evaluate_test=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "write_epochs", killed)
        with pytest.raises(KeyboardInterrupt):
            list(run_trial(spec, tiny_dataset))
    assert (spec.folder / "own" / "dev_001.npz").exists()
    words = [*recipe.trainer.command[:5], "2", *recipe.trainer.command[6:]]
    later = recipe.with_changes({"trainer.command": words})  # goes on at epoch 2
    records = list(run_trial(dataclasses.replace(spec, recipe=later), tiny_dataset))
    assert [record.epoch for record in records] == [1, 2, 3]


def killed(*args: object) -> None:
    raise KeyboardInterrupt


def test_a_training_waits_for_an_earlier_one_of_its_arm(tiny_dataset, tmp_path) -> None:
    spec = spec_of(tmp_path / "run", own_trainer.copying(tmp_path / "run"))
    spec.folder.mkdir(parents=True)
    with (spec.folder / "trainer.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        threading.Timer(1.0, lambda: fcntl.flock(lock, fcntl.LOCK_UN)).start()
        started = time.monotonic()
        assert len(list(run_trial(spec, tiny_dataset))) == 3
        assert time.monotonic() - started >= 1


def test_a_script_stands_still_until_its_next_epoch_is_asked_for(tiny_dataset, tmp_path) -> None:
    recipe = own_trainer.copying(tmp_path / "run", "time.sleep(0.3)", **{"training.epochs": 9})
    spec = spec_of(tmp_path / "run", recipe)
    records = run_trial(spec, tiny_dataset)
    next(records)
    time.sleep(1.5)
    lines = (spec.folder / "own" / "epochs.jsonl").read_text().splitlines()
    assert len(lines) <= 2
    assert next(records).epoch == 2
    assert next(records).epoch == 3
    records.close()
    assert processes_in(tmp_path) == []


BROKEN = {
    "no epochs": ("sys.exit()", "pass", TrainerError, "ended without an error after 0 of 3"),
    "exit 1": ("sys.exit('no such layer')", "pass", TrainerDiedError, "ends: no such layer"),
    "killed": ("os.kill(os.getpid(), 9)", "pass", TrainerDiedError, "was killed by signal 9"),
    "exit 1 at the end": ("pass", "sys.exit('late')", TrainerDiedError, "after its last epoch"),
    "no predictions": (
        "os.remove(folder / f'dev_{epoch:03d}.npz')",
        "pass",
        TrainerError,
        "dev_001.npz was not written",
    ),
    "no test": ("pass", "os.remove(folder / 'test.npz')", TrainerError, "test.npz was not written"),
    "other windows": (
        "save(folder / f'dev_{epoch:03d}.npz', 'train')",
        "pass",
        TrainerError,
        "dev_001.npz is for other windows",
    ),
    "other order": (
        "d = dict(np.load(windows / 'dev.npz')); "
        "np.savez(folder / f'dev_{epoch:03d}.npz', "
        "predictions=d['contexts'][::-1, -1], ids=d['ids'][::-1])",
        "pass",
        TrainerError,
        "in another order",
    ),
    "not finite": (
        "d = dict(np.load(windows / 'dev.npz')); "
        "np.savez(folder / f'dev_{epoch:03d}.npz', "
        "predictions=d['contexts'][:, -1] * np.nan, ids=d['ids'])",
        "pass",
        NonFiniteLossError,
        "zero or not finite",
    ),
    "no line": (
        "open(folder / 'epochs.jsonl', 'w').write('epoch 1\\n')",
        "pass",
        TrainerError,
        "line 1 of epochs.jsonl is 'epoch 1', expected JSON",
    ),
    "a loss of NaN": (
        "open(folder / 'epochs.jsonl', 'w').write('{\"epoch\": 1, \"loss\": NaN}\\n')",
        "pass",
        NonFiniteLossError,
        "a loss of nan",
    ),
    "an epoch left out": ("epoch += 1", "pass", TrainerError, "wrote epoch 2 where 1 comes next"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_script_ends_its_arm_with_one_sentence(name, tiny_dataset, tmp_path) -> None:
    act, last, kind, said = BROKEN[name]
    spec = spec_of(tmp_path / "run", own_trainer.copying(tmp_path / "run", act, last))
    with pytest.raises(kind) as error:
        list(run_trial(spec, tiny_dataset))
    text = str(error.value)
    assert text.startswith("the trainer of temperature, temperature 0.10: ")
    assert said in text
    assert "trainer.log" in text
    assert "\n" not in text
    assert processes_in(tmp_path) == []
    reason = failure_of(error.value, spec.folder).reason
    wanted = {
        TrainerError: StopReason.NOT_EVALUABLE,
        TrainerDiedError: StopReason.CRASHED,  # no evidence on the arm: tried again
        NonFiniteLossError: StopReason.DIVERGED,
    }
    assert reason is wanted[kind]


def test_a_command_that_is_not_there_is_named(tiny_dataset, tmp_path) -> None:
    recipe = own_trainer.copying(tmp_path / "run")
    words = ("no-such-program", *recipe.trainer.command[1:])
    recipe = recipe.with_changes({"trainer.command": list(words)})
    with pytest.raises(TrainerDiedError, match=r"cannot be run \(no-such-program: No such"):
        list(run_trial(spec_of(tmp_path / "run", recipe), tiny_dataset))


DEAF = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"
CHILD = "subprocess.Popen(['sh', '-c', 'sleep 600; : ' + str(folder)], start_new_session=True)"


def test_a_script_that_ignores_the_signal_is_killed_with_its_children(
    tiny_dataset, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(loop, "GRACE_SECONDS", 0.5)
    act = f"{DEAF}; {CHILD}; time.sleep(0.3)"  # or it might end before it is made to wait
    recipe = own_trainer.copying(tmp_path / "run", act)
    records = run_trial(spec_of(tmp_path / "run", recipe), tiny_dataset)
    next(records)
    assert len(processes_in(tmp_path)) >= 3  # keeper, script, child
    records.close()
    assert processes_in(tmp_path) == []


def test_children_that_a_script_leaves_behind_are_ended(tiny_dataset, tmp_path) -> None:
    recipe = own_trainer.copying(tmp_path / "run", last=CHILD)
    assert len(list(run_trial(spec_of(tmp_path / "run", recipe), tiny_dataset))) == 3
    assert processes_in(tmp_path) == []


@pytest.mark.parametrize("mistake", own_trainer.MISTAKES)
def test_a_planted_mistake_is_fixed_by_its_step(mistake, tmp_path) -> None:
    config = own_trainer.planted(tmp_path / "home", mistake, seed=0)
    digests = own_trainer.prepared(tmp_path / "run", tmp_path / "home", config.recipe.trainer)
    world = worlds.planted(0)
    stop, journal = tiny.triage(tmp_path / "run", world.dataset, config, trainer=digests)
    assert (stop.verdict, stop.cause) == (RunVerdict.FIXED, (mistake,))
    arms = [arm for e in journal.events.of(StepStarted) for arm in e.arms]
    assert len({arm.id for arm in arms}) == len(list((tmp_path / "run" / "arms").iterdir()))
    assert np.all([arm.workers == 1 for arm in arms])


def test_arms_whose_change_a_script_ignores_are_no_evidence(tiny_dataset, tmp_path) -> None:
    """It is handed the weight and copies the last vector whatever that is, to the last bit."""
    recipe = own_trainer.copying(tmp_path / "run")
    digests = own_trainer.prepared(tmp_path / "run", tmp_path / "run_home", recipe.trainer)
    arms = [{"name": str(w), "changes": {"objective.contrastive_weight": w}} for w in (0.5, 0.9)]
    own = own_steps_of([{"name": "weight", "question": "Is it the weight?", "arms": arms}])
    config = dataclasses.replace(tiny.config(stage=0.99), recipe=recipe, steps=own)
    steps = chosen_steps(TriageOptions(steps=("weight",)), config).steps
    stop, journal = tiny.triage(
        tmp_path / "run", tiny_dataset, config, steps=steps, trainer=digests
    )
    judged = [e for e in journal.events.of(ArmJudged) if e.role == "arm"]
    assert len(judged) == 2
    for event in judged:
        assert event.stage.verdict is Verdict.NOT_EVALUABLE
        assert "objective.contrastive_weight" in event.stage.reason
        assert event.gains == []
    (ended,) = journal.events.of(StepEnded)
    assert (ended.stage, ended.candidate, ended.kept) == (Verdict.NOT_EVALUABLE, None, None)
    assert stop.verdict is RunVerdict.INCONCLUSIVE
    claimed = {h.id: h.status for h in build_verdict(journal.events, resume="").hypotheses}
    assert claimed["weight"] not in ("refuted", "confirmed")


FUNCTION = """
import json
import numpy as np
import helper

def train(recipe, folder, windows):
    helper.check(recipe)
    for epoch in range(1, recipe["training.epochs"] + 1):
        for split in ("dev", "test"):
            found = np.load(windows / f"{split}.npz")
            name = f"dev_{epoch:03d}.npz" if split == "dev" else "test.npz"
            np.savez(folder / name, predictions=found["contexts"][:, -1], ids=found["ids"])
        with open(folder / "epochs.jsonl", "a") as lines:
            lines.write(json.dumps({"epoch": epoch}) + chr(10))
"""


def test_a_function_is_called_with_the_keys_that_it_names(tiny_dataset, tmp_path) -> None:
    home, run = tmp_path / "home", tmp_path / "run"
    home.mkdir()
    (home / "my_module.py").write_text(FUNCTION)
    keys = ("objective.contrastive_weight", "training.epochs")
    (home / "helper.py").write_text(f"def check(recipe): assert tuple(recipe) == {keys}, recipe\n")
    trainer = TrainerConfig(call="my_module:train", keys=keys)
    assert set(own_trainer.prepared(run, home, trainer)) == {"my_module.py", "helper.py"}
    recipe = dataclasses.replace(tiny.recipe(), trainer=trainer)
    records = list(run_trial(spec_of(run, recipe, evaluate_test=True), tiny_dataset))
    assert [record.epoch for record in records] == [1, 2, 3]
    assert records[0].loss is None


def test_a_function_that_is_not_there_is_named(tiny_dataset, tmp_path) -> None:
    trainer = TrainerConfig(call="my_module:absent")
    (tmp_path / "my_module.py").write_text("")
    own_trainer.prepared(tmp_path / "run", tmp_path, trainer)
    recipe = dataclasses.replace(tiny.recipe(), trainer=trainer)
    with pytest.raises(TrainerDiedError, match="has no attribute 'absent'"):
        list(run_trial(spec_of(tmp_path / "run", recipe), tiny_dataset))
