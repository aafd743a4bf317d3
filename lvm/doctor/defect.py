"""A defect of a cluster file: the code, the line, what was found, the line to write."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """Whether a defect has to be fixed before the cluster is started."""

    ERROR = "error"
    WARNING = "warning"


class Code(StrEnum):
    """The kinds of defects, in no order."""

    YAML_SYNTAX = "YAML_SYNTAX"
    YAML_DUPLICATE = "YAML_DUPLICATE"
    KIND_UNKNOWN = "KIND_UNKNOWN"
    PLACEHOLDER = "PLACEHOLDER"
    RAY_SCHEMA = "RAY_SCHEMA"
    KEY_UNKNOWN = "KEY_UNKNOWN"
    ZONE_WRONG = "ZONE_WRONG"
    INSTANCE_UNKNOWN = "INSTANCE_UNKNOWN"
    RESOURCES_WRONG = "RESOURCES_WRONG"
    RESOURCES_MISSING = "RESOURCES_MISSING"
    NO_GPU = "NO_GPU"
    TOO_FEW_WORKERS = "TOO_FEW_WORKERS"
    HEAD_TAKES_ARMS = "HEAD_TAKES_ARMS"
    HEAD_ON_SPOT = "HEAD_ON_SPOT"
    HEAD_SMALL = "HEAD_SMALL"
    DISK_SMALL = "DISK_SMALL"
    IMAGE_DEFAULT = "IMAGE_DEFAULT"
    IMAGE_TAG = "IMAGE_TAG"
    RAY_NIGHTLY = "RAY_NIGHTLY"
    RAY_VERSION = "RAY_VERSION"
    PYTHON_VERSION = "PYTHON_VERSION"
    COMMAND_SYNTAX = "COMMAND_SYNTAX"
    START_COMMAND = "START_COMMAND"
    STORAGE = "STORAGE"
    TOKEN_MISSING = "TOKEN_MISSING"
    TOKEN_EXPOSED = "TOKEN_EXPOSED"
    OPEN_INGRESS = "OPEN_INGRESS"
    DASHBOARD_OPEN = "DASHBOARD_OPEN"
    METADATA_OPEN = "METADATA_OPEN"
    MOUNT_MISSING = "MOUNT_MISSING"
    MOUNT_OUTSIDE = "MOUNT_OUTSIDE"
    MOUNT_SHADOWS = "MOUNT_SHADOWS"
    JOB_COMMAND = "JOB_COMMAND"
    JOB_RETRY = "JOB_RETRY"
    NODES_STAY = "NODES_STAY"
    NOT_CHECKED = "NOT_CHECKED"


@dataclass(frozen=True, kw_only=True)
class Defect:
    """One defect: `what` is wrong and was found, `fix` is the line or command to use instead."""

    code: Code
    line: int
    what: str
    fix: str
    severity: Severity = Severity.ERROR


def error(code: Code, line: int, what: str, fix: str) -> Defect:
    """Return a defect that has to be fixed."""
    return Defect(code=code, line=line, what=what, fix=fix)


def warning(code: Code, line: int, what: str, fix: str) -> Defect:
    """Return a defect that the cluster works with."""
    return Defect(code=code, line=line, what=what, fix=fix, severity=Severity.WARNING)
