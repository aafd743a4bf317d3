"""Checks of the bank and its index: what is repeated, what is missing, what an id means."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Int

from lvm.audit.blame import bank_overwritten, counted_off, keyed
from lvm.audit.check import About, check
from lvm.audit.coherence import coherence, level
from lvm.audit.counts import overlapping, repeated_windows
from lvm.audit.finding import REPAIR, NotEvaluable, Seen, Severity
from lvm.audit.keys import ALLOWED_SHARE
from lvm.audit.likeness import another_space
from lvm.audit.location import SEARCHED, best_by_key, find_rows, nearest, same_from, unit
from lvm.audit.material import Material, Side, most_frequent, or_none, where_found
from lvm.audit.order_in_bank import (
    padded_by_content,
    padding_rows,
    repeated_first_chunks,
    what_copies_mean,
)
from lvm.audit.paraphrase import bank_twins
from lvm.audit.vectors import spoilt_rows
from lvm.data.rows import key_codes

DUPLICATES_WARN, DUPLICATES_BLOCK = 0.01, 0.05  # share of rows that repeat another; under its key
REPEATED_BLOCK = 0.25  # share of rows that repeat another, whatever their keys
NEAR_COPY = 0.95  # cosine of neighbours that say the same
NEAR_COPIES_WARN = 0.05


@check("DUPLICATES", "does the bank repeat chunks?", About(blocks=True))
def duplicates(material: Material) -> Iterator[Seen]:
    """Report exact copies in the bank, and neighbours that nearly repeat each other."""
    yield from repeated_windows(material)
    yield from repeated_first_chunks(material)
    bank = material.pool
    group = np.array(material.content.group)
    spoilt = spoilt_rows(material, "bank")
    group[spoilt] = spoilt  # NONFINITE and ZERO_ROWS speak of these: they are no text twice
    first = group != np.arange(len(bank))
    share, twice = float(first.mean()), _stored_twice(group, bank.keys)
    if share > DUPLICATES_WARN:
        # Text repeats itself: a sixth of the chunks of the Python and NumPy reference are copies of
        # others, each with a key of its own. Rows stored twice under one key are a defect.
        blocking = twice > DUPLICATES_BLOCK or share > REPEATED_BLOCK
        yield Seen(
            severity=Severity.BLOCK if blocking else Severity.WARN,
            seen=f"{int(first.sum())} of {len(bank)} bank rows repeat another row: {share:.1%} "
            f"({twice:.1%} under the same key)",
            allowed=f"at most {DUPLICATES_WARN:.0%} ({DUPLICATES_BLOCK:.0%} under the same key, or "
            f"{REPEATED_BLOCK:.0%} in all, block)",
            where=where_found(
                "bank",
                bank.source,
                count=first.sum(),
                of=len(bank),
                rows=np.flatnonzero(first),
                articles=most_frequent(bank.articles[first]),
            ),
            meaning=what_copies_mean(first, padding_rows(group, bank.keys)),
            next=REPAIR,
            values={"share": share, "same_key": twice},
        )
    yield from _near_copies(material)
    yield from bank_twins(material)
    yield from overlapping(material)


def _stored_twice(group: Int[np.ndarray, " N"], keys: Int[np.ndarray, "N 2"]) -> float:
    """Return the share of rows that repeat both the vector and the key of another row."""
    rows = np.column_stack([group, key_codes(keys)])
    order = np.lexsort(rows.T)
    return float((rows[order][1:] == rows[order][:-1]).all(axis=1).sum()) / len(keys)


def _near_copies(material: Material) -> Iterator[Seen]:
    train = or_none(coherence, material, "train" if material.train is not None else "eval")
    if train is None:
        return
    random = max(0.0, train.of(train.random_pairs).value)
    # In a space where all vectors are alike, a cosine of .95 is no copy.
    limit = max(NEAR_COPY, random + 0.9 * (1 - random))
    neighbours = np.einsum("msd,msd->ms", train.sequence[:, 1:-1], train.sequence[:, :-2])
    if neighbours.size == 0:
        return
    kept = ~padded_by_content(material, train)  # those have a finding of their own
    if not kept.any():
        return
    copies = (neighbours >= limit) & kept[:, None]
    found = level(copies[kept].mean(axis=1), train.clusters[kept])
    if found.below() > NEAR_COPIES_WARN:
        rows = train.rows[np.argsort(-copies.mean(axis=1), kind="stable")]
        yield Seen(
            severity=Severity.WARN,
            seen=f"{found.value:.1%} of neighbouring chunks have a cosine of {limit:.2f} or more",
            allowed=f"at most {NEAR_COPIES_WARN:.0%}",
            where=where_found(
                "train", count=copies.any(axis=1).sum(), of=len(train.rows), rows=rows
            ),
            meaning="Chunks overlap or repeat their neighbour, so copying the last one is "
            "nearly right and there is nothing to learn.",
            next="cut the text into non-overlapping chunks and embed it again",
            values={"share": found.value, "limit": limit},
        )


@check("TARGET_NOT_IN_BANK", "can the target be retrieved at all?", About(blocks=True, cause=60))
def target_not_in_bank(material: Material) -> Iterator[Seen]:
    """Report eval targets that no row of the bank equals."""
    side, bank = material.side("eval"), material.pool
    if side.file is None:
        inside = np.isin(side.windows.targets, bank.pool_rows)  # type: ignore[union-attr]
        rows = np.arange(len(side))
    else:
        rows = np.arange(len(side))
        inside, spoilt = locate_targets(material, side, rows)
        rows, inside = rows[~spoilt], inside[~spoilt]  # NONFINITE and ZERO_ROWS speak of these
        if len(rows) == 0:
            raise NotEvaluable("no target has a direction", "fix NONFINITE or ZERO_ROWS first")
        if float(inside.mean()) < ALLOWED_SHARE and (mismatch := another_space(material)):
            raise NotEvaluable(f"the vectors are not comparable: {mismatch}", "fix SPACE_MISMATCH")
    share, limit = float(inside.mean()), same_from(material)
    # Rows of the bank that are NaN or zero were somebody's: NONFINITE and ZERO_ROWS speak of them.
    if share >= ALLOWED_SHARE - 2 * len(spoilt_rows(material, "bank")) / len(bank):
        return
    seen = f"{share:.1%} of {len(rows)} targets have a bank row with cosine {limit:.4g} or more"
    yield _not_in_bank(material, side, rows[~inside], len(rows), seen, share)


def _not_in_bank(
    material: Material, side: Side, lost: Int[np.ndarray, " n"], of: int, seen: str, share: float
) -> Seen:
    """Name the part: a bank that lacks the chunks, or targets that are none of its chunks."""
    bank = material.pool
    at_key = inside = 1.0  # share of lost targets with a key, and with contexts, in the bank
    articles = None if side.keys is None else most_frequent(side.keys[lost, 0])
    if side.file is not None:
        inside = float((find_rows(material, side.stored(side.contexts(lost)[:, -1])) >= 0).mean())
        if side.keys is not None and not counted_off(side.keys):
            at_key = float((material.by_key.find(side.keys[lost]) >= 0).mean())
    lacking = False
    if side.file is not None:
        # Vectors of another run have no row at all, be they contexts or targets.
        odd = inside < 0.5 and not _train_fits(material)
        lacking = at_key < 0.5 or odd or (inside >= 0.5 and bank_overwritten(material, side, lost))
    name, source = ("bank", bank.source) if lacking else ("eval", side.source)
    where = where_found(name, source, count=len(lost), of=of, rows=lost, articles=articles)
    if lacking:
        where |= {"rows": [], "count": min(len(lost), len(bank)), "of": min(of, len(bank))}
    return Seen(
        seen=f"{seen}; of the others {inside:.0%} have their last context in the bank, and "
        f"{at_key:.0%} their key",
        allowed=f"{ALLOWED_SHARE:.0%}",
        where=where,
        meaning="A target that is not in the bank can never be retrieved, by any model.",
        next=REPAIR
        if side.file is not None and (not lacking or at_key >= 0.5)
        else f"add the chunks of the eval articles to {bank.source} (lvm embed), then audit again",
        values={"share": share, "contexts_inside": inside, "keys_inside": at_key},
    )


def _train_fits(material: Material) -> bool:
    """Say whether the train windows are in the bank, at their keys: then eval is the odd one."""
    if material.train is None or material.train.file is None:
        return False
    found = or_none(keyed, material, material.train)
    return found is not None and float(found.right.mean()) >= ALLOWED_SHARE


def locate_targets(
    material: Material, side: Side, rows: Int[np.ndarray, " m"]
) -> tuple[Bool[np.ndarray, " m"], Bool[np.ndarray, " m"]]:
    """Say which targets are in the bank (by bits, by key, then by search), and which are spoilt.

    Spoilt is a target without direction, or one whose own row of the bank has none.
    """
    vectors = side.targets(rows)
    if side.width != material.pool.width:
        raise NotEvaluable("the widths differ", "fix what SCHEMA names")
    inside = find_rows(material, vectors) >= 0
    spoilt = ~np.isfinite(unit(vectors)).all(axis=1)
    if side.keys is not None:
        lost = np.flatnonzero(~inside)
        row, cosine = best_by_key(
            material.pool, material.by_key, side.keys[rows[lost]], vectors[lost]
        )
        inside[lost] = cosine >= same_from(material)
        spoilt[lost] |= (row >= 0) & np.isnan(cosine)
    lost = np.flatnonzero(~inside & ~spoilt)
    if len(lost) == 0:
        return inside, spoilt
    some = lost[np.linspace(0, len(lost) - 1, min(4 * SEARCHED, len(lost))).astype(int)]
    _, cosine = nearest(material.pool, vectors[some])
    near = cosine >= same_from(material)
    if len(some) == len(lost):
        inside[some] = near
    elif near.mean() >= 0.5:  # stored with other bits: what few say holds for all
        inside[lost] = True
        inside[some[~near]] = False
    return inside, spoilt
