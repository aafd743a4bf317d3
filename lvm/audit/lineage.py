"""What a checkpoint and everything that it was started from have been trained on.

Ids of articles count where a manifest names the bank that is looked at. Elsewhere the text itself
does, by the sketches that a checkpoint keeps of it (lvm/data/sketch.py).
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from lvm.audit.loaded import names_data
from lvm.audit.stated import stated_articles
from lvm.core.errors import LvmError
from lvm.data.bank import Bank
from lvm.data.seen import SeenArticles
from lvm.data.sketch import Sketches, articles_again
from lvm.data.windows import Dataset
from lvm.training.checkpoint import read_manifest
from lvm.training.report_checkpoint import read_report_checkpoint

ITSELF = "the checkpoint"
BEHIND = "the model behind the predictions"


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """The manifests of a checkpoint and of its parents, and the parents that tell nothing."""

    manifests: tuple[tuple[str, Mapping[str, Any]], ...]  # (name, content), the checkpoint first
    unread: Mapping[str, str] = field(default_factory=dict)  # parent -> why it says nothing


@dataclass(frozen=True, kw_only=True)
class TrainedOn:
    """Which of some articles a lineage was trained on, and which ancestors are unreadable."""

    articles: Int[np.ndarray, " a"]
    by_text: bool = False  # known by their text: some of the ids are of another bank
    stated: bool = False  # a person named them where the lineage does not
    unknown: Mapping[str, str] = field(default_factory=dict)  # name -> why


def unknown_lineage() -> Lineage:
    """Return the lineage of a model of which nothing but its predictions is there."""
    why = "a file of predictions does not say which articles its model was trained on"
    return Lineage(manifests=(), unread={BEHIND: why})


def read_lineage(manifest: Mapping[str, object], folder: Path) -> Lineage:
    """Follow `parents`: paths (relative to the checkpoint or the working folder) or manifests."""
    manifests: list[tuple[str, Mapping[str, Any]]] = [(ITSELF, manifest)]
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
        if _stated_articles(stated) is None and _sketches(stated) is None:
            unread[_name(parent)] = "it does not say which articles it was trained on"
        else:
            manifests.append((_name(parent), stated))
        waiting += [(grandparent, place) for grandparent in _parents(stated)]
    return Lineage(manifests=tuple(manifests), unread=unread)


def seen_articles(
    lineage: Lineage,
    bank: Bank | None,
    dataset: Dataset | None,
    vectors: Float[np.ndarray, "m D"],
    articles: Int[np.ndarray, " m"],
    stated: SeenArticles | None = None,
) -> TrainedOn:
    """Return which of the articles of some chunks a checkpoint or one of its parents saw.

    `articles` are ids of `bank`. Where a manifest names another bank, or none, the sketches of its
    text are looked for among `vectors`. What a person has `stated` counts with them, and answers
    for what they leave unknown.
    """
    seen, by_text, unknown = [np.empty(0, np.int64)], False, dict(lineage.unread)
    for name, manifest in lineage.manifests:
        ids, sketches = _stated_articles(manifest), _sketches(manifest)
        if ids is not None and names_data(manifest, bank, dataset):
            seen.append(np.intersect1d(articles, np.fromiter(ids, np.int64)))
        elif sketches is not None:
            found = articles_again(sketches, vectors, articles)
            seen.append(found)
            by_text |= len(found) > 0
        elif ids is not None:
            unknown[name] = (
                "its article ids belong to another bank, and it stores no text to match by"
            )
        else:
            unknown[name] = "it does not say which articles it was trained on"
    if stated is not None:
        seen.append(stated_articles(stated, bank, vectors, articles))
        by_text |= stated.text is not None and len(seen[-1]) > 0
    return TrainedOn(
        articles=np.unique(np.concatenate(seen)),
        by_text=by_text,
        stated=stated is not None and bool(unknown),
        unknown={} if stated is not None else unknown,
    )


def _sketches(manifest: Mapping[str, object]) -> Sketches | None:
    return Sketches.from_plain(manifest.get("text_seen"))


def _parents(manifest: Mapping[str, object]) -> list[object]:
    parents = manifest.get("parents") or []
    return list(parents) if isinstance(parents, list | tuple) else [parents]


def _stated_articles(manifest: Mapping[str, object]) -> set[int] | None:
    stated = manifest.get("articles_seen")
    if not isinstance(stated, list | tuple | set | frozenset):
        return None
    whole = {int(a) for a in stated if isinstance(a, int | np.integer)}
    return {article for article in whole if abs(article) < 2**31}  # as wide as a key


def _find(parent: str, child: Path) -> Path | None:
    """Return where a parent lies: a checkpoint folder or a .pt file."""
    for place in (child / parent, child.parent / parent, Path(parent)):
        with contextlib.suppress(OSError):  # a text too long for a path
            if place.is_file() or place.is_dir():
                return place
    return None


def _manifest(place: Path) -> Mapping[str, object]:
    if place.is_file():
        return read_report_checkpoint(place).manifest()
    return read_manifest(place) or {}


def _name(parent: object) -> str:
    if isinstance(parent, Mapping):
        return str(parent.get("recipe_id") or parent.get("id") or "an embedded manifest")
    return str(parent)
