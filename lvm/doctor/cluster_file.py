"""Lint a cluster file without a network: what kind it is, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path

from lvm.core.config.run import ScheduleConfig
from lvm.doctor.access import check_access, check_commands, check_start
from lvm.doctor.keys import check_keys, check_placeholders
from lvm.doctor.kube_file import KubeFile
from lvm.doctor.kube_pods import check_doors, check_job, check_pods, check_volumes
from lvm.doctor.node_types import check_node_types
from lvm.doctor.ray_file import RayFile
from lvm.doctor.storage import check_mounts, check_storage
from lvm.doctor.versions import Expected, check_versions, expected_for
from lvm.doctor.yaml_file import (
    Code,
    Defect,
    Place,
    Severity,
    YamlFile,
    YamlSyntaxError,
    error,
    read_yaml,
)

RAY_CHECKS: tuple[Callable[[RayFile, Expected], Iterator[Defect]], ...] = (
    check_keys,
    check_node_types,
    check_access,
    check_versions,
    check_commands,
    check_start,
    check_storage,
    check_mounts,
)
KUBE_CHECKS: tuple[Callable[[KubeFile, Expected], Iterator[Defect]], ...] = (
    check_job,
    check_pods,
    check_volumes,
    check_doors,
)


class Kind(StrEnum):
    """What a cluster file is for, by its content."""

    CLOUD = "ray up on a cloud"
    LOCAL = "ray up on your own machines"
    KUBERAY = "KubeRay"
    UNKNOWN = "unknown"


def kind_of(file: YamlFile) -> Kind:
    """Return the kind of a file."""
    if _ray_job(file) is not None:
        return Kind.KUBERAY
    provider = file.documents[0].at("provider") if file.documents else None
    if provider is None or not provider.exists:
        return Kind.UNKNOWN
    return Kind.LOCAL if provider.at("type").text == "local" else Kind.CLOUD


def _ray_job(file: YamlFile) -> Place | None:
    return next((p for p in file.documents if p.at("kind").text == "RayJob"), None)


def lint(path: Path, schedule: ScheduleConfig) -> list[Defect]:
    """Return the defects of a cluster file in the order of its lines, errors first on a line.

    `schedule` is that of the preset that the cluster is for. Raises DataError when the file cannot
    be read.
    """
    try:
        file = read_yaml(path)
    except YamlSyntaxError as problem:
        what = f"this is not YAML: {problem.problem}."
        return [error(Code.YAML_SYNTAX, problem.line, what, "write KEY: VALUE, two spaces a level")]
    defects = list(_defects(file, expected_for(path, schedule)))
    return sorted(defects, key=lambda d: (d.line, d.severity is Severity.WARNING, d.code, d.what))


def _defects(file: YamlFile, expected: Expected) -> Iterator[Defect]:
    for key, line in file.duplicates:
        what = f"{key} appears twice; the first one is ignored."
        yield error(Code.YAML_DUPLICATE, line, what, f"remove one of the two {key}")
    lines = [(number, line) for number, line in enumerate(file.lines, 1) if not _comment(line)]
    yield from check_placeholders(lines)
    kind, job = kind_of(file), _ray_job(file)
    if job is not None:
        for check in KUBE_CHECKS:
            yield from check(KubeFile(file=file, job=job), expected)
    elif kind is Kind.UNKNOWN:
        yield error(
            Code.KIND_UNKNOWN,
            1,
            "this is neither a Ray cluster file (no provider) nor a RayJob.",
            "provider: {type: aws}, or kind: RayJob",
        )
    else:
        for ray_check in RAY_CHECKS:
            yield from ray_check(RayFile(file=file, root=file.documents[0]), expected)


def _comment(line: str) -> bool:
    return line.lstrip().startswith("#")
