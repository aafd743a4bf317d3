"""Which device a process takes, and what collectives may be asked of which tensors."""

from __future__ import annotations

import ast
import socket
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from torch import nn

from lvm.core.config.run import GateConfig, ScheduleConfig
from lvm.core.device import CPU, claim, claim_if_there, ids_on, synchronise
from lvm.core.errors import DeviceError, LvmError
from lvm.core.records import ABSENT
from lvm.evaluation.index import TorchIndex
from lvm.training.loop import time_updates, train
from lvm.training.world import World
from lvm.triage.arm import ArmSpec, run_arm
from lvm.triage.local import LocalExecutor
from lvm.triage.race import Race
from lvm.triage.step import Role

ROOT = Path(__file__).resolve().parents[2]
META = torch.device("meta")  # tensors without numbers: a device that is not the CPU


@pytest.fixture
def two_gpus(monkeypatch):
    """torch as it answers on a machine with two GPUs, in a process that was given the second."""
    chosen = [1]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: chosen[-1])
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    return chosen


# --- which device ---------------------------------------------------------------------------------


def test_cuda_is_the_gpu_that_the_process_was_given(two_gpus) -> None:
    assert claim("cuda") == torch.device("cuda:1")
    assert claim("cuda:0") == torch.device("cuda:0")
    assert two_gpus == [1, 1, 0]  # kernels are started on the current device
    assert claim_if_there(True) == torch.device("cuda:0")
    assert claim_if_there(False) == CPU


def test_the_cpu_is_there_everywhere() -> None:
    assert claim("cpu") == CPU
    synchronise(CPU)


def test_a_gpu_that_is_not_there_is_told_in_one_sentence(two_gpus, monkeypatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    with pytest.raises(DeviceError) as raised:
        claim("cuda:2")
    said = str(raised.value)
    assert isinstance(raised.value, LvmError)
    for part in (socket.gethostname(), "cuda:2", "sees 2 such", "=3,5", "schedule.use_gpu = false"):
        assert part in said
    assert "\n" not in said


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_every_way_into_a_training_says_that_the_gpu_is_missing(
    no_gpu, tiny_dataset, tmp_path
) -> None:
    recipe = tiny.recipe()
    spec = ArmSpec(
        id="x",
        step="s",
        name="x",
        role=Role.ARM,
        recipe=recipe,
        folder=tmp_path / "arm",
        gates=GateConfig(),
        device="cuda",
    )
    ways = [
        lambda: next(run_arm(spec, tiny_dataset)),
        lambda: next(train(recipe, tiny_dataset, tmp_path, validate=dict, device="cuda")),
        lambda: time_updates(recipe, tiny_dataset, device="cuda"),
    ]
    for way in ways:
        with pytest.raises(DeviceError, match="has no cuda for this process"):
            way()
    assert list(tmp_path.iterdir()) == []  # nothing was begun
    assert claim_if_there(True) == CPU  # the driver of a cluster needs none


def test_an_arm_without_its_gpu_is_absent_not_judged(no_gpu, tiny_dataset, tmp_path) -> None:
    """It says something of the machine and nothing of the arm."""
    spec = ArmSpec(
        id="x",
        step="s",
        name="x",
        role=Role.ARM,
        recipe=tiny.recipe(),
        folder=tmp_path / "arm",
        gates=GateConfig(),
        device="cuda",
    )
    race = Race("s", [spec], lambda event, **values: None, epochs=[1], schedule=ScheduleConfig())
    LocalExecutor().run(race, tiny_dataset)
    lane = race.lanes["x"]
    assert lane.ending.reason in ABSENT
    assert "has no cuda for this process" in lane.detail


def test_row_numbers_are_copied_for_arrays_of_ray_are_read_only() -> None:
    ids = np.arange(6, dtype=np.int32).reshape(2, 3)
    ids.flags.writeable = False
    found = ids_on(ids, CPU)  # torch would warn, and a warning fails here
    assert found.dtype == torch.int64
    assert found.tolist() == ids.tolist()
    assert ids_on(ids, META).device == META


def test_an_index_says_where_it_searches() -> None:
    assert TorchIndex(torch.zeros(3, 2)).device == CPU
    assert TorchIndex(torch.zeros(3, 2, device=META)).device == META


# --- collectives ----------------------------------------------------------------------------------


ASKED = {
    "sum": lambda world: world.sum(torch.zeros(3, 2)),
    "gather": lambda world: world.gather(torch.zeros(3, 2)),
    "share": lambda world: world.share(nn.Linear(2, 2)),
}


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("name", ASKED)
def test_a_world_refuses_tensors_of_another_device(size, name) -> None:
    """With one worker too: the mistake shows before there are two."""
    with pytest.raises(ValueError, match=r"tensor on cpu, .* on meta"):
        ASKED[name](World(0, size, META))
    with pytest.raises(ValueError, match=r"tensor on meta, .* on cpu"):
        World(0, size).sum(torch.zeros(3, device=META))


def test_a_world_of_one_leaves_tensors_and_modules_alone() -> None:
    world, tensor, module = World(), torch.ones(3), nn.Linear(2, 2)
    assert world.sum(tensor) is tensor
    assert world.share(module) is module
    assert World.current(CPU) == world
    assert World.current(META).device == META


@pytest.mark.parametrize(("device", "ids"), [("cpu", None), ("cuda:1", [1])])
def test_torch_is_told_which_gpu_to_use(device, ids, monkeypatch) -> None:
    """Left to guess, DDP and barrier may take GPU 0 on every worker of a node."""
    told = []
    monkeypatch.setattr(torch.distributed, "barrier", lambda **kw: told.append(kw["device_ids"]))

    def shared(module, *, device_ids):
        told.append(device_ids)
        return module

    monkeypatch.setattr(nn.parallel, "DistributedDataParallel", shared)
    world = World(0, 2, torch.device(device))
    world.barrier()
    world.share(nn.Identity())
    assert told == [ids, ids]


def test_collectives_have_one_door() -> None:
    """What does not pass through World cannot be refused by it."""
    doors, without_device = set(), set()
    for path in sorted([*(ROOT / "lvm").rglob("*.py"), *(ROOT / "tune_jobs").rglob("*.py")]):
        place = path.relative_to(ROOT).as_posix()
        for node in ast.walk(ast.parse(path.read_text())):
            named = ast.unparse(node) if isinstance(node, ast.Attribute | ast.Import) else ""
            module = (node.module or "") if isinstance(node, ast.ImportFrom) else ""
            if any(x in f"{named} {module}" for x in ("torch.distributed", "DistributedData")):
                doors.add(place)
            if named.startswith("World.current().") and named != "World.current().rank":
                without_device.add(place)  # it would take the training to be on the CPU
    assert doors == {"lvm/training/world.py"}
    assert without_device == set()
