"""Reading a run's configuration: from a recipe file, or from what a journal keeps.

The plug-ins that it lists are imported first, since other keys may name what they register.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from pathlib import Path

from lvm.core.config.plain import from_dict
from lvm.core.config.read_steps import own_steps_of
from lvm.core.config.recipe import Recipe
from lvm.core.config.run import RunConfig
from lvm.core.errors import ConfigError
from lvm.core.outside import brief, parse_json, read_text
from lvm.core.plugins import load_modules

RECIPES = Path(__file__).parents[2] / "recipes"  # those that come with the package


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with the package."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def recipe_file(given: str | Path) -> Path:
    """Return the recipe file that a person means: a path, or the name of a packaged recipe.

    A file of that name in the current folder comes first.
    """
    path = Path(given)
    return RECIPES / f"{path}.toml" if str(path) in recipe_names() and not path.exists() else path


def load_run_config(path: Path, base: RunConfig) -> RunConfig:
    """Read a recipe file (.toml or .json) over `base`.

    The sections [gates] and [schedule] change those of the run, [[steps]] adds to its tree; every
    other key is the recipe's.
    What `plugins` lists is imported first: it may name what other keys hold.
    """
    try:
        text = read_text(path)
        values = parse_json(text) if path.suffix == ".json" else tomllib.loads(text)
    except FileNotFoundError:
        raise ConfigError(
            f"the recipe {path} does not exist; give the path of a .toml or .json file, or one of "
            f"the names {', '.join(recipe_names())}."
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"the recipe {path} cannot be read ({error}); write it as TOML or JSON."
        ) from None
    if not isinstance(values, dict):
        raise ConfigError(f"the recipe {path} holds no keys; write it as a table of keys.")
    sections = {key: values.pop(key, {}) for key in ("gates", "schedule")}
    try:
        plugins = _with_plugins(values.pop("plugins", []))
        steps = own_steps_of(values.pop("steps", []))
        return dataclasses.replace(
            from_dict(RunConfig, sections, base=base),
            recipe=from_dict(Recipe, values, base=base.recipe),
            plugins=plugins,
            steps=steps,
        )
    except ConfigError as error:
        raise ConfigError(f"the recipe {path}: {error}") from None


def run_config_of(values: Mapping[str, object]) -> RunConfig:
    """Return the configuration that a journal keeps, after its plug-ins are imported."""
    plugins = _with_plugins(values.get("plugins", []))
    steps = own_steps_of(values.get("steps", []))
    plain = {key: value for key, value in values.items() if key not in ("plugins", "steps")}
    return dataclasses.replace(from_dict(RunConfig, plain), plugins=plugins, steps=steps)


def _with_plugins(names: object) -> tuple[str, ...]:
    """Import the modules of a recipe's `plugins` and return their names."""
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"plugins must be a list of module names (got {brief(names)}).")
    load_modules(names)
    return tuple(names)
