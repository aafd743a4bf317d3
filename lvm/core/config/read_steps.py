"""Reading `[[steps]]` of a recipe, and of what a journal keeps of it."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

from lvm.core.config.steps import BOUNDED, LIST, OwnArm, OwnStep, Sweep, Value, Values
from lvm.core.errors import ConfigError
from lvm.core.outside import brief, printable
from lvm.core.setting import require_known, section, typed

Part = TypeVar("Part")
KEPT = {"kind", "values"}  # keys of a range in a journal


def own_steps_of(values: object) -> tuple[OwnStep, ...]:
    """Return the steps of a recipe; ConfigError names the one that is wrong."""
    return tuple(_step(f"steps[{i}]", table) for i, table in enumerate(_tables("steps", values)))


def _step(place: str, table: Mapping[str, object]) -> OwnStep:
    name = table.get("name")
    if isinstance(name, str):
        place = f"steps.{printable(name)}"
    values = dict(table)
    if "arms" in values:
        arms = _tables(f"{place}.arms", values["arms"])
        values["arms"] = tuple(_arm(f"{place}.arms[{i}]", arm) for i, arm in enumerate(arms))
    if "sweep" in values:
        values["sweep"] = _sweep(f"{place}.sweep", values["sweep"])
    return _built(OwnStep, values, f"{place}.")


def _arm(place: str, table: Mapping[str, object]) -> OwnArm:
    values = dict(table)
    if "changes" in values:
        changes = section(f"{place}.changes", values["changes"])
        values["changes"] = dict(_flat(f"{place}.changes", changes))
    return _built(OwnArm, values, f"{place}.")


def _sweep(place: str, value: object) -> Sweep | None:
    """Return a sweep from its table, which holds settings and the dotted keys that it sweeps."""
    if value is None:
        return None
    table = dict(section(place, value))
    settings = {f.name for f in dataclasses.fields(Sweep)}
    swept = {**section(place, table.pop("keys", {}))}
    swept |= {key: table.pop(key) for key in list(table) if key not in settings}
    keys = dict(_ranges(place, swept))
    return _built(Sweep, {**table, "keys": keys}, f"{place.removesuffix('sweep')}")


def _ranges(
    place: str, table: Mapping[str, object], prefix: str = ""
) -> Iterator[tuple[str, Values]]:
    """Yield the values of every swept key; a key without quotation marks makes nested tables."""
    for name, value in table.items():
        key, where = f"{prefix}{name}", f"{place}.{printable(prefix + name)}"
        whole = "." in name  # in quotation marks: its values follow
        if isinstance(value, Mapping) and not whole and not {*BOUNDED, *KEPT} & set(value):
            yield from _ranges(place, value, f"{key}.")
        else:
            yield key, _values(where, value)


def _values(place: str, value: object) -> Values:
    if isinstance(value, list | tuple):
        kind, listed = LIST, value
    elif isinstance(value, Mapping) and set(value) == KEPT:
        kind, listed = value["kind"], value["values"]
    elif isinstance(value, Mapping) and len(value) == 1:
        ((kind, listed),) = value.items()
    else:
        kind, listed = "", ()
    if kind not in (LIST, *BOUNDED) or not isinstance(listed, list | tuple):
        kinds = ", ".join(f"{{ {name} = [low, high] }}" for name in BOUNDED)
        raise ConfigError(f"{place} must be a list of values or {kinds} (got {brief(value)}).")
    found = tuple(_scalar(place, item) for item in listed)
    return _built(Values, {"kind": kind, "values": found}, f"{place}: ")


def _flat(place: str, table: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, Value]]:
    """Yield dotted keys with their values; a key without quotation marks makes nested tables."""
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(place, value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", _scalar(f"{place}.{printable(prefix + name)}", value)


def _scalar(place: str, value: object) -> Value:
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise ConfigError(f"{place} must be one value (got {brief(value)}).")


def _tables(place: str, values: object) -> Sequence[Mapping[str, object]]:
    if not isinstance(values, list | tuple):
        raise ConfigError(f"{place} must be a list of tables, [[{place}]] (got {brief(values)}).")
    return [section(f"{place}[{i}]", table) for i, table in enumerate(values)]


def _built(cls: type[Part], values: Mapping[str, object], prefix: str) -> Part:
    """Build a part from its keys; the part's own errors get the place in front."""
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]  # a config class
    for key in values:
        require_known(key, fields, prefix)
    found = dict(values)
    for name, f in fields.items():
        if hints[name] in (str, int, float):
            found[name] = typed(prefix + name, values.get(name, f.default), hints[name])
        elif name not in values and f.default is dataclasses.MISSING:
            raise ConfigError(f"{prefix}{name} is missing; write it in the recipe.")
    try:
        return cls(**found)
    except ConfigError as error:
        raise ConfigError(f"{prefix}{error}") from None
