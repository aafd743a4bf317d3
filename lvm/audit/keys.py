"""Checks of keys: does every row have one of its own, and does it lead to its own vector?"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lvm.audit.blame import Keyed, WrongBank, counted_off, keyed, wrong_bank
from lvm.audit.check import About, check
from lvm.audit.counts import repeated, suspects, whole_keys
from lvm.audit.finding import REPAIR, NotEvaluable, Seen, Severity
from lvm.audit.location import in_run
from lvm.audit.material import Material, Side, most_frequent, where_found
from lvm.data.rows import key_codes

ALLOWED_SHARE = 0.99  # of rows whose vector is at its key, and of targets that are in the bank
UNIQUE_SHARE, TOP_SHARE = 0.95, 0.01  # of keys, of the most frequent key
OFFSETS = [(a, c) for a in (-1, 0, 1) for c in (-1, 0, 1) if (a, c) != (0, 0)]
COUNTED_OFF = (
    "The keys were derived from row numbers, so they do not say where a window comes from."
)


@check("KEYS_DEGENERATE", "does every row have its own key?", About(blocks=True, cause=50))
def keys_degenerate(material: Material) -> Iterator[Seen]:
    """Report few keys for many rows, on the eval side and in the bank."""
    looked = False
    for name, source, keys in _key_tables(material):
        looked = True
        _, place, counts = np.unique(key_codes(keys), return_inverse=True, return_counts=True)
        share, top = len(counts) / len(keys), int(counts.max())
        if share >= UNIQUE_SHARE and (top / len(keys) <= TOP_SHARE or top <= 2):
            continue
        if name != "bank" and _only_repeated(material, material.side(name)):
            continue  # DUPLICATES says so: each window has its key, and occurs several times
        worst = np.flatnonzero(counts[place.ravel()] == top)
        yield Seen(
            seen=f"{len(counts)} keys for {len(keys)} rows ({share:.1%}); the most frequent key "
            f"{tuple(keys[worst[0]].tolist())} occurs {top} times",
            allowed=f"{UNIQUE_SHARE:.0%} unique, no key on more than {TOP_SHARE:.0%} of the rows",
            where=where_found(
                name,
                source,
                count=len(worst),
                of=len(keys),
                rows=worst,
                articles=most_frequent(keys[worst, 0]),
            ),
            meaning="Many rows share one key, so most of them point to a wrong target.",
            next="rewrite the keys from the original chunk ids",
            values={"unique_share": share, "top_share": top / len(keys)},
        )
    if not looked:
        raise NotEvaluable("there are no keys", "give truth_keys, or a payload with keys")


def _only_repeated(material: Material, side: Side) -> bool:
    """Say whether windows share a key only because they are the same window."""
    rows = suspects(side)
    if material.quick and side.name == "train":
        rows = whole_keys(side, rows)
    again, keys = repeated(side, rows), key_codes(side.keys[rows])  # type: ignore[index]
    return len(np.unique(keys)) >= UNIQUE_SHARE * int((~again).sum())


def _key_tables(material: Material) -> Iterator[tuple[str, str, np.ndarray]]:
    for side in material.sides:
        if side.file is not None and side.keys is not None:
            yield side.name, side.source, side.keys
    if material.bank is not None:
        yield "bank", material.bank.source, material.bank.keys[material.bank.pool_rows]


# --- keys against vectors -------------------------------------------------------------------------


@check("KEYS_WRONG", "does every key lead to its own vector?", About(blocks=True, cause=40))
def keys_wrong(material: Material) -> Iterator[Seen]:
    """Follow every key of the eval side, and those of a sample of the train side."""
    if (wrong := wrong_bank(material)) is not None:
        yield _bank_keys(material, wrong)
        return
    reasons: dict[str, NotEvaluable] = {}
    for side in material.sides:
        if side.file is None:
            reasons[side.name] = NotEvaluable(
                f"the {side.name} windows are cut from the bank by its own keys",
                "give the report's three files",
            )
            continue
        try:
            yield from _side_keys(material, keyed(material, side))
        except NotEvaluable as reason:  # the other file may have keys all the same
            reasons[side.name] = reason
    if "eval" in reasons and len(reasons) < len(material.sides):
        raise reasons["eval"]
    if len(reasons) == len(material.sides):
        said = "; ".join(map(str, reasons.values())) or "no windows"
        raise NotEvaluable(said, "give the report's three files")


def _side_keys(material: Material, found: Keyed) -> Iterator[Seen]:
    side, share = found.side, found.share_right
    told = (found.right | found.wrong).mean()
    made_up = counted_off(side.keys)
    if told < 0.01:
        if made_up:
            yield _unverified(side, made_up)
            return
        raise NotEvaluable(
            f"almost no {side.name} vector is in the bank, so keys cannot be checked",
            "give the payload that the windows were cut from",
        )
    worst = float(np.nanmin(share))
    if worst >= ALLOWED_SHARE:
        return
    bad = found.rows[np.argsort(-found.wrong.sum(axis=1), kind="stable")]
    count = int(found.wrong.any(axis=1).sum())
    articles = side.keys[bad[:count], 0]  # type: ignore[index]
    offset, repaired = _best_offset(material, found)
    names = [f"context {i}" for i in range(len(share) - 1)] + ["target"]
    at = ", ".join(f"{n} {s:.1%}" for n, s in zip(names, share, strict=True) if s == s)
    seen = f"the vector at its key: {at}"
    if made_up:
        seen += f"; {made_up}"
    yield Seen(
        severity=Severity.BLOCK if side.name == "eval" else Severity.WARN,
        seen=seen,
        allowed=f"{ALLOWED_SHARE:.0%} of rows, for the target and every context",
        where=side.where(count=count, of=len(bad), rows=bad, articles=most_frequent(articles)),
        meaning=_meaning(offset, repaired, made_up, share) + _alone(material, side),
        next=REPAIR,
        values={
            "worst_share": worst,
            "target_share": float(share[-1]),
            "offset_article": float(offset[0]),
            "offset_chunk": float(offset[1]),
            "repaired_share": repaired,
            "made_up": float(bool(made_up)),
        },
    )


def _bank_keys(material: Material, wrong: WrongBank) -> Seen:
    bank, by = material.pool, wrong.rows_off
    rolled = (
        f"; each vector is {abs(by)} rows {'after' if by > 0 else 'before'} its key" if by else ""
    )
    return Seen(
        seen=f"the vector at its key: {wrong.eval_share:.1%} of eval, {wrong.train_share:.1%} "
        f"of train windows; in both files {wrong.steady:.0%} of the vectors elsewhere have "
        f"the same key in all their windows{rolled}",
        allowed=f"{ALLOWED_SHARE:.0%} of rows",
        where=where_found(
            "bank", bank.source, count=len(wrong.rows), of=len(bank), rows=wrong.rows
        ),
        meaning="Two files that were cut independently are each consistent, and both disagree "
        "with the bank: its keys do not match its vectors.",
        next=REPAIR if by else f"rewrite {bank.source} with keys and vectors in the same order",
        values={
            "eval_share": wrong.eval_share,
            "train_share": wrong.train_share,
            "steady": wrong.steady,
            "rows_off": float(by),
        },
    )


def _meaning(offset: tuple[int, int], repaired: float, made_up: str, share: np.ndarray) -> str:
    if made_up:
        text = COUNTED_OFF
        if share[-1] >= ALLOWED_SHARE > np.nanmin(share):
            text += " The targets were then looked up by these keys, so only the contexts are real."
        return text
    if repaired >= ALLOWED_SHARE:
        a, c = offset
        return f"Every key is off by the same step: article {-a:+d}, chunk {-c:+d}."
    if share[-1] >= ALLOWED_SHARE:
        return "The target keys are right, but the contexts are not the chunks before the targets."
    return (
        "The keys point to chunks other than those in the file, so every rank belongs to a "
        "wrong row."
    )


def _alone(material: Material, side: Side) -> str:
    """Return a sentence where no other file of windows says whose keys are wrong."""
    if any(other.keys is not None for other in material.sides if other is not side):
        return ""
    return (
        f" {side.source} is the only windows file with keys. If you know that they are right, "
        "the payload's keys are wrong."
    )


def _unverified(side: Side, made_up: str) -> Seen:
    return Seen(
        seen=f"{made_up}, and no vector of the file is in the bank",
        allowed="keys recorded when the chunks were cut",
        where=side.where(count=len(side), of=len(side)),
        meaning=COUNTED_OFF,
        next="give the payload that the windows were cut from, then " + REPAIR,
        values={"made_up": 1.0},
    )


def _best_offset(material: Material, found: Keyed) -> tuple[tuple[int, int], float]:
    """Return the step of all keys after which most of the wrong vectors are at their key."""
    bad = np.flatnonzero(found.wrong.any(axis=1))
    bad = bad[:: max(1, len(bad) // 512)]
    keys = found.side.keys[found.rows[bad]].astype(np.int64)  # type: ignore[index]
    steps = np.arange(1 - found.vectors.shape[1], 1)
    best, share = (0, 0), 0.0
    for offset in OFFSETS:
        moved = keys + np.array([offset[0], 0])
        hits = [
            in_run(material, moved, offset[1] + int(step), found.vectors[bad, s])[1]
            for s, step in enumerate(steps)
        ]
        value = float(np.mean(hits)) if len(bad) else 0.0
        if value > share:
            best, share = offset, value
    return best, share
