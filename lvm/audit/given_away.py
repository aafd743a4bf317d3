"""Rows that no prediction can be: the answer itself, or one row again and again."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float, Int

from lvm.audit.check import About, check
from lvm.audit.finding import NotEvaluable, Seen
from lvm.audit.location import find_rows, unit
from lvm.audit.material import Material, where_found
from lvm.audit.queries import dispersion
from lvm.audit.rows_given import GivenRows, given_rows, runs
from lvm.data.rows import take

SAME = 1e-4  # of the spread of the targets: what float16 and 8 bits leave, and no prediction does
LEAKED_SHARE, LEAKED_ROWS = 0.005, 5
RETRIEVED = 256  # predictions that are looked up in the bank
OF_A_RETRIEVER = 0.98  # a model that answers with rows of the bank may be right about most
REPEATED_SHARE, REPEATED_ROWS = 0.005, 5
# That are repeated by mistake; where more are, the model has few outputs to choose from.
FEW_ROWS = 3
OTHERS_REPEATED = 0.01  # share of predictions that repeat others than those few
# Neighbours with one output, for such a model.
STUCK_SHARE, STUCK_ROWS, STUCK_ARTICLES = 0.01, 20, 3


@check(
    "PREDICTIONS_LEAKED",
    "did the model see the targets?",
    About(
        blocks=True,
        cause=150,
        meaning="The targets were saved as predictions, or the model read them as input "
        "(contexts that end one chunk late, and a model that copies), so a verdict on "
        "them says nothing.",
        next="predict from the contexts of each window only, and save what the model returns",
    ),
)
def predictions_leaked(material: Material) -> Iterator[Seen]:
    """Report predictions that are their targets up to rounding.

    A target that is among its own contexts can be copied from there, and does not count. A
    model that answers with rows of the bank is right now and then, so it must be so everywhere.
    """
    given = given_rows(material)
    if given is None:
        return
    novel = _novel(given)
    if int(novel.sum()) < LEAKED_ROWS:
        raise NotEvaluable("every target is among its own contexts", "fix the eval file")
    leaked = leaked_rows(given)
    share = float(leaked.sum() / novel.sum())
    retrieves = answers_with_rows(material, given, np.flatnonzero(~leaked))
    least = OF_A_RETRIEVER if retrieves else LEAKED_SHARE
    if leaked.sum() < LEAKED_ROWS or share < least:
        return
    count = round(share * given.total)
    yield Seen(
        seen=f"{share:.1%} of the predictions equal the target of their window up to rounding",
        allowed="0: no model predicts the next chunk to the last digit",
        where=where_found(
            "predictions",
            count=count,
            of=given.total,
            rows=given.rows[leaked],
            blocks=_stretches(given, leaked),
        ),
        values={"share": share, "leaked": float(leaked.sum())},
    )


@check(
    "PREDICTIONS_REPEATED",
    "does one prediction repeat for many windows?",
    About(
        blocks=True,
        cause=160,
        meaning="Part of the file repeats one row, as after a writer that stopped early or "
        "padded its last batch, so the mean over all rows is not the model's.",
        next="predict the rows named here again, and check that the last batch is saved "
        "without padding",
    ),
)
def predictions_repeated(material: Material) -> Iterator[Seen]:
    """Report one row repeated for windows with different contexts, where other rows differ.

    One output for every window is IGNORES_INPUT's to report. A model with few outputs to choose
    from (rows of a bank, a code book) repeats itself, but not for windows in a row.
    """
    given = given_rows(material)
    if given is None:
        return
    groups, counts = _groups(given)
    if len(counts) == 1:
        return
    distinct = len(counts) / len(groups)
    repeated = _other_contexts(given, groups)
    most = np.argsort(-np.bincount(groups[repeated], minlength=len(counts)))[:FEW_ROWS]
    few = np.isin(groups, most)
    if (repeated & ~few).mean() > OTHERS_REPEATED:
        repeated, least = _stuck(given, groups), max(STUCK_ROWS, STUCK_SHARE * len(groups))
    else:
        repeated, least = repeated & few, max(REPEATED_ROWS, REPEATED_SHARE * len(groups))
    if repeated.sum() < least:
        return
    share = float(repeated.mean())
    worst = int(np.bincount(groups[repeated]).max())
    yield Seen(
        seen=f"{share:.1%} of the predictions repeat another one, the most frequent {worst} "
        f"times, for windows with different contexts; {distinct:.0%} of all predictions "
        "are distinct",
        allowed=f"less than {least / len(groups):.1%}",
        where=where_found(
            "predictions",
            count=round(share * given.total),
            of=given.total,
            rows=given.rows[repeated],
            blocks=_stretches(given, repeated),
        ),
        values={"share": share, "most": float(worst), "distinct": distinct},
    )


def leaked_rows(given: GivenRows) -> Bool[np.ndarray, " m"]:
    """Return which predictions are their target up to rounding, and could not be copied."""
    near = SAME * _spread(given)
    return np.asarray(_novel(given) & (_apart(given.predictions, given.targets) <= near))


def _novel(given: GivenRows) -> Bool[np.ndarray, " m"]:
    near = SAME * _spread(given)
    return np.asarray(_apart(given.contexts, given.targets[:, None]).min(axis=1) > near)


def _spread(given: GivenRows) -> float:
    return max(dispersion(given.targets), 1e-9)


def _apart(
    a: Float[np.ndarray, "*rows D"], b: Float[np.ndarray, "*rows D"]
) -> Float[np.ndarray, "*rows"]:
    """Return 1 - cosine of unit rows, exact where a cosine is not."""
    return np.asarray(((a - b).astype(np.float64) ** 2).sum(axis=-1) / 2)


def answers_with_rows(
    material: Material, given: GivenRows, places: Int[np.ndarray, " k"], not_copied: float = 0.0
) -> bool:
    """Whether most of these predictions that are no copies of a context are rows of the bank.

    `not_copied` is the least share of them that such predictions need to say anything.

    A model that retrieves resembles the window of the row that it returns more than any other, and
    is right to the last digit where it finds the target.
    """
    near, bank = SAME * _spread(given), material.bank
    places = places[np.linspace(0, len(places) - 1, min(len(places), RETRIEVED)).astype(int)]
    if bank is None or len(places) < LEAKED_ROWS or bank.width != given.predictions.shape[1]:
        return False
    predictions = given.predictions[places]
    copied = _apart(given.contexts[places], predictions[:, None]).min(axis=1) <= near
    rows = find_rows(material, predictions)
    found = unit(take(bank.vectors, np.maximum(rows, 0)))
    there = (rows >= 0) & (_apart(found, predictions) <= near)
    others = int((~copied).sum())
    if others < max(LEAKED_ROWS, not_copied * len(places)):
        return False
    return bool(there[~copied].mean() > 0.5)


def _groups(given: GivenRows) -> tuple[Int[np.ndarray, " m"], Int[np.ndarray, " k"]]:
    """Return the number of each prediction's group of equal rows, and the sizes of the groups.

    Neighbours in the file that differ by no more than rounding are equal; elsewhere, equal bits.
    """
    _, groups = np.unique(given.predictions, axis=0, return_inverse=True)
    groups = groups.reshape(-1)
    close = _apart(given.predictions[1:], given.predictions[:-1]) <= SAME * _spread(given)
    for place in np.flatnonzero(close):
        groups[place + 1] = groups[place]
    _, groups, counts = np.unique(groups, return_inverse=True, return_counts=True)
    return groups.reshape(-1), counts


def _other_contexts(given: GivenRows, groups: Int[np.ndarray, " m"]) -> Bool[np.ndarray, " m"]:
    """Whether the last contexts of rows of a group are more than one, and so should their rows."""
    near = SAME * _spread(given)
    _, first = np.unique(groups, return_index=True)
    last = given.contexts[:, -1]
    differs = _apart(last, last[first[groups]]) > near
    return np.asarray(np.bincount(groups, weights=differs)[groups] > 0)


def _stuck(given: GivenRows, groups: Int[np.ndarray, " m"]) -> Bool[np.ndarray, " m"]:
    """Whether a row is in a run of equal rows that goes on over several articles."""
    equal = np.concatenate([[False], groups[1:] == groups[:-1]])
    found = np.zeros(len(groups), dtype=bool)
    for second, last in runs(equal):
        run = slice(second - 1, last + 1)
        if last - second + 2 >= STUCK_ROWS:
            found[run] = len(np.unique(given.articles[run])) >= STUCK_ARTICLES
    return found


def _stretches(given: GivenRows, which: Bool[np.ndarray, " m"]) -> list[list[int]]:
    rows = given.rows
    return [[int(rows[a]), int(rows[b])] for a, b in runs(which) if b > a]
