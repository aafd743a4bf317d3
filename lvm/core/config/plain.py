"""A configuration as plain values: to them, from them, changed by dotted keys, hashed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from lvm.core.parts import PARTS, read_tables
from lvm.core.plain_json import Json
from lvm.core.setting import Section, require_known, section, typed
from lvm.core.trainer import READ

S = TypeVar("S")


def to_dict(config: Section) -> dict[str, Json]:
    """Return a configuration as nested plain dictionaries."""
    return config.to_plain()


def canonical_json(value: object) -> str:
    """Return JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def fingerprint(value: object) -> str:
    """Return 12 hex digits of the sha256 of the canonical JSON of a config or plain value."""
    if isinstance(value, Section):
        value = value.to_plain()
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:12]


def from_dict(
    cls: type[S], values: Mapping[str, object], *, base: S | None = None, prefix: str = ""
) -> S:
    """Build a config of class `cls` from nested dictionaries, starting from `base`.

    Raises ConfigError on an unknown key, a value of the wrong type, or a value out of range.
    """
    hints = typing.get_type_hints(cls)
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]  # a config class
    tables = {field.name: field.metadata.get(PARTS) for field in fields}
    readers = {field.name: field.metadata.get(READ) for field in fields}
    changed: dict[str, Any] = {}
    for key, value in values.items():
        dotted = f"{prefix}{key}"
        require_known(key, hints, prefix)
        inner = getattr(base, key) if base is not None else None
        if (read := readers[key]) is not None:
            changed[key] = read(value, inner, dotted)
        elif (options_of := tables[key]) is not None:
            changed[key] = read_tables(options_of, value, base=inner or {}, dotted=dotted)
        elif not dataclasses.is_dataclass(hints[key]):
            changed[key] = typed(dotted, value, hints[key])
        elif dataclasses.is_dataclass(value):
            changed[key] = value
        else:
            keys = section(dotted, value)
            changed[key] = from_dict(hints[key], keys, base=inner, prefix=f"{dotted}.")
    if base is None:
        return cls(**changed)
    return dataclasses.replace(base, **changed)  # type: ignore[type-var]  # a config class


def with_changes(config: S, changes: Mapping[str, object]) -> S:
    """Return a copy of `config` with dotted keys replaced; ConfigError names an unknown key."""
    nested: dict[str, Any] = {}
    for dotted, value in changes.items():
        *path, last = dotted.split(".")
        place = nested
        for part in path:
            place = place.setdefault(part, {})
        place[last] = value
    return from_dict(type(config), nested, base=config)
