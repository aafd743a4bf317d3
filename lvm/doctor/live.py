"""Look at a running Ray cluster: its nodes, and what jobs that are over still hold.

Nothing is changed or removed; what is found comes with the command that would.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from lvm.core.config.run import ScheduleConfig
from lvm.doctor.machine import MIN_DISK_GIB, MIN_MEMORY_GIB, Finding
from lvm.triage.on_ray.cluster import connect
from lvm.triage.on_ray.handles import Node, Ray
from lvm.triage.on_ray.nodes import difference, facts
from lvm.triage.on_ray.quiet import import_ray, silenced
from lvm.triage.on_ray.remote import on_node

NODE_SECONDS = 60.0
STATE_SECONDS = 20
OVER = ("SUCCEEDED", "FAILED", "STOPPED")
# Ray keeps these two kinds of actors beyond the jobs that they were started for.
_OF_RAY = ("SUPERVISOR_ACTOR_RAY_NAMESPACE", "_train_state_actor")


# The room of a node in GiB (disk, memory, free), with its code or why it cannot import lvm.
Answer = Mapping[str, str | float]


def look(address: str) -> list[Finding]:
    """Return findings on the nodes of a cluster, and on placement groups and actors left behind.

    Raises ClusterError when nothing answers at `address`.
    """
    ray = import_ray()
    with silenced():
        connect(ray, address, ScheduleConfig())
        try:
            nodes = [node for node in ray.nodes() if node["Alive"]]
            return [*_nodes(ray, nodes), *_left_behind(ray)]
        finally:
            ray.shutdown()


# --- nodes ----------------------------------------------------------------------------------------


def _nodes(ray: Ray, nodes: list[Node]) -> Iterator[Finding]:
    """Ask all nodes at once, so that a silent one costs its own time alone."""
    from ray.exceptions import RayError

    asked = [(node, on_node(node["NodeID"], _task())) for node in nodes]
    for node, answer in asked:
        name = f"node {node['NodeManagerAddress']} ({node['NodeID'][:8]})"
        try:
            told = ray.get(answer, timeout=NODE_SECONDS)
        except RayError as problem:
            seen = f"no answer ({type(problem).__name__})"
            restart = "restart Ray there, or remove the node from the cluster"
            yield Finding(what=name, seen=seen, ok=False, next=restart)
            continue
        yield judge_node(name, told, facts(), node["Resources"])


def _task() -> Callable[[], Answer]:
    """Return a function that Ray ships whole: it answers where lvm cannot be imported, too."""

    def look_there() -> Answer:
        import shutil
        import tempfile

        import psutil

        memory = psutil.virtual_memory()
        room: dict[str, str | float] = {
            "disk": shutil.disk_usage(tempfile.gettempdir()).free / 2**30,
            "memory": memory.total / 2**30,
            "free": memory.available / 2**30,
        }
        try:
            from lvm.triage.on_ray.nodes import facts
        except ImportError as problem:
            return {**room, "problem": str(problem)}
        return {**room, **facts()}

    return look_there


def judge_node(
    name: str, told: Answer, here: Mapping[str, str], resources: Mapping[str, float]
) -> Finding:
    """Return what is seen of a node, and what to do when a run would not work there."""
    disk, memory, free = (float(told[name]) for name in ("disk", "memory", "free"))
    gpus = f", {resources['GPU']:g} GPUs" if resources.get("GPU") else ""
    seen = (
        f"{resources.get('CPU', 0):g} CPUs{gpus}, {free:.1f} of {memory:.1f} GiB "
        f"of memory and {disk:.1f} GiB of disk free"
    )
    wrong, there = [], {fact: str(value) for fact, value in told.items()}
    if "problem" in there:
        wrong.append(f"cannot import lvm ({there['problem']}): install it there")
    else:
        seen += f", Python {there['python']}, ray {there['ray']}, torch {there['torch']}"
        seen += f", lvm {there['code']} in {there['package']}"
        if sentence := difference(here, there, name.removeprefix("node ")):
            wrong.append(sentence)
    if disk < MIN_DISK_GIB:
        wrong.append(f"free {MIN_DISK_GIB:.0f} GiB of disk: Ray spills objects there")
    if resources.get("CPU", 0) > 0 and memory < MIN_MEMORY_GIB:
        wrong.append(f"arms want {MIN_MEMORY_GIB:.0f} GiB of memory: remove the node")
    return Finding(what=name, seen=seen, ok=not wrong, next="; ".join(wrong))


# --- what jobs left behind ------------------------------------------------------------------------


def _left_behind(ray: Ray) -> list[Finding]:
    from ray.util.state import list_actors, list_jobs, list_placement_groups

    asked = {
        "address": ray.get_runtime_context().gcs_address,
        "timeout": STATE_SECONDS,
        "limit": 10_000,
        "raise_on_missing_output": False,
    }
    try:
        jobs = [_plain(job) for job in list_jobs(**asked)]
        groups = [_plain(group) for group in list_placement_groups(detail=True, **asked)]
        actors = [_plain(actor) for actor in list_actors(detail=True, **asked)]
    except Exception as problem:  # the dashboard's many: it is off, busy, or of another version
        seen = f"the dashboard did not say ({type(problem).__name__})"
        enable = "start the head with --include-dashboard=true to check jobs"
        return [Finding(what="jobs", seen=seen, ok=False, optional=True, next=enable)]
    return judge_left_behind(jobs, groups, actors)


def _plain(state: object) -> dict[str, object]:
    return {key: getattr(state, key, None) for key in _KEYS}


_KEYS = (
    "job_id",
    "status",
    "state",
    "name",
    "class_name",
    "ray_namespace",
    "actor_id",
    "placement_group_id",
    "creator_job_id",
    "bundles",
)


def judge_left_behind(
    jobs: Sequence[Mapping[str, object]],
    groups: Sequence[Mapping[str, object]],
    actors: Sequence[Mapping[str, object]],
) -> list[Finding]:
    """Return how many jobs run, and the placement groups and actors whose job does not.

    This command is one of the jobs, and not counted.
    """
    running = {job["job_id"] for job in jobs if job["status"] not in OVER}
    found = [
        _group(group)
        for group in groups
        if group["state"] != "REMOVED" and group["creator_job_id"] not in running
    ]
    found += [
        _actor(actor)
        for actor in actors
        if actor["state"] != "DEAD"
        and actor["job_id"] not in running
        and actor["ray_namespace"] not in _OF_RAY
    ]
    summary = (
        f"{len(running) - 1} running, {len(jobs) - len(running)} over, "
        f"{len(found)} placement groups and actors left behind"
    )
    return [Finding(what="jobs", seen=summary, ok=True), *found]


def _group(group: Mapping[str, object]) -> Finding:
    bundles = group["bundles"] if isinstance(group["bundles"], list | tuple) else ()
    holds = ", ".join(str(bundle["unit_resources"]) for bundle in bundles)
    return Finding(
        what=f"placement group {group['placement_group_id']}",
        seen=f"{group['name'] or 'without a name'}, holds {holds or 'nothing'} for job "
        f"{group['creator_job_id']}, which has ended",
        ok=False,
        next="free what it holds with ray.util.remove_placement_group, or restart the cluster",
    )


def _actor(actor: Mapping[str, object]) -> Finding:
    return Finding(
        what=f"actor {actor['actor_id']}",
        seen=f"{actor['class_name']} {actor['name'] or ''}, {actor['state']}, of job "
        f"{actor['job_id']}, which has ended",
        ok=False,
        next=f"end it with ray.kill(ray.get_actor({actor['name']!r}, "
        f"{actor['ray_namespace']!r})), or restart the cluster",
    )
