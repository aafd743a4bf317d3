"""The report's three files (train windows, eval windows, payload) as one dataset of row ids.

The windows hold copies of the payload's vectors. Each copy is found again by its bytes, so that a
window costs T + 1 integers; a vector that is not in the payload becomes an extra row behind it,
which serves its windows and is never retrieved.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from pathlib import Path

import numpy as np

from lvm.core.errors import DataError
from lvm.data.bank import Bank
from lvm.data.copies import RowFinder, prefer_matching_keys
from lvm.data.payload import read_payload
from lvm.data.window_files import WindowFile, read_window_file
from lvm.data.windows import MIN_ARTICLES, Dataset, Windows, ranked_articles

log = logging.getLogger(__name__)

DEV_SHARE = 0.15  # of the articles of the train file


def dataset_from_report_files(
    train: Path, eval_: Path, payload: Path, context_length: int
) -> Dataset:
    """Turn the report's files into a dataset: the eval file is test, the train file train and dev.

    The bank holds the payload's rows (its pool), then the extra rows, whose chunk numbers are
    negative. The article of a window is that of its target's key in the payload, else of its truth
    key, else one article per run of windows that continue each other. About 15 % of the train
    articles, chosen by hash, are dev. `bank.manifest["report_files"]` counts what was found:
    windows per file, extra rows, targets outside the pool, where the articles come from, and
    articles shared by both files. Raises DataError on unreadable files, a width or context length
    that differs, and too few articles.
    """
    files = read_window_file(train), read_window_file(eval_)
    return dataset_from_windows(*files, read_payload(payload), context_length)


def dataset_from_windows(
    train: WindowFile, eval_: WindowFile, bank: Bank, context_length: int
) -> Dataset:
    """Do the same with files that are open already, whose vectors are known to be usable."""
    finder = RowFinder(bank.vectors)
    files = [train, eval_]
    named = [bank.articles, *(f.truth_keys[:, 0] for f in files if f.truth_keys is not None)]
    free_article = 1 + max(int(articles.max()) for articles in named)
    placed: list[Windows] = []
    origins: list[dict[str, int]] = []
    for file in files:
        _check_fit(file, bank, context_length)
        windows, origin, free_article = _place(file, bank, finder, free_article)
        placed.append(windows)
        origins.append(origin)
    train_part, dev_part = _hold_out_dev(placed[0], train.source)
    _check_articles(placed[1], "test", eval_.source)
    notes = _notes(files, placed, origins, len(bank), len(finder.extra_rows))
    return Dataset(_extend(bank, finder.extra_rows, placed, notes), train_part, dev_part, placed[1])


def _check_fit(file: WindowFile, bank: Bank, context_length: int) -> None:
    if file.context_length != context_length:
        raise DataError(
            f"{file.source}: the contexts have {file.context_length} vectors, but the recipe's "
            f"context_length is {context_length}; change the recipe."
        )
    if file.width != bank.width:
        raise DataError(
            f"{file.source}: the vectors have width {file.width}, but those of {bank.source} "
            f"have {bank.width}; embed both with one model."
        )


# --- rows and articles of windows -----------------------------------------------------------------


def _place(
    file: WindowFile, bank: Bank, finder: RowFinder, free_article: int
) -> tuple[Windows, dict[str, int], int]:
    """Return the windows as row ids, how many articles came from where, the next free article."""
    m = len(file)
    contexts = finder.find(file.contexts.reshape(-1, file.width)).reshape(m, -1)
    equal = np.column_stack([contexts, finder.find(file.targets)])
    rows = prefer_matching_keys(equal, finder.groups, bank.keys, file.truth_keys)
    in_pool = rows[:, -1] < len(bank)
    articles = np.where(in_pool, bank.articles[rows[:, -1] % len(bank)], -1).astype(np.int64)
    known, origin = in_pool, {"payload": int(in_pool.sum())}
    if file.truth_keys is not None:
        articles = np.where(known, articles, file.truth_keys[:, 0])
        known, origin["truth_keys"] = np.ones(m, dtype=bool), int((~known).sum())
    origin["runs"] = int((~known).sum())
    articles, free_article = _articles_of_runs(equal, articles, known, free_article)
    return Windows(rows[:, :-1], rows[:, -1], articles), origin, free_article


def _articles_of_runs(
    rows: np.ndarray, articles: np.ndarray, known: np.ndarray, free_article: int
) -> tuple[np.ndarray, int]:
    """Give windows of unknown article that of their run, or a free number per run.

    A window continues the one before it when its context is that one's, moved on by one vector.
    """
    if rows.shape[1] > 2:
        continues = (rows[1:, :-2] == rows[:-1, 1:-1]).all(axis=1)
    else:  # T = 1: nothing overlaps, the context must be the target before
        continues = rows[1:, 0] == rows[:-1, 1]
    run = np.concatenate([[0], np.cumsum(~continues)])
    of_run = np.full(run[-1] + 1, -1, np.int64)
    has_known, first_known = np.unique(run[known], return_index=True)
    of_run[has_known] = articles[known][first_known]
    lacking = np.unique(run[~known & (~np.isin(run, has_known))])
    of_run[lacking] = free_article + np.arange(len(lacking))
    return np.where(known, articles, of_run[run]), free_article + len(lacking)


def _hold_out_dev(windows: Windows, source: str) -> tuple[Windows, Windows]:
    """Split the train file by article into train and dev."""
    ranked = ranked_articles(windows.articles.tolist())
    num_dev = max(MIN_ARTICLES["dev"], round(DEV_SHARE * len(ranked)))
    held_out = np.isin(windows.articles, ranked[:num_dev])
    train, dev = windows.select(~held_out), windows.select(held_out)
    _check_articles(train, "train", source)
    _check_articles(dev, "dev", source)
    return train, dev


def _check_articles(windows: Windows, split: str, source: str) -> None:
    if windows.num_articles < MIN_ARTICLES[split]:
        raise DataError(
            f"{source}: the {split} split has {windows.num_articles} articles but needs at "
            f"least {MIN_ARTICLES[split]}; write windows from more articles."
        )


def _notes(
    files: list[WindowFile],
    placed: list[Windows],
    origins: list[dict[str, int]],
    pool_size: int,
    num_extra: int,
) -> dict[str, object]:
    shared = np.intersect1d(placed[0].articles, placed[1].articles)
    if len(shared):
        log.warning(
            "%d articles have windows in both %s and %s", len(shared), *(f.source for f in files)
        )
    return {
        "files": [
            {
                "source": file.source,
                "windows": len(windows),
                "targets_outside_pool": int((windows.targets >= pool_size).sum()),
                "articles_from": origin,
            }
            for file, windows, origin in zip(files, placed, origins, strict=True)
        ],
        "extra_rows": num_extra,
        "shared_articles": len(shared),
    }


# --- the bank behind them -------------------------------------------------------------------------


def _extend(bank: Bank, extra: np.ndarray, placed: list[Windows], notes: dict[str, object]) -> Bank:
    """Return the bank with the extra rows behind its pool; without any, vectors stay mapped."""
    manifest = {**bank.manifest, "report_files": notes}
    if len(extra) == 0:
        return dataclasses.replace(bank, manifest=manifest)
    return Bank(
        np.concatenate([bank.vectors, extra]),
        np.concatenate([bank.keys, _extra_keys(len(bank), len(extra), placed)]),
        manifest,
        functools.partial(_padded_texts, bank, len(extra)),
        bank.source,
        pool_size=len(bank),
    )


def _extra_keys(pool_size: int, num_extra: int, placed: list[Windows]) -> np.ndarray:
    """Key extra rows by the first window that holds them, with chunk numbers -2, -4, -6, ...

    No two are consecutive, so that no window can be cut from extra rows.
    """
    rows = np.concatenate([np.column_stack([w.contexts, w.targets]) for w in placed])
    articles = np.concatenate([w.articles for w in placed])
    ids, first = np.unique(rows, return_index=True)
    owner = articles[first[ids >= pool_size] // rows.shape[1]]
    return np.column_stack([owner, -2 - 2 * np.arange(num_extra)]).astype(np.int32)


def _padded_texts(bank: Bank, num_extra: int) -> list[str] | None:
    texts = bank.load_texts()
    return None if texts is None else texts + [""] * num_extra
