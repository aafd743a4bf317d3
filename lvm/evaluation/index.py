"""Nearest rows of a pool by inner product: exact, or approximate by FAISS.

The exact index is the default truth. It runs without FAISS, in torch, with the same answers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lvm.core.device import CPU
from lvm.core.errors import ConfigError, MissingExtraError
from lvm.core.randomness import derive_seed
from lvm.evaluation.faiss_apart import Searchable, index_of, require_faiss, use_threads

_BLOCK_SCORES = 2**25
_ROWS_PER_LIST = 39  # FAISS asks for this many training rows per centroid


class Index(ABC):
    """N rows of a pool that can be searched."""

    is_trained = True  # one that is not cannot be searched

    def __init__(self, size: int, width: int, device: torch.device = CPU) -> None:
        self.size, self.width = size, width  # N, W
        self.device = device  # where the search runs

    @abstractmethod
    def _nearest(self, queries: Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (ids, scores), [M, k] each, best first; -1 where a list ran empty."""

    def search(
        self, queries: Float[Tensor, "M W"], k: int, exclude: Int[np.ndarray, "M E"] | None = None
    ) -> tuple[Int[np.ndarray, "M k"], Float[np.ndarray, "M k"]]:
        """Return ids and scores of the k best rows of each query, best first.

        `exclude` holds row ids that may not be returned; -1 stands for none. Places that stay empty
        hold id -1 and score -inf.
        """
        excluded = np.full((len(queries), 1), -1) if exclude is None else exclude
        wanted = k if exclude is None else k + exclude.shape[1]
        ids, scores = self._nearest(queries.detach().float(), min(wanted, self.size))
        unwanted = (ids[:, :, None] == excluded[:, None, :]).any(axis=2) | (ids < 0)
        ids, scores = np.where(unwanted, -1, ids), np.where(unwanted, -np.inf, scores)
        # Stable: the wanted rows move to the front and keep their order.
        order = np.argsort(unwanted, axis=1, kind="stable")[:, :k]
        short = ((0, 0), (0, k - order.shape[1]))
        return (
            np.pad(np.take_along_axis(ids, order, axis=1), short, constant_values=-1),
            np.pad(np.take_along_axis(scores, order, axis=1), short, constant_values=-np.inf),
        )


class TorchIndex(Index):
    """Exact search by matrix product, on the device of the vectors."""

    def __init__(self, vectors: Float[Tensor, "N W"]) -> None:
        super().__init__(len(vectors), vectors.shape[1], vectors.device)
        self._vectors = vectors.detach().float()

    def _nearest(self, queries: Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
        scores, ids = exact_search_torch(self._vectors, queries, k)
        return ids.cpu().numpy(), scores.cpu().numpy()


class FaissIndex(Index):
    """An index of FAISS."""

    def __init__(self, index: Searchable) -> None:
        super().__init__(int(index.ntotal), int(index.d))
        self.is_trained = bool(index.is_trained)
        self._index = index

    def _nearest(self, queries: Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
        use_threads(torch.get_num_threads())
        scores, ids = self._index.search(_array(queries), k)
        return ids, scores


def exact_search_torch(
    vectors: Float[Tensor, "N W"], queries: Float[Tensor, "M W"], k: int
) -> tuple[Float[Tensor, "M k"], Int[Tensor, "M k"]]:
    """Return (scores, ids) of the k rows with the largest inner products, best first."""
    rows = max(1, _BLOCK_SCORES // len(vectors))
    scores = [vectors.new_empty(0, k)]
    ids = [torch.empty(0, k, dtype=torch.int64, device=vectors.device)]
    for start in range(0, len(queries), rows):
        best = (queries[start : start + rows].to(vectors.device) @ vectors.T).topk(k, dim=1)
        scores.append(best.values)
        ids.append(best.indices)
    return torch.cat(scores), torch.cat(ids)


def build_index(
    vectors: Float[Tensor, "N W"], kind: str, *, nprobe: int = 64, seed: int = 0
) -> Index:
    """Return an index of the rows by inner product.

    `kind` "exact" needs no training and falls back to torch without FAISS or for rows on a GPU.
    "ivf" looks into the `nprobe` nearest of about 4 sqrt(N) lists, whose centroids are trained from
    `seed`: the same rows give the same lists. Raises ConfigError for another kind and
    MissingExtraError where "ivf" has no FAISS.
    """
    if kind == "exact":
        return _exact(vectors)
    if kind == "ivf":
        return _ivf(vectors, nprobe, seed)
    raise ConfigError(f"the index kind must be exact or ivf (got {kind!r}).")


def _exact(vectors: Tensor) -> Index:
    if vectors.device.type != "cpu":
        return TorchIndex(vectors)
    try:
        return FaissIndex(index_of(_array(vectors)))
    except MissingExtraError:
        return TorchIndex(vectors)


def _ivf(vectors: Tensor, nprobe: int, seed: int) -> Index:
    require_faiss()
    use_threads(torch.get_num_threads())
    num_rows = len(vectors)
    num_lists = max(1, min(int(4 * num_rows**0.5), num_rows // _ROWS_PER_LIST))
    index = index_of(
        _array(vectors),
        num_lists=num_lists,
        nprobe=min(nprobe, num_lists),
        seed=derive_seed(seed, "ivf") % 2**31,
    )
    return FaissIndex(index)


def _array(rows: Tensor) -> np.ndarray:
    return np.ascontiguousarray(rows.detach().cpu().numpy(), dtype=np.float32)
