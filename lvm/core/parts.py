"""What a recipe names, from inside the package or outside it: loss terms and models.

A part brings its options as the fields of a frozen dataclass, and a recipe writes them in a table
under the part's name: [objective.terms.NAME], [model.options.NAME]. Needs no torch.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from lvm.core.errors import ConfigError
from lvm.core.registry import Registry
from lvm.core.setting import require, require_known, require_one_of, section, typed


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of a part: one field each, validated in `__post_init__` under the field's name."""


@dataclass(frozen=True, kw_only=True)
class TermOptions(Options):
    """What every loss term has; `lvm.training.terms.base.Term` adds how it is computed."""

    title: ClassVar[str] = ""  # in the names of models that are trained with it; else its own name
    reaches_network: ClassVar[bool] = True  # whether it has a gradient for the predictions

    weight: float = 1.0
    balance: str = "fixed"  # "gradient": the weight is a share of the other terms' gradient norm

    def __post_init__(self) -> None:
        ok = 0 <= self.weight < math.inf
        require(ok, "weight", self.weight, "a finite number of at least 0")
        require_one_of("balance", self.balance, ("fixed", "gradient"))


PARTS = "parts"  # in the metadata of a field: returns the options class of a part
Part = TypeVar("Part", bound=Options)

TERMS: Registry[type[TermOptions]] = Registry("loss term", "lvm.training.terms")
# A model is build(config, width) -> module whose forward maps contexts [B, T, D] to [B, D]: a class
# may declare more (lvm/models/base.py says what).
MODELS: Registry[Callable[..., Any]] = Registry("model", "lvm.models")


def model_options(name: str) -> type[Options]:
    """Return the class of a model's own options."""
    found: type[Options] = getattr(MODELS.get(name), "Options", Options)
    return found


def tables_of(options_of: Callable[[str], type[Part]]) -> Mapping[str, Part]:
    """Return a field of tables by the names of parts; each part declares its keys."""
    return field(default_factory=dict, hash=False, metadata={PARTS: options_of})


def read_tables(
    options_of: Callable[[str], type[Options]],
    values: object,
    *,
    base: Mapping[str, Options],
    dotted: str,
) -> dict[str, Options]:
    """Return the tables of `base` with the keys in `values` changed, part by part."""
    found = dict(base)
    for name, table in section(dotted, values).items():
        place = f"{dotted}.{name}"
        keys = section(place, table)
        found[name] = read_options(options_of(name), keys, base=found.get(name), prefix=f"{place}.")
    return found


def read_options(
    cls: type[Part], values: Mapping[str, object], *, base: Part | None = None, prefix: str
) -> Part:
    """Build options of class `cls` from the keys of a recipe's table, starting from `base`.

    Raises ConfigError on an unknown key, a missing one, a value (or a default) of the wrong type,
    or what the options themselves refuse; `prefix` is the dotted place of the table.
    """
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for key in values:
        require_known(key, fields, prefix)
    chosen = {name: getattr(base, name, f.default) for name, f in fields.items()}
    chosen = {n: typed(prefix + n, v, hints[n]) for n, v in {**chosen, **values}.items()}
    try:
        return cls(**chosen)
    except ConfigError as error:  # it names the option, not its table
        raise ConfigError(f"{prefix}{error}") from None
