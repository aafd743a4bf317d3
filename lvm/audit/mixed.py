"""Do all articles in one part of the data come from one encoder?

Where every file holds a share of articles from another encoder, train and eval are alike and no
comparison of files sees it. The articles among themselves show it. Take the chunks of an article
without their mean: what is left are the directions along which the encoder tells chunks apart, and
these are much the same for all subjects and languages. With S the second moment of such unit
differences, two groups of articles agree by

    R = <S_A, S_B> / sqrt(<S_A, S_A'> <S_B, S_B'>),    <S, S'> = tr(S S') - 1/D

where A' are other articles of the group. R is 1 for halves of one kind of text. In real text of
one encoder the least that was seen is .06, docstrings against psalms; nonsense words against
English have .09 to .22. Between unrelated spaces R is 0, with the standard deviation of a random
rotation, sqrt(2 / ((D - 1) (D + 2))), and so is the cosine of the means, with 1 / sqrt(D).

Two encoders tuned from one base model may share axes; they are not told apart here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from lvm.audit.articles import Article, Part, counted_by_side, draw, parts, shared
from lvm.audit.finding import Seen, Severity
from lvm.audit.material import Material, where_found

LEAST, CHUNKS, ROWS = 5, 24, 6144  # chunks of an article, chunks taken of it, rows in all
MIN_ARTICLES, MIN_GROUP = 8, 3  # articles of a part, of a group
BLOCK_SHARE = 0.05  # of articles in another space
CLEAR = 5.0  # standard errors by which articles of a group must agree, or it is no group
NULL = 3.0  # standard deviations within which agreement is that of unrelated spaces
TELLING = 0.1  # upper limit of R that excludes one encoder; in narrow spaces 4 null deviations
GROUPS = (2, 3, 4, 6, 8, 12, 16)  # numbers of groups that are tried
ROUNDS = 20
TINY = 1e-3  # length of a difference that is rounding


@dataclass(frozen=True, kw_only=True, eq=False)
class Axes:
    """K articles: how their directions agree, in two halves of their chunks, and their means."""

    ids: Int[np.ndarray, " K"]
    width: int
    fitted: Float[np.ndarray, "K K"]  # groups are found in this half (the diagonal is NaN)
    held: Float[np.ndarray, "K K"]  # and judged in this one
    means: Float[np.ndarray, "K D"]


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How two groups of articles agree."""

    r: float
    error: float
    cosine: float  # of their means
    apart: bool  # no more alike than unrelated spaces are


def mixed_spaces(material: Material) -> Iterator[Seen]:
    """Report articles of the bank, or of a side in no bank, that lie in another space."""
    for part in parts(material):
        axes = axes_of(draw(material, part, least=LEAST, chunks=CHUNKS, spread=True, rows=ROWS))
        if axes is None:
            continue
        odd, agreement = odd_group(axes)
        if agreement is not None:
            yield _finding(material, part, axes, odd, agreement)


def axes_of(articles: list[Article]) -> Axes | None:
    """Return how the directions of articles agree, None where there are too few."""
    kept = [(a, u) for a in articles if len(u := _differences(a.vectors)) >= LEAST]
    if len(kept) < MIN_ARTICLES:
        return None
    halves = [_agreements([u[start::2] for _, u in kept]) for start in (0, 1)]
    return Axes(
        ids=np.array([a.id for a, _ in kept]),
        width=kept[0][1].shape[1],
        fitted=halves[0],
        held=halves[1],
        means=np.stack([a.vectors.mean(axis=0) for a, _ in kept]),
    )


def _differences(vectors: Float[np.ndarray, "n D"]) -> Float[np.ndarray, "m D"]:
    """Return unit differences of chunks from the mean of their article."""
    rows = vectors - vectors.mean(axis=0)
    lengths = np.linalg.norm(rows, axis=1)
    good = lengths > TINY
    return np.asarray(rows[good] / lengths[good, None])


