"""A person's own trainer, as a recipe names it: a command, or a Python function.

[trainer]
command = ["python", "train.py", "--temperature", "{objective.temperature}", ...]
files = ["model.py"]           # files that the script reads, other than itself and its imports
options = { hidden = 256 }     # the trainer's own keys: {trainer.options.hidden}

trainer = "my_module:train"    # a function in place of a command
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from lvm.core.errors import ConfigError
from lvm.core.outside import brief, printable
from lvm.core.registry import closest
from lvm.core.setting import section

Option = bool | int | float | str
CALL = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
NAME = re.compile(r"[A-Za-z_]\w*")
READ = "read"  # in the metadata of a field: the function that reads its value


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """What trains in place of this program: a command or a call, and its files."""

    command: tuple[str, ...] = ()
    call: str = ""  # "module:function"
    keys: tuple[str, ...] = ()  # of the recipe that are passed to the call; none: all of them
    files: tuple[str, ...] = ()  # relative to the recipe
    options: Mapping[str, Option] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if bool(self.command) == bool(self.call):
            both = "both" if self.command else "neither"
            raise ConfigError(
                f"trainer must have a command or a call (got {both}); change it in the recipe."
            )
        if self.command and self.keys:
            raise ConfigError(
                "trainer.keys goes with a call; a command holds the keys in braces, as in "
                "{objective.temperature}."
            )
        if self.call and not CALL.fullmatch(self.call):
            raise ConfigError(
                f"trainer.call must name a function as in my_module:train (got {brief(self.call)})."
            )

    @property
    def title(self) -> str:
        """How a sentence names it: the script among the words of a command."""
        scripts = [word for word in self.command if word.endswith((".py", ".sh"))]
        return printable(self.call or next(iter(scripts or self.command)))

    @property
    def sentence(self) -> str:
        """The first sentence of a report."""
        return (
            f"Judged and trained: your own model, by {self.title}. Every arm is a run of that "
            "code, judged by the predictions that it writes."
        )


def read_trainer(value: object, base: object, dotted: str) -> TrainerConfig | None:
    """Return the trainer that a recipe or a step's changes name; ConfigError on anything else."""
    if value is None or isinstance(value, TrainerConfig):
        return value
    if isinstance(value, str):
        return TrainerConfig(call=value)
    table, known = section(dotted, value), [f.name for f in fields(TrainerConfig)]
    for key in table:
        if key not in known:
            raise ConfigError(
                f"unknown key {dotted + '.' + key!r}{closest(key, known)}; allowed: "
                f"{', '.join(known)}."
            )
    before = base if isinstance(base, TrainerConfig) else None
    changed: dict[str, Any] = {}
    for key in ("command", "files", "keys"):
        if key in table:
            changed[key] = _words(f"{dotted}.{key}", table[key])
    if "call" in table:
        changed["call"] = str(table["call"])
    if "options" in table:
        own = _options(f"{dotted}.options", table["options"])
        changed["options"] = {**(before.options if before else {}), **own}
    return replace(before, **changed) if before else TrainerConfig(**changed)


def _words(key: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(word, str) for word in value):
        raise ConfigError(f'{key} must be a list of words, e.g. ["python", "train.py"].')
    return tuple(value)


def _options(key: str, value: object) -> dict[str, Option]:
    found: dict[str, Option] = {}
    for name, option in section(key, value).items():
        if not NAME.fullmatch(name) or not isinstance(option, Option):
            raise ConfigError(
                f"{key}.{name} must be a number, a text or true/false under a plain name "
                f"(got {brief(option)})."
            )
        found[name] = option
    return found
