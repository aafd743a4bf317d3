"""What `lvm doctor --address` makes of the nodes and jobs of a cluster."""

from __future__ import annotations

import pytest

from lvm.doctor.live import judge_left_behind, judge_node
from lvm.triage.on_ray.nodes import facts

WELL = {"disk": 100.0, "memory": 64.0, "free": 60.0}
ARMS = {"CPU": 8.0, "GPU": 1.0}


def test_a_node_like_the_driver_is_well() -> None:
    found = judge_node("node a", {**WELL, **facts()}, facts(), ARMS)
    assert found.ok
    assert "8 CPUs, 1 GPUs" in found.seen
    assert facts()["code"] in found.seen


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"code": "0.1.0+other"}, "0.1.0+other"),
        ({"torch": "2.0.0"}, "2.0.0"),
        ({"disk": 0.5}, "disk"),
        ({"memory": 4.0}, "memory"),
    ],
)
def test_a_node_where_no_run_would_work_says_what_to_do(change, word) -> None:
    found = judge_node("node a", {**WELL, **facts(), **change}, facts(), ARMS)
    assert not found.ok
    assert not found.optional
    assert word in found.next


def test_a_node_without_the_package_is_told_apart() -> None:
    found = judge_node("node a", {**WELL, "problem": "No module named 'lvm'"}, facts(), ARMS)
    assert not found.ok
    assert "No module named 'lvm'" in found.next


def test_a_head_without_arms_needs_little_memory() -> None:
    assert judge_node("node a", {**WELL, **facts(), "memory": 4.0}, facts(), {"CPU": 0.0}).ok


def job(number: int, status: str) -> dict[str, object]:
    return {"job_id": f"0{number}", "status": status}


def group(number: int, state: str = "CREATED") -> dict[str, object]:
    bundles = [{"unit_resources": {"GPU": 1.0}}]
    return {
        "placement_group_id": f"g{number}",
        "name": "",
        "state": state,
        "creator_job_id": f"0{number}",
        "bundles": bundles,
    }


def actor(number: int, state: str = "ALIVE", namespace: str = "x") -> dict[str, object]:
    return {
        "actor_id": f"a{number}",
        "class_name": "Worker",
        "name": "w",
        "state": state,
        "job_id": f"0{number}",
        "ray_namespace": namespace,
    }


JOBS = [job(1, "SUCCEEDED"), job(2, "FAILED"), job(3, "RUNNING"), job(4, "RUNNING")]


def test_only_what_a_job_that_is_over_still_holds_is_left_behind() -> None:
    groups = [group(1), group(2, "REMOVED"), group(3), group(9)]  # 9: a job nobody remembers
    actors = [
        actor(2),
        actor(2, "DEAD"),
        actor(3),
        actor(1, namespace="_train_state_actor"),
        actor(1, namespace="SUPERVISOR_ACTOR_RAY_NAMESPACE"),
    ]
    summary, *found = judge_left_behind(JOBS, groups, actors)
    assert summary.ok
    assert summary.seen.startswith("1 running, 2 over, 3 placement groups and actors")
    assert [f.what for f in found] == ["placement group g1", "placement group g9", "actor a2"]
    assert all(not f.ok and f.next for f in found)
    assert "{'GPU': 1.0}" in found[0].seen


def test_a_tidy_cluster_has_one_line() -> None:
    (summary,) = judge_left_behind(JOBS, [group(3)], [actor(4)])
    assert summary.ok
