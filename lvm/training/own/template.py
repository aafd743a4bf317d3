"""What a trainer is handed of a recipe: its command's names, filled in. Needs no torch.

    ["python", "train.py", "--tau", "{objective.temperature}", "--out", "{folder}"]

A name in braces is a key of the recipe or a place. A change of a recipe reaches the trainer where
its command names every key that changes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from lvm.core.config.plain import to_dict
from lvm.core.config.recipe import Recipe
from lvm.core.errors import ConfigError
from lvm.core.plain_json import Json
from lvm.core.registry import closest
from lvm.core.trainer import TrainerConfig

PLACES = ("folder", "windows")  # where a trainer writes, and where the windows are
NEEDED = {
    "training.epochs": "a step has a budget of its own",
    "objective.contrastive_weight": "AR-only is the same training without the contrastive term",
    "folder": "the trainer's results are read there",
}
FIXED = "search_space"  # of the search, which is ours: a trainer need not know it
IN_BRACES = re.compile(r"\{([A-Za-z_][\w.]*)\}")
OWN_OPTIONS = "trainer.options."


def values_of(recipe: Recipe) -> dict[str, Json]:
    """Return the recipe's values by dotted keys, with the trainer's own options."""
    plain = to_dict(recipe)
    plain.pop("trainer", None)
    own = recipe.trainer.options if recipe.trainer is not None else {}
    return _flat(plain, "") | _flat(own, OWN_OPTIONS)


def _flat(table: Mapping[str, Json], prefix: str) -> dict[str, Json]:
    found: dict[str, Json] = {}
    for key, value in table.items():
        place = f"{prefix}{key}"
        found |= _flat(value, f"{place}.") if isinstance(value, Mapping) else {place: value}
    return found


def names_in(trainer: TrainerConfig) -> list[str]:
    """Return the names in braces of a command, in their order."""
    return [name for word in trainer.command for name in IN_BRACES.findall(word)]


def check_trainable(recipe: Recipe, *, num_seeds: int = 1) -> None:
    """Raise ConfigError where a trainer's recipe or command is not what a triage needs."""
    trainer = recipe.trainer
    if trainer is not None and recipe.search_space != "raw":
        raise ConfigError(
            'search_space must be "raw" with a trainer, whose predictions lie in the space of the '
            f'bank (got "{recipe.search_space}"); change it in the recipe.'
        )
    if trainer is None:
        return
    where = "trainer.keys" if trainer.call else "trainer.command"
    known = [*values_of(recipe), *([] if trainer.call else PLACES)]
    names = handed_keys(trainer, known)
    for name in names:
        if name not in known:
            raise ConfigError(
                f"{where} names {_shown(trainer, name)}, which is no key of the recipe"
                f"{closest(name, known)}; change it, or set it under [trainer.options]."
            )
    needed = NEEDED | ({"seed": f"--seeds {num_seeds} trains it again"} if num_seeds > 1 else {})
    for name, why in needed.items():
        if name not in names and not (trainer.call and name in PLACES):
            raise ConfigError(f"{where} must hold {_shown(trainer, name)}, because {why}; add it.")


def _shown(trainer: TrainerConfig, name: str) -> str:
    return f'"{name}"' if trainer.call else f"{{{name}}}"


def fill_command(recipe: Recipe, places: Mapping[str, object]) -> list[str]:
    """Return the words of the recipe's command with the values in place of their names."""
    assert recipe.trainer is not None
    values = {**values_of(recipe), **places}
    return [
        IN_BRACES.sub(lambda found: _word(values[found[1]]), word)
        for word in recipe.trainer.command
    ]


def _word(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return str(value)


def unreached(recipe: Recipe, changed: Recipe) -> list[str]:
    """Return the keys in which `changed` differs and that the recipe's trainer is not handed."""
    trainer = recipe.trainer
    if trainer is None:
        return []
    before, after = values_of(recipe), values_of(changed)
    differ = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    handed = set(handed_keys(trainer, list(after)))
    return [key for key in differ if key != FIXED and key not in handed]


def handed_keys(trainer: TrainerConfig, known: list[str]) -> list[str]:
    """Return the keys that a trainer is handed: all that are known, to a call that names none."""
    return list(trainer.keys or known) if trainer.call else names_in(trainer)


def handed_values(recipe: Recipe) -> dict[str, Json]:
    """Return the values that the recipe's call is handed, by their keys."""
    assert recipe.trainer is not None
    values = values_of(recipe)
    return {key: values[key] for key in handed_keys(recipe.trainer, list(values))}


def how_to_reach(recipe: Recipe, keys: list[str]) -> str:
    """Return what to do so that changes of these keys reach the recipe's trainer."""
    assert recipe.trainer is not None
    names = " and ".join(_shown(recipe.trainer, key) for key in keys)
    return f"add {names} to {'trainer.keys' if recipe.trainer.call else 'trainer.command'}"
