"""The door to yaml: a file as values with line numbers, and the defects that stand there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from lvm.core.errors import DataError
from lvm.core.outside import read_text

Key = str | int
MERGE = "tag:yaml.org,2002:merge"
MOST_PLACES = 200_000  # aliases repeat a value: a few lines can expand to a billion


@dataclass(frozen=True)
class Place:
    """A value with its lines in the file; looking up what is absent gives an empty Place there.

    `line` is that of the key, or of the list item, counted from 1.
    """

    value: Any
    line: int
    last_line: int
    source: tuple[str, ...] = field(repr=False)
    exists: bool = True
    children: dict[Key, Place] = field(default_factory=dict, repr=False)

    def at(self, *path: Key) -> Place:
        """Return the value below; an absent one has the line of its nearest parent."""
        place = self
        for key in path:
            below = place.children.get(key)
            place = below or Place(None, place.line, place.line, self.source, exists=False)
        return place

    def entries(self) -> Iterator[tuple[str, Place]]:
        """Yield the keys and values of a mapping; nothing for any other value."""
        if isinstance(self.value, dict):
            yield from ((str(key), place) for key, place in self.children.items())

    def items(self) -> list[Place]:
        """Return the items of a list; none for any other value."""
        return list(self.children.values()) if isinstance(self.value, list) else []

    @property
    def text(self) -> str:
        """The value as text, empty when it is absent or not a scalar."""
        return "" if self.value is None or self.children else str(self.value)

    def line_of(self, part: str) -> int:
        """Return the line within this value that holds `part`, else the line of the value."""
        for number in range(self.line, self.last_line + 1):
            if part in self.source[number - 1]:
                return number
        return self.line

    def error(self, code: Code, what: str, fix: str) -> Defect:
        """Return a defect of this value that has to be fixed."""
        return error(code, self.line, what, fix)

    def warning(self, code: Code, what: str, fix: str) -> Defect:
        """Return a defect of this value with which the cluster still works."""
        return warning(code, self.line, what, fix)


@dataclass(frozen=True)
class YamlFile:
    """The documents of a file, its lines, and the keys that occur twice in one mapping."""

    path: Path
    lines: tuple[str, ...]
    documents: tuple[Place, ...]
    duplicates: tuple[tuple[str, int], ...]


class YamlSyntaxError(DataError):
    """Text that is not YAML."""

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(f"line {line}: {problem}")
        self.line, self.problem = line, problem


def read_yaml(path: Path) -> YamlFile:
    """Read every document of a YAML file.

    Raises DataError when the file cannot be read, YamlSyntaxError when it is not YAML.
    """
    import yaml

    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise DataError(
            f"{path} cannot be read ({reason}); give the path of a YAML file."
        ) from None
    lines = tuple(text.split("\n"))
    try:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast where available
        nodes = list(yaml.compose_all(text, Loader=loader))
        reader = _Reader(lines)
        documents = tuple(reader.place(node, node.start_mark.line + 1) for node in nodes if node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise YamlSyntaxError(min(line, len(lines)), error.problem or str(error)) from None
    except (yaml.YAMLError, ValueError) as error:  # bad YAML, or a scalar such as 2020-13-45
        raise YamlSyntaxError(1, str(error).splitlines()[0]) from None
    except RecursionError:
        raise YamlSyntaxError(1, "an anchor contains itself") from None
    return YamlFile(path, lines, documents, tuple(reader.duplicates))


class _Reader:
    """Turns the nodes of one file into places; a merged mapping keeps the lines of its anchor."""

    def __init__(self, lines: tuple[str, ...]) -> None:
        import yaml

        self.lines = lines
        self.duplicates: list[tuple[str, int]] = []
        self._places = 0
        self._loader = yaml.SafeLoader("")
        self._mapping, self._sequence = yaml.MappingNode, yaml.SequenceNode

    def place(self, node: object, line: int) -> Place:
        """Return a node as a place whose key is on `line`."""
        self._places += 1
        if self._places > MOST_PLACES:
            raise YamlSyntaxError(
                min(line, len(self.lines)), "its anchors expand to too many values"
            )
        if isinstance(node, self._mapping):
            children: dict[Key, Place] = self._entries(node)
        elif isinstance(node, self._sequence):
            found = (self.place(item, item.start_mark.line + 1) for item in node.value)
            children = dict(enumerate(found))
        else:
            value = self._loader.construct_object(node, deep=True)
            return Place(value, line, self._last(node), self.lines)
        values = {key: child.value for key, child in children.items()}
        value = values if isinstance(node, self._mapping) else list(values.values())
        return Place(value, line, self._last(node), self.lines, children=children)

    # Any here and below: a node of yaml, which is imported inside functions alone.
    def _entries(self, node: Any) -> dict[Key, Place]:
        own: dict[Key, Place] = {}
        merged: dict[Key, Place] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if key_node.tag == MERGE:
                many = isinstance(value_node, self._sequence)
                for source in value_node.value if many else [value_node]:
                    merged = {**self.place(source, line).children, **merged}
                continue
            key = str(self._loader.construct_object(key_node, deep=True))
            if key in own and (key, line) not in self.duplicates:
                self.duplicates.append((key, line))
            own[key] = self.place(value_node, line)
        return {**merged, **own}

    def _last(self, node: Any) -> int:
        """Return the last line of a node; a block ends where the next key begins."""
        end = node.end_mark
        line = int(end.line) + 1 if end.column else int(end.line)
        return max(int(node.start_mark.line) + 1, min(line, len(self.lines)))


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
    """One defect: `what` is wrong with what was found there, `fix` the line or command instead."""

    code: Code
    line: int
    what: str
    fix: str
    severity: Severity = Severity.ERROR


def error(code: Code, line: int, what: str, fix: str) -> Defect:
    """Return a defect that has to be fixed."""
    return Defect(code=code, line=line, what=what, fix=fix)


def warning(code: Code, line: int, what: str, fix: str) -> Defect:
    """Return a defect with which the cluster still works."""
    return Defect(code=code, line=line, what=what, fix=fix, severity=Severity.WARNING)
