"""The place of the target among the pool, for every window, and the metrics made from it.

Ties are split. With g rows scoring above the target and e other rows scoring equal, the target may
stand at each of the places g + 1 .. g + e + 1 alike, and every metric is the mean over these:

    rank       1 + g + e / 2
    hit at k   clip((k - g) / (e + 1), 0, 1)
    1 / rank   (H(g + e + 1) - H(g)) / (e + 1), with H the harmonic numbers

So a predictor that gives every row the same score gets exactly the chance values.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lvm.core.device import ids_on
from lvm.core.errors import DataError
from lvm.core.outside import parse_json
from lvm.core.records import Evaluation, Pool
from lvm.data.copies import copy_groups
from lvm.evaluation.measured import means_of

# Scores held at once: 128 MiB, and below 300 MiB with what is made from them, on whichever device
# and whatever M and N. A pool of more rows than that is ranked one query at a time.
_BLOCK_SCORES = 2**25
_BLOCK_SCORES_ON_GPU = 2**27  # 57 queries at once against 584,604 rows leave a GPU waiting
_BLOCK_QUERIES = 512  # more queries at once bring nothing: the product is at full rate


@dataclass(frozen=True, eq=False)
class Ranks:
    """For each of M queries: rows above the target, other rows equal to it, and rows ranked."""

    greater: np.ndarray  # [M] int64
    equal: np.ndarray  # [M] int64, the target itself not counted
    candidates: np.ndarray  # [M] int64, the target counted

    @property
    def rank(self) -> Float[np.ndarray, " M"]:
        """Expected rank of the target, 1 is best."""
        return np.asarray(1 + self.greater + self.equal / 2, dtype=np.float32)

    @property
    def reciprocal_rank(self) -> Float[np.ndarray, " M"]:
        """Expected reciprocal rank of the target."""
        last = self.greater + self.equal + 1
        top = int(last.max(initial=0))
        harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, top + 1))])
        expected: np.ndarray = (harmonic[last] - harmonic[self.greater]) / (self.equal + 1)
        return expected

    @property
    def percentile(self) -> Float[np.ndarray, " M"]:
        """Share of the other candidates that the target beats, ties half: 1 is the top."""
        others = np.maximum(self.candidates - 1, 1)
        beaten: np.ndarray = 1 - (self.greater + self.equal / 2) / others
        return beaten

    def hit(self, k: int) -> Float[np.ndarray, " M"]:
        """Probability that the target is among the first k."""
        share: np.ndarray = np.clip((k - self.greater) / (self.equal + 1), 0.0, 1.0)
        return share


@dataclass(frozen=True, eq=False)
class PerQuery:
    """What was measured for each of M windows: the material of every metric and interval.

    `rank`, `reciprocal_rank` and `hit` leave the window's own contexts and their copies out of the
    pool; `raw_rank` ranks the target among all rows.
    """

    cosine: np.ndarray  # [M] float32, prediction to target in the space of the search
    masked: Ranks  # own contexts do not count
    raw: Ranks
    articles: np.ndarray  # [M] int64, article of the window
    space: str  # "raw" or "projected"
    pool: Pool

    def __len__(self) -> int:
        return len(self.articles)

    @property
    def rank(self) -> Float[np.ndarray, " M"]:
        """Expected rank of the target with own contexts masked."""
        return self.masked.rank

    @property
    def raw_rank(self) -> Float[np.ndarray, " M"]:
        """Expected rank of the target among all rows of the pool."""
        return self.raw.rank

    @property
    def reciprocal_rank(self) -> Float[np.ndarray, " M"]:
        """Expected reciprocal rank of the target with own contexts masked."""
        return self.masked.reciprocal_rank

    @property
    def percentile(self) -> Float[np.ndarray, " M"]:
        """Share of the other candidates that the target beats, own contexts masked."""
        return self.masked.percentile

    def hit(self, k: int) -> Float[np.ndarray, " M"]:
        """Probability that the target is among the first k with own contexts masked."""
        return self.masked.hit(k)

    def save(self, path: Path) -> None:
        """Write as npz; a reader sees the old file or the whole new one, never a part."""
        partial = path.with_name(path.name + ".partial")
        stated = json.dumps({"space": self.space, "pool": asdict(self.pool)})
        with partial.open("wb") as file:
            np.savez(
                file,
                cosine=self.cosine,
                articles=self.articles,
                masked=_stack(self.masked),
                raw=_stack(self.raw),
                stated=np.array(stated),
            )
        os.replace(partial, path)

    @classmethod
    def load(cls, path: Path) -> PerQuery:
        """Read what `save` wrote; DataError when the file is missing or something else."""
        try:
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                stated = parse_json(str(file["stated"]))
                return cls(
                    cosine=file["cosine"],
                    masked=Ranks(*file["masked"]),
                    raw=Ranks(*file["raw"]),
                    articles=file["articles"],
                    space=stated["space"],
                    pool=Pool(**stated["pool"]),
                )
        except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
            raise DataError(
                f"{path} is not a file of an evaluation ({error}); evaluate the model again."
            ) from error


def _stack(ranks: Ranks) -> np.ndarray:
    return np.stack([ranks.greater, ranks.equal, ranks.candidates])


def target_ranks(
    queries: Float[Tensor, "M W"],
    pool: Float[Tensor, "N W"],
    targets: Int[np.ndarray, " M"],
    own_contexts: Int[np.ndarray, "M T"],
    *,
    duplicate_group: Int[np.ndarray, " R"] | None = None,
) -> tuple[Ranks, Ranks]:
    """Return the exact ranks (raw, masked) of the target rows by inner product in fp32.

    They are computed where `queries` and `pool` are; five counts per query come to the host, once.

    `duplicate_group` is, for each of R >= N rows of which the pool are the first ones, the first
    copy of it; by default copies are rows of the pool that are equal up to rounding. Copies get the
    same score, whatever their last bits are and whatever order the matrix product sums in.
    `targets` and `own_contexts` are ids of these rows. Masked means that own contexts and their
    copies do not count, but for the target row itself; ids that are none of R are ignored. A query
    with NaN ranks its target last.
    """
    group = _copies(pool) if duplicate_group is None else duplicate_group
    own = own_groups(group, own_contexts, len(pool))
    group = group[: len(pool)]
    repeated = np.flatnonzero(group != np.arange(len(group)))
    copies, firsts, target, context = (
        ids_on(ids, pool.device) for ids in (repeated, group[repeated], targets, own)
    )
    sizes = ids_on(np.bincount(group)[own.clip(min=0)], pool.device)
    like_target = ids_on(group[targets], pool.device)
    scores_held = _BLOCK_SCORES if pool.device.type == "cpu" else _BLOCK_SCORES_ON_GPU
    size = max(1, min(_BLOCK_QUERIES, scores_held // len(pool)))

    def count(rows: slice) -> Int[Tensor, "B 5"]:  # its scores go before the next ones come
        scores = queries[rows].float() @ pool.T
        if len(copies):
            scores[:, copies] = scores[:, firsts]
        return _count_block(
            scores, target[rows, None], like_target[rows, None], context[rows], sizes[rows]
        )

    counts = [torch.empty(0, 5, dtype=torch.int64, device=pool.device)]
    counts += [count(slice(start, start + size)) for start in range(0, len(queries), size)]
    greater, equal, own_greater, own_equal, num_own = torch.cat(counts).cpu().numpy().T
    everything = np.full_like(num_own, len(pool))
    raw = Ranks(greater, equal, everything)
    return raw, Ranks(greater - own_greater, equal - own_equal, everything - num_own)


def own_groups(
    group: Int[np.ndarray, " R"], own_contexts: Int[np.ndarray, "M T"], size: int
) -> Int[np.ndarray, "M T"]:
    """Return the first copy in the pool of each own context, each once; -1 where there is none."""
    inside = (own_contexts >= 0) & (own_contexts < len(group))
    first = np.where(inside, group[np.where(inside, own_contexts, 0)], -1)
    first = np.sort(np.where(first < size, first, -1), axis=1)
    first[:, 1:][first[:, 1:] == first[:, :-1]] = -1
    return first


def _count_block(
    scores: Float[Tensor, "B N"],
    target: Int[Tensor, "B 1"],
    like_target: Int[Tensor, "B 1"],
    context: Int[Tensor, "B T"],
    sizes: Int[Tensor, "B T"],
) -> Int[Tensor, "B 5"]:
    """Count per query: rows above, other rows equal; of own contexts and copies: above, equal, all.

    `context` names each group of copies by its first row, and `sizes` counts the rows of each; they
    have one score. The target itself never counts.
    """
    num_rows = scores.shape[1]
    aim = scores.gather(1, target)
    lost = aim.isnan()
    # Counting what is not above lets a NaN score compare as above, never as beaten.
    greater = num_rows - _count(scores <= aim) - lost.long()
    equal = (_count(scores == aim) - 1).clamp(min=0)
    first = context.clamp(min=0)
    own = torch.where(context < 0, 0, sizes - (context == like_target).long())
    own_scores = scores.gather(1, first)
    counted = (~(own_scores <= aim), own_scores == aim, torch.ones_like(own, dtype=torch.bool))
    return torch.cat(
        [greater, equal, *((own * kind).sum(dim=1, keepdim=True) for kind in counted)], dim=1
    )


def _count(mask: Tensor) -> Tensor:
    # Bytes are summed several times faster than booleans.
    return mask.view(torch.uint8).sum(dim=1, keepdim=True, dtype=torch.int32).long()


def _copies(pool: Float[Tensor, "N W"]) -> Int[np.ndarray, " N"]:
    return copy_groups(np.ascontiguousarray(pool.detach().cpu().numpy()))


def summarise(
    per_query: PerQuery,
) -> tuple[Mapping[str, float | None], Mapping[str, float | None]]:
    """Return (masked, raw) metrics by name; null where there is no window or Eff@5 is 0 / 0."""
    return means_of(per_query), means_of(replace(per_query, masked=per_query.raw))


def evaluation_of(per_query: PerQuery, split: str) -> Evaluation:
    """Return the metrics of what was measured per query."""
    masked, raw = summarise(per_query)
    return Evaluation(
        split=split,
        space=per_query.space,
        num_windows=len(per_query),
        num_articles=len(np.unique(per_query.articles)),
        pool=per_query.pool,
        masked=masked,
        raw=raw,
    )
