"""Checks of keys: does every row have one of its own, and does it lead to its own vector?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from lvm.audit.check import check
from lvm.audit.coherence import sample_rows
from lvm.audit.finding import REPAIR, Finding, NotEvaluable, Severity
from lvm.audit.location import SEARCHED, find_rows, in_run, nearest, same_from
from lvm.audit.material import Material, Side

ALLOWED_SHARE = 0.99  # of rows whose vector is at its key, and of targets that are in the bank
UNIQUE_SHARE, TOP_SHARE = 0.95, 0.01  # of keys, of the most frequent key
AFFINE_SHARE = 0.98  # of rows whose key is the row number, divided
OFFSETS = [(a, c) for a in (-1, 0, 1) for c in (-1, 0, 1) if (a, c) != (0, 0)]
NUM_WORST = 10
COUNTED_OFF = "The keys were counted off from row numbers; they do not say where a window is from."
CHECKED = {False: 100_000, True: 1024}  # windows of a side whose keys are followed; True: quick


@check("KEYS_DEGENERATE", "does every row have a key of its own?")
def keys_degenerate(material: Material) -> Iterator[Finding]:
    """Report few keys for many rows, on the eval side and in the bank."""
    looked = False
    for name, source, keys in _key_tables(material):
        looked = True
        _, place, counts = np.unique(
            keys[:, 0].astype(np.int64) * 2**32 + keys[:, 1], return_inverse=True,
            return_counts=True,
        )  # fmt: skip
        share, top = len(counts) / len(keys), int(counts.max())
        if share >= UNIQUE_SHARE and (top / len(keys) <= TOP_SHARE or top <= 2):
            continue
        worst = np.flatnonzero(counts[place.ravel()] == top)
        yield Finding(
            code="KEYS_DEGENERATE",
            severity=Severity.BLOCK,
            seen=f"{len(counts)} keys for {len(keys)} rows ({share:.1%}); the most frequent key "
            f"{tuple(keys[worst[0]].tolist())} stands {top} times",
            allowed=f"{UNIQUE_SHARE:.0%} unique, no key on more than {TOP_SHARE:.0%} of the rows",
            where=where_rows(name, source, worst, len(keys), keys[:, 0]),
            meaning="One key for many rows means that most rows point to a wrong answer.",
            next="write the keys again from the ids that the chunks were made with",
            values={"unique_share": share, "top_share": top / len(keys)},
        )
    if not looked:
        raise NotEvaluable("there are no keys", "give truth_keys, or a payload with keys")


def _key_tables(material: Material) -> Iterator[tuple[str, str, np.ndarray]]:
    for side in material.sides:
        if side.file is not None and side.keys is not None:
            yield side.name, side.source, side.keys
    if material.bank is not None:
        yield "bank", material.bank.source, material.bank.keys[material.bank.pool_rows]


# --- keys against vectors -------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Keyed:
    """For each looked-at window and each place of its sequence: is the vector at its key?

    `right` where the bank has it there; `wrong` where it does not, although the bank holds this
    vector elsewhere. Neither: the vector is not in the bank, which is another defect.
    """

    side: Side
    rows: Int[np.ndarray, " m"]
    right: Bool[np.ndarray, "m S"]
    wrong: Bool[np.ndarray, "m S"]
    vectors: Float[np.ndarray, "m S D"]

    @property
    def share_right(self) -> Float[np.ndarray, " S"]:
        """Share of right ones among those that the bank can speak of, per place; NaN for none."""
        told = (self.right | self.wrong).sum(axis=0)
        return np.where(told > 0, self.right.sum(axis=0) / np.maximum(told, 1), np.nan)


def keyed(material: Material, side: Side) -> Keyed:
    """Follow the keys of a side into the bank, once per material."""
    kept: dict[str, Keyed] = material.__dict__.setdefault("_keyed", {})
    if side.name not in kept:
        kept[side.name] = _follow(material, side)
    return kept[side.name]


def _follow(material: Material, side: Side) -> Keyed:
    bank, stated = material.pool, side.keys
    if stated is None:
        raise NotEvaluable(f"{side.source} has no truth_keys", "give truth_keys [M, 2]")
    if side.width != bank.width:
        raise NotEvaluable(f"widths {side.width} and {bank.width} differ", "mend what SCHEMA names")
    rows = sample_rows(material, side, _num_followed(material, side))
    vectors = np.concatenate([side.contexts(rows), side.targets(rows)[:, None]], axis=1)
    keys = stated[rows].astype(np.int64)
    steps = range(1 - vectors.shape[1], 1)
    right = np.column_stack(
        [in_run(material, keys, step, vectors[:, slot])[1] for slot, step in enumerate(steps)]
    )
    elsewhere = _is_elsewhere(material, vectors, right)
    return Keyed(side, rows, right, ~right & elsewhere, vectors)


def _num_followed(material: Material, side: Side) -> int:
    if side.name == "eval":
        return len(side)
    per_window = (side.context_length + 1) * side.width * 4
    return min(CHECKED[material.quick], max(1000, (1 << 30) // per_window))


def _is_elsewhere(
    material: Material, vectors: Float[np.ndarray, "m S D"], right: Bool[np.ndarray, "m S"]
) -> Bool[np.ndarray, "m S"]:
    """Say for each vector that is not at its key whether the bank holds it at all."""
    lost = np.argwhere(~right)
    found = np.zeros(right.shape, dtype=bool)
    if len(lost) == 0:
        return found
    there = find_rows(material, vectors[lost[:, 0], lost[:, 1]]) >= 0
    if not there.all():
        # Stored with other bits? The nearest rows of a few say it for all of them.
        unknown = np.flatnonzero(~there)
        some = unknown[np.linspace(0, len(unknown) - 1, min(SEARCHED, len(unknown))).astype(int)]
        _, cosine = nearest(material.pool, vectors[lost[some, 0], lost[some, 1]])
        if float((cosine >= same_from(material)).mean()) >= 0.5:
            there[unknown] = True
    found[lost[:, 0], lost[:, 1]] = there
    return found


@check("KEYS_WRONG", "does every key lead to its own vector?")
def keys_wrong(material: Material) -> Iterator[Finding]:
    """Follow every key of the eval side, and those of a sample of the train side."""
    reasons = []
    for side in material.sides:
        if side.file is None:
            reasons.append(f"the {side.name} windows are cut from the bank by its own keys")
            continue
        try:
            yield from _side_keys(material, keyed(material, side))
        except NotEvaluable as reason:
            if side.name == "eval":
                raise
            reasons.append(str(reason))
    if len(reasons) == len(material.sides):
        raise NotEvaluable("; ".join(reasons) or "no windows", "give the report's three files")


def _side_keys(material: Material, found: Keyed) -> Iterator[Finding]:
    side, share = found.side, found.share_right
    told = (found.right | found.wrong).mean()
    made_up = counted_off(side.keys)
    if told < 0.01:
        if made_up:
            yield _unverified(side, made_up)
            return
        raise NotEvaluable(
            f"the bank holds next to none of the {side.name} vectors, so no key can be followed",
            "give the payload that the windows were cut from",
        )
    worst = float(np.nanmin(share))
    if worst >= ALLOWED_SHARE:
        return
    bad = found.rows[np.argsort(-found.wrong.sum(axis=1), kind="stable")]
    offset, repaired = _best_offset(material, found)
    names = [f"context {i}" for i in range(len(share) - 1)] + ["target"]
    at = ", ".join(f"{n} {s:.1%}" for n, s in zip(names, share, strict=True) if s == s)
    seen = f"the vector at its key: {at}"
    if made_up:
        seen += f"; {made_up}"
    yield Finding(
        code="KEYS_WRONG",
        severity=Severity.BLOCK if side.name == "eval" else Severity.WARN,
        seen=seen,
        allowed=f"{ALLOWED_SHARE:.0%} of rows, for the target and every context",
        where=where_rows(side.name, side.source, bad, len(found.rows), side.keys[:, 0],  # type: ignore[index]
                     count=int(found.wrong.any(axis=1).sum())),
        meaning=_meaning(offset, repaired, made_up, share),
        next=REPAIR,
        values={
            "worst_share": worst, "target_share": float(share[-1]),
            "offset_article": float(offset[0]), "offset_chunk": float(offset[1]),
            "repaired_share": repaired, "made_up": float(bool(made_up)),
        },
    )  # fmt: skip


def _meaning(offset: tuple[int, int], repaired: float, made_up: str, share: np.ndarray) -> str:
    if made_up:
        text = COUNTED_OFF
        if share[-1] >= ALLOWED_SHARE > np.nanmin(share):
            text += " The targets were then fetched by these keys, so only the contexts are real."
        return text
    if repaired >= ALLOWED_SHARE:
        a, c = offset
        return f"Every key is off by the same step: article {-a:+d}, chunk {-c:+d}."
    if share[-1] >= ALLOWED_SHARE:
        return "Targets are at their keys, but the contexts are not the chunks before them."
    return "Keys point to other chunks than the file holds, so every rank is that of a wrong row."


def _unverified(side: Side, made_up: str) -> Finding:
    return Finding(
        code="KEYS_WRONG",
        severity=Severity.BLOCK,
        seen=f"{made_up}, and no vector of the file is in the bank",
        allowed="keys that were written down when the chunks were cut",
        where={"input": side.name, "source": side.source, "count": len(side), "of": len(side)},
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
        hits = [
            _at_key(material, keys + np.array([offset[0], 0]), offset[1] + step, found.vectors[bad, s])
            for s, step in enumerate(steps)
        ]
        value = float(np.mean(hits)) if len(bad) else 0.0
        if value > share:
            best, share = offset, value
    return best, share


def _at_key(
    material: Material, keys: Int[np.ndarray, "m 2"], step: int, vectors: Float[np.ndarray, "m D"]
) -> Bool[np.ndarray, " m"]:
    return in_run(material, keys, step, vectors)[1]


def counted_off(keys: Int[np.ndarray, "M 2"] | None) -> str:
    """Say so when the keys are the row number, divided: article = row // n, chunk = row % n."""
    if keys is None or len(keys) < 100:
        return ""
    row, article, chunk = np.arange(len(keys)), keys[:, 0].astype(np.int64), keys[:, 1]
    sizes = np.diff(np.flatnonzero(np.concatenate([[True], np.diff(article) != 0, [True]])))
    size = int(np.median(sizes))
    if len(sizes) < 2 or size < 2:
        return ""
    counted = (article - article[0] == row // size) & (chunk - chunk.min() == row % size)
    if float(counted.mean()) < AFFINE_SHARE:
        return ""
    return f"article = row // {size} and chunk = row % {size}"


def where_rows(
    name: str, source: str, rows: np.ndarray, of: int, articles: np.ndarray | None,
    count: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Return the `where` of a finding: its worst rows first, and the articles with most of them."""
    where: dict[str, Any] = {
        "input": name, "source": source, "count": len(rows) if count is None else count,
        "of": of, "rows": [int(r) for r in rows[:NUM_WORST]],
    }  # fmt: skip
    if articles is not None and len(rows):
        ids, counts = np.unique(articles[rows[: count or None]], return_counts=True)
        where["articles"] = ids[np.argsort(-counts, kind="stable")][:NUM_WORST].tolist()
    return where