def _agreements(directions: list[Float[np.ndarray, "n D"]]) -> Float[np.ndarray, "K K"]:
    """Return tr(S_a S_b) - 1/D for all pairs of articles; NaN for an article with itself."""
    flat, sizes = np.concatenate(directions), np.array([len(rows) for rows in directions])
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    sums = np.add.reduceat(np.add.reduceat(np.square(flat @ flat.T), starts, 0), starts, 1)
    found: np.ndarray = sums.astype(np.float64) / np.outer(sizes, sizes) - 1 / flat.shape[1]
    np.fill_diagonal(found, np.nan)
    return found


# --- groups ---------------------------------------------------------------------------------------


def odd_group(axes: Axes) -> tuple[Int[np.ndarray, " g"], Agreement | None]:
    """Return the smaller of two groups of articles in unrelated spaces, and how they agree."""
    for start in _starts(axes):
        first, second = _settled(axes.fitted, start)
        agreement = agree(axes, first, second)
        if agreement is not None and agreement.apart:
            return min(first, second, key=len), agreement
    return np.empty(0, dtype=np.int64), None


def _starts(axes: Axes) -> Iterator[Int[np.ndarray, " g"]]:
    """Yield groups of articles that may be one side of a mixture: linked groups, single ones."""
    for count in GROUPS:
        if count * MIN_GROUP > len(axes.ids):
            return
        group = _groups(axes.fitted, count)
        yield _linked(axes, group)
        yield from (np.flatnonzero(group == g) for g in range(count))


def _groups(similar: Float[np.ndarray, "K K"], count: int) -> Int[np.ndarray, " K"]:
    """Return the group of each article: spherical k-means in the leading eigenvectors."""
    values, vectors = np.linalg.eigh(np.nan_to_num(similar))
    leading = np.argsort(-np.abs(values))[: 2 * count]
    points = vectors[:, leading] * np.abs(values[leading])
    points /= np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-12)
    centres = points[[int(np.nanargmax(np.nansum(similar, axis=1)))]]
    while len(centres) < count:  # the article farthest from every centre so far
        centres = np.vstack([centres, points[np.argmin((points @ centres.T).max(axis=1))]])
    for _ in range(ROUNDS):
        group = (points @ centres.T).argmax(axis=1)
        sums = np.stack([points[group == g].sum(axis=0) for g in range(count)])
        centres = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
    return np.asarray(group)


def _settled(
    similar: Float[np.ndarray, "K K"], first: Int[np.ndarray, " g"]
) -> tuple[Int[np.ndarray, " g"], Int[np.ndarray, " h"]]:
    """Return two groups in which every article is with those that it is most like."""
    inside, table = np.isin(np.arange(len(similar)), first), np.nan_to_num(similar)
    for _ in range(ROUNDS):
        if min(inside.sum(), (~inside).sum()) < MIN_GROUP:
            break
        near = []
        for group in (inside, ~inside):
            sums, size = table @ group, int(group.sum())
            own = max(float(sums[group].sum()) / (size * (size - 1)), 1e-12)
            near.append(sums / (size - group) / math.sqrt(own))
        moved = near[0] > near[1]
        if (moved == inside).all():
            break
        inside = moved
    return np.flatnonzero(inside), np.flatnonzero(~inside)


def _linked(axes: Axes, group: Int[np.ndarray, " K"]) -> Int[np.ndarray, " g"]:
    """Return the articles of the largest group and of all that are linked to it.

    Groups are linked unless they are clearly apart, so subjects of one encoder stay together.
    """
    members = [np.flatnonzero(group == g) for g in range(group.max() + 1)]
    members = sorted((m for m in members if len(m)), key=len, reverse=True)
    linked, waiting = [members[0]], members[1:]
    for one in linked:  # grows while it is walked
        joined = [m for m in waiting if (a := agree(axes, one, m)) is None or not a.apart]
        waiting = [m for m in waiting if all(m is not j for j in joined)]
        linked += joined
    return np.sort(np.concatenate(linked))


