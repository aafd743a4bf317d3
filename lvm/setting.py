"""How a setting of the recipe is refused: what it must be, what was got, what to do."""

from __future__ import annotations

from lvm.errors import ConfigError
from lvm.outside import brief


def require(condition: bool, key: str, seen: object, allowed: str) -> None:
    """Raise ConfigError for the setting `key` unless the condition holds."""
    if not condition:
        raise ConfigError(f"{key} must be {allowed} (got {brief(seen)}); change it in the recipe.")


def require_one_of(key: str, seen: str, allowed: tuple[str, ...]) -> None:
    """Raise ConfigError unless the setting is one of the names."""
    require(seen in allowed, key, seen, f"one of {', '.join(allowed)}")
