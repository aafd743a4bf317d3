"""What a checkpoint and everything that it was started from have been trained on: the eval text?

Ids of articles count where a manifest names the bank that is looked at. Elsewhere the text itself
does, by the sketches that a checkpoint keeps of it (lvm/data/sketch.py).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
from jaxtyping import Bool, Float, Int

from lvm.audit.finding import NotEvaluable, Seen, Severity
from lvm.audit.loaded import names_data
from lvm.audit.material import Material, where_found
from lvm.audit.stated import stated_articles
from lvm.core.errors import LvmError
from lvm.data.bank import Bank
from lvm.data.seen import SeenArticles
from lvm.data.sketch import Sketches, articles_again
from lvm.data.windows import Dataset
from lvm.training.checkpoint import read_manifest
from lvm.training.manifest import Stated
from lvm.training.report_checkpoint import read_report_checkpoint

ITSELF = "the checkpoint"
BEHIND = "the model behind the predictions"
FEW_WINDOWS = 0.01  # of the eval windows: text that few of them share with other articles

Places = tuple[Int[np.ndarray, "m 2"], Bool[np.ndarray, " m"]]  # keys, and where they are known


@dataclass(frozen=True, kw_only=True)
class Lineage:
    """The manifests of a checkpoint and of its parents, and the parents that tell nothing."""

    manifests: tuple[tuple[str, Stated], ...]  # (name, content), the checkpoint first
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


def read_lineage(manifest: Stated, folder: Path) -> Lineage:
    """Follow `parents`: paths (relative to the checkpoint or the working folder) or manifests."""
    manifests: list[tuple[str, Stated]] = [(ITSELF, manifest)]
    unread: dict[str, str] = {}
    waiting = [(parent, folder) for parent in manifest.parents or []]
    visited = {folder.resolve()}
    while waiting:
        parent, child = waiting.pop()
        if isinstance(parent, Stated):
            place, stated, name = child, parent, _name(parent)
        else:
            found, name = _find(parent, child), parent
            if found is None:
                unread[name] = "there is no such file"
                continue
            place = found
            if place.resolve() in visited:
                continue
            visited.add(place.resolve())
            try:
                stated = _manifest(place)
            except LvmError as error:
                unread[name] = str(error)
                continue
        if _stated_articles(stated) is None and _sketches(stated) is None:
            unread[name] = "it does not say which articles it was trained on"
        else:
            manifests.append((name, stated))
        waiting += [(grandparent, place) for grandparent in stated.parents or []]
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


def _sketches(manifest: Stated) -> Sketches | None:
    return Sketches.from_plain(msgspec.to_builtins(manifest.text_seen))


def _stated_articles(manifest: Stated) -> set[int] | None:
    if manifest.articles_seen is None:
        return None
    return {article for article in manifest.articles_seen if abs(article) < 2**31}  # as a key


def _find(parent: str, child: Path) -> Path | None:
    """Return where a parent lies: a checkpoint folder or a .pt file."""
    for place in (child / parent, child.parent / parent, Path(parent)):
        with contextlib.suppress(OSError):  # a text too long for a path
            if place.is_file() or place.is_dir():
                return place
    return None


def _manifest(place: Path) -> Stated:
    if place.is_file():
        return read_report_checkpoint(place).stated
    return read_manifest(place) or Stated()


def _name(parent: Stated) -> str:
    return str(parent.recipe_id or parent.id or "an embedded manifest")


def seen_before(material: Material, places: Places | None) -> TrainedOn | None:
    """Return which eval articles were trained on; None without a given model or an eval side.

    `places` are the keys of the eval windows; without them no article is known.
    """
    part, side = material.checkpoint, material.eval
    if side is None or (part is None and material.predictions is None):
        return None
    if places is None:
        model = BEHIND if part is None else ITSELF
        return TrainedOn(
            articles=np.empty(0, np.int64),
            unknown={model: "the articles of the eval windows are not known"},
        )
    lineage = unknown_lineage() if part is None else read_lineage(part.manifest, part.path)
    keys, known = places
    rows = np.flatnonzero(known)
    return seen_articles(
        lineage,
        material.bank,
        material.dataset,
        side.contexts(rows)[:, -1],
        keys[rows, 0],
        material.seen,
    )


def seen_findings(
    material: Material, places: Places | None, seen: TrainedOn | None
) -> Iterator[Seen]:
    """Report eval articles that were trained on."""
    part = material.checkpoint
    if seen is None or places is None or len(seen.articles) == 0:
        return
    model = "the checkpoint or one of its parents" if part is not None else BEHIND
    read_from = ("predictions",) if part is None else ("checkpoint", str(part.path))
    told = ", matched by text (their ids differ)" if seen.by_text else ""
    keys, known = places
    shared = known & np.isin(keys[:, 0], seen.articles)
    few = seen.by_text and shared.mean() <= FEW_WINDOWS
    total = len(np.unique(keys[known, 0]))
    yield Seen(
        severity=Severity.WARN if few else Severity.BLOCK,
        seen=f"{len(seen.articles)} of {total} eval articles were seen by {model}{told}",
        allowed=f"{FEW_WINDOWS:.0%} of the windows" if seen.by_text else "0",
        where=where_found(*read_from, count=shared.sum(), of=len(shared), articles=seen.articles),
        meaning="The model, or one it was initialised from, was trained on this eval text.",
        next="evaluate it on articles that no ancestor has seen, or train again without the "
        "parents",
        values={"articles": float(len(seen.articles)), "by_text": float(seen.by_text)},
    )


def require_known(seen: TrainedOn | None) -> None:
    """Raise NotEvaluable where what the given model or a parent saw cannot be compared."""
    if seen is not None and seen.unknown:
        name, why = next(iter(seen.unknown.items()))
        raise NotEvaluable(
            f"it is unknown whether {name} has seen the eval text: {why}",
            "name the articles that it has read (--seen FILE), or evaluate it on text that is "
            "newer than the model",
        )
