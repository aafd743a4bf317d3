"""Damage to one part at a time, and clean kinds of text and of numbering that look like damage."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from planted import PLANTS, Family, Parts, T, change, clean, corpus, parts_of, some

from lvm.data.bank import Bank
from lvm.data.window_files import WindowFile

Apply = Callable[[Parts, np.random.Generator], Parts]


@dataclass(frozen=True, kw_only=True)
class Damage:
    """What is broken, the code that must say so, and the part that it must name."""

    code: str
    parts: frozenset[str]  # the inputs that are broken: train, eval, bank, index
    apply: Apply
    blocks: bool = True
    repaired: bool = True  # else a repair refuses


DAMAGES: dict[str, Damage] = {}


def _damage(
    code: str, *parts: str, blocks: bool = True, repaired: bool = True
) -> Callable[[Apply], Apply]:
    def register(apply: Apply) -> Apply:
        DAMAGES[apply.__name__] = Damage(
            code=code, parts=frozenset(parts), apply=apply, blocks=blocks, repaired=repaired
        )
        return apply

    return register


# Which inputs each plant of the planted suite breaks.
PLANTED: Mapping[str, frozenset[str]] = {name: frozenset(["eval"]) for name in PLANTS} | {
    "nan_in_bank": frozenset(["bank"]),
    "zero_rows": frozenset(["bank"]),
    "duplicates": frozenset(["bank"]),
    "eval_not_in_bank": frozenset(["bank"]),
    "index_rolled": frozenset(["index"]),
    "order_shuffled": frozenset(["train", "eval", "bank"]),
    "order_interleaved": frozenset(["train", "eval", "bank"]),
    "eval_and_its_rows_rotated": frozenset(["eval", "bank"]),
    "split_leak": frozenset(["train", "eval"]),
    "reworded_in_bank": frozenset(["bank"]),
    "chunks_overlap": frozenset(["train", "eval", "bank"]),
    "mixed_encoders": frozenset(["train", "eval", "bank"]),
    "contexts_in_another_space": frozenset(["train", "eval"]),
    "order_as_text": frozenset(["train", "eval", "bank"]),
    "order_pairs_swapped": frozenset(["train", "eval", "bank"]),
    "order_batches_shuffled": frozenset(["train", "eval", "bank"]),
    "order_merged_in_runs": frozenset(["train", "eval", "bank"]),
}


def damaged(name: str, seed: int = 0) -> Parts:
    """Return the clean data set of `seed` with one part broken."""
    return DAMAGES[name].apply(clean(seed), np.random.default_rng([seed, 3]))


def _train(parts: Parts, **changes: np.ndarray) -> Parts:
    return dataclasses.replace(parts, train=change(parts.train, **changes))


def _bank(parts: Parts, vectors: np.ndarray, keys: np.ndarray) -> Parts:
    bank = Bank(vectors, keys.astype(np.int32), {"count": len(keys)}, source=parts.bank.source)
    return dataclasses.replace(parts, bank=bank)


def _overwritten(parts: Parts, rng: np.random.Generator, share: float, *, keys: bool) -> Parts:
    """Train targets of other text; their keys say where they are from, or stay as they were."""
    targets, stated = parts.train.targets.copy(), parts.train.truth_keys.copy()
    rows = some(len(targets), share, rng)
    drawn = rng.integers(len(parts.bank), size=len(rows))
    targets[rows] = parts.bank.vectors[drawn]
    if keys:
        stated[rows] = parts.bank.keys[drawn]
    return _train(parts, targets=targets, truth_keys=stated)


@_damage("EVAL_UNPAIRED", "train", blocks=False)
def train_targets_some(parts: Parts, rng: np.random.Generator) -> Parts:
    return _overwritten(parts, rng, 0.03, keys=True)


@_damage("EVAL_UNPAIRED", "train")
def train_targets_third(parts: Parts, rng: np.random.Generator) -> Parts:
    return _overwritten(parts, rng, 0.3, keys=True)


@_damage("EVAL_UNPAIRED", "train")
def train_targets_third_keys_kept(parts: Parts, rng: np.random.Generator) -> Parts:
    return _overwritten(parts, rng, 0.3, keys=False)


@_damage("EVAL_UNPAIRED", "train")
def train_targets_all(parts: Parts, rng: np.random.Generator) -> Parts:
    return _overwritten(parts, rng, 1.0, keys=False)


@_damage("TARGET_SHIFTED", "train")
def train_target_is_last(parts: Parts, rng: np.random.Generator) -> Parts:
    return _train(parts, targets=parts.train.contexts[:, -1].copy())


@_damage("ORDER_BROKEN", "train")
def train_reversed(parts: Parts, rng: np.random.Generator) -> Parts:
    return _train(parts, contexts=parts.train.contexts[:, ::-1].copy())


@_damage("KEYS_WRONG", "train", blocks=False)
def train_ids_renumbered(parts: Parts, rng: np.random.Generator) -> Parts:
    keys = parts.train.truth_keys.copy()
    keys[:, 0] = rng.permutation(parts.bank.keys[:, 0].max() + 1)[keys[:, 0]]
    return _train(parts, truth_keys=keys)


@_damage("KEYS_WRONG", "bank")
def payload_rolled(parts: Parts, rng: np.random.Generator) -> Parts:
    return _bank(parts, np.roll(parts.bank.vectors, 1, axis=0), parts.bank.keys)


@_damage("KEYS_WRONG", "bank", repaired=False)
def payload_ids_renumbered(parts: Parts, rng: np.random.Generator) -> Parts:
    keys = parts.bank.keys.copy()
    keys[:, 0] = rng.permutation(keys[:, 0].max() + 1)[keys[:, 0]]
    return _bank(parts, parts.bank.vectors, keys)


@_damage("KEYS_WRONG", "bank", repaired=False)
def payload_keys_shuffled(parts: Parts, rng: np.random.Generator) -> Parts:
    return _bank(parts, parts.bank.vectors, parts.bank.keys[rng.permutation(len(parts.bank))])


@_damage("KEYS_WRONG", "bank", repaired=False)
def payload_keys_some(parts: Parts, rng: np.random.Generator) -> Parts:
    """A tenth of the payload's keys swapped among each other."""
    keys = parts.bank.keys.copy()
    rows = some(len(keys), 0.1, rng)
    keys[rows] = keys[rng.permutation(rows)]
    return _bank(parts, parts.bank.vectors, keys)


