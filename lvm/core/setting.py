"""Checks of a recipe's settings; an error says what is required, what was got, what to do."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Collection, Mapping

from lvm.core.errors import ConfigError
from lvm.core.outside import brief
from lvm.core.plain_json import Json
from lvm.core.registry import closest


class Section:
    """A part of a configuration, and how it is written as plain values."""

    def to_plain(self) -> dict[str, Json]:
        """Return nested plain dictionaries.

        Empty tables of parts, empty lists of plug-ins and a missing trainer are left out, so that
        recipes without them keep their ids.
        """
        plain: dict[str, Json] = dataclasses.asdict(
            self,  # type: ignore[call-overload]  # sections are dataclasses
            dict_factory=lambda items: {k: v for k, v in items if not _left_out(k, v)},
        )
        return plain


def _left_out(key: str, value: object) -> bool:
    return value in ({}, ()) or (key == "trainer" and value is None)


def require(condition: bool, key: str, seen: object, allowed: str) -> None:
    """Raise ConfigError for the setting `key` unless the condition holds."""
    if not condition:
        raise ConfigError(f"{key} must be {allowed} (got {brief(seen)}).")


def require_one_of(key: str, seen: str, allowed: tuple[str, ...]) -> None:
    """Raise ConfigError unless the setting is one of the names."""
    require(seen in allowed, key, seen, f"one of {', '.join(allowed)}")


def typed(key: str, value: object, hint: type | types.UnionType) -> object:
    """Return the value of the setting `key`, whole numbers as floats where the type is float.

    Raises ConfigError when it is missing or of another type.
    """
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for option in options:
        if option is float and type(value) is int:
            return float(value)
        if type(value) is option:
            return value
    names = " or ".join("none" if o is types.NoneType else o.__name__ for o in options)
    if value is dataclasses.MISSING:
        raise ConfigError(f"{key} is missing; add a value of type {names} to the recipe.")
    raise ConfigError(f"{key} must be of type {names} (got {brief(value)}).")


def section(key: str, value: object) -> Mapping[str, object]:
    """Return the section of keys at `key`; ConfigError when the value is none."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"{key} must be a table, e.g. [{key}] (got {brief(value)}).")
    return value


def require_known(key: str, known: Collection[str], prefix: str) -> None:
    """Raise ConfigError unless the section at `prefix` ("a.b.") takes this key."""
    if key not in known:
        where = f" in section [{prefix[:-1]}]" if prefix else ""
        names = sorted(known)
        raise ConfigError(
            f"unknown key {brief(prefix + key)}{where}{closest(key, names)}; allowed: "
            f"{', '.join(names) or 'none'}."
        )
