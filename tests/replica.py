"""Phase 1 of the failure report, made again at any size: its data, and an eval set that is broken.

At full scale the sizes are the report's: 396,258 train windows of 5 x 768, 5,244 eval windows, a
payload of 584,545 rows of which 559,355 have a key of their own, 8,447 articles. The text is made
(planted.py has its statistics). The eval keys are counted off from row numbers and the targets are
then fetched from the payload by these keys; the contexts are left as they were. Files are written
block by block, so that gigabytes need no memory.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lvm.data.windows import article_windows

T = 5
COMMON, ARTICLE, LOCAL, FADE = 0.145, 0.185, 0.24, 0.52
MADE_UP_CHUNKS = 8  # chunks per made-up article


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much of everything."""

    articles: int = 8_447
    unique_rows: int = 559_355
    payload_rows: int = 584_545
    train_windows: int = 396_258
    eval_windows: int = 5_244
    width: int = 768


SMALL = Size(
    articles=240,
    unique_rows=8_000,
    payload_rows=8_360,
    train_windows=5_000,
    eval_windows=800,
    width=64,
)


@dataclass(frozen=True, kw_only=True)
class Replica:
    """The files, and what the broken eval file hides."""

    train: Path
    eval: Path
    payload: Path
    true_targets: np.ndarray  # [M] payload row that follows the contexts of each eval window
    size: Size


def make_replica(folder: Path, size: Size = Size(), *, seed: int = 0) -> Replica:
    """Write train.npz, eval.npz and payload.npz into `folder`."""
    rng = np.random.default_rng([seed, 3])
    folder.mkdir(parents=True, exist_ok=True)
    lengths = _lengths(size, rng)
    keys = np.column_stack(
        [np.repeat(np.arange(size.articles), lengths), _chunk_numbers(lengths)]
    ).astype(np.int32)
    vectors = _text(folder / ".vectors.npy", lengths, size, rng)
    again = np.sort(rng.choice(len(keys), size.payload_rows - len(keys), replace=False))
    rows = np.concatenate([np.arange(len(keys)), again])
    windows = article_windows(keys, T)
    train, held = _split(windows.articles, size, rng)
    made_up = np.column_stack(
        [np.arange(len(held)) // MADE_UP_CHUNKS, np.arange(len(held)) % MADE_UP_CHUNKS]
    ).astype(np.int32)
    fetched = np.searchsorted(
        keys[:, 0].astype(np.int64) * 2**32 + keys[:, 1],
        made_up[:, 0].astype(np.int64) * 2**32 + made_up[:, 1],
    )
    replica = Replica(
        train=folder / "train.npz",
        eval=folder / "eval.npz",
        payload=folder / "payload.npz",
        true_targets=windows.targets[held],
        size=size,
    )
    _write(
        replica.train,
        context_sequences=(vectors, windows.contexts[train]),
        target_vectors=(vectors, windows.targets[train]),
        truth_keys=keys[windows.targets[train]],
        provenance={"num_sequences": len(train), "source": "made text"},
    )
    _write(
        replica.eval,
        contexts=(vectors, windows.contexts[held]),
        targets=(vectors, fetched),
        truth_keys=made_up,
        provenance={"num_sequences": len(held), "payload_aligned": True},
    )
    _write(
        replica.payload,
        vectors=(vectors, rows),
        keys=keys[rows],
        provenance={"count": len(rows), "width": size.width},
    )
    (folder / ".vectors.npy").unlink()
    return replica


def _lengths(size: Size, rng: np.random.Generator) -> np.ndarray:
    """Return article lengths with a spread of about 1.2 times their mean that sum up exactly."""
    least = MADE_UP_CHUNKS + T + 1
    drawn = np.exp(rng.normal(0, 0.95, size.articles))
    room = size.unique_rows - least * size.articles
    lengths = least + np.floor(drawn / drawn.sum() * room).astype(int)
    lengths[: size.unique_rows - lengths.sum()] += 1
    return lengths


def _chunk_numbers(lengths: np.ndarray) -> np.ndarray:
    starts = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum()) - np.repeat(starts, lengths)


def _text(path: Path, lengths: np.ndarray, size: Size, rng: np.random.Generator) -> np.ndarray:
    """Write unit float32 vectors of all articles, a group of articles at a time."""
    width, total = size.width, int(lengths.sum())
    scales = ((1 + np.arange(width)) ** -0.35).astype(np.float32)
    scales /= np.linalg.norm(scales)

    def draw(n: int) -> np.ndarray:
        return rng.standard_normal((n, width), dtype=np.float32) * scales

    table = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(total, width))
    common = draw(1)
    common *= COMMON**0.5 / np.linalg.norm(common)
    noise = (1 - COMMON - ARTICLE - LOCAL) ** 0.5
    starts = np.concatenate([[0], np.cumsum(lengths)])
    for first in range(0, len(lengths), 128):
        mine = lengths[first : first + 128]
        begin, end = int(starts[first]), int(starts[first + len(mine)])
        part = noise * draw(end - begin) + np.repeat(ARTICLE**0.5 * draw(len(mine)), mine, axis=0)
        state = draw(len(mine))
        at = starts[first : first + len(mine)] - begin
        for chunk in range(int(mine.max())):
            here = chunk < mine
            part[at[here] + chunk] += LOCAL**0.5 * state[here]
            state[here] = FADE * state[here] + (1 - FADE**2) ** 0.5 * draw(int(here.sum()))
        part += common
        table[begin:end] = part / np.linalg.norm(part, axis=1, keepdims=True)
    table.flush()
    del table
    return np.load(path, mmap_mode="r")


def _split(
    articles: np.ndarray, size: Size, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return positions of train and eval windows, from articles that they do not share."""
    order = rng.permutation(size.articles)
    counts = np.bincount(articles, minlength=size.articles)[order]
    num_eval = 1 + int(np.searchsorted(np.cumsum(counts), size.eval_windows))
    held = np.flatnonzero(np.isin(articles, order[:num_eval]))[: size.eval_windows]
    train = np.flatnonzero(np.isin(articles, order[num_eval:]))[: size.train_windows]
    return train, held


def _write(path: Path, **members: object) -> None:
    """Write an uncompressed .npz; a member is an array, a (table, row ids) pair, or provenance."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, member in members.items():
            if isinstance(member, dict):
                member = np.array(json.dumps(member))
            with archive.open(f"{name}.npy", "w", force_zip64=True) as handle:
                if isinstance(member, tuple):
                    table, ids = member
                    shape = (*ids.shape, table.shape[1])
                    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_1_0(handle, header)  # type: ignore[arg-type]
                    for block in _blocks(table, ids):
                        handle.write(block.tobytes())
                else:
                    np.lib.format.write_array(handle, np.asanyarray(member), allow_pickle=False)


def _blocks(table: np.ndarray, ids: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(ids), 4096):
        yield table[ids[start : start + 4096]]
