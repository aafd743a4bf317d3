"""What only another process can show: lazy imports, repeatable numbers, several workers."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pretend
import pytest
import tiny
import torch
import torch.multiprocessing

from lvm.core.config.plain import fingerprint
from lvm.core.errors import NonFiniteLossError
from lvm.jobs.presets import PRESETS, preset
from lvm.training import epochs, loop
from lvm.training.checkpoint import load_checkpoint

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

TESTS = Path(__file__).resolve().parents[1]
HEAVY = ("ray", "mlflow", "faiss", "sentence_transformers", "mamba_ssm", "matplotlib")


def start(program: str, *arguments: object, hash_seed: int = 0) -> subprocess.Popen[str]:
    environment = os.environ | {
        "PYTHONPATH": str(TESTS),
        "PYTHONHASHSEED": str(hash_seed),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program, *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def answer(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=110)
    assert process.returncode == 0, err
    return out


def test_the_core_imports_no_heavy_package() -> None:
    program = (
        "import sys, lvm.training.loop, lvm.triage.local, lvm.evaluation.evaluate\n"
        f"print(*(name for name in {HEAVY!r} if name in sys.modules))"
    )
    assert answer(start(program)).split() == []


TRIAGE = """
import json, sys
from pathlib import Path
for name in sys.argv[3].split():
    sys.modules[name] = None  # import raises ImportError
import tiny
config = tiny.config(base=tiny.recipe(**{"training.epochs": 2}), stage=0.3)
stop, journal = tiny.triage(Path(sys.argv[1]), tiny.dataset(), config, num_steps=int(sys.argv[2]))
print(json.dumps([str(stop.verdict), tiny.judged(journal)]))
"""


def test_a_triage_repeats_to_the_last_digit_and_needs_no_heavy_package(tmp_path) -> None:
    """Twice in the same place, with other hash seeds; the second process lacks every heavy one."""
    whole = start(TRIAGE, tmp_path / "run", 3, "", hash_seed=1)
    verdict, judged = json.loads(answer(whole))
    (tmp_path / "run").rename(tmp_path / "first")
    blocked = start(TRIAGE, tmp_path / "run", 3, " ".join(HEAVY), hash_seed=2)
    verdict_blocked, judged_blocked = json.loads(answer(blocked))
    assert verdict == verdict_blocked
    assert judged.keys() == judged_blocked.keys()
    assert sum(key.startswith("arm_judged") for key in judged) >= 10
    for key, event in judged.items():
        assert event == judged_blocked[key], key
    stored = (tmp_path / "first" / "arms").glob("*/test.json")
    assert all(json.loads(path.read_text())["ann"] for path in stored)  # measured where it can be


def test_fingerprints_are_the_same_in_another_process() -> None:
    program = (
        "from lvm.core.config.plain import fingerprint\n"
        "from lvm.jobs.presets import PRESETS, preset\n"
        "print(*(fingerprint(preset(n)) for n in sorted(PRESETS)), fingerprint({'b': 1, 'a': [2]}))"
    )
    here = [fingerprint(preset(n)) for n in sorted(PRESETS)] + [fingerprint({"a": [2], "b": 1})]
    assert answer(start(program, hash_seed=77)).split() == here
    assert len(set(here)) == 4


RESUMED = """
import sys
from itertools import islice
from pathlib import Path
import tiny
from lvm.training.loop import train
recipe = tiny.recipe(**{"training.epochs": 4, "model.dropout": 0.1, "negatives.random": 2})
epochs = int(sys.argv[2]) or None
list(islice(train(recipe, tiny.dataset(), Path(sys.argv[1]), validate=lambda p, e: {}), epochs))
"""


def test_a_training_that_goes_on_in_another_process_is_bit_for_bit(tmp_path) -> None:
    whole = start(RESUMED, tmp_path / "whole", 0)
    answer(start(RESUMED, tmp_path / "parts", 2, hash_seed=1))
    answer(start(RESUMED, tmp_path / "parts", 0, hash_seed=2))
    answer(whole)
    one, two = (
        (tmp_path / name / "checkpoint" / "model.safetensors").read_bytes()
        for name in ("whole", "parts")
    )
    assert one == two


ON_A_GPU = """
import json, sys
from pathlib import Path
from unittest import mock
import pretend, tiny, torch
from lvm.core.config.run import GateConfig
from lvm.core.device import claim
from lvm.triage import arm, probe
from lvm.triage.arm import ArmSpec, run_arm
from lvm.triage.step import Role
torch.set_num_threads(1)
pretend.device()
def run(device, epochs):
    recipe = tiny.recipe(**{"training.epochs": 2, "search_space": "projected"})
    spec = ArmSpec(id=device, step="s", name=device, role=Role.PHASE1, recipe=recipe,
                   folder=Path(sys.argv[1]) / device, gates=GateConfig(),
                   device=device, evaluate_test=True)
    records = run_arm(spec, tiny.dataset())
    return [next(records).record() for _ in range(epochs)]
