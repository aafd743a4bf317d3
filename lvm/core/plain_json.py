"""The type of any JSON value, read or about to be written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    Json: TypeAlias = Mapping[str, "Json"] | Sequence["Json"] | str | int | float | bool | None
else:  # what checks types at run time does not follow one into itself
    Json = Mapping[str, object] | Sequence[object] | str | int | float | bool | None
