"""What is audited: two sides of windows, the bank they are searched in, and whatever else is given.

Any part may be missing: a check then says so. Nothing is repaired or refused here; files that can
be opened at all are handed to the checks as they are.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from lvm.audit.finding import Finding, NotEvaluable
from lvm.core.config.recipe import Recipe
from lvm.core.config.run import GateConfig
from lvm.core.randomness import numpy_generator
from lvm.data.bank import Bank
from lvm.data.rows import ContentIndex, KeyIndex, take
from lvm.data.window_files import WindowFile
from lvm.data.windows import Dataset, Windows

if TYPE_CHECKING:
    from torch import Tensor

    from lvm.audit.loaded import CheckpointPart
    from lvm.audit.training_log import TrainingLog
    from lvm.data.corpus import Document
    from lvm.data.seen import SeenArticles
    from lvm.evaluation.index import Index

SIDES = ("train", "eval")
Others = TypeVarTuple("Others")
Made = TypeVar("Made")
NUM_NAMED = 10  # rows and articles that a finding names, the worst first
Ids = Sequence[int] | Int[np.ndarray, " n"]


def once(make: Callable[[Material, *Others], Made]) -> Callable[[Material, *Others], Made]:
    """Decorate what is measured on a material: once for each further argument.

    A NotEvaluable is kept as well, and raised again.
    """

    @functools.wraps(make)
    def kept(material: Material, *others: *Others) -> Made:
        place = f"_{make.__name__}"
        known: dict[object, Made | NotEvaluable] = material.__dict__.setdefault(place, {})
        if others not in known:
            try:
                known[others] = make(material, *others)
            except NotEvaluable as reason:
                known[others] = reason
        found = known[others]
        if isinstance(found, NotEvaluable):
            raise found
        return found

    return kept


def or_none(make: Callable[[*Others], Made], *others: *Others) -> Made | None:
    """Return what is measured, or None where that is not evaluable."""
    try:
        return make(*others)
    except NotEvaluable:
        return None


@dataclass(frozen=True, eq=False)
class Side:
    """M windows of one side: arrays of vectors (`file`), or row ids into a bank (`windows`)."""

    name: str  # "train" or "eval"
    source: str
    file: WindowFile | None = None
    bank: Bank | None = None
    windows: Windows | None = None

    def __len__(self) -> int:
        return len(self.windows) if self.windows is not None else len(self._file)

    def where(
        self,
        *,
        count: float | None = None,
        of: int | None = None,
        rows: Ids | None = None,
        articles: Ids | None = None,
    ) -> dict[str, object]:
        """Return the `where` of a finding on this side."""
        name, source = self.name, self.source
        return where_found(name, source, count=count, of=of, rows=rows, articles=articles)

    @property
    def context_length(self) -> int:
        """T, the number of context vectors."""
        return (self.windows or self._file).context_length

    @property
    def width(self) -> int:
        """D, the width of a vector."""
        return self.bank.width if self.bank is not None else self._file.width

    @property
    def keys(self) -> Int[np.ndarray, "M 2"] | None:
        """Key of every target as the file states it, or None."""
        if self.bank is not None and self.windows is not None:
            return np.asarray(self.bank.keys[self.windows.targets])
        return self._file.truth_keys

    @property
    def provenance(self) -> Mapping[str, object]:
        """What the file says of itself."""
        return self.file.provenance if self.file is not None else {}

    def contexts(self, rows: Int[np.ndarray, " m"]) -> Float[np.ndarray, "m T D"]:
        """Return the contexts of the given windows as float32, oldest first."""
        if self.bank is not None and self.windows is not None:
            return take(self.bank.vectors, self.windows.contexts[rows])
        return take(self._file.contexts, rows)

    def targets(self, rows: Int[np.ndarray, " m"]) -> Float[np.ndarray, "m D"]:
        """Return the targets of the given windows as float32."""
        if self.bank is not None and self.windows is not None:
            return take(self.bank.vectors, self.windows.targets[rows])
        return take(self._file.targets, rows)

    @property
    def stored_targets(self) -> Float[np.ndarray, "M D"]:
        """All targets as they are stored; of a side cut from a bank, a copy of its rows."""
        if self.bank is not None and self.windows is not None:
            return np.array(self.bank.vectors[self.windows.targets])
        return self._file.targets

    def stored(self, vectors: Float[np.ndarray, "m D"]) -> Float[np.ndarray, "m D"]:
        """Return vectors in the type that the file stores, so that bits compare."""
        kind = self._file.targets.dtype if self.file is not None else vectors.dtype
        return vectors.astype(kind, copy=False)

    @property
    def _file(self) -> WindowFile:
        if self.file is None:
            raise ValueError("a side has a file, or a bank and windows")
        return self.file


@dataclass(frozen=True, kw_only=True)
class EncoderRequest:
    """The encoder that a person names, and the documents that the vectors were made from."""

    name: str  # empty: the one that the manifest of the bank names
    documents: Sequence[Document] | None = None  # None: the texts stored with the bank


@dataclass(frozen=True, kw_only=True, eq=False)
class Material:
    """Everything that an audit may look at."""

    train: Side | None = None
    eval: Side | None = None
    bank: Bank | None = None
    dataset: Dataset | None = None  # the splits as row ids, where they are known
    recipe: Recipe = field(default_factory=Recipe)
    gates: GateConfig = field(default_factory=GateConfig)
    checkpoint: CheckpointPart | None = None
    predictions: Tensor | None = None  # [M, D] unit rows, one per eval window
    seen: SeenArticles | None = None  # what the given model has read, as a person states it
    index: Index | None = None  # the user's index, to compare with the bank
    training: TrainingLog | None = None
    encoder: EncoderRequest | None = None  # to embed a few texts again
    mask: str = "own contexts"  # what the evaluation leaves out of the pool
    problems: Sequence[Finding] = ()  # found while opening the files
    missing: Mapping[str, str] = field(default_factory=dict)  # part -> why it could not be opened
    quick: bool = False  # look at samples of the train side only
    seed: int = 0

    @property
    def sides(self) -> list[Side]:
        """The sides that are there, eval first: that is where a gate is judged."""
        return [side for side in (self.eval, self.train) if side is not None]

    @property
    def width(self) -> int | None:
        """D of the first part of the data that there is."""
        if self.sides:
            return self.sides[0].width
        return self.bank.width if self.bank is not None else None

    def side(self, name: str) -> Side:
        """Return a side, or raise NotEvaluable."""
        found = {"train": self.train, "eval": self.eval}[name]
        if found is None:
            raise NotEvaluable(*self._why(name, f"no {name} windows", "give --train and --eval"))
        return found

    @property
    def pool(self) -> Bank:
        """The bank, or NotEvaluable."""
        if self.bank is None:
            raise NotEvaluable(*self._why("bank", "no bank or payload", "give --payload"))
        return self.bank

    def _why(self, part: str, nothing: str, supply: str) -> tuple[str, str]:
        if part in self.missing:
            return self.missing[part], "fix the file that SCHEMA names"
        return f"{nothing} to look at", supply

    @functools.cached_property
    def content(self) -> ContentIndex:
        """Rows of the bank by content."""
        return self.pool.content

    @functools.cached_property
    def by_key(self) -> KeyIndex:
        """Rows of the bank by key."""
        return KeyIndex(self.pool.keys)

    def sample(self, count: int, most: int, *purpose: str) -> Int[np.ndarray, " m"]:
        """Return up to `most` of `count` places in rising order, drawn for a purpose."""
        generator = numpy_generator(self.seed, *purpose)
        return np.sort(generator.choice(count, min(count, most), replace=False))

    def held_once(self, places: Int[np.ndarray, "*n"]) -> Bool[np.ndarray, "*n"]:
        """Say which places are bank rows (not -1) whose vector is nowhere else in the bank."""
        return np.asarray((places >= 0) & (self.content.copies[np.maximum(places, 0)] == 1))


def where_found(
    input: str,
    source: str | None = None,
    *,
    count: float | None = None,
    of: int | None = None,
    rows: Ids | None = None,
    articles: Ids | None = None,
    blocks: Sequence[Sequence[int]] | None = None,
) -> dict[str, object]:
    """Return the `where` of a finding without what is None; of long lists, the first few."""
    where = {
        "source": source,
        "count": None if count is None else int(count),
        "of": None if of is None else int(of),
        "rows": None if rows is None else [int(row) for row in rows[:NUM_NAMED]],
        "articles": None if articles is None else [int(a) for a in articles[:NUM_NAMED]],
        "blocks": None if blocks is None else [[int(a), int(b)] for a, b in blocks[:NUM_NAMED]],
    }
    return {"input": input, **{key: value for key, value in where.items() if value is not None}}


def most_frequent(ids: Int[np.ndarray, " n"]) -> Int[np.ndarray, " k"]:
    """Return the distinct ids, those that occur most often first."""
    distinct, counts = np.unique(ids, return_counts=True)
    return np.asarray(distinct[np.argsort(-counts, kind="stable")])