def agree(
    axes: Axes, first: Int[np.ndarray, " a"], second: Int[np.ndarray, " b"]
) -> Agreement | None:
    """Return how two groups agree; None where one of them has nothing in common with itself."""
    if min(len(first), len(second)) < MIN_GROUP:
        return None
    own = [_mean(axes.held[np.ix_(g, g)]) for g in (first, second)]
    if any(value < CLEAR * error for value, error in own):
        return None
    scale = math.sqrt(own[0][0] * own[1][0])
    between = axes.held[np.ix_(first, second)]
    (value, one), (_, other) = _mean(between), _mean(between.T)
    r, error = value / scale, math.hypot(one, other) / scale
    cosine, noise = _cosine_of_means(axes.means[first], axes.means[second])
    null_r = math.sqrt(2 / ((axes.width - 1) * (axes.width + 2)))
    return Agreement(
        r=r,
        error=error,
        cosine=cosine,
        apart=r < NULL * math.hypot(null_r, error)
        and r + NULL * error < max(TELLING, 4 * null_r)
        and cosine < NULL * math.hypot(1 / math.sqrt(axes.width), noise),
    )


def _mean(values: Float[np.ndarray, "a b"]) -> tuple[float, float]:
    """Return the mean and its standard error over the articles of the first axis."""
    rows = np.nanmean(values, axis=1)
    return float(rows.mean()), float(rows.std(ddof=1) / math.sqrt(len(rows)))


def _cosine_of_means(
    first: Float[np.ndarray, "a D"], second: Float[np.ndarray, "b D"]
) -> tuple[float, float]:
    """Return the cosine of two means, and its error over articles."""
    a, b = first.mean(axis=0), second.mean(axis=0)
    scale = max(1e-12, float(np.linalg.norm(a) * np.linalg.norm(b)))
    errors = [
        (rows @ other).std(ddof=1) / math.sqrt(len(rows)) / scale
        for rows, other in ((first, b), (second, a))
    ]
    return float(a @ b) / scale, math.hypot(*errors)


# --- the finding ----------------------------------------------------------------------------------


def _finding(
    material: Material, part: Part, axes: Axes, odd: Int[np.ndarray, " g"], agreement: Agreement
) -> Seen:
    ids, total = np.sort(axes.ids[odd]), len(axes.ids)
    counts = counted_by_side(material, axes.ids.tolist(), ids.tolist())
    name = _only_side(counts) or part.name
    share = len(ids) / total
    return Seen(
        severity=Severity.BLOCK if share >= BLOCK_SHARE else Severity.WARN,
        seen=f"{len(ids)} of {total} articles of the {part.name} that were sampled are in a "
        f"different space from the rest{shared(counts)}: the axes along which their chunks "
        f"vary agree by {agreement.r:.2f} with those of the rest, the means by "
        f"{agreement.cosine:.2f}",
        allowed="about 1 for one encoder on one kind of text, at least .05 across kinds of text",
        where=where_found(name, part.source, count=len(ids), of=total, articles=ids),
        meaning="This data mixes two unrelated spaces: these articles come from a different "
        "encoder than the rest, and no model of one space predicts the other.",
        next=f"embed all articles of {part.source} in one run with one model (lvm embed --model "
        "NAME); lvm audit --encoder NAME shows which articles NAME embedded",
        values={
            "agreement": agreement.r,
            "error": agreement.error,
            "share": share,
            "mean_cosine": agreement.cosine,
        },
    )


def _only_side(counts: dict[str, tuple[int, int]]) -> str:
    """Return the side whose articles alone are the odd ones, or nothing."""
    within = {name: odd / of for name, (odd, of) in counts.items() if of}
    most = max(within, key=within.__getitem__, default="")
    others = [share for name, share in within.items() if name != most]
    return most if others and within[most] >= 0.9 and max(others) <= 0.1 else ""