@_damage("TARGET_NOT_IN_BANK", "bank")
def payload_overwritten(parts: Parts, rng: np.random.Generator) -> Parts:
    """A tenth of the payload's vectors are of other text."""
    vectors = parts.bank.vectors.copy()
    rows = some(len(vectors), 0.1, rng)
    vectors[rows] = _unit(rng.standard_normal((len(rows), vectors.shape[1])))
    return _bank(parts, vectors, parts.bank.keys)


@_damage("TARGET_NOT_IN_BANK", "eval")
def targets_blended(parts: Parts, rng: np.random.Generator) -> Parts:
    return dataclasses.replace(
        parts,
        eval=change(parts.eval, targets=_unit(parts.eval.targets + parts.eval.contexts[:, 4])),
    )


@_damage("DUPLICATES", "eval", blocks=False)
def eval_windows_repeated(parts: Parts, rng: np.random.Generator) -> Parts:
    return dataclasses.replace(parts, eval=_repeated(parts.eval, 5))


@_damage("DUPLICATES", "train", blocks=False)
def train_windows_repeated(parts: Parts, rng: np.random.Generator) -> Parts:
    return dataclasses.replace(parts, train=_repeated(parts.train, 5))


def _repeated(file: WindowFile, times: int) -> WindowFile:
    rows = np.tile(np.arange(len(file)), times)
    return WindowFile(
        file.contexts[rows],
        file.targets[rows],
        file.truth_keys[rows],
        {"num_windows": len(rows)},
        file.source,
    )


@_damage("ZERO_ROWS", "train", "eval", blocks=False)
def padded_with_zeros(parts: Parts, rng: np.random.Generator) -> Parts:
    return dataclasses.replace(
        parts, train=_padded(parts, parts.train), eval=_padded(parts, parts.eval)
    )


@_damage("DUPLICATES", "train", "eval", blocks=False, repaired=False)
def padded_with_first_chunks(parts: Parts, rng: np.random.Generator) -> Parts:
    return dataclasses.replace(
        parts, train=_padded(parts, parts.train, 1), eval=_padded(parts, parts.eval, 1)
    )