with mock.patch.object(arm, "MAX_LATENCY_QUERIES", 2):
    on_cpu = run("cpu", 2)
    with pretend.gpu():
        run("pretend", 1)  # and goes on from its checkpoint
        on_gpu = run("pretend", 2)
        data, place = tiny.dataset(), lambda wanted: claim("pretend")
        with mock.patch.multiple(probe, claim_if_there=place, _start_seconds=lambda: 1.0):
            costs = probe._probe(tiny.config(), data, [], 1.0)
least = min(costs.dev, costs.test, costs.update[""])
print(json.dumps([on_cpu, on_gpu, least, len(data.bank._on_gpu)]))
"""


def test_an_arm_on_a_gpu_is_the_arm_on_a_cpu(tmp_path) -> None:
    """From its first update over a resume to its look at test, on a GPU that is pretended."""
    on_cpu, on_gpu, probed, banks_left = json.loads(answer(start(ON_A_GPU, tmp_path)))
    keys = ("epoch", "loss", "contrastive", "ar", "gradient_norm", "eval_cosine", "r_at_5", "mrr")
    for alone, there in zip(on_cpu, on_gpu, strict=True):
        assert {k: there[k] for k in keys} == pytest.approx({k: alone[k] for k in keys}, abs=1e-5)
        assert there["health"] == pytest.approx(alone["health"], rel=1e-3, abs=1e-5)
    ours, theirs = (
        json.loads((tmp_path / device / "test.json").read_text()) for device in ("pretend", "cpu")
    )
    for space, found in theirs["evidence"]["spaces"].items():
        assert ours["evidence"]["spaces"][space]["closer"] == found["closer"]
    for mask in ("masked", "raw"):
        found = theirs["evaluation"][mask]
        assert ours["evaluation"][mask] == pytest.approx(found, abs=1e-5)
    assert ours["ann"] == pytest.approx(theirs["ann"], abs=1e-5)
    assert set(ours["evaluation"]["latency"]) == {"p50_ms", "p95_ms"}
    assert probed > 0
    assert banks_left == 0  # a driver that timed the GPU leaves its room to the arms


# --- two workers ---------------------------------------------------------------------------------

SHARED = {
    "training.epochs": 2,
    "objective.mmd_weight": 0.3,
    "negatives.same_article": 1,
    "negatives.random": 1,
}
WORKED = {
    "target": {},
    "prediction": {"objective.stop_gradient": "prediction"},
    "none": {"objective.stop_gradient": "none"},
    "balanced": {"objective.mmd_balance": "gradient", "objective.stop_gradient": "none"},
    "bank": {
        "negatives.candidates": "bank",
        "negatives.same_article": 0,
        "negatives.random": 0,
    },
    "two towers": {"model.name": "two_tower"},
    "margin": {"negatives.false_negative_margin": 0.6},
}
# Where our workers talk in every way: sums, among them the MMD's balance, and gathered rows. (Some
# gradients of two towers are rounding alone: Adam makes steps of them, others on another device.)
ON_GPUS = ("balanced",)


def recipe_of(name):
    return tiny.recipe(**{**SHARED, **WORKED[name]})


def train_all(folder: Path, names=tuple(WORKED), device: str = "cpu") -> None:
    for name in names:
        records = loop.train(
            recipe_of(name),
            tiny.dataset(),
            folder / name,
            validate=lambda p, e: {"epoch": float(e)},
            device=device,
        )
        for _ in records:
            pass


def diverge(folder: Path, rank: int) -> None:
    """Poison the loss of rank 1 alone; both have to stop before the update."""
    real = loop.objective

    def poisoned(recipe, outputs, world):
        result = real(recipe, outputs, world)
        if world.rank == 1:
            result.total.data.fill_(float("nan"))
        return result

    loop.objective = poisoned
    try:
        for _ in loop.train(recipe_of("target"), tiny.dataset(), folder, validate=lambda p, e: {}):
            pass
    except NonFiniteLossError:
        (folder.parent / f"stopped_{rank}").touch()


def train_on_gpus(folder: Path, rank: int) -> None:
    """Train on a pretended GPU per worker, which notes collectives and refuses those of the host.

    And show that it would refuse the sum of host numbers that ended every epoch under nccl.
    """
    with pretend.gpu() as gpu:
        train_all(folder / "gpus", ON_GPUS, "pretend")
        (folder / f"collectives_{rank}.json").write_text(json.dumps(gpu.collectives))
        try:
            torch.distributed.all_reduce(torch.zeros(3))
        except RuntimeError as error:
            (folder / f"refused_{rank}").write_text(str(error))


def worker(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    pretend.device()  # before autograd starts its threads, one per device
    torch.distributed.init_process_group(
        "cpu:gloo,pretend:gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    train_all(folder / "two")
    train_on_gpus(folder, rank)
    (folder / "poisoned").mkdir(exist_ok=True)
    diverge(folder / "poisoned" / "run", rank)
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def worked(tmp_path_factory):
    """The same trainings by one process and by two workers."""
    folder = tmp_path_factory.mktemp("workers")
    torch.multiprocessing.spawn(worker, args=(folder,), nprocs=2, join=True)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    train_all(folder / "one")
    torch.set_num_threads(before)
    return folder


@functools.cache
def weights(folder: Path):
    return load_checkpoint(folder / "checkpoint")[0].state_dict()


@pytest.mark.parametrize("name", WORKED)
def test_two_workers_train_what_one_process_trains(name, worked) -> None:
    same_training(worked / "one" / name, worked / "two" / name)


def same_training(alone_in: Path, shared_in: Path) -> None:
    one, two = epochs.read_epochs(alone_in), epochs.read_epochs(shared_in)
    assert len(one) == len(two) == 2
    for alone, shared in zip(one, two, strict=True):
        assert shared.train.keys() == alone.train.keys()
        for term in ("loss", "contrastive", "ar", "mmd"):
            assert shared.train[term] == pytest.approx(alone.train[term], abs=1e-5), term
        assert shared.train["num_negatives"] == pytest.approx(alone.train["num_negatives"])
        assert shared.train["gradient_norm"] == pytest.approx(
            alone.train["gradient_norm"], rel=1e-3
        )
        assert (shared.dev, shared.negatives) == (alone.dev, alone.negatives)
    a, b = weights(alone_in), weights(shared_in)
    assert a.keys() == b.keys()
    for key in a:
        torch.testing.assert_close(b[key], a[key], atol=1e-4, rtol=0, msg=key)


def test_a_loss_that_breaks_on_one_worker_stops_both(worked) -> None:
    stopped = sorted(p.name for p in (worked / "poisoned").glob("stopped_*"))
    assert stopped == ["stopped_0", "stopped_1"]
    assert not (worked / "poisoned" / "run" / "checkpoint").exists()


# --- two workers on GPUs, which are pretended ----------------------------------------------------


@pytest.mark.parametrize("name", ON_GPUS)
def test_two_gpus_train_what_one_process_trains(name, worked) -> None:
    same_training(worked / "one" / name, worked / "gpus" / name)


@pytest.mark.parametrize("rank", [0, 1])
def test_every_collective_is_on_the_device_of_the_training(rank, worked) -> None:
    """nccl refuses tensors of the host, and so does the pretended GPU: see what it let through."""
    seen = json.loads((worked / f"collectives_{rank}.json").read_text())
    names = [name for name, _ in seen]
    assert {device for _, devices in seen for device in devices} == {"pretend"}
    assert names.count("c10d::barrier") == 2 * len(ON_GPUS)  # one per epoch
    assert {"c10d::allreduce_", "c10d::allgather_", "c10d::broadcast_"} <= set(names)
    updates = 2 * (len(tiny.dataset().train) // tiny.recipe().training.batch_size)
    assert names.count("c10d::allreduce_") > 2 * updates  # DDP's own are seen as well
    refused = (worked / f"refused_{rank}").read_text()
    assert "No backend type associated with device type ['cpu']" in refused
