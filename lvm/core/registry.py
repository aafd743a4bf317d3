"""Names that find code: one registry per kind of part, filled by the files that define the parts.

A registry imports every module of its package on the first look-up, so a new loss, model, check or
step is one new file and no edit elsewhere. Duplicates are refused; the error for an unknown name
lists the known ones.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import sys
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from lvm.core.errors import ConfigError

T = TypeVar("T")
FILED: list[tuple[Registry[Any], str]] = []  # registry and registering module of every part


def closest(name: str, known: list[str]) -> str:
    """Return " (did you mean X?)" when a known name is near `name`, else an empty string."""
    near = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def _home(part: object) -> str:
    return str(getattr(part, "__module__", None) or type(part).__module__)


def _filing_module() -> str:
    """Return the module whose import registers a part: the innermost module body on the stack."""
    frame = sys._getframe(1)
    while frame.f_code.co_name != "<module>" and frame.f_back is not None:
        frame = frame.f_back
    return str(frame.f_globals.get("__name__"))


class Registry(Generic[T]):
    """A mapping from names to parts of one kind, discovered lazily in one package."""

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self._package = package
        self._parts: dict[str, T] = {}
        self._discovered = False

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that registers its argument under `name`."""

        def file_under_name(part: T) -> T:
            if name in self._parts:
                raise ConfigError(
                    f"two {self.kind}s are named {name!r}, from {_home(self._parts[name])} and "
                    f"{_home(part)}; rename one of them."
                )
            self._parts[name] = part
            FILED.append((self, _filing_module()))
            return part

        return file_under_name

    def get(self, name: str) -> T:
        """Return the part called `name`; ConfigError lists the known names otherwise."""
        known = self.names()
        if name not in self._parts:
            raise ConfigError(
                f"unknown {self.kind} {name!r}{closest(name, known)}; known: {', '.join(known)}."
            )
        return self._parts[name]

    def names(self) -> list[str]:
        """Return all registered names in sorted order."""
        self._discover()
        return sorted(self._parts)

    def __iter__(self) -> Iterator[T]:
        return (self._parts[name] for name in self.names())

    def _discover(self) -> None:
        if self._discovered:
            return
        package = importlib.import_module(self._package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self._package}.{module.name}")
        self._discovered = True