def _padded(parts: Parts, file: WindowFile, scale: float = 0.0) -> WindowFile:
    """Windows of the first chunks of each article as well; before them the first one, scaled."""
    vectors, keys = parts.bank.vectors, parts.bank.keys
    contexts, targets = [], []
    for article in np.unique(file.truth_keys[:, 0]):
        rows = np.flatnonzero(keys[:, 0] == article)
        for before in range(1, T):
            window = np.repeat(scale * vectors[rows[:1]], T, axis=0)
            window[T - before :] = vectors[rows[:before]]
            contexts.append(window)
            targets.append(rows[before])
    count = len(file) + len(targets)
    return WindowFile(
        np.concatenate([file.contexts, contexts]),
        np.concatenate([file.targets, vectors[targets]]),
        np.concatenate([file.truth_keys, keys[targets]]),
        {"num_windows": count},
        file.source,
    )


# --- clean kinds ----------------------------------------------------------------------------------


def _unit(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def numbered(seed: int, family: Family, missing: float = 0.0, by: int = 1) -> Parts:
    """Chunks counted by ten, or some of them left out before the windows were cut."""
    vectors, keys = corpus(seed, family)
    kept = np.random.default_rng([seed, 4]).random(len(vectors)) >= missing
    vectors, keys = vectors[kept], keys[kept]
    first = np.flatnonzero(np.concatenate([[True], np.diff(keys[:, 0]) != 0]))
    sizes = np.diff([*first, len(keys)])
    plain = np.column_stack([keys[:, 0], np.arange(len(keys)) - np.repeat(first, sizes)])
    parts = parts_of(vectors, plain.astype(np.int32))
    start = np.zeros(int(keys[:, 0].max()) + 1, dtype=np.int64)
    start[keys[first, 0]] = first

    def stated(file: WindowFile) -> np.ndarray:
        rows = start[file.truth_keys[:, 0]] + file.truth_keys[:, 1]
        return (keys[rows] * [1, by]).astype(np.int32)

    files = {
        name: change(file, truth_keys=stated(file))
        for name, file in (("train", parts.train), ("eval", parts.eval))
    }
    return _bank(dataclasses.replace(parts, **files), vectors, keys * [1, by])


def in_turns(seed: int, family: Family, turns: int, share: float, *, everywhere: bool) -> Parts:
    """Speakers who alternate in each article, or the fields of records, the same everywhere."""
    vectors, keys = corpus(seed, family)
    rng, width = np.random.default_rng([seed, 5]), vectors.shape[1]
    articles = 1 if everywhere else int(keys[:, 0].max()) + 1
    voices = _unit(rng.standard_normal((articles, turns, width)))
    voice = voices[keys[:, 0] % articles, keys[:, 1] % turns]
    return parts_of(_unit((1 - share) ** 0.5 * vectors + share**0.5 * voice), keys)


def alike(seed: int, family: Family, cosine: float) -> Parts:
    """Vectors of which any two have a high cosine."""
    vectors, keys = corpus(seed, dataclasses.replace(family, common=0.0))
    common = _unit(np.random.default_rng([seed, 6]).standard_normal(vectors.shape[1]))
    mixed = cosine**0.5 * common + (1 - cosine) ** 0.5 * vectors.astype(np.float64)
    return parts_of(_unit(mixed).astype(family.dtype), keys)


CLEAN: dict[str, Callable[[int, Family], Parts]] = {
    "0.2 % of chunks left out": lambda s, f: numbered(s, f, missing=0.002),
    "4 % of chunks left out": lambda s, f: numbered(s, f, missing=0.04),
    "counted by ten": lambda s, f: numbered(s, f, by=10),
    "counted by ten with gaps": lambda s, f: numbered(s, f, missing=0.01, by=10),
    "alternating speakers": lambda s, f: in_turns(s, f, 2, 0.35, everywhere=False),
    "question and answer": lambda s, f: in_turns(s, f, 2, 0.6, everywhere=True),
    "records of five fields": lambda s, f: in_turns(s, f, 5, 0.5, everywhere=True),
    "records of three fields": lambda s, f: in_turns(s, f, 3, 0.5, everywhere=True),
    "mean cosine .98": lambda s, f: alike(s, f, 0.98),
    "mean cosine .9995": lambda s, f: alike(s, f, 0.9995),
    "mean cosine .99, float16": lambda s, f: alike(
        s, dataclasses.replace(f, dtype=np.float16), 0.99
    ),
}
