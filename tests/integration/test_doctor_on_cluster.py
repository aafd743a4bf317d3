"""`lvm doctor --address` on a Ray cluster of two nodes, where a job left something behind."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from two_raylets import TwoRaylets, free_ports, two_raylets

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

# A detached group and a detached actor outlive their job, as those of a killed driver would.
LEAVE_BEHIND = """
import sys, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
from ray.util.placement_group import placement_group
group = placement_group([{"CPU": 1}], lifetime="detached", name="forgotten")
ray.get(group.ready())
class Sleeper:
    def there(self): return True
actor = ray.remote(num_cpus=0)(Sleeper).options(name="forgotten", lifetime="detached").remote()
ray.get(actor.there.remote())
"""


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoRaylets]:
    with two_raylets(tmp_path_factory.mktemp("nodes")) as cluster:
        yield cluster


def doctor(address: str, env: dict[str, str] | None, folder: Path) -> tuple[int, list[str], str]:
    command = [sys.executable, "-m", "lvm.cli", "doctor", "--address", address]
    done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout.splitlines(), done.stderr


def test_two_nodes_and_what_a_dead_job_holds(nodes: TwoRaylets, tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-c", LEAVE_BEHIND, nodes.gcs_address],
        env=nodes.env,
        cwd=tmp_path,
        check=True,
        timeout=120,
    )
    for _ in range(2):  # nothing is removed by looking
        status, told, problem = doctor(nodes.gcs_address, nodes.env, tmp_path)
        assert (status, problem) == (2, "")
        well = [line.split()[1] for line in told if line.startswith("ok")]
        assert well == ["node", "node", "jobs:"]
        assert all("GiB of disk free" in line and "ray 2." in line for line in told[:2])
        wrong = [line for line in told if line.startswith("FIX")]
        assert [line.split()[1] for line in wrong] == ["placement", "actor"]
        assert "forgotten, holds {'CPU': 1.0}" in wrong[0]
        assert "Sleeper forgotten, ALIVE" in wrong[1]


def test_where_nothing_listens_is_one_sentence(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    status, told, problem = doctor(f"127.0.0.1:{port}", None, tmp_path)
    assert (status, told) == (2, [])
    assert problem.startswith(f"error: no Ray cluster answers at 127.0.0.1:{port}")
