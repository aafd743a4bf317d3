"""Which articles a checkpoint and everything that it was started from have been trained on."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lvm.errors import LvmError
from lvm.training.checkpoint import read_manifest
from lvm.training.report_checkpoint import read_report_checkpoint


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """What a checkpoint and its parents state that they saw."""

    articles: frozenset[int] = frozenset()
    unread: Mapping[str, str] = field(default_factory=dict)  # parent -> why it says nothing


def lineage_articles(manifest: Mapping[str, Any], folder: Path) -> set[int]:
    """Return the ids of all articles that the checkpoint or one of its parents was trained on.

    Parents that cannot be read add nothing here; LOADER names them.
    """
    return set(read_lineage(manifest, folder).articles)


def read_lineage(manifest: Mapping[str, Any], folder: Path) -> Lineage:
    """Follow `parents`: paths (relative to the checkpoint or the working folder) or manifests."""
    articles = set(_stated_articles(manifest) or ())
    unread: dict[str, str] = {}
    waiting = [(parent, folder) for parent in _parents(manifest)]
    visited = {folder.resolve()}
    while waiting:
        parent, child = waiting.pop()
        place = child if isinstance(parent, Mapping) else _find(str(parent), child)
        if place is None:
            unread[str(parent)] = "there is no such file"
            continue
        if not isinstance(parent, Mapping):
            if place.resolve() in visited:
                continue
            visited.add(place.resolve())
        try:
            stated = parent if isinstance(parent, Mapping) else _manifest(place)
        except LvmError as error:
            unread[str(parent)] = str(error)
            continue
        seen = _stated_articles(stated)
        if seen is None:
            unread[_name(parent)] = "it does not say which articles it saw"
        articles |= seen or set()
        waiting += [(grandparent, place) for grandparent in _parents(stated)]
    return Lineage(articles=frozenset(articles), unread=unread)


def _parents(manifest: Mapping[str, Any]) -> list[Any]:
    parents = manifest.get("parents") or []
    return list(parents) if isinstance(parents, list | tuple) else [parents]


def _stated_articles(manifest: Mapping[str, Any]) -> set[int] | None:
    stated = manifest.get("articles_seen")
    if not isinstance(stated, list | tuple | set | frozenset):
        return None
    return {int(a) for a in stated if isinstance(a, int | np.integer)}


def _find(parent: str, child: Path) -> Path | None:
    """Return where a parent lies: a checkpoint folder or a .pt file."""
    for place in (child / parent, child.parent / parent, Path(parent)):
        with contextlib.suppress(OSError):  # a text too long for a path
            if place.is_file() or place.is_dir():
                return place
    return None


def _manifest(place: Path) -> Mapping[str, Any]:
    if place.is_file():
        return read_report_checkpoint(place).manifest()
    return read_manifest(place) or {}


def _name(parent: object) -> str:
    if isinstance(parent, Mapping):
        return str(parent.get("recipe_id") or parent.get("id") or "an embedded manifest")
    return str(parent)
